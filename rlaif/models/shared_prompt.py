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

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicCache, DynamicLayer

TOLERANCE = 1e-4  # fp32; half precisions are compared at their own resolution
PASS_OVERHEAD = {"cpu": 192, "cuda": 4096}  # positions that cost about as much as one more pass through the network


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
    with _attending(network, mask.shape[1]):
        return network(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=use_cache, **extra)


@contextmanager
def _attending(network: Any, length: int) -> Iterator[None]:
    """Where a network has ``fused_beyond`` (``training.networks.choose_attention``), its longer passes are by fused attention."""
    if length <= getattr(network, "fused_beyond", sys.maxsize):
        yield
        return
    own, network.config._attn_implementation = network.config._attn_implementation, "sdpa"
    try:
        yield
    finally:
        network.config._attn_implementation = own


def prefill(model: Any, prefixes: Sequence[Sequence[int]], pad_id: int) -> tuple[Any, Tensor]:
    """The prefixes' KV cache and its mask of shape (prefixes, longest), padded on the left."""
    ids, mask = pad(prefixes, pad_id, model.device, left=True)
    cache = DynamicCache(config=model.config)
    call(model.base_model, ids, mask, cache, use_cache=True)
    return cache, mask


class Roomy(DynamicLayer):
    """A cache layer with room for the tokens to come: a step writes its own keys and values and copies no others."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self.room = room
        self._settle()

    def _settle(self) -> None:
        self.used = self.keys.shape[-2]
        shape = (*self.keys.shape[:-2], self.used + self.room, self.keys.shape[-1])
        self.all_keys, self.all_values = self.keys.new_empty(shape), self.values.new_empty(shape)
        self._write(0, self.keys, self.values)

    def _write(self, start: int, keys: Tensor, values: Tensor) -> None:
        self.all_keys[..., start : self.used, :], self.all_values[..., start : self.used, :] = keys, values
        self.keys, self.values = self.all_keys[..., : self.used, :], self.all_values[..., : self.used, :]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self.used = self.used, self.used + key_states.shape[-2]
        self.room -= key_states.shape[-2]
        self._write(start, key_states, value_states)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        moved = indices != torch.arange(len(indices), device=indices.device)
        source, target = indices[moved], moved.nonzero()[:, 0]
        if (source < len(indices)).any():  # a row would be overwritten before it is read
            super().batch_select_indices(indices)
            self._settle()
            return
        for whole in (self.all_keys, self.all_values):
            whole[target, :, : self.used] = whole[source, :, : self.used]
        self.all_keys, self.all_values = self.all_keys[: len(indices)], self.all_values[: len(indices)]
        self.keys, self.values = self.all_keys[..., : self.used, :], self.all_values[..., : self.used, :]


def make_room(cache: Any, tokens: int) -> None:
    """Let the layers that keep everything keep ``tokens`` more without copying; for passes without gradients."""
    cache.layers = [Roomy(layer, tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]


def selected(cache: Any, index: Tensor) -> Any:
    """A cache of its own holding the rows of ``index``, in that order; gradients flow back to ``cache``."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in own.layers:
        if layer.get_seq_length() > 0:
            layer.keys, layer.values = _rows(layer.keys, index), _rows(layer.values, index)
    return own


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]``, several times as fast backwards: every row as often as the others is a sum, the rest a scatter."""
    times, rest = divmod(len(index), len(x))
    if not rest and torch.equal(index, torch.arange(len(x), device=index.device).repeat_interleave(times)):
        return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)
    return x.index_select(0, index)


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


@dataclass(frozen=True)
class Part:
    """Rows that went through the network together, and where their suffixes lie in its output."""

    output: Any
    members: Tensor  # indices of the rows
    first: Tensor  # position of each suffix's first token in the output
    last: Tensor  # and of its last

    def suffix(self, values: Tensor) -> Tensor:
        """What ``values`` holds from ``first[i]`` to ``last[i]``, as one tensor (rows, longest, …); past a row's end stands anything.
        ``values`` ends with the longest row, and may begin after the first position."""
        width = int((self.last - self.first).max()) + 1
        begin = int(self.last.max()) + 1 - values.shape[1]
        first, last = self.first - begin, self.last - begin
        if not first.any():
            return values[:, :width]
        steps = torch.arange(width, device=values.device)
        return values[self._rows[:, None], torch.minimum(first[:, None] + steps, last[:, None])]

    def at_last(self, values: Tensor, column: Tensor | None = None) -> Tensor:
        return values[self._rows, self.last if column is None else column]

    @property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.members), device=self.members.device)


def forward(
    network: Any,
    model: Any,
    rows: Rows,
    pad_id: int,
    read: Callable[[Part], Tensor],
    *,
    share: bool,
    extra: Callable[[Tensor, Tensor], dict[str, Any]] = lambda first, last: {},
) -> Tensor:
    """``read`` over the output of ``network`` (``model``, or its ``base_model`` for hidden states), one row per suffix.

    Rows go through in parts of like length, so that little is padding; all in one where the network is ``one_pass``, its
    weights being split between processes that must make equally many. ``extra``: further arguments of the network,
    given the positions of the first and the last token of each row's suffix. The output is aligned to suffixes when shared, else to whole rows.
    """
    overhead = PASS_OVERHEAD.get(model.device.type, PASS_OVERHEAD["cuda"])
    if getattr(model, "one_pass", False):
        overhead = sys.maxsize
    order: list[Tensor] = []
    found: list[Tensor] = []

    def one(members: list[int], tokens: list[tuple[int, ...]], past: Any, past_mask: Tensor | None) -> None:
        ids, mask = pad(tokens, pad_id, model.device)
        last = mask.sum(1) - 1
        first = last + 1 - torch.tensor([len(rows.suffixes[i]) for i in members], device=model.device)
        if past_mask is not None:
            mask = torch.cat([past_mask, mask], dim=1)
        output = call(network, ids, mask, past, use_cache=past is not None, **extra(first, last))
        part = Part(output, torch.tensor(members, device=model.device), first, last)
        order.append(part.members)
        found.append(read(part))

    if share and rows.shared:
        for prompts in cut([len(prefix) for prefix in rows.prefixes], overhead):
            cache, prefix_mask = prefill(model, [rows.prefixes[p] for p in prompts], pad_id)
            place = {p: n for n, p in enumerate(prompts)}
            mine = [i for i, o in enumerate(rows.owner) if o in place]
            for run in cut([len(rows.suffixes[i]) for i in mine], overhead):
                members = [mine[n] for n in run]
                index = torch.tensor([place[rows.owner[i]] for i in members], device=model.device)
                one(members, [rows.suffixes[i] for i in members], selected(cache, index), prefix_mask[index])
    else:
        whole = [(*rows.prefixes[o], *s) for o, s in zip(rows.owner, rows.suffixes, strict=True)]
        for members in cut([len(tokens) for tokens in whole], overhead):
            one(members, [whole[i] for i in members], None, None)
    width = max(values.shape[1] for values in found)
    values = torch.cat([_widened(values, width) for values in found])
    return values[torch.cat(order).argsort()]


def _widened(values: Tensor, width: int) -> Tensor:
    """``values`` with zeros along its second dimension up to ``width``."""
    missing = width - values.shape[1]
    return torch.cat([values, values.new_zeros(values.shape[0], missing, *values.shape[2:])], 1) if missing else values


def suffix_logits(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Logits (rows, longest suffix, vocabulary): position j predicts suffix token j + 1."""
    return forward(model, model, rows, pad_id, lambda part: part.suffix(part.output.logits), share=share)


def last_logits(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Logits (rows, vocabulary) after each row's last token; the head runs only where some row ends."""
    if "logits_to_keep" not in _parameters(model):
        return forward(model, model, rows, pad_id, lambda part: part.at_last(part.output.logits), share=share)

    def read(part: Part) -> Tensor:
        return part.at_last(part.output.logits, part.last.unique(return_inverse=True)[1])

    return forward(
        model, model, rows, pad_id, read, share=share, extra=lambda first, last: {"logits_to_keep": last.unique()}
    )


def last_hidden(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Hidden state (rows, width) at each row's last real token."""
    network = model.base_model
    return forward(network, model, rows, pad_id, lambda part: part.at_last(part.output.last_hidden_state), share=share)


def token_logprobs(
    model: Any, rows: Rows, pad_id: int, *, share: bool, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each continuation token and its mask, both (rows, longest continuation).

    The first token of a suffix is the prompt's last and is not predicted here. ``temperature``: at which it was sampled.
    The head does not run on what lies before the suffixes of a part.
    """
    ids, mask = pad(rows.suffixes, pad_id, model.device)

    def read(part: Part) -> Tensor:
        logits = part.suffix(part.output.logits)[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if temperature != 1.0:
            logits = logits / temperature
        targets = ids[part.members, 1 : logits.shape[1] + 1]
        return -cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def kept(first: Tensor, last: Tensor) -> dict[str, Any]:
        if not first.any() or "logits_to_keep" not in _parameters(model):
            return {}
        return {"logits_to_keep": torch.arange(int(first.min()), int(last.max()) + 1, device=first.device)}

    return forward(model, model, rows, pad_id, read, share=share, extra=kept) * mask[:, 1:], mask[:, 1:]


def token_hidden(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Hidden states (rows, longest continuation, width) from which each continuation token is predicted."""
    network = model.base_model
    return forward(network, model, rows, pad_id, lambda part: part.suffix(part.output.last_hidden_state), share=share)[
        :, :-1
    ]


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
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False, "gradient checkpointing drops the cache"
    was_training = model.training
    model.eval()
    flash = "flash" in str(getattr(model.config, "_attn_implementation", ""))  # has no kernel for float32
    dtype = torch.bfloat16 if flash and model.dtype == torch.float32 else model.dtype
    try:
        with nullcontext() if dtype == model.dtype else torch.autocast(model.device.type, dtype):
            difference = test(model, pad_id)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError) as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        model.train(was_training)
    if difference > max(TOLERANCE, 30 * torch.finfo(dtype).eps):
        return False, f"shared and separate rows differ by {difference:.1e}"
    return True, ""


@functools.cache
def _parameter_names(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def _parameters(network: Any) -> frozenset[str]:
    return _parameter_names(type(network).forward)
