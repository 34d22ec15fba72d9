"""Differences between arms: by hand, and over many simulated studies with known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rlaif.statistics.studies import (
    Difference,
    conclusions,
    crossed_difference,
    detectable_with,
    holm,
)
from tests.conftest import slow


def test_of_one_seed_it_is_a_t_test_over_prompts() -> None:
    d = [0.5, -0.5, 1.0, 0.0, 0.5]
    found, theirs = crossed_difference([d]), ttest_1samp(d, 0)
    assert found.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval()
    assert found.interval() == pytest.approx((low, high))


def test_of_several_seeds_by_hand() -> None:
    """Two seeds, two prompts: 0, 2 / 2, 4. Means of seeds 1 and 3, of prompts 1 and 3, nothing is left: MS 4, 4 and 0, and the
    variance (4 + 4)/4."""
    found = crossed_difference([[0, 2], [2, 4]])
    assert (found.value, found.by_seed, found.by_prompt, found.both) == pytest.approx((2, 1, 1, 0))
    assert found.error == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_where_seeds_are_all_the_noise_it_is_a_t_test_over_seeds(level: float) -> None:
    seeds = [0.1, -0.2, 0.4, 0.3]
    found, theirs = crossed_difference(np.repeat(seeds, 5000).reshape(4, -1)), ttest_1samp(seeds, 0)
    assert found.p == pytest.approx(theirs.pvalue, rel=0.01)
    low, high = theirs.confidence_interval(level)
    assert found.interval(level) == pytest.approx((low, high), rel=0.01)


def test_what_some_seeds_lack_is_of_those_that_have_it_by_hand() -> None:
    """Seeds 0, 2, 1 / 2, 4, -: a mean of 9/5. Away from it are prompts -1.6, 2.4 and -0.8, seeds -2.4 and 2.4."""
    found = crossed_difference([[0, 2, 1], [2, 4, math.nan]])
    assert found.value == pytest.approx(9 / 5)
    assert found.by_prompt == pytest.approx((1.6**2 + 2.4**2 + 0.8**2) / 25 * 3 / 2)
    assert found.by_seed == pytest.approx((2.4**2 + 2.4**2) / 25 * 2)
    assert found.both == pytest.approx(0)  # each is its seed's and its prompt's
    assert (found.n, found.units) == (5, 3)
    nobody = crossed_difference([[0, 2, math.nan], [2, 4, math.nan]])
    assert nobody == crossed_difference([[0, 2], [2, 4]])
    with pytest.raises(ValueError, match="two prompts or more, found 1"):
        crossed_difference([[0, math.nan], [1, math.nan]])
    with pytest.raises(ValueError, match="one has none"):
        crossed_difference([[0, 1], [math.nan, math.nan]])


def test_what_is_left_of_seeds_and_prompts_is_what_least_squares_leave() -> None:
    """Of effects of seeds and prompts together, fitted to what is there."""
    rng = np.random.default_rng(5)
    d = rng.normal(size=(3, 12))
    d[rng.random(d.shape) < 0.3] = math.nan
    there = ~np.isnan(d)
    seed, prompt = np.nonzero(there)
    effects = np.hstack([np.eye(3)[seed], np.eye(12)[prompt]])
    left = np.linalg.lstsq(effects, d[there], rcond=None)
    rest = d[there] - effects @ left[0]
    variance = (rest**2).sum() / (there.sum() - left[2])
    assert crossed_difference(d).both == pytest.approx(variance / there.sum())


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def test_a_conclusion_needs_its_evidence() -> None:
    def one(value: float, error: float) -> str:
        return conclusions({"ai": Difference(value, error**2, 1000, 1000)}, margin=0.05)["ai"].answer

    assert one(0.10, 0.01) == "better"
    assert one(-0.10, 0.01) == "worse"
    assert one(0.00, 0.01) == "equivalent"
    assert one(0.02, 0.005) == "equivalent"  # a sure difference that does not matter
    assert one(0.00, 0.05) == "inconclusive"
    assert one(0.04, 0.01) == "better"  # a sure difference that may matter


def test_what_could_be_detected_is_detected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    prompts, deviation = 200, 0.5
    true = Difference(0.0, deviation**2 / prompts, prompts, prompts).detectable()
    found = [crossed_difference(rng.normal(true, deviation, (1, prompts))).p < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert detectable_with(prompts, deviation) == pytest.approx(true, rel=0.02)


NOISES = [(0.0, 0.3, 0.4), (0.03, 0.3, 0.4), (0.2, 0.1, 0.2), (0.0, 0.0, 0.5)]
AT_ONCE = [(3, NOISES[0]), (2, NOISES[1]), (3, NOISES[2]), (5, NOISES[3])]  # the others are slow


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_prompt", "rest", "missing"),
    [
        *(
            (pytest.param if (seeds, noise) in AT_ONCE else slow)(seeds, *noise, 0.0)
            for seeds, noise in itertools.product((2, 3, 5), NOISES)
        ),
        (3, *NOISES[2], 0.3),
        *(slow(seeds, *noise, 0.5) for seeds, noise in itertools.product((2, 3, 5), NOISES)),
    ],
)
def test_intervals_hold_the_truth(seeds: int, of_seed: float, of_prompt: float, rest: float, missing: float) -> None:
    """Seeds and prompts as random as they come: at least 94% of 95% intervals, however much of the noise is whose, and where some of
    it is missing."""
    rng = np.random.default_rng(1)
    prompts, held = 150, 0
    for _ in range(1500):
        d = (
            rng.normal(0, of_seed, (seeds, 1))
            + rng.normal(0, of_prompt, (1, prompts))
            + rng.normal(0, rest, (seeds, prompts))
        )
        d[rng.random(d.shape) < missing] = math.nan
        low, high = crossed_difference(0.1 + d).interval()
        held += low <= 0.1 <= high
    assert held / 1500 >= 0.94


PLANTED = [(0.0, {"better", "worse"}), (0.05, {"worse", "equivalent"}), (-0.05, {"better", "equivalent"})]


@pytest.mark.parametrize(
    ("seeds", "of_seed", "arms"),
    [
        (3, (0.06, 0.01), 5),
        (1, (0.0, 0.0), 5),
        slow(3, (0.06, 0.06), 5),
        slow(3, (0.01, 0.06), 5),
        slow(2, (0.06, 0.06), 5),
        slow(3, (0.03, 0.03), 5),
        slow(3, (0.06, 0.06), 1),
        slow(5, (0.06, 0.01), 5),
    ],
)
@pytest.mark.parametrize(("true", "false"), PLANTED, ids=["equal", "better", "worse"])
def test_few_studies_say_what_is_not_so(
    true: float, false: set[str], seeds: int, of_seed: tuple[float, float], arms: int
) -> None:
    """400 prompts, arms that share the one they are held against, whose trainings may differ more than theirs, and by more than prompts
    do; the margin is 0.05, so that ±0.05 is no equivalence. Of 1,000 studies at most 6.4% (5% and two standard errors) say one false
    thing of any arm."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(1000):
        of_prompt, of_arms = rng.normal(0, 0.2, (1, 1, 400)), rng.normal(0, 0.1, (arms + 1, 1, 400))
        of_seeds = rng.normal(0, 1, (arms + 1, seeds, 1)) * np.array([of_seed[0], *[of_seed[1]] * arms]).reshape(
            -1, 1, 1
        )
        values = of_prompt + of_arms + of_seeds + rng.normal(0, 0.3, (arms + 1, seeds, 400))
        differences = {str(k): crossed_difference(true + values[k] - values[0]) for k in range(1, arms + 1)}
        wrong += any(each.answer in false for each in conclusions(differences, margin=0.05).values())
    assert wrong / 1000 <= 0.064


def test_what_few_seeds_could_find_is_found_about_as_often_as_said() -> None:
    """Four of five, of a difference that studies like these say on average; in the middle, for each knows its own noise alone."""
    rng = np.random.default_rng(3)

    def study(true: float) -> Difference:
        return crossed_difference(true + rng.normal(0, 0.03, (5, 1)) + rng.normal(0, 0.3, (5, 200)))

    true = float(np.median([study(0.0).detectable() for _ in range(100)]))
    assert 0.7 <= np.mean([study(true).p < 0.05 for _ in range(500)]) <= 0.9
