"""Group relative policy optimisation (Shao et al. 2024, 2402.03300), with and without its standard deviation.

A_i = (R_i − mean)/std of a prompt's rewards, or without ``standardise`` R_i − mean (Dr. GRPO, Liu et al. 2025, 2503.20783). Each
token's loss is −min(ρA, clip(ρ)·A) + β·k3, k3 an estimate of KL(π || π_ref). ``average`` says over what: *response* the mean over a
response's tokens, then over responses, as the paper has it; *tokens* over all tokens of the step (DAPO); *constant* over
responses times max_new_tokens (Dr. GRPO), so that no length is favoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from rlaif.policy.online import Online
from rlaif.training.advantages import group_relative
from rlaif.training.losses import k3, policy_loss
from rlaif.training.online import OnlineOptions, OnlineTrainer
from rlaif.training.rollouts import Rollouts


class _Trainer(OnlineTrainer):
    options: GRPO.Options

    def prepare(self, parts: Sequence[Rollouts]) -> None:
        for part in parts:
            rewards, known = self.shaped(part)
            part.advantages = group_relative(rewards, known, standardise=self.options.standardise).flatten()

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        assert rollouts.old is not None
        assert rollouts.reference is not None
        assert rollouts.advantages is not None
        real = mask * self.known(rollouts)[:, None]
        tokens = policy_loss(logprobs - rollouts.old, rollouts.advantages[:, None], self.options.clip)
        if self.controller.beta:
            tokens = tokens + self.controller.beta * k3(logprobs, rollouts.reference)
        summed = (tokens * real).sum(1)
        return (summed / mask.sum(1).clamp(min=1) if self.options.average == "response" else summed).sum()

    def count(self, rollouts: Rollouts) -> float:
        if self.options.average == "tokens":
            return self.known_tokens(rollouts)
        return super().count(rollouts) * (self.options.max_new_tokens if self.options.average == "constant" else 1)


class GRPO(Online):
    class Options(OnlineOptions):
        samples: int = Field(default=8, ge=2)
        beta: float = Field(default=0.04, ge=0)
        standardise: bool = True  # by the standard deviation of a prompt's rewards
        average: Literal["response", "tokens", "constant"] = "response"

    name = "grpo"
    trainer = _Trainer
