"""The run's reward model as a reward: one, or several trained alike but for their seeds, put together.

Of an ensemble the mean, the lowest, or the mean less ``penalty`` standard deviations (Coste et al. 2024, 2310.02743, *worst*
and *uncertainty-weighted* optimisation): what its members disagree on is not worth seeking.
"""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any, Literal

from pydantic import Field

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError
from rlaif.policy import Items
from rlaif.rewards import RewardContext, Values


class TrainedReward:
    class Options(BaseOptions):
        combine: Literal["mean", "worst", "uncertainty"] = "mean"
        penalty: float = Field(default=1.0, ge=0)  # of uncertainty: standard deviations taken off the mean

    name = "reward_model"

    def __init__(self, options: Options, context: RewardContext) -> None:
        if context.reward_model is None:
            raise ConfigError(f"{context.where}: rewards come from the reward model: set reward_model.")
        self.options, self.context = options, context
        self.loaded: Any = None

    async def __call__(self, items: Items) -> Values:
        return await self.context.labels.gateway.in_worker(self._score, items)

    def _score(self, items: Items) -> Values:
        assert self.context.reward_model
        self.loaded = self.loaded or self.context.reward_model()
        asked = [(p.messages, [(r.messages, r.finish_reason != "length") for r in many]) for p, many in items]
        members = [model(asked) for model in self.loaded]
        return [
            [self._together([rewards[i][k] for rewards in members]) for k in range(len(many))]
            for i, (_, many) in enumerate(items)
        ]

    def _together(self, found: list[float | None]) -> float | None:
        values = [value for value in found if value is not None]
        if len(values) < len(found):
            return None
        if self.options.combine == "worst":
            return min(values)
        return fmean(values) - (self.options.penalty * pstdev(values) if self.options.combine == "uncertainty" else 0.0)

    def release(self) -> None:
        self.loaded = None

    def signature(self) -> Any:
        return self.options.model_dump()
