"""Items and recorded judgements from files, joined by item.

An item is ``id``, ``response_a``, ``response_b``, ``label`` (a, b, tie or null) and perhaps ``subset``, ``prompt`` or
``messages``, ``human_labels``. A judgement is ``item_id``, ``judge``, ``method``, ``order`` (ab, ba, each-alone or
null), ``choice`` (a, b, tie or null: unreadable) and perhaps ``stage``, ``choice_shown``, ``choice_pair``, ``scores``,
``completion``. docs/certify.md describes both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlaif.errors import DataError, did_you_mean, written_as
from rlaif.pairs import read_votes
from rlaif.recorded.readers import SHOWN, Reader
from rlaif.records import digest
from rlaif.rows import read_rows

Choice = Literal["a", "b", "tie"]
SIDES: dict[float | None, Choice | None] = {1.0: "a", 0.5: "tie", 0.0: "b", None: None}
WORTH: dict[Choice, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
ORDERS = ("ab", "ba")
ITEM = ("id", "response_a", "response_b", "label", "human_labels", "subset", "prompt", "messages")
JUDGEMENT = ("item_id", "judge", "method", "order", "choice", "choice_shown", "choice_pair", "scores", "completion")
MARKED = re.compile(r"^[ \t]*(?:[-*+•][ \t]|\d{1,2}[.)][ \t]|#{1,6}[ \t])", re.MULTILINE)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A pair to judge, as far as figures need it."""

    id: str
    prompt: str  # rows with the same one are not independent
    lengths: tuple[int, int]  # of response_a and response_b, in characters
    label: Choice | None
    people: Mapping[str, Choice | None] = field(default_factory=dict)
    marks: tuple[int, int] = (0, 0)  # lines of each that are list items or headings
    authors: tuple[str | None, str | None] = (None, None)  # the models that wrote them
    category: str | None = None  # of the prompt
    texts: tuple[str, str] = ("", "")  # digests of both, to tell replies to one prompt apart


@dataclass(frozen=True)
class Reading:
    """What a judge said of an item. ``shown``: both responses at once, so that one of them stood first."""

    order: str | None
    choice: Choice | None  # None: unreadable
    shown: bool = True


@dataclass(frozen=True)
class Replay:
    """One judge and method on a set of items. ``left_out`` counts rows of this judge by why they say nothing."""

    judge: str
    method: str
    items: list[Item]
    readings: dict[str, list[Reading]]
    left_out: Counter[str]
    models: tuple[str, ...] = ()  # that the judge asks; none: its name says

    def opinion(self, item: Item) -> float | None:
        """That response_a is better, over all verdicts; None where one could not be read, or nobody was asked."""
        said = [reading.choice for reading in self.readings.get(item.id, ())]
        return None if not said or None in said else sum(WORTH[choice] for choice in said if choice) / len(said)

    def choices(self, item: Item) -> dict[str, Choice | None]:
        """What the judge chose in each order that was recorded."""
        return {reading.order: reading.choice for reading in self.readings.get(item.id, ()) if reading.order}


def replay(
    items: str,
    recorded: str,
    *,
    judge: str | None = None,
    method: str | None = None,
    subset: str | None = None,
    reader: Reader | None = None,
) -> Replay:
    """Read both files. ``judge`` and ``method`` may be left out where there is one alone; without a ``reader`` the
    recorded choice counts. Raises DataError, naming file and line.
    """
    known, kept = _items(items, subset)
    ids = {item.id for item in kept}
    readings: dict[str, list[Reading]] = {}
    left_out: Counter[str] = Counter()
    names: set[tuple[str, str]] = set()
    seen: dict[tuple[str, str | None], str] = {}
    for where, row, name in judgements(recorded, judge, method):
        names.add(name)
        item = str(row["item_id"])
        if row.get("stage") == "draft":
            left_out["a draft"] += 1
        elif item not in known:
            left_out["of no item"] += 1
        elif item in ids:
            if len(names) > 1:
                continue  # only to name them all
            found = readings_of(where, row, reader)
            if not found:
                left_out["order not known"] += 1
            for reading in found:
                earlier = seen.setdefault((item, reading.order), where)
                if earlier != where:
                    raise DataError(
                        f"{where}: a second verdict on item {item!r} in {_of_order(reading.order)}; the first: {earlier}. "
                        "Leave one out, or give them methods of their own."
                    )
            readings.setdefault(item, []).extend(found)
    name = _one(recorded, names, judge, method)
    if not any(readings.values()):
        raise DataError(
            f"{recorded}: no verdict of {' '.join(name)} is on an item of {items}. item_id must be the item's id."
        )
    return Replay(*name, kept, readings, left_out)


def _of_order(order: str | None) -> str:
    return f"order {order}" if order else 'no known order (a column "order" says ab, ba or each-alone)'


def judgements(source: str, judge: str | None, method: str | None) -> Iterator[tuple[str, Row, tuple[str, str]]]:
    """``(where, row, (judge, method))`` of every judgement that was asked for. Raises DataError where there is none."""
    others: set[tuple[str, str]] = set()
    found = False
    for where, row in read_rows(source):
        for column in ("item_id", "judge"):
            if row.get(column) in (None, ""):
                raise DataError(
                    f"{where}: no {column}. Found {', '.join(row)}; expected {', '.join(JUDGEMENT)}."
                    f"{written_as(row, JUDGEMENT)}"
                )
        name = (str(row["judge"]), str(row.get("method") or ""))
        if judge in (None, name[0]) and method in (None, name[1]):
            found = True
            yield where, row, name
        else:
            others.add(name)
    if not found:
        asked = " ".join(name for name in (judge, method) if name)
        of_judge = {name[1] for name in others if judge in (None, name[0])}
        wanted, known = (method, of_judge) if method and of_judge else (judge, {name[0] for name in others})
        raise DataError(f'{source}: no row of "{asked}".{did_you_mean(wanted or "", known)}')


def _one(source: str, names: set[tuple[str, str]], judge: str | None, method: str | None) -> tuple[str, str]:
    """The one judge and method that was found; DataError where the question left it open."""
    if len(names) > 1:
        option = "--judge" if judge is None else "--method"
        at = 0 if judge is None else 1
        known = ", ".join(sorted({name[at] for name in names}))
        raise DataError(f"{source}: more than one fits; name one with {option}: {known}.")
    return names.pop()


def _items(source: str, subset: str | None) -> tuple[set[str], list[Item]]:
    """The ids of all items, and the items of the subset."""
    known: set[str] = set()
    subsets: set[str] = set()
    kept = []
    for where, row in read_rows(source):
        item = _item(where, row)
        if item.id in known:
            raise DataError(f"{where}: id {item.id!r} stands in an earlier row too. Each item needs an id of its own.")
        known.add(item.id)
        subsets.add(str(row.get("subset")))
        if subset is None or row.get("subset") == subset:
            kept.append(item)
    if subset is not None and not kept:
        raise DataError(f'{source}: no item of subset "{subset}".{did_you_mean(subset, subsets - {"None"})}')
    return known, kept


def _item(where: str, row: Row) -> Item:
    for column in ("id", "response_a", "response_b"):
        if row.get(column) is None:
            raise DataError(
                f"{where}: no {column}. Found {', '.join(row)}; an item has {', '.join(ITEM[:4])}.{written_as(row, ITEM)}"
            )
    if "label" not in row and "human_labels" not in row:
        raise DataError(
            f"{where}: no label and no human_labels: nothing to compare a judge with. A label is a, b, tie or null."
            f"{written_as(row, ITEM)}"
        )
    label = SIDES[read_votes(where, {"label": row.get("label")})[0].p]
    people = {
        str(vote.annotator): SIDES[vote.p] for vote in read_votes(where, {"human_labels": row.get("human_labels")})
    }
    asked = [row.get(column) for column in ("prompt", "messages", "input")]
    prompt = digest(asked) if any(asked) else str(row["id"])
    a, b = _text(row["response_a"]), _text(row["response_b"])
    return Item(
        str(row["id"]),
        prompt,
        (len(a), len(b)),
        label,
        people,
        (marks_of(a), marks_of(b)),
        (_name(row.get("model_a")), _name(row.get("model_b"))),
        row.get("category") or row.get("subset"),
        (digest(a), digest(b)),
    )


def _name(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def marks_of(text: str) -> int:
    """How many of its lines are list items or headings, as Markdown writes them."""
    return len(MARKED.findall(text))


def _text(response: Any) -> str:
    """A response as one text; of a list of turns, all they say."""
    if isinstance(response, list):
        return "".join(str(turn.get("content", "")) if isinstance(turn, dict) else str(turn) for turn in response)
    return str(response)


def readings_of(where: str, row: Row, reader: Reader | None) -> list[Reading]:
    """What a row says: nothing where a reader finds no order to put its verdict in, and both orders at once where the
    responses were scored one at a time.
    """
    order = row.get("order") or None  # an empty cell of a CSV file is none
    if order == "each-alone":
        pair = _scored(where, row)
        return [Reading(each, choice, shown=False) for each, choice in zip(ORDERS, pair, strict=True)]
    if order not in (*ORDERS, None):
        raise DataError(f'{where}: order is {order!r}; expected "ab", "ba", "each-alone" or null.')
    if reader is None:
        return [Reading(order, _recorded(where, row, order))]
    if "completion" not in row:
        raise DataError(
            f"{where}: no completion, so nothing for a reader to read. Without --reader the recorded choice counts."
        )
    if order is None:
        return []
    reply = row["completion"]
    return [Reading(order, _unmapped(None if reply is None else reader(str(reply), row), order))]


def _unmapped(shown: str | None, order: str) -> Choice | None:
    """The item's side that was picked as shown."""
    places: dict[str | None, Any] = {"first": order[0], "second": order[1], "tie": "tie", None: None}
    choice: Choice | None = places[shown]
    return choice


def _recorded(where: str, row: Row, order: str | None) -> Choice | None:
    """``choice``, or ``choice_shown`` put in its order; both where both are given must be the same."""
    shown = row.get("choice_shown") or None
    if shown not in (*SHOWN, None):
        raise DataError(f'{where}: choice_shown is {shown!r}; expected "first", "second", "tie" or null.')
    if "choice" not in row and ("choice_shown" not in row or order is None):
        raise DataError(f"{where}: no choice. Found {', '.join(row)}; expected a, b, tie or null (unreadable).")
    if "choice" not in row:
        return _unmapped(shown, str(order))
    choice = _choice(where, "choice", row["choice"])
    if "choice_shown" in row and order and _unmapped(shown, order) != choice:
        raise DataError(f"{where}: choice {choice!r} is not choice_shown {shown!r} in order {order}. Mend one of them.")
    return choice


def _choice(where: str, column: str, value: Any) -> Choice | None:
    if value not in ("a", "b", "tie", "", None):
        raise DataError(f'{where}: {column} is {value!r}; expected "a", "b", "tie" or null (unreadable).')
    choice: Choice | None = value or None
    return choice


def _scored(where: str, row: Row) -> tuple[Choice | None, Choice | None]:
    """``choice_pair``, the choice in each order; or of ``scores`` the higher. Equal scores count as a choice of b in
    order ab and of a in order ba: never the same, and no one's favour.
    """
    pair, scores = row.get("choice_pair"), row.get("scores")
    if pair is not None:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{where}: choice_pair is {pair!r}; expected the choices in order ab and in order ba.")
        return _choice(where, "choice_pair", pair[0]), _choice(where, "choice_pair", pair[1])
    if not isinstance(scores, list) or len(scores) != 2:
        raise DataError(
            f"{where}: scored one at a time, but neither choice_pair nor two scores. Found {', '.join(row)}."
        )
    try:
        a, b = (float(score) for score in scores)
    except (TypeError, ValueError):
        return None, None
    return ("a", "a") if a > b else ("b", "b") if a < b else ("b", "a")
