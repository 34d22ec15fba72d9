"""The meters on planted faults, 400 times each: coverage, width beside one that knows the truth, false alarms, power."""

from __future__ import annotations

import pytest

from tests.world.meters_study import repeated, studies

STUDIES = list(studies())


@pytest.mark.parametrize(
    "study", [s for s in STUDIES if "length" in s[0] and "-" not in s[0]], ids=lambda study: study[0]
)
def test_a_planted_pull_of_length_is_found_and_none_is_not(study: tuple) -> None:  # type: ignore[type-arg]
    _, meter, planted, none, effect = study
    result = repeated(20, meter, planted, none)
    assert result.covers >= 0.8
    assert result.width < 1.4
    assert (result.found >= 0.6) if effect else (result.found <= 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study[0])
def test_every_meter_four_hundred_times(study: tuple) -> None:  # type: ignore[type-arg]
    _, meter, planted, none, effect = study
    result = repeated(400, meter, planted, none)
    assert 0.92 <= result.covers <= 0.975, result
    assert result.width <= 1.3, result
    assert (result.found >= 0.8) if effect else (result.found <= 0.07), result
