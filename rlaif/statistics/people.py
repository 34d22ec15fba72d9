"""What people's disagreement says: how well anyone could agree with them, and whether a judge may take a person's place."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlaif.statistics.figures import Array, Figure, resampled

RATE = 0.05  # of false discoveries, in the alternative annotator test
FEW_ITEMS = 30  # below so many, ranks in place of means
FEW_PEOPLE = 3


def flip_rate(agreement: float) -> float:
    """How often one person's label is flipped, ε in [0, ½), if two agree this often, labels being right or wrong.

    Symmetric and independent flips: agreement = (1 − ε)² + ε². Raises ValueError for an agreement of ½ or less, which
    no such ε gives, or above 1.
    """
    if not 0.5 < agreement <= 1:
        raise ValueError(
            f"people agree in {agreement:.1%} of pairs: at 50% or less their labels do not follow one truth with "
            "independent mistakes, so there is no ceiling to speak of"
        )
    return (1 - math.sqrt(2 * agreement - 1)) / 2


def human_ceiling(agreement: Figure) -> Figure:
    """The best agreement with one person's labels that any judge could reach, 1 − ε, from how often two people agree.

    An interval of the agreement that reaches down to ½ gives one that reaches down to ½. Raises ValueError as
    ``flip_rate``.
    """
    assert agreement.value is not None
    value = 1 - flip_rate(agreement.value)
    if agreement.low is None or agreement.high is None:
        return Figure(value=value, n=agreement.n)
    low = 1 - flip_rate(agreement.low) if agreement.low > 0.5 else 0.5
    return Figure(value=value, low=low, high=1 - flip_rate(agreement.high), n=agreement.n)


def noise_corrected(judge: ArrayLike, people: ArrayLike, clusters: Sequence[Hashable]) -> Figure:
    """The judge's accuracy on the truth behind noisy labels, a = (A − ε) / (1 − 2ε), with A its agreement with people.

    ``judge`` and ``people``: for every item (how many pairs agree, how many pairs there are), of the judge with each
    person and of every two people. ``n`` counts the judge's pairs. It may pass 1 by chance, or where the judge shares
    people's mistakes. Raises ValueError as ``flip_rate``, where people agree half the time or less.
    """
    rows = np.hstack([np.asarray(judge, dtype=np.float64), np.asarray(people, dtype=np.float64)])
    pairs = int(rows[:, 1].sum())
    if not pairs or not rows[:, 3].sum():
        return Figure(value=None, n=0)
    flip_rate(rows[:, 2].sum() / rows[:, 3].sum())

    def value(sums: Array) -> Array:
        judged, agreed = sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]
        clear = np.sqrt(np.where(agreed > 0.5, 2 * agreed - 1, np.nan))  # 1 − 2ε
        corrected: Array = (judged - (1 - clear) / 2) / clear
        return corrected

    return resampled(value, rows, clusters, n=pairs)


@dataclass(frozen=True)
class AltTest:
    """``omega``: share of people for whom the judge was found to be as good as they are; at ½ or more it may stand in.
    ``rho``: how often the judge is at least as close to the others as a person is, averaged over people. ``p``: each
    person's test.
    """

    omega: float
    rho: Figure
    p: tuple[float, ...]

    @property
    def passed(self) -> bool:
        return self.omega >= 0.5


def alt_test(
    judge: Sequence[Hashable], people: Sequence[Sequence[Hashable]], clusters: Sequence[Hashable], *, epsilon: float
) -> AltTest:
    """The alternative annotator test (Calderon et al. 2025, 2501.10970): may a judge stand in for a person?

    ``judge``: one label per item, None where it could not be read, which matches nobody. ``people``: for each person
    one label per item, None where they gave none. Person by person, on the items that they and someone else labelled:
    the judge and the person are each scored by the share of the other people who say the same. With d = (the person
    scores at least as well) − (the judge scores at least as well), the test's alternative is that the mean of d is
    below ``epsilon``, what a person's greater cost is worth (0.2 for experts, 0.15 for skilled people, 0.1 for crowd
    workers); a t-test, or with fewer than 30 items a signed-rank test. People are counted by the procedure of
    Benjamini and Yekutieli (2001) at 0.05. Raises ValueError for fewer than three people with such items.
    """
    scored = [_ahead(judge, people, j) for j in range(len(people))]
    scored = [(items, judge_ahead, person_ahead) for items, judge_ahead, person_ahead in scored if len(items)]
    if len(scored) < FEW_PEOPLE:
        raise ValueError(f"the alternative annotator test needs three people or more; found {len(scored)}")
    p = tuple(_p_below(person - own, epsilon) for _, own, person in scored)
    rows = np.zeros((len(judge), 2 * len(scored)))
    for number, (items, own, _) in enumerate(scored):
        rows[items, 2 * number], rows[items, 2 * number + 1] = own, 1

    def advantage(sums: Array) -> Array:
        mean: Array = (sums[..., 0::2] / sums[..., 1::2]).mean(axis=-1)
        return mean

    total = sum(len(items) for items, _, _ in scored)
    return AltTest(_rejected(p) / len(p), resampled(advantage, rows, clusters, n=total), p)


def _ahead(judge: Sequence[Hashable], people: Sequence[Sequence[Hashable]], j: int) -> tuple[list[int], Array, Array]:
    """Items of person ``j`` that someone else labelled, and on which of them the judge, and the person, does at least
    as well as the other of the two (0 or 1).
    """
    items, scores = [], []
    for i, own in enumerate(people[j]):
        others = [person[i] for k, person in enumerate(people) if k != j and person[i] is not None]
        if own is not None and others:
            items.append(i)
            scores.append([sum(label == other for other in others) for label in (judge[i], own)])
    found = np.array(scores, dtype=np.float64).reshape(-1, 2)
    return items, (found[:, 0] >= found[:, 1]).astype(float), (found[:, 1] >= found[:, 0]).astype(float)


def _p_below(d: Array, bound: float) -> float:
    """One-sided p value of the alternative that d lies below ``bound`` on average."""
    if np.all(d == d[0]):  # as the signed-rank test has it: n signs that are all the same
        return 0.5 ** len(d) if d[0] < bound else 1.0
    if len(d) < FEW_ITEMS:
        from scipy.stats import wilcoxon

        return float(wilcoxon(d - bound, alternative="less").pvalue)
    from scipy.special import stdtr

    t = (d.mean() - bound) / (d.std(ddof=1) / math.sqrt(len(d)))
    return float(stdtr(len(d) - 1, t))


def _rejected(p: Sequence[float]) -> int:
    """How many hypotheses the procedure of Benjamini and Yekutieli rejects."""
    m = len(p)
    rate = RATE / sum(1 / i for i in range(1, m + 1))
    return max((i for i, value in enumerate(sorted(p), 1) if value <= rate * i / m), default=0)
