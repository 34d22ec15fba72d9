"""Differences between arms of a study: several trainings (seeds), measured on the same prompts.

A difference is better, worse, equivalent within a margin, or the study cannot say, and then how large a difference it could
have seen. "Not significantly different" is no parity (Schuirmann 1987; Lakens 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr, stdtrit

from rlaif.statistics.figures import Figure

ALPHA = 0.05
POWER = 0.8
RARE = 3 / 1.645  # added errors, in prompts: 1.645 of them are the rule of three's bound
Answer = Literal["better", "worse", "equivalent", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """An estimated mean difference; ``error`` its standard error, ``df`` the degrees of freedom of its t."""

    value: float
    error: float
    df: float
    n: int  # values it is of
    units: int  # independent of each other: prompts

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        half = float(stdtrit(self.df, (1 + level) / 2)) * self.error if self.error else 0.0
        return self.value - half, self.value + half

    @property
    def figure(self) -> Figure:
        low, high = self.interval()
        return Figure(value=self.value, low=low, high=high, n=self.n)

    @property
    def share(self) -> Figure:
        """Of a difference from nothing: what is itself a share, so that its interval ends where shares do."""
        low, high = self.interval()
        return Figure(value=self.value, low=max(0.0, low), high=min(1.0, high), n=self.n)

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        return 2 * self._beyond(abs(self.value))

    def p_equivalent(self, margin: float) -> float:
        """p value of a difference of ``margin`` or more, either way: the larger of two one-sided tests (Schuirmann 1987)."""
        return max(self._beyond(margin - self.value), self._beyond(margin + self.value))

    def _beyond(self, distance: float) -> float:
        """Probability of an estimate at least so far above what it is of."""
        if not self.error:
            return 0.0 if distance > 0 else 1.0 if distance < 0 else 0.5
        return float(stdtr(self.df, -distance / self.error))

    @property
    def of_shares(self) -> Difference:
        """The same of outcomes within a step of 1, such as yes and no. What hardly ever happens may not have happened here at all: then the
        observed spread is less than the true one, none where nothing differed. As much is added to the error as makes the bound of
        nothing seen the rule of three's, 3 / prompts (Hanley and Lippman-Hand 1983)."""
        return replace(self, error=math.hypot(self.error, RARE / self.units))

    def detectable(self, power: float = POWER, alpha: float = ALPHA) -> float:
        """The smallest true difference that a study like this finds with this probability: (t_{1−α/2} + t_power)·error."""
        return float(stdtrit(self.df, 1 - alpha / 2) + stdtrit(self.df, power)) * self.error


def crossed_difference(values: ArrayLike) -> Difference:
    """The mean of paired differences of shape (seeds, prompts), NaN where one is missing, as of another training on other prompts.

    Seeds and prompts are both random, and crossed: d = δ + seed + prompt + rest. The variance of the mean is (MS_seed +
    MS_prompt − MS_rest) / (seeds · prompts), at least that of either alone, with Satterthwaite's (1946) degrees of freedom. Of
    one seed it is that of prompts alone, and says nothing of other seeds. Where seeds differ more than prompts, two are few: 95%
    intervals then hold the truth in 92%. Raises ValueError for fewer than two prompts.
    """
    d = np.asarray(values, dtype=np.float64)
    d = d[:, ~np.isnan(d).any(axis=0)]
    seeds, prompts = d.shape
    if prompts < 2:
        raise ValueError(f"a difference needs two prompts or more, found {prompts} that all seeds have")
    mean = float(d.mean())
    by_prompt = float(seeds * d.mean(axis=0).var(ddof=1))
    if seeds == 1:
        return Difference(mean, math.sqrt(by_prompt / prompts), prompts - 1, prompts, prompts)
    by_seed = float(prompts * d.mean(axis=1).var(ddof=1))
    rest = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + mean
    left = float((rest**2).sum() / ((seeds - 1) * (prompts - 1)))
    total = max(by_seed + by_prompt - left, by_seed, by_prompt)
    spread = by_seed**2 / (seeds - 1) + by_prompt**2 / (prompts - 1) + left**2 / ((seeds - 1) * (prompts - 1))
    df = total**2 / spread if spread else 1.0
    return Difference(mean, math.sqrt(total / (seeds * prompts)), max(df, 1.0), d.size, prompts)


def clustered_difference(values: ArrayLike, clusters: Sequence[object]) -> Difference:
    """The mean of differences that come in clusters (prompts), each cluster independent of the others."""
    d = np.asarray(values, dtype=np.float64)
    order = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    if len(order) < 2:
        raise ValueError(f"a difference needs two clusters or more, found {len(order)}")
    place = np.fromiter((order[name] for name in clusters), dtype=np.int64, count=d.size)
    mean = float(d.mean())
    off = np.bincount(place, weights=d - mean, minlength=len(order))
    error = math.sqrt(float((off**2).sum()) * len(order) / (len(order) - 1)) / d.size
    return Difference(mean, error, len(order) - 1, d.size, len(order))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) p values of a family: the smallest times their number, the next times one less, never falling."""
    found: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        found[name] = highest
    return {name: found[name] for name in p}


@dataclass(frozen=True)
class Conclusion:
    """What a study says of one difference; p values are those of its family."""

    answer: Answer
    difference: Difference
    margin: float
    p: float
    p_equivalent: float
    detectable: float  # the smallest true difference that four of five such studies find, of so many arms


def conclusions(differences: Mapping[str, Difference], margin: float, alpha: float = ALPHA) -> dict[str, Conclusion]:
    """Better or worse where there surely is a difference, and it is not surely within ±``margin``; equivalent where it surely is;
    else inconclusive. Over the family, at most a share ``alpha`` of studies say one falsely better or worse, and at most that
    share one falsely equivalent."""
    p = holm({name: each.p for name, each in differences.items()})
    alike = holm({name: each.p_equivalent(margin) for name, each in differences.items()})

    def answer(name: str) -> Answer:
        if alike[name] < alpha:
            return "equivalent"
        if p[name] < alpha:
            return "better" if differences[name].value > 0 else "worse"
        return "inconclusive"

    return {
        name: Conclusion(
            answer(name), each, margin, p[name], alike[name], each.detectable(alpha=alpha / len(differences))
        )
        for name, each in differences.items()
    }


def detectable_with(prompts: int, deviation: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest true difference of paired values with this ``deviation`` that so many prompts find, with this probability, where
    trainings do not differ: (z_{1−α/2} + z_power)·deviation/√prompts."""
    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    return z * deviation / math.sqrt(prompts)
