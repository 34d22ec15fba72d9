"""What a network says of rows that share their prompts: the one way every pass of training, scoring and judging goes.

A batch is one pass without padding in which every prompt stands once (``packing``). Where the self-test finds a difference, as
in networks whose attention is their own, rows go separately through the same functions, padded and cut by length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.models.caches import prefill, selected
from rlaif.models.logprobs import chosen_logprobs
from rlaif.models.packing import TOKENS, Packing
from rlaif.models.rows import Rows, call, cut, pad, parameters

TOLERANCE = 1e-4  # fp32; half precisions are compared at their own resolution
PASS_OVERHEAD = {"cpu": 192, "cuda": 4096}  # positions that cost about as much as one more pass of separate rows

LAST, BEFORE_EACH, ALL = slice(-1, None), slice(None, -1), slice(None)  # positions of a suffix


@dataclass(frozen=True)
class Pass:
    """Rows that go through the network together."""

    run: Callable[..., Any]  # (network, **arguments) -> its output, of shape (lines, positions, …)
    lines: int
    width: int
    members: Sequence[int]  # indices of the rows
    suffixes: Sequence[int]  # where each suffix begins, lines one after another


def _passes(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Iterator[Pass]:
    """One packed pass, or separate rows in batches of like length, so that little is padding; all in one where the network is
    ``one_pass``, its weights being split between processes that must make equally many."""
    one_pass = getattr(model, "one_pass", False)
    lengths = [len(rows.prefixes[o]) + len(suffix) for o, suffix in zip(rows.owner, rows.suffixes, strict=True)]
    for kind in [list(range(len(lengths)))] if one_pass else rope_kinds(model, lengths):
        own = Rows(rows.prefixes, tuple(rows.owner[i] for i in kind), tuple(rows.suffixes[i] for i in kind))
        if share:
            yield _packed(model, own, kind)
        else:
            overhead = PASS_OVERHEAD.get(model.device.type, PASS_OVERHEAD["cuda"])
            yield from _separate(model, own, kind, pad_id, sys.maxsize if one_pass else overhead)


def rope_kinds(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Which rows of these lengths may go through the network together: where positions are turned by other frequencies beyond some
    length, the longest row of a pass decides for all, so that what is longer goes apart."""
    config = model.config.get_text_config()
    told = getattr(config, "rope_parameters", None) or {}
    ropes = [told, *(each for each in told.values() if isinstance(each, dict))]
    limits = [rope.get("original_max_position_embeddings") or config.max_position_embeddings
              for rope in ropes if rope.get("rope_type") in ("longrope", "dynamic")]  # fmt: skip
    kinds: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        kinds.setdefault(sum(length > limit for limit in limits), []).append(i)
    return list(kinds.values())


def _packed(model: Any, rows: Rows, places: Sequence[int]) -> Pass:
    config = model.config.get_text_config()
    packing = Packing(rows, model.device, plain=_plainly(model))

    def run(network: Any, **extra: Any) -> Any:
        if "position_ids" not in parameters(network):
            raise NotImplementedError("positions of its own")
        if getattr(config, "attn_temperature_tuning", False):
            raise NotImplementedError("attention by places in the input")
        attended = packing.layers
        with packing.through(network):
            found = network(
                input_ids=packing.ids,
                attention_mask=torch.ones_like(packing.ids),
                position_ids=packing.positions,
                use_cache=False,
                **extra,
            )
        if packing.layers - attended != config.num_hidden_layers:
            raise NotImplementedError("layers that do not attend")
        return found

    return Pass(run, 1, packing.tokens, [places[i] for i in packing.members], packing.suffixes)


def _separate(model: Any, rows: Rows, places: Sequence[int], pad_id: int, overhead: int) -> Iterator[Pass]:
    whole = rows.whole()
    for members in cut([len(row) for row in whole], overhead):
        ids, mask = pad([whole[i] for i in members], pad_id, model.device)
        begins = [line * ids.shape[1] + len(whole[i]) - len(rows.suffixes[i]) for line, i in enumerate(members)]

        def run(network: Any, ids: Tensor = ids, mask: Tensor = mask, **extra: Any) -> Any:
            return call(network, ids, mask, **extra)

        yield Pass(run, ids.shape[0], ids.shape[1], [places[i] for i in members], begins)


def _plainly(model: Any) -> bool:
    """Whether packed attention is by products of matrices: where that is the faster, or asked for."""
    device = model.device.type
    half = torch.is_autocast_enabled(device) or model.dtype.itemsize < 4
    return (device == "cpu" and half) or model.config._attn_implementation == "eager"


def _read(
    model: Any, rows: Rows, pad_id: int, where: slice, value_of: Callable[[Pass, Tensor], Tensor], *, share: bool
) -> Tensor:
    """What passes give at those positions of every suffix, row after row."""
    found: list[Tensor] = []
    order: list[int] = []
    for each in _passes(model, rows, pad_id, share=share):
        told = [
            range(begin, begin + len(rows.suffixes[i]))[where]
            for begin, i in zip(each.suffixes, each.members, strict=True)
        ]
        order += [i for i, own in zip(each.members, told, strict=True) for _ in own]
        index = torch.tensor([position for own in told for position in own], dtype=torch.long, device=model.device)
        found.append(value_of(each, index))
    if len(found) == 1 and order == sorted(order):
        return found[0]
    return torch.cat(found)[torch.tensor(order, device=model.device).argsort(stable=True)]


def _hidden(model: Any, rows: Rows, pad_id: int, where: slice, *, share: bool) -> Tensor:
    """Hidden states (positions, width)."""

    def value_of(each: Pass, index: Tensor) -> Tensor:
        return each.run(model.base_model).last_hidden_state.flatten(0, 1).index_select(0, index)

    return _read(model, rows, pad_id, where, value_of, share=share)


def _logits(model: Any, rows: Rows, pad_id: int, where: slice, *, share: bool) -> Tensor:
    """Logits (positions, vocabulary); the head runs where they are asked for alone, if the network lets us choose."""
    chooses = "logits_to_keep" in parameters(model)

    def value_of(each: Pass, index: Tensor) -> Tensor:
        if not chooses or not len(index):
            return each.run(model).logits.flatten(0, 1).index_select(0, index)
        kept, column = (index % each.width).unique(return_inverse=True)
        spare = -len(kept) % TOKENS if _plainly(model) else 0  # the head's kernels too are made anew for every shape
        logits = each.run(model, logits_to_keep=torch.cat([kept, kept[-1:].expand(spare)])).logits
        return logits[0, : len(kept)] if each.lines == 1 else logits[index // each.width, column]

    return _read(model, rows, pad_id, where, value_of, share=share)


def last_logits(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Logits (rows, vocabulary) after each row's last token."""
    return _logits(model, rows, pad_id, LAST, share=share)


def last_hidden(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Hidden state (rows, width) at each row's last token."""
    return _hidden(model, rows, pad_id, LAST, share=share)


def token_logprobs(
    model: Any, rows: Rows, pad_id: int, *, share: bool, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each continuation token and its mask, both (rows, longest continuation).

    The first token of a suffix is the prompt's last and is not predicted here. ``temperature``: at which it was sampled.
    """
    ids, mask = (each[:, 1:] for each in pad(rows.suffixes, pad_id, model.device))
    logits = _logits(model, rows, pad_id, BEFORE_EACH, share=share)
    return _widened(chosen_logprobs(logits, ids[mask.bool()], temperature), mask), mask


def token_hidden(model: Any, rows: Rows, pad_id: int, *, share: bool) -> Tensor:
    """Hidden states (rows, longest continuation, width) from which each continuation token is predicted; 0 past a row's end."""
    mask = pad(rows.suffixes, pad_id, model.device)[1][:, 1:]
    return _widened(_hidden(model, rows, pad_id, BEFORE_EACH, share=share), mask)


def _widened(values: Tensor, mask: Tensor) -> Tensor:
    """Values by token as rows that are as long as the longest, with zeros where ``mask`` is 0."""
    wide = values.new_zeros((*mask.shape, *values.shape[1:]))
    wide[mask.bool()] = values
    return wide


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


Test = Callable[[Any, int], tuple[Tensor, Tensor, str]]  # (model, pad id) -> the same values twice, and what differs


def logits_self_test(model: Any, pad_id: int) -> tuple[Tensor, Tensor, str]:
    """Logits of random tokens, packed and separate."""
    rows = _test_rows(model)
    together, apart = (_logits(model, rows, pad_id, ALL, share=share) for share in (True, False))
    return together, apart, "shared and separate rows"


def hidden_self_test(model: Any, pad_id: int) -> tuple[Tensor, Tensor, str]:
    """The same of hidden states at the last token."""
    rows = _test_rows(model)
    together, apart = (last_hidden(model, rows, pad_id, share=share) for share in (True, False))
    return together, apart, "shared and separate rows"


def cache_self_test(model: Any, pad_id: int) -> tuple[Tensor, Tensor, str]:
    """Logits of random tokens, after a cache of their prompts and separate."""
    rows = _test_rows(model)
    cache, before = prefill(model, rows.prefixes, pad_id)
    owner = torch.tensor(rows.owner, device=model.device)
    ids, mask = pad(rows.suffixes, pad_id, model.device)
    found = call(model, ids, torch.cat([before[owner], mask], dim=1), selected(cache, owner), use_cache=True).logits
    return found[mask.bool()], _logits(model, rows, pad_id, ALL, share=False), "rows after a cache and separate rows"


@torch.no_grad()
def sharing_works(model: Any, pad_id: int, test: Test = logits_self_test) -> tuple[bool, str]:
    """Whether this model passes a test, and in words why not. On a CPU with the attention of bfloat16 too, in float32."""
    was_training = model.training
    model.eval()
    kind = getattr(model.config, "_attn_implementation", None)
    flash = "flash" in str(kind)  # has no kernel for float32
    dtype = torch.bfloat16 if flash and model.dtype == torch.float32 else model.dtype
    try:
        packs = test is not cache_self_test and model.device.type == "cpu" and dtype == torch.float32
        for each in dict.fromkeys([kind, "eager"] if packs else [kind]):
            model.config._attn_implementation = each
            with torch.autocast(model.device.type, dtype, enabled=dtype != model.dtype):
                one, other, what = test(model, pad_id)
            one, other = one.float(), other.float()
            difference = float((one - other).abs().max() / other.std().clamp(min=1e-6))
            if not difference <= max(TOLERANCE, 30 * torch.finfo(dtype).eps):
                return (
                    False,
                    f"{what} differ by {difference:.1e}{'' if each == kind else ' in the attention of bfloat16'}",
                )
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, LookupError) as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        model.config._attn_implementation = kind
        model.train(was_training)
    return True, ""
