"""Supervised fine-tuning on groups: −log π of what is to be said, the prompt's own tokens left out of the loss.

A group's weights are those of its responses, each times its tokens, so that a step's loss is the mean over tokens by weight,
however it is split. The prompt goes through the network once for all its responses, and steps are filled with groups of like
length, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.models.shared_prompt import token_logprobs
from rlaif.training.batching import Group
from rlaif.training.passes import rows_of
from rlaif.training.trainer import GroupTrainer


def demonstrated(prompt_id: str, prompt: tuple[int, ...], responses: Sequence[tuple[tuple[int, ...], float]]) -> Group:
    """A group to be learnt from: responses with their weights."""
    ids = [response for response, _ in responses]
    return Group(prompt_id, prompt, ids, weight=[weight * len(response) for response, weight in responses])


def completion_loss(logprobs: Tensor, mask: Tensor, groups: Sequence[Group]) -> Tensor:
    """Σ over responses of weight · Σ over their tokens of −log π, in nats; ``logprobs``, ``mask``: (rows, tokens)."""
    by_token = [w / len(ids) for group in groups for w, ids in zip(group.weight, group.responses, strict=True)]
    weight = torch.tensor(by_token, dtype=logprobs.dtype, device=logprobs.device)
    return -(weight[:, None] * logprobs * mask).sum()


def _weighed(group: Group) -> Group:
    """The group with those responses alone that have a weight."""
    rows = [(ids, weight) for ids, weight in zip(group.responses, group.weight, strict=True) if weight > 0]
    return Group(group.prompt_id, group.prompt, [ids for ids, _ in rows], weight=[weight for _, weight in rows])


class FineTuner(GroupTrainer):
    def loss_of(self, model: Any, groups: Sequence[Group], first: int) -> Tensor:
        kept = [learnt for group in groups if (learnt := _weighed(group)).responses]
        if not kept:
            return self.nothing(model)
        self.sums["tokens"] += sum(len(ids) for group in kept for ids in group.responses)
        with self.options.autocast(model):
            logprobs, mask = token_logprobs(model, rows_of(kept), self.pad_id, share=self.share)
        return completion_loss(logprobs, mask, kept)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"tokens": sums["tokens"]}  # that it learnt from, whatever their weight
