"""Studies: arms that differ in who labels, walked from what they share, and held against each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.catalogue import Catalogue
from rlaif.errors import ConfigError, UserError
from rlaif.store import RECIPE as RECIPE_FILE
from rlaif.study.recipe import load_study
from rlaif.study.walk import need_alike
from tests.runs import rlaif
from tests.test_swap import RECIPE as SWAPPED
from tests.test_swap import pairs
from tests.tiny import write_jsonl

RECIPE: dict[str, Any] = {
    **SWAPPED,
    "labels": "human",
    "held_out": 0.3,
    "evaluation": {"prompts": 8, "sampling": {"max_output_tokens": 8}},
}
STUDY: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "seeds": [0, 1],
    "arms": {
        "human": "human",
        "again": {"labels": {"source": "human"}},
        "longest": {"labels": {"source": "judges", "options": {"judges": ["longest"]}}},
    },
}


def wrote(folder: Path, **changes: Any) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    write_jsonl(folder / "pairs.jsonl", pairs())
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another seed": ({"arms": {"a": "human", "b": {"labels": "human", "set": ["seed=3"]}}}, "a and b differ in seed:"),
    "another hyper-parameter": (
        {"arms": {"a": "human", "b": {"labels": "human", "set": ["reward_model.options.learning_rate=1.0e-4"]}}},
        "a and b differ in reward_model.options.learning_rate: arms may differ in labels and preferences.calibration alone.",
    ),
    "other pairs": (
        {"arms": {"a": "human", "b": {"labels": "human", "set": ["pairs.limit=5"]}}},
        "a and b differ in pairs.limit:",
    ),
    "one arm": ({"arms": {"a": "human"}}, '"arms"'),
    "an arm that is not there": ({"against": "humans"}, 'there is no arm "humans". Did you mean "human"?'),
    "a seed twice": ({"seeds": [1, 1]}, "seeds: one is named twice"),
    "a name that is no folder's": (
        {"arms": {"a": "human", "../b": "human"}},
        'arms.../b: a name of letters, digits, "-"',
    ),
    "an unknown key": ({"arm": {}}, 'unknown key "arm". Did you mean "arms"?'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_study_in_which_more_than_labels_differs_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, line = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        load_study(wrote(tmp_path, **changes), (), Catalogue())
    assert line in str(error.value)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "policy").symlink_to(policy_folder)
    wrote(folder)
    said = rlaif(folder, "compare", "study.yaml", "--out", "out", seconds=400)
    assert "again: labels as human 100.0%" in said
    return folder


def test_arms_with_the_same_labels_end_the_same(walked: Path) -> None:
    figures = json.loads((walked / "out" / "compare.json").read_text())
    assert figures["arms.again.labels.kappa"]["value"] == 1
    assert figures["arms.longest.labels.agreement"]["value"] < 1
    assert figures["arms.human.labels.missing"]["value"] == pytest.approx(1 / 60)  # the pair that nobody labelled
    assert figures["arms.longest.labels.missing"]["value"] == 0
    for name in ("dpo.kl", "dpo.length", "dpo.ended"):
        assert figures[f"differences.again.{name}"]["value"] == 0
        assert figures[f"differences.again.{name}"]["n"] == 16  # eight prompts, two seeds
        assert figures[f"arms.again.{name}"] == figures[f"arms.human.{name}"]
    table = {name: figure["value"] for name, figure in figures.items() if ".reward.accuracy." in name}
    assert len(table) == 9
    assert table["arms.again.reward.accuracy.longest"] == table["arms.human.reward.accuracy.longest"]


def test_what_does_not_depend_on_labels_is_made_once(walked: Path) -> None:
    shared = walked / "out" / "shared" / "seed0" / "comparisons"
    own = walked / "out" / "longest" / "seed0" / "comparisons"
    assert [path.stat().st_ino for path in sorted(shared.iterdir())] == [
        path.stat().st_ino for path in sorted(own.iterdir())
    ]
    ids = {
        json.loads((walked / "out" / arm / f"seed{seed}" / "manifest.json").read_text())["id"]
        for arm in ("shared", *STUDY["arms"])
        for seed in (0, 1)
    }
    assert len(ids) == 8


def test_a_finished_study_is_told_again_without_being_walked(walked: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in (walked / "out").rglob("model.safetensors")}
    assert len(weights) == 12
    before = (walked / "out" / "compare.json").read_bytes()
    rlaif(walked, "compare", "study.yaml", "--out", "out", seconds=200)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert (walked / "out" / "compare.json").read_bytes() == before


def _recipe(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / RECIPE_FILE
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return changed


def _other_comparisons(folder: Path) -> None:
    for path in (folder / "comparisons").iterdir():
        path.rename(folder / path.name)


CHANGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a seed": (_recipe(lambda recipe: recipe.update(seed=5)), "differ in seed,"),
    "a hyper-parameter": (
        _recipe(lambda recipe: recipe["policies"][0]["options"].update(learning_rate=0.5)),
        "differ in policies.0.options.learning_rate,",
    ),
    "the comparisons": (_other_comparisons, "differ in comparisons,"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_an_arm_that_was_changed_afterwards_is_refused(
    name: str, walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    shutil.copytree(walked, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    study = load_study(Path("study.yaml"), (), Catalogue())
    need_alike(study, Path("out"))
    change, line = CHANGED[name]
    change(Path("out/longest/seed1"))
    with pytest.raises(UserError) as error:
        need_alike(study, Path("out"))
    assert line in str(error.value)
    assert str(error.value).startswith("out/longest/seed1 and out/human/seed1 differ in ")
