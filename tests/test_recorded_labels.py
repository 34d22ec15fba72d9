"""Recorded verdicts as a label source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.store import RunFolder
from tests.runs import rlaif
from tests.tiny import write_jsonl

ITEMS = [
    {"id": str(n), "prompt": f"question {n}", "response_a": f"yes {n}", "response_b": f"no {n}", "label": "a"}
    for n in range(6)
]
ITEMS[5]["response_b"] = ITEMS[5]["response_a"]  # nothing to judge
SAID: dict[str, list[tuple[str | None, str | None]]] = {
    "0": [("ab", "a"), ("ba", "a")],
    "1": [("ab", "a"), ("ba", "b")],
    "2": [("ab", "tie"), ("ba", "b")],
    "3": [("ab", None), ("ba", "b")],
    "5": [("ab", "a"), ("ba", "b")],
}


def verdict(item: str, order: str | None, choice: str | None, judge: str = "old") -> dict[str, Any]:
    return {"item_id": item, "judge": judge, "method": "plain", "order": order, "choice": choice}


def labelled(folder: Path, verdicts: list[dict[str, Any]], code: int = 0, **options: Any) -> str:
    write_jsonl(folder / "items.jsonl", ITEMS)
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    labels = {"source": "recorded", "options": {"file": "verdicts.jsonl", **options}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"pairs": "items.jsonl", "labels": labels}))
    return rlaif(folder, "run", "recipe.yaml", "--out", "run", code=code)


def test_a_label_is_what_both_recorded_orders_say_together(tmp_path: Path) -> None:
    labelled(tmp_path, [verdict(item, *said) for item, both in SAID.items() for said in both])
    run = RunFolder(tmp_path / "run")
    prompts = {row.prompt_id: row for row in run.read("preferences")}
    texts = {prompt.id: prompt.messages[0].content for prompt in run.read("prompts")}
    found = {
        texts[prompt][-1]: (row.chosen[0].content[:3].strip(), row.p, row.weight) for prompt, row in prompts.items()
    }
    assert found["0"] == ("yes", 1.0, 1.0)
    assert found["1"][1:] == (0.5, 1.0)  # each order prefers the first shown: a tie
    assert found["2"] == ("no", 0.75, 1.0)
    assert found["3"][2] == 0.0
    assert found["4"][2] == 0.0  # of which nothing is recorded
    accounts = json.loads((tmp_path / "run" / "accounts.json").read_text())["preferences"]["outcomes"]
    assert (accounts["labelled"], accounts["tie"], accounts["unreadable"]) == (2, 1, 1)
    who = {row.labeller for row in run.read("judgements")}
    assert who == {"judge:old plain (recorded)"}


@pytest.mark.parametrize(
    ("verdicts", "options", "line"),
    [
        (
            [verdict("0", "ab", "a"), verdict("0", "ab", "b", "new")],
            {},
            "more than one fits; name one with --judge: new, old",
        ),
        ([verdict("9", "ab", "a")], {}, "no verdict of old plain is on an item of items.jsonl"),
        ([verdict("5", "ab", "a")], {}, "is of a pair of items.jsonl that can be judged"),
        ([verdict("0", "ab", "a")], {"judge": "odl"}, 'no row of "odl". Did you mean "old"?'),
        ([verdict("0", "ab", "a")], {"items": "nothing.jsonl"}, "nothing.jsonl"),
    ],
    ids=["two judges", "no such item", "equal replies", "no such judge", "no such file"],
)
def test_verdicts_that_are_of_nothing_here_are_one_line(
    verdicts: list[dict[str, Any]], options: dict[str, Any], line: str, tmp_path: Path
) -> None:
    said = labelled(tmp_path, verdicts, code=2, **options)
    assert line in said
    assert "Traceback" not in said
