"""Proximal policy optimisation (Schulman et al. 2017, 1707.06347) on language (Ziegler et al. 2019, 1909.08593; Stiennon et al.
2020, 2009.01325; the details by Huang et al. 2024, 2403.17031).

Each token brings −β·(log π_old − log π_ref), the last one the reward besides; advantages are generalised estimates over a value
network, whitened over the step; policy and value losses are clipped, and both are means over tokens. With ``pretraining`` every
update also learns texts: γ·(mean over their tokens of −log π) is added to the loss (PPO-ptx, Ouyang et al. 2022, 2203.02155, eq. 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlaif.component import Options as BaseOptions
from rlaif.errors import DataError, RlaifError
from rlaif.models.rows import Rows
from rlaif.models.shared_prompt import token_logprobs
from rlaif.policy.online import Online
from rlaif.rows import need_source, read_rows, source_hash
from rlaif.training import processes
from rlaif.training.advantages import gae, whitened
from rlaif.training.losses import policy_loss, value_loss
from rlaif.training.networks import learning
from rlaif.training.rollouts import Rollouts
from rlaif.training.values import ValueOptions, ValueTrainer


class _Trainer(ValueTrainer):
    options: PPO.Options

    def open_more(self, value_folder: Path | None) -> None:
        super().open_more(value_folder)
        spec, tokens = self.options.pretraining, self.start.tokens
        most = min(spec.max_tokens, self.start.context) if spec else 0
        rows = [tokens.text_ids(text)[:most] for text in read_texts(spec.source)] if spec else []
        self.texts = [tuple(ids) for ids in rows if len(ids) > 1]
        if spec and not self.texts:
            raise RlaifError(f"ppo: {spec.source}: no text of two tokens or more.")

    def add_gradient(self, count: float) -> None:
        spec = self.options.pretraining
        if spec is None:
            return
        number = np.random.default_rng([self.seed, self.step, int(self._sums["updates"])])
        drawn = number.choice(len(self.texts), min(spec.texts, len(self.texts)), replace=False)
        texts = [self.texts[i] for i in drawn]
        tokens = sum(len(ids) - 1 for ids in texts)
        mine = texts[processes.rank() :: processes.count()]
        if mine:
            with self._autocast(), learning(self.network, self.options):
                rows = Rows.of([ids[:1] for ids in mine], [[ids[1:]] for ids in mine])
                logprobs, _ = token_logprobs(self.network, rows, self.pad_id, share=self.share)
                (-logprobs.sum() * spec.weight * count / tokens).backward()

    def prepare(self, parts: Sequence[Rollouts]) -> None:
        masks = [self.mask_of(part) * self.known(part)[:, None] for part in parts]
        rewards = [self._by_token(part, mask) for part, mask in zip(parts, masks, strict=True)]
        if self.options.whiten_rewards:
            rewards = _whitened_together(rewards, masks, keep_mean=True)
        for part, reward, mask in zip(parts, rewards, masks, strict=True):
            assert part.values is not None
            part.advantages = gae(reward, part.values, mask, self.options.gamma, self.options.lam)
            part.returns = part.advantages + part.values * mask
        found = [part.advantages for part in parts if part.advantages is not None]
        for part, advantages in zip(parts, _whitened_together(found, masks), strict=True):
            part.advantages = advantages

    def _by_token(self, rollouts: Rollouts, mask: Tensor) -> Tensor:
        assert rollouts.old is not None
        assert rollouts.reference is not None
        found = -self.controller.beta * (rollouts.old - rollouts.reference) * mask
        last = torch.tensor(rollouts.lengths, device=found.device) - 1
        rows = torch.arange(len(found), device=found.device)
        return found.index_put((rows, last), self.shaped(rollouts)[0].flatten(), accumulate=True) * mask

    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        assert rollouts.old is not None
        assert rollouts.values is not None
        assert rollouts.advantages is not None
        assert rollouts.returns is not None
        real = mask * self.known(rollouts)[:, None]
        policy = policy_loss(logprobs - rollouts.old, rollouts.advantages, self.options.clip)
        value = value_loss(self.values(rollouts), rollouts.values, rollouts.returns, self.options.value_clip)
        return ((policy + self.options.value_weight * value) * real).sum()

    def count(self, rollouts: Rollouts) -> float:
        return self.known_tokens(rollouts)


def _whitened_together(values: Sequence[Tensor], masks: Sequence[Tensor], *, keep_mean: bool = False) -> list[Tensor]:
    """``whitened`` over all parts of a step."""
    real = [mask.bool() for mask in masks]
    flat = torch.cat([value[places] for value, places in zip(values, real, strict=True)])
    scaled = whitened(flat, torch.ones_like(flat), keep_mean=keep_mean).split([int(places.sum()) for places in real])
    return [torch.zeros_like(v).masked_scatter(places, s) for v, places, s in zip(values, real, scaled, strict=True)]


class Pretraining(BaseOptions):
    source: str  # a file of rows with a text
    weight: float = Field(default=27.8, gt=0)  # γ
    texts: int = Field(default=8, ge=1)  # to an update
    max_tokens: int = Field(default=512, ge=2)  # of each, from its beginning


def read_texts(source: str) -> Iterator[str]:
    """The ``text`` of every row. Raises DataError."""
    for where, row in read_rows(source):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{where}: no text: expected a column text, found {', '.join(row) or 'none'}.")
        yield row["text"]


class PPO(Online):
    class Options(ValueOptions):
        samples: int = Field(default=1, ge=1)
        inner_epochs: int = Field(default=4, ge=1)
        gamma: float = Field(default=1.0, gt=0, le=1)
        lam: float = Field(default=0.95, ge=0, le=1)
        value_clip: float = Field(default=0.2, gt=0)
        whiten_rewards: bool = False  # to variance 1 over the step: makes responses shorter
        pretraining: Pretraining | None = None  # texts that are learnt beside

    name = "ppo"
    trainer = _Trainer
    options: Options

    def __init__(self, options: Options, where: str) -> None:
        super().__init__(options, where)
        if options.pretraining:
            need_source(options.pretraining.source, f"{where}: pretraining.source")
            next(read_texts(options.pretraining.source), None)

    @property
    def inputs(self) -> dict[str, str]:
        """The file it reads, with its hash."""
        spec = self.options.pretraining
        return {spec.source: source_hash(spec.source)} if spec else {}
