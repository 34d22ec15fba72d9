"""Runs with known labels, to export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlaif.export import export
from tests.runs import rlaif
from tests.tiny import write_jsonl


def item(prompt: str, a: str, b: str, **label: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response_a": a, "response_b": b, **label}


PEOPLE = ("Ann Example", "Bob Example")
ANN, BOB = ({"annotator": name} for name in PEOPLE)
ROWS = [  # x beats y, y beats v; x and z have a vote each, which is a tie; y is a near-tie above z; the rest are plain
    item("sort", "x", "y", label="a", **ANN),
    item("sort", "x", "z", label="a", **ANN),
    item("sort", "z", "x", label="a", **BOB),
    item("sort", "w", "x", label="tie", **ANN),
    item("sort", "y", "z", p=0.52, **ANN),
    item("sort", "y", "v", label="a", **ANN),
    item("blank", "one", "two", label=None, **ANN),
    item("sure", "good", "bad", human_labels=dict(zip(PEOPLE, ("a", "tie"), strict=True)), category="manners"),
    item("even", "left", "right", label="tie", **ANN),
]


def labelled(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """A run folder of people's labels."""
    write_jsonl(folder / "people.jsonl", rows)
    rlaif(folder, "label", "people.jsonl", "--out", "people")
    return folder / "people"


def exported(run: Path, form: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a form as JSONL, and what was said."""
    target = run.parent / f"{form}-rows.jsonl"
    said = export(run, form, target)
    return [json.loads(line) for line in target.read_text().splitlines()], said


def words(turns: list[dict[str, str]]) -> str:
    (turn,) = turns
    return turn["content"]
