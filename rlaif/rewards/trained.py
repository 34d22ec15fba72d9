"""The run's reward model as a reward: one, or several trained alike but for their seeds, put together.

Of an ensemble the mean, the lowest, or the mean less ``penalty`` standard deviations (after Coste et al. 2024, 2310.02743, *worst*
and *uncertainty-weighted* optimisation; the latter takes variances): what its members disagree on is not worth seeking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError
from rlaif.policy import Items
from rlaif.rewards import RewardContext, Values

Combine = Literal["mean", "worst", "uncertainty"]


class TrainedReward:
    class Options(BaseOptions):
        combine: Combine = "mean"
        penalty: float = Field(default=1.0, ge=0)  # of uncertainty: standard deviations taken off the mean

        @model_validator(mode="after")
        def _penalty_used(self) -> Self:
            if self.combine != "uncertainty" and "penalty" in self.model_fields_set:
                raise ValueError("penalty is of combine: uncertainty")
            return self

    name = "reward_model"

    def __init__(self, options: Options, context: RewardContext) -> None:
        if context.reward_model is None:
            raise ConfigError(f"{context.where}: rewards come from the reward model: set reward_model.")
        if options.combine != "mean" and context.members == 1:
            raise ConfigError(
                f"{context.where}: combine {options.combine} is of several models: set reward_model.members."
            )
        self.options, self.context = options, context
        self.loaded: Any = None

    async def __call__(self, items: Items) -> Values:
        return await self.context.labels.gateway.in_worker(self._score, items)

    def _score(self, items: Items) -> Values:
        assert self.context.reward_model
        self.loaded = self.loaded or self.context.reward_model()
        asked = [(p.messages, [(r.messages, r.finish_reason != "length") for r in many]) for p, many in items]
        return together([model(asked) for model in self.loaded], self.options.combine, self.options.penalty)

    def release(self) -> None:
        self.loaded = None

    def signature(self) -> Any:
        return self.options.model_dump()


def together(members: Sequence[Values], combine: Combine = "mean", penalty: float = 0.0) -> Values:
    """One reward of those that an ensemble's members give each response; None where one gives none."""

    def one(given: Sequence[float | None]) -> float | None:
        values = [value for value in given if value is not None]
        if len(values) < len(given):
            return None
        if combine == "worst":
            return min(values)
        return fmean(values) - (penalty * pstdev(values) if combine == "uncertainty" else 0.0)

    return [[one(given) for given in zip(*rows, strict=True)] for rows in zip(*members, strict=True)]


def trained_rewards(folders: Sequence[Path], options: Any, notice: Callable[[str], None]) -> list[Any]:
    """The reward models of these folders, loaded."""
    from rlaif.reward import RewardModel

    return [RewardModel(folder, options, where="reward model", notice=notice) for folder in folders]
