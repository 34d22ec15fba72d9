"""A dataset folder goes to the Hub in one commit, and what the Hub says against it is one line without the token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlaif.errors import RlaifError, UserError
from rlaif.export import export
from rlaif.export.push import push
from tests import hub as stand_in
from tests.export.labelled import labelled
from tests.hub import READ_ONLY, TOKEN, Hub, Repository, serving

NAME = "ann/verdicts"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    export(labelled(folder), "jsonl", folder / "data", licence="cc-by-4.0")
    return folder / "data"


@pytest.fixture
def dataset(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "data"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, named as HF_ENDPOINT, with a token that may write."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage speaks a protocol of its own
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_commit_holds_exactly_the_folder_s_files(dataset: Path, hub: Hub) -> None:
    said = push(dataset, NAME)
    repository = hub.repositories[NAME]
    (commit,) = repository.commits
    assert commit["written"] == sorted(held(dataset))
    assert {path: data for path, data in repository.files.items() if path != ".gitattributes"} == held(dataset)
    assert said == [f"{hub.url}/datasets/{NAME}: {len(held(dataset))} files, commit {repository.sha[:12]}"]
    assert not repository.private
    assert hub.tokens == {TOKEN}
    assert ("PUT", f"/storage/{next(iter(hub.stored))}") in hub.seen  # the data went the way of large files


def test_pushing_again_changes_nothing(dataset: Path, hub: Hub) -> None:
    push(dataset, NAME)
    before = dict(hub.repositories[NAME].files)
    assert push(dataset, NAME) == [f"{hub.url}/datasets/{NAME}: nothing has changed since the last push."]
    assert len(hub.repositories[NAME].commits) == 1
    assert hub.repositories[NAME].files == before


def test_a_new_export_takes_the_place_of_the_old_one(dataset: Path, hub: Hub) -> None:
    (dataset / "data" / "train-00001.parquet").write_bytes(b"rows of a longer run")
    push(dataset, NAME)
    hub.repositories[NAME].files["notes.md"] = b"written on the Hub"
    (dataset / "data" / "train-00001.parquet").unlink()
    (dataset / "card.json").write_text("{}\n")
    said = push(dataset, NAME)
    assert said[1] == "removed there: data/train-00001.parquet"
    assert hub.repositories[NAME].commits[1]["written"] == ["card.json"]
    assert set(hub.repositories[NAME].files) == {*held(dataset), ".gitattributes", "notes.md"}


def test_files_of_an_editor_stay_here(dataset: Path, hub: Hub) -> None:
    (dataset / ".README.md.swp").write_text("half a thought")
    push(dataset, NAME)
    assert ".README.md.swp" not in hub.repositories[NAME].files


def test_private_makes_a_private_dataset(dataset: Path, hub: Hub) -> None:
    push(dataset, NAME, private=True)
    assert hub.repositories[NAME].private


def test_a_dry_run_says_what_would_go_and_asks_nobody(dataset: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    first, *files = push(dataset, NAME, private=True, dry_run=True)
    size = sum(map(len, held(dataset).values())) / 1e6
    assert first == f"{dataset} to {NAME}, for its owner: {len(files)} files, {size:.2f} MB"
    assert files == sorted(held(dataset))
    assert not hub.seen
    edit(dataset / "README.md", "license: cc-by-4.0", "license: unknown")
    with pytest.raises(UserError, match="no licence"):
        push(dataset, NAME, dry_run=True)


Prepare = Callable[[Hub, Path, pytest.MonkeyPatch], None]
REFUSED: dict[str, tuple[str, Prepare, type[RlaifError], str]] = {
    "a wrong token": (
        NAME,
        lambda hub, folder, environment: environment.setenv("HF_TOKEN", "hf_mistyped"),
        UserError,
        "push: URL does not accept the token in HF_TOKEN (401). Make a new one with write access.",
    ),
    "a token that only reads": (
        NAME,
        lambda hub, folder, environment: environment.setenv("HF_TOKEN", READ_ONLY),
        UserError,
        "push: the token in HF_TOKEN may not write to ann/verdicts (403): it needs write access to the datasets of ann.",
    ),
    "another's name": (
        "bob/verdicts",
        lambda hub, folder, environment: None,
        UserError,
        "push: the token in HF_TOKEN may not write to bob/verdicts (403): it needs write access to the datasets of bob.",
    ),
    "a dataset of one's own that something else made": (
        NAME,
        lambda hub, folder, environment: hub.repositories.update(
            {NAME: Repository(False, {"README.md": b"years", "data/train-00000.parquet": b"of work"})}
        ),
        UserError,
        "push: ann/verdicts exists already and was not pushed by rlaif. Choose another name, or empty it.",
    ),
    "no token": (
        NAME,
        lambda hub, folder, environment: environment.delenv("HF_TOKEN"),
        UserError,
        "push: HF_TOKEN is not set. Set it to a token of the Hub with write access.",
    ),
    "a name without its owner": (
        "verdicts",
        lambda hub, folder, environment: None,
        UserError,
        "push: verdicts: a dataset of the Hub is named OWNER/NAME.",
    ),
    "no licence": (
        NAME,
        lambda hub, folder, environment: edit(folder / "README.md", "license: cc-by-4.0", "license: unknown"),
        UserError,
        "data/README.md: no licence. Say under which others may use it: export with --license, for instance cc-by-4.0, or "
        "write it in the header (license: …).",
    ),
    "a licence that the Hub does not know": (
        NAME,
        lambda hub, folder, environment: edit(folder / "README.md", "license: cc-by-4.0", "license: my-own"),
        UserError,
        'push: Invalid metadata in README.md. - "license" must be one of [cc-by-4.0, mit]',
    ),
    "a folder of something else": (
        NAME,
        lambda hub, folder, environment: (folder / "card.json").unlink(),
        UserError,
        "data: not a dataset folder. `rlaif export RUN --to FOLDER/ --license …` writes one.",
    ),
    "no one there": (
        NAME,
        lambda hub, folder, environment: environment.setenv("HF_ENDPOINT", "http://127.0.0.1:9"),
        RlaifError,
        "push: http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused). Nothing was changed; run it again.",
    ),
    "large files that do not get through": (
        NAME,
        lambda hub, folder, environment: setattr(hub, "large_files_fail", True),
        RlaifError,
        "push: the upload broke off (",
    ),
}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_in_the_way_is_one_line(
    name: str, dataset: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, prepare, kind, line = REFUSED[name]
    prepare(hub, dataset, monkeypatch)
    before = {each: dict(found.files) for each, found in hub.repositories.items()}
    monkeypatch.chdir(dataset.parent)
    with pytest.raises(RlaifError) as refused:
        push(Path("data"), repository)
    said = str(refused.value)
    assert type(refused.value) is kind
    assert said.startswith(line.replace("URL", hub.url))
    assert "\n" not in said
    assert os.environ.get("HF_TOKEN", TOKEN) not in said
    assert {each: hub.repositories[each].files for each in before} == before
    assert not any(found.commits for found in hub.repositories.values())


def test_a_dataset_that_everyone_reads_is_not_taken_for_a_private_one(dataset: Path, hub: Hub) -> None:
    push(dataset, NAME)
    with pytest.raises(UserError, match="is there, and everyone may read it"):
        push(dataset, NAME, private=True)


def test_a_commit_in_between_is_not_overwritten(dataset: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(dataset, NAME)
    (dataset / "card.json").write_text("{}\n")
    preupload = Hub._preupload

    async def meanwhile(self: Hub, request: stand_in.web.Request) -> stand_in.web.Response:
        answer = await preupload(self, request)
        self.repositories[NAME].commits.append({"summary": "someone else's"})
        return answer

    with monkeypatch.context() as changed:
        changed.setattr(Hub, "_preupload", meanwhile)
        with serving(Hub(hub.repositories, hub.stored)) as busy:
            changed.setenv("HF_ENDPOINT", busy.url)
            with pytest.raises(UserError, match=r"made or changed by someone else meanwhile.*\(412\)"):
                push(dataset, NAME)
    assert hub.repositories[NAME].files["card.json"] != b"{}\n"


def test_the_command_uploads_and_prints_no_token(dataset: Path, hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "rlaif.cli", "push", str(dataset), NAME, "--private"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{hub.url}/datasets/{NAME}: ")
    assert TOKEN not in done.stdout + done.stderr
    assert hub.repositories[NAME].private
    assert set(hub.repositories[NAME].files) == {*held(dataset), ".gitattributes"}
    without = {name: value for name, value in environment.items() if name != "HF_TOKEN"}
    refused = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "rlaif: push: HF_TOKEN is not set. Set it to a token of the Hub with write access.\n"
