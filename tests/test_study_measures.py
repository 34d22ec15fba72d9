"""What a study makes of labels and outcomes: on common support, over seeds, and where nothing ever happens."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlaif.recorded.replay import Item
from rlaif.statistics import Figure
from rlaif.statistics.studies import Difference, conclusions, crossed_difference, over_seeds
from rlaif.store import RECIPE, RunFolder, write_json
from rlaif.study.labelled import (
    Labels,
    Pair,
    beside,
    between_people,
    by_prompt,
    mcnemar_p,
    missing,
    of_labels,
    people_of,
    with_one_person,
)
from rlaif.study.measures import _of_people
from rlaif.study.trained import held_of

PAIRS = [f"p{n}" for n in range(400)]
KNOWN = {name: Pair(Item(name, name, (10, 20), None), turned=n % 2 == 1) for n, name in enumerate(PAIRS)}


def labels(choices: dict[str, str | None]) -> Labels:
    return Labels(choices, {name: name for name in choices})  # type: ignore[arg-type]


def test_labels_that_vary_by_seed_agree_as_often_as_they_do() -> None:
    """People's labels are the same with every seed; of the others one in four is turned round, anew with each."""
    draw = random.Random(0)
    people = labels({name: draw.choice("ab") for name in PAIRS})
    turned = {"a": "b", "b": "a"}
    noisy = {
        seed: labels({name: turned[said] if draw.random() < 0.25 else said for name, said in people.choices.items()})  # type: ignore[index]
        for seed in range(3)
    }
    expected = np.mean([said == people.choices[name] for own in noisy.values() for name, said in own.choices.items()])
    found = of_labels(beside(noisy, dict.fromkeys(range(3), people), dict.fromkeys(range(3), KNOWN)))
    assert found["agreement"].value == pytest.approx(expected)
    assert found["agreement"].n == 1200
    same = of_labels(
        beside(dict.fromkeys(range(3), people), dict.fromkeys(range(3), people), dict.fromkeys(range(3), KNOWN))
    )
    assert (same["agreement"].value, same["agreement"].n) == (1, 400)  # one seed says all


def test_the_rule_that_prefers_the_first_goes_by_the_order_of_the_comparison() -> None:
    firsts = labels({name: "b" if pair.turned else "a" for name, pair in KNOWN.items()})
    found = of_labels(beside({0: firsts}, {0: firsts}, {0: KNOWN}))
    assert found["agreement.first"].value == 1
    assert found["agreement.longest"].value == 0  # of every pair the second is the longer


def test_who_says_nothing_of_hard_pairs_gains_nothing_by_it() -> None:
    choices = {f"p{n}": said for n, said in enumerate("aabbab")}
    prompts = {name: name[:1] + str(int(name[1:]) // 2) for name in choices}  # two pairs a prompt
    truth = Labels(dict.fromkeys(choices, "a"), prompts)  # type: ignore[arg-type]
    people = Labels(choices, prompts)  # type: ignore[arg-type]
    silent = Labels({name: said if said == "a" else None for name, said in choices.items()}, prompts)  # type: ignore[arg-type]
    assert by_prompt(silent, truth) == {"p0": 1, "p2": 1}
    assert by_prompt(silent, truth, people) == by_prompt(people, truth, silent)
    assert missing({0: silent}).value == 0.5


def test_a_pair_that_every_seed_has_is_one_pair_to_mcnemar() -> None:
    """By hand: one wrong where the other is right, and seven the other way: 2 · (1 + 8) / 2⁸."""
    truth = labels(dict.fromkeys(PAIRS[:20], "a"))
    ours = labels({name: "b" if n == 0 else "a" for n, name in enumerate(truth.choices)})
    theirs = labels({name: "b" if 1 <= n <= 7 else "a" for n, name in enumerate(truth.choices)})
    for seeds in (1, 3):
        found = mcnemar_p(*(dict.fromkeys(range(seeds), each) for each in (ours, theirs, truth)))
        assert (found.value, found.n) == (pytest.approx(18 / 256), 20)


def test_labels_beside_one_person_are_held_against_another_person() -> None:
    """By hand, of two prompts: three people of whom one differs, who agree in one of three pairs, and two who agree."""

    def pair(name: str, *said: str, turned: bool = False) -> Pair:
        people = {f"person {n}": each for n, each in enumerate(said)}
        return Pair(Item(name, name, (10, 20), None, people=people), turned=turned)  # type: ignore[arg-type]

    known = {
        "p0": pair("p0", "a", "a", "b", "tie"), "p1": pair("p1", "b", "b", turned=True),
        "p2": pair("p2", "a"), "p3": pair("p3", "a", "a"), "p4": pair("p4", "a", "a"),
    }  # fmt: skip
    ours = labels({"p0": "a", "p1": "a", "p2": "a", "p3": None, "p4": "tie", "p5": "a"})
    own, between = with_one_person(ours, known)
    assert own == pytest.approx({"p0": 2 / 3, "p1": 1})
    assert between == pytest.approx({"p0": 1 / 3, "p1": 1})
    assert between_people(known) == pytest.approx({"p0": 1 / 3, "p1": 1, "p3": 1, "p4": 1})  # whatever the labels say


@pytest.mark.parametrize(("where", "n"), [([(0, 6), (0, 6)], 12), ([(0, 4), (2, 6)], 6)], ids=["alike", "elsewhere"])
def test_where_seeds_have_hardly_a_prompt_in_common_with_two_labels_those_of_all_count(
    where: list[tuple[int, int]], n: int
) -> None:
    """Two people agree on three pairs of four; of (0, 4) and (2, 6) they label prompts 2 and 3 twice, a third of all."""
    study = SimpleNamespace(seeds=(0, 1), arms={"people": None, "ai": None}, baseline="people", label_margin=0.05)
    pairs = {
        seed: {
            f"p{i}": Pair(Item(f"p{i}", f"p{i}", (1, 1), None, people={"x": "a", "y": "b" if i % 4 == 1 else "a"}), turned=False)
            for i in range(*at)
        }
        for seed, at in enumerate(where)
    }  # fmt: skip
    said = {arm: {seed: labels(dict.fromkeys(of, "a")) for seed, of in pairs.items()} for arm in study.arms}
    (found,) = _of_people(study, said, pairs, {"people"})  # type: ignore[arg-type]
    people = found.mean("people")
    assert people.value == pytest.approx(4 / 6)
    assert people.n == n
    assert found.differences(["ai"], "people")["ai"].value == pytest.approx(1 / 6)  # half of those two disagree on


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    """As far as each one's rewards are spread: gains of 1 and 3."""
    folder = RunFolder(tmp_path / "run").path
    recipe = {"pairs": "pairs.jsonl", "labels": "human", "models": {"policy": "folder"}, "reward_model": {"members": 2}}
    write_json(folder / RECIPE, recipe)
    for name, gain, differences in (("reward_model", 1.0, [4.0, 0.0]), ("reward_members-2", 3.0, [0.0, 8.0])):
        held = {"differences": differences, "p": [1.0, 0.0]}
        write_json(folder / "training" / f"{name}.json", {"gain": gain, "held_out": held})
    assert held_of(folder) == {"differences": [1.0, 6.0], "p": [1.0, 0.0]}
    write_json(folder / RECIPE, {**recipe, "reward_model": {}})
    assert held_of(folder) == {"differences": [4.0, 0.0], "p": [1.0, 0.0]}


def test_what_two_people_said_of_a_pair_is_one_opinion_however_many_seeds_read_it() -> None:
    known = {
        name: Pair(Item(name, name, (10, 20), None, people={"x": "a", "y": "b" if n < 100 else "a"}), turned=False)
        for n, name in enumerate(PAIRS)
    }
    one, three = people_of([known]), people_of([known] * 3)
    assert one["people.agreement"].value == 0.75
    assert one["people.agreement"].n == 400
    assert one == three
    assert people_of([KNOWN]) == {}


def test_over_seeds_is_the_mean_of_what_each_has() -> None:
    found = over_seeds(
        [Figure(value=0.2, low=0.1, high=0.4, n=5), Figure(value=0.4, low=0.1, high=0.6, n=6), Figure(value=None, n=0)]
    )
    assert found.model_dump() == pytest.approx({"value": 0.3, "low": 0.1, "high": 0.5, "n": 11})
    assert over_seeds([Figure(value=1.0, n=2)]) == Figure(value=1.0, n=2)
    assert over_seeds([]) == Figure(value=None, n=0)


@pytest.mark.parametrize(
    ("prompts", "rates"), [(20, (0.0, 0.06)), (40, (0.0, 0.05)), (60, (0.0, 0.06)), (100, (0.01, 0.06))]
)
def test_what_hardly_ever_happens_is_seldom_falsely_equivalent(prompts: int, rates: tuple[float, float]) -> None:
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(1000):
        one, other = (rng.random((1, prompts)) < rate for rate in rates)
        difference = crossed_difference(one.astype(float) - other).of_shares
        false += conclusions({"ai": difference}, margin=0.05)["ai"].answer == "equivalent"
    assert false / 1000 <= 0.064


def test_nothing_seen_on_many_prompts_is_equivalent() -> None:
    """Of five arms and so many prompts the rule of three alone decides: 1.82 prompts of error times t. Nothing is said beyond 100 points."""
    for seeds, prompts, answer in (
        (1, 400, "equivalent"),
        (3, 400, "equivalent"),
        (3, 40, "inconclusive"),
        (2, 2, "inconclusive"),
    ):
        nothing = crossed_difference(np.zeros((seeds, prompts))).of_shares
        told = conclusions(dict.fromkeys("abcde", nothing), margin=0.05)["a"]
        assert told.answer == answer
        low, high = told.difference.interval()
        assert -1 <= low <= 0 <= high <= 1
        assert told.detectable <= 1


def test_of_several_arms_what_could_be_detected_is_detected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    names, error = "abcde", 0.03
    told = conclusions({name: Difference(0.0, error**2, 500, 500) for name in names}, margin=0.001)["a"].detectable
    found = [
        conclusions(
            {name: Difference(rng.normal(told if name == "a" else 0.0, error), error**2, 500, 500) for name in names},
            margin=0.001,
        )["a"].answer
        == "better"
        for _ in range(2000)
    ]
    assert 0.78 <= np.mean(found) <= 0.85
