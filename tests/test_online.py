"""Methods that learn from rewards for what the policy says: their mathematics by hand and beside TRL's, failures that reach no
gradient, steps that may be split, runs that were stopped, and guards."""

from __future__ import annotations

import asyncio
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from rlaif.errors import RlaifError
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.policy import Items, PolicyContext, PolicyReport, Rewarded
from rlaif.policy.grpo import GRPO
from rlaif.policy.online import Online, _Training
from rlaif.policy.ppo import PPO
from rlaif.policy.raft import RAFT
from rlaif.policy.reinforce import Reinforce
from rlaif.policy.rloo import RLOO
from rlaif.policy.sft import SFT
from rlaif.records import Prompt
from rlaif.training.rollouts import Rollouts
from rlaif.training.trainer import Interrupted, Watch
from tests import make, tiny
from tests.test_training import assert_close

SETTINGS: dict[str, Any] = {
    "batch_prompts": 4,
    "samples": 4,
    "max_new_tokens": 8,
    "missing_end_reward": None,
    "probes": 0,
}
METHODS = [
    (RLOO, {}),
    (GRPO, {}),
    (GRPO, {"standardise": False, "average": "constant"}),
    (GRPO, {"average": "tokens", "inner_epochs": 2}),
    (Reinforce, {}),
    (RAFT, {"beta": 0.0}),
    (RAFT, {"beta": 0.0, "accumulation": 2, "minibatches": 2, "inner_epochs": 2}),
    (Reinforce, {"baseline": "value", "value_learning_rate": 1e-3}),
    (PPO, {"value_learning_rate": 1e-3, "accumulation": 2, "minibatches": 2, "inner_epochs": 2}),
]
NAMES = [f"{kind.name} {' '.join(map(str, options.values()))}".strip() for kind, options in METHODS]


# --- trainers ---------------------------------------------------------------------------------------------------------


def prompts(count: int) -> list[Prompt]:
    words = tiny.WORDS
    return [make.prompt(f"{' '.join(words[i % 7 : i % 7 + 1 + i % 5])} {i}") for i in range(count)]


def reward_of(text: str) -> float:
    """Vowels at the beginning of words: something that every response has a share of."""
    said = text.split()
    return sum(word[0] in "aeiouAEIOU" for word in said) / max(1, len(said))


def test_decay_is_of_matrices_and_a_value_network_keeps_its_own_rate(base: LocalModel, tmp_path: Path) -> None:
    """With gradients of 0 all that moves is decay: w·(1 − rate · 0.5)."""
    options = {"weight_decay": 0.5, "learning_rate": 0.1, "value_learning_rate": 0.2, "schedule": "constant"}
    trainer = trainer_of(PPO, base, tmp_path, **options, warmup=0.0)
    for network, kept in ((trainer.network, 0.95), (trainer.value, 0.9)):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        for name, p in network.named_parameters():
            assert torch.allclose(p, before[name] * (kept if p.dim() > 1 else 1.0)), name


def test_rloo_counts_clipped_responses_and_grpo_clipped_tokens(base: LocalModel, tmp_path: Path) -> None:
    shares = {}
    for kind in (RLOO, GRPO):
        trainer, part, network = moved_rollouts(kind, base, tmp_path, inner_epochs=2, clip=0.2)
        trainer.learn(part)
        trainer.finish({"kl": 0.0}, 16)
        shares[kind] = trainer.history[-1]["clipped"]
        with torch.no_grad():
            logprobs, mask = trainer.logprobs(network, part)
        gap = (logprobs - part.old) * mask
        by_token = ((gap.exp() - 1).abs() > 0.2)[mask.bool()].float().mean()
        of_whole = ((gap.sum(1).exp() - 1).abs() > 0.2).float().mean()
        assert shares[kind] == pytest.approx(float(of_whole if kind is RLOO else by_token))
    assert shares[RLOO] > shares[GRPO] > 0


def test_gradients_of_policy_and_value_are_clipped_each_by_its_own_norm(base: LocalModel, tmp_path: Path) -> None:
    """They share no weights: a large error of the value network must not slow the policy down."""
    trainer = trainer_of(Reinforce, base, tmp_path, baseline="value", max_gradient_norm=1e-3)
    part = rolled(trainer, Given())
    trainer.prepare([part]) if part.old is not None else None
    trainer.learn(part)
    norms: list[float] = []

    def step() -> None:
        for network in trainer.networks().values():
            norms.append(float(torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()))

    trainer.optimizer.step = step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.update()
    assert norms == [pytest.approx(1e-3, rel=1e-2)] * 2


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (RAFT, {"clip": 0.1, "beta": 0.0}, "clip is of a ratio"),
        (RLOO, {"clip": 0.1}, "clip is of a ratio between the updates that one sample makes"),
        (PPO, {"value_clip": 0.1, "inner_epochs": 1}, "value_clip is of a ratio between the updates"),
        (RLOO, {"kl_horizon": 10}, "set kl_target"),
        (RLOO, {"kl_target": 6.0, "max_kl": 0.5}, "kl_target 6 lies beyond max_kl 0.5"),
        (RLOO, {"watch": {"judge": "j", "looks": 2, "patience": 3}}, "patience 3 is more than there are looks"),
        (SFT, {"column": "answer"}, '"column" is of demonstrations'),
        (Reinforce, {"value_weight": 0.5}, "value_weight is of baseline: value"),
        (RLOO, {"schedule": "constant", "warmup": 0.1}, "schedule constant has no warmup"),
        (RLOO, {"schedule": "polynomial", "learning_rate": 1e-7}, "schedule polynomial falls to 1e-07"),
        (RLOO, {"learning_rate": math.inf}, "finite number"),
        (RLOO, {"missing_end_reward": math.nan}, "finite number"),
    ],
)
def test_options_that_would_do_nothing_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.Options(**options)


def test_a_value_network_that_does_not_begin_as_the_reward_model_says_so(base: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    start = LocalModel(str(base.folder), base.options, where="models.policy", notice=said.append)
    method = method_of(PPO)
    short = tiny.build(tmp_path / "short", "llama", hidden=32, context=128)
    for folder, lines in ((base.folder, 0), (short, 1)):
        said.clear()
        method.trainer(start, method.options, steps=1, work=tmp_path, seed=0, watch=Watch(), value_folder=folder)
        assert sum("begins as the start model" in line for line in said) == lines


class Given:
    """Rewards by a rule; those of ``failed``, by prompt and place, are missing."""

    def __init__(self, failed: set[tuple[str, int]] = frozenset(), delay: float = 0.0) -> None:  # type: ignore[assignment]
        self.failed, self.delay = failed, delay
        self.asked: list[list[str]] = []

    async def __call__(self, items: Items) -> list[list[Rewarded]]:
        self.asked.append([prompt.id for prompt, _ in items])
        await asyncio.sleep(self.delay)

        def one(prompt: Prompt, place: int, text: str) -> Rewarded:
            value = None if (prompt.id, place) in self.failed else reward_of(text)
            return Rewarded(value, {"vowels": value})

        return [[one(p, k, r.text) for k, r in enumerate(many)] for p, many in items]


def context_of(start: LocalModel, folder: Path, rewards: Any = None, count: int = 12, **changes: Any) -> PolicyContext:
    rows = prompts(count)
    context = PolicyContext(
        start=start,
        prompts=lambda: rows,
        preferences=list,
        is_held_out=lambda prompt: False,
        ended=lambda row, response: True,
        work=folder / "work",
        out=folder / "policy",
        seed=0,
        watch=Watch(),
        in_worker=asyncio.to_thread,
        rewards=rewards or Given(),
    )
    return replace(context, **changes)


def method_of(kind: Any, **options: Any) -> Online:
    return kind(kind.Options(**{**SETTINGS, "learning_rate": 1e-3, **options}), "policies.0")  # type: ignore[no-any-return]


def train(method: Online, context: PolicyContext) -> PolicyReport:
    return asyncio.run(method.train(context))


def trainer_of(kind: Any, start: LocalModel, folder: Path, **options: Any) -> Any:
    method = method_of(kind, **options)
    return method.trainer(start, method.options, steps=3, work=folder, seed=0, watch=Watch(), value_folder=None)


def rolled(trainer: Any, rewards: Given, count: int = 4) -> Rollouts:
    part: Rollouts = trainer.sample(prompts(count))
    part.rewarded = asyncio.run(rewards(part.items()))
    return part


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": p.grad.clone()
        for name, network in trainer.networks().items()
        for key, p in network.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=NAMES)
def test_a_reward_that_is_missing_reaches_no_gradient(
    kind: Any,
    options: Any,
    base: LocalModel,
    tmp_path: Path,
) -> None:
    """What a response without a reward says, and what number might stand in the reward's place, changes nothing."""
    found = []
    for other in (False, True):
        trainer = trainer_of(kind, base, tmp_path, **options)
        part = rolled(trainer, Given())
        lost = part.rewarded[1][2]
        part.rewarded[1][2] = Rewarded(None, lost.parts)
        if other:  # another response of the same length in its place, with other probabilities
            ids = part.groups[1].responses[2]
            part.groups[1].responses[2] = tuple((i + 1) % 50 for i in ids)
            for name in ("old", "reference"):
                values = getattr(part, name)
                if values is not None:
                    values[1 * 4 + 2] -= 0.7 * trainer.mask_of(part)[6]
        trainer.prepare([part]) if part.old is not None else None
        trainer.learn(part)
        found.append(gradients(trainer))
    assert found[0].keys() == found[1].keys()
    assert any(float(value.abs().max()) > 0 for value in found[0].values())
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-7), name


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=NAMES)
def test_a_step_may_be_split(kind: Any, options: Any, base: LocalModel, tmp_path: Path) -> None:
    """The same policy after two steps, however many micro-batches they were split into."""
    if options.get("minibatches"):
        pytest.skip("minibatches are made of micro-batches")
    after = []
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        train(method_of(kind, **options, accumulation=parts, steps=2), context_of(base, folder))
        after.append(load_file(folder / "policy" / "model.safetensors"))
    moved = load_file(Path(base.folder) / "model.safetensors")
    assert max(float((after[0][name] - moved[name]).abs().max()) for name in moved) > 1e-4
    for other in after[1:]:
        for name, value in after[0].items():
            assert torch.allclose(value, other[name], atol=2e-6), name


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=NAMES)
def test_a_stopped_run_that_goes_on_equals_a_straight_one(
    kind: Any,
    options: Any,
    base: LocalModel,
    tmp_path: Path,
) -> None:
    options = {**options, "epochs": 2, **({"kl_target": 0.1} if options.get("beta") != 0 else {})}
    straight = train(method_of(kind, **options), context_of(base, tmp_path / "straight"))
    watch = Watch()

    def stop(step: int, steps: int, figures: dict[str, float]) -> None:
        if step == 4:
            watch.stop.set()

    watch.report = stop
    method = method_of(kind, **options)
    with pytest.raises(Interrupted):
        train(method, context_of(base, tmp_path / "stopped", watch=watch))
    resumed = train(method, context_of(base, tmp_path / "stopped"))
    assert resumed.history == straight.history
    assert resumed.samples == straight.samples
    one, other = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=NAMES)
def test_it_learns_what_is_rewarded(kind: Any, options: Any, base: LocalModel, tmp_path: Path) -> None:
    settings = {"beta": 0.01, **options, "learning_rate": 3e-3, "samples": 8, "epochs": 8}
    report = train(method_of(kind, **settings), context_of(base, tmp_path))
    rewards = [figures["reward"] for figures in report.history]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.08
    assert report.history[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert report.history[-1]["kl"] > 0.05
    assert report.account == {
        "unit": "prompts", "in": 12, "outcomes": {"trained on": 12, "held out": 0, "too long": 0}, "reasons": {},
    }  # fmt: skip


def test_micro_batches_are_learnt_from_in_an_order_drawn_for_each_pass(base: LocalModel, tmp_path: Path) -> None:
    method = method_of(PPO, batch_prompts=8, accumulation=8, minibatches=4, inner_epochs=3, steps=1)
    orders: list[str] = []
    plain = method.trainer.learn

    class Watched(method.trainer):  # type: ignore[misc, name-defined]
        def learn(self, rollouts: Rollouts) -> None:
            orders.append(rollouts.prompts[0].id)
            plain(self, rollouts)

    method.trainer = Watched
    train(method, context_of(base, tmp_path, count=8))
    passes = [tuple(orders[i : i + 8]) for i in range(0, 24, 8)]
    assert len({frozenset(each) for each in passes}) == 1
    assert len(set(passes)) == 3


# --- beside TRL -------------------------------------------------------------------------------------------------------


def trl_inputs(part: Rollouts, pad: int) -> dict[str, Any]:
    rows = [(group.prompt, ids) for group in part.groups for ids in group.responses]
    long, wide = max(len(p) for p, _ in rows), max(len(r) for _, r in rows)
    return {
        "prompt_ids": torch.tensor([[pad] * (long - len(p)) + list(p) for p, _ in rows]),
        "prompt_mask": torch.tensor([[0] * (long - len(p)) + [1] * len(p) for p, _ in rows]),
        "completion_ids": torch.tensor([list(r) + [pad] * (wide - len(r)) for _, r in rows]),
        "completion_mask": torch.tensor([[1] * len(r) + [0] * (wide - len(r)) for _, r in rows]),
        "num_items_in_batch": torch.tensor(float(sum(len(r) for _, r in rows))),
    }


def trls(kind: str, start: LocalModel, network: Any, folder: Path, **options: Any) -> Any:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    trainer = getattr(trl, f"{kind}Trainer")(
        model=network,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=getattr(trl, f"{kind}Config")(
            output_dir=str(folder), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
            per_device_train_batch_size=4, num_generations=4, max_completion_length=8, **options,
        ),
        train_dataset=Dataset.from_list([{"prompt": f"hi {i}"} for i in range(4)]),
        processing_class=start.tokens.hf,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.eval()
    return trainer


def moved_rollouts(kind: Any, start: LocalModel, folder: Path, **options: Any) -> tuple[Any, Rollouts, Any]:
    """What the start said, with rewards, learnt from by a policy that has moved: (trainer, rollouts, the moved network)."""
    trainer = trainer_of(kind, start, folder, **options)
    part = rolled(trainer, Given())
    with torch.no_grad():
        part.old = trainer.logprobs(trainer.network, part)[0]
        for parameter in trainer.network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    trainer.prepare([part])
    return trainer, part, trainer.network


def test_the_rloo_loss_equals_trls(base: LocalModel, tmp_path: Path) -> None:
    trainer, part, network = moved_rollouts(RLOO, base, tmp_path, beta=0.05, clip=0.01, inner_epochs=2)
    theirs = trls("RLOO", base, network, tmp_path / "trl", epsilon=0.01, beta=0.0)
    inputs = trl_inputs(part, base.tokens.pad_id)
    assert part.old is not None
    inputs |= {"old_logps": part.old.sum(1), "advantages": part.advantages}
    with torch.no_grad():
        expected = theirs._compute_loss(network, inputs)
        logprobs, mask = trainer.logprobs(network, part)
        found = trainer.loss(logprobs, mask, part) / trainer.count(part)
    assert float(expected) != pytest.approx(0, abs=1e-3)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("average", "theirs"), [("response", "grpo"), ("tokens", "dapo"), ("constant", "dr_grpo")])
def test_the_grpo_loss_equals_trls(average: str, theirs: str, base: LocalModel, tmp_path: Path) -> None:
    trainer, part, network = moved_rollouts(GRPO, base, tmp_path, beta=0.04, average=average, clip=0.01, inner_epochs=2)
    other = trls(
        "GRPO", base, network, tmp_path / "trl", epsilon=0.01, beta=0.04, loss_type=theirs, use_bias_correction_kl=False
    )
    inputs = trl_inputs(part, base.tokens.pad_id)
    inputs |= {
        "old_per_token_logps": part.old, "ref_per_token_logps": part.reference, "advantages": part.advantages,
    }  # fmt: skip
    with torch.no_grad():
        expected = other._compute_loss(network, inputs)
        logprobs, mask = trainer.logprobs(network, part)
        found = trainer.loss(logprobs, mask, part) / trainer.count(part)
    assert float(expected) != pytest.approx(0, abs=1e-3)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


# --- guards and order -------------------------------------------------------------------------------------------------


def noticing(start: LocalModel, said: list[str]) -> LocalModel:
    import copy

    own = copy.copy(start)
    own.notice = said.append
    return own


def test_training_ends_before_the_policy_is_too_far_from_its_start(base: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    method = method_of(RLOO, learning_rate=1e-2, epochs=10, max_kl=0.5, checkpoints=30)
    report = train(method, context_of(noticing(base, said), tmp_path))
    assert 1 < len(report.history) < 30
    assert all(figures["kl"] <= 0.5 for figures in report.history)
    (line,) = said
    assert "nats a response from its start (max_kl 0.5)" in line
    assert f"The policy is that after {len(report.history) - 1} steps." in line


def test_the_last_steps_policy_is_held_against_the_bounds_too(base: LocalModel, tmp_path: Path) -> None:
    """Of one step no sample is there that its update could be seen by, but for the one that is drawn at the end."""
    said: list[str] = []
    context = replace(context_of(noticing(base, said), tmp_path), name="mine")
    report = train(method_of(RLOO, learning_rate=0.1, schedule="constant", warmup=0.0, steps=1, max_kl=0.1), context)
    assert len(report.history) == 1
    (line,) = said
    assert line.startswith("Careful: mine: training ended after 1 of 1 steps: the policy is ")
    assert line.endswith("nats a response from its start (max_kl 0.1). The policy is the start: nothing was learnt.")
    assert report.cares == said
    written = load_file(tmp_path / "policy" / "model.safetensors")
    assert all(
        torch.equal(written[name], value) for name, value in base.network.state_dict().items() if name in written
    )


def test_training_ends_where_responses_grow_too_long(base: LocalModel, tmp_path: Path) -> None:
    method = method_of(RLOO, max_length_ratio=1.5)
    training = _Training(method, context_of(base, tmp_path))
    training.trainer = trainer_of(RLOO, base, tmp_path, max_length_ratio=1.5)
    part = rolled(training.trainer, Given())
    training.trainer.prepare([part]) if part.old is not None else training.trainer.learn(part)
    mean = sum(part.lengths) / len(part.lengths)

    def check(first: float) -> str:
        training.trainer.history = [{"length": first}] if first else []
        return asyncio.run(training._check([part]))

    assert check(0) == ""  # nothing to compare with yet
    assert check(mean / 1.4) == ""
    assert check(mean / 1.6) == ""  # an earlier step was of other prompts: to these the start says as much
    training.trainer.start_length = lambda prompts: mean / 1.6
    assert check(mean / 1.4) == ""
    assert "(max_length_ratio 1.5)" in check(mean / 1.6)


def test_that_most_responses_are_cut_off_is_said_once(base: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    settings = {"max_new_tokens": 2, "missing_end_reward": -1.0, "steps": 3}
    train(method_of(RLOO, **settings), context_of(noticing(base, said), tmp_path, Given()))
    (line,) = [line for line in said if "cut off" in line]
    assert re.search(r"rloo, step 1: 1\d of 16 responses were cut off at max_new_tokens \(2\): their reward", line)
    assert not [line for line in said if "nothing was learnt" in line]


def test_the_length_of_the_start_is_that_of_the_start(base: LocalModel, tmp_path: Path) -> None:
    for options in ({}, {"lora": {"rank": 4}}):
        trainer = trainer_of(RLOO, base, tmp_path, max_new_tokens=60, **options)
        before = trainer.say(prompts(4))  # the policy is the start
        length = sum(before.lengths) / 4
        with torch.no_grad():
            for parameter in (p for p in trainer.network.parameters() if p.requires_grad):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        assert trainer.start_length(prompts(4)) == length
        assert [group.responses for group in trainer.say(prompts(4)).groups] != [g.responses for g in before.groups]


def test_a_step_without_any_reward_stops_the_training(base: LocalModel, tmp_path: Path) -> None:
    everything = {(prompt.id, place) for prompt in prompts(12) for place in range(4)}
    with pytest.raises(
        RlaifError,
        match=r"rloo, step 1: 16 of 16 responses got no reward, 16 of the last 16 \(vowels: 16; failure_tolerance 0.2",
    ):
        train(method_of(RLOO), context_of(base, tmp_path, Given(everything), failure_tolerance=0.2))


@pytest.mark.parametrize(("failing", "tolerance"), [(12, 1.0), (1, 0.3)], ids=["all", "an unlucky step"])
def test_a_step_without_any_reward_that_is_tolerated_moves_nothing(
    failing: int, tolerance: float, base: LocalModel, tmp_path: Path
) -> None:
    """Whatever happens, or one step of few responses among others."""
    given = Given({(prompt.id, place) for prompt in prompts(12)[-failing:] for place in range(16)})
    context = context_of(base, tmp_path, given, failure_tolerance=tolerance)
    report = train(method_of(RLOO, batch_prompts=1, samples=16, epochs=1), context)
    assert [figures["no_reward"] for figures in report.history].count(1.0) == failing
    assert len(report.history) == 12
    if failing == 12:
        one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "policy", base.folder))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_response_that_does_not_end_gets_the_reward_of_none(base: LocalModel, tmp_path: Path) -> None:
    trainer = trainer_of(RLOO, base, tmp_path, missing_end_reward=-1.0, length_penalty=0.5, max_new_tokens=8)
    part = rolled(trainer, Given())
    shaped, known = trainer.shaped(part)
    assert known.all()
    rows = list(zip(part.ended, part.lengths, [r.total for many in part.rewarded for r in many], strict=True))
    assert {ended for ended, _, _ in rows} == {True, False}
    expected = [
        (reward if ended else -1.0) - 0.5 * length / 8 for ended, length, reward in rows if reward is not None
    ]  # cut off or not: not to end must not pay
    assert shaped.flatten().tolist() == pytest.approx(expected)


def test_rewards_are_waited_for_while_others_are_sampled(base: LocalModel, tmp_path: Path) -> None:
    """A reward that takes as long as a step: of four micro-batches all are asked for before the first is learnt from."""
    rewards = Given(delay=0.3)
    method = method_of(RLOO, batch_prompts=12, accumulation=4, steps=1)
    report = train(method, context_of(base, tmp_path, rewards))
    assert [len(asked) for asked in rewards.asked] == [3, 3, 3, 3]
    assert report.seconds["waiting for rewards"] < 0.6  # one after the other they would take 1.2


def test_prompts_without_room_are_counted(base: LocalModel, tmp_path: Path) -> None:
    report = train(
        method_of(RLOO, max_new_tokens=200, steps=1, batch_prompts=2),
        context_of(base, tmp_path, prompts=lambda: [*prompts(3), make.prompt("how " * 60)]),
    )
    assert report.account
    step = {"trained on": 1, "not reached": 2}  # of three prompts in steps of two
    assert report.account["outcomes"] == {**step, "held out": 0, "too long": 1}
    assert report.account["in"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_prompts": 5, "accumulation": 2}, "batch_prompts 5 is not a multiple of accumulation 2"),
        ({"accumulation": 2, "minibatches": 4}, "accumulation 2 is not a multiple of minibatches 4"),
        ({"rewards": []}, "name at least one source"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLOO.Options(**options)


# --- who looks on -----------------------------------------------------------------------------------------------------


class Looking:
    """A gold judge that likes the policy as long as its answers are as the start's in length, and less the more it vowels."""

    def __init__(self, chances: Sequence[float]) -> None:
        self.chances = iter(chances)
        self.asked: list[tuple[list[str], list[str]]] = []

    async def __call__(self, prompts: Any, ours: Any, theirs: Any) -> list[float | None]:
        self.asked.append(([r.text for r in ours], [r.text for r in theirs]))
        chance = next(self.chances)
        return [1.0 if i < chance * len(prompts) else 0.0 for i in range(len(prompts))]


def watched(base: LocalModel, folder: Path, chances: Sequence[float], said: list[str]) -> tuple[PolicyReport, Looking]:
    gold = Looking(chances)
    method = method_of(
        RLOO, learning_rate=6e-3, samples=8, epochs=8, watch={"judge": "gold", "prompts": 24, "looks": 8, "patience": 2}
    )
    held_out = {prompt.id for prompt in prompts(32)[:24]}
    context = context_of(
        noticing(base, said), folder, count=32, gold=gold, is_held_out=lambda prompt: prompt in held_out
    )
    return train(method, context), gold


def test_a_judge_looks_on_at_the_prompts_that_are_measured_last(base: LocalModel, tmp_path: Path) -> None:
    method = method_of(RLOO, watch={"judge": "gold", "prompts": 3, "looks": 2, "patience": 1})
    looked: list[str] = []

    class Remembering(Looking):
        async def __call__(self, prompts: Any, ours: Any, theirs: Any) -> list[float | None]:
            looked.extend(prompt.id for prompt in prompts)
            return await super().__call__(prompts, ours, theirs)

    held_out = [prompt.id for prompt in prompts(16)[:8]]
    order = {prompt: float(i) for i, prompt in enumerate(sorted(held_out))}
    train(
        method,
        context_of(
            base, tmp_path, count=16, gold=Remembering([0.5] * 9), is_held_out=held_out.__contains__,
            measured=lambda prompt: order[prompt.id],
        ),
    )  # fmt: skip
    assert set(looked) == set(sorted(held_out)[-3:])


def test_training_ends_where_the_judge_that_looks_on_likes_less_what_is_rewarded_more(
    base: LocalModel, tmp_path: Path
) -> None:
    said: list[str] = []
    report, gold = watched(base, tmp_path, [0.5, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0], said)
    assert [look["step"] for look in report.looks] == [0.0, 2.0, 4.0, 6.0]
    assert [look["gold"] for look in report.looks] == [0.5, 0.75, 0.5, 0.25]
    assert report.looks[-1]["reward"] > report.looks[1]["reward"]
    (line,) = [line for line in said if "the judge gold" in line]
    assert "25% against the start, after 75% at step 2" in line
    assert "The policy is that after 2 steps." in line
    assert gold.asked[0][0] == gold.asked[0][1]  # before the first step the policy says what its start says
    assert gold.asked[3][0] != gold.asked[3][1]
    assert gold.asked[3][1] == gold.asked[0][1]


def test_a_look_at_which_nobody_has_an_opinion_is_said_and_decides_nothing(base: LocalModel, tmp_path: Path) -> None:
    class Silent(Looking):
        async def __call__(self, prompts: Any, ours: Any, theirs: Any) -> list[float | None]:
            wins = await super().__call__(prompts, ours, theirs)
            return [None for _ in wins] if len(self.asked) == 2 else wins

    method = method_of(RLOO, watch={"judge": "gold", "prompts": 4, "looks": 3})
    held_out = {prompt.id for prompt in prompts(16)[:8]}
    gold = Silent([0.5] * 9)
    report = train(method, context_of(base, tmp_path, count=16, gold=gold, is_held_out=held_out.__contains__))
    (care,) = report.cares
    assert "watch: of 4 answers the judge gold had an opinion on 0, the reward on 4: nothing was seen" in care
    assert len(report.looks) == len(gold.asked) - 1 > 0
    assert len(report.history) == report.looks[-1]["step"]


def test_a_judge_that_likes_it_more_and_more_stops_nothing(base: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    report, _ = watched(base, tmp_path, [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0], said)
    assert len(report.history) == 16
    assert not said


class Plea(Given):
    """A reward that a plea for a score moves."""

    async def __call__(self, items: Items) -> list[list[Rewarded]]:
        return [[Rewarded(reward_of(r.text) + 3.0 * ("Rating" in r.text), {}) for r in many] for _, many in items]


def test_what_canaries_gain_is_told_before_the_first_step(base: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    report = train(method_of(RLOO, probes=10, steps=1), context_of(noticing(base, said), tmp_path, Plea()))
    assert report.probes["rated"]["gain"]["value"] > 2.0
    assert (report.probes["rated"]["more"], report.probes["rated"]["n"]) == (10, 10)
    (line,) = [line for line in said if "plea for the top score" in line]
    assert "The policy may learn to write so." in line


# --- architectures ----------------------------------------------------------------------------------------------------

ARCHITECTURES = ("llama", "qwen3", "mistral", "gemma3", "gpt2")  # mistral and gemma3 with a sliding window


@pytest.fixture(scope="module", params=ARCHITECTURES)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    folder = tiny.build(tmp_path_factory.mktemp(request.param) / "start", request.param, hidden=32, context=256)
    return LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=NAMES)
def test_shared_prompts_and_padding_change_no_loss_and_no_gradient(
    kind: Any, options: Any, start: LocalModel, tmp_path: Path
) -> None:
    """The same responses, learnt from with each prompt once or in every row, together or prompt by prompt."""
    found = []
    trainer, part, _ = moved_rollouts(kind, start, tmp_path, **options)
    for share, apart in ((True, False), (False, False), (True, True)):
        trainer.share = share and trainer.share
        pieces = (
            [_piece(part, i) for i in range(len(part.groups))]
            if apart
            else [part.best() if trainer.keeps_best else part]
        )
        loss = 0.0
        for piece in pieces:
            whole = piece.best() if apart and trainer.keeps_best else piece
            logprobs, mask = trainer.logprobs(trainer.network, whole)
            own = trainer.loss(logprobs, mask, whole)
            own.backward()
            loss += float(own.detach())
        found.append((loss, gradients(trainer)))
        trainer.drop()
        trainer.share = True
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6 * (abs(loss) + _unsigned(part)))
        assert_close(list(gradient.values()), [found[0][1][name] for name in gradient], 1e-6)


def _unsigned(part: Rollouts) -> float:
    """What the terms of a loss that is a sum over tokens, some of them below 0, come to without their signs, about."""
    assert part.advantages is not None
    weights = part.advantages.abs()
    mask = torch.arange(max(part.lengths))[None] < torch.tensor(part.lengths)[:, None]
    return float((mask * (weights if weights.dim() == 2 else weights[:, None])).sum())


@pytest.mark.parametrize(("kind", "options"), METHODS, ids=NAMES)
def test_in_float64_the_way_a_batch_is_split_changes_nothing(
    kind: Any, options: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In an architecture that computes all of its layers in it."""
    folder = tiny.build(tmp_path_factory.mktemp("gpt2") / "start", "gpt2", hidden=32, context=256)
    start = LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
    trainer, part, _ = moved_rollouts(kind, start, folder.parent, **options)
    for network in trainer.networks().values():
        network.double()
    for name in ("old", "reference", "values", "advantages", "returns"):
        values = getattr(part, name)
        setattr(part, name, None if values is None else values.double())
    found = []
    for share, apart in ((True, False), (False, False), (True, True)):
        trainer.share = share
        loss = 0.0
        for piece in [_piece(part, i) for i in range(len(part.groups))] if apart else [part]:
            whole = piece.best() if trainer.keeps_best else piece
            own = trainer.loss(*trainer.logprobs(trainer.network, whole), whole)
            own.backward()
            loss += float(own.detach())
        found.append((loss, gradients(trainer)))
        trainer.drop()
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-9, abs=1e-9)
        for name, value in gradient.items():
            assert torch.allclose(value, found[0][1][name], atol=1e-9, rtol=1e-9), name


def _piece(part: Rollouts, i: int) -> Rollouts:
    """One prompt of a micro-batch, as long as its own longest response."""
    count = len(part.responses[i])
    rows = slice(i * count, (i + 1) * count)
    width = max(len(ids) for ids in part.groups[i].responses)

    def own(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values[rows, :width] if values.dim() == 2 else values[rows]

    return Rollouts(
        part.prompts[i : i + 1], part.groups[i : i + 1], part.responses[i : i + 1], part.rewarded[i : i + 1],
        own(part.old), own(part.reference), own(part.values), own(part.advantages), own(part.returns),
    )  # fmt: skip
