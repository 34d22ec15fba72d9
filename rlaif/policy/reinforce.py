"""REINFORCE with a baseline (Williams 1992): A = R − b, R = r − β·(log π(y) − log π_ref(y)), the same for every token.

``baseline`` *batch*: the mean of the step's other responses, whatever their prompt. *value*: what a network expects before
each token, learnt beside the policy by Σ_t (R − V_t)², without discount, as Lee et al. 2023 (RLAIF, 2309.00267, App. G) have it.
The loss is −Σ_t A_t·log π(a_t) over the number of responses with a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
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
            part.advantages = advantages.flatten()[:, None] * self.mask_of(part)

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        return _by_token(logprobs, rollouts, self.options.clip)


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
        return _by_token(logprobs, rollouts, self.options.clip) + self.options.value_weight * missed


def _by_token(logprobs: Tensor, rollouts: Rollouts, clip: float) -> Tensor:
    """The policy's loss, a sum over tokens, whose advantages are 0 past a row's end."""
    assert rollouts.old is not None
    assert rollouts.advantages is not None
    return policy_loss(logprobs - rollouts.old, rollouts.advantages, clip).sum()


class Reinforce(Online):
    class Options(ValueOptions):
        samples: int = Field(default=1, ge=1)
        baseline: Literal["batch", "value"] = "batch"
        value_weight: float = Field(default=1.0, gt=0)

        @model_validator(mode="after")
        def _value_used(self) -> Self:
            unused = {"value_weight", "value_learning_rate"} & self.model_fields_set
            if self.baseline == "batch" and unused:
                raise ValueError(f"{sorted(unused)[0]} is of baseline: value")
            return self

    name = "reinforce"

    def __init__(self, options: Options, where: str) -> None:
        super().__init__(options, where)
        self.trainer = _ValueBaseline if options.baseline == "value" else _BatchBaseline
