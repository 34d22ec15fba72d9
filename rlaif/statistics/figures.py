"""The one shape for numbers, shares and means with their intervals, and the resampling behind all other intervals."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

RESAMPLES = 10_000
BLOCK = 1_000  # resamples drawn at once, at most
CELLS = 2**22  # numbers that a block of resamples may hold
MOST_ROWS = 65_535  # of one stretch of a cluster
ROWS = 65_536  # clusters looked at at once
KINDS = 512  # kinds of clusters that a resample of a mean tells apart
LEVEL = 0.95
LEAST, MOST = (1 - LEVEL) / 2, (1 + LEVEL) / 2
Array = NDArray[np.float64]


class Figure(BaseModel):
    """A number with its 95% interval and sample size; ``low`` and ``high`` are None for counts and settings."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int


def share(figure: Figure) -> str:
    """A share for people: ``94.5% (90.1% to 97.2%)``; a dash where there is none."""
    if figure.value is None:
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.1%} to {figure.high:.1%})"
    return f"{figure.value:.1%}{interval}"


def points(figure: Figure) -> str:
    """A difference of shares for people: ``+3.1 points (+0.4 to +5.9)``."""
    if figure.value is None:
        return "–"
    interval = (
        "" if figure.low is None or figure.high is None else f" ({100 * figure.low:+.1f} to {100 * figure.high:+.1f})"
    )
    return f"{100 * figure.value:+.1f} points{interval}"


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
    """Named means fed row by row, with the figures of ``cluster_mean``.

    Memory grows with stretches of rows that have one cluster: 8 bytes for each, and 6 for each of its names. A stretch's sum
    is kept to seven digits.
    """

    def __init__(self) -> None:
        self._stretches = array("Q")  # the number of each one's cluster
        self._cluster: str | None = None  # of the last one
        self._sums: dict[str, tuple[array[float], array[int]]] = {}  # by name: sum and count of each stretch
        self._range: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, cluster: str) -> None:
        if cluster != self._cluster:
            self._cluster = cluster
            self._stretches.append(_number_of(cluster))
        sums, counts = self._sums.setdefault(name, (array("f"), array("H")))
        if len(counts) == len(self._stretches) and counts[-1] == MOST_ROWS:
            self._stretches.append(self._stretches[-1])  # the cluster goes on in another stretch
        if new := len(self._stretches) - len(sums):
            sums.frombytes(bytes(sums.itemsize * new))
            counts.frombytes(bytes(counts.itemsize * new))
        sums[-1] += value
        counts[-1] += 1
        low, high = self._range.get(name, (value, value))
        self._range[name] = min(low, value), max(high, value)

    def figures(self) -> dict[str, Figure]:
        """Every name's figure, in the order of their first rows."""
        stretches = np.frombuffer(self._stretches, dtype=np.uint64)
        in_turn = np.sort(stretches)
        returned = bool(np.any(in_turn[1:] == in_turn[:-1]))
        if returned:  # else much memory for nothing
            _, first, index = np.unique(stretches, return_index=True, return_inverse=True)
            index = np.argsort(np.argsort(first))[index]  # in the order of their first rows
        found = {}
        for name, columns in self._sums.items():
            sums, counts = (np.array(column, dtype=np.float64) for column in columns)
            if returned:
                sums, counts = (np.bincount(index[: len(x)], x).astype(np.float64) for x in (sums, counts))
            if np.any(counts == 0):
                sums, counts = sums[counts > 0], counts[counts > 0]
            found[name] = _mean(sums, counts, *self._range[name], seed=0)
        return found


def _number_of(name: str) -> int:
    """64 bits that stand for a name: among a million names, two share theirs once in thirty million times."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def numbered(clusters: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """The number of each row's cluster, and how many clusters there are."""
    names: dict[Hashable, int] = {}
    index = np.fromiter((names.setdefault(name, len(names)) for name in clusters), np.int64, len(clusters))
    return index, len(names)


def _by_cluster(x: Array, clusters: Sequence[Hashable]) -> tuple[Array, Array]:
    """Sum and count of each cluster's values."""
    index, groups = numbered(clusters)
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
    """Percentile interval of Σ sums / Σ counts over resamples of clusters."""
    value, n = float(sums.sum() / counts.sum()), int(counts.sum())
    clusters = len(sums)
    if clusters < 2:
        return Figure(value=value, n=n)
    if np.all(sums == value * counts):  # every cluster has the same mean
        return Figure(value=value, low=value, high=value, n=n)
    kind_sums, kind_counts, share = _kinds(sums, counts)
    drawn = np.concatenate(list(_resamples(np.column_stack([kind_sums, kind_counts]), share, clusters, seed)))
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [LEAST, MOST])
    return Figure(value=value, low=float(low), high=float(high), n=n)


def _kinds(sums: Array, counts: Array) -> tuple[Array, Array, Array]:
    """Sum and count of each kind of cluster, and the share of clusters of that kind.

    Clusters with equal sum and count are one kind. Where that leaves more than ``KINDS``, neighbours by their pull on
    the mean (sum − mean · count) are one kind with their average, far-off ones in bins of their own: bins have equal
    parts of the ranks and of the squared pulls, so that what averaging takes from the variance is below a thousandth.
    """
    kinds: Counter[complex] = Counter()
    for start in range(0, len(sums), ROWS):  # of a million clusters all at once would take much memory
        part = slice(start, start + ROWS)
        found, times = np.unique(sums[part] + 1j * counts[part], return_counts=True)
        kinds.update(dict(zip(found.tolist(), times.tolist(), strict=True)))
        if len(kinds) > KINDS:
            break
    else:
        ordered = sorted(kinds, key=lambda kind: (kind.real, kind.imag))
        each, size = np.array(ordered), np.array([kinds[kind] for kind in ordered])
        return each.real, each.imag, size / len(sums)
    pull = sums - sums.sum() / counts.sum() * counts
    order = np.argsort(pull, kind="stable")
    parts = np.full(len(pull), 1 / len(pull)) + pull[order] ** 2 / (pull**2).sum()
    kind_of = np.empty(len(pull), dtype=np.int64)
    _, kind_of[order] = np.unique((np.cumsum(parts) * (KINDS / 2)).astype(np.int64), return_inverse=True)
    size = np.bincount(kind_of)
    return np.bincount(kind_of, sums) / size, np.bincount(kind_of, counts) / size, size / len(sums)


def resampled(
    value_of: Callable[[Array], Array], rows: ArrayLike, clusters: Sequence[Hashable], *, n: int, seed: int = 0
) -> Figure:
    """A figure that is a function of columns summed over rows, with a percentile interval that resamples whole clusters.

    ``rows`` has shape (rows, columns); ``value_of`` takes sums of shape (…, columns) to values of shape (…), NaN where
    the figure is undefined. Undefined for these rows, it has no value; undefined in more resamples than the interval
    leaves out at one end, or with one cluster alone, it has no interval.
    """
    table = np.asarray(rows, dtype=np.float64)
    if not len(table):
        return Figure(value=None, n=0)
    index, groups = numbered(clusters)
    sums = np.zeros((groups, table.shape[1]))
    np.add.at(sums, index, table)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(value_of(sums.sum(axis=0)))
        if math.isnan(value):
            return Figure(value=None, n=n)
        if groups < 2:
            return Figure(value=value, n=n)
        kinds, size = np.unique(sums, axis=0, return_counts=True)
        draws = np.concatenate([value_of(drawn) for drawn in _resamples(kinds, size / groups, groups, seed)])
    if np.isnan(draws).mean() > LEAST:
        return Figure(value=value, n=n)
    low, high = np.nanquantile(draws, [LEAST, MOST])
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value), n=n)


def _resamples(kinds: Array, share: Array, clusters: int, seed: int) -> Iterator[Array]:
    """Sums over resamples of clusters, in blocks of shape (resamples, columns).

    A resample is how often each *kind* of cluster was drawn: a multinomial over kinds has the same distribution as
    drawing clusters one by one, and its cost grows with the kinds alone.
    """
    random = np.random.default_rng(seed)
    block = max(1, min(BLOCK, CELLS // len(kinds)))
    for start in range(0, RESAMPLES, block):
        yield random.multinomial(clusters, share, min(block, RESAMPLES - start)) @ kinds
