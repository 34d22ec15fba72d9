"""What a label of one source is worth in labels of another, by how well models do that learnt from more and more of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlaif.statistics.figures import LEAST, MOST, Array, Figure

RESAMPLES = 1_000


@dataclass(frozen=True)
class LearningCurve:
    """``labels``: rising numbers of labels, of shape (sizes,). ``right``: how well what learnt from them did on the same prompts
    with the same seeds, of shape (sizes, seeds, prompts); NaN where a seed lacks a prompt."""

    labels: Array
    right: Array

    def __init__(self, labels: ArrayLike, right: ArrayLike) -> None:
        object.__setattr__(self, "labels", np.asarray(labels, dtype=np.float64))
        object.__setattr__(self, "right", np.asarray(right, dtype=np.float64))
        if self.right.ndim != 3 or len(self.right) != len(self.labels) or np.any(np.diff(self.labels) <= 0):
            raise ValueError(
                "a learning curve has rising numbers of labels, and values of shape (sizes, seeds, prompts)"
            )


def exchange_rate(one: LearningCurve, other: LearningCurve, place: int) -> Figure:
    """How many labels of ``other`` do what one of ``one`` does, where ``one`` has ``labels[place]``.

    No value where the other source's models do not reach as far with all its labels, or reach it with its fewest; then ``low``, or
    ``high``, is what is known. An open end is None too. ``n``: values each point of a curve is the mean of.

    Both curves are made to rise (the means of neighbours that do not), and read between their sizes on a scale of logarithms. The
    interval draws seeds and prompts anew, each for both curves alike (Owen 2007's pigeonhole bootstrap), one seed fewer than there are, as
    few of them ask for. With three seeds that differ much it holds the truth in somewhat less than 95%; of one seed it is of prompts
    alone, and says nothing of other trainings.
    """
    value = _rate(one, other, place, *(np.nanmean(curve.right, axis=(1, 2)) for curve in (one, other)))
    seeds, prompts = one.right.shape[1:]
    random = np.random.default_rng(0)
    fewer = max(1, seeds - 1)
    of_seed = random.multinomial(fewer, np.full(seeds, 1 / seeds), RESAMPLES) / fewer
    of_prompt = random.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES) / prompts
    means = []  # (sizes, resamples)
    for curve in (one, other):
        there = ~np.isnan(curve.right)
        sums, counts = (
            ((part @ of_prompt.T) * of_seed.T).sum(axis=1) for part in (np.where(there, curve.right, 0.0), there)
        )
        means.append(sums / np.where(counts > 0, counts, math.nan))  # a draw of few prompts may have none that is there
    pairs = zip(means[0].T, means[1].T, strict=True)
    draws = [_rate(one, other, place, *pair) for pair in pairs if all(np.isfinite(each).all() for each in pair)]
    low, high = (float(x) for x in np.quantile(draws, [LEAST, MOST], method="closest_observation"))
    low, high = min(low, value), max(high, value)
    fewest = float(other.labels[0] / one.labels[place])
    most = float(other.labels[-1] / one.labels[place])
    return Figure(
        value=value if 0 < value < math.inf else None,
        low=low if 0 < low < math.inf else most if low == math.inf else None,
        high=high if 0 < high < math.inf else fewest if high == 0 else None,
        n=int((~np.isnan(one.right[place])).sum()),
    )


def _rate(one: LearningCurve, other: LearningCurve, place: int, means: Array, others: Array) -> float:
    """0 where ``other`` does as well with its fewest labels, infinity where it never does."""
    aim = rising(means)[place]
    reached = rising(others)
    if reached[0] > aim:
        return 0.0
    if reached[-1] < aim:
        return math.inf
    k = int(np.argmax(reached >= aim))
    if k == 0:
        return float(other.labels[0] / one.labels[place])
    share = (aim - reached[k - 1]) / (reached[k] - reached[k - 1])
    logs = np.log(other.labels)
    return float(np.exp(logs[k - 1] + share * (logs[k] - logs[k - 1])) / one.labels[place])


def rising(values: Array) -> Array:
    """The closest curve that never falls, by pooling neighbours (isotonic regression of equal weights)."""
    blocks: list[list[float]] = []  # mean, how many
    for value in values:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    return np.repeat([mean for mean, _ in blocks], [int(count) for _, count in blocks])
