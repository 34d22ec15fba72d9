"""Agreement, calibration, intervals: pure functions on arrays.

Every figure that leaves here for ``metrics.json`` is a ``Figure``: value, interval and n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

RESAMPLES = 10_000
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
    sums, counts = _by_cluster(x, clusters)
    if np.all(x == x[0]) and x[0] in (0.0, 1.0):  # nothing to resample: the interval of as many trials as clusters
        share = wilson(float(x[0]) * len(sums), len(sums))
        return Figure(value=share.value, low=share.low, high=share.high, n=x.size)
    return _bootstrap(
        lambda index: sums[index].sum(-1) / counts[index].sum(-1), len(sums), float(x.mean()), x.size, seed
    )


def cluster_statistic(
    statistic: Callable[[Array], float], values: ArrayLike, clusters: Sequence[Hashable], *, seed: int = 0
) -> Figure:
    """Any statistic of the rows of ``values`` with a cluster bootstrap interval (1,000 resamples)."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        return Figure(value=None, n=0)
    rows: dict[Hashable, list[int]] = {}
    for i, name in enumerate(clusters):
        rows.setdefault(name, []).append(i)
    groups = [np.array(r) for r in rows.values()]
    value = statistic(x)
    if len(groups) < 2:
        return Figure(value=value, n=len(x))
    random = np.random.default_rng(seed)
    draws = [
        statistic(x[np.concatenate([groups[g] for g in random.integers(0, len(groups), len(groups))])])
        for _ in range(1000)
    ]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=value, low=float(low), high=float(high), n=len(x))


def _by_cluster(x: Array, clusters: Sequence[Hashable]) -> tuple[Array, Array]:
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([names[name] for name in clusters])
    sums: Array = np.bincount(index, weights=x).astype(np.float64)
    counts: Array = np.bincount(index).astype(np.float64)
    return sums, counts


def _bootstrap(mean_of: Callable[[Any], Any], groups: int, value: float, n: int, seed: int) -> Figure:
    if groups < 2:
        return Figure(value=value, n=n)
    random = np.random.default_rng(seed)
    draws: list[Array] = []
    step = max(1, 4_000_000 // groups)  # bounds memory at 32 MB a block
    for start in range(0, RESAMPLES, step):
        index = random.integers(0, groups, (min(step, RESAMPLES - start), groups))
        draws.append(np.asarray(mean_of(index)))
    low, high = np.quantile(np.concatenate(draws), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=value, low=float(low), high=float(high), n=n)


def log_loss(p: ArrayLike, target: ArrayLike) -> float:
    """Mean cross-entropy in nats of predicted probabilities against targets in [0, 1]."""
    q = np.clip(np.asarray(p, dtype=np.float64), 1e-12, 1 - 1e-12)
    t = np.asarray(target, dtype=np.float64)
    return float(np.mean(-t * np.log(q) - (1 - t) * np.log1p(-q)))


def reliability(p: ArrayLike, target: ArrayLike, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean prediction, mean outcome, count) in bins of about equal size, for a reliability plot.

    Equal predictions share a bin, so the order of the rows does not matter.
    """
    q, t = np.asarray(p, dtype=np.float64), np.asarray(target, dtype=np.float64)
    _, level, counts = np.unique(q, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # of each distinct prediction's ranks
    bin_of = (middle * min(bins, len(q)) / max(1, len(q))).astype(int)[level]
    parts = [np.flatnonzero(bin_of == i) for i in np.unique(bin_of)]
    return [(float(q[part].mean()), float(t[part].mean()), len(part)) for part in parts]


def calibration_error(p: ArrayLike, target: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over bins of equal size, in [0, 1]."""
    parts = reliability(p, target, bins)
    total = sum(count for _, _, count in parts)
    return sum(abs(mean - outcome) * count for mean, outcome, count in parts) / total
