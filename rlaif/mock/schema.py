"""JSON that fits a schema: where it asks for a verdict or a score the judge's own, elsewhere something keyed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlaif.mock.talk import keyed

VERDICTS = ("verdict", "choice", "winner", "preference", "preferred", "better", "best", "label", "decision")
DEEPEST, MOST_ITEMS = 8, 100


def is_sound(schema: dict[str, Any]) -> bool:
    """Whether a schema can be filled at all: clients send anything."""
    try:
        choices_in(schema)
        Filler(schema, None, "", 0).fill()
        return all(isinstance(part.get("required", []), list) for _, part in parts_of(schema))
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
        return False


def choices_in(schema: dict[str, Any]) -> tuple[str, ...]:
    """The words a schema offers for the verdict: the enum of a property so called, else its first enum of words."""
    found = [(name, tuple(part["enum"])) for name, part in parts_of(schema) if _is_choice(part)]
    named = [words for name, words in found if name.lower() in VERDICTS]
    return (named or [words for _, words in found] or [()])[0]


def _is_choice(part: dict[str, Any]) -> bool:
    words = part.get("enum")
    return isinstance(words, list) and len(words) > 1 and all(isinstance(word, str) for word in words)


def parts_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(property name, its schema) of a schema and everything in it, the whole first."""
    yield from _parts("", schema, schema, 0)


def _parts(name: str, part: Any, root: dict[str, Any], depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    part = _resolved(part, root)
    if depth > DEEPEST:
        return
    yield name, part
    for key, inner in (part.get("properties") or {}).items():
        yield from _parts(key, inner, root, depth + 1)
    if isinstance(part.get("items"), dict):
        yield from _parts(name, part["items"], root, depth + 1)


def _resolved(part: Any, root: dict[str, Any]) -> dict[str, Any]:
    """The schema that a ``$ref`` or an alternative leads to."""
    for _ in range(DEEPEST):
        if not isinstance(part, dict):
            return {}
        if isinstance(part.get("$ref"), str) and part["$ref"].startswith("#/"):
            target: Any = root
            for step in part["$ref"][2:].split("/"):
                target = target.get(step, {}) if isinstance(target, dict) else {}
            part = target
        elif alternatives := part.get("anyOf") or part.get("oneOf"):
            part = next((item for item in alternatives if item.get("type") != "null"), alternatives[0])
        else:
            return part
    return {}


class Filler:
    """Fills a schema. ``verdict`` goes to the property that offers it; ``reason`` is the text of strings."""

    def __init__(self, schema: dict[str, Any], verdict: str | None, reason: str, key: int) -> None:
        self._root = schema
        self._verdict = verdict
        self._reason = reason
        self._key = key

    def fill(self) -> Any:
        return self._value("", self._root, 0)

    def _value(self, name: str, part: Any, depth: int) -> Any:
        part = _resolved(part, self._root)
        if "const" in part:
            return part["const"]
        if words := part.get("enum"):
            return self._verdict if self._verdict in words else words[int(self._draw(name) * len(words))]
        kind = part.get("type")
        kind = next((each for each in kind if each != "null"), "null") if isinstance(kind, list) else kind
        if kind == "array":
            count = min(max(int(part.get("minItems", 1)), 1), MOST_ITEMS) if depth < DEEPEST else 0
            return [self._value(f"{name}{place}", part.get("items", {}), depth + 1) for place in range(count)]
        if kind == "object" or "properties" in part:
            inner = part.get("properties") or {}
            return {key: self._value(key, item, depth + 1) for key, item in inner.items()} if depth < DEEPEST else {}
        return self._plain(name, kind, part)

    def _plain(self, name: str, kind: str | None, part: dict[str, Any]) -> Any:
        if kind in ("integer", "number"):
            return self._number(name, kind, part)
        if kind == "boolean":
            return self._draw(name) < 0.5
        if kind == "null":
            return None
        return self._verdict if self._verdict and name.lower() in VERDICTS else self._reason

    def _number(self, name: str, kind: str, part: dict[str, Any]) -> float:
        low, high = float(part.get("minimum", 1)), float(part.get("maximum", 10))
        if self._verdict and self._verdict.isdecimal() and low <= int(self._verdict) <= high:
            return int(self._verdict)
        value = low + (high - low) * self._draw(name)
        return round(value) if kind == "integer" else round(value, 3)

    def _draw(self, name: str) -> float:
        return keyed(name, self._key)
