"""Agreement, calibration, intervals: pure functions on arrays.

Every figure that leaves here for ``metrics.json`` is a ``Figure``: value, interval and n.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

RESAMPLES = 10_000
BLOCK = 1_000  # resamples drawn at once
BINS = 10  # of predictions, where calibration is measured
KINDS = 512  # kinds of clusters that a resample tells apart
LEVEL = 0.95
Array = NDArray[np.float64]


class Figure(BaseModel):
    """A number with its 95% interval and sample size; ``low`` and ``high`` are None for counts and settings."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int


def wilson(successes: float, n: int) -> Figure:
    """Wilson (1927) score interval of a share of independent trials."""
    if n == 0:
        return Figure(value=None, n=0)
    z = 1.959963984540054
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Figure(value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)), n=n)


def cluster_mean(values: ArrayLike, clusters: Sequence[Hashable], *, seed: int = 0) -> Figure:
    """Mean with a percentile bootstrap interval that resamples whole clusters (prompts).

    ``n`` is the number of values. With one cluster there is no interval.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return Figure(value=None, n=0)
    return _mean(*_by_cluster(x, clusters), float(x.min()), float(x.max()), seed)


def paired_difference(after: ArrayLike, before: ArrayLike, clusters: Sequence[Hashable], *, seed: int = 0) -> Figure:
    """Mean of ``after − before``, aligned by index, with an interval that resamples whole clusters.

    Where two rates (all values in [0, 1]) differ by the same −1, 0 or 1 everywhere, resampling would show no doubt at
    all: the interval then is Wilson's for the share of clusters that changed.
    """
    x, y = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if x.size == 0:
        return Figure(value=None, n=0)
    change = x - y
    sums, counts = _by_cluster(change, clusters)
    rates = min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) <= 1
    if not rates or np.any(change != change[0]) or change[0] not in (-1.0, 0.0, 1.0):
        return _bootstrap(sums, counts, seed)
    changed = wilson(abs(change[0]) * len(sums), len(sums))
    assert changed.low is not None
    assert changed.high is not None
    bounds = {0.0: (-changed.high, changed.high), 1.0: (changed.low, 1.0), -1.0: (-1.0, -changed.low)}
    low, high = bounds[float(change[0])]
    return Figure(value=float(change[0]), low=low, high=high, n=x.size)


class Means:
    """Named means fed row by row, with the figures of ``cluster_mean``. Memory grows with clusters, not with rows."""

    def __init__(self) -> None:
        self._clusters: dict[Hashable, int] = {}
        self._sums: dict[str, tuple[array[float], array[float]]] = {}  # by name: sum and count of each cluster
        self._range: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, cluster: Hashable) -> None:
        index = self._clusters.setdefault(cluster, len(self._clusters))
        sums, counts = self._sums.setdefault(name, (array("d"), array("d")))
        if index >= len(sums):
            new = bytes(8 * (index + 1 - len(sums)))
            sums.frombytes(new)
            counts.frombytes(new)
        sums[index] += value
        counts[index] += 1
        low, high = self._range.get(name, (value, value))
        self._range[name] = min(low, value), max(high, value)

    def figures(self) -> dict[str, Figure]:
        """Every name's figure, in the order of their first rows."""
        found = {}
        for name, columns in self._sums.items():
            sums, counts = (np.array(column) for column in columns)
            there = counts > 0
            found[name] = _mean(sums[there], counts[there], *self._range[name], seed=0)
        return found


def _numbered(clusters: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """The number of each row's cluster, and how many clusters there are."""
    names: dict[Hashable, int] = {}
    index = np.fromiter((names.setdefault(name, len(names)) for name in clusters), np.int64, len(clusters))
    return index, len(names)


def _by_cluster(x: Array, clusters: Sequence[Hashable]) -> tuple[Array, Array]:
    """Sum and count of each cluster's values."""
    index, groups = _numbered(clusters)
    sums: Array = np.bincount(index, x, groups).astype(np.float64)
    counts: Array = np.bincount(index, minlength=groups).astype(np.float64)
    return sums, counts


def _mean(sums: Array, counts: Array, low: float, high: float, seed: int) -> Figure:
    """The figure of a mean from its clusters; ``low`` and ``high`` are the least and greatest value."""
    if low == high and low in (0.0, 1.0):  # nothing to resample: the interval of as many trials as clusters
        share = wilson(low * len(sums), len(sums))
        return Figure(value=share.value, low=share.low, high=share.high, n=int(counts.sum()))
    return _bootstrap(sums, counts, seed)


def _bootstrap(sums: Array, counts: Array, seed: int) -> Figure:
    """Percentile interval of Σ sums / Σ counts over resamples of clusters.

    A resample is how often each *kind* of cluster was drawn: a multinomial over kinds has the same distribution as
    drawing clusters one by one, and its cost does not grow with their number.
    """
    value, n = float(sums.sum() / counts.sum()), int(counts.sum())
    clusters = len(sums)
    if clusters < 2:
        return Figure(value=value, n=n)
    if np.all(sums == value * counts):  # every cluster has the same mean
        return Figure(value=value, low=value, high=value, n=n)
    kind_sums, kind_counts, share = _kinds(sums, counts)
    random = np.random.default_rng(seed)
    draws: list[Array] = []
    for start in range(0, RESAMPLES, BLOCK):
        times = random.multinomial(clusters, share, min(BLOCK, RESAMPLES - start))
        draws.append((times @ kind_sums) / (times @ kind_counts))
    low, high = np.quantile(np.concatenate(draws), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=value, low=float(low), high=float(high), n=n)


def _kinds(sums: Array, counts: Array) -> tuple[Array, Array, Array]:
    """Sum and count of each kind of cluster, and the share of clusters of that kind.

    Clusters with equal sum and count are one kind. Where that leaves more than ``KINDS``, neighbours by their pull on
    the mean (sum − mean · count) are one kind with their average, far-off ones in bins of their own: bins have equal
    parts of the ranks and of the squared pulls, so that what averaging takes from the variance is below a thousandth.
    """
    kinds, kind_of = np.unique(sums + 1j * counts, return_inverse=True)
    if len(kinds) > KINDS:
        pull = sums - sums.sum() / counts.sum() * counts
        order = np.argsort(pull, kind="stable")
        parts = np.full(len(pull), 1 / len(pull)) + pull[order] ** 2 / (pull**2).sum()
        kind_of = np.empty(len(pull), dtype=np.int64)
        _, kind_of[order] = np.unique((np.cumsum(parts) * (KINDS / 2)).astype(np.int64), return_inverse=True)
    size = np.bincount(kind_of).astype(np.float64)
    return np.bincount(kind_of, sums) / size, np.bincount(kind_of, counts) / size, size / len(sums)


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
    index, groups = _numbered(clusters)
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
    most = float(np.quantile(draws, (1 + LEVEL) / 2))
    low = 0.0 if value <= np.quantile(noise, LEVEL) else max(0.0, 2 * value - most)
    return Figure(value=value, low=min(low, value), high=min(1.0, value + most - float(draws.mean())), n=q.size)
