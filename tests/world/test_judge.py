"""The practice world's judge at work: what it makes of a principle is said before its labels are used."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from rlaif.errors import ConfigError
from rlaif.store import RunFolder
from rlaif.world.lessons import Pair, draw_pair
from rlaif.world.oracle import attributes, prefers, read
from rlaif.world.showing import principles_of
from tests.runs import rlaif
from tests.tiny import write_jsonl

JUDGE = "package:rlaif.world/models/judge"


def pairs(number: int) -> list[Pair]:
    rng = Random("pairs of the practice judge")
    return [draw_pair(rng, held_out=True) for _ in range(number)]


def write_pairs(path: Path, number: int) -> None:
    rows = [
        {"messages": [m.model_dump() for m in pair.question.messages], "response_a": pair.texts[0], "response_b": pair.texts[1]}
        for pair in pairs(number)
    ]  # fmt: skip
    write_jsonl(path, rows)


def told_in(run: Path) -> dict[str, list[str]]:
    """What a person was told while each stage was made, as the run folder keeps it."""
    notes = json.loads((run / "notes.json").read_text())
    return {stage: note["lines"] for stage, note in notes.items()}


def test_a_constitution_is_looked_at_before_it_labels_and_its_labels_are_the_oracles(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 60)
    arguments = ("pairs.jsonl", "--model", JUDGE, "--constitution", "polite", "--out", "run")
    printed = rlaif(tmp_path, "judge", "practice", *arguments)
    reading = "polite: read as preferring the reply that is more polite"
    assert reading in printed
    accounts = json.loads((tmp_path / "run" / "accounts.json").read_text())
    assert accounts["judgements"]["in"] == 2 * 60  # the probes are none of the run's showings
    run = RunFolder(tmp_path / "run")
    assert any(line.startswith(reading) for line in told_in(run.path)["judgements"])
    assert "Judge practice: It learnt from the oracle" in printed
    assert run.manifest["caveats"][0] in printed
    replies = {r.id: r for comparison in run.read("comparisons") for r in comparison.responses}
    prompts = {comparison.id: comparison.prompt for comparison in run.read("comparisons")}
    right = told = 0
    for row, preference in zip(run.read("provenance"), run.read("preferences"), strict=True):
        question = read(prompts[row.comparison_id].messages)
        assert question
        chosen, rejected = (attributes(question, replies[i].text) for i in (row.chosen_id, row.rejected_id))
        truth = prefers("polite", 1, question, chosen, rejected)
        told += truth != 0.5
        right += truth == 1.0 and preference.p > 0.5
    assert told > 20
    assert right / told > 0.9


def test_a_principle_in_words_it_never_read_is_pointed_at(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 2)
    (tmp_path / "own.yaml").write_text(
        "principles:\n  - {id: terse, text: Prefer the reply that quotes Wittgenstein and Schopenhauer.}\n"
    )
    arguments = ("pairs.jsonl", "--model", JUDGE, "--constitution", "own.yaml", "--out", "run")
    printed = rlaif(tmp_path, "judge", "practice", *arguments)
    assert "terse: the practice judge has never read 'quotes', 'wittgenstein', 'schopenhauer'" in printed
    careful = next(line for line in told_in(tmp_path / "run")["judgements"] if line.startswith("Careful: "))
    assert printed.count(careful) == 2  # when it is tried, and when all is done


def test_a_second_run_asks_no_probe_again(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 2)
    arguments = ("pairs.jsonl", "--model", JUDGE, "--constitution", "polite", "--out")
    rlaif(tmp_path, "judge", "practice", *arguments, "one")
    (tmp_path / "log").unlink()
    printed = rlaif(tmp_path, "judge", "practice", *arguments, "two")
    assert f"model {JUDGE}: 0 asked" in printed


def test_what_was_said_of_another_constitution_goes_with_its_labels_and_a_second_look_repeats_nothing(
    tmp_path: Path,
) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 2)
    arguments = ("pairs.jsonl", "--model", JUDGE, "--out", "run", "--constitution")
    rlaif(tmp_path, "judge", "practice", *arguments, "polite")
    before = told_in(tmp_path / "run")["judgements"]
    rlaif(tmp_path, "judge", "practice", *arguments, "polite")
    assert told_in(tmp_path / "run")["judgements"] == before
    rlaif(tmp_path, "judge", "practice", *arguments, "reversed-polite")
    after = told_in(tmp_path / "run")["judgements"]
    assert any("read as preferring the reply that is ruder" in line for line in after)
    assert not set(after) & set(before)


def test_a_name_that_is_nearly_a_constitutions_is_no_principle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'"polit" is no constitution, and no sentence\. Did you mean "polite"'):
        principles_of("polit")
    with pytest.raises(ConfigError, match="has no words"):
        principles_of("!!! ???")
    assert principles_of("Be warm.") == [("Be warm.", "Be warm.")]


def test_an_edited_principle_is_all_that_is_asked_about_again(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 5)
    told = 'principles:\n  - {{id: a, text: Prefer the politer reply.}}\n  - {{id: b, text: "{}"}}\n'
    arguments = ("judge", "practice", "pairs.jsonl", "--model", JUDGE, "--constitution", "own.yaml", "--out", "run")
    both = ("--set", "labels.options.principles=average")
    (tmp_path / "own.yaml").write_text(told.format("Prefer the shorter reply."))
    rlaif(tmp_path, *arguments, *both)
    (tmp_path / "own.yaml").write_text(told.format("Prefer the longer reply."))
    (tmp_path / "log").unlink()
    printed = rlaif(tmp_path, *arguments, *both)
    probes, showings = 2 * 72, 2 * 5
    assert f"model {JUDGE}: {probes + showings} asked, {probes + showings} from the ledger" in printed
