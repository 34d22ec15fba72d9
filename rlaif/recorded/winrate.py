"""Win rates from recorded judgements of one model against a baseline, in AlpacaEval's rows.

A judgement is ``item_id``, ``model_a``, ``model_b``, ``judge``, and ``p_b``, the probability that model_b wins (0.5: a
draw); else ``preference`` (1: model_a, 2: model_b, 0 or 1.5: a draw), else ``top_logprobs`` with ``order``, where the
response shown first is named "m" and the second "M". ``len_a`` and ``len_b`` are characters; a file of outputs
(``item_id``, ``model``, ``output``) goes before them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlaif.errors import DataError, did_you_mean, written_as
from rlaif.recorded.card import Card
from rlaif.rows import read_rows
from rlaif.statistics import Figure, discrete, length_controlled, standard_error, win_rate
from rlaif.statistics.contests import at_equal_length
from rlaif.statistics.studies import Conclusion, conclusions, crossed_difference

COLUMNS = ("item_id", "model_a", "model_b", "judge", "p_b", "preference", "top_logprobs", "order", "len_a", "len_b")
Row = Mapping[str, Any]
MARGIN = 0.05  # of a win rate: differences within it count as none
FAR = 10  # points between the two win rates, from which the length-controlled one is worth a warning


@dataclass
class Contest:
    """One model against one baseline: by item the probability that the model wins, and how much longer it wrote."""

    model: str
    baseline: str
    judge: str
    p: dict[str, float] = field(default_factory=dict)
    longer_by: dict[str, float] = field(default_factory=dict)
    not_judged: int = 0


def read_contest(
    judgements: str, model: str, *, baseline: str | None = None, judge: str | None = None, outputs: str | None = None
) -> Contest:
    """Raises DataError, naming file and line; ``baseline`` and ``judge`` may be left out where there is one alone."""
    lengths = _lengths(outputs) if outputs else None
    rows = list(_rows(judgements, model, baseline, judge))
    contest = Contest(model, *_one(judgements, rows))
    seen: dict[str, str] = {}
    for where, row, _ in rows:
        item = str(row["item_id"])
        if item in seen:
            raise DataError(f"{where}: a second judgement of item {item!r}; the first: {seen[item]}. Leave one out.")
        seen[item] = where
        is_b = row["model_b"] == model
        p = probability(where, row)
        if p is None:
            contest.not_judged += 1
            continue
        contest.p[item] = p if is_b else 1 - p
        longer = _longer_by(where, row, lengths)
        if longer is not None:
            contest.longer_by[item] = longer if is_b else -longer
    if not contest.p:
        raise DataError(f"{judgements}: {model} against {contest.baseline}: no row was judged.")
    return contest


def _rows(
    source: str, model: str, baseline: str | None, judge: str | None
) -> Iterator[tuple[str, Row, tuple[str, str]]]:
    """``(where, row, (baseline, judge))`` of the model's rows."""
    models: set[str] = set()
    against: set[str] = set()
    judges: set[str] = set()
    found = False
    for where, row in read_rows(source):
        for column in ("item_id", "model_a", "model_b"):
            if row.get(column) in (None, ""):
                raise DataError(
                    f"{where}: no {column}. Found {', '.join(row)}; expected {', '.join(COLUMNS)}.{written_as(row, COLUMNS)}"
                )
        sides = [str(row["model_a"]), str(row["model_b"])]
        models.update(sides)
        if model not in sides or sides[0] == sides[1]:
            continue
        other = sides[1 - sides.index(model)]
        against.add(other)
        if baseline in (None, other):
            judges.add(str(row.get("judge") or ""))
            if judge in (None, str(row.get("judge") or "")):
                found = True
                yield where, row, (other, str(row.get("judge") or ""))
    if found:
        return
    for option, name, known in (
        ("--model", model, models),
        ("--baseline", baseline, against),
        ("--judge", judge, judges),
    ):
        if name is not None and name not in known:
            raise DataError(f'{source}: no row of {option} "{name}".{did_you_mean(name, known)}')
    raise DataError(f"{source}: no row sets {model} against another model.")


def _one(source: str, rows: list[tuple[str, Row, tuple[str, str]]]) -> tuple[str, str]:
    """The one baseline and judge; DataError where there are several."""
    for at, option in enumerate(("--baseline", "--judge")):
        names = Counter(name[at] for _, _, name in rows)
        if len(names) > 1:
            known = ", ".join(f"{name} ({count:,} rows)" for name, count in sorted(names.items()))
            raise DataError(f"{source}: more than one fits; name one with {option}: {known}.")
    return rows[0][2]


def probability(where: str, row: Row) -> float | None:
    """That model_b wins; None where the row says no one judged it. Raises DataError for what cannot be one."""
    if "p_b" in row:
        return _number(where, row, "p_b", 0, 1)
    if "preference" in row:
        preference = _number(where, row, "preference", 0, 2)
        if preference is not None and 0 < preference < 1:
            raise DataError(f"{where}: preference is {preference:g}; expected 1 to 2, or 0 for a draw.")
        return None if preference is None else 0.5 if preference == 0 else preference - 1
    if "top_logprobs" not in row:
        raise DataError(
            f"{where}: no p_b, preference or top_logprobs. Found {', '.join(row)}.{written_as(row, COLUMNS)}"
        )
    return _from_logprobs(where, row)


def _from_logprobs(where: str, row: Row) -> float | None:
    """From the tokens "m" (the first shown is better) and "M"; None where neither is among them, or no order is known."""
    tokens, order = row["top_logprobs"], row.get("order")
    if tokens is None or order is None:
        return None
    if not isinstance(tokens, Mapping) or order not in ("ab", "ba"):
        raise DataError(f"{where}: top_logprobs must map tokens to log-probabilities, and order be ab, ba or null.")
    first, second = (math.exp(tokens[name]) if tokens.get(name) is not None else 0.0 for name in ("m", "M"))
    if first + second == 0:
        return None
    share = first / (first + second)
    return 1 - share if order == "ab" else share


def _number(where: str, row: Row, column: str, low: float, high: float) -> float | None:
    value = row[column]
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        raise DataError(f"{where}: {column} is {value!r}; expected a number from {low:g} to {high:g}, or null.")
    return number


def _lengths(source: str) -> dict[tuple[str, str], int]:
    """Characters of each model's output for each item."""
    lengths: dict[tuple[str, str], int] = {}
    for where, row in read_rows(source):
        if row.get("item_id") is None or row.get("model") is None or not isinstance(row.get("output"), str):
            raise DataError(f"{where}: not an output. Found {', '.join(row)}; expected item_id, model, output.")
        lengths[str(row["item_id"]), str(row["model"])] = len(row["output"])
    return lengths


def _longer_by(where: str, row: Row, lengths: Mapping[tuple[str, str], int] | None) -> float | None:
    """Characters that model_b wrote more than model_a; None where a length is not known."""
    a: float | None
    b: float | None
    if lengths is not None:
        a, b = (lengths.get((str(row["item_id"]), str(row[model]))) for model in ("model_a", "model_b"))
    else:
        a, b = (_number(where, row, column, 0, math.inf) if column in row else None for column in ("len_a", "len_b"))
    return None if a is None or b is None else b - a


def figures_of(contest: Contest) -> Card:
    """Win rates in percent, as AlpacaEval gives them: 100 × mean p; its standard error; wins and half of the draws; and
    ``statistics.length_controlled`` on the rows whose lengths are known. Intervals are over items.
    """
    items, p = list(contest.p), list(contest.p.values())
    error = standard_error(p)
    both = list(contest.longer_by)
    controlled = length_controlled([contest.p[item] for item in both], list(contest.longer_by.values()), both)
    return {
        "win_rate": _percent(win_rate(p, items)),
        "win_rate.se": Figure(value=None if error is None else 100 * error, n=len(p)),
        "win_rate.discrete": _percent(win_rate(discrete(p), items)),
        "length_controlled": _percent(controlled),
        "longer_by": Figure(value=sum(contest.longer_by.values()) / len(both) if both else None, n=len(both)),
        "not_judged": Figure(value=float(contest.not_judged), n=len(p) + contest.not_judged),
    }


def _percent(figure: Figure) -> Figure:
    scaled = {name: None if bound is None else 100 * bound for name, bound in figure.model_dump(exclude={"n"}).items()}
    return Figure(**scaled, n=figure.n)


def lines_of(contest: Contest, card: Card) -> list[str]:
    """A few lines for a person."""
    error = card["win_rate.se"].value
    lines = [
        f"{contest.model} against {contest.baseline}"
        + (f", judged by {contest.judge}" if contest.judge else "")
        + f": {len(contest.p):,} items"
        + (f", {contest.not_judged:,} not judged" if contest.not_judged else ""),
        f"win rate {_said(card['win_rate'])}" + ("" if error is None else f", standard error {error:.2f} points"),
        f"wins and half of the draws {_said(card['win_rate.discrete'])}",
    ]
    controlled = card["length_controlled"]
    if controlled.value is None:
        return [
            *lines,
            f"at equal length: not known; it takes two items with replies of known and different lengths, and {controlled.n:,} have "
            "known ones (len_a and len_b, or --outputs)",
        ]
    of = "" if controlled.n == len(contest.p) else f", on {controlled.n:,} items with known lengths"
    lines.append(f"at equal length {_said(controlled)}{of}; on average {card['longer_by'].value:+,.0f} characters")
    assert card["win_rate"].value is not None
    if abs(controlled.value - card["win_rate"].value) > FAR:
        lines.append("Careful: length moves the win rate by more than 10 points; the fit may not carry that far.")
    return lines


def paired(contest: Contest, other: Contest) -> tuple[Card, list[str]]:
    """The model's win rate less the other's against the same baseline, item by item, in points, raw and at equal length; and what that
    means: better, worse, equivalent within ``MARGIN``, or what such a comparison would have seen. Raises DataError where fewer
    than two items are common to both."""
    card: Card = {}
    lines: list[str] = []
    for name, words, columns in (
        ("difference", "win rate", [contest.p, other.p]),
        (
            "difference.at_equal_length",
            "win rate at equal length",
            [_at_equal_length(each) for each in (contest, other)],
        ),
    ):
        items = [item for item in columns[0] if item in columns[1]]
        if len(items) < 2:
            if name == "difference":
                raise DataError(
                    f"{contest.model} and {other.model} have {len(items)} items in common: two or more are needed."
                )
            continue
        difference = crossed_difference([[columns[0][item] - columns[1][item] for item in items]]).of_shares
        said = conclusions({name: difference}, MARGIN)[name]
        low, high = difference.interval()
        card[name] = Figure(value=100 * difference.value, low=100 * low, high=100 * high, n=len(items))
        lines.append(
            f"{words}, {contest.model} less {other.model}, on {len(items):,} items of both: {100 * difference.value:+.2f} points "
            f"({100 * low:+.2f} to {100 * high:+.2f}): {_meant(said)}"
        )
    return card, lines


def _at_equal_length(contest: Contest) -> dict[str, float]:
    items = [item for item in contest.p if item in contest.longer_by]
    values = at_equal_length([contest.p[item] for item in items], [contest.longer_by[item] for item in items])
    return {} if values is None else dict(zip(items, values.tolist(), strict=True))


def _meant(said: Conclusion) -> str:
    if said.answer == "equivalent":
        return f"equivalent, within {100 * said.margin:g} points"
    if said.answer == "inconclusive":
        return f"inconclusive: a difference of {100 * said.detectable:.1f} points would have been found in four of five such comparisons"
    return said.answer


def _said(figure: Figure) -> str:
    bounds = "" if figure.low is None or figure.high is None else f" ({figure.low:.2f}% to {figure.high:.2f}%)"
    return f"{figure.value:.2f}%{bounds}"
