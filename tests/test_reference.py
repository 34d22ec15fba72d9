"""Rewards have mean 0 and deviation 1 on the policy's own samples, wherever the training responses come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlaif.models.local import LocalOptions
from rlaif.records import Response
from rlaif.reward import RewardModel
from rlaif.store import RunFolder
from rlaif.training.batching import held_out
from tests.runs import kill_when, ledger_rows, rlaif, stage_files, start
from tests.test_swap import pairs
from tests.tiny import write_jsonl

RECIPE: dict[str, Any] = {
    "models": {"policy": "policy"},
    "pairs": "pairs.jsonl",
    "labels": "human",
    "held_out": 0.25,
    "shard_rows": 10,
    "reward_model": {
        "options": {"batch_prompts": 8, "learning_rate": 1e-3, "normalise_on": 50},
        "sampling": {"max_output_tokens": 6},
    },
}


def prepare(folder: Path, policy: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "policy").symlink_to(policy)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes))
    write_jsonl(folder / "pairs.jsonl", pairs(60))  # 40 prompts
    return folder


def rewards_of(run: Path, responses: list[Response]) -> np.ndarray:
    model = RewardModel(run / "reward_model", LocalOptions(device="cpu"), where="test", notice=lambda line: None)
    prompts = {prompt.id: prompt for prompt in RunFolder(run).read("prompts")}
    items = [(prompts[r.prompt_id].messages, [(r.messages, r.finish_reason != "length")]) for r in responses]
    return np.array([value for (value,) in model(items)])


def account(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "accounts.json").read_text())[stage]
    return found


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, policy_folder: Path) -> Path:
    """A run on people's pairs."""
    folder = prepare(tmp_path_factory.mktemp("people") / "work", policy_folder)
    rlaif(folder, "run", "recipe.yaml", "--out", "run")
    return folder / "run"


def test_peoples_pairs_are_normalised_on_samples_of_the_policy(people: Path) -> None:
    sampled = list(RunFolder(people).read("reference/responses"))
    assert rewards_of(people, sampled).mean() == pytest.approx(0, abs=1e-4)
    assert rewards_of(people, sampled).std() == pytest.approx(1, abs=1e-4)
    trained_on = list(RunFolder(people).read("responses"))
    assert abs(rewards_of(people, trained_on).mean()) > 0.01  # they are no part of it
    assert all((response.generator or "").startswith("policy@") for response in sampled)


def test_reference_samples_are_of_training_prompts_and_in_the_accounts(people: Path) -> None:
    sampled = list(RunFolder(people).read("reference/responses"))
    names = {response.prompt_id for response in sampled}
    assert not [name for name in names if held_out(name, 0.25, 0)]
    training = [p.id for p in RunFolder(people).read("prompts") if not held_out(p.id, 0.25, 0)]
    # 50 wanted of between 25 and 49 prompts: two each of 25 of them
    assert 25 <= len(training) < 50
    assert (len(names), len(sampled), {r.sample_index for r in sampled}) == (25, 50, {0, 1})
    assert account(people, "reference") == {"unit": "samples", "in": 50, "outcomes": {"sampled": 50}, "reasons": {}}
    metrics = json.loads((people / "metrics.json").read_text())
    assert metrics["reward_model.normalised_on"]["value"] == 50


def test_few_prompts_are_sampled_at_most_eight_times_each_and_the_account_adds_up(
    tmp_path: Path, policy_folder: Path
) -> None:
    reward_model = RECIPE["reward_model"] | {"options": RECIPE["reward_model"]["options"] | {"normalise_on": 1024}}
    folder = prepare(tmp_path / "work", policy_folder, reward_model=reward_model)
    rlaif(folder, "run", "recipe.yaml", "--out", "run", "--limit", "8")
    training = [p for p in RunFolder(folder / "run").read("prompts") if not held_out(p.id, 0.25, 0)]
    sampled = account(folder / "run", "reference")
    assert sampled == {
        "unit": "samples",
        "in": 8 * len(training),
        "outcomes": {"sampled": 8 * len(training)},
        "reasons": {},
    }


def test_killed_while_the_reference_is_sampled_and_resumed_equals_uninterrupted(
    people: Path, tmp_path: Path, policy_folder: Path
) -> None:
    folder = prepare(tmp_path / "work", policy_folder)
    process = start(folder, "run", "recipe.yaml", "--out", "run")
    assert kill_when(process, lambda: any(folder.glob("run/reference/responses/part-00001.parquet")))
    kept = ledger_rows(folder)
    assert 10 <= kept < 50
    text = rlaif(folder, "run", "recipe.yaml", "--out", "run")
    assert f"{50 - kept} asked" in text
    assert stage_files(folder / "run") == stage_files(people)
    assert RunFolder(folder / "run").content("reference/responses") == RunFolder(people).content("reference/responses")


def test_a_run_that_sampled_its_policy_takes_those_samples(tmp_path: Path, policy_folder: Path) -> None:
    folder = prepare(tmp_path / "work", policy_folder)
    recipe = {key: value for key, value in RECIPE.items() if key != "pairs"} | {
        "models": {"policy": "policy", "other": {"provider": "scripted", "model": "tests.test_reference:other"}},
        "prompts": "set:first-questions",
        "responses": {"models": ["policy", "other"], "samples": 2, "sampling": {"max_output_tokens": 6}},
        "labels": {"source": "judges", "options": {"judges": ["longest"]}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rlaif(folder, "run", "recipe.yaml", "--out", "run")
    run = folder / "run"
    assert not (run / "reference").exists()
    training = [r for r in RunFolder(run).read("responses") if not held_out(r.prompt_id, 0.25, 0)]
    own = [response for response in training if response.generator.startswith("policy@")]
    assert len(own) <= 50  # fewer than wanted: all of them
    assert rewards_of(run, own).mean() == pytest.approx(0, abs=1e-4)
    assert rewards_of(run, own).std() == pytest.approx(1, abs=1e-4)


def other(request: Any) -> str:
    return f"{request.messages[-1].content} again and again {request.sample_index}"


def test_without_a_policy_rewards_are_normalised_on_training_responses_and_that_is_said(
    tmp_path: Path, policy_folder: Path
) -> None:
    reward_model = {"base": "start", "options": RECIPE["reward_model"]["options"] | {"normalise_on": 2000}}
    folder = prepare(tmp_path / "work", policy_folder, models={"start": "policy"}, reward_model=reward_model)
    text = rlaif(folder, "run", "recipe.yaml", "--out", "run")
    assert "no models.policy to sample: rewards get mean 0 and deviation 1 on training responses" in text
    run = folder / "run"
    assert "reference" not in json.loads((run / "accounts.json").read_text())
    training = [r for r in RunFolder(run).read("responses") if not held_out(r.prompt_id, 0.25, 0)]
    assert rewards_of(run, training).mean() == pytest.approx(0, abs=1e-4)


def test_a_policy_that_cannot_be_sampled_stops_the_run_in_one_line_before_training(
    tmp_path: Path, policy_folder: Path
) -> None:
    sampling = {"max_output_tokens": 5000}  # more than the model's context of 1024
    folder = prepare(tmp_path / "work", policy_folder, reward_model=RECIPE["reward_model"] | {"sampling": sampling})
    process = start(folder, "run", "recipe.yaml", "--out", "run")
    process.join(120)
    assert process.exitcode == 1
    text = (folder / "log").read_text()
    assert "rlaif: reference: the policy gave not one sample to normalise rewards on: " in text
    assert "exceed the model's context of 1024 tokens. Set reward_model.sampling to what it can answer." in text
    assert not (folder / "run" / "reward_model").exists()
