"""Differences between arms of a study: several trainings (seeds), measured on the same prompts.

A difference is better, worse, equivalent within a margin, or the study cannot say, and then how large a difference it could
have seen. "Not significantly different" is no parity (Schuirmann 1987; Lakens 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, ndtri, stdtr

from rlaif.statistics.figures import Figure

ALPHA = 0.05
POWER = 0.8
RARE = 3 / 1.645  # added errors, in prompts: 1.645 of them are the rule of three's bound
NODES, FEW = 512, 16  # equally likely values of a variance that is known from few seeds
Answer = Literal["better", "worse", "equivalent", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """An estimated mean difference and the variances of that mean.

    Few seeds tell little of how much trainings differ: three that ended alike by chance say nearly nothing. So every probability
    is the mean over the values that this variance may have, the estimate times df/χ²_df (generalized p values, Tsui and Weerahandi
    1989): where seeds are all the noise it is Student's t with ``seed_df``, and of prompts alone that with prompts − 1.
    """

    value: float
    by_prompt: float  # of the mean, from one draw of prompts to another
    n: int  # values it is of
    units: int  # prompts
    by_seed: float = 0.0  # from one training to another
    both: float = 0.0  # the part that either counts
    seed_df: int = 0  # degrees of freedom of by_seed; 0: one seed, which says nothing of others
    rare: float = 0.0  # error added to outcomes that are shares

    @property
    def error(self) -> float:
        """The standard error."""
        return float(self._errors(np.ones(1))[0])

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        half = self._half((1 - level) / 2)
        low, high = self.value - half, self.value + half
        return (max(-1.0, low), min(1.0, high)) if self.rare else (low, high)

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

    @property
    def of_shares(self) -> Difference:
        """The same of outcomes within a step of 1, such as yes and no. What hardly ever happens may not have happened here at all: then the
        observed spread is less than the true one, none where nothing differed. As much is added to the error as makes the bound of
        nothing seen the rule of three's, 3 / prompts (Hanley and Lippman-Hand 1983)."""
        return replace(self, rare=RARE / self.units)

    def detectable(self, power: float = POWER, alpha: float = ALPHA) -> float:
        """The smallest true difference that studies with these variances find with this probability, each by what its own seeds say
        of theirs."""
        error = self.error
        if not error:
            return 0.0
        chances = 1 / _times(self.seed_df, FEW)  # another study's variance by seeds, of this one's
        needed = np.array([replace(self, by_seed=self.by_seed * times)._half(alpha / 2) for times in chances])

        def missed(distance: float) -> float:
            return power - float(ndtr((distance - needed) / error).mean())

        found = float(brentq(missed, 0.0, needed.max() + 9 * error))
        return min(1.0, found) if self.rare else found

    def _errors(self, times: Any) -> Any:
        """Standard errors where the seeds' variance is so many times its estimate."""
        alone = max(0.0, self.by_prompt - self.both)
        return np.sqrt(np.maximum(self.by_seed * times + alone, self.by_prompt) + self.rare**2)

    def _beyond(self, distance: float) -> float:
        """Probability of an estimate at least so far above what it is of."""
        errors = self._errors(_times(self.seed_df, NODES))
        if not errors.all():
            return 0.0 if distance > 0 else 1.0 if distance < 0 else 0.5
        return float(stdtr(self.units - 1, -distance / errors).mean())

    def _half(self, tail: float) -> float:
        """The distance beyond which an estimate is with probability ``tail``."""
        if not (most := self.error):
            return 0.0
        while self._beyond(most) > tail:
            most *= 2
        return float(brentq(lambda distance: self._beyond(distance) - tail, 0.0, most, rtol=1e-9))


@lru_cache
def _times(df: int, count: int) -> Any:
    """What the variance between seeds may be, as a multiple of its estimate: so many values, equally likely."""
    return df / chdtri(df, (np.arange(count) + 0.5) / count) if df else np.ones(1)


def crossed_difference(values: ArrayLike) -> Difference:
    """The mean of paired differences of shape (seeds, prompts), NaN where one is missing, as of another training on other prompts.

    Seeds and prompts are both random, and crossed: d = δ + seed + prompt + rest. The variance of the mean is that by seeds, of the
    sums of each seed, and that by prompts, likewise, less what both count of the rest (Cameron, Gelbach and Miller 2011); at least
    that by prompts alone. Where none is missing these are (MS_seed + MS_prompt − MS_rest) / (seeds · prompts). An arm's seeds tell of
    its own trainings alone: those of another may differ more. Of one seed it is the variance by prompts, and says nothing of other
    seeds. Raises ValueError for fewer than two prompts, and for a seed without any.
    """
    d = np.asarray(values, dtype=np.float64)
    d = d[:, ~np.isnan(d).all(axis=0)]
    there = ~np.isnan(d)
    seeds, prompts = d.shape
    if prompts < 2:
        raise ValueError(f"a difference needs two prompts or more, found {prompts}")
    if not there.any(axis=1).all():
        raise ValueError("a difference needs a prompt of every seed, and one has none")
    n, mean = int(there.sum()), float(d[there].mean())
    from_mean = np.where(there, d - mean, 0.0)
    by_prompt = float((from_mean.sum(axis=0) ** 2).sum()) / n**2 * prompts / (prompts - 1)
    if seeds == 1:
        return Difference(mean, by_prompt, n, prompts)
    by_seed = float((from_mean.sum(axis=1) ** 2).sum()) / n**2 * seeds / (seeds - 1)
    return Difference(mean, by_prompt, n, prompts, by_seed, _rest(from_mean, there) / n, seeds - 1)


def _rest(values: Any, there: Any) -> float:
    """The variance that is left where each seed and each prompt has a mean of its own; 0 where too little is left to know it."""
    seeds, prompts = values.shape
    degrees = int(there.sum()) - prompts - seeds + 1
    if degrees < 1:
        return 0.0
    share = there / there.sum(axis=0)  # of a prompt's mean, by seed
    of_prompt = values - there * values.sum(axis=0) / there.sum(axis=0)
    between = np.diag(there.sum(axis=1)) - share @ there.T  # seeds' means beside those of prompts: normal equations
    of_seed = np.linalg.lstsq(between, of_prompt.sum(axis=1), rcond=None)[0]
    rest = of_prompt - there * (of_seed[:, None] - (share * of_seed[:, None]).sum(axis=0))
    return float((rest**2).sum()) / degrees


def over_seeds(figures: Iterable[Figure]) -> Figure:
    """The mean of what each seed has, and of the ends of its intervals: as wide as for one seed, since all are of the same prompts.
    What is not known of a seed is left out."""
    known = [figure for figure in figures if figure.value is not None]

    def mean(ends: Sequence[float | None]) -> float | None:
        there = [end for end in ends if end is not None]
        return fmean(there) if there and len(there) == len(ends) else None

    value, low, high = (mean([getattr(figure, name) for figure in known]) for name in ("value", "low", "high"))
    return Figure(value=value, low=low, high=high, n=sum(figure.n for figure in known))


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
    alpha: float  # that the smallest p value of its family is held against

    @cached_property
    def detectable(self) -> float:
        """The smallest true difference that four of five such studies find, of so many arms."""
        return self.difference.detectable(alpha=self.alpha)


def conclusions(differences: Mapping[str, Difference], margin: float, alpha: float = ALPHA) -> dict[str, Conclusion]:
    """Better or worse where there surely is a difference, and it is not surely within ±``margin``; equivalent where it surely is;
    else inconclusive. Over the family, at most a share ``alpha`` of studies say one falsely better or worse, and at most that
    share one falsely equivalent."""
    p = holm({name: each.p for name, each in differences.items()})
    alike = holm({name: each.p_equivalent(margin) for name, each in differences.items()})

    return {
        name: Conclusion(
            answer(each.value, p[name], alike[name], alpha),
            each,
            margin,
            p[name],
            alike[name],
            alpha / len(differences),
        )
        for name, each in differences.items()
    }


def answer(difference: float, p: float, p_equivalent: float, alpha: float = ALPHA) -> Answer:
    """What p values of its family say of a difference."""
    if p_equivalent < alpha:
        return "equivalent"
    if p < alpha:
        return "better" if difference > 0 else "worse"
    return "inconclusive"


def detectable_with(prompts: int, deviation: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest true difference of paired values with this ``deviation`` that so many prompts find, with this probability, where
    trainings do not differ: (z_{1−α/2} + z_power)·deviation/√prompts."""
    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    return z * deviation / math.sqrt(prompts)
