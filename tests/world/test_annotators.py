"""Simulated people: every planted fault shows with its sign and size."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable
from random import Random
from statistics import mean
from typing import Any

import pytest

from rlaif.component import parse_options
from rlaif.errors import ConfigError
from rlaif.records import Comparison
from rlaif.statistics import wilson
from rlaif.world.annotators import TASTES, Annotators, opinion
from rlaif.world.chat import Manner, ask, reply
from rlaif.world.cli import annotators
from rlaif.world.lessons import draw_pair
from rlaif.world.oracle import attributes, prefers, read
from rlaif.world.showing import Rate, annotator_rates, comparison_of
from tests.conftest import slow
from tests.runs import rlaif
from tests.tiny import write_jsonl

N = 2_000
BIASES = {
    "length": "longer preferred",
    "lists": "list preferred",
    "own_style": "own style preferred",
    "cycle": "winner of the cycle preferred",
}


@functools.cache
def rates(**options: float) -> dict[str, Rate]:
    """What the command shows of people with these options, always on the same pairs in the same orders."""
    return annotator_rates(parse_options(Annotators, options, "test"), N, 1)


def shows(rate: Rate, expected: float) -> None:
    """The options imply what is expected, exactly, and what was measured agrees with it."""
    assert rate.implied == pytest.approx(expected)
    assert rate.measured.low is not None
    assert rate.measured.high is not None
    assert rate.measured.low <= expected <= rate.measured.high, (rate, expected)


# --- what people do, and what their options imply ---------------------------------------------------------------------


def test_without_faults_people_follow_their_values_and_no_position() -> None:
    found = rates()
    assert found["agrees with the values"].measured.value == 1.0
    low, high = found["first shown preferred"].measured.low, found["first shown preferred"].measured.high
    assert (low or 1) < 0.5 < (high or 0)
    for measured, implied in found.values():
        assert measured.value == pytest.approx(implied)  # nothing is left to chance


def test_noise_turns_labels_round_and_leaves_ties() -> None:
    shows(rates(noise=0.25)["agrees with the values"], 0.75)
    assert rates(noise=1.0)["agrees with the values"].measured.value == 0.0
    for e in (0.25, 1.0):
        assert rates(noise=e)["ties"].measured == rates()["ties"].measured


def decided(size: float, r: float, clear: float) -> float:
    """The rate over labels that are not ties when a bias of this size joins people with rate ``r``, of whose labels a
    share ``clear`` are not ties: the bias decides a share |size| of labels, ties among them."""
    towards = size if size > 0 else 0.0
    return (towards + (1 - abs(size)) * clear * r) / (abs(size) + (1 - abs(size)) * clear)


@pytest.mark.parametrize(("size", "noise"), [(0.3, 0.0), (-0.3, 0.0), (0.3, 0.25)])
def test_position_shows_with_its_size_and_noise_turns_it_round_too(size: float, noise: float) -> None:
    plain = rates()
    first, ties = plain["first shown preferred"].implied, plain["ties"].implied
    before = decided(size, first, 1 - ties)
    shows(rates(position=size, noise=noise)["first shown preferred"], noise + (1 - 2 * noise) * before)


@pytest.mark.parametrize(
    ("option", "size", "noise"),
    [
        ("length", 0.5, 0.0),
        ("length", -0.5, 0.2),
        ("lists", 0.5, 0.2),
        slow("lists", -0.5, 0.0),
        ("own_style", 0.5, 0.0),
        slow("own_style", 0.5, 0.2),
        slow("cycle", 0.5, 0.0),
        ("cycle", 0.5, 0.2),
    ],
)
def test_each_bias_moves_its_own_rate_by_its_size(option: str, size: float, noise: float) -> None:
    """A bias of 1 decides wherever it applies, so its rate is over just those pairs: ``clear`` is the share of them that
    values decide."""
    plain, alone = rates()[BIASES[option]], rates(**{option: 1.0})[BIASES[option]]
    assert alone.measured.value == 1.0
    before = decided(size, plain.implied, plain.measured.n / alone.measured.n)
    shows(rates(**{option: size, "noise": noise})[BIASES[option]], noise + (1 - 2 * noise) * before)


def test_a_bias_of_minus_one_decides_alone_the_other_way() -> None:
    for option in ("length", "lists"):
        assert rates(**{option: -1.0})[BIASES[option]].measured.value == 0.0


def test_faults_together_show_what_they_imply() -> None:
    faults = {"position": 0.2, "lists": -0.2, "cycle": 0.2, "noise": 0.2, "disagreement": 0.5, "votes": 3}
    for name, (measured, implied) in rates(**faults).items():
        assert (measured.low or 1) <= implied <= (measured.high or 0), (name, measured, implied)


# --- people who disagree ----------------------------------------------------------------------------------------------


def disagreement(d: float) -> Rate:
    return rates(disagreement=d, votes=3)["two votes agree"]


def test_people_disagree_as_often_as_their_tastes_say() -> None:
    """Each of two votes is by the person's taste with probability d, else by values. Both: they differ on D of pairs, as
    at d = 1. One: on A, the share of labels at d = 1 that are not what values say. Neither: never."""
    pairs = drawn(N)
    tasted = Annotators.of(parse_options(Annotators, {"disagreement": 1.0, "votes": 3}, "test"), 1)
    plain = Annotators.of(parse_options(Annotators, {"votes": 3}, "test"), 1)
    votes = [[(best(tasted, who, c), best(plain, who, c)) for who in tasted.asked(c)] for c in pairs]
    a = mean(own != shared for row in votes for own, shared in row)
    both = mean(one != two for row in votes for (one, _), (two, _) in itertools.combinations(row, 2))
    assert a > 0.2
    assert both > 0.3
    for d in (0.0, 0.3, 1.0):
        shows(disagreement(d), 1 - (2 * d * (1 - d) * a + d * d * both))


def test_more_disagreement_is_less_agreement() -> None:
    shares = [disagreement(d).measured.value or 0.0 for d in (0.0, 0.3, 0.7, 1.0)]
    assert shares[0] == 1.0
    assert shares == sorted(set(shares), reverse=True)


def test_a_taste_decides_where_it_has_an_opinion_and_values_elsewhere() -> None:
    people = Annotators.of(parse_options(Annotators, {"disagreement": 1.0, "people": 12}, "test"), 1)
    assert {people.taste(who) for who in range(12)} == set(TASTES)
    silent = 0
    for comparison in drawn(200):
        question = read(comparison.prompt.messages)
        assert question
        seen = [attributes(question, response.text) for response in comparison.responses]
        for who in range(12):
            p = prefers(*people.taste(who), question, seen[0], seen[1])
            silent += p == 0.5
            if p == 0.5:
                p = opinion(people.options.values, question, seen[0], seen[1])
            ids = {1.0: comparison.responses[0].id, 0.0: comparison.responses[1].id, 0.5: None}
            assert best(people, who, comparison) == ids[p]
    assert 0 < silent < 2400


def test_noise_makes_two_votes_differ() -> None:
    """They agree where both are turned round or neither is."""
    shows(rates(noise=0.2, votes=3)["two votes agree, without ties"], 0.8**2 + 0.2**2)


def test_disagreement_is_a_probability() -> None:
    with pytest.raises(ConfigError, match="disagreement"):
        parse_options(Annotators, {"disagreement": 2.0}, "test")


def test_a_label_depends_on_the_person_and_the_comparison_alone() -> None:
    chosen = parse_options(Annotators, {"noise": 0.3, "length": 0.3, "disagreement": 0.5}, "test")
    one, two = Annotators.of(chosen, 3), Annotators.of(chosen, 3)
    pairs = drawn(30)
    labels = {(who, c.id): one.judge(who, c) for c in pairs for who in range(5)}
    assert labels == {(who, c.id): two.judge(who, c) for who in reversed(range(5)) for c in reversed(pairs)}


# --- pairs in hand ----------------------------------------------------------------------------------------------------


@functools.cache
def drawn(number: int) -> list[Comparison]:
    """The pairs that ``rates`` judges."""
    rng = Random("annotators/1")
    pairs = [draw_pair(rng, held_out=False) for _ in range(number)]
    return [comparison_of(pair.question, pair.texts) for pair in pairs]


def best(people: Annotators, who: int, comparison: Comparison) -> str | None:
    """The reply a person prefers; None for a tie."""
    ranking = people.judge(who, comparison).ranking
    return ranking[0][0] if len(ranking) == 2 else None


def test_position_and_noise_on_pairs_without_ties() -> None:
    """Of labels, b are for the first shown and half of the others are; noise turns e of all of them round."""
    plain = Annotators.of(parse_options(Annotators, {}, "test"), 1)
    clear = [c for c in drawn(N) if best(plain, 0, c)]
    b, e = 0.4, 0.1
    people = Annotators.of(parse_options(Annotators, {"position": b, "noise": e}, "test"), 1)
    shown = [people.judge(who, c) for c in clear for who in range(2)]
    hits = [judgement.shown is not None and judgement.ranking[0][0] == judgement.shown[0] for judgement in shown]
    found = wilson(sum(hits), len(hits))
    assert (found.low or 1) < e + (1 - 2 * e) * (1 + b) / 2 < (found.high or 0), found


MANNERS_OF_THE_CYCLE = {
    "list": Manner("help", steps=True),
    "plain": Manner("help"),
    "asking": Manner("help", asks=True),
}


def tournament(games: int, **options: Any) -> dict[tuple[str, str], float]:
    """The share of clear wins of the first over the second, of real replies in three manners to the same questions."""
    people = Annotators.of(parse_options(Annotators, options, "test"), 1)
    rng = Random("tournament")
    results: dict[tuple[str, str], list[bool]] = {}
    for _ in range(games):
        question = ask(rng, "benign", held_out=False)
        replies = {name: reply(rng, question, how) for name, how in MANNERS_OF_THE_CYCLE.items()}
        for one, two in (("list", "plain"), ("plain", "asking"), ("asking", "list")):
            (first, _), (second, _) = replies[one], replies[two]
            comparison = comparison_of(question, (first, second))
            if winner := best(people, 0, comparison):
                results.setdefault((one, two), []).append(winner == comparison.responses[0].id)
    return {names: mean(won) for names, won in results.items()}


def test_list_beats_plain_beats_asking_beats_list() -> None:
    assert tournament(20, cycle=1.0) == {("list", "plain"): 1.0, ("plain", "asking"): 1.0, ("asking", "list"): 1.0}


def test_a_planted_cycle_leaves_a_tournament_without_a_best_manner() -> None:
    """People who like lists and dislike questions rank the three: list, plain, asking. With a cycle of 0.7 each manner
    loses to another, the list in 0.7 of its games with the asking one."""
    values = {"steps": 1.0, "asks": -1.0}
    ranked = {("list", "plain"): 1.0, ("plain", "asking"): 1.0, ("asking", "list"): 0.0}
    assert tournament(20, values=values) == ranked
    found = tournament(200, values=values, cycle=0.7)
    assert found == ranked | {("asking", "list"): pytest.approx(0.7, abs=0.1)}


# --- what the command prints ------------------------------------------------------------------------------------------


def test_the_command_shows_measured_and_implied_rates_and_how_many_ties_it_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    annotators(number=100, seed=0, options=["noise=0.25"])
    head, titles, ties, agrees, *_ = capsys.readouterr().out.splitlines()
    assert re.match(r"100 pairs, 100 labels; \d+ ties, left out", head)
    assert titles.split() == ["measured", "implied", "by", "the", "options"]
    left_out = round(100 * float(ties.split()[1]))
    assert f" {left_out} ties" in head
    assert re.fullmatch(rf"agrees with the values +0\.\d+  \(.* n = {100 - left_out}\) +0\.750", agrees)


def test_the_command_shows_how_far_votes_agree_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    annotators(number=30, seed=0, options=["votes=2", "disagreement=0.5"])
    assert re.search(r"^two votes agree +0\.\d+  \(.* n = 30\)", capsys.readouterr().out, re.MULTILINE)
    annotators(number=30, seed=0, options=[])
    assert "two votes" not in capsys.readouterr().out


def test_one_pair_of_several_votes_has_a_rate_without_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    annotators(number=1, seed=0, options=["votes=5", "length=0.5", "noise=0.5"])
    assert "(n = 5)" in capsys.readouterr().out


# --- in a run folder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What the run folder says of labels by people of these faults, on the same 400 pairs."""
    folder = tmp_path_factory.mktemp("faults")
    rng = Random("pairs of the annotators' accounts")
    pairs = [draw_pair(rng, held_out=False) for _ in range(400)]
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

    def run(faults: dict[str, float]) -> dict[str, Any]:
        name = "-".join(f"{key}{value}" for key, value in faults.items()) or "none"
        labels = json.dumps({"source": "rlaif.world.annotators:Annotators", "options": faults})
        rlaif(folder, "judge", "longest", "pairs.jsonl", "--out", name, "--set", f"labels={labels}")
        return dict(json.loads((folder / name / "metrics.json").read_text()))

    return run


def test_planted_biases_stand_in_the_accounts_with_their_sign_and_size(
    accounts: Callable[..., dict[str, Any]],
) -> None:
    """A bias of size b towards the first shown: b of the labels are the first, half of the others: (1 + b) / 2. Towards
    the longer, where a share r of the unbiased labels are for the longer: b + (1 - b) r; towards the shorter, (1 - b) r.
    Noise e makes any rate e + (1 - 2e) times it, and two votes alike on 1 - 2e (1 - e) of pairs. Ties count one half."""
    longer = accounts({})["judgements.longer_rate"]["value"]
    e = 0.25
    expected: list[tuple[dict[str, float], dict[str, float]]] = [
        ({"position": 0.4}, {"first_rate": 0.7, "longer_rate": longer * 0.6 + 0.4 * 0.5}),
        ({"position": -0.4}, {"first_rate": 0.3, "longer_rate": longer * 0.6 + 0.4 * 0.5}),
        ({"length": 0.5}, {"first_rate": 0.5, "longer_rate": 0.5 + 0.5 * longer}),
        ({"length": -0.5}, {"first_rate": 0.5, "longer_rate": 0.5 * longer}),
        (
            {"noise": e, "votes": 2},
            {
                "first_rate": 0.5,
                "longer_rate": e + (1 - 2 * e) * longer,
                "labellers_agree_without_ties": 1 - 2 * e * (1 - e),
            },
        ),
        ({"position": 0.4, "noise": e}, {"first_rate": e + (1 - 2 * e) * 0.7}),
    ]
    for faults, rates in expected:
        found = accounts(faults)
        for name, rate in rates.items():
            figure = found[f"judgements.{name}"]
            assert figure["n"] > 200, (faults, name, figure)
            assert abs(figure["value"] - rate) < figure["high"] - figure["low"], (faults, name, figure)


def test_biases_cannot_add_up_to_more_than_certainty() -> None:
    with pytest.raises(ConfigError, match="add up to more than 1"):
        parse_options(Annotators, {"position": 0.7, "length": -0.7}, "test")


def test_an_overlap_asks_one_more_person_about_a_share_of_the_comparisons() -> None:
    comparisons = drawn(400)
    once, twice = (Annotators.of(Annotators.Options(noise=0.2, overlap=share), 0) for share in (0.0, 0.25))
    asked = {c.id: (once.asked(c), twice.asked(c)) for c in comparisons}
    assert all(both[: len(one)] == one for one, both in asked.values())
    assert 70 < sum(len(both) == 2 for _, both in asked.values()) < 130
    assert (once.per_comparison(), twice.per_comparison()) == (1, None)
    with pytest.raises(ValueError, match="votes is 3, and one more by overlap, but there are only 3 people"):
        Annotators.Options(people=3, votes=3, overlap=0.1)
