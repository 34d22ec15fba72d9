"""Judgements to preferences, by hand: orders, votes, principles, ties, rules; and what never depends on the labeller."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.config import PreferencesSection
from rlaif.preferences import NEAR_TIE, ROUNDING, Reconcile, hard_labels, panel_vote, reconcile, with_judgements
from rlaif.records import Comparison, Judgement, Preference, Provenance, Record
from tests import make

PAIR = make.comparison("first", "second")
A, B = PAIR.responses


def preferred(
    judgements: Sequence[Judgement], of: Comparison = PAIR, **rules: Any
) -> tuple[Preference, Provenance, float | None]:
    """Preference, provenance, and the probability that the comparison's first response is better."""
    a, b = of.responses
    preference, provenance = reconcile(of, (a, b), judgements, PreferencesSection(**rules))
    p = preference.p if preference.chosen == a.messages else 1 - preference.p
    return preference, provenance, None if preference.weight == 0 and provenance.outcome != "filtered" else p


def orders(p: float | None, q: float | None, of: Comparison = PAIR, **fields: Any) -> list[Judgement]:
    """Both showings by one labeller: P(first response better) when it is shown first, and when it is shown second."""
    return [make.judgement(of, p, **fields), make.judgement(of, q, flipped=True, **fields)]


# --- orders -----------------------------------------------------------------------------------------------------------


def test_probabilities_of_both_orders_are_averaged() -> None:
    # (0.9 + 0.6) / 2
    preference, provenance, p = preferred(orders(0.9, 0.6))
    assert p == pytest.approx(0.75)
    assert preference.chosen == A.messages
    assert preference.rejected == B.messages
    assert preference.weight == 1
    assert provenance.outcome == "labelled"
    assert provenance.p_by_order == (0.9, 0.6)
    assert provenance.orders_agree is True


def test_the_second_response_may_win() -> None:
    # (0.4 + 0.0) / 2 = 0.2 for the first: 0.8 for the second
    preference, provenance, _ = preferred(orders(0.4, 0.0))
    assert preference.chosen == B.messages
    assert preference.p == pytest.approx(0.8)
    assert provenance.p_by_order == (pytest.approx(0.6), 1.0)


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_judge_of_position_alone_ends_in_an_exact_tie_and_in_no_hard_label_export(sure: float) -> None:
    # shown first, a response is better with probability `sure`, whichever it is: (sure + (1 - sure)) / 2
    preference, provenance, p = preferred(orders(sure, 1 - sure))
    assert p == preference.p == 0.5
    assert provenance.outcome == "tie"
    assert preference.weight == 1
    assert provenance.orders_agree is (abs(sure - 0.5) < NEAR_TIE - ROUNDING)
    assert list(hard_labels([preference])) == ["tie"]


def test_verdicts_by_word_count_as_zero_one_and_a_half() -> None:
    # 1 in one order, a tie in the other: 0.75
    assert preferred(orders(1.0, 0.5))[2] == 0.75
    assert preferred(orders(1.0, 0.5))[1].orders_agree is False


@pytest.mark.parametrize("outcome", ["unreadable", "refused", "failed"])
def test_one_order_missing_is_unlabelled_with_its_reason_never_half_a_label(outcome: str) -> None:
    missing = make.judgement(PAIR, None, flipped=True, outcome=outcome, reason="it said so")
    preference, provenance, p = preferred([make.judgement(PAIR, 0.9), missing])
    assert p is None
    assert (preference.p, preference.weight) == (0.5, 0)
    assert (provenance.outcome, provenance.reason) == (outcome, "one order missing (it said so)")
    assert provenance.votes == ()


def test_both_orders_missing_keep_the_graver_outcome_and_its_reason() -> None:
    judgements = [
        make.judgement(PAIR, None),
        make.judgement(PAIR, None, flipped=True, outcome="failed", reason="timeout"),
    ]
    _, provenance, p = preferred(judgements)
    assert p is None
    assert (provenance.outcome, provenance.reason) == ("failed", "timeout")


def test_a_comparison_no_one_was_asked_about_is_a_row_without_a_label() -> None:
    preference, provenance, _ = preferred([])
    assert preference.weight == 0
    assert (provenance.outcome, provenance.reason) == ("no label", "no label")
    assert provenance.orders_agree is None


def test_an_unknown_order_is_an_opinion_all_the_same() -> None:
    ranked = Judgement(
        comparison_id=PAIR.id, labeller="human:x", shown=None, outcome="ranked", ranking=((B.id,), (A.id,))
    )
    preference, provenance, p = preferred([ranked])
    assert p == 0
    assert preference.chosen == B.messages
    assert provenance.p_by_order == ()
    assert provenance.orders_agree is None


# --- votes and principles ---------------------------------------------------------------------------------------------


def people(*votes: float | None) -> list[Judgement]:
    return [make.judgement(PAIR, vote, labeller=f"human:{i}") for i, vote in enumerate(votes)]


def test_votes_count_one_each() -> None:
    # two of three
    _, provenance, p = preferred(people(1.0, 1.0, 0.0))
    assert p == pytest.approx(2 / 3)
    assert sorted(provenance.votes) == [0, 1, 1]
    assert provenance.labellers == ("human:0", "human:1", "human:2")


def test_a_labeller_asked_twice_has_one_vote() -> None:
    # the judge: (1 + 0.6) / 2 = 0.8; the person: 0; together 0.4
    judgements = [*orders(1.0, 0.6), make.judgement(PAIR, 0.0, labeller="human:x")]
    assert preferred(judgements)[2] == pytest.approx(0.4)


def test_principles_count_by_their_weight_after_their_orders_are_averaged() -> None:
    # harmless, weight 3: (0.9 + 0.7) / 2 = 0.8. Helpful, weight 1: (0.2 + 0.2) / 2 = 0.2. (3·0.8 + 0.2) / 4 = 0.65
    judgements = [
        *orders(0.9, 0.7, principle_id="harmless@1", weight=3.0),
        *orders(0.2, 0.2, principle_id="helpful@1", weight=1.0),
    ]
    _, provenance, p = preferred(judgements)
    assert p == pytest.approx(0.65)
    assert provenance.principle_ids == ("harmless@1", "helpful@1")
    assert provenance.orders_agree is True  # (3·0.9 + 0.2) / 4 = 0.725 and (3·0.7 + 0.2) / 4 = 0.575


def test_orders_are_compared_by_opinions_not_by_principles_that_find_no_difference() -> None:
    # tie@1 leans to whatever is shown first by 0.02: (3·0.9 + 0.52) / 4 = 0.805 and (3·0.9 + 0.48) / 4 = 0.795
    judgements = [*orders(0.9, 0.9, principle_id="x@1", weight=3.0), *orders(0.52, 0.48, principle_id="tie@1")]
    assert preferred(judgements)[1].orders_agree is True


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [(0.52, 0.48, True), (0.5, 0.5, True), (0.56, 0.48, False), (0.56, 0.44, False), (0.56, 0.52, True)],
)
def test_two_near_ties_are_one_opinion(first: float, second: float, agree: bool) -> None:
    assert preferred(orders(first, second))[1].orders_agree is agree


def test_a_missing_vote_leaves_the_comparison_unlabelled() -> None:
    preference, provenance, _ = preferred(people(1.0, None, 1.0))
    assert preference.weight == 0
    assert (provenance.outcome, provenance.reason) == ("unreadable", "no verdict in the reply")


def test_a_missing_vote_may_be_ignored_but_not_all_of_them() -> None:
    assert preferred(people(1.0, None, 0.0, 1.0), missing_votes="ignore")[2] == pytest.approx(2 / 3)
    assert preferred(people(None, None), missing_votes="ignore")[1].outcome == "unreadable"


def test_ignoring_missing_votes_does_not_make_half_an_opinion_of_one_order() -> None:
    judgements = [*orders(1.0, None), make.judgement(PAIR, 0.25, labeller="human:x")]
    assert preferred(judgements, missing_votes="ignore")[2] == pytest.approx(0.25)


def test_an_even_vote_is_a_tie_with_full_weight() -> None:
    preference, provenance, _ = preferred(people(1.0, 0.0))
    assert (preference.p, preference.weight, provenance.outcome) == (0.5, 1, "tie")


def test_which_side_of_a_tie_is_called_chosen_is_a_fair_coin() -> None:
    pairs = [make.comparison("first", "second", question=f"question {i}") for i in range(400)]
    first = sum(preferred([make.judgement(of, 0.5)], of)[0].chosen == of.responses[0].messages for of in pairs)
    # mean 200, standard deviation 10
    assert 160 < first < 240


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "kept"), [(0.6, True), (0.4, True), (0.59, False), (0.5, False), (1.0, True)])
def test_a_margin_below_the_minimum_gets_weight_zero_but_keeps_its_row(p: float, kept: bool) -> None:
    # |2p - 1| of 0.6 and 0.4 is 0.2, of 0.59 it is 0.18
    preference, provenance, found = preferred(orders(p, p), minimum_margin=0.2)
    assert preference.weight == float(kept)
    assert found == pytest.approx(p)  # p is what was measured, kept or not
    assert provenance.outcome == ("labelled" if kept else "filtered")
    assert provenance.reason == (None if kept else "margin below 0.2")


def test_orders_that_disagree_can_be_set_aside() -> None:
    assert preferred(orders(0.9, 0.4))[0].weight == 1
    preference, provenance, _ = preferred(orders(0.9, 0.4), consistent_orders_only=True)
    assert preference.weight == 0
    assert (provenance.outcome, provenance.reason) == ("filtered", "the two orders disagree")
    assert preferred(orders(0.9, 0.6), consistent_orders_only=True)[0].weight == 1


def test_a_single_order_is_not_inconsistent() -> None:
    assert preferred([make.judgement(PAIR, 0.9)], consistent_orders_only=True)[0].weight == 1


@pytest.mark.parametrize(("p", "clamped"), [(0.95, 0.6), (0.05, 0.4), (0.55, 0.55), (0.5, 0.5)])
def test_the_clamp_bounds_p_on_both_sides(p: float, clamped: float) -> None:
    assert preferred(orders(p, p), clamp=(0.4, 0.6))[2] == pytest.approx(clamped)


# --- more than two responses ------------------------------------------------------------------------------------------

THREE = make.comparison("x", "y", "z")
X, Y, Z = (r.id for r in THREE.responses)


def table(judgements: Sequence[Judgement]) -> dict[tuple[str, str], float]:
    """(better, worse) to p, by text, of every pair of THREE."""

    async def one() -> AsyncIterator[list[tuple[Comparison, list[Judgement]]]]:
        yield [(THREE, list(judgements))]

    async def collect() -> list[Record]:
        return [record async for batch in Reconcile(PreferencesSection())(one()) for record in batch]

    rows = [record for record in asyncio.run(collect()) if isinstance(record, Preference)]
    assert len(rows) == 3
    return {(row.chosen[0].content, row.rejected[0].content): row.p for row in rows}


def ranked(
    *groups: tuple[str, ...], shown: tuple[str, ...] | None = None, p: tuple[float, ...] | None = None
) -> Judgement:
    return Judgement(comparison_id=THREE.id, labeller="judge:l@1", shown=shown, outcome="ranked", ranking=groups, p=p)


def test_a_ranking_of_three_gives_its_three_pairs() -> None:
    assert table([ranked((Y,), (X,), (Z,))]) == {("y", "x"): 1, ("y", "z"): 1, ("x", "z"): 1}


def test_a_shared_place_in_a_ranking_is_a_tie_of_that_pair_alone() -> None:
    found = table([ranked((Y,), (X, Z))])
    assert found.pop(("y", "x")) == found.pop(("y", "z")) == 1
    ((pair, p),) = found.items()
    assert (set(pair), p) == ({"x", "z"}, 0.5)


def test_probabilities_of_being_best_become_those_of_each_pair() -> None:
    # 0.5, 0.3, 0.2 for x, y, z: x over y 5/8, x over z 5/7, y over z 3/5
    found = table([ranked((X,), (Y,), (Z,), shown=(Z, X, Y), p=(0.5, 0.3, 0.2))])
    assert found == {("x", "y"): pytest.approx(5 / 8), ("x", "z"): pytest.approx(5 / 7), ("y", "z"): pytest.approx(0.6)}


def test_between_two_that_are_surely_not_best_the_ranking_decides() -> None:
    found = table([ranked((X,), (Y,), (Z,), shown=(X, Y, Z), p=(1.0, 0.0, 0.0))])
    assert found == {("x", "y"): 1, ("x", "z"): 1, ("y", "z"): 1}


def test_a_response_left_out_of_a_ranking_has_no_label() -> None:
    rows = [reconcile(THREE, pair, [ranked((X,), (Y,))], PreferencesSection()) for pair in pairs_of(THREE)]
    assert [(provenance.outcome, preference.weight) for preference, provenance in rows] == [
        ("labelled", 1), ("unreadable", 0), ("unreadable", 0),
    ]  # fmt: skip
    assert rows[1][1].reason == "a response was not ranked"


def test_orders_of_a_list_are_compared_pair_by_pair() -> None:
    """x before y in one showing, after it in the other, neither of them first in the list both times."""
    forth, back = ranked((X,), (Y,), (Z,), shown=(Z, X, Y)), ranked((Y,), (X,), (Z,), shown=(Z, Y, X))
    x, y, z = THREE.responses
    _, provenance = reconcile(THREE, (x, y), [forth, back], PreferencesSection())
    assert provenance.orders_agree is False
    _, provenance = reconcile(THREE, (x, z), [forth, back], PreferencesSection())
    assert provenance.orders_agree is None  # z was before x both times


def pairs_of(comparison: Comparison) -> list[Any]:
    x, y, z = comparison.responses
    return [(x, y), (x, z), (y, z)]


# --- hard labels ------------------------------------------------------------------------------------------------------


def test_hard_labels_drop_ties_near_ties_and_the_unlabelled_counted() -> None:
    rows = [preferred(orders(p, p))[0] for p in (0.5, 0.52, 0.45001, 0.55, 0.4, 1.0, None)]
    found = list(hard_labels(rows))
    assert Counter(item for item in found if isinstance(item, str)) == {
        "tie": 1, "near-tie": 2, "no label, or set aside": 1,
    }  # fmt: skip
    assert [item.p for item in found if not isinstance(item, str)] == pytest.approx([0.55, 0.6, 1.0])


# --- streams ----------------------------------------------------------------------------------------------------------


def test_judgements_join_their_comparisons_also_where_some_have_none() -> None:
    many = [make.comparison("a", "b", question=f"question {i}") for i in range(4)]
    judgements = [*orders(0.9, 0.9, many[1]), make.judgement(many[3], 0.1)]
    assert [len(own) for _, own in with_judgements(many, judgements)] == [0, 2, 0, 1]


# --- properties -------------------------------------------------------------------------------------------------------

opinions = st.none() | st.sampled_from([0.0, 0.5, 1.0, 0.3, 0.7]) | st.floats(0, 1)
weights = st.sampled_from([1.0, 0.5, 3.0])
rule_sets = st.builds(
    PreferencesSection,
    minimum_margin=st.sampled_from([0.0, 0.2]),
    consistent_orders_only=st.booleans(),
    clamp=st.sampled_from([None, (0.4, 0.6)]),
    missing_votes=st.sampled_from(["unlabelled", "ignore"]),
)


@st.composite
def labelled(draw: st.DrawFn) -> list[Judgement]:
    """What some labellers said of PAIR, under some principles, in one or both orders."""
    found: list[Judgement] = []
    for who in range(draw(st.integers(0, 3))):
        for principle in range(draw(st.integers(1, 2))):
            fields = {"labeller": f"judge:{who}@1", "principle_id": f"{principle}@1", "weight": draw(weights)}
            found.append(make.judgement(PAIR, draw(opinions), **fields))
            if draw(st.booleans()):
                found.append(make.judgement(PAIR, draw(opinions), flipped=True, **fields))
    return found


def mirrored(judgement: Judgement) -> Judgement:
    """The same opinion, written down from the other side."""
    assert judgement.shown
    ranking = tuple(group[::-1] for group in judgement.ranking)
    return judgement.model_copy(update={"shown": judgement.shown[::-1], "ranking": ranking})


@given(labelled(), rule_sets)
def test_listing_the_responses_the_other_way_round_changes_nothing(
    judgements: list[Judgement], rules: PreferencesSection
) -> None:
    other = Comparison(prompt=PAIR.prompt, responses=(B, A))
    expected = reconcile(PAIR, (A, B), judgements, rules)
    assert reconcile(other, (B, A), judgements, rules) == expected
    preference, provenance = reconcile(other, (B, A), [mirrored(j) for j in judgements], rules)
    assert preference == expected[0]
    assert (provenance.outcome, provenance.reason) == (expected[1].outcome, expected[1].reason)


@given(labelled(), rule_sets)
def test_opposite_opinions_swap_chosen_and_rejected(judgements: list[Judgement], rules: PreferencesSection) -> None:
    opposite = [j.model_copy(update={"ranking": j.ranking[::-1]}) for j in judgements]
    one, other = (reconcile(PAIR, (A, B), said, rules)[0] for said in (judgements, opposite))
    assert one.p == pytest.approx(other.p)
    assert one.weight == other.weight
    if one.weight and one.p > 0.5 + 1e-9:
        assert (one.chosen, one.rejected) == (other.rejected, other.chosen)


@given(labelled(), rule_sets)
def test_nothing_in_a_preference_depends_on_whether_people_or_judges_labelled(
    judgements: list[Judgement], rules: PreferencesSection
) -> None:
    renamed = [j.model_copy(update={"labeller": j.labeller.replace("judge:", "human:")}) for j in judgements]
    ours, theirs = (reconcile(PAIR, (A, B), said, rules) for said in (judgements, renamed))
    assert ours[0] == theirs[0]
    assert ours[1].model_copy(update={"labellers": ()}) == theirs[1].model_copy(update={"labellers": ()})


@given(labelled(), rule_sets)
def test_a_preference_has_weight_exactly_when_it_is_labelled_or_a_tie(
    judgements: list[Judgement], rules: PreferencesSection
) -> None:
    preference, provenance = reconcile(PAIR, (A, B), judgements, rules)
    assert (preference.weight == 1) == (provenance.outcome in ("labelled", "tie"))
    assert (provenance.outcome == "tie") <= (preference.p == 0.5)
    missing = "labellers missing" in (provenance.reason or "")
    assert (provenance.reason is None or missing) == (provenance.outcome in ("labelled", "tie"))
    assert missing <= (rules.missing_votes == "ignore" or rules.panel == "majority")


@given(st.lists(make.comparisons(), max_size=4, unique_by=lambda c: c.id), st.data())
@settings(max_examples=30, deadline=None)
def test_every_pair_gives_exactly_one_row_in_order_whoever_labelled(comparisons: list[Comparison], data: Any) -> None:
    judged = [
        (of, orders(data.draw(opinions), 0.3, of) if len(of.responses) == 2 and data.draw(st.booleans()) else [])
        for of in comparisons
    ]

    async def one() -> AsyncIterator[list[tuple[Comparison, list[Judgement]]]]:
        yield judged

    async def collect() -> list[Record]:
        return [record async for batch in Reconcile(PreferencesSection())(one()) for record in batch]

    records = asyncio.run(collect())
    pairs = [
        (of.id, frozenset({x.messages, y.messages}))
        for of in comparisons
        for i, x in enumerate(of.responses)
        for y in of.responses[i + 1 :]
    ]
    rows = [record for record in records if isinstance(record, Preference)]
    beside = [record for record in records if isinstance(record, Provenance)]
    assert [(row.comparison_id, frozenset({row.chosen, row.rejected})) for row in rows] == pairs
    assert [row.comparison_id for row in beside] == [row.comparison_id for row in rows]


# --- panels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opinions", "missing", "policy", "rule", "p"),
    [
        ([0.9, 0.8, 0.1], 0, "unlabelled", "mean", 0.6),
        ([0.9, 0.8, 0.1], 0, "unlabelled", "majority", 1.0),
        ([0.9, 0.2, 0.1], 0, "unlabelled", "majority", 0.0),
        ([0.9, 0.5, 0.1], 0, "unlabelled", "majority", 0.5),  # nobody has more than half
        ([0.9, 0.1], 0, "unlabelled", "majority", 0.5),
        ([0.9, 0.8], 1, "unlabelled", "majority", None),  # one is missing, and that counts
        ([0.9, 0.8], 1, "ignore", "majority", 1.0),  # two of the three who were asked
        ([0.9, 0.1], 1, "ignore", "majority", None),  # the third could decide
        ([0.9], 2, "ignore", "majority", None),
        ([0.9], 2, "ignore", "mean", 0.9),
        ([], 3, "ignore", "majority", None),
    ],
)
def test_what_a_panel_says(opinions: list[float], missing: int, policy: str, rule: str, p: float | None) -> None:
    named = {f"judge:{i}": each for i, each in enumerate(opinions)}
    found = panel_vote(named, Counter({("failed", "it is down"): missing} if missing else {}), policy, rule)
    assert found == (None if p is None else pytest.approx(p))
