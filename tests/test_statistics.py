"""Agreement, calibration and intervals against numbers derived by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.statistics import (
    Figure,
    Means,
    calibration_error,
    calibration_figure,
    cluster_mean,
    length_controlled,
    log_loss,
    paired_difference,
    reliability,
    wilson,
)
from rlaif.statistics.contests import at_equal_length


def width(figure: Figure) -> float:
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


# --- shares -----------------------------------------------------------------------------------------------------------


def test_wilson_interval_by_hand() -> None:
    # 8 of 10, z² = 3.841459: centre = (0.8 + z²/20) / (1 + z²/10) = 0.992073 / 1.384146 = 0.716740
    # half = z/1.384146 · sqrt(0.8·0.2/10 + z²/400) = 1.416010 · sqrt(0.0256036) = 0.226578
    figure = wilson(8, 10)
    assert figure.value == 0.8
    assert figure.low == pytest.approx(0.490162, abs=2e-6)
    assert figure.high == pytest.approx(0.943318, abs=2e-6)
    assert figure.n == 10


def test_wilson_of_all_or_nothing_is_not_an_interval_of_width_zero() -> None:
    # 0 of 10: centre = half = (z²/20) / (1 + z²/10), so low is 0 and high 2 · 0.192073/1.384146 = 0.277533
    assert wilson(0, 10).low == 0
    assert wilson(0, 10).high == pytest.approx(0.277533, abs=2e-6)
    assert wilson(10, 10).low == pytest.approx(1 - 0.277533, abs=2e-6)
    assert wilson(10, 10).high == pytest.approx(1)


def test_no_trials_have_no_share() -> None:
    assert wilson(0, 0) == Figure(value=None, n=0)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_holds_the_share_inside_zero_to_one(n: int, share: float) -> None:
    figure = wilson(share * n, n)
    assert figure.low is not None
    assert figure.high is not None
    assert 0 <= figure.low <= share + 1e-12
    assert share - 1e-12 <= figure.high <= 1


# --- cluster bootstrap ------------------------------------------------------------------------------------------------


def test_the_mean_is_of_rows_and_n_counts_them() -> None:
    figure = cluster_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert (figure.value, figure.n) == (0.75, 4)


def test_two_opposite_clusters_leave_everything_open() -> None:
    # resamples of (0,0) and (1,1): mean 0 in a quarter, 1/2 in a half, 1 in a quarter of them
    figure = cluster_mean([0, 0, 1, 1], ["a", "a", "b", "b"])
    assert (figure.low, figure.high) == (0, 1)


def test_an_interval_of_separate_rows_is_the_usual_one() -> None:
    # 50 ones and 50 zeros: standard error sqrt(0.25/100) = 0.05; 1.96 of them either side is 0.402 to 0.598
    figure = cluster_mean([0, 1] * 50, range(100))
    assert figure.low == pytest.approx(0.40, abs=0.011)
    assert figure.high == pytest.approx(0.60, abs=0.011)


def test_clustering_widens_the_interval_by_the_root_of_the_cluster_size() -> None:
    # ten clusters of ten equal values carry as much as ten rows: sqrt(10) = 3.16 times the width of a hundred rows
    values = np.repeat([0, 1] * 5, 10)
    ratio = width(cluster_mean(values, np.repeat(range(10), 10).tolist())) / width(cluster_mean(values, range(100)))
    assert ratio == pytest.approx(math.sqrt(10), rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says_only_when_it_resamples_clusters() -> None:
    random = np.random.default_rng(7)
    covered = {"clusters": 0, "rows": 0}
    for study in range(100):
        values = np.repeat(random.random(40) < 0.5, 4)  # 40 prompts, their four rows all alike; the truth is 1/2
        names = {"clusters": np.repeat(range(40), 4).tolist(), "rows": range(160)}
        for kind, clusters in names.items():
            figure = cluster_mean(values, clusters, seed=study)
            assert figure.low is not None
            assert figure.high is not None
            covered[kind] += figure.low <= 0.5 <= figure.high
    assert covered["clusters"] >= 89  # 95 expected; standard deviation 2.2, a little lost to 40 clusters
    assert covered["rows"] <= 80  # half the width: P(|z| < 0.98) = 67% expected


def test_equal_values_have_an_interval_of_width_zero() -> None:
    assert width(cluster_mean([0.25] * 6, range(6))) == 0


def test_the_same_data_give_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert cluster_mean(values, range(50)) == cluster_mean(values, [f"prompt {i}" for i in range(50)])


@pytest.mark.parametrize(
    "figure", [cluster_mean, lambda values, names: calibration_figure(values, np.abs(np.array(values) - 0.5), names)]
)
def test_one_cluster_has_no_interval_and_no_rows_no_value(figure: Any) -> None:
    assert figure([1.0, 0.0], ["a", "a"]) == Figure(value=0.5, n=2)
    assert figure([], []) == Figure(value=None, n=0)


def test_many_different_clusters_have_the_usual_interval() -> None:
    # 1, 2, …, 20,000, one row each: deviation 20000/sqrt(12) = 5773.5, standard error 40.825, ± 1.96 of them: ± 80.0
    figure = cluster_mean(np.arange(1, 20_001), range(20_000))
    assert figure.value == 10_000.5
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low == pytest.approx(10_000.5 - 80.0, abs=4)  # a quantile of 10,000 draws: deviation 1.1
    assert figure.high == pytest.approx(10_000.5 + 80.0, abs=4)


def test_one_far_off_cluster_among_many_moves_the_interval_by_whole_draws_of_it() -> None:
    # 4,999 clusters within 0.5 of zero and one at 5,000: a resample's mean is about how often that one was drawn,
    # Poisson(1): 0 times in 36.8% of resamples, 4 or more in 1.9%, 3 or more in 8.0%. So low is near 0, high near 3.
    values = np.append(np.linspace(-0.5, 0.5, 4_999), 5_000.0)
    figure = cluster_mean(values, range(5_000))
    assert figure.value == pytest.approx(1.0)
    assert figure.low == pytest.approx(0, abs=0.05)
    assert figure.high == pytest.approx(3, abs=0.05)


def test_clusters_of_unequal_size_weigh_by_their_rows() -> None:
    # 600 prompts with one row at about 0, 600 with three at about 1: mean 3/4. For the ratio S/C of the two sums the
    # delta method gives var = Σ(s − 3c/4)²/(Σc)² = 600·(0.75² + 0.75²)/2400² = 675/2400², error 0.010825, ± 0.0212.
    # The values differ by a hair from prompt to prompt, so that no two clusters are alike.
    hair = np.linspace(-1e-6, 1e-6, 600)
    values = np.concatenate([hair, np.repeat(1 + hair, 3)])
    names = [*range(600), *np.repeat(np.arange(600, 1200), 3).tolist()]
    figure = cluster_mean(values, names)
    assert figure.value == pytest.approx(0.75)
    assert width(figure) == pytest.approx(2 * 0.0212, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("pqrs"), st.sampled_from([0.0, 0.5, 1.0]))))
def test_means_fed_row_by_row_are_those_of_the_whole_columns(rows: list[tuple[str, str, float]]) -> None:
    means = Means()
    for name, cluster, value in rows:
        means.add(name, value, cluster)
    columns: dict[str, list[tuple[float, str]]] = {}
    for name, cluster, value in rows:
        columns.setdefault(name, []).append((value, cluster))
    expected = {name: cluster_mean([v for v, _ in own], [c for _, c in own]) for name, own in columns.items()}
    assert means.figures() == expected


def test_a_cluster_of_very_many_rows_is_one_cluster() -> None:
    means = Means()
    for i in range(150_000):
        means.add("x", float(i % 4 == 0), "one")
    means.add("x", 1.0, "another")
    figure = means.figures()["x"]
    assert (figure.value, figure.n) == (pytest.approx(37_501 / 150_001), 150_001)


# --- paired differences -----------------------------------------------------------------------------------------------


def test_a_paired_difference_is_surer_than_its_two_means() -> None:
    # answers of very different length, each made 1 longer but for every other one made 2 longer: mean 1.5, deviation
    # 1/2 in 100 prompts, error 0.05, ± 0.098; the means themselves are off by ± 1.96 · 28.9/10 = ± 5.7
    before = np.arange(100.0)
    after = before + np.tile([1.0, 2.0], 50)
    figure = paired_difference(after, before, range(100))
    assert (figure.value, figure.n) == (1.5, 100)
    assert width(figure) == pytest.approx(2 * 0.098, rel=0.06)
    assert width(cluster_mean(after, range(100))) > 10


def test_rates_that_never_differ_leave_room_for_what_so_few_prompts_cannot_show() -> None:
    # Wilson's upper bound for 0 of 10 is 0.277533: that share may have changed, either way
    same = paired_difference([0, 1] * 5, [0, 1] * 5, range(10))
    assert (same.value, same.low, same.high) == (
        0,
        pytest.approx(-0.277533, abs=2e-6),
        pytest.approx(0.277533, abs=2e-6),
    )
    up = paired_difference([1] * 10, [0] * 10, range(10))
    assert (up.value, up.low, up.high) == (1, pytest.approx(1 - 0.277533, abs=2e-6), 1)
    down = paired_difference([0] * 10, [1] * 10, range(10))
    assert (down.value, down.low, down.high) == (-1, -1, pytest.approx(0.277533 - 1, abs=2e-6))


def test_a_paired_difference_of_no_rows_is_none() -> None:
    assert paired_difference([], [], []) == Figure(value=None, n=0)


# --- calibration ------------------------------------------------------------------------------------------------------


def test_log_loss_by_hand() -> None:
    # -ln 0.8 = 0.223144; -ln 0.5 = 0.693147; -(ln 0.25 + ln 0.75)/2 = 0.836988; their mean 0.584426
    assert log_loss([0.8, 0.5, 0.25], [1, 0, 0.5]).mean() == pytest.approx(0.584426, abs=1e-6)


def test_log_loss_of_a_sure_mistake_is_finite() -> None:
    assert log_loss([0.0], [1.0]).tolist() == pytest.approx([-math.log(1e-12)])


def test_calibration_error_by_hand() -> None:
    # two bins: mean 0.15 against 1/2, mean 0.85 against 1; half of 0.35 and half of 0.15
    p, outcome = [0.9, 0.1, 0.8, 0.2], [1, 0, 1, 1]
    assert reliability(p, outcome, bins=2) == [
        (pytest.approx(0.15), pytest.approx(0.5), 2),
        (pytest.approx(0.85), pytest.approx(1.0), 2),
    ]
    assert calibration_error(p, outcome, bins=2) == pytest.approx(0.25)


def test_a_row_that_counts_twice_is_as_two_rows_and_one_that_counts_not_at_all_is_none() -> None:
    p, outcome = [0.9, 0.1, 0.8, 0.2], [1, 0, 1, 1]
    whole = calibration_error([0.9, 0.9, 0.8, 0.2], [1, 1, 1, 1], bins=2)
    assert calibration_error(p, outcome, bins=2, weight=[2, 0, 1, 1]) == pytest.approx(whole)
    # bins {0.2, 0.8} and {0.9, 0.9}: 1/2 · |0.5 − 1| + 1/2 · |0.9 − 1|
    assert whole == pytest.approx(0.3)


def test_bins_hold_about_equally_many() -> None:
    counts = [count for _, _, count in reliability(np.linspace(0, 1, 103), np.zeros(103))]
    assert sum(counts) == 103
    assert set(counts) <= {10, 11}


def test_fewer_predictions_than_bins_have_a_bin_each() -> None:
    assert reliability([0.2, 0.1, 0.9], [0, 0, 1]) == [(0.1, 0, 1), (0.2, 0, 1), (0.9, 1, 1)]


@given(st.randoms())
def test_a_constant_prediction_that_is_right_on_average_is_calibrated_whatever_the_order_of_rows(random: Any) -> None:
    outcome = [1] * 7 + [0] * 3
    random.shuffle(outcome)
    assert calibration_error([0.7] * 10, outcome) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.4001, 0.9]), st.integers(0, 1)), min_size=1), st.randoms())
def test_calibration_does_not_depend_on_the_order_of_rows(rows: list[tuple[float, int]], random: Any) -> None:
    before = calibration_error(*zip(*rows, strict=True))
    random.shuffle(rows)
    assert calibration_error(*zip(*rows, strict=True)) == pytest.approx(before)
    assert 0 <= before <= 1


def predictions(seed: int, slope: float, rows: int = 120) -> tuple[Any, Any]:
    """Predictions, and outcomes whose log-odds are ``slope`` times the predicted ones: 1 is calibrated, 0 a coin."""
    random = np.random.default_rng(seed)
    odds = random.normal(0, 1.5, rows)
    return 1 / (1 + np.exp(-odds)), (random.random(rows) < 1 / (1 + np.exp(-slope * odds))).astype(float)


def test_the_calibration_error_of_a_calibrated_predictor_may_be_zero() -> None:
    figures = [calibration_figure(*predictions(seed, 1.0), range(120)) for seed in range(20)]
    assert all(figure.low <= figure.value <= figure.high for figure in figures)  # type: ignore[operator]
    assert min(figure.value for figure in figures) > 0.03  # type: ignore[type-var]  # noise alone: never 0 itself
    # above the 95% that noise alone gives in one of twenty; four of twenty: p = 0.016
    assert sum(figure.low == 0 for figure in figures) >= 17


def test_a_predictor_that_is_too_sure_is_not_called_calibrated_and_its_interval_holds_the_truth() -> None:
    p, _ = predictions(0, 0.0, 100_000)
    truth = float(np.abs(p - 0.5).mean())  # every outcome is a coin
    figures = [calibration_figure(*predictions(seed, 0.0), range(120)) for seed in range(20)]
    assert sum(figure.low > 0 for figure in figures) >= 15  # type: ignore[operator]
    assert sum(figure.low <= truth <= figure.high for figure in figures) >= 17  # type: ignore[operator]


def test_the_interval_of_a_calibration_error_resamples_clusters() -> None:
    p, outcome = predictions(3, 0.0)
    alone = calibration_figure(p, outcome, range(120))
    fours = calibration_figure(np.repeat(p, 4), np.repeat(outcome, 4), np.repeat(range(120), 4).tolist())
    assert (fours.value, fours.n) == (pytest.approx(alone.value, abs=0.03), 480)
    assert width(fours) == pytest.approx(width(alone), rel=0.2)  # four copies of a row say no more than one


def test_rows_at_equal_length_have_the_figure_as_their_mean_and_its_spread_as_theirs() -> None:
    random = np.random.default_rng(1)
    longer = random.normal(20, 50, 400)
    p = (random.random(400) < 1 / (1 + np.exp(-(0.3 + 0.8 * np.tanh(longer / 50))))).astype(float)
    values = at_equal_length(p, longer)
    assert values is not None
    figure = length_controlled(p, longer, range(400))
    assert values.mean() == pytest.approx(figure.value, abs=1e-6)
    half = 1.96 * values.std(ddof=1) / 20
    assert half == pytest.approx((figure.high - figure.low) / 2, rel=0.1)


def test_rows_at_equal_length_are_the_outcomes_where_length_says_nothing() -> None:
    p = np.array([1.0, 0.0, 1.0, 1.0])
    assert at_equal_length(p, np.zeros(4)) == pytest.approx(p, abs=1e-5)


def test_rows_at_equal_length_are_none_where_length_tells_wins_from_losses() -> None:
    assert at_equal_length([1.0, 1.0, 0.0, 0.0], [3, 2, -1, -4]) is None
