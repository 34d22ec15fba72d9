"""How far labellers agree, by chance and beyond it.

Labels are any hashable values: "a", "b", "tie", or None for a verdict that could not be read, which is a category of
its own in two labellers' kappa. A chance-corrected coefficient is 1 − (disagreement found) / (disagreement expected by
chance): 1 is perfect, 0 is chance, below 0 is worse than chance. It collapses where nearly all labels are the same, so
it is read beside the plain share. Where the labels leave nothing to expect (one category only) it has no value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlaif.statistics.figures import Array, Figure, cluster_mean, resampled, wilson

Labels = Sequence[Hashable]
Parts = tuple[Array, Array]  # disagreement found, and expected by chance


def percent_agreement(one: Labels, other: Labels, clusters: Sequence[Hashable], *, without: Hashable = ...) -> Figure:
    """Share of rows, in [0, 1], on which two labellers say the same. ``without``: rows where either says that are left out."""
    kept = _kept(one, other, without)
    return cluster_mean([float(one[i] == other[i]) for i in kept], [clusters[i] for i in kept])


def cohen_kappa(one: Labels, other: Labels, clusters: Sequence[Hashable], *, without: Hashable = ...) -> Figure:
    """Cohen's (1960) kappa of two labellers, in [−1, 1]: chance is that each keeps to their own shares of categories.

    ``without``: rows where either says that are left out ("tie", for the kappa without ties).
    """
    kept = _kept(one, other, without)
    codes, size = _coded([one[i] for i in kept], [other[i] for i in kept])
    rows = np.zeros((len(kept), size * size))
    rows[np.arange(len(kept)), codes[0] * size + codes[1]] = 1

    def parts(sums: Array) -> Parts:
        table = sums.reshape(*sums.shape[:-1], size, size)
        total = table.sum(axis=(-2, -1))
        by_chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
        return 1 - np.trace(table, axis1=-2, axis2=-1) / total, 1 - by_chance / total**2

    return _coefficient(parts, rows, [clusters[i] for i in kept])


def fleiss_kappa(ratings: Sequence[Labels], clusters: Sequence[Hashable]) -> Figure:
    """Fleiss' (1971) kappa: ``ratings`` has for each item the labels of as many raters, who need not be the same people.

    Chance is that every rater draws from the shares of categories among all labels. Raises ValueError where items have
    unequal numbers of labels, or fewer than two.
    """
    raters = {len(labels) for labels in ratings}
    if len(raters) > 1 or raters & {0, 1}:
        raise ValueError(f"Fleiss' kappa needs as many labels for every item, two or more; found {sorted(raters)}")
    if not ratings:
        return Figure(value=None, n=0)
    counts, m = _counts(ratings), raters.pop()
    agreeing = ((counts**2).sum(axis=1) - m) / (m * (m - 1))

    def parts(sums: Array) -> Parts:
        agreeing, counts = sums[..., 0], sums[..., 1:]
        items = counts.sum(axis=-1) / m
        shares = counts / counts.sum(axis=-1, keepdims=True)
        return 1 - agreeing / items, 1 - (shares**2).sum(axis=-1)

    return _coefficient(parts, np.column_stack([agreeing, counts]), clusters)


def krippendorff_alpha(
    ratings: Sequence[Labels], clusters: Sequence[Hashable], *, order: Labels | None = None
) -> Figure:
    """Krippendorff's alpha (2011, Computing Krippendorff's Alpha-Reliability): any number of raters, any missing (None).

    ``order``: all categories from least to greatest, for the ordinal distance ("b", "tie", "a" for −1, 0, +1): the
    square of how many labels lie between two categories, counting half of each. None: nominal, every two categories
    equally far apart. Items with fewer than two labels say nothing and are left out; ``n`` counts the others. Raises
    ValueError for a label that is not in ``order``.
    """
    given = [[label for label in labels if label is not None] for labels in ratings]
    kept = [i for i, labels in enumerate(given) if len(labels) >= 2]
    if not kept:
        return Figure(value=None, n=0)
    counts = _counts([given[i] for i in kept], order)
    size = counts.shape[1]
    others = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(
        size
    )  # pairs of two different raters
    coincidences = others / (counts.sum(axis=1) - 1)[:, None, None]

    def parts(sums: Array) -> Parts:
        table = sums.reshape(*sums.shape[:-1], size, size)
        labels = table.sum(axis=-1)
        total = labels.sum(axis=-1)
        apart = _apart(labels, ordinal=order is not None)
        by_chance = labels[..., :, None] * (labels[..., None, :] - np.eye(size))
        found = (table * apart).sum(axis=(-2, -1)) / total
        return found, (by_chance * apart).sum(axis=(-2, -1)) / (total * (total - 1))

    return _coefficient(parts, coincidences.reshape(len(kept), -1), [clusters[i] for i in kept])


def _apart(labels: Array, *, ordinal: bool) -> Array:
    """Squared distance of every two categories, the largest 1; ``labels``: how many of each there are."""
    if not ordinal:
        return 1 - np.eye(labels.shape[-1])
    middle = np.cumsum(labels, axis=-1) - labels / 2
    square: Array = (middle[..., :, None] - middle[..., None, :]) ** 2
    return square / square.max(axis=(-2, -1), keepdims=True)


def _coefficient(parts: Callable[[Array], Parts], rows: Array, clusters: Sequence[Hashable]) -> Figure:
    """1 − found / expected. Where nothing was found, resampling would show no doubt at all: the lower end then is what
    the coefficient would be if as large a share of clusters disagreed as Wilson's interval for none of them allows.
    """

    def value(sums: Array) -> Array:
        found, expected = parts(sums)
        safe = np.where(expected > 0, expected, np.nan)
        coefficient: Array = 1 - found / safe
        return coefficient

    figure = resampled(value, rows, clusters, n=len(rows))
    if figure.low == figure.high == 1:
        unseen = wilson(0, len(set(clusters))).high
        assert unseen is not None
        figure.low = max(-1.0, 1 - unseen / float(parts(rows.sum(axis=0))[1]))
    return figure


def _kept(one: Labels, other: Labels, without: Hashable) -> list[int]:
    return [i for i, pair in enumerate(zip(one, other, strict=True)) if without not in pair]


def _coded(*columns: Labels) -> tuple[list[NDArray[np.int64]], int]:
    """Each label as the number of its category, and how many categories there are."""
    names: dict[Hashable, int] = {}
    coded = [np.array([names.setdefault(label, len(names)) for label in column], np.int64) for column in columns]
    return coded, len(names)


def _counts(ratings: Sequence[Labels], order: Labels | None = None) -> Array:
    """How many raters chose each category, of shape (items, categories)."""
    categories = (
        list(order) if order is not None else sorted({label for labels in ratings for label in labels}, key=repr)
    )
    strange = {label for labels in ratings for label in labels} - set(categories)
    if strange:
        raise ValueError(f"labels {sorted(map(repr, strange))} are not among {list(map(repr, categories))}")
    counted = [Counter(labels) for labels in ratings]
    return np.array([[counts[category] for category in categories] for counts in counted], dtype=np.float64)
