"""A run folder goes on with the files it began with, and says so where they have changed since."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.catalogue import Catalogue, Entry, builtin_root
from rlaif.store import RunFolder
from tests.runs import rlaif
from tests.tiny import write_jsonl

FIRST = "protocol: scripted\nmodel_role: null\noptions: {function: first}\n"
LONGEST = "protocol: scripted\nmodel_role: null\noptions: {function: longest}\n"
COMMAND = ("judge", "mine", "--in", "pairs.jsonl", "--out", "run")


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


def probabilities(folder: Path) -> list[float]:
    return [row.p for row in RunFolder(folder / "run").read("preferences")]


def test_an_edited_judge_is_said_aloud_and_the_run_goes_on_with_its_copy(judged: Path) -> None:
    text = rlaif(judged, *COMMAND)
    assert (
        'judge "mine": judges/mine.yaml is not as it was when this run folder was made. The run goes on with its copy, '
        "run/config/judges/mine.yaml; remove the copy to use the new file." in text
    )
    assert probabilities(judged) == [0.5] * 3
    assert not (judged / "run" / "superseded").exists()


def test_without_the_copy_the_new_file_is_used_and_what_it_replaces_is_kept(judged: Path) -> None:
    (judged / "run" / "config" / "judges" / "mine.yaml").unlink()
    text = rlaif(judged, *COMMAND)
    assert 'judge "mine" has changed since this run folder was made: what depends on it is made again' in text
    assert probabilities(judged) == [1.0] * 3
    kept = {path.name.partition("-")[0] for path in (judged / "run" / "superseded").iterdir()}
    assert {"judgements", "preferences", "provenance"} <= kept
    (judged / "log").unlink()
    assert "mine" not in rlaif(judged, *COMMAND).replace("run/", "")  # nothing more to say


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


# --- by name ----------------------------------------------------------------------------------------------------------


def copy_of(name: str, text: str, *, builtin: bool) -> dict[tuple[str, str], Entry]:
    path = Path("run/config/templates") / f"{name}.txt"
    return {("template", name): Entry("template", name, path, builtin, text.encode())}


def test_a_shipped_judge_goes_on_with_the_shipped_template_the_run_was_made_with() -> None:
    catalogue = Catalogue(kept=copy_of("compare-two", "as it was", builtin=True))  # type: ignore[arg-type]
    assert catalogue.find("template", "compare-two", where="x", from_builtin=True).text == "as it was"
    assert len(catalogue.notices) == 1


@pytest.mark.parametrize("name", ["compare-two", "builtin:compare-two"])
def test_a_users_copy_never_changes_a_shipped_judge(name: str) -> None:
    catalogue = Catalogue(kept=copy_of("compare-two", "my own", builtin=False))  # type: ignore[arg-type]
    pinned = name.startswith("builtin:")
    entry = catalogue.find("template", name, where="x", from_builtin=not pinned)
    assert entry.data == (builtin_root() / "prompts" / "templates" / "compare-two.txt").read_bytes()
    assert catalogue.notices == []


def test_an_unchanged_file_is_nothing_to_speak_of() -> None:
    text = (builtin_root() / "prompts" / "templates" / "compare-two.txt").read_text()
    catalogue = Catalogue(kept=copy_of("compare-two", text, builtin=True))  # type: ignore[arg-type]
    entry = catalogue.find("template", "compare-two", where="x")
    assert entry.path.is_relative_to(builtin_root())
    assert catalogue.notices == []
