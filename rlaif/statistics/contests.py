"""Two systems on the same prompts: paired tests and win rates."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlaif.statistics.figures import CELLS, LEAST, MOST, Array, Figure, cluster_mean, numbered, wilson

EXACT_BELOW = 25  # discordant pairs, from which the normal approximation is close
FITS = 1_000  # resamples that are fitted again
RIDGE = 1e-6  # keeps coefficients finite where length alone tells wins from losses; moves others by less than 1e-6
STEPS = 100


def mcnemar(only_one: int, only_other: int) -> float:
    """Two-sided p value of McNemar's (1947) test that two systems are right equally often on the same items.

    ``only_one``, ``only_other``: items on which only the one, only the other is right. Exact binomial below 25 of them,
    else χ² = (|b − c| − 1)² / (b + c) with one degree of freedom, 1 where b = c.
    """
    total, least = only_one + only_other, min(only_one, only_other)
    if total < EXACT_BELOW:
        return min(1.0, 2 * sum(math.comb(total, k) for k in range(least + 1)) / 2**total)
    square = max(0, abs(only_one - only_other) - 1) ** 2 / total
    return math.erfc(math.sqrt(square / 2))


def win_rate(p: ArrayLike, clusters: Sequence[Hashable]) -> Figure:
    """Mean probability of winning, in [0, 1]; a tie is ½.

    Wilson's interval where every cluster is one win or loss, else one that resamples clusters (prompts).
    """
    x = np.asarray(p, dtype=np.float64)
    if x.size == len(set(clusters)) and np.isin(x, (0.0, 1.0)).all():
        return wilson(float(x.sum()), x.size)
    return cluster_mean(x, clusters)


def discrete(p: ArrayLike) -> Array:
    """Each probability as the win (1), tie (½) or loss (0) that it leans to."""
    return (np.sign(np.asarray(p, dtype=np.float64) - 0.5) + 1) / 2


def standard_error(values: ArrayLike) -> float | None:
    """Standard error of a mean of independent values: deviation (n − 1) over √n; None for fewer than two."""
    x = np.asarray(values, dtype=np.float64)
    return float(x.std(ddof=1) / math.sqrt(x.size)) if x.size > 1 else None


def length_controlled(p: ArrayLike, longer_by: ArrayLike, clusters: Sequence[Hashable]) -> Figure:
    """The win rate that is left when both replies are as long, in [0, 1] (Dubois et al. 2024, 2404.04475).

    The "minimal" form, for prompts of one's own. Two numbers are fitted by maximum likelihood on the soft targets p:
    logit P(win) = θ + φ · tanh(Δ / deviation of Δ), with Δ = ``longer_by``, the reply's length less the baseline's (in
    characters), its deviation with n − 1, and no term for a prompt's difficulty. The figure is σ(θ): Δ set to 0. The
    released form of the paper's leaderboard also has a difficulty per instruction, two gamed baselines and an L1
    penalty chosen by cross-validation; figures of the two forms are not comparable.

    The interval fits 1,000 resamples of clusters again, Δ's deviation kept; where all rows are won, or all lost, it is
    Wilson's for so many clusters. No value for fewer than two rows, where all Δ are the same and not 0, or where length alone
    tells wins from losses: then nothing is known of equal lengths.
    """
    target = np.asarray(p, dtype=np.float64)
    x = _lengths(target, np.asarray(longer_by, dtype=np.float64))
    if x is None:
        return Figure(value=None, n=int(target.size))
    value = float(_fitted(target, x, np.ones((1, target.size)))[0][0])
    index, groups = numbered(clusters)
    if groups < 2:
        return Figure(value=value, n=target.size)
    if target.min() == target.max() in (0.0, 1.0):
        bounds = wilson(float(target[0]) * groups, groups)
        return Figure(value=float(target[0]), low=bounds.low, high=bounds.high, n=target.size)
    random = np.random.default_rng(0)
    draws: list[Array] = []
    block = max(1, min(FITS, CELLS // max(groups, target.size)))
    for start in range(0, FITS, block):
        times = random.multinomial(groups, np.full(groups, 1 / groups), min(block, FITS - start))
        draws.append(_fitted(target, x, times[:, index].astype(np.float64))[0])
    low, high = np.quantile(np.concatenate(draws), [LEAST, MOST])
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value), n=target.size)


def at_equal_length(p: ArrayLike, longer_by: ArrayLike) -> Array | None:
    """A value for each row, of shape (rows,), whose mean is ``length_controlled`` and whose spread is that figure's: with them it is
    compared, paired and over seeds, as any mean is. None where there is no such figure.

    Values of the fit's influence function: σ(θ) + σ'(θ) · n · (θ's part of H⁻¹ · the row's gradient), to first order what
    leaving a row out would do (Hampel 1974); they take in that φ was fitted too.
    """
    target = np.asarray(p, dtype=np.float64)
    x = _lengths(target, np.asarray(longer_by, dtype=np.float64))
    if x is None:
        return None
    value, theta, phi = (float(found[0]) for found in _fitted(target, x, np.ones((1, target.size))))
    predicted = 1 / (1 + np.exp(-(theta + phi * x)))
    gap, curve = target - predicted, predicted * (1 - predicted)
    h00, h01, h11 = curve.sum() + RIDGE, curve @ x, curve @ x**2 + RIDGE
    influence: Array = target.size * gap * (h11 - h01 * x) / (h00 * h11 - h01**2)
    return value + value * (1 - value) * influence


def _lengths(target: Array, difference: Array) -> Array | None:
    """tanh(Δ / deviation of Δ); None where nothing is known of equal lengths."""
    if target.size < 2 or (np.all(difference == difference[0]) and difference[0] != 0):
        return None
    x: Array = np.tanh(difference / (difference.std(ddof=1) or 1.0))
    return None if _separated(target, x) else x


def _separated(target: Array, x: Array) -> bool:
    """Whether every row is won or lost outright, and all that are won are the longer, or all the shorter ones."""
    won, lost = x[target == 1], x[target == 0]
    if not len(won) or not len(lost) or len(won) + len(lost) < len(target):
        return False
    return bool(won.min() > lost.max() or won.max() < lost.min())


def _fitted(target: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """σ(θ), θ and φ of the fit for every row of ``weight``, of shape (fits, rows): Newton's steps, none longer than 2."""
    theta, phi = np.zeros(len(weight)), np.zeros(len(weight))
    for _ in range(STEPS):
        predicted = 1 / (1 + np.exp(-(theta[:, None] + phi[:, None] * x)))
        gap, curve = weight * (target - predicted), weight * predicted * (1 - predicted)
        g0, g1 = gap.sum(axis=1) - RIDGE * theta, gap @ x - RIDGE * phi
        h00, h01, h11 = curve.sum(axis=1) + RIDGE, curve @ x, curve @ x**2 + RIDGE
        determinant = h00 * h11 - h01**2
        step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / determinant
        step *= np.minimum(1, 2 / np.maximum(np.hypot(*step), 1e-300))
        theta, phi = theta + step[0], phi + step[1]
        if np.abs(step).max() < 1e-10:
            break
    return 1 / (1 + np.exp(-theta)), theta, phi
