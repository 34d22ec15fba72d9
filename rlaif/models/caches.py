"""The prompt's KV cache, for what grows token by token: filled once, and a copy for each continuation. Gradients flow through it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from rlaif.models.rows import call, pad


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
