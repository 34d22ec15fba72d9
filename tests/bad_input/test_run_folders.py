"""Folders that are no run, and places that cannot be written: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command_line import Rlaif, pairs


def test_a_folder_that_holds_something_else_is_left_alone(rlaif: Rlaif) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    said = rlaif("judge", "longest", pairs(), "--out", "mine")
    assert (said.code, said.line) == (2, "rlaif: mine: not empty and not a run folder. Choose another --out.")
    assert os.listdir("mine") == ["thesis.txt"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    {
        "of a later version": (
            '{"format": 99, "stages": {}}',
            "out: run folder format 99, this version reads 1 to 2. A newer rlaif wrote it: upgrade rlaif to read it.",
        ),
        "of another tool": ('{"name": "web app"}', "out/manifest.json: not a run folder's manifest. Choose another --out."),
        "a list": ("[]", "out/manifest.json: not a run folder's manifest. Choose another --out."),
        "cut off": (
            '{"format": 1, "sta',
            "out/manifest.json: cannot be read: Unterminated string starting at: line 1 column 15 (char 14). "
            "Choose another --out.",
        ),
    }.values(),
)  # fmt: skip
def test_a_manifest_that_is_not_ours_is_one_line(manifest: str, message: str, rlaif: Rlaif) -> None:
    Path("out").mkdir()
    Path("out/manifest.json").write_text(manifest)
    said = rlaif("judge", "longest", pairs(), "--out", "out")
    assert (said.code, said.line) == (2, f"rlaif: {message}")
    assert Path("out/manifest.json").read_text() == manifest


@pytest.mark.parametrize(
    ("out", "reason"),
    [("pairs.jsonl", "File exists"), ("pairs.jsonl/below", "Not a directory"), ("/proc/rlaif", "No such file or directory")],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_one_line(out: str, reason: str, rlaif: Rlaif) -> None:
    said = rlaif("judge", "longest", pairs(), "--out", out)
    assert (said.code, said.line) == (
        2,
        f"rlaif: {out}: cannot be written: {reason}. Choose a writable place, then run again: finished work is kept.",
    )


@pytest.mark.parametrize("environment", [True, False])
def test_a_ledger_that_cannot_be_written_is_one_line(
    environment: bool, rlaif: Rlaif, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not environment:
        monkeypatch.delenv("RLAIF_FENCE_SECRET")
    said = rlaif("judge", "longest", pairs(), "--out", "out", "--set", "ledger=pairs.jsonl/ledger.sqlite")
    assert said.code == 2
    expected = "pairs.jsonl/ledger.sqlite: the ledger cannot be opened: " if environment else "pairs.jsonl/secret: "
    assert said.line.startswith(f"rlaif: {expected}")


NOT_RUNS = {
    "train": (["train", "reward", "--out", "nowhere"], "nowhere: not a run folder (it has no config/pipelines/effective.json)."),
    "evaluate": (["evaluate", "--out", "nowhere"], "nowhere: not a run folder (it has no config/pipelines/effective.json)."),
    "judge": (["judge", "longest", "--out", "nowhere"], "nowhere: not a run folder (it has no config/pipelines/effective.json)."),
    "export": (["export", "nowhere"], "nowhere: not a run folder (it has no manifest.json)."),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_RUNS)
def test_a_folder_that_is_no_run_is_one_line(name: str, rlaif: Rlaif) -> None:
    arguments, message = NOT_RUNS[name]
    said = rlaif(*arguments)
    assert (said.code, said.line) == (2, f"rlaif: {message}")
    assert not Path("nowhere").exists()


EXPORTS = {
    "a form that is none": (["--form", "tlr"], 'export: unknown form "tlr". Did you mean "trl"?'),
    "tasks as Parquet": (
        ["--form", "tasks", "--to", "t.parquet"],
        "t.parquet: --form tasks is written to a file that ends in .jsonl.",
    ),
    "an ending no one knows": (
        ["--to", "t.csv"],
        "t.csv: --form trl is written to a file that ends in .jsonl or .parquet, or to a folder.",
    ),
    "tasks as a dataset": (
        ["--form", "tasks", "--to", "t/"],
        "t: --form tasks is for people to fill in: name a file that ends in .jsonl.",
    ),
    "a dataset over something else": (
        ["--to", "judged"],
        "judged: exists already. Remove it, or name another folder with --to.",
    ),
    "a licence in other words": (
        ["--to", "t/", "--license", "Apache 2.0"],
        '--license Apache 2.0: licences are named as on the Hub, in lower case: apache-2.0, cc-by-4.0, mit; "other" for '
        "one of your own.",
    ),
    "a licence without a card": (
        ["--to", "t.jsonl", "--license", "mit"],
        "t.jsonl: --license stands on the card of a dataset: name a folder with --to.",
    ),
    "a dataset where none can be written": (
        ["--to", "pairs.jsonl/t/"],
        "pairs.jsonl/t: cannot be written: Not a directory. Choose a writable place, then run again: finished work is kept.",
    ),
    "a place that cannot be written": (
        ["--to", "pairs.jsonl/t.jsonl"],
        "pairs.jsonl/t.jsonl: cannot be written: File exists. Choose a writable place, then run again: "
        "finished work is kept.",
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_that_cannot_be_is_one_line(name: str, rlaif: Rlaif) -> None:
    arguments, message = EXPORTS[name]
    assert rlaif("judge", "longest", pairs(), "--out", "out").code == 0
    Path("judged").mkdir()
    Path("judged/thesis.txt").write_text("years")
    said = rlaif("export", "out", *arguments)
    assert (said.code, said.line) == (2, f"rlaif: {message}")
