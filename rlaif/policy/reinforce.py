"""REINFORCE with a baseline (Williams 1992): A = R − b, R = r − β·(log π(y) − log π_ref(y)), the same for every token.

``baseline`` *batch*: the mean of the step's other responses, whatever their prompt. *value*: what a network expects before
each token, learnt beside the policy by Σ_t (R − V_t)², without discount, as Lee et al. 2023 (RLAIF, 2309.00267, App. G) have it.
The loss is −Σ_t A_t·log π(a_t) over the number of responses with a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rlaif.policy.online import Online
from rlaif.training.advantages import batch_relative
from rlaif.training.losses import policy_loss
from rlaif.training.online import OnlineTrainer
from rlaif.training.rollouts import Rollouts
from rlaif.training.values import ValueOptions, ValueTrainer


class _BatchBaseline(OnlineTrainer):
    by_group = False

    def prepare(self, parts: Sequence[Rollouts]) -> None:
        shaped = [self.shaped(part) for part in parts]
        rewards = torch.cat(
            [r - self.controller.beta * self.kl(p).reshape(r.shape) for (r, _), p in zip(shaped, parts, strict=True)]
        )
        found = batch_relative(rewards, torch.cat([known for _, known in shaped])).split([len(p.groups) for p in parts])
        for part, advantages in zip(parts, found, strict=True):
            part.advantages = advantages.flatten()

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        return _policy_loss(self, logprobs, rollouts, _by_token(rollouts) * mask)

    def count(self, rollouts: Rollouts) -> float:
        return float(rollouts.totals()[1].sum())


class _ValueBaseline(ValueTrainer):
    options: Reinforce.Options

    def prepare(self, parts: Sequence[Rollouts]) -> None:
        for part in parts:
            assert part.values is not None
            rewards, known = self.shaped(part)
            total = (rewards - self.controller.beta * self.kl(part).reshape(rewards.shape)).flatten()
            real = self.mask_of(part) * known.flatten()[:, None]
            part.returns = total[:, None] * real
            part.advantages = (part.returns - part.values) * real

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        assert rollouts.returns is not None
        real = mask * self.known(rollouts)[:, None]
        missed = ((self.values(rollouts) - rollouts.returns).square() * real).sum()
        return _policy_loss(self, logprobs, rollouts, _by_token(rollouts) * mask) + self.options.value_weight * missed

    def count(self, rollouts: Rollouts) -> float:
        return float(self.known(rollouts).sum())


def _by_token(rollouts: Rollouts) -> Tensor:
    assert rollouts.advantages is not None
    return rollouts.advantages if rollouts.advantages.dim() == 2 else rollouts.advantages[:, None]


def _policy_loss(trainer: OnlineTrainer, logprobs: Tensor, rollouts: Rollouts, advantages: Tensor) -> Tensor:
    assert rollouts.old is not None
    return policy_loss(logprobs - rollouts.old, advantages, trainer.options.clip).sum()


class Reinforce(Online):
    class Options(ValueOptions):
        samples: int = Field(default=1, ge=1)
        baseline: Literal["batch", "value"] = "batch"
        value_weight: float = Field(default=1.0, gt=0)

    name = "reinforce"

    def __init__(self, options: Options, where: str) -> None:
        super().__init__(options, where)
        self.trainer = _ValueBaseline if options.baseline == "value" else _BatchBaseline
