"""Maps of a judge's probabilities: the mathematics by hand, and planted miscalibration found again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from rlaif.calibration import KINDS, Kind, Map
from rlaif.statistics import calibration_error, log_loss
from rlaif.statistics.calibrators import apply, fit, fit_panel, unseen


def overconfident(slope: float, n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A judge whose logits are ``slope`` times the truth's; labels drawn from the truth; two pairs a prompt."""
    rng = np.random.default_rng(seed)
    true = expit(rng.normal(0, 1.5, n))
    return expit(slope * logit(true)), (rng.random(n) < true).astype(float), [i // 2 for i in range(n)]


def test_a_temperature_by_hand() -> None:
    # all at p = 0.9, right in 3 of 4: sigma(a log 9) = 3/4, so a = log 3 / log 9 = 1/2
    found = fit("temperature", [0.9, 0.9, 0.1, 0.9], [1, 1, 0, 0])
    assert found.a == pytest.approx(0.5)
    assert (found.of(0.9), found.of(0.1), found.of(0.5)) == (pytest.approx(0.75), pytest.approx(0.25), 0.5)


def test_verdicts_by_hand() -> None:
    # 5 of 6 verdicts right: (5 + 1) / (6 + 2); a tie says nothing
    found = fit("verdicts", [1, 1, 0, 0, 1, 0, 0.5], [1, 1, 0, 0, 0, 0, 1])
    assert (found.of(1.0), found.of(0.0), found.of(0.5)) == (0.75, 0.25, 0.5)


def test_isotonic_pools_what_is_out_of_order() -> None:
    # right at 0.6 in 2 of 2, at 0.7 in 1 of 2, at 0.9 in 2 of 2: the first two are pooled to 3/4 at their mean, 0.65
    found = fit("isotonic", [0.6, 0.6, 0.7, 0.7, 0.9, 0.9], [1, 1, 1, 0, 1, 1])
    assert (found.x, found.y) == (pytest.approx((0.5, 0.65, 0.9)), pytest.approx((0.5, 0.75, 1.0)))
    assert found.of(0.575) == pytest.approx(0.625)
    assert found.of(0.3) == pytest.approx(1 - found.of(0.7))


@pytest.mark.parametrize("kind", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("slope", [0.4, 3.0])
def test_planted_miscalibration_is_undone_on_prompts_that_were_not_seen(kind: Kind, slope: float) -> None:
    p, label, prompts = overconfident(slope)
    after = unseen(kind, p, label, prompts)
    assert calibration_error(after, label) < 0.5 * calibration_error(p, label)
    assert log_loss(after, label).mean() < log_loss(p, label).mean()


def test_the_planted_temperature_is_found() -> None:
    p, label, _ = overconfident(3.0, n=20_000)
    assert 1 / fit("temperature", p, label).a == pytest.approx(3.0, rel=0.08)


def test_a_judge_that_is_mostly_wrong_is_taken_for_one_that_says_nothing() -> None:
    p, label = np.array([0.9] * 4 + [0.7] * 4), np.array([0.0, 0.0, 1.0, 0.0] * 2)
    for kind in KINDS:
        assert apply(fit(kind, p, label), p).max() <= 0.5 + 1e-9


def test_a_judge_that_is_always_right_is_believed() -> None:
    assert fit("temperature", [0.9, 0.2], [1, 0]).of(0.9) > 0.999


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=40),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_every_map_is_symmetric_and_never_turns_an_opinion_round(
    kind: Kind, pairs: list[tuple[float, float]], asked: list[float]
) -> None:
    found = fit(kind, *zip(*pairs, strict=True))  # type: ignore[arg-type]
    values = [found.of(p) for p in sorted(asked)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values) or np.allclose(values, sorted(values), atol=1e-9)
    for p in asked:
        assert found.of(p) + found.of(1 - p) == pytest.approx(1, abs=1e-9)
        assert (found.of(p) - 0.5) * (p - 0.5) >= -1e-12


def test_swapping_the_replies_of_every_pair_fits_the_same_map() -> None:
    p, label, _ = overconfident(2.0, n=500)
    for kind in KINDS:
        one, other = fit(kind, p, label), fit(kind, 1 - p, 1 - label)
        assert apply(one, p) == pytest.approx(apply(other, p), abs=1e-6)


def test_the_map_of_a_file_without_its_points_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its points"):
        Map(kind="isotonic")
    assert Map(kind="temperature", a=2.0).of(0.75) == pytest.approx(0.9)  # odds of 3 squared
    assert Map(kind="platt", a=0.0, b=math.log(4)).of(0.6) == pytest.approx(0.8)


# --- panels -----------------------------------------------------------------------------------------------------------


def test_a_panel_of_one_is_a_temperature() -> None:
    rng = np.random.default_rng(0)
    p = np.clip(rng.beta(2, 2, 400), 0.02, 0.98)
    t = (rng.random(400) < 1 / (1 + np.exp(-0.4 * np.log(p / (1 - p))))).astype(float)
    found = fit_panel([{"one": float(each)} for each in p], t)
    assert found.weights["one"] == pytest.approx(fit("temperature", p, t).a, abs=1e-3)
    assert found.of_panel({"one": 0.8}) + found.of_panel({"one": 0.2}) == pytest.approx(1.0)


def test_a_judge_that_is_worse_than_a_coin_has_no_weight() -> None:
    rng = np.random.default_rng(1)
    t = (rng.random(500) < 0.5).astype(float)
    good = [float(each) if rng.random() < 0.8 else 1 - float(each) for each in t]
    bad = [1 - float(each) if rng.random() < 0.7 else float(each) for each in t]
    found = fit_panel([{"good": g, "bad": b} for g, b in zip(good, bad, strict=True)], t)
    assert found.weights["bad"] == 0.0
    assert found.weights["good"] > 0.2
    assert found.of_panel({"bad": 1.0}) == 0.5  # nobody with a weight spoke
    assert found.of_panel({"good": 1.0}) == pytest.approx(0.8, abs=0.05)
