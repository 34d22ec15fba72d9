"""Agreement between labellers, people's ceiling, contests: against numbers derived by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.statistics import (
    Figure,
    alt_test,
    cohen_kappa,
    discrete,
    fleiss_kappa,
    flip_rate,
    human_ceiling,
    krippendorff_alpha,
    length_controlled,
    mcnemar,
    noise_corrected,
    percent_agreement,
    resampled,
    standard_error,
    wilson,
    win_rate,
)

SCALE = ("b", "tie", "a")


def columns(table: dict[tuple[Any, Any], int]) -> tuple[list[Any], list[Any], range]:
    """Two labellers' labels and one cluster per row, from how often each pair of labels comes up."""
    rows = [pair for pair, times in table.items() for _ in range(times)]
    return [one for one, _ in rows], [other for _, other in rows], range(len(rows))


# --- two labellers ----------------------------------------------------------------------------------------------------


def test_cohens_kappa_by_hand() -> None:
    # of 50: both a 20, both b 15, a/b 5, b/a 10. Agreement 35/50 = 0.7; shares of a: 25/50 and 30/50,
    # by chance 0.5·0.6 + 0.5·0.4 = 0.5; kappa (0.7 − 0.5)/(1 − 0.5) = 0.4
    figure = cohen_kappa(*columns({("a", "a"): 20, ("b", "b"): 15, ("a", "b"): 5, ("b", "a"): 10}))
    assert figure.value == pytest.approx(0.4)
    assert figure.n == 50
    # its usual standard error is sqrt(0.7·0.3/50)/0.5 = 0.130; ± 1.96 of it: ± 0.254
    assert figure.low == pytest.approx(0.4 - 0.254, abs=0.03)
    assert figure.high == pytest.approx(0.4 + 0.254, abs=0.03)


def test_ties_are_an_opinion_or_left_out() -> None:
    one, other, rows = columns({("a", "a"): 4, ("b", "b"): 4, ("tie", "tie"): 2, ("a", "tie"): 4, ("b", "a"): 2})
    # with ties: 10 of 16; shares one: a 8, b 6, tie 2; other: a 6, b 4, tie 6: by chance (48 + 24 + 12)/256 = 0.328125
    assert percent_agreement(one, other, rows).value == 0.625
    assert cohen_kappa(one, other, rows).value == pytest.approx((0.625 - 0.328125) / (1 - 0.328125))
    # without: 8 of 10; one: a 4, b 6; other: a 6, b 4: by chance (24 + 24)/100; kappa 0.32/0.52
    assert percent_agreement(one, other, rows, without="tie").value == 0.8
    assert cohen_kappa(one, other, rows, without="tie").value == pytest.approx(0.32 / 0.52)
    assert cohen_kappa(one, other, rows, without="tie").n == 10


def test_an_unreadable_verdict_is_a_category_of_its_own() -> None:
    one, other, rows = columns({("a", "a"): 2, (None, "b"): 2})
    # agreement 1/2; shares one: a ½, None ½; other: a ½, b ½: by chance ¼; kappa ¼ / ¾
    assert cohen_kappa(one, other, rows).value == pytest.approx(1 / 3)


def test_a_judge_that_always_says_the_same_has_a_kappa_of_zero() -> None:
    one, other, rows = columns({("a", "a"): 14, ("a", "b"): 6})
    assert cohen_kappa(one, other, rows) == Figure(value=0, low=0, high=0, n=20)


def test_no_disagreement_at_all_leaves_the_doubt_that_so_few_rows_leave() -> None:
    one, other, rows = columns({("a", "a"): 5, ("b", "b"): 5})
    # Wilson's upper bound for 0 of 10 is 0.277533; by chance half disagree: 1 − 0.277533/0.5
    figure = cohen_kappa(one, other, rows)
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(1 - 0.277533 / 0.5, abs=1e-5)


def test_one_category_alone_and_no_rows_have_no_kappa() -> None:
    assert cohen_kappa(["a"] * 4, ["a"] * 4, range(4)) == Figure(value=None, n=4)
    assert cohen_kappa([], [], []) == Figure(value=None, n=0)


def test_rows_of_one_prompt_are_drawn_together() -> None:
    one, other, rows = columns({("a", "a"): 20, ("b", "b"): 15, ("a", "b"): 5, ("b", "a"): 10})
    alone = cohen_kappa(one, other, rows)
    fours = cohen_kappa(one * 4, other * 4, [*rows] * 4)
    assert (fours.value, fours.low, fours.high) == (alone.value, alone.low, alone.high)
    assert cohen_kappa(one, other, ["one prompt"] * 50) == Figure(value=alone.value, n=50)


@given(st.lists(st.tuples(*[st.sampled_from(["a", "b", "tie", None])] * 2), min_size=2, max_size=12))
def test_kappa_does_not_depend_on_who_is_named_first_nor_on_the_names(rows: list[tuple[Any, Any]]) -> None:
    one, other = zip(*rows, strict=True)
    names = {"a": 1, "b": 2, "tie": 3, None: 4}
    prompts = ["one"] * len(rows)  # nothing to resample
    figure = cohen_kappa(one, other, prompts)
    turned = cohen_kappa([names[x] for x in other], [names[x] for x in one], prompts)
    assert figure.value == pytest.approx(turned.value)
    if figure.value is not None:
        assert -1 <= figure.value <= 1


# --- several people ---------------------------------------------------------------------------------------------------


def test_fleiss_kappa_by_hand() -> None:
    # three raters, four items: P = 1, 1/3 (of 3 pairs one agrees), 1, 1/3; mean 2/3.
    # labels: a 3 + 2 + 0 + 1 = 6, b 0 + 1 + 3 + 2 = 6: by chance ½; kappa (2/3 − 1/2)/(1/2) = 1/3
    figure = fleiss_kappa([list("aaa"), list("aab"), list("bbb"), list("abb")], range(4))
    assert figure.value == pytest.approx(1 / 3)
    assert figure.n == 4


@pytest.mark.parametrize("ratings", [[["a", "b"], ["a", "b", "b"]], [["a"], ["b"]]])
def test_fleiss_kappa_wants_as_many_labels_for_every_item(ratings: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="as many labels for every item"):
        fleiss_kappa(ratings, range(2))


def test_krippendorffs_alpha_nominal_by_hand() -> None:
    # his example with two raters, ten items (2011, part B): nominal, alpha 0.095 for binary data
    one, other = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    figure = krippendorff_alpha(list(zip(one, other, strict=True)), range(10))
    # 4 of 10 disagree: D_o = 8/20; 14 zeros, 6 ones: D_e = 2·14·6/(20·19); alpha 1 − 0.4/0.442105
    assert figure.value == pytest.approx(1 - 0.4 / (168 / 380))
    assert figure.value == pytest.approx(0.095, abs=5e-4)


def test_krippendorffs_alpha_with_missing_raters_by_hand() -> None:
    # items (a, a, –), (a, b, b), (b, –, –): the last has one label and says nothing. Coincidences: of the first aa 2;
    # of the second, pairs over m − 1 = 2: ab 2/2, ba 2/2, bb 2/2. So n = 5, n_a = 3, n_b = 2.
    # nominal: D_o = 2/5; D_e = 2·3·2/(5·4) = 0.6; alpha 1/3
    ratings = [("a", "a", None), ("a", "b", "b"), ("b", None, None)]
    figure = krippendorff_alpha(ratings, range(3))
    assert figure.value == pytest.approx(1 / 3)
    assert figure.n == 2
    # ordinal with two categories has one distance: the same
    assert krippendorff_alpha(ratings, range(3), order=("b", "a")).value == pytest.approx(1 / 3)


def test_krippendorffs_ordinal_alpha_by_hand() -> None:
    # two raters: (b, b), (tie, a), (a, a), (b, tie): n = 8, b 3, tie 2, a 3; middles of the ranks 1.5, 4, 6.5:
    # squared distances b–tie 6.25, tie–a 6.25, b–a 25.
    # found: (tie, a) and (b, tie), 2 each way: (2·6.25 + 2·6.25)/8 = 3.125
    # by chance: 2·(3·2·6.25 + 2·3·6.25 + 3·3·25)/(8·7) = 2·300/56 = 10.714286; alpha 1 − 0.291667
    ratings = [("b", "b"), ("tie", "a"), ("a", "a"), ("b", "tie")]
    assert krippendorff_alpha(ratings, range(4), order=SCALE).value == pytest.approx(1 - 3.125 / (600 / 56))
    # nominal: found 4/8; by chance 2·(6 + 6 + 9)/56 = 0.75; alpha 1/3
    assert krippendorff_alpha(ratings, range(4)).value == pytest.approx(1 / 3)


def test_labels_outside_the_order_are_refused() -> None:
    with pytest.raises(ValueError, match="'c'"):
        krippendorff_alpha([("a", "c")], range(1), order=SCALE)


# --- the ceiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agreement", "rate"), [(0.63, 0.245), (0.66, 0.217), (0.73, 0.161), (0.77, 0.133), (0.81, 0.106), (1.0, 0.0)]
)
def test_the_flip_rate_of_two_peoples_agreement(agreement: float, rate: float) -> None:
    found = flip_rate(agreement)
    assert found == pytest.approx(rate, abs=5e-4)
    assert (1 - found) ** 2 + found**2 == pytest.approx(agreement)


@pytest.mark.parametrize("agreement", [0.5, 0.3, 1.1])
def test_people_who_agree_half_the_time_have_no_ceiling(agreement: float) -> None:
    with pytest.raises(ValueError, match="ceiling"):
        flip_rate(agreement)


def test_the_ceiling_carries_its_interval() -> None:
    # 0.82 = 0.9² + 0.1²: ceiling 0.9; 0.68 = 0.8² + 0.2²; and an agreement that may be 0.4 may leave none
    figure = human_ceiling(Figure(value=0.82, low=0.68, high=1.0, n=9))
    assert [figure.value, figure.low, figure.high] == pytest.approx([0.9, 0.8, 1.0])
    assert human_ceiling(Figure(value=0.82, low=0.4, high=0.9, n=9)).low == 0.5


def test_accuracy_without_peoples_noise_by_hand() -> None:
    # people agree in 82 of 100 pairs: ε = 0.1. The judge agrees with 74 of 100: (0.74 − 0.1)/0.8 = 0.8
    judge = [[1.0, 1.0]] * 74 + [[0.0, 1.0]] * 26
    people = [[1.0, 1.0]] * 82 + [[0.0, 1.0]] * 18
    figure = noise_corrected(judge, people, range(100))
    assert figure.value == pytest.approx(0.8)
    assert figure.n == 100
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < 0.8 < figure.high
    with pytest.raises(ValueError, match="ceiling"):
        noise_corrected(judge, [[0.0, 1.0]] * 100, range(100))


# --- the alternative annotator test -----------------------------------------------------------------------------------


def people_of(table: Sequence[tuple[str, int]]) -> list[list[str]]:
    """Three people's labels: each string is one item's three labels, so many times."""
    rows = [labels for labels, times in table for _ in range(times)]
    return [[labels[person] for labels in rows] for person in range(3)]


def test_the_alternative_annotator_test_by_hand() -> None:
    # 40 items, on 10 of which the third person differs from the first two; the judge says what the first two say.
    people = people_of([("aaa", 30), ("aab", 10)])
    test = alt_test(["a"] * 40, people, range(40), epsilon=0.1)
    # Against the first person: the judge says the same, so both are ahead (≥) on every item: d = 0, below 0.1: p = 0.
    # So against the second. Against the third: on 10 items the judge matches both others and the third none: d = −1;
    # mean −0.25, deviation sqrt(0.1875·40/39) = 0.438529; t = −0.35/(0.438529/√40) = −5.0478, 39 degrees: p = 5.4e-6
    assert test.p[:2] == (0.5**40, 0.5**40)
    assert test.p[2] == pytest.approx(5.4e-6, rel=0.05)
    assert test.omega == 1
    assert test.passed
    assert test.rho.value == 1  # at least as close as each person on every item
    assert test.rho.n == 120


def test_a_judge_that_matches_nobody_wins_against_nobody() -> None:
    people = people_of([("aaa", 30), ("aab", 10)])
    test = alt_test([None] * 40, people, range(40), epsilon=0.2)
    assert test.omega == 0
    assert not test.passed
    # the judge is as close only where the third person is alone: 10 of 40, for one person of three
    assert test.rho.value == pytest.approx((0 + 0 + 0.25) / 3)


def test_false_discoveries_are_held_down_under_any_dependence() -> None:
    # one of three passes at p = 0.02: 0.05/(1 + 1/2 + 1/3) · 1/3 = 0.00909 is not reached; ranks alone would not help
    from rlaif.statistics.people import _rejected

    assert _rejected([0.02, 0.9, 0.9]) == 0
    assert _rejected([0.009, 0.9, 0.9]) == 1
    # 0.05/1.8333 = 0.02727: all three at 0.027 pass together, for the largest is compared with the whole rate
    assert _rejected([0.027, 0.027, 0.027]) == 3


def test_fewer_than_thirty_items_are_tested_by_their_ranks() -> None:
    people = people_of([("aaa", 6), ("aab", 4)])
    test = alt_test(["a"] * 10, people, range(10), epsilon=0.2)
    # third person: d − ε is −0.2 six times, −1.2 four times: all below 0, so the rank sum of positives is 0: the least
    # that ten signs can give, so p is small; and no t-test would be
    assert test.p[2] < 0.01


def test_two_people_are_too_few_for_the_test() -> None:
    with pytest.raises(ValueError, match="three people"):
        alt_test(["a"] * 40, people_of([("aaa", 40)])[:2], range(40), epsilon=0.1)


def test_items_without_another_persons_label_say_nothing() -> None:
    people = [["a"] * 40 + ["a"], ["a"] * 40 + [None], ["a"] * 40 + [None]]
    assert alt_test(["a"] * 41, people, range(41), epsilon=0.1).rho.n == 120


# --- two systems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 32),  # exact: both tails of five coins
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (4, 4, 1.0),
        (20, 10, math.erfc(math.sqrt((81 / 30) / 2))),  # (|10| − 1)²/30 = 2.7
        (15, 15, 1.0),
    ],
)
def test_mcnemar_by_hand(b: int, c: int, p: float) -> None:
    assert mcnemar(b, c) == pytest.approx(p)
    assert mcnemar(c, b) == mcnemar(b, c)


def test_win_rates_by_hand() -> None:
    p = [0.9, 0.5, 0.2, 0.4]
    assert win_rate(p, range(4)).value == pytest.approx(0.5)
    assert discrete(p).tolist() == [1, 0.5, 0, 0]
    # squares about 0.5: 0.16 + 0 + 0.09 + 0.01 = 0.26; deviation sqrt(0.26/3), over √4
    assert standard_error(p) == pytest.approx(math.sqrt(0.26 / 3) / 2)
    assert standard_error([1.0]) is None
    assert win_rate([1.0, 0.0, 1.0], range(3)) == wilson(2, 3)  # one win or loss a prompt: Wilson's


def test_the_length_controlled_win_rate_is_the_win_rate_where_length_says_nothing() -> None:
    # wins 3 of 4 whether longer or shorter: φ = 0, σ(θ) = 0.75
    p = [1.0, 1.0, 1.0, 0.0] * 10
    longer = ([100.0] * 4 + [-100.0] * 4) * 5
    assert length_controlled(p, longer, range(40)).value == pytest.approx(0.75, abs=1e-6)
    assert length_controlled(p, [0.0] * 40, range(40)).value == pytest.approx(0.75, abs=1e-6)


def test_a_win_rate_that_is_all_length_is_even_at_equal_length() -> None:
    # soft targets that follow the model exactly: logit p = 0 + 2 · tanh(Δ/deviation); most replies are longer
    longer = np.array([10.0, 40.0, 90.0, 160.0] * 3 + [-10.0, -40.0, -90.0, -160.0])
    p = 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std(ddof=1))))
    assert p.mean() > 0.6
    figure = length_controlled(p, longer, range(16))
    assert figure.value == pytest.approx(0.5, abs=1e-6)
    assert figure.high is not None
    assert figure.high - 0.5 < 0.01  # every resample lies on the same curve
    # and with θ = 1 it is σ(1)
    p = 1 / (1 + np.exp(-1 - 2 * np.tanh(longer / longer.std(ddof=1))))
    assert length_controlled(p, longer, range(16)).value == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_lengths_that_tell_wins_from_losses_say_nothing_of_equal_length() -> None:
    assert length_controlled([1.0, 1.0, 0.0, 0.0], [5.0, 7.0, -5.0, -7.0], range(4)) == Figure(value=None, n=4)
    assert (
        length_controlled([1.0, 1.0, 0.0, 0.0], [3.0, 3.0, 9.0, 8.0], range(4)).value is None
    )  # the shorter, likewise
    soft = length_controlled(
        [0.9, 1.0, 0.0, 0.0], [5.0, 7.0, -5.0, -7.0], range(4)
    )  # nobody was surely beaten by length
    assert soft.value is not None


def test_what_is_always_won_has_the_interval_of_so_many_wins() -> None:
    figure = length_controlled([1.0] * 40, list(range(-20, 20)), range(40))
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low == pytest.approx(wilson(40, 40).low)


def test_where_every_reply_is_as_much_longer_length_cannot_be_told_from_worth() -> None:
    assert length_controlled([1.0, 0.0], [50.0, 50.0], range(2)) == Figure(value=None, n=2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(-500, 500)), min_size=3, max_size=12))
def test_the_two_sides_of_a_contest_share_one_hundred_percent(rows: list[tuple[float, int]]) -> None:
    p, longer = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    one = length_controlled(p, longer, ["one"] * len(p)).value
    other = length_controlled(1 - p, -longer, ["one"] * len(p)).value
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one + other == pytest.approx(1, abs=1e-6)


# --- resampling -------------------------------------------------------------------------------------------------------


def test_any_function_of_sums_has_an_interval() -> None:
    # the mean of 100 zeros and ones, half each: error 0.05, ± 0.098
    rows = [[float(i % 2), 1.0] for i in range(100)]
    figure = resampled(lambda sums: sums[..., 0] / sums[..., 1], rows, range(100), n=100)
    assert figure.value == 0.5
    assert figure.low == pytest.approx(0.402, abs=0.011)
    assert figure.high == pytest.approx(0.598, abs=0.011)


def test_a_figure_that_most_resamples_leave_undefined_has_no_interval() -> None:
    # defined only where the one marked row was drawn: not in (9/10)^10 = 35% of resamples
    rows = [[1.0, 1.0]] + [[0.0, 1.0]] * 9
    figure = resampled(lambda sums: np.where(sums[..., 0] > 0, 1.0, np.nan), rows, range(10), n=10)
    assert figure == Figure(value=1.0, n=10)
