"""Strengths out of pairs, and circles among them: numbers derived by hand, and properties."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.statistics.ranking import Contest, cycles, parts, strengths
from tests.runs import rlaif
from tests.tiny import write_jsonl


def test_two_responses_have_the_log_odds_between_them() -> None:
    # P = 3/4: θ1 - θ2 = log 3, mean 0
    found = strengths([Contest(0, 1, 3, worse=1)], 2, ridge=0)
    assert found.theta == pytest.approx((math.log(3) / 2, -math.log(3) / 2))
    assert found.nu == 0


def test_a_tie_has_the_share_that_davidsons_model_gives_it() -> None:
    # equal strengths: P(tie) = ν / (2 + ν); one tie in three contests gives ν = 1
    found = strengths([Contest(0, 1, 1, 1, 1)], 2, ridge=0)
    assert found.theta == pytest.approx((0, 0))
    assert found.nu == pytest.approx(1)
    # 4 won, 4 tied, 1 lost: π1 / π2 = 4, ν √(π1 π2) / π2 = 4, so ν = 2
    found = strengths([Contest(0, 1, 4, 4, 1)], 2, ridge=0)
    assert found.theta == pytest.approx((math.log(4) / 2, -math.log(4) / 2))
    assert found.nu == pytest.approx(2)


def test_probabilities_of_a_model_give_its_strengths_back() -> None:
    theta = np.array([0.9, 0.1, -1.0])

    def p(i: int, j: int) -> float:
        return 1 / (1 + math.exp(theta[j] - theta[i]))

    pairs = list(itertools.combinations(range(3), 2))
    assert strengths([Contest(i, j, p(i, j), worse=p(j, i)) for i, j in pairs], 3, ridge=0).theta == pytest.approx(
        theta
    )
    chain = pairs[0], pairs[2]  # 0 and 2 were never compared
    assert strengths([Contest(i, j, p(i, j), worse=p(j, i)) for i, j in chain], 3, ridge=0).theta == pytest.approx(
        theta
    )


def test_a_response_that_never_lost_has_a_finite_strength_by_the_ridge() -> None:
    found = strengths([Contest(0, 1, 1)], 2)
    # at the maximum: 1 - σ(2θ) = 0.01 θ
    theta = found.theta[0]
    assert 1 - 1 / (1 + math.exp(-2 * theta)) == pytest.approx(0.01 * theta, abs=1e-9)


def test_a_circle_leaves_all_equal() -> None:
    assert strengths([Contest(0, 1, 1), Contest(1, 2, 1), Contest(2, 0, 1)], 3).theta == pytest.approx((0, 0, 0))


def test_only_ties_leave_all_equal() -> None:
    found = strengths([Contest(0, 1, 0, 1), Contest(1, 2, 0, 1)], 3)
    assert found.theta == pytest.approx((0, 0, 0))
    assert found.nu > 10


@given(st.permutations(range(5)))
def test_a_consistent_order_is_the_ranking(order: list[int]) -> None:
    contests = [Contest(a, b, 1) for a, b in itertools.combinations(order, 2)]
    theta = strengths(contests, 5).theta
    assert sorted(range(5), key=lambda i: -theta[i]) == order


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 2, *[st.floats(0, 5)] * 3), max_size=8))
def test_the_side_a_contest_is_written_from_does_not_matter(rows: list[tuple[int, int, float, float, float]]) -> None:
    contests = [Contest(*row) for row in rows if row[0] != row[1]]
    turned = [Contest(c.j, c.i, c.worse, c.tied, c.better) for c in contests]
    assert strengths(contests, 4).theta == pytest.approx(strengths(turned, 4).theta, abs=1e-6)


def test_parts_are_what_no_chain_of_pairs_connects() -> None:
    assert parts([], 3) == 3
    assert parts([(0, 1), (2, 3)], 4) == 2
    assert parts([(0, 1), (2, 3), (3, 0)], 4) == 1


def test_circles_are_counted_among_whole_triples() -> None:
    assert cycles([(0, 1), (1, 2), (2, 0)], 3) == (1, 1)
    assert cycles([(0, 1), (1, 2), (0, 2)], 3) == (0, 1)
    assert cycles([(0, 1), (1, 2)], 3) == (0, 0)  # the third pair tied, or was not compared
    # a regular tournament of five, each over the next two: 5 of its 10 triples are circles
    assert cycles([(i, (i + d) % 5) for i in range(5) for d in (1, 2)], 5) == (5, 10)


@given(st.lists(st.booleans(), min_size=15, max_size=15))
def test_circles_of_a_whole_tournament_are_those_of_kendalls_formula(first_wins: list[bool]) -> None:
    pairs = list(itertools.combinations(range(6), 2))
    better = [(i, j) if first else (j, i) for (i, j), first in zip(pairs, first_wins, strict=True)]
    won = [sum(i == k for i, _ in better) for k in range(6)]
    assert cycles(better, 6) == (math.comb(6, 3) - sum(math.comb(w, 2) for w in won), 20)


def test_circles_among_labels_are_a_figure_of_the_run(working_folder: Path) -> None:
    def row(prompt: str, better: str, worse: str, label: str = "a") -> dict[str, str]:
        return {"prompt": prompt, "response_a": better, "response_b": worse, "label": label}

    circle = [row("x", "a", "b"), row("x", "b", "c"), row("x", "c", "a")]
    line = [row("y", "a", "b"), row("y", "b", "c"), row("y", "a", "c")]
    tied = [row("z", "a", "b"), row("z", "b", "c"), row("z", "a", "c", "tie")]
    write_jsonl(Path("pairs.jsonl"), [*circle, *line, *tied])
    rlaif(working_folder, "label", "pairs.jsonl", "--out", "run")
    figure = json.loads(Path("run/metrics.json").read_text())["judgements.cycles"]
    assert (figure["value"], figure["n"]) == (0.5, 2)
