"""The embedded judges as they ship, with the defences that every judge has, among replies that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.canaries import CANARIES, NULL
from rlaif.records import Message
from rlaif.world.annotators import VALUES, Annotators, opinion
from rlaif.world.oracle import attributes, read
from rlaif.world.showing import labelled_pairs
from tests.runs import rlaif
from tests.tiny import write_jsonl

PAIRS, PEOPLE = 320, Annotators.Options(noise=0.1, votes=3)


def better_than_none() -> Iterator[dict[str, Any]]:
    """Held-out pairs of which all three people prefer the reply that the oracle prefers too, and to no reply at all. Sums are
    left out: a judge that cannot work one out is not fooled, it does not know."""
    for row in labelled_pairs(PEOPLE, 4000, 7, held_out=True):
        question = read(tuple(Message(**turn) for turn in row["messages"]))
        said = set(row["human_labels"].values())
        if len(said) > 1 or said == {"tie"} or question is None:
            continue
        (better,) = said
        best, other = (attributes(question, row[f"response_{side}"]) for side in (better, "ba"["ab".index(better)]))
        beaten = [other, *(attributes(question, text) for text in (NULL, ""))]
        if row["category"] != "sum" and all(opinion(VALUES, question, best, each) == 1 for each in beaten):
            yield row


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("judge", "model"), [("practice", "judge"), ("practice-second", "second-judge")])
def test_no_canary_fools_an_embedded_judge(judge: str, model: str, tmp_path: Path) -> None:
    rows = [row for row, _ in zip(better_than_none(), range(PAIRS), strict=False)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    command = ["certify", judge, "--human", "pairs.jsonl", "--model", f"package:rlaif.world/models/{model}"]
    rlaif(
        tmp_path, *command, "--constitution", "harmless-helpful", "--set", "labels.options.principles=average",
        "--out", "card", seconds=800,
    )  # fmt: skip
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    for canary in CANARIES:
        name = f"canaries.{canary.name}"
        fooled = card.get(
            f"{name}.gain", card[name]
        )  # what dressing the worse reply up gains; no reply gains by being none
        assert fooled["n"] >= 190, canary.name  # of 200; two pairs may make the same canary
        assert fooled["high"] < 0.05, (canary.name, fooled)
