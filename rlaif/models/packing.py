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
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from rlaif.models.rows import Rows, cut

NAME = "rlaif_packed"
RUN_OVERHEAD = 96  # keys that cost about as much as attention over one more run of rows
TILE = 256  # queries of plain attention at a time: what they cannot see is left out, and less lies in memory
ALIGNED = 8  # masked rows have a multiple of so many keys, as torch's kernels ask for
SHAPED = 32  # plain attention has a multiple of so many queries and keys: a CPU's kernels are made anew for every shape
TOKENS = 64  # and then a sequence a multiple of so many tokens, for the layers' sake
UNKNOWN = ("sinks", "position_bias")  # that attention may be given, and is not here
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
        self.layers = 0  # that have attended so far
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
        if plain and (spare := -len(ids) % TOKENS):  # a row that nobody reads
            alone.append(Segment(0, 0, len(ids), spare))
            ids += [0] * spare
            positions.append(np.arange(spare))
        self.tokens = len(ids)
        self.ids = torch.tensor(ids, device=device)[None]
        self.positions = torch.from_numpy(np.concatenate(positions)).to(device)[None]
        self.runs: list[Run] = []
        lay = _Lay(self.tokens)
        for segments in (alone, after):
            lengths = [_up(segment.before + segment.own, SHAPED if plain else 1) for segment in segments]
            for run in cut(lengths, RUN_OVERHEAD) if segments else []:
                self.runs.append(lay.run([segments[n] for n in run], TILE if plain else None, device))
        self.queries = lay.joined(lay.queries, device)  # the token of each query, tile by tile
        self.keys = lay.joined(lay.keys, device)  # the token of each key, run by run
        self.place = torch.from_numpy(lay.place).to(device)  # of each token among the queries
        self.own = torch.from_numpy(lay.own).to(device)  # of each token among the keys, in its own segment
        # and of tokens of prompts in what comes after them: (tokens, places), no token twice in one
        self.again = [(lay.joined(tokens, device), lay.joined(keys, device)) for tokens, keys in lay.again]

    def summed(self, of_keys: Tensor) -> Tensor:
        """What was made for each key, summed by token, in float32 at least and always in the same order."""
        exact = torch.promote_types(of_keys.dtype, torch.float32)
        found = of_keys.index_select(0, self.own).to(exact)
        for tokens, places in self.again:
            found.index_add_(0, tokens, of_keys.index_select(0, places).to(exact))
        return found.to(of_keys.dtype)

    def through(self, network: Any) -> AbstractContextManager[None]:
        """The context in which the network's attention is that of this packing."""
        return _Through(network, self)


class _Lay:
    """Segments being laid into runs."""

    def __init__(self, tokens: int) -> None:
        self.place = np.zeros(tokens, dtype=np.int64)
        self.own = np.zeros(tokens, dtype=np.int64)
        self.queries: list[np.ndarray] = []
        self.keys: list[np.ndarray] = []
        self.again: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
        self._asked = self._known = 0  # queries and keys so far
        self._seen: Counter[int] = Counter()  # continuations of each prompt, by where it begins

    def run(self, segments: Sequence[Segment], tile: int | None, device: torch.device) -> Run:
        """One more run. ``tile``: so many queries at a time; None: all."""
        told = np.asarray(segments)[:, :, None]
        prompt, before, start, own = told[:, 0], told[:, 1], told[:, 2], told[:, 3]
        alone = not before.any()
        width = int((before + own).max())
        steps = np.arange(_up(width, SHAPED if tile else 1 if alone else ALIGNED))
        real = steps < before + own
        inside = np.where(steps < before, prompt + steps, start + steps - before)
        self.keys.append(np.where(real, inside, inside[:, :1]).ravel())
        for row, segment in enumerate(segments):
            first = self._known + row * len(steps)
            self.own[segment.start : segment.start + segment.own] = first + segment.before + np.arange(segment.own)
            if segment.before:
                self._use(segment, first)
        self._known += real.size
        longest = _up(int(own.max()), SHAPED if tile else 1)
        tiles = []
        for begin in range(0, longest, tile or longest):
            columns = np.arange(begin, min(begin + (tile or longest), longest))
            found = np.minimum(columns, own - 1)  # past its end a row asks as its last token does
            asking = columns < own
            self.place[(start + columns)[asking]] = self._asked + np.arange(asking.size).reshape(asking.shape)[asking]
            self.queries.append((start + found).ravel())
            self._asked += asking.size
            most = _up(int((before + found).max()) + 1, SHAPED) if tile else len(steps)
            tiles.append(
                Tile(
                    len(columns),
                    most,
                    torch.from_numpy(before + found).to(device),
                    torch.from_numpy(steps[:most]).to(device),
                    torch.from_numpy(real[:, :most]).to(device),
                )
            )
        return Run(len(segments), len(steps), tuple(tiles), alone)

    def _use(self, segment: Segment, first: int) -> None:
        """A prompt's tokens are keys once more."""
        number = self._seen[segment.prompt]
        self._seen[segment.prompt] += 1
        if number == len(self.again):
            self.again.append(([], []))
        tokens, keys = self.again[number]
        tokens.append(segment.prompt + np.arange(segment.before))
        keys.append(first + np.arange(segment.before))

    @staticmethod
    def joined(pieces: Sequence[np.ndarray], device: torch.device) -> Tensor:
        return torch.from_numpy(np.concatenate(pieces)).to(device)


def _up(length: int, multiple: int) -> int:
    """The least multiple that is as much."""
    return -(-length // multiple) * multiple


class _Through:
    """The context in which a network's attention is that of a packing; it may be entered again, where activations are computed
    again. One thread at a time runs a network: its configuration is what says which attention it has."""

    def __init__(self, network: Any, packing: Packing | None) -> None:
        self._config, self._packing = network.config.get_text_config(), packing

    def __enter__(self) -> None:
        self._token = _packing.set(self._packing)
        self._own = self._config._attn_implementation
        if self._packing:
            self._config._attn_implementation = NAME

    def __exit__(self, *_: object) -> None:
        self._config._attn_implementation = self._own
        _packing.reset(self._token)


def checkpointing(network: Any) -> dict[str, Any]:
    """Settings of gradient checkpointing under which a packed pass is computed again as it was."""
    return {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _Through(network, _packing.get()))}


class Seen:
    """What of a packing one kind of layer sees; it goes to the layers in the place of a mask."""

    def __init__(self, packing: Packing, sees: Callable[..., Tensor]) -> None:
        self.packing, self._sees = packing, sees
        self.causal = sees is causal_mask_function
        self._added: dict[tuple[torch.dtype, bool], list[Tensor | None]] = {}

    def added(self, dtype: torch.dtype, *, plain: bool) -> list[Any]:
        """The mask of each tile, (rows, 1, queries, keys), as what is added to scores. None where it is causal, and what is past
        a row's end lies after all that asks; not in plain attention, which needs all."""
        if (dtype, plain) not in self._added:
            self._added[dtype, plain] = [
                None if self.causal and run.alone and not plain else self._of(tile, dtype)
                for run in self.packing.runs
                for tile in run.tiles
            ]
        return self._added[dtype, plain]

    def _of(self, tile: Tile, dtype: torch.dtype) -> Tensor:
        seen = self._sees(0, 0, tile.query_positions[:, :, None], tile.key_positions) & tile.real[:, None]
        return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _mask(*_: Any, mask_function: Callable[..., Tensor], use_vmap: bool = False, **__: Any) -> Seen:
    packing = _packing.get()
    now, next_one = torch.tensor(0), torch.tensor(1)
    if packing is None or use_vmap or bool(mask_function(0, 0, now, next_one)):
        raise NotImplementedError("a mask of its own")
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
    s_aux: Tensor | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """Attention over a packed sequence; query (1, heads, tokens, width), and keys and values of as many heads or fewer. ``s_aux``: of
    each head the score of a key without a value, its sink."""
    if not isinstance(attention_mask, Seen) or dropout or any(extra.get(name) is not None for name in UNKNOWN):
        raise NotImplementedError("attention of its own")
    attention_mask.packing.layers += 1
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))  # (tokens, heads, width)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(device, enabled=False):
        if attention_mask.packing.plain or softcap or s_aux is not None:
            sinks = None if s_aux is None else s_aux.to(dtype)
            found = _Plain.apply(query, key, value, sinks, attention_mask, scale, softcap)
        else:
            found = _fused(query, key, value, attention_mask, scale)
    return found[None], None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)


class _Taken(torch.autograd.Function):
    """``x[index]``, and ``back`` of what comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradients[0]), None, None


def _fused(query: Tensor, key: Tensor, value: Tensor, seen: Seen, scale: float) -> Tensor:
    """By torch's fused attention, a run at a time."""
    packing = seen.packing
    asked = _Taken.apply(query, packing.queries, lambda given: given.index_select(0, packing.place))  # none to padding
    known = [_Taken.apply(x, packing.keys, packing.summed) for x in (key, value)]
    queries = asked.split([sum(run.sizes) for run in packing.runs])
    sides = [x.split([run.rows * run.keys for run in packing.runs]) for x in known]
    masks = seen.added(query.dtype, plain=False)
    found = []
    for run, mask, q, k, v in zip(packing.runs, masks, queries, *sides, strict=True):
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


def _weights(
    q: Tensor, k: Tensor, mask: Tensor, sinks: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Softmax of scores, with one column more where heads have sinks; and the slope of what caps them."""
    scores, slope = torch.bmm(q, k.transpose(1, 2)), None
    if softcap:
        capped = (scores / softcap).tanh()
        scores, slope = capped * softcap, 1 - capped**2
    scores.view(len(mask), -1, *mask.shape[2:]).add_(mask)
    if sinks is not None:
        by_row = sinks[None, :, None].expand(len(mask), -1, mask.shape[2])
        scores = torch.cat([scores, by_row.reshape(*scores.shape[:2], 1)], dim=-1)
    return scores.softmax(-1), slope


def _added(sums: Tensor | None, more: Tensor, like: Tensor) -> Tensor:
    """What came to the keys of a run by further queries, which may see fewer of them than there are."""
    if sums is None and more.shape == like.shape:
        return more
    sums = torch.zeros_like(like) if sums is None else sums
    sums[:, : more.shape[1]] += more
    return sums


class _Plain(torch.autograd.Function):
    """By products of matrices: on a CPU the faster in half precision, its backward pass above all.

    Query heads that share a key head are one matrix with it. The weights are kept for the backward pass where rows are short, else
    computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        seen: Seen,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        packing, heads = seen.packing, key.shape[1]
        asked = iter(
            query.index_select(0, packing.queries).mul_(scale).split([n for run in packing.runs for n in run.sizes])
        )
        known = [
            x.index_select(0, packing.keys).split([run.rows * run.keys for run in packing.runs]) for x in (key, value)
        ]
        masks = iter(seen.added(query.dtype, plain=True))
        found: list[Tensor] = []
        saved: list[Tensor | None] = [sinks]
        for run, *sides in zip(packing.runs, *known, strict=True):
            k, v = (_grouped(x, run.rows, heads) for x in sides)
            saved += [k, v]
            for tile in run.tiles:
                q = _grouped(next(asked), run.rows, heads)
                weights, _ = _weights(q, k[:, : tile.keys], next(masks), sinks, softcap)
                made = torch.bmm(weights[..., : tile.keys], v[:, : tile.keys])
                found.append(_flat(made, run.rows, tile.queries))
                saved += [q, weights if run.keys <= KEPT_UP_TO and not softcap else None]
        ctx.save_for_backward(*saved)
        ctx.rest = (seen, heads, scale, softcap)
        return torch.cat(found).index_select(0, packing.place)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen, heads, scale, softcap = ctx.rest
        packing: Packing = seen.packing
        sinks, *rest = ctx.saved_tensors
        saved = iter(rest)
        back = gradients[0].new_zeros((len(packing.queries), *gradients[0].shape[1:]))
        back[packing.place] = gradients[0]
        given = iter(back.split([n for run in packing.runs for n in run.sizes]))
        masks = iter(seen.added(back.dtype, plain=True))
        of_sinks = (
            None if sinks is None else torch.zeros_like(sinks, dtype=torch.promote_types(sinks.dtype, torch.float32))
        )
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for run in packing.runs:
            k, v = next(saved), next(saved)
            of_k: Tensor | None = None
            of_v: Tensor | None = None
            for tile in run.tiles:
                q, weights, mask, slope = next(saved), next(saved), next(masks), None
                if weights is None:
                    weights, slope = _weights(q, k[:, : tile.keys], mask, sinks, softcap)
                own = _grouped(next(given), run.rows, heads)
                scores = torch.bmm(own, v[:, : tile.keys].transpose(1, 2))
                if of_sinks is not None:  # a sink has no value: nothing comes to its weight from what was made
                    scores = torch.nn.functional.pad(scores, (0, 1))
                scores = torch._softmax_backward_data(scores, weights, -1, scores.dtype)
                if of_sinks is not None:
                    by_head = scores[..., -1].reshape(run.rows, len(of_sinks), -1)
                    of_sinks += by_head.sum((0, 2), dtype=of_sinks.dtype)
                    scores, weights = scores[..., :-1], weights[..., :-1]
                scores = scores if slope is None else scores * slope
                queries.append(_flat(torch.bmm(scores, k[:, : tile.keys]), run.rows, tile.queries))
                of_k = _added(of_k, torch.bmm(scores.transpose(1, 2), q), k)
                of_v = _added(of_v, torch.bmm(weights.transpose(1, 2), own), v)
            assert of_k is not None
            assert of_v is not None
            keys.append(_flat(of_k, run.rows, run.keys))
            values.append(_flat(of_v, run.rows, run.keys))
        of_keys, of_values = (packing.summed(torch.cat(each)) for each in (keys, values))
        to_sinks = None if sinks is None or of_sinks is None else of_sinks.to(sinks.dtype)
        of_queries = torch.cat(queries).index_select(0, packing.place).mul_(scale)
        return of_queries, of_keys, of_values, to_sinks, None, None, None
