"""The prompt once, its continuations many times: the one way this project shares a prompt.

The prompt goes through the network once; its KV cache is selected for each continuation, with gradients when training.
Exact for causal models with full or sliding-window attention, absolute, rotary or ALiBi positions. Where the self-test
finds a difference, where gradient checkpointing is on (it drops the cache), or where there is nothing to share, rows go
separately through the same function.

A row is ``prefix + suffix``. The prefix leaves out the last prompt token, so that the suffix pass yields the prediction
of *every* continuation token: logits at suffix position j predict suffix token j + 1.

    prefixes (left-padded)     suffixes (right-padded)
    . . a b                    c x y z
    d e f g                    h u v .
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-4  # fp32; half precisions are compared at their own resolution


@dataclass(frozen=True)
class Rows:
    """Continuations by prompt: row i is ``prefixes[owner[i]] + suffixes[i]``; no suffix is empty."""

    prefixes: tuple[tuple[int, ...], ...]
    owner: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]) -> Rows:
        """Each prompt with its continuations; the last prompt token moves to the front of each suffix."""
        owner = tuple(i for i, many in enumerate(continuations) for _ in many)
        suffixes = tuple((prompts[i][-1], *one) for i, many in enumerate(continuations) for one in many)
        return cls(tuple(tuple(prompt[:-1]) for prompt in prompts), owner, suffixes)

    @property
    def shared(self) -> bool:
        """Whether any prompt has more than one continuation and a prefix worth keeping."""
        return len(self.owner) > len(self.prefixes) and any(self.prefixes)

    def padded_tokens(self, share: bool) -> int:
        """Tokens the network computes for these rows, padding included."""
        longest = max(map(len, self.suffixes))
        if share and self.shared:
            return len(self.prefixes) * max(map(len, self.prefixes)) + len(self.suffixes) * longest
        return len(self.suffixes) * max(
            len(self.prefixes[o]) + len(s) for o, s in zip(self.owner, self.suffixes, strict=True)
        )


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
    if "position_ids" in _parameters(network):
        extra["position_ids"] = positions(mask)[:, -ids.shape[1] :]
    return network(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=use_cache, **extra)


def prefill(model: Any, rows: Rows, pad_id: int) -> tuple[Any, Tensor]:
    """The prefixes' KV cache, one row per continuation, and its mask of shape (continuations, prefix width)."""
    from transformers import DynamicCache

    ids, mask = pad(rows.prefixes, pad_id, model.device, left=True)
    cache = DynamicCache(config=model.config)
    call(model.base_model, ids, mask, cache, use_cache=True)
    select = torch.tensor(rows.owner, device=model.device)
    cache.batch_select_indices(select)
    return cache, mask[select]


def forward(network: Any, model: Any, rows: Rows, pad_id: int, *, share: bool, **extra: Any) -> tuple[Any, Tensor]:
    """Run ``network`` (``model`` itself, or its ``base_model`` for hidden states) over the suffixes of all rows.

    Returns its output, aligned to suffix positions when shared and to whole rows otherwise, and the index of each
    suffix's first token in it, of shape (rows,).
    """
    if share and rows.shared:
        cache, prefix_mask = prefill(model, rows, pad_id)
        ids, mask = pad(rows.suffixes, pad_id, model.device)
        output = call(network, ids, torch.cat([prefix_mask, mask], dim=1), cache, use_cache=True, **extra)
        return output, torch.zeros(len(rows.suffixes), dtype=torch.long, device=model.device)
    whole = [(*rows.prefixes[o], *s) for o, s in zip(rows.owner, rows.suffixes, strict=True)]
    ids, mask = pad(whole, pad_id, model.device)
    output = call(network, ids, mask, **extra)
    starts = torch.tensor([len(rows.prefixes[o]) for o in rows.owner], device=model.device)
    return output, starts


def gather_suffix(values: Tensor, starts: Tensor, width: int) -> Tensor:
    """``values[i, starts[i] : starts[i] + width]`` as one tensor (rows, width, …); past the end repeats the last."""
    index = (starts[:, None] + torch.arange(width, device=values.device)[None]).clamp(max=values.shape[1] - 1)
    return values[torch.arange(values.shape[0], device=values.device)[:, None], index]


def suffix_logits(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Logits (rows, longest suffix, vocabulary): position j predicts suffix token j + 1."""
    output, starts = forward(model, model, rows, pad_id, share=share)
    return gather_suffix(output.logits, starts, max(map(len, rows.suffixes)))


def last_logits(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Logits (rows, vocabulary) after each row's last token; the head runs only where some row ends."""
    lengths = torch.tensor([len(suffix) for suffix in rows.suffixes], device=model.device)
    if share and rows.shared:
        last = lengths - 1
    else:
        last = lengths - 1 + torch.tensor([len(rows.prefixes[o]) for o in rows.owner], device=model.device)
    ends, column = last.unique(return_inverse=True)
    extra = {"logits_to_keep": ends} if "logits_to_keep" in _parameters(model) else {}
    output, _ = forward(model, model, rows, pad_id, share=share, **extra)
    return output.logits[torch.arange(len(lengths), device=model.device), column if extra else last]


def last_hidden(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Hidden state (rows, width) at each row's last real token."""
    output, starts = forward(model.base_model, model, rows, pad_id, share=share)
    lengths = torch.tensor([len(suffix) for suffix in rows.suffixes], device=model.device)
    last = starts + lengths - 1
    return output.last_hidden_state[torch.arange(len(lengths), device=model.device), last]


def token_logprobs(model: Any, rows: Rows, pad_id: int, *, share: bool) -> tuple[Tensor, Tensor]:
    """Log-probability of each continuation token and its mask, both (rows, longest continuation).

    The first token of a suffix is the prompt's last and is not predicted here.
    """
    ids, mask = pad(rows.suffixes, pad_id, model.device)
    logits = suffix_logits(model, rows, pad_id, share=share)[:, :-1].float()
    targets, real = ids[:, 1:], mask[:, 1:]
    chosen = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
    return chosen * real, real


def _test_rows(model: Any) -> Rows:
    """Prompts of unequal length, longer than the sliding window where there is one of up to 512 tokens."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    window = getattr(config, "sliding_window", None) or 0
    limit = getattr(config, "max_position_embeddings", 4096)
    long = min(window + 8 if 0 < window <= 512 else 24, max(4, limit - 12))

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, int(config.vocab_size), (length,), generator=generator).tolist())

    return Rows.of([draw(long), draw(max(2, long // 2))], [[draw(7), draw(3)], [draw(5), draw(4)]])


def logits_self_test(model: Any, pad_id: int) -> float:
    """Largest difference between shared and separate logits on random tokens, relative to their spread."""
    rows = _test_rows(model)
    together, apart = (suffix_logits(model, rows, pad_id, share=share).float() for share in (True, False))
    real = pad(rows.suffixes, pad_id, model.device)[1].bool()
    return float((together[real] - apart[real]).abs().max() / apart[real].std().clamp(min=1e-6))


def hidden_self_test(model: Any, pad_id: int) -> float:
    """The same for hidden states at the last token."""
    rows = _test_rows(model)
    together, apart = (last_hidden(model, rows, pad_id, share=share).float() for share in (True, False))
    return float((together - apart).abs().max() / apart.std().clamp(min=1e-6))


@torch.no_grad()
def sharing_works(model: Any, pad_id: int, test: Callable[[Any, int], float] = logits_self_test) -> tuple[bool, str]:
    """Whether this model may share prompts, and in words why not."""
    was_training = model.training
    model.eval()
    try:
        difference = test(model, pad_id)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError) as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        model.train(was_training)
    if difference > max(TOLERANCE, 30 * torch.finfo(model.dtype).eps):
        return False, f"shared and separate rows differ by {difference:.1e}"
    return True, ""


def _parameters(network: Any) -> Any:
    return inspect.signature(network.forward).parameters
