"""A batch of rows in one sequence: every prompt once, then every continuation, no padding, each token at its own position.

All that a network does token by token (projections, norms, the feed-forward layers, the head) runs over that sequence. Attention
alone knows of rows: it is ours, registered with transformers under ``NAME`` and switched on for the pass. A prompt sees itself; a
continuation sees its prompt and itself, through whatever mask the architecture asks for (sliding windows too), at true positions.

    tokens      a b  d e f g  c x y z  h u v
    positions   0 1  0 1 2 3  2 3 4 5  4 5 6

Networks whose attention is their own (ALiBi in BLOOM, state spaces) raise here or fail the self-test of ``shared_prompt``, and
their rows go separately.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from rlaif.models.rows import Rows, cut

NAME = "rlaif_packed"
RUN_OVERHEAD = 32  # keys that cost about as much as attention over one more run of rows
TILE = 256  # queries of plain attention at a time: what they cannot see is left out, and less lies in memory
KEPT_UP_TO = 512  # keys: beyond, plain attention computes its weights again in the backward pass

_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)


class Segment(NamedTuple):
    """Tokens that attend to those of a prompt and, causally, to each other."""

    prompt: int  # where the prompt begins
    before: int  # its tokens
    start: int  # where the segment begins
    own: int  # its tokens


@dataclass(frozen=True, eq=False)
class Tile:
    """Some queries of every row of a run, and as many of its keys as the last of them may see."""

    queries: int
    keys: int
    query_positions: Tensor  # (rows, queries)
    key_positions: Tensor  # (keys,)
    real: Tensor  # (rows, keys), false past a row's end


@dataclass(frozen=True, eq=False)
class Run:
    """Rows of like length, whose attention is computed together."""

    rows: int
    keys: int
    tiles: tuple[Tile, ...]
    alone: bool  # each row sees itself alone: no prompt stands before it

    @property
    def sizes(self) -> list[int]:
        """Queries of each tile, of all rows."""
        return [self.rows * tile.queries for tile in self.tiles]


class Packing:
    """Where the tokens of rows lie in one sequence, and which of them attend together."""

    def __init__(self, rows: Rows, device: torch.device, *, plain: bool) -> None:
        self.plain = plain  # attention is by products of matrices
        self.members = sorted(
            range(len(rows.owner)), key=rows.owner.__getitem__
        )  # rows, in the order in which they lie
        self.suffixes: list[int] = []  # where the suffix of each begins
        ids: list[int] = []
        positions: list[np.ndarray] = []
        alone: list[Segment] = []
        after: list[Segment] = []
        for owner, members in itertools.groupby(self.members, rows.owner.__getitem__):
            prefix, suffixes = rows.prefixes[owner], [rows.suffixes[row] for row in members]
            start, before = len(ids), len(prefix)
            single = len(suffixes) == 1
            if single or prefix:
                alone.append(Segment(0, 0, start, before + len(suffixes[0]) if single else before))
            ids += prefix
            positions.append(np.arange(before))
            for suffix in suffixes:
                if not single:
                    (after if prefix else alone).append(Segment(start, before, len(ids), len(suffix)))
                self.suffixes.append(len(ids))
                ids += suffix
                positions.append(np.arange(before, before + len(suffix)))
        self.tokens = len(ids)
        self.ids = torch.tensor(ids, device=device)[None]
        self.positions = torch.from_numpy(np.concatenate(positions)).to(device)[None]
        self.runs: list[Run] = []
        place = np.zeros(self.tokens, dtype=np.int64)
        queries: list[np.ndarray] = []
        keys: list[np.ndarray] = []
        for segments in (alone, after):
            lengths = [segment.before + segment.own for segment in segments]
            for run in cut(lengths, RUN_OVERHEAD) if segments else []:
                self._add([segments[n] for n in run], place, queries, keys, device)
        self.queries = torch.from_numpy(np.concatenate(queries)).to(device)  # the token of each query, tile by tile
        self.keys = torch.from_numpy(np.concatenate(keys)).to(device)  # the token of each key, run by run
        self.place = torch.from_numpy(place).to(device)  # of each token among the queries

    def _add(
        self,
        segments: Sequence[Segment],
        place: np.ndarray,
        queries: list[np.ndarray],
        keys: list[np.ndarray],
        device: torch.device,
    ) -> None:
        """One more run."""
        told = np.asarray(segments)[:, :, None]
        prompt, before, start, own = told[:, 0], told[:, 1], told[:, 2], told[:, 3]
        steps = np.arange((before + own).max())
        real = steps < before + own
        inside = np.where(steps < before, prompt + steps, start + steps - before)
        keys.append(np.where(real, inside, inside[:, :1]).ravel())
        longest = int(own.max())
        width = TILE if self.plain else longest
        tiles = []
        for first in range(0, longest, width):
            columns = np.arange(first, min(first + width, longest))
            found = np.minimum(columns, own - 1)  # past its end a row asks as its last token does
            asking = columns < own
            done = sum(map(len, queries))
            place[(start + columns)[asking]] = done + np.arange(asking.size).reshape(asking.shape)[asking]
            queries.append((start + found).ravel())
            most = int((before + found).max()) + 1
            tiles.append(
                Tile(
                    len(columns),
                    most,
                    torch.from_numpy(before + found).to(device),
                    torch.from_numpy(steps[:most]).to(device),
                    torch.from_numpy(real[:, :most]).to(device),
                )
            )
        self.runs.append(Run(len(segments), len(steps), tuple(tiles), alone=not before.any()))

    @contextmanager
    def through(self, network: Any) -> Iterator[None]:
        """The context in which the network's attention is that of this packing."""
        token = _packing.set(self)
        try:
            with attending(network):
                yield
        finally:
            _packing.reset(token)


@contextmanager
def attending(network: Any) -> Iterator[None]:
    config = network.config
    own, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = own


def checkpointing(network: Any) -> dict[str, Any]:
    """Settings of gradient checkpointing under which a packed pass is computed again as it was."""

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), attending(network) if _packing.get() else nullcontext()

    return {"use_reentrant": False, "context_fn": contexts}


class Seen:
    """What of a packing one kind of layer sees; it goes to the layers in the place of a mask."""

    def __init__(self, packing: Packing, sees: Callable[..., Tensor]) -> None:
        self.packing, self._sees = packing, sees
        self.causal = sees is causal_mask_function
        self._added: dict[torch.dtype, list[Tensor]] = {}

    def mask(self, tile: Tile) -> Tensor:
        """(rows, 1, queries, keys)"""
        seen = self._sees(0, 0, tile.query_positions[:, :, None], tile.key_positions)
        return (seen & tile.real[:, None])[:, None]

    def added(self, dtype: torch.dtype) -> list[Tensor]:
        """The mask of each tile, as what is added to scores."""
        if dtype not in self._added:
            least = torch.finfo(dtype).min
            masks = [self.mask(tile) for run in self.packing.runs for tile in run.tiles]
            self._added[dtype] = [torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, least) for mask in masks]
        return self._added[dtype]

    @cached_property
    def fused(self) -> list[Tensor | None]:
        """The mask of each run; None where it is causal, and what is past a row's end lies after all that asks."""
        return [None if self.causal and run.alone else self.mask(run.tiles[0]) for run in self.packing.runs]


def _mask(*_: Any, mask_function: Callable[..., Tensor], use_vmap: bool = False, **__: Any) -> Seen:
    packing = _packing.get()
    if packing is None or use_vmap:
        raise NotImplementedError("an attention mask of its own")
    return Seen(packing, mask_function)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """Attention over a packed sequence; query (1, heads, tokens, width), and keys and values of as many heads or fewer."""
    if (
        not isinstance(attention_mask, Seen)
        or dropout
        or any(extra.get(name) is not None for name in ("s_aux", "position_bias"))
    ):
        raise NotImplementedError("attention of its own")
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))  # (tokens, heads, width)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask.packing.plain or softcap:
        found = _Plain.apply(query, key, value, attention_mask, scale, softcap)
    else:
        found = _fused(query, key, value, attention_mask, scale)
    return found[None], None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)


class _Take(torch.autograd.Function):
    """``x[index]``; gradients of rows that were taken several times are summed in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _summed(gradients[0], index, ctx.count), None


def _summed(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Rows of ``values`` summed by their index, of shape (count, …)."""
    exact = torch.promote_types(values.dtype, torch.float32)
    return (
        values.new_zeros((count, *values.shape[1:]), dtype=exact)
        .index_add_(0, index, values.to(exact))
        .to(values.dtype)
    )


def _fused(query: Tensor, key: Tensor, value: Tensor, seen: Seen, scale: float) -> Tensor:
    """By torch's fused attention, a run at a time."""
    packing = seen.packing
    queries = _Take.apply(query, packing.queries).split([sum(run.sizes) for run in packing.runs])
    sides = [_Take.apply(x, packing.keys).split([run.rows * run.keys for run in packing.runs]) for x in (key, value)]
    found = []
    for run, mask, q, k, v in zip(packing.runs, seen.fused, queries, *sides, strict=True):
        q, k, v = (x.unflatten(0, (run.rows, -1)).transpose(1, 2) for x in (q, k, v))
        groups = q.shape[1] // k.shape[1]
        if groups > 1 and mask is not None:  # torch's kernels that take both are slow
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        own = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        found.append(own.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, packing.place)


def _grouped(x: Tensor, rows: int, heads: int) -> Tensor:
    """(rows · n, all heads, width) as matrices: (rows · heads, all heads / heads · n, width)."""
    x = x.view(rows, len(x) // rows, heads, x.shape[1] // heads, x.shape[2])
    return x.permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)


def _flat(x: Tensor, rows: int, n: int) -> Tensor:
    """The way back, of n to a row."""
    return (
        x.view(rows, len(x) // rows, x.shape[1] // n, n, x.shape[2]).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)
    )


def _weights(q: Tensor, k: Tensor, mask: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Softmax of scores, and the slope of what caps them."""
    scores, slope = torch.bmm(q, k.transpose(1, 2)), None
    if softcap:
        capped = (scores / softcap).tanh()
        scores, slope = capped * softcap, 1 - capped**2
    scores.view(len(mask), -1, *mask.shape[2:]).add_(mask)
    return scores.softmax(-1), slope


class _Plain(torch.autograd.Function):
    """By products of matrices: on a CPU the faster in half precision, its backward pass above all.

    Query heads that share a key head are one matrix with it. The weights are kept for the backward pass where rows are short, else
    computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Seen, scale: float, softcap: float | None
    ) -> Tensor:
        packing, heads = seen.packing, key.shape[1]
        asked = iter(
            (query * scale).index_select(0, packing.queries).split([n for run in packing.runs for n in run.sizes])
        )
        known = [
            x.index_select(0, packing.keys).split([run.rows * run.keys for run in packing.runs]) for x in (key, value)
        ]
        masks = iter(seen.added(query.dtype))
        found: list[Tensor] = []
        saved: list[Tensor | None] = []
        for run, *sides in zip(packing.runs, *known, strict=True):
            k, v = (_grouped(x, run.rows, heads) for x in sides)
            saved += [k, v]
            for tile in run.tiles:
                q = _grouped(next(asked), run.rows, heads)
                weights, _ = _weights(q, k[:, : tile.keys], next(masks), softcap)
                found.append(_flat(torch.bmm(weights, v[:, : tile.keys]), run.rows, tile.queries))
                saved += [q, weights if run.keys <= KEPT_UP_TO and not softcap else None]
        ctx.save_for_backward(*saved)
        ctx.rest = (seen, heads, scale, softcap)
        return torch.cat(found).index_select(0, packing.place)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen, heads, scale, softcap = ctx.rest
        packing: Packing = seen.packing
        saved = iter(ctx.saved_tensors)
        back = gradients[0].new_zeros((len(packing.queries), *gradients[0].shape[1:]))
        back[packing.place] = gradients[0]
        given = iter(back.split([n for run in packing.runs for n in run.sizes]))
        masks = iter(seen.added(back.dtype))
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for run in packing.runs:
            k, v = next(saved), next(saved)
            of_k, of_v = torch.zeros_like(k), torch.zeros_like(v)
            for tile in run.tiles:
                q, weights, mask, slope = next(saved), next(saved), next(masks), None
                if weights is None:
                    weights, slope = _weights(q, k[:, : tile.keys], mask, softcap)
                own = _grouped(next(given), run.rows, heads)
                scores = torch.bmm(own, v[:, : tile.keys].transpose(1, 2))
                scores = torch._softmax_backward_data(scores, weights, -1, scores.dtype)
                scores = scores if slope is None else scores * slope
                queries.append(_flat(torch.bmm(scores, k[:, : tile.keys]), run.rows, tile.queries))
                of_k[:, : tile.keys] += torch.bmm(scores.transpose(1, 2), q)
                of_v[:, : tile.keys] += torch.bmm(weights.transpose(1, 2), own)
            keys.append(_flat(of_k, run.rows, run.keys))
            values.append(_flat(of_v, run.rows, run.keys))
        of_keys, of_values = (_summed(torch.cat(x), packing.keys, packing.tokens) for x in (keys, values))
        return torch.cat(queries).index_select(0, packing.place) * scale, of_keys, of_values, None, None, None
