"""Reward-ranked fine-tuning (Dong et al. 2023, RAFT, 2304.06767): sample K responses to each prompt, keep the one with the
highest reward, fine-tune on it, and again with the policy that came of it.

A step is a round over ``batch_prompts`` prompts; with ``minibatches`` and ``inner_epochs`` it makes several updates. The loss is the
mean over the kept responses' tokens of −log π. A prompt without any reward is left out of its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlaif.policy.online import Online
from rlaif.training.online import OnlineOptions, OnlineTrainer
from rlaif.training.rollouts import Rollouts


class _Trainer(OnlineTrainer):
    keeps_best = True

    def prepare(self, parts: Sequence[Rollouts]) -> None:
        """Advantage 1 of each prompt's best response, the first of equal ones; 0 of all others."""
        for part in parts:
            rewards, known = self.shaped(part)
            best = rewards.masked_fill(~known, -torch.inf).argmax(1, keepdim=True)
            kept = torch.zeros_like(rewards).scatter_(1, best, 1.0)
            part.advantages = (kept * known.any(1, keepdim=True)).flatten()

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        assert rollouts.advantages is not None
        return -(logprobs * mask * rollouts.advantages[:, None]).sum()

    def count(self, rollouts: Rollouts) -> float:
        assert rollouts.advantages is not None
        return float((torch.tensor(rollouts.lengths, device=rollouts.advantages.device) * rollouts.advantages).sum())


class RAFT(Online):
    class Options(OnlineOptions):
        samples: int = Field(default=8, ge=2)
        epochs: int = Field(default=3, ge=1)
        beta: float = 0.0

        @model_validator(mode="after")
        def _no_ratio_and_no_penalty(self) -> Self:
            if self.beta:
                raise ValueError(
                    "raft has no penalty on leaving the start, so leave beta out: max_kl bounds how far it goes"
                )
            if "clip" in self.model_fields_set:
                raise ValueError("clip is of a ratio, and raft learns from none: leave it out")
            return self

    name = "raft"
    trainer = _Trainer
