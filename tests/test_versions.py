"""What an older program wrote is read as today's; what a newer one wrote is refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import DataError
from rlaif.export import export
from rlaif.exported import ROW
from rlaif.pairs import read_pair
from rlaif.store import MANIFEST, RunFolder, write_json
from rlaif.versions import Format
from tests.export.labelled import exported, item, labelled
from tests.runs import rlaif
from tests.tiny import write_jsonl

THREE = Format("thing", (lambda old: {"b": old["a"]}, lambda old: {"c": old["b"] + 1}))


@pytest.mark.parametrize(("found", "value"), [(1, {"a": 1}), (2, {"b": 1}), (3, {"c": 2})])
def test_every_older_version_is_brought_up_step_by_step(found: int, value: dict[str, int]) -> None:
    assert THREE.version == 3
    assert THREE.upgrade(value, found, "here") == {"c": 2}


@pytest.mark.parametrize("found", [0, -1, "1", 1.5, None, True])
def test_no_version_is_refused(found: Any) -> None:
    with pytest.raises(DataError, match=rf"here: thing format {found}, this version reads 1 to 3\.$"):
        THREE.upgrade({}, found, "here")


def test_a_newer_version_says_what_would_do() -> None:
    line = r"here: thing format 4, this version reads 1 to 3\. A newer rlaif wrote it: upgrade rlaif to read it\."
    with pytest.raises(DataError, match=line):
        THREE.upgrade({}, 4, "here")


# --- run folders ------------------------------------------------------------------------------------------------------


def as_format_1(run: Path, ledger: str) -> None:
    """A manifest as the program wrote it that named the ledger from its working directory."""
    manifest = json.loads((run / "manifest.json").read_text())
    write_json(run / "manifest.json", {**manifest, "format": 1, "ledger": ledger})


@pytest.fixture
def judged(working_folder: Path) -> Path:
    write_jsonl(working_folder / "pairs.jsonl", [item("q", "short", "much longer")])
    rlaif(working_folder, "judge", "longest", "pairs.jsonl", "--out", "runs/one")
    return working_folder / "runs" / "one"


def test_a_run_folder_knows_its_ledger_from_wherever_it_is_read(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = judged.parent.parent / ".rlaif" / "ledger.sqlite"
    monkeypatch.chdir("/")
    found = RunFolder(judged)
    assert found.manifest["format"] == MANIFEST.version == 2
    assert found.manifest["ledger"] == "../../.rlaif/ledger.sqlite"
    assert (found.ledger() or Path()).resolve() == ledger.resolve()
    ledger.unlink()
    assert found.ledger() is None


def test_a_run_folder_of_format_1_is_read_and_goes_on(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = judged.parent.parent
    as_format_1(judged, ".rlaif/ledger.sqlite")
    before = {path: path.read_bytes() for path in judged.glob("*/part-*.parquet")}
    monkeypatch.chdir("/")  # the old name is of another working directory
    assert (RunFolder(judged).ledger() or Path()).resolve() == (folder / ".rlaif" / "ledger.sqlite").resolve()
    assert export(judged, "trl", folder / "rows.jsonl")[0].endswith("1 rows of 1 preferences")
    assert json.loads((judged / "manifest.json").read_text())["format"] == 1  # reading changes nothing
    rlaif(folder, "judge", "longest", "pairs.jsonl", "--out", "runs/one")
    assert json.loads((judged / "manifest.json").read_text())["format"] == 2
    assert {path: path.read_bytes() for path in judged.glob("*/part-*.parquet")} == before


# --- exported rows ----------------------------------------------------------------------------------------------------


def label_again(folder: Path, rows: list[dict[str, Any]], name: str) -> RunFolder:
    write_jsonl(folder / f"{name}.jsonl", rows)
    rlaif(folder, "label", f"{name}.jsonl", "--out", name)
    return RunFolder(folder / name)


def outcomes(run: RunFolder) -> list[tuple[float, float]]:
    return [(row.p, row.weight) for row in run.read("preferences")]


def test_exported_rows_are_read_back_with_the_same_labels_ids_and_hash(working_folder: Path) -> None:
    run = RunFolder(labelled(working_folder))
    rows, _ = exported(run.path, "jsonl")
    again = label_again(working_folder, rows, "again")
    assert again.content("preferences") == run.content("preferences")
    assert [row.id for row in again.read("comparisons")] == [row.id for row in run.read("comparisons")]
    assert [row.category for row in again.read("prompts")] == [row.category for row in run.read("prompts")]
    assert [row.labellers for row in again.read("provenance")][6] == ("human:Ann Example", "human:Bob Example")
    assert again.manifest["stages"]["preferences"]["complete"]


def test_a_judge_s_labels_that_are_read_back_stay_the_judge_s(judged: Path) -> None:
    folder = judged.parent.parent
    rows, _ = exported(judged, "jsonl")
    again = label_again(folder, rows, "again")
    (provenance,) = again.read("provenance")
    (original,) = RunFolder(judged).read("provenance")
    assert provenance.labellers == original.labellers
    assert provenance.labellers[0].startswith("judge:longest@")
    assert outcomes(again) == outcomes(RunFolder(judged))


def test_exported_rows_can_be_judged_anew(working_folder: Path) -> None:
    run = RunFolder(labelled(working_folder))
    exported(run.path, "jsonl")
    rlaif(working_folder, "judge", "longest", "jsonl-rows.jsonl", "--out", "judged")
    judged = RunFolder(working_folder / "judged")
    assert [row.id for row in judged.read("comparisons")] == [row.id for row in run.read("comparisons")]
    assert judged.rows("judgements") == 2 * run.rows("comparisons")


def test_a_dataset_folder_is_read_back_as_pairs(working_folder: Path) -> None:
    run = RunFolder(labelled(working_folder))
    export(run.path, "jsonl", "data")
    rlaif(working_folder, "label", "hub:./data", "--out", "again")
    again = RunFolder(working_folder / "again")
    assert again.content("preferences") == run.content("preferences")
    assert [row.labellers for row in again.read("provenance")][6] == ("human:1", "human:2")


def version_1(run: RunFolder) -> list[dict[str, Any]]:
    """Rows as the program wrote them that knew no version: the preference alone."""
    return [row.model_dump(mode="json") for row in run.read("preferences")]


def test_rows_of_before_there_were_versions_are_read_with_their_labels(working_folder: Path) -> None:
    run = RunFolder(labelled(working_folder))
    again = label_again(working_folder, version_1(run), "again")
    assert outcomes(again) == outcomes(run)
    found = [(row.outcome, row.reason) for row in again.read("provenance")]
    assert found[5] == ("no label", "no label")  # weight 0 and p one half: never a tie
    assert found[7] == ("tie", None)


def test_a_rule_that_moved_p_is_kept_and_what_it_set_aside_has_no_label(working_folder: Path) -> None:
    write_jsonl(working_folder / "pairs.jsonl", [item("q", "a", "b", p=0.9), item("r", "a", "b", p=0.55)])
    settings = ["--set", "preferences.clamp=[0.4, 0.6]", "--set", "preferences.minimum_margin=0.15"]
    rlaif(working_folder, "label", "pairs.jsonl", "--out", "run", *settings)
    rows, _ = exported(working_folder / "run", "jsonl")
    assert [(row["outcome"], row["p"], row["votes"][0]["p"]) for row in rows] == [
        ("labelled", 0.6, 0.9),
        ("filtered", 0.55, 0.55),
    ]
    assert outcomes(label_again(working_folder, rows, "again")) == [(0.6, 1.0), (0.5, 0.0)]


def test_a_row_of_a_newer_program_is_one_line(working_folder: Path) -> None:
    rows, _ = exported(labelled(working_folder), "jsonl")
    newer = [rows[0], {**rows[1], "schema_version": ROW.version + 1}]
    with pytest.raises(
        AssertionError, match=r"new\.jsonl line 2: exported row format 3, this version reads 1 to 2\. A newer"
    ):
        label_again(working_folder, newer, "new")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p": 3}, "p is 3 and weight 1.0"),
        ({"weight": None}, "'>=' not supported between instances of 'NoneType' and 'int'"),
        ({"prompt": []}, "1 validation error for Prompt"),
        ({"votes": [{"p": 1}]}, "no 'labeller'"),
        ({"chosen": "text"}, "string indices must be integers, not 'str'"),
    ],
)
def test_a_row_that_was_edited(change: dict[str, Any], reason: str) -> None:
    turn = [{"role": "user", "content": "q"}]
    row = {
        "schema_version": 2,
        "prompt": turn,
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
        "p": 1.0,
        "weight": 1.0,
        "comparison_id": "c-1",
        "chosen_source": {},
        "rejected_source": {},
        "votes": [],
    }
    assert read_pair("here", row).votes[0].p == 1.0
    with pytest.raises(DataError) as refused:
        read_pair("here", {**row, **change})
    assert str(refused.value) == f"here: not a row that rlaif export wrote ({reason}). Export it again."
