"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, 2402.01306), on preferences: each response by itself.

A response is desirable or not, against a reference point z0: how far the policy has gone from its reference on average. The
chosen response of a pair counts as desirable with its probability p and as undesirable with 1 − p, the rejected one the
other way round. z0 is estimated, as the paper does, from prompts with responses to other prompts, here once for a whole
optimiser step, so that no loss depends on how a step is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pydantic import Field

from rlaif.models.rows import Rows
from rlaif.policy.offline import AgainstReference, OfflineTrainer
from rlaif.training import processes
from rlaif.training.batching import Group
from rlaif.training.losses import kto_loss
from rlaif.training.passes import Done, sequence_logprobs, spread
from rlaif.training.trainer import TrainingOptions


class _Trainer(OfflineTrainer):
    options: KTO.Options
    mismatched: list[list[Group]]  # of each step: its prompts with responses to others
    theirs: list[list[float]]  # what the reference makes of those
    point: tuple[int, float] = (-1, 0.0)  # the step that z0 was last estimated for, and z0

    def look_at_reference(self, network: Any, max_tokens: int, done: Done = lambda groups, total: None) -> None:
        super().look_at_reference(network, max_tokens, done)
        self.mismatched = mismatched_steps(self.groups, self.plan.batches, self.split, max_tokens)
        together = [group for step in self.mismatched for group in step]
        found = iter(self.by_reference(network, together, done))
        self.theirs = [[next(found)[0] for _ in step] for step in self.mismatched]

    def values(self, model: Any, rows: Rows, groups: Sequence[Group], first: int) -> torch.Tensor:
        return self.options.beta * self.log_ratios(model, rows, first)

    def total(
        self, one: torch.Tensor, other: torch.Tensor, p: torch.Tensor, weight: torch.Tensor, first: int
    ) -> torch.Tensor:
        options = self.options
        point = options.beta * self.point[1]
        return kto_loss(one, other, p, weight, point, options.desirable_weight, options.undesirable_weight)

    def look_at_step(self, step: int) -> None:
        """z0 = max(0, mean of log π − log π_ref) over the step's mismatched rows, by the policy as the step finds it."""
        if self.point[0] == step:
            return
        asked = self.mismatched[step]
        with self.options.autocast(self.model):
            passed = partial(sequence_logprobs, self.model, pad_id=self.pad_id, share=self.share)
            ours = passed(asked) if processes.sharding() else spread(asked, passed)
        gaps = [mine[0] - its for mine, its in zip(ours, self.theirs[step], strict=True)]
        self.point = step, max(0.0, sum(gaps) / len(gaps)) if gaps else 0.0


def mismatched_steps(
    groups: Sequence[Group], batches: Sequence[Sequence[int]], split: int, max_tokens: int
) -> list[list[Group]]:
    """For every optimiser step its prompts, each with the first response to the prompt that follows in the plan; those that
    would be too long are left out. Nothing looks at a label."""
    order = [i for batch in batches for i in batch]
    following = dict(zip(range(len(order)), [*order[1:], *order[:1]], strict=True))
    steps: list[list[Group]] = []
    place = 0
    for start in range(0, len(batches), split):
        found = []
        for i in (i for batch in batches[start : start + split] for i in batch):
            other = groups[following[place]]
            place += 1
            if other is not groups[i] and len(groups[i].prompt) + len(other.responses[0]) <= max_tokens:
                found.append(Group(groups[i].prompt_id, groups[i].prompt, [other.responses[0]]))
        steps.append(found)
    return steps


class KTO(AgainstReference):
    class Options(TrainingOptions):
        learning_rate: float = Field(default=1e-6, gt=0)
        beta: float = Field(default=0.1, gt=0)
        desirable_weight: float = Field(default=1.0, gt=0)  # λ_D
        undesirable_weight: float = Field(default=1.0, gt=0)  # λ_U

    name = "kto"
    trainer = _Trainer
