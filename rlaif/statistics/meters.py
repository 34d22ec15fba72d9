"""How far a labeller is pulled by something that is not quality: position, length, lists, its own family.

Every meter here is about pairs in which one reply has more of that something than the other. ``preferred`` says whether the
labeller preferred the one with more, the labels say whether it *is* the better one. What the labeller does where it is,
and where it is not, is compared; a plain share of preferences for it would mix habit with truth.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlaif.statistics.figures import Array, Figure, resampled, wilson

SURE = 1e-9  # a rate of mistakes below it counts as this
SLACK = 0.01  # verdicts count as no surer than this, when rows are weighed
LEAST_CLEAR = 0.02  # share of pairs whose better reply has more, or less: below it there is nothing to tell apart


@dataclass(frozen=True)
class Pull:
    """``pull``, in [-1, 1]: how much more often the labeller is right where the better reply has more of the feature than
    where it has less; below 0, less often. ``right_with``, ``right_against``: the two rates, in [0, 1]."""

    pull: Figure
    right_with: Figure
    right_against: Figure


def pull(preferred: ArrayLike, labels_for: ArrayLike, labels: ArrayLike, clusters: Sequence[Hashable]) -> Pull:
    """The pull of a feature on a labeller, given labels.

    ``preferred``: 1 where the labeller preferred the reply with more of the feature, 0 where the other, ½ for neither.
    ``labels``: how many labels the pair has that prefer one reply, one at least; ``labels_for``: how many of those prefer the
    reply with more. ``clusters``: prompts, whose rows are drawn together.

    A labeller that goes by the feature with probability b and else by the quality, and slips with probability e, has a pull
    of (1 - 2e) b; mistakes that have nothing to do with the feature take nothing away and add nothing.

    Labels are taken to be wrong at one rate ε, independently of each other and of the labeller; ε is found from how often
    two labels of a pair agree (``flip_rate``), and is 0 where no pair has two: then mistakes in the labels count as the
    labeller's, and where the better reply mostly has more of the feature they look like a pull. With the share of pairs
    whose better reply has more, ε gives each pair's probability t that it does; E[preferred] is linear in t, and the line,
    fitted by least squares weighed by its own variance, gives the two rates at t = 1 and t = 0. Intervals resample clusters,
    with all of this done again; where no resample differs, they leave what so many clusters cannot show. No value where labels
    say nothing: people agree half the time or less, or the feature nearly always or never goes with the better reply.
    """
    y, k, m = (np.asarray(column, dtype=np.float64) for column in (preferred, labels_for, labels))
    cells, cell_of = np.unique(np.column_stack([y, k, m]), axis=0, return_inverse=True)
    rows = np.zeros((len(y), len(cells)))
    rows[np.arange(len(y)), cell_of.reshape(-1)] = 1

    def rates(sums: Array) -> Array:
        """P(preferred | the reply with more is better), and given that it is worse, along a last axis of two."""
        return np.clip(_rates(sums, *cells.T), 0.0, 1.0)

    def figure(value_of: Callable[[Array], Array], least: float) -> Figure:
        found = resampled(lambda sums: value_of(rates(sums)), rows, clusters, n=len(y))
        if (
            found.value is not None
            and found.low is not None
            and found.high is not None
            and found.high - found.low < SURE
        ):
            unseen = wilson(0, len(set(clusters))).high
            assert unseen is not None
            found.low, found.high = max(least, found.value - unseen), min(1.0, found.value + unseen)
        return found

    return Pull(
        figure(lambda found: found[..., 0] + found[..., 1] - 1, -1.0),
        figure(lambda found: found[..., 0], 0.0),
        figure(lambda found: 1 - found[..., 1], 0.0),
    )


def _rates(sums: Array, y: Array, k: Array, m: Array) -> Array:
    """The line of ``pull`` from how many rows each cell (y, k of m labels) has: its values at t = 1 and at t = 0."""
    n = sums.sum(axis=-1)
    pairs = sums @ (m * (m - 1) / 2)
    agreeing = sums @ (k * (k - 1) / 2 + (m - k) * (m - k - 1) / 2)
    agreement = np.where(pairs > 0, agreeing / np.where(pairs > 0, pairs, 1), 1.0)
    slips = (1 - np.sqrt(np.where(agreement > 0.5, 2 * agreement - 1, np.nan))) / 2  # ε
    share = (sums @ (k / m) / n - slips) / (1 - 2 * slips)
    share = np.where((share > LEAST_CLEAR) & (share < 1 - LEAST_CLEAR), share, np.nan)
    odds = np.log(share / (1 - share))[..., None] + (2 * k - m) * np.log(1 / np.maximum(slips, SURE) - 1)[..., None]
    t = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
    found = _line(sums, t, y)
    between = np.clip(found[..., :1] * t + found[..., 1:] * (1 - t), SLACK, 1 - SLACK)
    return _line(sums / (between * (1 - between)), t, y)


def _line(weight: Array, t: Array, y: Array) -> Array:
    """Least squares of y on t and 1 - t: the values at t = 1 and t = 0."""
    tt, tu, uu = ((weight * x).sum(axis=-1) for x in (t * t, t * (1 - t), (1 - t) ** 2))
    ty, uy = ((weight * x * y).sum(axis=-1) for x in (t, 1 - t))
    determinant = tt * uu - tu**2
    safe = np.where(determinant > SURE * tt * uu, determinant, np.nan)
    return np.stack([(uu * ty - tu * uy) / safe, (tt * uy - tu * ty) / safe], axis=-1)


def error_correlation(one: ArrayLike, other: ArrayLike, clusters: Sequence[Hashable]) -> Figure:
    """Correlation (phi, in [-1, 1]) of two labellers' mistakes on the same pairs: 1 where they always fail together, 0
    where the one's say nothing of the other's. ``one`` and ``other``: 1 a mistake, ½ a tie, 0 right. No value where one of
    them is always as right as ever."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    rows = np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y]) if len(x) else np.zeros((0, 6))

    def value(sums: Array) -> Array:
        n, sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        spread = (sxx / n - (sx / n) ** 2) * (syy / n - (sy / n) ** 2)
        found: Array = (sxy / n - sx * sy / n**2) / np.sqrt(np.where(spread > 1e-12, spread, np.nan))
        return found

    return resampled(value, rows, clusters, n=len(x))
