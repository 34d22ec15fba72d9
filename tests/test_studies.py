"""Differences between arms: by hand, and over many simulated studies with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rlaif.statistics.studies import (
    Difference,
    clustered_difference,
    conclusions,
    crossed_difference,
    detectable_with,
    holm,
)


def test_of_one_seed_it_is_a_t_test_over_prompts() -> None:
    d = [0.5, -0.5, 1.0, 0.0, 0.5]
    found, theirs = crossed_difference([d]), ttest_1samp(d, 0)
    assert found.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval()
    assert found.interval() == pytest.approx((low, high))


def test_of_several_seeds_by_hand() -> None:
    """Two seeds, two prompts: 0, 2 / 2, 4. Means of seeds 1 and 3, of prompts 1 and 3, nothing is left: MS 4, 4 and 0, and the
    variance (4 + 4)/4 with (4 + 4)²/(16/1 + 16/1) = 2 degrees of freedom."""
    found = crossed_difference([[0, 2], [2, 4]])
    assert (found.value, found.error, found.df) == (2, pytest.approx(math.sqrt(2)), pytest.approx(2))


def test_missing_prompts_are_those_that_any_seed_lacks() -> None:
    whole = crossed_difference([[0, 2, 9], [2, 4, math.nan]])
    assert whole == crossed_difference([[0, 2], [2, 4]])
    with pytest.raises(ValueError, match="two prompts or more, found 1"):
        crossed_difference([[0, math.nan], [1, 2]])


def test_clusters_count_once() -> None:
    """Every row twice, in its cluster, says no more than once."""
    d = np.array([0.5, -0.5, 1.0, 0.0, 0.5])
    once, twice = clustered_difference(d, list("abcde")), clustered_difference(np.repeat(d, 2), list("aabbccddee"))
    assert (twice.value, twice.error, twice.df) == pytest.approx((once.value, once.error, once.df))
    assert once.error == pytest.approx(crossed_difference([d]).error)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def test_a_conclusion_needs_its_evidence() -> None:
    def one(value: float, error: float) -> str:
        return conclusions({"ai": Difference(value, error, 1000, 1000, 1000)}, margin=0.05)["ai"].answer

    assert one(0.10, 0.01) == "better"
    assert one(-0.10, 0.01) == "worse"
    assert one(0.00, 0.01) == "equivalent"
    assert one(0.02, 0.005) == "equivalent"  # a sure difference that does not matter
    assert one(0.00, 0.05) == "inconclusive"
    assert one(0.04, 0.01) == "better"  # a sure difference that may matter


def test_what_could_be_detected_is_detected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    prompts, deviation = 200, 0.5
    true = Difference(0.0, deviation / math.sqrt(prompts), prompts - 1, prompts, prompts).detectable()
    found = [crossed_difference(rng.normal(true, deviation, (1, prompts))).p < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert detectable_with(prompts, deviation) == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("of_seed", "of_prompt", "rest"), [(0.0, 0.3, 0.4), (0.03, 0.3, 0.4), (0.2, 0.1, 0.2), (0.0, 0.0, 0.5)]
)
def test_intervals_hold_the_truth(seeds: int, of_seed: float, of_prompt: float, rest: float) -> None:
    """Seeds and prompts as random as they come: at least 94% of 95% intervals, however much of the noise is whose; of two seeds 92."""
    rng = np.random.default_rng(1)
    prompts, held = 150, 0
    for _ in range(1500):
        d = (
            rng.normal(0, of_seed, (seeds, 1))
            + rng.normal(0, of_prompt, (1, prompts))
            + rng.normal(0, rest, (seeds, prompts))
        )
        low, high = crossed_difference(0.1 + d).interval()
        held += low <= 0.1 <= high
    assert held / 1500 >= (0.92 if seeds == 2 else 0.94)


@pytest.mark.parametrize(
    ("true", "false"), [(0.0, {"better", "worse"}), (0.05, {"worse", "equivalent"}), (-0.05, {"better", "equivalent"})]
)
def test_few_studies_of_three_arms_say_what_is_not_so(true: float, false: set[str]) -> None:
    """Three seeds, 300 prompts, arms that share the one they are held against; the margin is 0.05, so that ±0.05 is no equivalence.
    Of 1,000 studies at most 6.4% (5% and two standard errors) say one false thing of any arm."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(1000):
        base = rng.normal(0, 0.3, (3, 300)) + rng.normal(0, 0.01, (3, 1))
        arms = {
            str(k): crossed_difference(rng.normal(true, 0.3, (3, 300)) + rng.normal(0, 0.01, (3, 1)) - base)
            for k in range(3)
        }
        wrong += any(each.answer in false for each in conclusions(arms, margin=0.05).values())
    assert wrong / 1000 <= 0.064
