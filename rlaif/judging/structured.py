"""A verdict as a JSON object by a schema that the provider enforces: ``{"reasoning": "…", "verdict": "A"}``.

Read strictly: the object and nothing else, its keys and no others, the verdict one of the words offered. What stands
in the reasoning is never a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from rlaif.records import canonical_json

T = TypeVar("T")

# Providers write the keys in the schema's order, which is alphabetical in its canonical text: the reasons come first.
REASONING, VERDICT = "reasoning", "verdict"


def verdict_schema(words: Sequence[str], *, reasoning: bool) -> str:
    """Canonical JSON of the schema; fit for strict modes, which want every key required and no others."""
    properties: dict[str, object] = {VERDICT: {"type": "string", "enum": list(words)}}
    if reasoning:
        described = "What decides between the two replies, in one to three sentences."
        properties[REASONING] = {"type": "string", "description": described}
    return canonical_json(
        {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}
    )


def numbers_schema(names: Sequence[str], numbers: Sequence[int]) -> str:
    """Canonical JSON of the schema of an object with one of the numbers under every name."""
    return _fields_schema(names, {"type": "integer", "enum": list(numbers)})


def words_schema(names: Sequence[str], words: Sequence[str]) -> str:
    """Canonical JSON of the schema of an object with one of the words under every name."""
    return _fields_schema(names, {"type": "string", "enum": list(words)})


def ranking_schema() -> str:
    """Canonical JSON of the schema of reasons and a ranking written as text."""
    properties = {REASONING: {"type": "string"}, VERDICT: {"type": "string"}}
    return canonical_json(
        {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}
    )


def _fields_schema(names: Sequence[str], field: dict[str, object]) -> str:
    properties = dict.fromkeys(names, field)
    return canonical_json(
        {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}
    )


def read_fields(text: str, names: Sequence[str], offered: Sequence[T]) -> dict[str, T]:
    """What stands under every name, each one of those offered. Raises ValueError, which says why it cannot be read."""
    values = _object(text, names)
    if any(type(value) is not type(offered[0]) or value not in offered for value in values.values()):
        raise ValueError("a value in the JSON of the reply is none of those offered")
    return values


def read_text(text: str, name: str) -> str:
    """The text under ``name``, beside the reasoning. Raises ValueError, which says why it cannot be read."""
    values = _object(text, (name, REASONING))
    if not isinstance(values[name], str):
        raise ValueError("the verdict in the JSON of the reply is not text")
    return str(values[name])


def read_verdict(text: str, words: Sequence[str], *, reasoning: bool) -> int:
    """Index of the word that is the verdict. Raises ValueError, which says why the reply cannot be read."""
    values = _object(text, (REASONING, VERDICT) if reasoning else (VERDICT,))
    if reasoning and not isinstance(values[REASONING], str):
        raise ValueError("the reasoning in the JSON of the reply is not text")
    if values[VERDICT] not in words:
        raise ValueError("the verdict in the JSON of the reply is none of those offered")
    return words.index(values[VERDICT])


def _object(text: str, names: Sequence[str]) -> dict[str, Any]:
    """The reply as one JSON object with exactly these keys. Raises ValueError, which says why it is none."""
    try:
        form = json.loads(text, object_pairs_hook=tuple)  # an object is a tuple of pairs: keys given twice are seen
    except (ValueError, RecursionError):
        form = None
    if not isinstance(form, tuple):
        raise ValueError("the reply is not one JSON object")
    if sorted(key for key, _ in form) != sorted(names):
        raise ValueError("the JSON of the reply has not the keys asked for, each once")
    return dict(form)
