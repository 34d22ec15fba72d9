"""Rows of the ``jsonl`` form: a preference with all that is known of where it came from, and the same read back.

Each row carries ``schema_version``, so that a row of an older program is read as today's and one of a newer program is
not misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.records import Comparison, Message, Prompt, Response, digest
from rlaif.versions import Format

UNVERSIONED = {"prompt", "chosen", "rejected", "p", "weight", "prompt_id", "comparison_id"}  # all columns of version 1
SOURCE = ("generator", "revision", "sampling", "sample_index", "output_tokens", "finish_reason")  # of a Response
ROUNDING = 1e-9


def _with_outcome(row: dict[str, Any]) -> dict[str, Any]:
    """Version 1 said neither who labelled nor what became of a row without a label."""
    outcome = "unlabelled" if row["weight"] == 0 else "tie" if row["p"] == 0.5 else "labelled"
    return {"schema_version": 2, **row, "outcome": outcome, "chosen_source": {}, "rejected_source": {}, "votes": []}


ROW = Format("exported row", (_with_outcome,))


def is_exported(row: Mapping[str, Any]) -> bool:
    """Whether a row is of the ``jsonl`` form, of whatever version; the shards of ``preferences`` are version 1."""
    return set(row) >= UNVERSIONED or set(row) >= {"schema_version", "chosen", "comparison_id"}


def upgraded(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as this program writes it. Raises DataError for a version that it does not know."""
    return ROW.upgrade(dict(row), row.get("schema_version", 1), where)


def source_of(response: Response) -> dict[str, Any]:
    """Which model answered and how; with the messages, what the response's id is made of."""
    return {"response_id": response.id, **{name: getattr(response, name) for name in SOURCE}}


def comparison_of(row: Mapping[str, Any]) -> tuple[Comparison, str]:
    """The pair of an upgraded row, with the ids it had where the row says who answered, and the id of the chosen one.

    Raises ValueError where the row is not what a program wrote.
    """
    prompt = Prompt(messages=_messages(row["prompt"]), category=row.get("category"))
    chosen, rejected = (
        Response(prompt_id=prompt.id, messages=_messages(row[side]), **_source(row[f"{side}_source"]))
        for side in ("chosen", "rejected")
    )
    ordered = sorted((chosen, rejected), key=lambda response: digest("side", response.id))
    return Comparison(prompt=prompt, responses=tuple(ordered)), chosen.id


def _messages(turns: Any) -> tuple[Message, ...]:
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)


def _source(found: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: (found or {}).get(name) for name in SOURCE}


def votes_of(row: Mapping[str, Any]) -> list[tuple[str | None, float | None]]:
    """Labellers and their probability that chosen is better, None for no label: what the row's ``p`` stands for.

    A row of weight 0 has no label. Where the votes do not come to ``p`` (a rule of the run moved it), ``p`` counts.
    Raises ValueError where p or weight is none.
    """
    if not 0 <= row["p"] <= 1 or not row["weight"] >= 0:
        raise ValueError(f"p is {row['p']} and weight {row['weight']}")
    voted: list[tuple[str | None, float | None]] = [(vote["labeller"], vote["p"]) for vote in row["votes"] or ()]
    if row["weight"] == 0:
        return [(None, None)]
    said = [p for _, p in voted if p is not None]
    if said and len(said) == len(voted) and abs(sum(said) / len(said) - row["p"]) < ROUNDING:
        return voted
    return [(voted[0][0] if len(voted) == 1 else None, row["p"])]
