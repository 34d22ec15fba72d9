"""REINFORCE, leave one out (Ahmadian et al. 2024, 2402.14740): the whole response is one action, and a response's baseline is
the mean reward of the others to its prompt.

A_i = R_i − mean_{j≠i} R_j with R = r − β·(log π(y) − log π_ref(y)); the loss is −min(ρA, clip(ρ)·A), ρ the ratio of the whole
response's probabilities, over the number of responses with a reward. With one update a step ρ is 1, and its gradient that of
−A·log π(y).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from rlaif.policy.online import Online
from rlaif.training.advantages import leave_one_out
from rlaif.training.losses import policy_loss
from rlaif.training.online import OnlineOptions, OnlineTrainer
from rlaif.training.rollouts import Rollouts


class _Trainer(OnlineTrainer):
    def prepare(self, parts: Sequence[Rollouts]) -> None:
        for part in parts:
            rewards, known = self.shaped(part)
            rewards = rewards - self.controller.beta * self.kl(part).reshape(rewards.shape)
            part.advantages = leave_one_out(rewards, known).flatten()

    def ratios(self, logratio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return logratio.sum(1), mask.any(1)

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        assert rollouts.old is not None
        assert rollouts.advantages is not None
        return policy_loss((logprobs - rollouts.old).sum(1), rollouts.advantages, self.options.clip).sum()


class RLOO(Online):
    class Options(OnlineOptions):
        samples: int = Field(default=4, ge=2)

    name = "rloo"
    trainer = _Trainer
