"""Recipes one after another in the same folder: what one leaves is neither reported by the next nor lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.component import Options as BaseOptions
from rlaif.policy import PolicyContext, PolicyReport
from tests.runs import rlaif
from tests.test_swap import pairs
from tests.tiny import write_jsonl

SAMPLING = {"max_output_tokens": 6}
FULL: dict[str, Any] = {
    "models": {"policy": "policy"},
    "pairs": "pairs.jsonl",
    "labels": "human",
    "held_out": 0.3,
    "reward_model": {"options": {"batch_prompts": 8, "normalise_on": 16}, "sampling": SAMPLING},
    "policies": [{"name": "dpo", "options": {"batch_prompts": 8}}],
    "evaluation": {"sampling": SAMPLING},
}


def walk(folder: Path, **recipe: Any) -> str:
    """Run the recipe to its end; the report."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rlaif(folder, "run", "recipe.yaml", "--out", "run")
    return (folder / "run" / "report.html").read_text()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path) -> tuple[Path, str]:
    """A folder with a run of the full recipe, and its report."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "policy").symlink_to(policy_folder)
    write_jsonl(folder / "pairs.jsonl", pairs(60))
    return folder, walk(folder, **FULL)


def test_sections_of_stages_that_the_recipe_no_longer_has_are_not_in_the_report(full: tuple[Path, str]) -> None:
    folder, before = full
    headings = {"<h2>The reward model</h2>", "<h2>Training of dpo</h2>", "<h2>Before and after</h2>"}
    assert {heading for heading in headings if heading in before} == headings
    assert "<h2>Conversations</h2>" in before

    after = walk(folder, **{key: FULL[key] for key in ("models", "pairs", "labels", "held_out")})
    assert not {heading for heading in {*headings, "<h2>Conversations</h2>"} if heading in after}
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert not [name for name in metrics if name.startswith(("reward_model", "policies", "differences"))]

    after = walk(folder, **{key: value for key, value in FULL.items() if key != "reward_model"})
    assert "<h2>The reward model</h2>" not in after
    assert "<h2>Conversations</h2>" in after
    assert walk(folder, **FULL) == before  # nothing was lost meanwhile


class Tuned:
    """A method of a user's own that changes nothing and says nothing of its pairs."""

    class Options(BaseOptions):
        pass

    needs_reward = False
    writes_weights = True

    def __init__(self, options: Options, where: str) -> None:
        self.options = options

    def train(self, context: PolicyContext) -> PolicyReport:
        shutil.copytree(context.start.folder, context.out)
        return PolicyReport([])

    async def respond(self, prompts: Any, model: Any, sample: Any, reward: Any) -> Any:
        return [many[0] if many else None for many in await sample(model, prompts, 1)]

    def kl_bound(self) -> None:
        return None


def test_a_method_of_a_users_own_has_an_account_a_sentence_and_a_column(full: tuple[Path, str]) -> None:
    folder, _ = full
    report = walk(folder, **(FULL | {"policies": ["tests.test_shorter_recipe:Tuned"]}))
    name = "tests.test_shorter_recipe.Tuned"
    accounts = json.loads((folder / "run" / "accounts.json").read_text())
    assert accounts[f"policies/{name}"]["outcomes"] == {"not said by the method": 60}
    assert f"<p>{name}: mean reward " in report
    assert f'<th class="n">{name}</th>' in report
    assert json.loads((folder / "run" / "metrics.json").read_text())[f"differences.{name}.reward"]["value"] == 0


def test_pairs_without_a_label_are_no_part_of_what_was_trained_on(full: tuple[Path, str]) -> None:
    folder, _ = full
    walk(folder, **FULL)
    accounts = json.loads((folder / "run" / "accounts.json").read_text())
    for stage in ("reward_model", "policies/dpo"):
        found = accounts[stage]["outcomes"]
        assert found["no label"] == 1  # the first row of the file
        assert found["trained on"] + found["held out"] == 59


def test_what_a_training_told_moves_aside_with_its_stage(full: tuple[Path, str]) -> None:
    folder, _ = full
    training = folder / "run" / "training" / "reward_model.json"
    told = training.read_text()
    slower = {**FULL["reward_model"], "options": {**FULL["reward_model"]["options"], "learning_rate": 1e-6}}
    walk(folder, **(FULL | {"reward_model": slower}))
    assert training.read_text() != told
    (kept,) = (folder / "run" / "superseded").glob("training-reward_model.json-*")
    assert kept.read_text() == told
