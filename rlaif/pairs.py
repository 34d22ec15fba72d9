"""Files of comparisons, with or without people's labels, in the forms people have them:

* ``chosen`` and ``rejected``, with ``prompt`` or as two whole transcripts (also the HH text form);
* items: ``prompt`` or ``messages``, ``response_a``, ``response_b``, and ``label`` (a, b, tie or null), or
  ``human_labels`` (one per annotator: a list, or a mapping from annotator to label), or ``p`` (probability that a is
  better); ``annotator`` names who, ``order`` ("ab" or "ba") which was shown first; ``model_a`` and ``model_b``,
  who wrote, stay with the prompt's other columns;
* answers to exported tasks: ``comparison_id`` and ``label``, with ``annotator`` and ``order``;
* rows that ``rlaif export --form jsonl`` wrote, with their labels and ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.conversations import (
    PROMPT_COLUMNS,
    after_prompt,
    common_start,
    make_prompt,
    prompt_column,
    read_messages,
    read_prompt,
)
from rlaif.errors import DataError, written_as
from rlaif.exported import comparison_of, is_exported, upgraded, votes_of
from rlaif.records import Comparison, Message, Prompt, Response, digest
from rlaif.rows import read_rows

LABELS = {
    "a": 1.0, "b": 0.0, "tie": 0.5, "response_a": 1.0, "response_b": 0.0, "1": 1.0, "2": 0.0, "first": 1.0,
    "second": 0.0, "equal": 0.5, "same": 0.5, "0.5": 0.5,
}  # fmt: skip
USED = (
    "chosen", "rejected", "response_a", "response_b", "label", "labels", "human_labels", "p", "annotator", "order",
    "messages", "prompt",
)  # fmt: skip


@dataclass(frozen=True)
class Vote:
    """One person's opinion of a pair. ``p``: probability that the first response (a, or chosen) is better."""

    annotator: str | None
    p: float | None  # None: asked, but no verdict
    order: str | None  # "ab": the first was shown first; "ba"; None: not known
    exported: str | None = None  # the labeller in full, where an exported row names it: a judge's vote stays a judge's

    @property
    def labeller(self) -> str | None:
        """As judgements name who labelled; None for a vote without a name."""
        return self.exported or (f"human:{self.annotator}" if self.annotator else None)


@dataclass(frozen=True)
class Pair:
    """One row: its comparison (a before b; or why there is none), and its votes."""

    where: str
    comparison: Comparison | str
    votes: tuple[Vote, ...]
    first: str = ""  # response id that the votes' p speaks of


def read_pairs(source: str, split: str = "train", limit: int | None = None) -> Iterator[Pair]:
    """Every row of a pair file. Raises DataError where the file, not one row of it, is of the wrong shape."""
    for number, (where, row) in enumerate(read_rows(source, split)):
        if limit is not None and number >= limit:
            return
        yield read_pair(where, row)


def authors_of(comparison: Comparison) -> tuple[str | None, str | None]:
    """The models that wrote its two responses: those that sampled them, or as its row says."""
    said = [comparison.prompt.metadata.get(name) for name in ("model_a", "model_b")]
    first, second = (
        response.generator or (None if name is None else str(name))
        for response, name in zip(comparison.responses[:2], said, strict=True)
    )
    return first, second


def read_pair(where: str, row: Mapping[str, Any]) -> Pair:
    if is_exported(row):
        return _exported(where, row)
    if "chosen" in row and "rejected" in row:
        return _chosen_rejected(where, row)
    if "response_a" in row and "response_b" in row:
        return _item(where, row)
    raise DataError(
        f"{where}: not a pair. Found {', '.join(row) or 'no columns'}; expected chosen and rejected, or response_a and "
        f"response_b with a label.{written_as(row, (*USED, *PROMPT_COLUMNS))}"
    )


def is_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row answers an exported task instead of carrying the pair itself."""
    return "comparison_id" in row and "response_a" not in row and "chosen" not in row


def hold_answers(sources: Sequence[str]) -> bool:
    """Whether files hold answers to exported tasks, of which there may be several, or one file holds pairs."""
    for source in sources:
        if not any(is_answer(row) for _, row in itertools.islice(read_rows(source), 1)):
            if len(sources) > 1:
                raise DataError(
                    f"{source}: no answers to tasks (no comparison_id). Several files are answers to one run's tasks; "
                    "pairs go in one file."
                )
            return False
    return True


def read_votes(where: str, row: Mapping[str, Any]) -> tuple[Vote, ...]:
    """The votes of an item row. Raises DataError for a label no one could mean."""
    order = row.get("order") or None
    if order not in ("ab", "ba", None):
        raise DataError(f'{where}: order is {order!r}; expected "ab" or "ba", which was shown first, or null.')
    many = row.get("human_labels", row.get("labels"))
    if isinstance(many, Mapping):
        return tuple(Vote(str(name), _label(where, value), order) for name, value in many.items())
    if isinstance(many, list):
        return tuple(Vote(str(i), _label(where, value), order) for i, value in enumerate(many, 1))
    if row.get("human_labels") not in (None, ""):
        raise DataError(
            f"{where}: human_labels is {many!r}; expected a list of labels, or a mapping from annotator to label."
        )
    who = None if row.get("annotator") is None else str(row["annotator"])
    if row.get("p") not in (None, ""):
        try:
            p = float(row["p"])
        except (TypeError, ValueError):
            p = -1.0
        if not 0 <= p <= 1:
            raise DataError(f"{where}: p is {row['p']!r}; expected the probability, 0 to 1, that response_a is better.")
        return (Vote(who, p, order),)
    if "label" in row:
        return (Vote(who, _label(where, row["label"]), order),)
    return ()


def _label(where: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers beside empty cells come as 1.0 and 2.0
    p = LABELS.get(str(value).strip().lower())
    if p is None:
        raise DataError(f'{where}: label {value!r}; expected "a", "b", "tie" or null.')
    return p


def _exported(where: str, row: Mapping[str, Any]) -> Pair:
    try:
        row = upgraded(where, row)
        comparison, first = comparison_of(row)
        votes = tuple(Vote(None, None if p is None else float(p), None, who) for who, p in votes_of(row))
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise DataError(f"{where}: not a row that rlaif export wrote ({what}). Export it again.") from error
    return Pair(where, comparison, votes, first)


def _chosen_rejected(where: str, row: Mapping[str, Any]) -> Pair:
    sides = [read_messages(row[name], "assistant") for name in ("chosen", "rejected")]
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        if isinstance(side, str):
            return Pair(where, f"{name}: {side}", ())
    chosen, rejected = (side for side in sides if not isinstance(side, str))
    prompt: Prompt | str
    column = next((name for name in ("prompt", "messages") if row.get(name)), None)  # messages may be a copy of chosen
    if column:
        prompt = read_prompt(row, column, drop=USED)
        if isinstance(prompt, Prompt):  # transcripts that repeat the prompt they answer
            chosen, rejected = (after_prompt(prompt.messages, side) for side in (chosen, rejected))
    else:
        n = common_start(chosen, rejected)
        prompt = make_prompt(chosen[:n], row, drop=USED) if n else "no prompt and no shared beginning"
        chosen, rejected = chosen[n:], rejected[n:]
    votes = read_votes(where, row) if row.get("p") not in (None, "") else (Vote(_annotator(row), 1.0, None),)
    pair = _pair(where, prompt, chosen, rejected, votes)
    if isinstance(pair.comparison, str):
        return pair
    # the file says which is better by its columns: the stored order must not
    ordered = tuple(sorted(pair.comparison.responses, key=lambda response: digest("side", response.id)))
    return Pair(where, Comparison(prompt=pair.comparison.prompt, responses=ordered), pair.votes, pair.first)


def _annotator(row: Mapping[str, Any]) -> str | None:
    return None if row.get("annotator") is None else str(row["annotator"])


def _item(where: str, row: Mapping[str, Any]) -> Pair:
    prompt = read_prompt(row, prompt_column(row, None, where, setting=None), drop=USED)
    sides = [read_messages(row[name], "assistant") for name in ("response_a", "response_b")]
    votes = read_votes(where, row)
    for name, side in zip(("response_a", "response_b"), sides, strict=True):
        if isinstance(side, str):
            return Pair(where, f"{name}: {side}", votes)
    first, second = (side for side in sides if not isinstance(side, str))
    return _pair(where, prompt, first, second, votes)


def _pair(
    where: str, prompt: Prompt | str, a: tuple[Message, ...], b: tuple[Message, ...], votes: tuple[Vote, ...]
) -> Pair:
    if isinstance(prompt, str):
        return Pair(where, prompt, votes)
    if a == b:
        return Pair(where, "identical responses", votes)
    for side in (a, b):
        if not side or side[-1].role != "assistant" or side[0].role != "assistant":
            return Pair(where, "a response that is not the assistant's", votes)
    responses = tuple(Response(prompt_id=prompt.id, messages=side) for side in (a, b))
    return Pair(where, Comparison(prompt=prompt, responses=responses), votes, responses[0].id)
