"""Rewards: what sampled responses are worth while a policy is tuned on them.

A source is a class with an ``Options`` model, built with (options, context). It is called with prompts and their
responses and gives a number for each, or None where there is none: a judge that failed is no zero. Name it here or write
``package.module:Class`` as ``source``. A policy method adds its sources up by weight; the parts stay apart in its log.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol

from rlaif.canaries import Claims
from rlaif.component import Place, code_hash, construct, load, parse_options, users_code
from rlaif.errors import ConfigError
from rlaif.labels import LabelContext
from rlaif.models.gateway import gather_all
from rlaif.policy import Items, Rewarded, RewardSpec

REWARDS = {
    "reward_model": "rlaif.rewards.trained:TrainedReward",
    "judge": "rlaif.rewards.judged:JudgedReward",
}
Values = list[list[float | None]]  # aligned to the prompts and their responses


@dataclass(frozen=True)
class RewardContext:
    """What a source may use."""

    where: Place
    labels: LabelContext  # for judges: models, catalogue, gateway
    reward_model: Callable[[], Any] | None  # loads the run's, in the model thread; None: the recipe has none
    members: int = 1  # how many models that loads


class RewardSource(Protocol):
    """``signature`` says what its numbers depend on besides its code. One that loads networks may have ``release``, which
    gives their memory back; one that has no number for some replies may say ``why``, in a few words."""

    async def __call__(self, items: Items) -> Values: ...

    def signature(self) -> Any: ...


@dataclass(frozen=True)
class Part:
    name: str
    source: RewardSource
    weight: float


@dataclass(frozen=True)
class Rewards:
    """A weighted sum of sources. A response that one of them has no number for has none; a source of weight 0 is told of, and
    decides nothing."""

    parts: tuple[Part, ...]

    async def __call__(self, items: Items) -> list[list[Rewarded]]:
        found = await gather_all(self._of(part, items) for part in self.parts)
        return [
            [self._sum([values[i][k] for values in found]) for k in range(len(responses))]
            for i, (_, responses) in enumerate(items)
        ]

    async def _of(self, part: Part, items: Items) -> Values:
        with users_code(part.source, "rewarding replies"):
            values = await part.source(items)
            shape, wanted = [len(row) for row in values], [len(responses) for _, responses in items]
            if shape != wanted:
                raise ValueError(f"reward {part.name}: expected numbers for {wanted} responses, got {shape}")
            for value in (value for row in values for value in row if value is not None):
                if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                    raise ValueError(f"reward {part.name}: expected a finite number or None, got {value!r}")
        return [[None if value is None else float(value) for value in row] for row in values]

    def _sum(self, values: Sequence[float | None]) -> Rewarded:
        parts = {part.name: value for part, value in zip(self.parts, values, strict=True)}
        counted = [(part.weight, value) for part, value in zip(self.parts, values, strict=True) if part.weight]
        known = [weight * value for weight, value in counted if value is not None]
        return Rewarded(sum(known) if len(known) == len(counted) else None, parts)

    @property
    def claims(self) -> Claims:
        """What a reply may claim of itself in the forms of the judges among them."""
        judges = [getattr(part.source, "judge", None) for part in self.parts]
        return Claims.before([judge.protocol for judge in judges if judge])

    def why(self, name: str) -> str:
        """Why a part had no number for some replies, as it says itself; ""."""
        return next((str(getattr(part.source, "why", "")) for part in self.parts if part.name == name), "")

    def release(self) -> None:
        """Give back the memory of networks that were loaded for it."""
        for part in self.parts:
            if hasattr(part.source, "release"):
                part.source.release()

    def signature(self) -> Any:
        return [[p.name, p.weight, code_hash(p.source), p.source.signature()] for p in self.parts]


def open_rewards(specs: Sequence[RewardSpec], context: RewardContext) -> Rewards:
    """The sources a recipe names, checked. Raises ConfigError."""
    parts: list[Part] = []
    for number, spec in enumerate(specs):
        where = context.where.at(number)
        kind = load(spec.source, REWARDS, "reward", where.at("source"))
        options = parse_options(kind, spec.options, where.at("options"))
        source = construct(kind, "(options, context)", options, replace(context, where=where))
        if not inspect.iscoroutinefunction(type(source).__call__) or not hasattr(source, "signature"):
            raise ConfigError(
                f'{where.at("source")}: "{spec.source}" is no reward: its class needs `async def __call__(self, items)` and '
                "`signature`."
            )
        name = getattr(source, "name", spec.source)
        taken = {part.name for part in parts}
        parts.append(Part(name if name not in taken else f"{name} {number + 1}", source, spec.weight))
    if parts and not any(part.weight for part in parts):
        raise ConfigError(
            f"{context.where}: every reward has weight 0: nothing would be learnt. Give one of them a weight."
        )
    return Rewards(tuple(parts))
