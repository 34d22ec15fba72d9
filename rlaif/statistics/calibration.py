"""Whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif.statistics.figures import LEVEL, MOST, Array, Figure, numbered

BINS = 10  # of predictions


def log_loss(p: ArrayLike, target: ArrayLike) -> Array:
    """Cross-entropy in nats of each predicted probability against its target in [0, 1]."""
    q = np.clip(np.asarray(p, dtype=np.float64), 1e-12, 1 - 1e-12)
    t = np.asarray(target, dtype=np.float64)
    losses: Array = -t * np.log(q) - (1 - t) * np.log1p(-q)
    return losses


def reliability(
    p: ArrayLike, target: ArrayLike, bins: int = BINS, weight: ArrayLike | None = None
) -> list[tuple[float, float, int]]:
    """(mean prediction, mean outcome, count) in bins of about equal size, for a reliability plot.

    Equal predictions share a bin, so the order of the rows does not matter. ``weight``: how often each row counts,
    whole numbers; by default once.
    """
    q, t = np.asarray(p, dtype=np.float64), np.asarray(target, dtype=np.float64)
    times = np.ones(len(q)) if weight is None else np.asarray(weight, dtype=np.float64)
    q, t, times = q[times > 0], t[times > 0], times[times > 0]
    size, predicted, found = (np.bincount(_bins(q, times, bins), times * x) for x in (np.ones(len(q)), q, t))
    return [(float(predicted[i] / size[i]), float(found[i] / size[i]), int(size[i])) for i in np.flatnonzero(size)]


def _bins(q: Array, times: Array, bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each prediction; ``times``, at least 1, is how often it counts."""
    level = np.unique(q, return_inverse=True)[1]
    counts = np.bincount(level, times)
    middle = np.cumsum(counts) - counts / 2  # of each distinct prediction's ranks
    total = counts.sum()
    return (middle * min(bins, total) / max(1, total)).astype(np.int64)[level]


def calibration_error(p: ArrayLike, target: ArrayLike, bins: int = BINS, weight: ArrayLike | None = None) -> float:
    """Expected calibration error over bins of equal size, in [0, 1]; ``weight`` as in ``reliability``."""
    parts = reliability(p, target, bins, weight)
    total = sum(count for _, _, count in parts)
    return sum(abs(mean - outcome) * count for mean, outcome, count in parts) / total


def calibration_figure(p: ArrayLike, target: ArrayLike, clusters: Sequence[Hashable], *, seed: int = 0) -> Figure:
    """Expected calibration error with an interval that resamples whole clusters (1,000 resamples) and holds the value.

    The noise of the bins adds to the error and never cancels: a sample's error lies above the truth (Kumar et al. 2019,
    1909.10155; Roelofs et al. 2020, 2012.08668), a resample's above the sample's. So the lower end is that of the basic
    interval, the resamples reflected at the value (Davison and Hinkley 1997, §5.2), and it is 0 where the value is no
    larger than 95% of the errors that noise alone would give: those of resamples after every bin's outcomes were moved
    to its mean prediction (after the consistency resampling of Bröcker and Smith 2007, Weather and Forecasting 22). The
    upper end lies as far above the value as resamples reach above their mean: there the excess is not taken off, for
    it is itself uncertain, and taking it off misses the truth too often.
    """
    q, t = np.asarray(p, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if q.size == 0:
        return Figure(value=None, n=0)
    value = calibration_error(q, t)
    index, groups = numbered(clusters)
    if groups < 2:
        return Figure(value=value, n=q.size)
    bin_of = _bins(q, np.ones(len(q)))
    gap = np.bincount(bin_of, q - t) / np.maximum(1, np.bincount(bin_of))
    right = t + gap[bin_of]
    random = np.random.default_rng(seed)
    draws, noise = np.empty(1000), np.empty(1000)
    for i in range(1000):
        times = np.bincount(random.integers(0, groups, groups), minlength=groups)[index].astype(np.float64)
        draws[i], noise[i] = calibration_error(q, t, weight=times), calibration_error(q, right, weight=times)
    most = float(np.quantile(draws, MOST))
    low = 0.0 if value <= np.quantile(noise, LEVEL) else max(0.0, 2 * value - most)
    return Figure(value=value, low=min(low, value), high=min(1.0, value + most - float(draws.mean())), n=q.size)
