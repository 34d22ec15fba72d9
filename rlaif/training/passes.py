"""Groups through the network: rows, the index of each pair's rows, and passes without gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlaif.models.rows import Rows
from rlaif.models.shared_prompt import token_logprobs
from rlaif.store import writing
from rlaif.training import processes
from rlaif.training.batching import Group
from rlaif.training.checkpoints import saving

PASS_TOKENS = 16_384  # padded tokens of one batch in a pass without gradients
PASS_LOGITS = 2**28  # and logits, where it has them: 1 GB of float32


def rows_of(groups: Sequence[Group]) -> Rows:
    """Prompt-shared rows: every response of every group once."""
    return Rows.of([group.prompt for group in groups], [group.responses for group in groups])


def pair_index(groups: Sequence[Group], device: Any) -> tuple[Tensor, Tensor]:
    """For each pair the rows of its two responses."""
    first: list[int] = []
    second: list[int] = []
    base = 0
    for group in groups:
        first += [base + a for a, _ in group.pairs]
        second += [base + b for _, b in group.pairs]
        base += len(group.responses)
    return torch.tensor(first, device=device), torch.tensor(second, device=device)


def inference_batches(groups: Sequence[Group], budget: int) -> list[list[int]]:
    """Group indices in batches of similar length within a token budget, for passes without gradients."""
    batches: list[list[int]] = []
    rows = longest = 0
    for i in sorted(range(len(groups)), key=lambda i: (groups[i].tokens, i)):
        length = len(groups[i].prompt) + max(map(len, groups[i].responses))
        count = len(groups[i].responses)
        if not batches or (rows + count) * max(longest, length) > budget:
            batches.append([])
            rows = longest = 0
        batches[-1].append(i)
        rows, longest = rows + count, max(longest, length)
    return batches


Done = Callable[[int, int], None]  # groups done, groups in all


@torch.no_grad()
def per_response(
    groups: Sequence[Group],
    values_of: Callable[[Rows], Tensor],
    done: Done = lambda groups, total: None,
    tokens: int | None = None,
) -> list[list[float]]:
    """One number for every response of every group; ``values_of`` gives them for rows of so many ``tokens``, of shape (rows,)."""
    found: list[list[float]] = [[] for _ in groups]
    finished = 0
    for batch in inference_batches(groups, tokens or PASS_TOKENS):
        members = [groups[i] for i in batch]
        values = values_of(rows_of(members)).tolist()
        for i, group in zip(batch, members, strict=True):
            found[i], values = values[: len(group.responses)], values[len(group.responses) :]
        finished += len(batch)
        done(finished, len(groups))
    return found


def sequence_logprobs(
    network: Any, groups: Sequence[Group], pad_id: int, *, share: bool, done: Done = lambda groups, total: None
) -> list[list[float]]:
    """log π(response | prompt), summed over response tokens, of every response of every group."""
    tokens = min(PASS_TOKENS, PASS_LOGITS // network.config.get_text_config().vocab_size)
    return per_response(
        groups, lambda rows: token_logprobs(network, rows, pad_id, share=share)[0].sum(-1), done, tokens
    )


def spread(groups: Sequence[Group], compute: Callable[[Sequence[Group]], list[list[float]]]) -> list[list[float]]:
    """What ``compute`` gives for groups, of which every process computes its share."""
    count = processes.count()
    shares = processes.gathered(compute(groups[processes.rank() :: count]))
    return [shares[i % count][i // count] for i in range(len(groups))]


def kept_logprobs(
    kept: tuple[Path, str] | None, groups: Sequence[Group], compute: Callable[[], list[list[float]]]
) -> list[list[float]]:
    """What ``compute`` gives for every response of every group, from a file where it has been computed before by the same
    reference on the same tokens. ``kept``: the folder of such files, and a name of everything else that it depends on."""
    if kept is None:
        return compute()
    folder, reference = kept
    whole = hashlib.sha256(reference.encode())
    for group in groups:
        for ids in (group.prompt, *group.responses):
            whole.update(np.asarray([len(ids), *ids], dtype=np.int64).tobytes())
    path = folder / f"{whole.hexdigest()[:32]}.npy"
    if processes.of_first(path.is_file):
        flat = iter(np.load(path, allow_pickle=False).tolist())
        return [[next(flat) for _ in group.responses] for group in groups]
    found = compute()
    if processes.rank():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with saving(path), writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray([value for many in found for value in many], dtype=np.float64))
    return found
