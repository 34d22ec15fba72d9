"""Token ids as rows, padding, and how rows are cut into batches of like length."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Continuations by prompt: row i is ``prefixes[owner[i]] + suffixes[i]``; no suffix is empty.

    The prefix leaves out the last prompt token, so that the outputs at the suffix predict *every* continuation token: what
    stands at suffix position j predicts suffix token j + 1.
    """

    prefixes: tuple[tuple[int, ...], ...]
    owner: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]) -> Rows:
        """Each prompt with its continuations; the last prompt token moves to the front of each suffix."""
        owner = tuple(i for i, many in enumerate(continuations) for _ in many)
        suffixes = tuple((prompts[i][-1], *one) for i, many in enumerate(continuations) for one in many)
        return cls(tuple(tuple(prompt[:-1]) for prompt in prompts), owner, suffixes)

    def whole(self) -> list[tuple[int, ...]]:
        """Every row's tokens."""
        return [(*self.prefixes[o], *suffix) for o, suffix in zip(self.owner, self.suffixes, strict=True)]


def pad(rows: Sequence[Sequence[int]], pad_id: int, device: Any, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids and mask of shape (rows, longest); at least one column."""
    width = max(1, max(map(len, rows)))
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            where = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, where] = torch.tensor(row, dtype=torch.long)
            mask[i, where] = 1
    return ids.to(device), mask.to(device)


def positions(mask: Tensor) -> Tensor:
    """Position of each real token counted from its row's first; padding gets 0 or repeats its neighbour's."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def call(network: Any, ids: Tensor, mask: Tensor, past: Any = None, *, use_cache: bool = False, **extra: Any) -> Any:
    """A forward pass; ``mask`` covers what ``past`` holds as well. Position ids are passed where they are understood."""
    if "position_ids" in parameters(network):
        extra["position_ids"] = positions(mask)[:, -ids.shape[1] :]
    return network(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=use_cache, **extra)


def cut(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Indices in runs of like length: the cut with the fewest positions, where every run costs ``overhead`` more.

    Lengths 3, 90, 4, 4 with an overhead of 10 become [0, 2, 3] and [1]: 3·4 + 90 + 20 positions, not 4·90 + 10.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    ends = [n for n in range(1, len(order) + 1) if n == len(order) or lengths[order[n]] > lengths[order[n - 1]]]
    best = {0: (0, 0)}  # rows cut off so far: (least cost, where the last run starts)
    for end in ends:
        longest = lengths[order[end - 1]]
        best[end] = min((cost + (end - start) * longest + overhead, start) for start, (cost, _) in best.items())
    runs: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        runs.append(order[start:end])
        end = start
    return runs[::-1]


@functools.cache
def _parameter_names(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def parameters(network: Any) -> frozenset[str]:
    """Names of what a network's forward pass takes."""
    return _parameter_names(type(network).forward)
