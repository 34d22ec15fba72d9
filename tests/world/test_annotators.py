"""Simulated people: every planted fault shows with its sign and size."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from rlaif.component import parse_options
from rlaif.errors import ConfigError
from rlaif.world.annotators import Annotators
from rlaif.world.lessons import draw_pair
from rlaif.world.showing import annotator_rates
from tests.runs import rlaif
from tests.tiny import write_jsonl

N = 4_000


def rates(**options: object) -> dict[str, tuple[float, float, float]]:
    chosen = parse_options(Annotators, options, "test")
    return {name: (f.value, f.low or 0.0, f.high or 1.0) for name, f in annotator_rates(chosen, N, 1).items()}


def test_without_faults_people_follow_their_values_and_no_position() -> None:
    found = rates()
    assert found["agrees with the values"][0] == 1.0
    low, high = found["first shown preferred"][1:]
    assert low < 0.5 < high


def test_noise_turns_labels_round() -> None:
    _value, low, high = rates(noise=0.25)["agrees with the values"]
    assert low < 0.75 < high


@pytest.mark.parametrize("size", [0.3, -0.3])
def test_position_shows_as_half_its_size(size: float) -> None:
    """Where values decide, the first wins half the time; where position decides, always or never. Ties are decided by
    position alone, and count as preferences: with share t of ties, (1 - t)(1 - |s|)/2 and |s| are the shares that count."""
    found = rates(position=size)
    ties = 1 - 1173 / 2000  # of pairs drawn by this seed whose values balance, measured without faults
    decided, biased = (1 - ties) * (1 - abs(size)), abs(size)
    expected = (decided / 2 + (biased if size > 0 else 0)) / (decided + biased)
    value, low, high = found["first shown preferred"]
    assert low - 0.01 < expected < high + 0.01, (value, expected)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("length", "longer preferred"),
        ("lists", "list preferred"),
        ("own_style", "alpha style preferred"),
        ("cycle", "winner of the cycle preferred"),
    ],
)
def test_each_bias_moves_its_own_rate_up(option: str, name: str) -> None:
    assert rates(**{option: 0.5})[name][1] > rates()[name][2]


def test_a_bias_of_one_decides_alone_and_its_sign_counts() -> None:
    assert rates(length=1.0)["longer preferred"][0] == 1.0
    assert rates(length=-1.0)["longer preferred"][0] == 0.0
    assert rates(cycle=1.0)["winner of the cycle preferred"][0] == 1.0


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What the run folder says of labels by people of these faults, on the same 1,000 pairs."""
    folder = tmp_path_factory.mktemp("faults")
    rng = Random("pairs of the annotators' accounts")
    pairs = [draw_pair(rng, held_out=False) for _ in range(1000)]
    write_jsonl(
        folder / "pairs.jsonl",
        [
            {
                "messages": [message.model_dump() for message in pair.question.messages],
                "response_a": pair.texts[0],
                "response_b": pair.texts[1],
            }
            for pair in pairs
        ],
    )

    def run(**faults: float) -> dict[str, Any]:
        name = "-".join(f"{key}{value}" for key, value in faults.items()) or "none"
        labels = json.dumps({"source": "rlaif.world.annotators:Annotators", "options": faults})
        rlaif(folder, "judge", "longest", "pairs.jsonl", "--out", name, "--set", f"labels={labels}")
        return dict(json.loads((folder / name / "metrics.json").read_text()))

    return run


def test_planted_biases_stand_in_the_accounts_with_their_sign_and_size(
    accounts: Callable[..., dict[str, Any]],
) -> None:
    """A bias of size b towards the first shown: b of the labels are the first, half of the others: (1 + b) / 2. Towards
    the longer, where a share r of the unbiased labels are for the longer: b + (1 - b) r; towards the shorter, (1 - b) r."""
    plain = accounts()
    longer = plain["judgements.longer_rate"]["value"]
    expected: dict[tuple[str, float], dict[str, float]] = {
        ("position", 0.4): {"first": 0.7, "longer": longer * 0.6 + 0.4 * 0.5},
        ("position", -0.4): {"first": 0.3, "longer": longer * 0.6 + 0.4 * 0.5},
        ("length", 0.5): {"first": 0.5, "longer": 0.5 + 0.5 * longer},
        ("length", -0.5): {"first": 0.5, "longer": 0.5 * longer},
        ("noise", 0.0): {"first": 0.5, "longer": longer},
        ("noise", 0.25): {"first": 0.5, "longer": 0.75 * longer + 0.25 * (1 - longer)},
    }
    for (fault, size), rates in expected.items():
        found = accounts(**{fault: size})
        for name, rate in rates.items():
            figure = found[f"judgements.{name}_rate"]
            assert figure["n"] > 900
            assert abs(figure["value"] - rate) < figure["high"] - figure["low"], (fault, size, name, figure)


def test_biases_cannot_add_up_to_more_than_certainty() -> None:
    with pytest.raises(ConfigError, match="add up to more than 1"):
        parse_options(Annotators, {"position": 0.7, "length": -0.7}, "test")


def test_people_who_disagree_have_weights_of_their_own() -> None:
    same = Annotators.of(parse_options(Annotators, {}, "test"), 0)
    apart = Annotators.of(parse_options(Annotators, {"disagreement": 1.0}, "test"), 0)
    assert same.weights(0) == same.weights(1)
    assert apart.weights(0) != apart.weights(1)
    assert apart.weights(0) == Annotators.of(apart.options, 0).weights(0)
