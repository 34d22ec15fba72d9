"""Low-rank adapters and gradient checkpointing in every kind of training: what moves, what is written, that it resumes, and that
the start model is the network with its adapters off."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlaif.errors import ConfigError, ModelError
from rlaif.models.local import LocalModel, LocalOptions, load_network
from rlaif.policy.dpo import DPO
from rlaif.policy.ppo import PPO
from rlaif.policy.rloo import RLOO
from rlaif.policy.sft import SFT
from rlaif.training.networks import ADAPTER
from rlaif.training.trainer import Interrupted, Watch
from tests.conftest import slow
from tests.test_online import Given, context_of, method_of, rolled, train, trainer_of
from tests.test_training import accuracy, planted, train_reward
from tests.test_training import context_of as offline_context
from tests.tiny import build

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
SOME = [(slow if kind in (SFT, RLOO) else pytest.param)(run, kind, id=kind.name) for run, kind in TRAININGS]


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


def stopped_as_straight(run: Run, kind: Any, base: LocalModel, folder: Path, lora: dict[str, Any]) -> bool:
    straight = run(kind, base, folder / "straight", lora=lora)
    watch = Watch()
    watch.report = lambda step, steps, figures: watch.stop.set() if step == 3 else None
    with pytest.raises(Interrupted):
        run(kind, base, folder / "stopped", watch, lora=lora)
    assert run(kind, base, folder / "stopped", lora=lora).history == straight.history
    one, other = (weights(folder / name / "policy") for name in ("straight", "stopped"))
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("run", "kind"), SOME)
def test_a_stopped_run_that_goes_on_equals_a_straight_one(
    run: Run, kind: Any, base: LocalModel, tmp_path: Path
) -> None:
    assert stopped_as_straight(run, kind, base, tmp_path, LORA)


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


def test_adapters_of_a_start_with_an_adapter_are_not_written_alone(base: LocalModel, tmp_path: Path) -> None:
    """Loaded onto the bare base they would make another model: the whole is written, and it alone."""
    offline(DPO, base, tmp_path / "first", lora=LORA)
    options = LocalOptions(device="cpu", adapter=str(tmp_path / "first" / "policy" / ADAPTER))
    start = LocalModel(str(base.folder), options, where="models.policy", notice=lambda line: None)
    offline(DPO, start, tmp_path / "second", lora=LORA)
    assert not (tmp_path / "second" / "policy" / ADAPTER).exists()
    first, second = (weights(tmp_path / name / "policy") for name in ("first", "second"))
    assert {n for n in first if not torch.equal(first[n], second[n])} == {n for n in first if "proj" in n}


@pytest.mark.parametrize(("run", "kind"), SOME)
def test_a_start_with_an_adapter_learns_as_the_folder_in_which_it_is_merged(
    run: Run, kind: Any, base: LocalModel, tmp_path: Path
) -> None:
    offline(DPO, base, tmp_path / "first", lora=LORA)
    options = LocalOptions(device="cpu", adapter=str(tmp_path / "first" / "policy" / ADAPTER))
    adapted = LocalModel(str(base.folder), options, where="models.policy", notice=lambda line: None)
    merged = LocalModel(
        str(tmp_path / "first" / "policy"), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None
    )
    for name, start in (("adapted", adapted), ("merged", merged)):
        run(kind, start, tmp_path / name, learning_rate=1e-4, epochs=1)
    begun = weights(tmp_path / "first" / "policy")
    one, other = (weights(tmp_path / name / "policy") for name in ("adapted", "merged"))
    assert max(float((one[n] - begun[n]).abs().max()) for n in begun) > 1e-4
    assert all(torch.allclose(one[n], other[n], atol=1e-5) for n in begun)


def test_an_adapter_beside_a_model_is_not_laid_over_it_unasked(base: LocalModel, tmp_path: Path) -> None:
    offline(DPO, base, tmp_path / "first", lora=LORA)
    shutil.copytree(base.folder, tmp_path / "both")
    for file in (tmp_path / "first" / "policy" / ADAPTER).iterdir():
        shutil.copy(file, tmp_path / "both")
    with pytest.raises(ModelError, match=r"holds an adapter beside the model .*named as options\.adapter"):
        LocalModel(str(tmp_path / "both"), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
    with pytest.raises(ModelError, match=r"It is an adapter: name its base, and it as options\.adapter"):
        LocalModel(
            str(tmp_path / "first" / "policy" / ADAPTER),
            LocalOptions(),
            where="models.policy",
            notice=lambda line: None,
        )


def test_the_value_network_of_ppo_is_checkpointed_too(base: LocalModel, tmp_path: Path) -> None:
    trainer = trainer_of(PPO, base, tmp_path, gradient_checkpointing=True)
    seen: list[bool] = []
    for network in trainer.networks().values():
        layer = network.base_model.layers[0]
        layer.register_forward_pre_hook(
            lambda module, args: seen.append(module.training and module.gradient_checkpointing)
        )
    part = rolled(trainer, Given())
    assert not any(seen)  # what is only looked at needs no gradient
    trainer.prepare([part])
    trainer.learn(part)
    assert sum(seen) == 2  # policy and value network


def test_layers_that_are_not_there_are_one_line(base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets \['nowhere'\]"):
        offline(DPO, base, tmp_path, lora={"targets": ["nowhere"]})


# --- a base in four bits ----------------------------------------------------------------------------------------------

FOUR = {**LORA, "bits": 4}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A model of layers wide enough to be kept in blocks of 64."""
    return opened(build(tmp_path_factory.mktemp("models") / "wide", "llama", hidden=128, context=256))


@pytest.fixture(scope="module")
def rounded(wide: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """The same with the weights that its four bits stand for."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    folder = tmp_path_factory.mktemp("models") / "rounded"
    shutil.copytree(wide.folder, folder)
    kept = load_network(wide.folder, wide.options, "float32", "test", four_bits=True)
    tensors = load_file(folder / "model.safetensors")
    found = 0
    for name, module in kept.named_modules():
        if isinstance(module, Linear4bit):
            tensors[f"{name}.weight"] = dequantize_4bit(module.weight.data, module.weight.quant_state).float().clone()
            found += 1
    assert found == 14
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return opened(folder)


def opened(folder: Path) -> LocalModel:
    return LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)


@pytest.mark.parametrize(("run", "kind"), SOME)
def test_a_base_in_four_bits_is_learnt_on_as_its_rounded_weights_are(
    run: Run, kind: Any, wide: LocalModel, rounded: LocalModel, tmp_path: Path
) -> None:
    settings = {"epochs": 1, "learning_rate": 1e-3}
    four = run(kind, wide, tmp_path / "four", lora=FOUR, **settings)
    plain = run(kind, rounded, tmp_path / "plain", lora=LORA, **settings)
    assert four.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], abs=1e-3)
    mine, theirs = (
        load_file(tmp_path / name / "policy" / ADAPTER / "adapter_model.safetensors") for name in ("four", "plain")
    )
    begun = [name for name in mine if "lora_B" in name]  # which begin at 0: what they are is what was learnt
    assert len(begun) == 14
    alike = [float(torch.cosine_similarity(mine[name].flatten(), theirs[name].flatten(), dim=0)) for name in begun]
    assert min(alike) > 0.95
    before, after = weights(wide.folder), weights(tmp_path / "four" / "policy")
    assert before.keys() == after.keys()
    assert {value.dtype for value in after.values()} == {torch.float32}
    for name, value in before.items():  # the base itself, not what four bits made of it, with what the adapters add
        added = adapter_of(mine, name)
        assert torch.allclose(after[name], value + added, atol=1e-5)
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "four" / "policy").config.to_dict().get("quantization_config")
        is None
    )


def adapter_of(adapter: dict[str, torch.Tensor], name: str) -> torch.Tensor | float:
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{stem}.lora_A.weight" not in adapter:
        return 0.0
    return (adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]) * LORA["alpha"] / LORA["rank"]


def test_a_stopped_training_in_four_bits_goes_on(wide: LocalModel, tmp_path: Path) -> None:
    assert stopped_as_straight(offline, DPO, wide, tmp_path, FOUR)


def test_a_reward_model_learns_on_four_bits(wide: LocalModel, tmp_path: Path) -> None:
    report = train_reward(wide, planted(64), tmp_path, epochs=5, learning_rate=5e-3, lora=FOUR)
    assert accuracy(report) >= 0.9


def test_four_bits_without_their_library_are_one_line(
    wide: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match="needs bitsandbytes: pip install"):
        offline(DPO, wide, tmp_path, lora=FOUR)


def test_what_a_base_in_four_bits_makes_of_the_rows_is_kept_apart(wide: LocalModel, tmp_path: Path) -> None:
    """A run's methods share what their reference says; one in four bits is another reference."""

    def begun(folder: str, **options: Any) -> float:
        context = replace(offline_context(wide, planted(24), tmp_path / folder), kept=tmp_path / "kept")
        return float(DPO(DPO.Options(batch_prompts=8, **options), "test").train(context).history[0]["loss"])

    assert begun("whole", lora=LORA) == pytest.approx(math.log(2), abs=1e-5)
    assert begun("four", lora=FOUR) == pytest.approx(math.log(2), abs=1e-5)
