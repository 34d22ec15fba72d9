"""The dataset folder: datasets reads it, its card tells a stranger how it was made, and nothing in it is secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

from rlaif.errors import UserError
from rlaif.export import export
from rlaif.export.dataset import licence_of
from rlaif.statistics import Figure
from rlaif.store import RunFolder
from tests.conftest import ROOT
from tests.export.labelled import PEOPLE, item, labelled
from tests.runs import rlaif
from tests.tiny import write_jsonl

SECRET = "sk-thisIsNobodysKey123"


def header(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, judge_folder: Path) -> Path:
    """A sampled run with a judge that names a file of this machine, labelled under a constitution."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "judges").mkdir()
    loose = f"protocol: pairwise-logprobs\ndescription: One | of mine.\noptions: {{minimum_mass: 0.0}}\nrubric: {folder}/mine.md\n"
    (folder / "mine.md").write_text("Prefer the better reply.\n")
    (folder / "judges" / "loose.yaml").write_text(loose)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"Say {word}."} for word in ("one", "two", "three", "four")])
    recipe = {
        "models": {"policy": str(policy_folder), "judge": str(judge_folder)},
        "prompts": str(folder / "prompts.jsonl"),
        "responses": {"samples": 2, "sampling": {"max_output_tokens": 8}},
        "constitution": "harmless-helpful",
        "labels": {"source": "judges", "options": {"judges": ["loose"]}},
        "ledger": str(folder / "kept" / "ledger.sqlite"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rlaif(folder, "run", "recipe.yaml", "--out", "run")
    return folder / "run"


@pytest.fixture(scope="module")
def dataset(judged: Path) -> Path:
    export(judged, "jsonl", judged.parent / "the data", licence="cc-by-4.0")
    return judged.parent / "the data"


def test_datasets_loads_the_folder_with_every_row(dataset: Path, judged: Path, tmp_path: Path) -> None:
    rows = load_dataset(str(dataset), split="train", cache_dir=str(tmp_path))
    assert len(rows) == RunFolder(judged).rows("preferences") > 0
    assert rows[0]["prompt"][0]["role"] == "user"
    assert {vote["labeller"].partition("@")[0] for row in rows for vote in row["votes"]} == {"judge:loose"}


@pytest.mark.parametrize("form", ["trl", "kto", "ranked"])
def test_every_form_makes_a_folder_that_datasets_loads(form: str, tmp_path: Path) -> None:
    run = labelled(tmp_path)
    said = export(run, form, f"{tmp_path}/{form}.v1/")
    rows = load_dataset(str(tmp_path / f"{form}.v1"), split="train", cache_dir=str(tmp_path / "cache"))
    assert f": {len(rows)} rows of" in said[0]
    assert said[-1] == "The card says that the licence is unknown: --license names one, and `rlaif push` needs it."


def test_the_header_is_what_the_hub_reads(dataset: Path) -> None:
    found = header(dataset)
    assert found["license"] == "cc-by-4.0"
    assert found["size_categories"] == ["n<1K"]
    assert found["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "rlaif" in found["tags"]
    assert licence_of((dataset / "README.md").read_text()) == "cc-by-4.0"


def test_the_card_tells_a_stranger_how_the_labels_were_made(dataset: Path, judged: Path) -> None:
    text = (dataset / "README.md").read_text()
    run = RunFolder(judged)
    constitution = yaml.safe_load((ROOT / "prompts/constitutions/harmless-helpful.yaml").read_text())
    for principle in constitution["principles"]:
        assert f"| `{principle['id']}@" in text
        assert f"| {principle['weight']} | {principle['text']} |" in text
    for fact in (
        "The prompts were read from `prompts.jsonl`, 4 rows",
        "2 answers per prompt from each model below, sampled with temperature 1.0, max output tokens 8.",
        run.manifest["models"]["policy"]["sha256"],
        run.manifest["models"]["judge"]["sha256"],
        "every pair was shown in both orders",
        "One \\| of mine.",
        *(file["sha256"] for file in run.manifest["files"] if file["kind"] in ("judge", "constitution")),
        run.manifest["stages"]["preferences"]["content"],
        f"Run begun {run.manifest['created']}",
        "No price is known for them",
        "The judges were asked on 20",
        "cc-by-4.0, as stated by whoever exported this",
    ):
        assert fact in text, fact


def test_the_card_s_numbers_are_flat_and_add_up(dataset: Path, judged: Path) -> None:
    flat = {name: Figure(**figure) for name, figure in json.loads((dataset / "card.json").read_text()).items()}
    run = RunFolder(judged)
    rows = run.rows("preferences")
    assert (flat["rows"].value, flat["rows"].n) == (rows, rows)
    of_preferences = [figure for name, figure in flat.items() if name.startswith("accounts.preferences.")]
    assert sum(figure.value or 0 for figure in of_preferences) == of_preferences[0].n == rows
    first = flat["judgements.first_rate"]
    assert first.low is not None
    assert first.n == run.rows("judgements")
    assert flat["judging.replies"].value == flat["judging.replies"].n == 2 * rows
    assert (flat["judging.prompt_tokens"].value or 0) > 100 * rows
    assert flat["answers.output_tokens"].value == sum(r.output_tokens for r in run.read("responses"))
    assert "judging.cost_usd" not in flat


def test_nothing_names_a_place_of_this_machine_or_a_secret(dataset: Path, judged: Path) -> None:
    files = [path for path in dataset.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert {path.relative_to(dataset).as_posix() for path in files} >= {
        "README.md",
        "card.json",
        "recipe.json",
        "config/judges/loose.yaml",
        "config/constitutions/harmless-helpful.yaml",
    }
    text = "\n".join(path.read_text() for path in files)
    manifest = RunFolder(judged).manifest
    assert str(judged.parent) in (judged / "config/judges/loose.yaml").read_text()
    for secret in (str(judged.parent), str(judged.parent.parent), str(Path.home()), manifest["fence_secret"]):
        assert secret not in text


def test_a_judge_s_file_without_such_a_place_is_copied_byte_for_byte(dataset: Path) -> None:
    shipped = ROOT / "prompts/constitutions/harmless-helpful.yaml"
    assert (dataset / "config/constitutions/harmless-helpful.yaml").read_bytes() == shipped.read_bytes()


def test_without_its_ledger_the_card_says_that_the_cost_is_not_known(judged: Path, tmp_path: Path) -> None:
    ledger = RunFolder(judged).ledger()
    assert ledger is not None
    hidden = ledger.rename(ledger.with_suffix(".away"))
    try:
        export(judged, "jsonl", tmp_path / "data")
    finally:
        hidden.rename(ledger)
    assert "the ledger of model replies was not found" in (tmp_path / "data" / "README.md").read_text()
    assert not any(name.startswith("judging.") for name in json.loads((tmp_path / "data" / "card.json").read_text()))


def test_people_go_by_numbers_in_a_dataset_and_by_name_in_a_file(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    export(run, "jsonl", tmp_path / "rows.jsonl")
    assert PEOPLE[0] in (tmp_path / "rows.jsonl").read_text()
    export(run, "jsonl", tmp_path / "data")
    rows = load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {vote["labeller"] for row in rows for vote in row["votes"]} == {"human:1", "human:2"}
    assert {judgement["labeller"] for row in rows for judgement in row["judgements"]} == {"human:1", "human:2"}
    whole = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*.*"))
    assert not any(name.encode() in whole for name in PEOPLE)
    assert "2 people labelled; their names are replaced by numbers." in (tmp_path / "data" / "README.md").read_text()


def test_votes_without_a_name_are_not_called_a_person_s(tmp_path: Path) -> None:
    run = labelled(tmp_path, [item("q", "a", "b", label="a"), item("r", "a", "b", label="b")])
    export(run, "trl", tmp_path / "data")
    text = (tmp_path / "data" / "README.md").read_text()
    assert "2 votes came without a name: of how many people is not known." in text
    assert "labelled." not in text
    assert "rlhf" in header(tmp_path / "data")["tags"]


def test_what_was_left_out_stands_on_the_card(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    export(run, "kto", tmp_path / "data")
    assert (
        "\n* 6 × only ties, near-ties or no label\n* 1 × preferred as often as not\n"
        in (tmp_path / "data/README.md").read_text()
    )
    flat = json.loads((tmp_path / "data" / "card.json").read_text())
    assert flat["left_out.preferred_as_often_as_not"] == {"value": 1.0, "low": None, "high": None, "n": 11}


def test_a_reason_loses_the_key_and_the_path_in_it(tmp_path: Path) -> None:
    run = labelled(tmp_path, [item("q", "a", "b", label="a"), item("q", "c", "d", label=None)])
    accounts = json.loads((run / "accounts.json").read_text())
    accounts["preferences"]["reasons"] = {f"{SECRET} is no key (/home/ann/keys/mine.txt)": 1}
    (run / "accounts.json").write_text(json.dumps(accounts))
    export(run, "trl", tmp_path / "data")
    assert "1 × (left out) is no key (mine.txt)" in (tmp_path / "data" / "README.md").read_text()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    run = labelled(tmp_path)
    export(run, "trl", tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}
    with pytest.raises(UserError, match=r"data: exists already\. Remove it, or name another folder with --to\."):
        export(run, "kto", tmp_path / "data")
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")} == before


def test_nothing_is_left_behind_where_no_row_is_fit(tmp_path: Path) -> None:
    run = labelled(tmp_path, [item("q", "a", "b", label="tie")])
    with pytest.raises(UserError, match="no row is fit for --form trl"):
        export(run, "trl", tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".rlaif", "log", "people", "people.jsonl"]


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\n---\n\n# x", "mit"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\ntags: [a]\n---\n", None),
        ("# no header", None),
        ("---\nlicense: [\n---\n", None),
    ],
)
def test_the_licence_is_read_from_the_header(readme: str, licence: str | None) -> None:
    assert licence_of(readme) == licence
