"""Log-probabilities of given tokens, in memory for the logits and their gradient alone.

``-cross_entropy(logits.float(), ids)`` keeps three more tensors of the logits' shape in float32 (the logits, their
log-softmax, the gradient): with a vocabulary of 150,000 tokens 1.8 MB for every token learnt. Here all of them are made
for some rows at a time, and made again when gradients are computed; the values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = {"cpu": 2**18, "cuda": 2**26}  # logits computed in float32 at a time: 1 MB, which a cache holds, or 256


def chosen_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at ids, of shape (rows,), in float32 or better; logits: (rows, vocabulary)."""
    found: Tensor = _ChosenLogprobs.apply(logits, ids, temperature)
    return found


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(logits, ids)
        ctx.temperature = temperature
        found = logits.new_empty(len(ids), dtype=torch.promote_types(logits.dtype, torch.float32))
        for some in _chunks(logits):
            found[some] = _logprobs(logits[some], temperature).gather(1, ids[some, None]).squeeze(1)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, ids = ctx.saved_tensors
        found = torch.empty_like(logits)
        for some in _chunks(logits):
            share = gradient[some, None] / ctx.temperature
            own = _logprobs(logits[some], ctx.temperature).exp_().mul_(-share)
            found[some] = own.scatter_add_(1, ids[some, None], share)
        return found, None, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK.get(logits.device.type, CHUNK["cuda"]) // logits.shape[1])
    for begin in range(0, len(logits), rows):
        yield slice(begin, begin + rows)


def _logprobs(logits: Tensor, temperature: float) -> Tensor:
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (exact / temperature if temperature != 1.0 else exact).log_softmax(-1)
