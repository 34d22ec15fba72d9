"""What a sampled response, or each of its tokens, was worth: advantages and losses by hand, and what each method makes of rewards."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlaif.policy import Rewarded
from rlaif.policy.grpo import GRPO
from rlaif.policy.ppo import PPO
from rlaif.policy.raft import RAFT
from rlaif.policy.reinforce import Reinforce
from rlaif.policy.rloo import RLOO
from rlaif.records import Message, Response
from rlaif.training.advantages import KLController, batch_relative, gae, group_relative, leave_one_out, whitened
from rlaif.training.batching import Group
from rlaif.training.losses import k3, policy_loss, value_loss
from rlaif.training.rollouts import Rollouts
from tests.test_online import method_of, prompts


def number(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- advantages and losses, by hand -----------------------------------------------------------------------------------


def test_leave_one_out_by_hand() -> None:
    """Of 1, 2, 6 the others' means are 4, 3.5, 1.5."""
    known = torch.tensor([[True, True, True]])
    assert leave_one_out(number([1, 2, 6]), known).tolist() == [[-3.0, -1.5, 4.5]]


def test_a_reward_that_is_missing_is_nobodys_baseline() -> None:
    rewards = number([1, 100, 3], [5, 100, 100])
    known = torch.tensor([[True, False, True], [True, False, False]])
    assert leave_one_out(rewards, known).tolist() == [[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
    assert group_relative(rewards, known, standardise=False).tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert batch_relative(rewards, known).tolist() == [[1 - 4.0, 0.0, 3 - 3.0], [5 - 2.0, 0.0, 0.0]]


def test_group_relative_by_hand() -> None:
    """Mean 3, deviations −2, −1, 3, variance 14/2 = 7."""
    found = group_relative(number([1, 2, 6]), torch.ones(1, 3, dtype=torch.bool), standardise=True)
    spread = math.sqrt(7) + 1e-4
    assert found.tolist()[0] == pytest.approx([-2 / spread, -1 / spread, 3 / spread])


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.floats(-5, 5))
def test_a_constant_added_to_all_rewards_changes_no_advantage(rewards: list[float], constant: float) -> None:
    known = torch.ones(1, len(rewards), dtype=torch.bool)
    one, other = (leave_one_out(number([r + c for r in rewards]), known) for c in (0.0, constant))
    assert torch.allclose(one, other, atol=1e-9)
    count = len(rewards)
    centred = group_relative(number(rewards), known, standardise=False)
    assert torch.allclose(centred * count / (count - 1), one, atol=1e-9)  # Dr. GRPO is RLOO but for a factor


def test_generalised_advantages_by_hand() -> None:
    """γ 0.9, λ 0.5; rewards 0, 1 and values 0.5, 0.2: δ_2 = 1 − 0.2 = 0.8, δ_1 = 0.9·0.2 − 0.5 = −0.32,
    A_2 = 0.8, A_1 = −0.32 + 0.45·0.8 = 0.04. What stands past a row's end is not looked at."""
    found = gae(number([0, 1, 9]), number([0.5, 0.2, 9]), torch.tensor([[1, 1, 0]]), 0.9, 0.5)
    assert found.tolist()[0] == pytest.approx([0.04, 0.8, 0.0])


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6))
def test_without_discount_an_advantage_is_what_is_to_come_less_the_value(steps: list[tuple[float, float]]) -> None:
    rewards, values = number([r for r, _ in steps]), number([v for _, v in steps])
    found = gae(rewards, values, torch.ones_like(rewards), 1.0, 1.0)
    assert torch.allclose(found, rewards.flip(1).cumsum(1).flip(1) - values, atol=1e-9)


def test_whitening_by_hand() -> None:
    found = whitened(number(1, 3, 50), torch.tensor([1, 1, 0]))
    assert found.tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2), 0.0], rel=1e-6)
    kept = whitened(number(1, 3, 50), torch.tensor([1, 1, 0]), keep_mean=True)
    assert kept.tolist() == pytest.approx([2 - 1 / math.sqrt(2), 2 + 1 / math.sqrt(2), 0.0], rel=1e-6)


def test_the_clipped_loss_by_hand() -> None:
    """Ratios 2 and 0.5, clip 0.2: a good action gains from at most 1.2, a bad one loses from all of 2."""
    ratios = torch.log(number(2, 2, 0.5, 0.5))
    found = policy_loss(ratios, number(1, -1, 1, -1), 0.2)
    assert found.tolist() == pytest.approx([-1.2, 2.0, -0.5, 0.8])


def test_where_nothing_has_moved_the_gradient_is_that_of_the_log_probability() -> None:
    logprobs = number(-1.0, -2.0).requires_grad_()
    policy_loss(logprobs - logprobs.detach(), number(3, -0.5), 0.2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-3.0, 0.5]


def test_k3_by_hand_is_the_divergence_on_average() -> None:
    p, q = number(0.7, 0.3), number(0.5, 0.5)
    found = k3(p.log(), q.log())
    assert found.tolist() == pytest.approx([5 / 7 - math.log(5 / 7) - 1, 5 / 3 - math.log(5 / 3) - 1])
    assert float((p * found).sum()) == pytest.approx(float((p * (p / q).log()).sum()))


def test_the_value_loss_by_hand() -> None:
    """V 1.5, before 1.0, aim 2.0: unclipped ½·0.25; held at 1.2 it is ½·0.64, and the larger counts."""
    assert float(value_loss(number(1.5), number(1.0), number(2.0), 0.2)) == pytest.approx(0.32)


def test_beta_is_steered_towards_its_target_by_at_most_a_fifth_of_the_horizon() -> None:
    control = KLController(0.1, 6.0, 100)
    control.update(60.0, 50)  # far above: e = 0.2
    assert control.beta == pytest.approx(0.1 * 1.1)
    control.update(5.4, 100)  # a tenth below
    assert control.beta == pytest.approx(0.1 * 1.1 * 0.9)
    control = KLController(0.1, 6.0, 1)  # a short horizon
    control.update(60.0, 50)
    assert control.beta == pytest.approx(0.2)
    control.update(0.0, 50)
    assert control.beta == pytest.approx(0.1)
    fixed = KLController(0.1, None, 100)
    fixed.update(60.0, 50)
    assert fixed.beta == 0.1


# --- what rewards are made into, by hand ------------------------------------------------------------------------------


class Stand:
    """As much of a trainer as turns rewards into advantages: β is one half."""

    def __init__(self, kind: Any, **options: Any) -> None:
        method = method_of(kind, **{"beta": 0.5, "missing_end_reward": None, **options})
        self.prepare = partial(method.trainer.prepare, self)
        for name in ("shaped", "kl", "mask_of", "known", "_by_token"):
            if hasattr(method.trainer, name):
                setattr(self, name, partial(getattr(method.trainer, name), self))
        self.options, self.network = method.options, SimpleNamespace(device="cpu")
        self.controller = KLController(0.5, None, 1)


def two_replies() -> Rollouts:
    """A prompt with replies of two tokens and of one, worth 1 and 3: log π − log π_ref is 0.5 and −1.0, and 0.5."""
    replies = [make_response("one", (1, 2)), make_response("two", (3,))]
    return Rollouts(
        prompts(1),
        [Group("p", (7,), [(1, 2), (3,)])],
        [replies],
        [[Rewarded(1.0, {}), Rewarded(3.0, {})]],
        old=torch.tensor([[-1.0, -2.0], [-0.5, 0.0]]),
        reference=torch.tensor([[-1.5, -1.0], [-1.0, 0.0]]),
        values=torch.tensor([[0.2, 0.4], [0.1, 0.0]]),
    )


def make_response(text: str, ids: tuple[int, ...]) -> Response:
    said = (Message(role="assistant", content=text),)
    return Response(
        prompt_id="p", messages=said, generator="policy", sample_index=0, token_ids=ids, finish_reason="stop"
    )


def prepared(kind: Any, **options: Any) -> Rollouts:
    part = two_replies()
    Stand(kind, **options).prepare([part])
    return part


def test_rloo_takes_the_kl_of_a_response_off_its_reward() -> None:
    """R = 1 − ½·(0.5 − 1) = 1.25 and 3 − ½·0.5 = 2.75; each less the other."""
    assert prepared(RLOO, samples=2).advantages.tolist() == pytest.approx([-1.5, 1.5])


def test_grpo_leaves_the_kl_to_its_loss() -> None:
    """Rewards 1 and 3: ±1 from their mean, over a standard deviation of √2."""
    assert prepared(GRPO, samples=2, standardise=False).advantages.tolist() == pytest.approx([-1.0, 1.0])
    assert prepared(GRPO, samples=2).advantages.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-3)


def test_reinforce_gives_every_token_the_advantage_of_its_response() -> None:
    found = prepared(Reinforce).advantages
    assert found.tolist() == [pytest.approx([-1.5, -1.5]), pytest.approx([1.5, 0.0])]


def test_reinforce_with_a_value_baseline_takes_it_off_before_every_token() -> None:
    found = prepared(Reinforce, baseline="value")
    assert found.returns.tolist() == [pytest.approx([1.25, 1.25]), pytest.approx([2.75, 0.0])]
    assert found.advantages.tolist() == [pytest.approx([1.05, 0.85]), pytest.approx([2.65, 0.0])]


def test_ppo_spreads_the_kl_over_tokens_and_gives_the_reward_to_the_last() -> None:
    """Tokens bring −0.25 and 0.5 + 1; and −0.25 + 3. With λ = ½: δ = −0.25 + 0.4 − 0.2 and 1.5 − 0.4, so that A = 0.5 and 1.1;
    and 2.75 − 0.1. Whitened: their mean is 17/12, their variance (n − 1) 1.2308."""
    found = prepared(PPO, lam=0.5)
    assert found.returns.tolist() == [pytest.approx([0.7, 1.5]), pytest.approx([2.75, 0.0])]
    mean, deviation = 4.25 / 3, (((0.5 - 4.25 / 3) ** 2 + (1.1 - 4.25 / 3) ** 2 + (2.65 - 4.25 / 3) ** 2) / 2) ** 0.5
    expected = [[(0.5 - mean) / deviation, (1.1 - mean) / deviation], [(2.65 - mean) / deviation, 0.0]]
    assert found.advantages.tolist() == [pytest.approx(row, rel=1e-5) for row in expected]


def test_raft_keeps_the_best() -> None:
    assert prepared(RAFT, samples=2, beta=0.0).advantages.tolist() == [0.0, 1.0]


def test_a_ratio_without_end_moves_nothing_that_has_no_advantage() -> None:
    logratio = torch.tensor([200.0, 200.0, -200.0], requires_grad=True)
    loss = policy_loss(logratio, torch.tensor([0.0, 1.0, 1.0]), 0.2)
    assert loss.tolist() == pytest.approx([0.0, -1.2, 0.0], abs=1e-6)
    loss.sum().backward()
    assert logratio.grad.tolist() == [0.0, 0.0, 0.0]
