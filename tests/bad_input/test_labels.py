"""Labels of people that disagree, are not of the run or would take the place of others: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.store import RunFolder
from tests.command_line import GOOD, OTHER, SHORT, Rlaif, pairs, prompts, records
from tests.tiny import write_jsonl


def test_label_says_how_far_several_annotators_agree_or_that_none_can(rlaif: Rlaif) -> None:
    shown = {"prompt": "Which?", "response_a": "this", "response_b": "that"}
    several = pairs(shown | {"human_labels": ["a", "a", "b"]}, shown | {"prompt": "And?", "human_labels": ["a", "a"]})
    # of the three pairs of votes on the first, one agrees; the only pair on the second does
    assert (
        "Two labellers of one comparison agree in 50.0% of 4 pairs of votes"
        in rlaif("label", several, "--out", "a").text
    )
    one = rlaif("label", pairs(shown | {"label": "a"}), "--out", "b")
    assert "No comparison has labels of two people: how far people agree cannot be said." in one.err.splitlines()


def test_agreement_is_given_with_ties_and_without(rlaif: Rlaif) -> None:
    shown = {"prompt": "Which?", "response_a": "this", "response_b": "that"}
    several = pairs(shown | {"human_labels": {"ann": "a", "bo": "a", "cy": "tie"}}, shown | {"prompt": "And?"})
    rlaif("label", several, "--out", "a")
    metrics = json.loads(Path("a/metrics.json").read_text())
    # three pairs of votes, of which ann's and bo's agree; theirs alone has no tie
    found = {name: figure for name, figure in metrics.items() if "labellers_agree" in name}
    assert {name: (round(figure["value"], 4), figure["n"]) for name, figure in found.items()} == {
        "judgements.labellers_agree": (0.3333, 3),
        "judgements.labellers_agree_without_ties": (1.0, 1),
    }


def test_one_row_twice_is_no_two_people_who_agree(rlaif: Rlaif) -> None:
    row = {"prompt": "Which?", "response_a": "this", "response_b": "that", "label": "a"}
    text = rlaif("label", pairs(row, row), "--out", "a").text
    assert "Two labellers" not in text
    assert "No comparison has labels of two people" in text
    assert "In 1 of 1 comparisons several votes have no name: they may be one person's" in text
    # beside people with names, an unnamed vote counts for the label and not for the agreement
    named = [row | {"annotator": "ann"}, row | {"annotator": "bo", "label": "b"}, row]
    text = rlaif("label", pairs(*named), "--out", "b").text
    assert "Two labellers of one comparison agree in 0.0% of 1 pairs of votes" in text
    assert [preference.p for preference in RunFolder(Path("b")).read("preferences")] == [pytest.approx(2 / 3)]


def sampled(rlaif: Rlaif, policy_folder: Path) -> list[dict[str, Any]]:
    """Two tasks of a run ``out`` that waits for answers."""
    rlaif("sample", "--model", policy_folder, prompts("Hi", "Bye"), "--samples", "2", "--out", "out", *SHORT)
    assert rlaif("export", "out", "--form", "tasks", "--to", "tasks.jsonl").code == 0
    tasks = [json.loads(line) for line in Path("tasks.jsonl").read_text().splitlines()]
    assert len(tasks) == 2
    return tasks


def answers(name: str, tasks: list[dict[str, Any]], *labels: str | None, annotator: str = "ann") -> str:
    rows = [task | {"label": label, "annotator": annotator} for task, label in zip(tasks, labels, strict=True)]
    return str(write_jsonl(Path(name), rows))


def stands(folder: str) -> dict[str, bytes]:
    """What a command that is refused must leave as it is."""
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.suffix in (".parquet", ".json")}


@pytest.mark.parametrize("arguments", [["label"], ["judge", "longest"]])
def test_pairs_do_not_take_the_place_of_what_was_sampled(
    arguments: list[str], rlaif: Rlaif, policy_folder: Path
) -> None:
    tasks = sampled(rlaif, policy_folder)
    before = stands("out")
    said = rlaif(*arguments, pairs(), "--out", "out")
    assert (said.code, said.line) == (
        2,
        "rlaif: out: its comparisons were sampled from prompts, and pairs.jsonl holds pairs of its own. Choose another "
        "--out; answers to the tasks exported from here have a comparison_id each.",
    )
    assert stands("out") == before
    assert "2 comparisons: 2 labelled" in rlaif("label", answers("ann.jsonl", tasks, "a", "b"), "--out", "out").text


def test_a_limit_does_not_shorten_a_run_that_was_sampled(rlaif: Rlaif, policy_folder: Path) -> None:
    tasks = sampled(rlaif, policy_folder)
    before = stands("out")
    for arguments in (["label", answers("ann.jsonl", tasks, "a", "b")], ["judge", "longest"]):
        said = rlaif(*arguments, "--out", "out", "--limit", "1")
        assert (said.code, said.line) == (
            2,
            f"rlaif: {arguments[0]}: --limit counts rows of a file of pairs, and out brings comparisons of its own.",
        )
    assert stands("out") == before


WRONG_ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "of another run": (
        {"comparison_id": "c-0123"},
        "bad.jsonl line 2: comparison_id 'c-0123' is not a comparison of this run. Name the run that the tasks were "
        "exported from, or leave the row out.",
    ),
    "of a reply that was edited": (
        {"reply_b": "Better."},
        "bad.jsonl line 2: reply_b is not what the run's comparison ID shows there: a label of another text. Put back "
        "the text that was exported, or leave the column out.",
    ),
    "a label no one could mean": ({"label": "left"}, "bad.jsonl line 2: label 'left'; expected \"a\", \"b\", \"tie\" or null."),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_answers_that_are_not_of_the_run_are_refused_at_their_line_and_replace_nothing(
    name: str, rlaif: Rlaif, policy_folder: Path
) -> None:
    change, message = WRONG_ANSWERS[name]
    tasks = sampled(rlaif, policy_folder)
    assert rlaif("label", answers("ann.jsonl", tasks, "a", "b"), "--out", "out").code == 0
    before = stands("out")
    answered = [task | {"label": "a"} for task in tasks]
    write_jsonl(Path("bad.jsonl"), [answered[0], answered[1] | change])
    said = rlaif("label", "bad.jsonl", "--out", "out")
    assert (said.code, said.line) == (2, f"rlaif: {message.replace('ID', tasks[1]['comparison_id'])}")
    assert stands("out") == before


def test_blank_answers_replace_no_labels(rlaif: Rlaif, policy_folder: Path) -> None:
    tasks = sampled(rlaif, policy_folder)
    assert rlaif("label", answers("ann.jsonl", tasks, "a", None), "--out", "out").code == 0
    before = stands("out")
    said = rlaif("label", "tasks.jsonl", "--out", "out")
    assert (said.code, said.line) == (
        2,
        "rlaif: tasks.jsonl: no row carries a label (label, human_labels, p, or chosen and rejected).",
    )
    assert stands("out") == before


def test_white_space_that_a_spreadsheet_changed_is_no_edit(rlaif: Rlaif, policy_folder: Path) -> None:
    tasks = [task | {"reply_a": f" {task['reply_a']}\r\n"} for task in sampled(rlaif, policy_folder)]
    assert rlaif("label", answers("ann.jsonl", tasks, "a", "b"), "--out", "out").code == 0


def test_labels_that_make_way_for_those_of_another_person_are_said(rlaif: Rlaif, policy_folder: Path) -> None:
    tasks = sampled(rlaif, policy_folder)
    ann, bob = answers("ann.jsonl", tasks, "a", "b"), answers("bob.jsonl", tasks, "a", "a", annotator="bob")
    assert "make way" not in rlaif("label", ann, "--out", "out").text
    assert "make way" not in rlaif("label", ann, "--out", "out").text  # the same labels again
    notice = (
        "note: judgements: 2 labels by ann make way for the new ones and move to superseded/. Several people's answers "
        "go in together: rlaif label FILE FILE --out out."
    )
    assert notice in rlaif("label", bob, "--out", "out").err.splitlines()
    assert "2 labels by bob make way" in rlaif("judge", "longest", "--out", "out").text


def test_several_peoples_answers_go_in_together(rlaif: Rlaif, policy_folder: Path) -> None:
    tasks = sampled(rlaif, policy_folder)
    ann, bob = answers("ann.jsonl", tasks, "a", "b"), answers("bob.jsonl", tasks, "a", "a", annotator="bob")
    said = rlaif("label", ann, bob, "--out", "out")
    # they agree on the first comparison, and are of two minds on the second
    assert "4 showings: 4 ranked" in said.text
    assert "2 comparisons: 1 labelled, 1 tie" in said.text
    assert {tuple(row["labellers"]) for row in records("out", "provenance")} == {("human:ann", "human:bob")}


def test_several_files_of_pairs_are_one_line(rlaif: Rlaif) -> None:
    said = rlaif("label", pairs(), pairs(OTHER, name="more.jsonl"), "--out", "out")
    assert (said.code, said.line) == (
        2,
        "rlaif: pairs.jsonl: no answers to tasks (no comparison_id). Several files are answers to one run's tasks; "
        "pairs go in one file.",
    )


def test_a_run_of_the_first_rows_passes_over_answers_to_the_others(rlaif: Rlaif) -> None:
    from rlaif.pairs import read_pairs

    rows = [{"prompt": f"Question {i}", "response_a": "one", "response_b": "two"} for i in range(3)]
    source = pairs(*rows)
    ids = [pair.comparison.id for pair in read_pairs(source) if not isinstance(pair.comparison, str)]
    write_jsonl(Path("answers.jsonl"), [{"comparison_id": i, "label": "a"} for i in ids])
    Path("own.yaml").write_text(f"pairs: {source}\nlabels: {{source: human, options: {{file: answers.jsonl}}}}\n")
    assert "2 comparisons: 2 labelled" in rlaif("run", "own.yaml", "--limit", "2", "--out", "out").text
    write_jsonl(Path("answers.jsonl"), [{"comparison_id": ids[2], "label": "a"}])
    said = rlaif("run", "own.yaml", "--limit", "2", "--out", "out")
    assert (said.code, said.line) == (2, "rlaif: answers.jsonl: no row is of a comparison of this run.")


def test_a_stage_that_an_earlier_run_finished_is_marked(rlaif: Rlaif) -> None:
    source = pairs(GOOD, OTHER)
    assert "kept" not in rlaif("judge", "longest", source, "--out", "out").text
    said = rlaif("judge", "first", source, "--out", "out").err.splitlines()
    assert "pairs                       2 rows: 2 passed on  (kept from an earlier run)" in said
    assert not any("kept" in line for line in said if line.startswith("judgements"))
