"""A map from a judge's probabilities to people's: fitted by ``rlaif calibrate``, applied where a recipe names it.

Which of two replies comes first is nobody's doing, so every map is symmetric: what becomes of p and of 1 - p adds up to 1,
and one half stays one half.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["temperature", "platt", "isotonic", "verdicts", "panel"]
KINDS: tuple[Kind, ...] = ("temperature", "platt", "isotonic", "verdicts")  # of one labeller, or the mean of several
PANEL: Kind = "panel"
LEAST = 1e-6  # probabilities nearer to 0 or 1 count as this near
SURE = 0.9  # the p of a bare verdict that all orders share is 1, that of one beside a tie 0.75
VERDICT = 0.99  # the probability that a bare verdict stands for, in a panel


def evidence(p: float) -> float:
    """The logit of p, no further from 0 than a bare verdict's."""
    q = min(max(p, 1 - VERDICT), VERDICT)
    return math.log(q) - math.log1p(-q)


class Map(BaseModel):
    """``of(p)`` is the probability that people prefer the reply to which the judge gives p.

    *temperature*: sigma(a logit p), a = 1/T >= 0. *platt*: sigma(a |logit p| + b) for the preferred reply, not below one
    half. *isotonic*: through the points (x, y), straight between them. *verdicts*: y[0] for a preference that every order
    shares, y[1], where there are such, for one beside a tie, one half for a tie. *panel*, of several labellers: sigma(sum of w logit p), with a weight of its own, >= 0, for each; a verdict without a
    probability counts as ``VERDICT`` or one less that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    a: float = Field(default=1.0, ge=0)
    b: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    weights: dict[str, float] = {}

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.kind == "panel" and (not self.weights or min(self.weights.values()) < 0):
            raise ValueError("a panel needs its weights, none below 0")
        least = {"isotonic": 2, "verdicts": 1}.get(self.kind, 0)
        if len(self.y) < least or (self.kind == "isotonic" and len(self.x) != len(self.y)):
            raise ValueError(f"a map of kind {self.kind} needs its points")
        return self

    def of_panel(self, opinions: Mapping[str, float]) -> float:
        """Of each labeller's p. One without a weight counts nothing; one who is missing, likewise: a recipe whose labellers
        are others than these is refused before it begins."""
        total = sum(weight * evidence(opinions[name]) for name, weight in self.weights.items() if name in opinions)
        return 0.5 if total == 0 else 1 / (1 + math.exp(-total))

    def of(self, p: float) -> float:
        if p == 0.5:
            return 0.5
        return self._above(p) if p > 0.5 else 1 - self._above(1 - p)

    def _above(self, p: float) -> float:
        if self.kind == "verdicts":
            return self.y[-1] if p < SURE else self.y[0]
        if self.kind == "isotonic":
            return self._between(p)
        q = min(p, 1 - LEAST)
        logit = math.log(q) - math.log1p(-q)
        return max(0.5, 1 / (1 + math.exp(-(self.a * logit + (self.b if self.kind == "platt" else 0.0)))))

    def _between(self, p: float) -> float:
        place = bisect_left(self.x, p)
        if place == 0:
            return self.y[0]
        if place == len(self.x):
            return self.y[-1]
        (x0, x1), (y0, y1) = self.x[place - 1 : place + 1], self.y[place - 1 : place + 1]
        return y1 if x1 == x0 else y0 + (y1 - y0) * (p - x0) / (x1 - x0)


class Calibration(BaseModel):
    """A map with what it was fitted on. The file that ``rlaif calibrate`` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    map: Map
    labellers: tuple[str, ...]  # whose probabilities it is for
    people: str  # whose labels it was fitted on, as they were named
    sha256: str  # of the pairs: prompt, p and label of each
    pairs: int
    prompts: int
    figures: dict[str, Any] = {}  # on prompts that the map did not see, beside other maps: value, interval, n
