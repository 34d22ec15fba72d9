"""What pulls a labeller, and how mistakes go together: by hand, and where nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.families import family_of, same_family
from rlaif.statistics import Pull, error_correlation, pull


def verdicts(better: int, preferred_then: int, worse: int, preferred_else: int) -> tuple[list[float], list[int]]:
    """``preferred`` and ``labels_for`` of so many pairs in which the reply with more is better, and in which it is worse."""
    said = [1.0] * preferred_then + [0.0] * (better - preferred_then)
    said += [1.0] * preferred_else + [0.0] * (worse - preferred_else)
    return said, [1] * better + [0] * worse


def pulled(said: list[float], better: list[int]) -> Pull:
    """With one label of every pair, each of a prompt of its own."""
    return pull(said, better, [1] * len(said), range(len(said)))


def test_a_pull_by_hand() -> None:
    # right 90 of 100 times where the longer is better, 66 of 100 where it is worse: 0.9 - 0.66. By the feature with
    # probability 0.3, else by quality, slips 0.1: (1 - 0.2) 0.3
    said, better = verdicts(100, 90, 100, 34)
    found = pulled(said, better)
    assert found.pull.value == pytest.approx(0.24, abs=1e-6)
    assert found.right_with.value == pytest.approx(0.9)
    assert found.right_against.value == pytest.approx(0.66)
    assert found.pull.low is not None
    assert found.pull.low > 0.1


def test_a_pull_against_the_feature_is_its_mirror_image() -> None:
    said, better = verdicts(100, 66, 100, 10)
    assert pulled(said, better).pull.value == pytest.approx(-0.24, abs=1e-6)


def test_a_judge_that_is_as_right_either_way_is_not_pulled() -> None:
    said, better = verdicts(400, 320, 100, 20)  # the longer is mostly better, and mostly preferred: no habit
    found = pulled(said, better).pull
    assert found.value == pytest.approx(0.0, abs=1e-6)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_people_s_mistakes_are_taken_out() -> None:
    """The same judge, seen through two people who are each wrong in one of ten pairs, independently: both right in 81 of
    100 pairs, one of them in 18, none in 1. They agree in 82%, so that ε = (1 - sqrt(0.64)) / 2 = 0.1."""
    said, labels_for = [], []
    for truth, preferred, number in ((1, 1, 90), (1, 0, 10), (0, 1, 34), (0, 0, 66)):
        for right, share in ((2, 81), (1, 18), (0, 1)):
            said += [float(preferred)] * (number * share)
            labels_for += [right if truth else 2 - right] * (number * share)
    rows = len(said)
    found = pull(said, labels_for, [2] * rows, np.arange(rows) // 100)
    assert found.pull.value == pytest.approx(0.24, abs=1e-6)
    assert found.right_with.value == pytest.approx(0.9, abs=1e-6)
    assert found.right_against.value == pytest.approx(0.66, abs=1e-6)


def test_where_nothing_can_be_told_apart_there_is_no_value() -> None:
    assert pulled([], []).pull.value is None
    said, better = verdicts(50, 40, 0, 0)
    assert pulled(said, better).pull.value is None  # never worse
    said, better = verdicts(50, 25, 50, 25)
    assert pulled(said, better).pull.value == pytest.approx(0.0)  # a coin goes by nothing
    said, better = verdicts(50, 45, 50, 10)
    assert pull(said, [1] * 100, [2] * 100, range(100)).pull.value is None  # people never agree


@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
)
def test_turning_the_feature_round_turns_the_sign(more: tuple[int, int], less: tuple[int, int]) -> None:
    said, better = verdicts(*more, *less)
    own = pulled(said, better).pull.value
    turned = pulled([1 - y for y in said], [1 - t for t in better]).pull.value
    if own is not None and turned is not None:  # at the very edge of what can be told apart rounding decides
        assert own == pytest.approx(-turned)


def test_mistakes_that_go_together_by_hand() -> None:
    # of 100 pairs the one fails on 20, the other on 20, both on 12: (0.12 - 0.04) / (0.2 * 0.8) = 0.5
    one = [1.0] * 12 + [1.0] * 8 + [0.0] * 8 + [0.0] * 72
    other = [1.0] * 12 + [0.0] * 8 + [1.0] * 8 + [0.0] * 72
    assert error_correlation(one, other, range(100)).value == pytest.approx(0.5)
    assert error_correlation(one, one, range(100)).value == pytest.approx(1.0)
    assert error_correlation(one, [0.0] * 100, range(100)).value is None  # never wrong
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.5)
    assert not math.isnan(error_correlation(one, other, [0] * 100).value or 0.0)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gpt-4o-mini", "openai"),
        ("openai/gpt-oss-20b", "openai"),
        ("o3-mini", "openai"),
        ("text-davinci-003", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
        ("anthropic.claude-3-haiku", "anthropic"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta"),
        ("llava-hf/llava-1.5", None),
        ("mistralai/Mixtral-8x7B", "mistral"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("deepseek/DeepSeek-R1-Distill-Llama-8B", "deepseek"),
        ("google/gemma-2-9b-it", "google"),
        ("models/of/mine/my-model", None),
        ("models/yi-34b", "01"),
        ("my-policy", None),
        ("sophia", None),
        ("", None),
        (None, None),
    ],
)
def test_the_family_that_a_name_speaks_of(name: str | None, family: str | None) -> None:
    assert family_of(name) == family


def test_one_family() -> None:
    assert same_family("gpt-4o", "openai/gpt-4.1")
    assert not same_family("gpt-4o", "claude-3-opus")
    for name in ("EleutherAI/gpt-j-6b", "gpt-neox-20b", "palmyra-x", "o3d"):
        assert family_of(name) not in ("openai", "google")
    assert [family_of(n) for n in ("CodeLlama-7b", "vicuna-13b", "command_r", "gpt-4o")] == [
        "meta",
        "meta",
        "cohere",
        "openai",
    ]
    assert same_family("my-own", "my-own")
    assert not same_family("my-own", "another")
    assert not same_family(None, None)


def test_mistakes_that_have_nothing_to_do_with_the_feature_are_no_pull() -> None:
    """A third of the verdicts by a taste of the judge's own, 6% by the feature: 0.06, and not 0.06 / (1 - 2/3)."""
    said, better = verdicts(600, 600 - 200 + 12, 600, 200 + 24)
    found = pulled(said, better).pull
    assert found.value == pytest.approx(0.06, abs=0.005)


def test_where_no_resample_differs_the_interval_is_not_of_no_width() -> None:
    said, better = verdicts(10, 10, 10, 0)
    found = pulled(said, better)
    assert (found.pull.value, found.right_with.value) == (pytest.approx(0.0), pytest.approx(1.0))
    assert found.pull.high is not None
    assert found.pull.high > 0.1
    assert found.right_with.low is not None
    assert found.right_with.low < 0.9
    assert found.right_with.high == 1.0
