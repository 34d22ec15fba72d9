"""What a label of one source is worth in labels of another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.statistics.exchange import LearningCurve, exchange_rate, rising

SIZES = [250, 500, 1000, 2000]


def flat(values: list[float]) -> np.ndarray:
    """A curve that is the same for two seeds and three prompts: shape (sizes, 2, 3)."""
    return np.asarray(values)[:, None, None] * np.ones((1, 2, 3))


def test_twice_as_many_labels_for_the_same_is_an_exchange_rate_of_two() -> None:
    one = LearningCurve(SIZES, flat([0.6, 0.65, 0.7, 0.75]))
    other = LearningCurve(SIZES, flat([0.55, 0.6, 0.65, 0.7]))
    for place in range(3):
        assert exchange_rate(one, other, place).value == pytest.approx(2)
        assert exchange_rate(other, one, place + 1).value == pytest.approx(0.5)


def test_between_two_sizes_it_is_read_on_a_scale_of_logarithms() -> None:
    one = LearningCurve(SIZES, flat([0.6, 0.65, 0.7, 0.75]))
    other = LearningCurve([250, 1000], flat([0.5, 0.7]))
    # 0.6 lies halfway from 0.5 to 0.7: the geometric mean of 250 and 1,000 is 500
    assert exchange_rate(one, other, 0).value == pytest.approx(500 / 250)


def test_where_the_other_never_gets_as_far_it_takes_more_than_all_its_labels() -> None:
    one = LearningCurve(SIZES, flat([0.6, 0.65, 0.7, 0.75]))
    other = LearningCurve(SIZES, flat([0.4, 0.5, 0.6, 0.62]))
    found = exchange_rate(one, other, 1)
    assert (found.value, found.low, found.high) == (None, 2000 / 500, None)


def test_where_the_others_fewest_labels_do_as_well_it_takes_at_most_those() -> None:
    one = LearningCurve(SIZES, flat([0.6, 0.65, 0.7, 0.75]))
    other = LearningCurve(SIZES, flat([0.8, 0.81, 0.82, 0.83]))
    found = exchange_rate(one, other, 2)
    assert (found.value, found.low, found.high) == (None, None, 250 / 1000)


def test_what_a_seed_lacks_is_no_part_of_its_mean() -> None:
    one, other = flat([0.6, 0.65, 0.7, 0.75]), flat([0.55, 0.6, 0.65, 0.7])
    one[:, 0, 0], other[:, 0, 0] = math.nan, math.nan
    found = exchange_rate(LearningCurve(SIZES, one), LearningCurve(SIZES, other), 0)
    assert found.value == pytest.approx(2)
    assert found.n == 5


def test_the_same_curve_exchanges_one_for_one() -> None:
    random = np.random.default_rng(3)
    right = np.sort(random.random((4, 3, 50)), axis=0)
    curve = LearningCurve(SIZES, right)
    for place in range(4):
        found = exchange_rate(curve, curve, place)
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_curve_made_to_rise_never_falls_and_keeps_its_mean(values: list[float]) -> None:
    found = rising(np.array(values))
    assert np.all(np.diff(found) >= -1e-12)
    assert found.mean() == pytest.approx(np.mean(values))
    assert np.allclose(rising(found), found)


def test_a_curve_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="rising numbers"):
        LearningCurve([500, 250], flat([0.5, 0.6]))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_intervals_hold_the_planted_rate(missing: float) -> None:
    """Labels of the second source are worth a third of the first's: both learn on one line of log n. Also where seeds lack prompts."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        ease = random.normal(0, 0.6, 150)  # of prompts
        luck = random.normal(0, 0.1, (2, 4, 3, 1))  # of each training
        logit = [
            -1.2 + 0.35 * np.log(np.array(SIZES) / shrunk)[:, None, None] / math.log(2) + luck[n] + ease
            for n, shrunk in enumerate((125, 375))
        ]
        drawn = [(random.random(each.shape) < 1 / (1 + np.exp(-each))).astype(float) for each in logit]
        lacking = random.random((3, 150)) < missing
        drawn = [np.where(lacking, math.nan, each) for each in drawn]
        found = exchange_rate(LearningCurve(SIZES, drawn[0]), LearningCurve(SIZES, drawn[1]), 0)
        inside += (found.low or 0) <= 3 <= (found.high or math.inf)
    assert inside >= 57  # of 60: with three seeds intervals are wide
