"""What a run folder does when a file it was made with has changed, or is gone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rlaif.catalogue import Catalogue, Entry
from rlaif.checking import kept_files
from rlaif.errors import ConfigError
from rlaif.store import RunFolder
from tests.runs import rlaif
from tests.tiny import write_jsonl

FIRST = "protocol: scripted\nmodel_role: null\noptions: {function: first}\n"
LONGEST = "protocol: scripted\nmodel_role: null\noptions: {function: longest}\n"
COMMAND = ("judge", "mine", "pairs.jsonl", "--out", "run")


@pytest.fixture
def judged(working_folder: Path) -> Path:
    """A finished run under a judge of the user's own, which is then edited."""
    rows = [{"prompt": f"Question {i}", "response_a": "a long reply", "response_b": "short"} for i in range(3)]
    write_jsonl(working_folder / "pairs.jsonl", rows)
    (working_folder / "judges").mkdir()
    (working_folder / "judges" / "mine.yaml").write_text(FIRST)
    rlaif(working_folder, *COMMAND)
    assert probabilities(working_folder) == [0.5] * 3  # both orders cancel
    (working_folder / "judges" / "mine.yaml").write_text(LONGEST)
    (working_folder / "log").unlink()
    return working_folder


def probabilities(folder: Path, run: str = "run") -> list[float]:
    return [row.p for row in RunFolder(folder / run).read("preferences")]


def test_an_edited_judge_is_used_and_what_it_replaces_is_kept(judged: Path) -> None:
    text = rlaif(judged, *COMMAND)
    assert 'judge "mine" has changed since this run folder was made.' in text
    assert text.count("judgements: what it was made from has changed since: it is made again") == 1
    assert "preferences: what it was made from" not in text  # said once, of the first
    assert probabilities(judged) == [1.0] * 3
    kept = {path.name.partition("-")[0] for path in (judged / "run" / "superseded").iterdir()}
    assert {"judgements", "preferences", "provenance"} <= kept
    (judged / "log").unlink()
    assert "mine" not in rlaif(judged, *COMMAND).replace("run/", "")  # nothing more to say


def test_an_edited_input_is_announced_too(judged: Path) -> None:
    (judged / "judges" / "mine.yaml").write_text(FIRST)
    (judged / "pairs.jsonl").write_text(json.dumps({"prompt": "New?", "response_a": "a", "response_b": "b"}) + "\n")
    text = rlaif(judged, *COMMAND)
    assert "pairs: what it was made from has changed since: it is made again, and so is what depends on it." in text
    assert len(probabilities(judged)) == 1


def test_another_folder_takes_the_file_as_it_is_now(judged: Path) -> None:
    text = rlaif(judged, *COMMAND[:-1], "other")
    assert "note:" not in text
    assert [row.p for row in RunFolder(judged / "other").read("preferences")] == [1.0] * 3


def test_a_file_that_is_gone_is_no_loss(judged: Path) -> None:
    (judged / "judges" / "mine.yaml").unlink()
    text = rlaif(judged, *COMMAND)
    assert 'judge "mine": the file is gone. The run goes on with its copy, run/config/judges/mine.yaml.' in text
    assert probabilities(judged) == [0.5] * 3


def test_a_path_is_taken_as_it_is_and_the_copy_it_replaces_is_kept(judged: Path) -> None:
    text = rlaif(judged, "judge", "judges/mine.yaml", *COMMAND[2:])
    assert 'judge "mine" has changed since this run folder was made' in text
    assert probabilities(judged) == [1.0] * 3
    (old,) = (judged / "run" / "superseded").glob("config-judges-mine.yaml-*")
    assert old.read_text() == FIRST
    assert (judged / "run" / "config" / "judges" / "mine.yaml").read_text() == LONGEST


def test_two_judges_of_one_name_are_both_kept(judged: Path) -> None:
    (judged / "judges" / "mine.yaml").rename(judged / "judges" / "first.yaml")  # which likes the longest reply
    command = ("judge", "first", "pairs.jsonl", "--out", "two", "--set", "labels.options.judges=[first, builtin:first]")
    rlaif(judged, *command)
    assert probabilities(judged, "two") == [0.75] * 3  # 1 for the longer reply, and 0.5
    files = [
        file for file in json.loads((judged / "two" / "manifest.json").read_text())["files"] if file["kind"] == "judge"
    ]
    assert [(file["name"], file["builtin"]) for file in files] == [("first", False), ("first", True)]
    kept = judged / "two" / "config" / "judges"
    assert (kept / "first.yaml").read_text() == LONGEST
    shipped = kept / f"first@{files[1]['sha256'][:8]}.yaml"
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() == files[1]["sha256"]
    assert [(entry.name, entry.builtin) for entry in kept_files(judged / "two")] == [("first", False), ("first", True)]


def test_the_manifest_keeps_the_hash_of_every_file_of_rows(working_folder: Path) -> None:
    """The pairs, people's answers beside them, a judge's table, and a scripted model's."""
    pair = {"prompt": "Name a colour.", "response_a": "Blue.", "response_b": "No."}
    write_jsonl(working_folder / "pairs.jsonl", [pair])
    for name in ("people", "table"):
        write_jsonl(working_folder / f"{name}.jsonl", [pair | {"label": "a", "annotator": name}])
    write_jsonl(working_folder / "replies.jsonl", [{"contains": "", "reply": "[[A]]"}])
    (working_folder / "judges").mkdir()
    (working_folder / "judges" / "looked-up.yaml").write_text(
        "protocol: scripted\nmodel_role: null\noptions: {table: table.jsonl}\n"
    )
    common = ("pairs.jsonl", "--set", "models.judge={provider: scripted, model: replies.jsonl}", "--out")
    rlaif(working_folder, "judge", "looked-up", *common, "judged")
    rlaif(working_folder, "label", *common, "labelled", "--set", "labels.options.file=people.jsonl")
    assert inputs(working_folder / "judged") == hashes(working_folder, "pairs", "replies", "table")
    assert inputs(working_folder / "labelled") == hashes(working_folder, "pairs", "people", "replies")


def inputs(run: Path) -> dict[str, str]:
    return {item["source"]: item["sha256"] for item in json.loads((run / "manifest.json").read_text())["inputs"]}


def hashes(folder: Path, *names: str) -> dict[str, str]:
    files = [folder / f"{name}.jsonl" for name in names]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# --- by name ----------------------------------------------------------------------------------------------------------


def copy_of(name: str, *, builtin: bool) -> list[Entry]:
    path = Path("run/config/templates") / f"{name}.txt"
    return [Entry("template", name, path, builtin, b"as it was")]


def test_a_shipped_template_that_is_gone_is_taken_from_the_run() -> None:
    catalogue = Catalogue(kept=copy_of("once-shipped", builtin=True))
    assert catalogue.find("template", "once-shipped", where="x", from_builtin=True).text == "as it was"
    assert len(catalogue.notices) == 1


@pytest.mark.parametrize("name", ["mine", "builtin:mine"])
def test_a_users_copy_never_stands_in_for_a_shipped_file(name: str) -> None:
    catalogue = Catalogue(kept=copy_of("mine", builtin=False))
    with pytest.raises(ConfigError, match="not found"):
        catalogue.find("template", name, where="x", from_builtin=not name.startswith("builtin:"))
