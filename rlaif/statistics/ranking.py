"""One ranking of K responses out of what is said of pairs of them: pure functions on arrays.

Strengths θ by the Bradley-Terry model, P(i is better than j) = σ(θ_i - θ_j) (Bradley and Terry 1952, Biometrika 39), and
with ties by Davidson's (1970, JASA 65): with π = exp θ,

    P(i better) = π_i / D,  P(tie) = ν √(π_i π_j) / D,  D = π_i + π_j + ν √(π_i π_j).

Both are fitted by ridge-penalised likelihood, so that a response that never lost has a finite strength. And preferences
that run in a circle, which no ranking can satisfy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RIDGE = 0.01  # of Σ θ² / 2 and log²ν / 2, in comparisons
STEPS = 100
ENOUGH = 1e-10  # of a Newton step
Array = NDArray[np.float64]


class Contest(NamedTuple):
    """How often, or with what weight, i was better than j, tied with it, or worse. Numbers of at least 0."""

    i: int
    j: int
    better: float
    tied: float = 0.0
    worse: float = 0.0


class Strengths(NamedTuple):
    """``theta``: natural logarithm of each strength, of mean 0; ``nu``: Davidson's, 0 where nothing tied."""

    theta: tuple[float, ...]
    nu: float


def strengths(contests: Sequence[Contest], count: int, ridge: float = RIDGE) -> Strengths:
    """The strengths of ``count`` responses, by Newton's method with halved steps.

    Comparable only between responses that contests connect (``parts``). With ``ridge`` 0 each has to have won and lost.
    """
    i, j = (np.array([contest[side] for contest in contests], dtype=np.int64) for side in (0, 1))
    seen = np.array([contest[2:] for contest in contests], dtype=np.float64).reshape(-1, 3)  # better, tied, worse
    ties = bool(seen[:, 1].any())
    rows = np.arange(len(i))
    features = np.zeros((len(i), 3, count + 1))  # of an outcome: its log-weight is features @ (θ, log ν)
    features[rows, 0, i] = 1.0
    features[rows, 2, j] = 1.0
    features[rows, 1, i] = features[rows, 1, j] = 0.5
    features[rows, 1, count] = 1.0
    offered = np.array([True, ties, True])
    features, seen = features[:, offered], seen[:, offered]
    parameters = np.zeros(count + 1)
    value = _objective(parameters, features, seen, ridge)
    for _ in range(STEPS):
        step = _newton(parameters, features, seen, ridge)
        while (found := _objective(parameters + step, features, seen, ridge)) < value - ENOUGH:
            step = step / 2
        parameters, value = parameters + step, found
        if np.abs(step).max() < ENOUGH:
            break
    theta = parameters[:count] - parameters[:count].mean()
    return Strengths(tuple(map(float, theta)), float(np.exp(parameters[count])) if ties else 0.0)


def _objective(parameters: Array, features: Array, seen: Array, ridge: float) -> float:
    """Log-likelihood less the penalty."""
    logits = features @ parameters
    norm = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float((seen * (logits - norm)).sum() - ridge / 2 * parameters @ parameters)


def _newton(parameters: Array, features: Array, seen: Array, ridge: float) -> Array:
    """The step to the maximum of the quadratic that touches the objective here."""
    logits = features @ parameters
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    total = seen.sum(axis=1)
    mean = np.einsum("no,nof->nf", p, features)
    gradient = np.einsum("no,nof->f", seen - total[:, None] * p, features) - ridge * parameters
    second = np.einsum("n,no,nof,nog->fg", total, p, features, features)
    curvature = second - np.einsum("n,nf,ng->fg", total, mean, mean) + ridge * np.eye(len(parameters))
    step: Array = np.linalg.pinv(curvature) @ gradient  # without a ridge, θ is known but for a constant
    return step


def parts(pairs: Iterable[tuple[int, int]], count: int) -> int:
    """How many parts ``count`` responses fall into that no chain of pairs connects; 1 where all hang together."""
    part = list(range(count))
    for i, j in pairs:
        part = [part[i] if each == part[j] else each for each in part]
    return len(set(part))


def cycles(better: Iterable[tuple[int, int]], count: int) -> tuple[int, int]:
    """(circular triples, triples of which every pair has a better one) among ``count`` responses.

    ``better``: (better, worse) for every pair that has one; ties and pairs that were not compared are left out. A triple
    is circular where a is better than b, b than c and c than a (Kendall and Babington Smith 1940, Biometrika 31).
    """
    over = np.zeros((count, count), dtype=np.int64)
    for i, j in better:
        over[i, j], over[j, i] = 1, 0
    either = over + over.T
    # a circle of three is three closed walks along ``over``; a triangle is six along either direction
    circular, whole = (int(np.trace(m @ m @ m)) for m in (over, either))
    return circular // 3, whole // 6
