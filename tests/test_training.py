"""Losses by hand, groups and plans, trainers that learn what was planted, and runs that were stopped."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from rlaif.errors import RlaifError, StorageError
from rlaif.models.local import LocalModel, LocalOptions, load_network
from rlaif.policy import PolicyContext
from rlaif.policy.dpo import DPO, _Trainer
from rlaif.policy.kto import KTO
from rlaif.records import Message, Preference
from rlaif.reward import (
    Answers,
    RewardModel,
    RewardOptions,
    RewardReport,
    _RewardTrainer,
    normalisation,
    raw_rewards,
    reference_groups,
    score_groups,
    train_reward_model,
)
from rlaif.training.batching import Group, group_preferences, held_out, plan_steps
from rlaif.training.checkpoints import COMPLETE, last_checkpoint, saving
from rlaif.training.losses import soft_preference_loss
from rlaif.training.networks import initialise_head
from rlaif.training.passes import pair_index, rows_of, sequence_logprobs
from rlaif.training.trainer import Interrupted, Watch, labels_of
from rlaif.training_stages import risen
from tests import make, tiny
from tests.conftest import slow

WORDS = tiny.WORDS[:24]


def user(text: str) -> tuple[Message, ...]:
    return (make.user(text),)


def said(text: str) -> tuple[Message, ...]:
    return (make.assistant(text),)


def preference(
    prompt: str, chosen: str, rejected: str, p: float = 1.0, weight: float = 1.0, prompt_id: str = ""
) -> Preference:
    return Preference(
        prompt=user(prompt),
        chosen=said(chosen),
        rejected=said(rejected),
        p=p,
        weight=weight,
        prompt_id=prompt_id or prompt,
        comparison_id=f"{prompt}/{'/'.join(sorted((chosen, rejected)))}",
    )


def planted(count: int, seed: int = 0) -> list[Preference]:
    """Three responses a prompt, one of which speaks of water: it is better. Lengths uneven, order arbitrary."""
    draw = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    rows: list[Preference] = []
    for i in range(count):
        prompt, good = f"{words(8)} {i}", f"{words(6)} water {words(3)}"
        rows += [preference(prompt, good, f"{words(12)} {k}") for k in range(2)]
    return rows


def always(row: Preference, response: Sequence[Message]) -> bool:
    return True


# --- the trainer ------------------------------------------------------------------------------------------------------


def options(**settings: Any) -> RewardOptions:
    return RewardOptions(
        **{"learning_rate": 2e-3, "batch_prompts": 8, "warmup": 0.0, "schedule": "constant", **settings}
    )


class _Gradients(TrainerCallback):
    """What every parameter's gradient is when the optimiser is about to step."""

    def __init__(self) -> None:
        self.steps: list[list[torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        self.steps.append([p.grad.clone() for p in model.parameters() if p.grad is not None])


def gradients(base: LocalModel, groups: Sequence[Group], folder: Path, **settings: Any) -> list[list[torch.Tensor]]:
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    initialise_head(network, 0)
    watch = _Gradients()
    trainer = _RewardTrainer(network, groups, options(max_gradient_norm=1e9, **settings), folder, 0, Watch())
    trainer.add_callback(watch)
    trainer.run()
    return watch.steps


def assert_close(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor], relative: float) -> None:
    whole = float(torch.stack([g.norm() for g in other]).norm())
    assert whole > 0
    for a, b in zip(one, other, strict=True):
        assert float((a - b).norm()) <= relative * whole


def test_the_gradient_does_not_depend_on_how_a_step_is_split(base: LocalModel, tmp_path: Path) -> None:
    """Uneven weights and lengths: dividing each micro-batch by its own weight would show."""
    rows = [
        row.model_copy(update={"weight": 0.1 + (i % 7), "p": 0.5 + (i % 5) / 10}) for i, row in enumerate(planted(8))
    ]
    groups = group_preferences(rows, base.tokens, 200).groups
    two = 2 * max(group.tokens for group in groups)
    whole, some, each = (gradients(base, groups, tmp_path / str(n), micro_batch_tokens=n) for n in (4096, two, 1))
    assert len(whole) == len(some) == len(each) == 1
    assert_close(some[0], whole[0], 1e-6)
    assert_close(each[0], whole[0], 1e-6)


def written_out(base: LocalModel, groups: Sequence[Group]) -> list[torch.Tensor]:
    """The gradient of Σ w·l / Σ w at the start, by plain autograd on separate rows."""
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    initialise_head(network, 0)
    rewards = raw_rewards(network, rows_of(groups), 0, share=False)
    a, b = pair_index(groups, "cpu")
    p, weight = labels_of(groups, "cpu")
    (soft_preference_loss(rewards[a] - rewards[b], p, weight) / weight.sum()).backward()
    return [q.grad for q in network.parameters() if q.grad is not None]


def test_gradient_is_that_of_the_loss_written_out(base: LocalModel, tmp_path: Path) -> None:
    """The trainer adds no scaling of its own."""
    rows = [row.model_copy(update={"weight": 0.1 + (i % 3)}) for i, row in enumerate(planted(4))]
    groups = group_preferences(rows, base.tokens, 200).groups
    (found,) = gradients(base, groups, tmp_path, micro_batch_tokens=1, batch_prompts=4)
    assert_close(found, written_out(base, groups), 1e-5)


def test_last_step_with_fewer_micro_batches_is_divided_by_its_own_weight(base: LocalModel, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"weight": 0.5 + (i % 4)}) for i, row in enumerate(planted(5))]
    groups = group_preferences(rows, base.tokens, 200).groups
    steps = gradients(base, groups, tmp_path, micro_batch_tokens=1, batch_prompts=4, learning_rate=1e-12)
    assert len(steps) == 2
    planned = plan_steps([group.tokens for group in groups], 4, 1, 0)
    assert sorted(map(len, planned)) == [1, 4]
    for step, found in zip(planned, steps, strict=True):
        assert_close(found, written_out(base, [groups[i] for i in step]), 1e-5)


def test_rows_without_weight_change_nothing(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(4)
    silent = [preference("no label here", "one two", "three", weight=0.0)]
    groups = group_preferences(rows, base.tokens, 200).groups
    with_silent = group_preferences([*rows, *silent], base.tokens, 200).groups
    turned = group_preferences(
        [*rows, silent[0].model_copy(update={"chosen": silent[0].rejected, "rejected": silent[0].chosen})],
        base.tokens,
        200,
    ).groups
    plain, more, other = (gradients(base, g, tmp_path / str(i))[0] for i, g in enumerate((groups, with_silent, turned)))
    assert_close(more, plain, 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(more, other, strict=True))


def test_step_of_rows_without_any_weight_moves_nothing(base: LocalModel, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"weight": 0.0}) for row in planted(4)]
    (found,) = gradients(base, group_preferences(rows, base.tokens, 200).groups, tmp_path)
    assert not any(g.any() for g in found)


def test_step_of_rows_without_any_weight_moves_nothing_after_others(base: LocalModel, tmp_path: Path) -> None:
    """Neither by the momentum of steps before nor by decay."""
    rows = [row.model_copy(update={"weight": float(i < 4)}) for i, row in enumerate(planted(8))]
    groups = group_preferences(rows, base.tokens, 200).groups
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    network.config.pad_token_id = base.tokens.pad_id
    settings = options(batch_prompts=4, learning_rate=1e-2, weight_decay=0.1)
    trainer = _RewardTrainer(network, groups, settings, tmp_path, 0, Watch())
    trainer.pad_id = base.tokens.pad_id
    trainer.plan.__init__(groups, [[0, 1, 2, 3], [4, 5, 6, 7]], 1)  # type: ignore[misc]
    seen: list[torch.Tensor] = []
    trainer.watch = Watch(report=lambda *_: seen.append(network.score.weight.detach().clone()))
    before = network.score.weight.detach().clone()
    trainer.run()
    assert not torch.equal(before, seen[0])
    assert torch.equal(seen[0], seen[1])


def train_reward(
    base: LocalModel,
    rows: Sequence[Preference],
    folder: Path,
    watch: Watch | None = None,
    reference: Sequence[Answers] | None = None,
    **settings: Any,
) -> RewardReport:
    return train_reward_model(
        lambda: rows,
        base,
        options(**settings),
        reference=reference,
        work=folder / "work",
        out=folder / "reward",
        seed=0,
        is_held_out=lambda prompt: held_out(prompt, 0.25, 0),
        ended=always,
        watch=watch or Watch(),
    )


def tune(
    base: LocalModel,
    rows: Sequence[Preference],
    folder: Path,
    watch: Watch | None = None,
    *,
    kind: type[DPO | KTO] = DPO,
    **settings: Any,
) -> list[dict[str, float]]:
    usual = {"learning_rate": 2e-3, "batch_prompts": 8, "schedule": "constant"}
    method = kind(kind.Options(**{**usual, **settings}), "test")
    return method.train(context_of(base, rows, folder, watch)).history


def context_of(base: LocalModel, rows: Sequence[Preference], folder: Path, watch: Watch | None = None) -> PolicyContext:
    return PolicyContext(
        start=base,
        prompts=list,
        preferences=lambda: rows,
        is_held_out=lambda prompt: held_out(prompt, 0.25, 0),
        ended=always,
        work=folder / "work",
        out=folder / "policy",
        seed=0,
        watch=watch or Watch(),
        in_worker=asyncio.to_thread,
    )


def accuracy(report: RewardReport) -> float:
    held = report.held_out
    return sum((d > 0) == (p > 0.5) for d, p in zip(held.differences, held.p, strict=True)) / len(held.p)


def test_reward_model_learns_a_planted_rule(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(64)
    start = train_reward(base, rows, tmp_path / "start", learning_rate=1e-12)
    report = train_reward(base, rows, tmp_path, epochs=5)
    losses = [figures["loss"] for figures in report.history]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert len(report.held_out.p) > 20
    assert accuracy(report) >= 0.9 > accuracy(start)
    assert report.account["outcomes"]["trained on"] + len(report.held_out.p) == len(rows)
    assert [figures["step"] for figures in report.history] == [float(n + 1) for n in range(len(losses))]


def test_soft_labels_are_met_not_exceeded(base: LocalModel, tmp_path: Path) -> None:
    """All labels 0.8: the differences settle at logit 0.8, where hard labels would drive them on and on."""
    rows = [row.model_copy(update={"p": 0.8}) for row in planted(48)]
    report = train_reward(base, rows, tmp_path, epochs=8, learning_rate=3e-3)
    held = report.held_out
    means = [torch.sigmoid(torch.tensor(d if p > 0.5 else -d)) for d, p in zip(held.differences, held.p, strict=True)]
    assert float(torch.stack(means).mean()) == pytest.approx(0.8, abs=0.06)


def test_rewards_have_mean_zero_and_deviation_one_on_the_reference(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(24)
    report = train_reward(base, rows, tmp_path, normalise_on=20)
    model = RewardModel(tmp_path / "reward", LocalOptions(device="cpu"), where="test", notice=lambda line: None)
    assert (model.gain, model.bias) == (report.gain, report.bias)
    train = [row for row in rows if not held_out(row.prompt_id, 0.25, 0)]
    reference = reference_groups(group_preferences(train, base.tokens, 2048).groups, 20, 0)
    assert 20 <= sum(len(g.responses) for g in reference) < 24
    raw = score_groups(model.network, reference, model.tokens.pad_id, share=True)
    values = torch.tensor([report.gain * v + report.bias for many in raw for v in many], dtype=torch.float64)
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_equal_rewards_are_left_as_they_are_and_said_to_be_on_no_reference(base: LocalModel, tmp_path: Path) -> None:
    same = [((Message(role="user", content="hi"),), [(said("one"), True)])] * 3
    report = train_reward(base, planted(8), tmp_path / "same", reference=same)
    assert (report.gain, report.bias, report.reference) == (1.0, 0.0, 0)
    none = train_reward(base, planted(8), tmp_path / "none", reference=[])
    assert (none.gain, none.bias, none.reference) == (1.0, 0.0, 0)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 3.0], (1.0, -2.0)),  # mean 2, deviation 1
        ([2.0, 6.0], (0.5, -2.0)),  # mean 4, deviation 2
        ([5.0], None),
        ([], None),
        ([100.0, 100.0 + 1e-6], None),  # equal but for float32 noise
    ],
)
def test_gain_and_bias_by_hand(rewards: list[float], expected: tuple[float, float] | None) -> None:
    assert normalisation(torch.tensor(rewards, dtype=torch.float64)) == expected


def test_saved_reward_model_is_an_ordinary_folder(base: LocalModel, tmp_path: Path) -> None:
    """transformers alone, on one unpadded row, gives the reward before gain and bias."""
    rows = planted(16)
    report = train_reward(base, rows, tmp_path)
    folder = tmp_path / "reward"
    ours = RewardModel(folder, LocalOptions(device="cpu"), where="test", notice=lambda line: None)
    plain = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    assert plain.config.num_labels == 1
    items = [(row.prompt, [(row.chosen, True), (row.rejected, False)]) for row in rows[:4]]
    for (prompt, responses), rewards in zip(items, ours(items), strict=True):
        for (response, ended), reward in zip(responses, rewards, strict=True):
            ids = [*ours.tokens.prompt_ids(prompt), *ours.tokens.response_ids(prompt, response, ended=ended)]
            with torch.no_grad():
                value = float(plain(torch.tensor([ids])).logits[0, 0])
            assert reward == pytest.approx(report.gain * value + report.bias, abs=1e-4)


def log_ratios(base: LocalModel, folder: Path, rows: Sequence[Preference]) -> list[float]:
    """log π/π_ref of chosen minus rejected, for each pair."""
    groups = group_preferences(rows, base.tokens, 2048).groups
    tuned = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    after, before = (sequence_logprobs(n, groups, base.tokens.pad_id, share=True) for n in (tuned, base.network))
    return [
        (1 if p > 0.5 else -1) * ((x[a] - y[a]) - (x[b] - y[b]))
        for group, x, y in zip(groups, after, before, strict=True)
        for (a, b), p in zip(group.pairs, group.p, strict=True)
    ]


@pytest.mark.parametrize("kind", [DPO, KTO])
def test_a_training_that_diverges_says_so_and_writes_nothing(kind: Any, base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(RlaifError, match=r"step \d: the loss is nan. What would do: a lower learning_rate"):
        tune(base, planted(32), tmp_path, kind=kind, learning_rate=1e30)
    assert not (tmp_path / "policy").exists()


def test_a_reward_model_that_diverges_in_its_last_step_is_not_written(base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(RlaifError, match="the last step: its weights are no numbers"):
        train_reward(base, planted(8), tmp_path, learning_rate=1e38, batch_prompts=8)
    assert not (tmp_path / "reward").exists()


def test_a_loss_that_rises_is_seen_on_preferences_alone(base: LocalModel, tmp_path: Path) -> None:
    """By hand: the last two of nine have a mean of 2, and the first has 1."""
    rising = [{"loss": loss} for loss in (1.0, *[0.5] * 6, 1.0, 3.0)]
    assert risen(rising) == (1.0, 2.0)
    assert risen(rising[2:]) is None  # too few to tell
    assert risen([{"loss": 1.0}, *[{"loss": 1.4}] * 8]) is None
    assert risen([{**step, "reward": 0.1} for step in rising]) is None
    assert risen(tune(base, planted(64), tmp_path / "wild", learning_rate=3.0, epochs=2))
    assert not risen(tune(base, planted(64), tmp_path / "tame", epochs=2))


def test_values_that_are_equal_count_one_half_and_a_step_without_labels_tells_no_accuracy(
    base: LocalModel, tmp_path: Path
) -> None:
    rows = [replace_label(row, number) for number, row in enumerate(planted(64))]
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    torch.nn.init.zeros_(network.score.weight)  # all rewards are equal
    groups = group_preferences(rows, base.tokens, 200).groups
    trainer = _RewardTrainer(network, groups, options(), tmp_path / "equal", 0, Watch())
    trainer.compute_loss(network, {"micro_batch": 0})
    assert trainer.figures(trainer.sums)["accuracy"] == 0.5
    ties = tune(base, [as_ties(row) for row in rows], tmp_path / "ties", epochs=1)
    assert len(ties) == 6
    assert all(sorted(step) == ["loss", "step"] for step in ties)


def replace_label(row: Preference, number: int) -> Preference:
    return row.model_copy(update={"p": (1.0, 0.8, 0.6)[number % 3]})


def as_ties(row: Preference) -> Preference:
    return row.model_copy(update={"p": 0.5})


def test_dpo_learns_a_planted_rule(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(64)
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    history = tune(base, rows, tmp_path, epochs=4, beta=0.3)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy starts as its reference
    assert sum(f["loss"] for f in history[-4:]) < 0.6 * sum(f["loss"] for f in history[:4])
    margins = log_ratios(base, tmp_path / "policy", [row for row in rows if held_out(row.prompt_id, 0.25, 0)])
    assert len(margins) > 20
    assert sum(m > 0 for m in margins) / len(margins) >= 0.9
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())


def test_tuned_policy_is_an_ordinary_folder(base: LocalModel, tmp_path: Path) -> None:
    tune(base, planted(8), tmp_path)
    tuned = LocalModel(str(tmp_path / "policy"), LocalOptions(device="cpu"), where="test", notice=lambda line: None)
    assert tuned.tokens.sha256 == base.tokens.sha256
    assert tuned.identity.sha256 != base.identity.sha256
    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path / "policy"))
    assert set(plain.state_dict()) == set(base.network.state_dict())
    moved = [
        name for name, value in plain.state_dict().items() if not torch.equal(value, base.network.state_dict()[name])
    ]
    assert "model.layers.0.self_attn.q_proj.weight" in moved


def test_policy_without_a_learning_signal_stays_where_it_was(base: LocalModel, tmp_path: Path) -> None:
    """Ties alone: at equal log-ratios the gradient of a label of one half is 0."""
    history = tune(base, [row.model_copy(update={"p": 0.5}) for row in planted(8)], tmp_path)
    assert [figures["loss"] for figures in history] == pytest.approx([math.log(2)] * len(history), abs=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path / "policy")).state_dict()
    assert all(torch.allclose(value, plain[name], atol=1e-5) for name, value in base.network.state_dict().items())


NOTHING: dict[str, tuple[Callable[[Preference], Preference], dict[str, Any], str]] = {
    "every pair too long": (
        lambda row: row,
        {"max_tokens": 2},
        "({trained} longer than 2 tokens, {held} held out). What would do: a larger max_tokens in its options, or a model "
        "of longer context; "
        "a smaller held_out, or more prompts.",
    ),
    "every label held out": (
        lambda row: row if held_out(row.prompt_id, 0.25, 0) else row.model_copy(update={"weight": 0.0}),
        {},
        "({held} held out, {trained} without a label). What would do: a smaller held_out, or more prompts; labels.",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_training_on_nothing_is_refused_with_the_counts_and_what_would_do(
    name: str, base: LocalModel, tmp_path: Path
) -> None:
    change, settings, message = NOTHING[name]
    rows = [change(row) for row in planted(24)]
    held = sum(held_out(row.prompt_id, 0.25, 0) for row in rows)
    assert 0 < held < len(rows) == 48
    message = message.format(held=held, trained=48 - held)
    for stage, train in (("reward_model", train_reward), ("dpo", tune)):
        with pytest.raises(RlaifError) as error:
            train(base, rows, tmp_path, **settings)
        assert str(error.value) == f"{stage}: no labelled preference is left to train on {message}"
    assert not list(tmp_path.iterdir())


def test_bfloat16_products_learn_as_well_and_keep_float32_weights(base: LocalModel, tmp_path: Path) -> None:
    report = train_reward(base, planted(48), tmp_path, epochs=4, precision="bfloat16")
    assert accuracy(report) >= 0.8
    assert {tensor.dtype for tensor in load_file(tmp_path / "reward" / "model.safetensors").values()} == {torch.float32}


# --- stopping and going on --------------------------------------------------------------------------------------------

RUNS: dict[str, tuple[Callable[..., Any], str]] = {
    "reward": (train_reward, "reward"),
    "dpo": (tune, "policy"),
    "ipo": (partial(tune, loss="ipo"), "policy"),
    "kto": (partial(tune, kind=KTO), "policy"),
}


def stop_at(step: int) -> Watch:
    watch = Watch(stop=threading.Event())
    watch.report = lambda now, steps, figures: watch.stop.set() if now == step else None
    return watch


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("tokens", [slow(4096), 60])
def test_stopped_and_resumed_run_equals_a_straight_one(
    kind: str, tokens: int, base: LocalModel, tmp_path: Path
) -> None:
    """Bit for bit, with a schedule that depends on the step, stopped twice and between two epochs' plans."""
    train, name = RUNS[kind]
    rows = planted(30)
    settings = {"epochs": 2, "schedule": "cosine", "warmup": 0.2, "micro_batch_tokens": tokens, "checkpoints": 2}
    straight = train(base, rows, tmp_path / "straight", **settings)
    for step in (2, 4):
        with pytest.raises(Interrupted):
            train(base, rows, tmp_path / "stopped", stop_at(step), **settings)
        assert not (tmp_path / "stopped" / name).exists()
        checkpoint = last_checkpoint(tmp_path / "stopped" / "work")
        assert checkpoint is not None
        assert checkpoint.name == f"checkpoint-{step}"
    resumed = train(base, rows, tmp_path / "stopped", **settings)
    one, other = (weights(tmp_path / run / name) for run in ("straight", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert resumed == straight


def test_unfinished_checkpoint_is_ignored(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(30)
    settings = {"epochs": 2, "checkpoints": 1}
    straight = train_reward(base, rows, tmp_path / "straight", **settings)
    with pytest.raises(Interrupted):
        train_reward(base, rows, tmp_path / "killed", stop_at(2), **settings)
    torn = tmp_path / "killed" / "work" / "checkpoint-4"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half a file")
    assert train_reward(base, rows, tmp_path / "killed", **settings) == straight
    assert not (torn / "model.safetensors").is_file() or (torn / COMPLETE).is_file()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.EROFS, "Read-only file system"), StorageError),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), StorageError),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), StorageError),
        (RuntimeError("Some tensors share memory"), RuntimeError),
        (OSError("no such option"), OSError),  # none of the operating system's
    ],
)
def test_only_a_failed_write_is_put_down_to_the_disk(error: Exception, raised: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(raised) as found, saving(tmp_path / "model"):
        raise error
    assert (found.value is error) == (raised is not StorageError)


def test_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    for step in (2, 10, 9, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step != 11:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).write_text(json.dumps([]))
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()
    assert last_checkpoint(tmp_path / "empty") is None


def test_stopping_at_the_last_step_loses_nothing(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(12)
    straight = train_reward(base, rows, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train_reward(base, rows, tmp_path / "stopped", stop_at(len(straight.history)))
    assert train_reward(base, rows, tmp_path / "stopped") == straight
    one, other = (weights(tmp_path / run / "reward") for run in ("straight", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one)


PASSES = [("reward", "reference rewards"), ("reward", "held-out rewards"), ("dpo", "reference log-probabilities")]


@pytest.mark.parametrize(("kind", "where"), PASSES)
def test_a_run_stopped_in_a_pass_beside_the_training_keeps_its_steps(
    kind: str, where: str, base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaif.training.passes.PASS_TOKENS", 100)
    train, name = RUNS[kind]
    rows = planted(30)
    straight = train(base, rows, tmp_path / "straight")
    watch = Watch()
    heard: list[tuple[str, int]] = []

    def part(at: str, done: int, total: int) -> None:
        heard.append((at, done))
        if at == where:
            watch.stop.set()

    watch.part = part
    with pytest.raises(Interrupted):
        train(base, rows, tmp_path / "stopped", watch)
    assert [at for at, _ in heard].count(where) == 1  # of several batches
    steps: list[int] = []
    again = Watch(report=lambda step, all_steps, figures: steps.append(step))
    assert train(base, rows, tmp_path / "stopped", again) == straight
    assert steps == ([] if kind == "reward" else [1, 2, 3])  # DPO's pass comes before its first step
    one, other = (weights(tmp_path / run / name) for run in ("straight", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_stop_request_ends_a_pass_before_the_next_layer(base: LocalModel) -> None:
    groups = group_preferences(planted(3), base.tokens, 200).groups
    network, watch = base.network, Watch()
    entered: list[str] = []
    layers = network.model.layers
    hooks = [layers[0].register_forward_hook(lambda *_: watch.stop.set())]
    hooks.append(layers[1].register_forward_hook(lambda *_: entered.append("second layer")))
    with pytest.raises(Interrupted), watch.passing("a pass", network) as done:
        sequence_logprobs(network, groups, base.tokens.pad_id, share=True, done=done)
    assert entered == []
    sequence_logprobs(network, groups, base.tokens.pad_id, share=True)  # outside a pass nothing looks
    assert entered
    for hook in hooks:
        hook.remove()


def test_a_stop_request_ends_the_reading_of_preferences(base: LocalModel, tmp_path: Path) -> None:
    watch = Watch()

    def rows() -> Iterator[Preference]:
        for number, row in enumerate(planted(5)):
            if number == 2:
                watch.stop.set()
            assert number < 4
            yield row

    with pytest.raises(Interrupted):
        train_reward(base, rows(), tmp_path, watch)  # type: ignore[arg-type]


def test_dpo_keeps_its_reference_apart(base: LocalModel, tmp_path: Path) -> None:
    """Its log-probabilities are taken before the first step, for every response once."""
    groups = group_preferences(planted(6), base.tokens, 200).groups
    network = load_network(base.folder, base.options, "float32", "test")
    reference = sequence_logprobs(network.eval(), groups, base.tokens.pad_id, share=True)
    trainer = _Trainer(network, groups, DPO.Options(learning_rate=1e-2, epochs=3), tmp_path, 0, Watch())
    trainer.reference, trainer.share, trainer.pad_id = reference, True, base.tokens.pad_id
    kept = [list(many) for many in reference]
    trainer.run()
    assert trainer.reference == kept
    assert [len(many) for many in reference] == [len(group.responses) for group in groups]
