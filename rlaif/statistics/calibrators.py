"""Maps from a judge's probabilities to people's, fitted by log-loss, and what they come to on prompts they did not see.

Platt 1999; Zadrozny and Elkan 2002 (isotonic); Guo et al. 2017, 1706.04599 (temperature). All are fitted on pairs and
their mirror images at once, so that none prefers a place.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, isotonic_regression, minimize
from scipy.special import expit

from rlaif.calibration import LEAST, SURE, Kind, Map, evidence
from rlaif.statistics.calibration import log_loss
from rlaif.statistics.figures import Array, numbered

FOLDS = 5
BARE = frozenset((0.0, 0.25, 0.5, 0.75, 1.0))  # the p of verdicts without probabilities, two orders averaged
MOST = 1e3  # of a temperature's inverse: verdicts that are always right want an infinite one


def fit(kind: Kind, p: ArrayLike, target: ArrayLike) -> Map:
    """The map with the least log-loss of ``target``, people's probability of the same reply, given the judge's ``p``."""
    q, t = np.asarray(p, dtype=np.float64), np.asarray(target, dtype=np.float64)
    q, t = np.where(q < 0.5, 1 - q, q), np.where(q < 0.5, 1 - t, t)  # seen from the reply that the judge prefers
    told = q > 0.5
    z = np.log(np.clip(q, LEAST, 1 - LEAST)) - np.log1p(-np.clip(q, LEAST, 1 - LEAST))
    if kind == "temperature":
        return Map(kind=kind, a=_slope(z[told], t[told]))
    if kind == "platt":
        a, b = _platt(z[told], t[told])
        return Map(kind=kind, a=a, b=b)
    if kind == "isotonic":
        return _isotonic(q, t)
    levels = [_smoothed(t[level]) for level in (q >= SURE, told & (q < SURE)) if level.any()]
    return Map(kind=kind, y=tuple(levels if levels == sorted(levels, reverse=True) else [_smoothed(t[told])]) or (0.5,))


def fit_panel(opinions: Sequence[Mapping[str, float]], target: ArrayLike) -> Map:
    """The weights of several labellers' opinions with the least log-loss: logistic regression on their evidence, without an
    intercept, none below 0 (a judge that is worse than a coin is left out, not turned round)."""
    names = list(dict.fromkeys(name for row in opinions for name in row))
    t = np.asarray(target, dtype=np.float64)
    z = np.array([[evidence(row[name]) if name in row else 0.0 for name in names] for row in opinions])

    def loss(w: Array) -> tuple[float, Array]:
        found = expit(z @ w)
        return float(log_loss(found, t).mean()), z.T @ (found - t) / len(t)

    best = minimize(loss, np.full(len(names), 1 / len(names)), jac=True, bounds=[(0.0, MOST)] * len(names))
    return Map(kind="panel", weights=dict(zip(names, map(float, best.x), strict=True)))


def _smoothed(t: Array) -> float:
    """The share of ones with one more of each: no verdict is certain."""
    return max(0.5, (float(t.sum()) + 1) / (len(t) + 2))


def _slope(z: Array, t: Array) -> float:
    """The a >= 0 at which the mean of (sigma(a z) - t) z is 0: it rises with a."""

    def gradient(a: float) -> float:
        return float(np.sum((expit(a * z) - t) * z))

    if not z.size or gradient(0.0) >= 0:
        return 0.0
    return MOST if gradient(MOST) <= 0 else float(brentq(gradient, 0.0, MOST))


def _platt(z: Array, t: Array) -> tuple[float, float]:
    if not z.size:
        return 0.0, 0.0

    def loss(ab: Array) -> tuple[float, Array]:
        found = expit(ab[0] * z + ab[1])
        return float(log_loss(found, t).mean()), np.array([np.mean((found - t) * z), np.mean(found - t)])

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=[(0.0, MOST), (-20.0, 20.0)])
    return float(best.x[0]), float(best.x[1])


def _isotonic(q: Array, t: Array) -> Map:
    """Pools of the pairs and their mirror images, as points at their mean p; the upper half says all."""
    both, label = np.concatenate([q, 1 - q]), np.concatenate([t, 1 - t])
    level, place = np.unique(both, return_inverse=True)
    count = np.bincount(place)
    fitted = isotonic_regression(np.bincount(place, label) / count, weights=count).x
    edges = np.flatnonzero(np.diff(fitted, prepend=np.nan, append=np.nan))
    x, y = [0.5], [0.5]
    for start, end in itertools.pairwise(edges):
        middle = float(np.average(level[start:end], weights=count[start:end]))
        if middle > 0.5:
            x.append(middle)
            y.append(float(max(0.5, fitted[start])))
    return (
        Map(kind="isotonic", x=tuple(x), y=tuple(y)) if len(x) > 1 else Map(kind="isotonic", x=(0.5, 1.0), y=(0.5, 0.5))
    )


def apply(found: Map, p: ArrayLike) -> Array:
    return np.array([found.of(float(each)) for each in np.asarray(p, dtype=np.float64)])


def unseen(kind: Kind, p: ArrayLike, target: ArrayLike, prompts: Sequence[Hashable], *, seed: int = 0) -> Array:
    """What maps fitted on the other folds make of each pair; the prompts are dealt into folds, never the pairs."""
    q, t = np.asarray(p, dtype=np.float64), np.asarray(target, dtype=np.float64)
    found = np.empty(len(q))
    for held in folds(prompts, seed=seed):
        found[held] = apply(fit(kind, q[~held], t[~held]), q[held])
    return found


def unseen_panel(
    opinions: Sequence[Mapping[str, float]], target: ArrayLike, prompts: Sequence[Hashable], *, seed: int = 0
) -> Array:
    """``unseen`` for a panel's weights."""
    t = np.asarray(target, dtype=np.float64)
    found = np.empty(len(t))
    for held in folds(prompts, seed=seed):
        weighed = fit_panel([row for row, out in zip(opinions, held, strict=True) if not out], t[~held])
        found[held] = [weighed.of_panel(row) for row, out in zip(opinions, held, strict=True) if out]
    return found


def folds(prompts: Sequence[Hashable], *, seed: int = 0) -> Iterator[NDArray[np.bool_]]:
    """Which rows are held out, fold by fold."""
    index, groups = numbered(prompts)
    fold = np.random.default_rng(seed).permutation(groups)[index] % FOLDS
    for number in range(FOLDS):
        yield fold == number
