"""A verdict as a JSON object by a schema that the provider enforces: ``{"reasoning": "…", "verdict": "A"}``.

Read strictly: the object and nothing else, its keys and no others, the verdict one of the words offered. What stands
in the reasoning is never a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rlaif.records import canonical_json

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


def read_verdict(text: str, words: Sequence[str], *, reasoning: bool) -> int:
    """Index of the word that is the verdict. Raises ValueError, which says why the reply cannot be read."""
    try:
        form = json.loads(text, object_pairs_hook=tuple)  # an object is a tuple of pairs: keys given twice are seen
    except (ValueError, RecursionError):
        form = None
    if not isinstance(form, tuple):
        raise ValueError("the reply is not one JSON object")
    if sorted(key for key, _ in form) != ([REASONING, VERDICT] if reasoning else [VERDICT]):
        raise ValueError("the JSON of the reply has not the keys asked for, each once")
    values = dict(form)
    if reasoning and not isinstance(values[REASONING], str):
        raise ValueError("the reasoning in the JSON of the reply is not text")
    if values[VERDICT] not in words:
        raise ValueError("the verdict in the JSON of the reply is none of those offered")
    return words.index(values[VERDICT])
