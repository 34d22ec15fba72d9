"""Low-rank adapters and gradient checkpointing in every kind of training: what moves, what is written, that it resumes, and that
the start model is the network with its adapters off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlaif.errors import ConfigError
from rlaif.models.local import LocalModel
from rlaif.policy.dpo import DPO
from rlaif.policy.ppo import PPO
from rlaif.policy.rloo import RLOO
from rlaif.policy.sft import SFT
from rlaif.training.networks import ADAPTER
from rlaif.training.trainer import Interrupted, Watch
from tests.test_online import Given, context_of, method_of, train
from tests.test_training import accuracy, planted, train_reward
from tests.test_training import context_of as offline_context

LORA = {"rank": 4, "alpha": 8}


def offline(kind: Any, base: LocalModel, folder: Path, watch: Watch | None = None, **options: Any) -> Any:
    settings = {"learning_rate": 5e-3, "epochs": 2, "batch_prompts": 8, "checkpoints": 8, **options}
    return kind(kind.Options(**settings), "test").train(offline_context(base, planted(24), folder, watch))


def online(kind: Any, base: LocalModel, folder: Path, watch: Watch | None = None, **options: Any) -> Any:
    context = replace(context_of(base, folder, Given()), watch=watch or Watch())
    return train(method_of(kind, **{"learning_rate": 5e-3, "epochs": 2, "checkpoints": 6, **options}), context)


Run = Callable[..., Any]
TRAININGS = [(offline, DPO), (offline, SFT), (online, RLOO), (online, PPO)]
NAMES = [kind.name for _, kind in TRAININGS]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("run", "kind"), TRAININGS, ids=NAMES)
def test_adapters_learn_and_are_written_beside_the_whole_model(
    run: Run, kind: Any, base: LocalModel, tmp_path: Path
) -> None:
    from peft import PeftModel

    report = run(kind, base, tmp_path, lora=LORA)
    before, after = weights(base.folder), weights(tmp_path / "policy")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("proj" in name for name in moved)  # linear layers alone, no embedding, no norm, no head
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base.folder), tmp_path / "policy" / ADAPTER
    )
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(whole(ids).logits, adapted(ids).logits, atol=1e-4)
    if run is online:
        assert report.history[0]["kl"] == pytest.approx(0.0, abs=1e-5)  # the reference is the start
        assert report.history[-1]["kl"] != pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("run", "kind"), TRAININGS, ids=NAMES)
def test_a_stopped_run_that_goes_on_equals_a_straight_one(
    run: Run, kind: Any, base: LocalModel, tmp_path: Path
) -> None:
    straight = run(kind, base, tmp_path / "straight", lora=LORA)
    watch = Watch()
    watch.report = lambda step, steps, figures: watch.stop.set() if step == 3 else None
    with pytest.raises(Interrupted):
        run(kind, base, tmp_path / "stopped", watch, lora=LORA)
    assert run(kind, base, tmp_path / "stopped", lora=LORA).history == straight.history
    one, other = (weights(tmp_path / name / "policy") for name in ("straight", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("run", "kind"), TRAININGS, ids=NAMES)
def test_checkpointed_gradients_are_the_same(run: Run, kind: Any, base: LocalModel, tmp_path: Path) -> None:
    settings = {"epochs": 1, "learning_rate": 1e-3}
    plain = run(kind, base, tmp_path / "plain", **settings)
    again = run(kind, base, tmp_path / "again", gradient_checkpointing=True, **settings)
    assert again.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], abs=2e-4)
    one, other = (weights(tmp_path / name / "policy") for name in ("plain", "again"))
    assert all(torch.allclose(value, other[name], atol=2e-5) for name, value in one.items())


def test_a_reward_model_learns_by_adapters_and_its_head(base: LocalModel, tmp_path: Path) -> None:
    report = train_reward(base, planted(64), tmp_path, epochs=5, learning_rate=5e-3, lora=LORA)
    assert accuracy(report) >= 0.9


def test_layers_that_are_not_there_are_one_line(base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets \['nowhere'\]"):
        offline(DPO, base, tmp_path, lora={"targets": ["nowhere"]})
