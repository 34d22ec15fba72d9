"""A recorded judge on small files: every figure by hand, rows that lack something, and what a person is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import DataError, UserError
from rlaif.recorded.card import card_of, lines_of
from rlaif.recorded.differences import differences
from rlaif.recorded.readers import find_reader, llmbar, own
from rlaif.recorded.replay import Replay, replay
from tests.runs import rlaif
from tests.tiny import write_jsonl

Row = dict[str, Any]


def item(number: int, label: str | None, **more: Any) -> Row:
    return {
        "id": f"i/{number}",
        "prompt": f"q{number}",
        "response_a": "long reply",
        "response_b": "short",
        "label": label,
    } | more


def verdict(number: int, order: str | None, choice: str | None, **more: Any) -> Row:
    return {"item_id": f"i/{number}", "judge": "J", "method": "M", "order": order, "choice": choice} | more


def of(items: list[Row], judgements: list[Row], **options: Any) -> Replay:
    return replay(
        str(write_jsonl(Path("items.jsonl"), items)), str(write_jsonl(Path("recorded.jsonl"), judgements)), **options
    )


ITEMS = [item(1, "a"), item(2, "b"), item(3, "a"), item(4, "b")]
BOTH = [
    verdict(1, "ab", "a"), verdict(1, "ba", "a"),
    verdict(2, "ab", "a"), verdict(2, "ba", "b"),
    verdict(3, "ab", None), verdict(3, "ba", None),
    verdict(4, "ab", "b"), verdict(4, "ba", None),
]  # fmt: skip


def test_both_orders_by_hand() -> None:
    card, _ = card_of(of(ITEMS, BOTH))
    values = {name: figure.value for name, figure in card.items()}
    assert values["accuracy.ab"] == 0.5  # items 1 and 4; unreadable is wrong
    assert values["accuracy.ba"] == 0.5  # items 1 and 2
    assert values["accuracy.avg"] == 0.5
    assert values["accuracy.both"] == 0.25  # item 1
    assert values["swap_agreement"] == 0.5  # item 1, and item 3 with two that could not be read
    # a or not: ab 1 1 0 0, ba 1 0 0 0: agreement 3/4, by chance 0.5·0.25 + 0.5·0.75 = 1/2
    assert values["kappa.ab_ba"] == pytest.approx(0.5)
    assert values["unreadable"] == 3 / 8
    # read: 1 ab first, 1 ba second, 2 ab first, 2 ba first, 4 ab second
    assert values["first_rate"] == 3 / 5
    assert values["longer_rate"] == 3 / 5  # a is longer: items 1, 1 and 2
    assert values["agreement.judge"] == 4 / 8
    assert values["agreement.longest"] == values["agreement.first"] == 0.5
    assert values["missing.ab"] == values["missing.ba"] == 0
    # right in one order alone: item 2 in ba, item 4 in ab: nothing between the orders
    assert values["accuracy.ab_minus_ba"] == 0
    assert values["accuracy.ab_minus_ba.p"] == 1
    assert card["accuracy.ab"].n == 4
    assert card["agreement.judge"].n == 8


def test_an_item_that_lacks_an_order_is_counted_and_never_guessed() -> None:
    found = of(ITEMS, [row for row in BOTH if (row["item_id"], row["order"]) != ("i/2", "ba")])
    card, _ = card_of(found)
    assert card["missing.ba"].value == 1
    assert (card["accuracy.ba"].value, card["accuracy.ba"].n) == (pytest.approx(1 / 3), 3)
    assert card["accuracy.avg"].value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (card["accuracy.both"].value, card["accuracy.both"].n) == (pytest.approx(1 / 3), 3)
    assert card["swap_agreement"].n == card["kappa.ab_ba"].n == 3
    assert "; order ba missing for 1" in lines_of(found, card)[0]


def test_one_order_alone_has_no_figures_of_two() -> None:
    card, _ = card_of(of(ITEMS, BOTH[::2]))
    for name in ("accuracy.ba", "accuracy.avg", "accuracy.both", "swap_agreement", "kappa.ab_ba"):
        assert card[name].value is None, name
    assert card["accuracy.ab"].value == 0.5


def test_ties_are_an_opinion_and_are_left_out_without() -> None:
    items = [item(1, "a"), item(2, "tie"), item(3, "tie"), item(4, "b")]
    verdicts = [verdict(1, "ab", "a"), verdict(2, "ab", "tie"), verdict(3, "ab", "a"), verdict(4, "ab", "tie")]
    card, _ = card_of(of(items, verdicts))
    assert card["agreement_with_ties.judge"].value == 0.5
    assert (card["agreement.judge"].value, card["agreement.judge"].n) == (1, 1)
    # shares: judge a ½, tie ½; labels a ¼, tie ½, b ¼: by chance 1/8 + 1/4; kappa (1/2 − 3/8)/(5/8)
    assert card["kappa.label"].value == pytest.approx(0.2)
    assert card["first_rate"].value == (1 + 0.5 + 1 + 0.5) / 4


def test_an_item_without_a_label_counts_for_the_orders_alone() -> None:
    card, _ = card_of(of([*ITEMS[:1], item(2, None)], BOTH[:4]))
    assert card["items.no_label"].value == 1
    assert card["accuracy.ab"].n == 1
    assert card["swap_agreement"].n == 2


def test_scores_given_one_at_a_time_choose_in_both_orders_and_equal_scores_never_agree() -> None:
    alone = {"item_id": "", "judge": "J", "method": "Rating", "order": "each-alone"}
    rows = [
        {**alone, "item_id": "i/1", "scores": ["9", "6"]},
        {**alone, "item_id": "i/2", "scores": [7, 7]},
        {**alone, "item_id": "i/3", "choice_pair": ["a", "a"], "scores": ["1", "9"]},  # as its source read them
        {**alone, "item_id": "i/4", "scores": ["x", "3"]},
    ]
    card, _ = card_of(of(ITEMS, rows))
    assert card["accuracy.ab"].value == 3 / 4  # 1, 3, and 2: equal is b in order ab
    assert card["accuracy.ba"].value == 2 / 4  # and a in order ba
    assert card["swap_agreement"].value == 3 / 4
    assert card["first_rate"].value is None
    assert card["unreadable"].value == 1 / 4


def test_a_draft_is_no_verdict_and_other_judges_are_not_asked() -> None:
    rows = [
        verdict(1, "ab", "b", stage="draft"),
        verdict(1, "ab", "a", stage="final"),
        verdict(1, "ab", "b", judge="K"),
    ]
    found = of(ITEMS, [*rows, verdict(99, "ab", "a")], judge="J")
    card, _ = card_of(found)
    assert card["accuracy.ab"].value == 1
    assert found.left_out == {"a draft": 1, "of no item": 1}
    assert card["left_out.a_draft"].value == 1


def test_items_with_the_same_pair_stay_two_rows_in_one_cluster() -> None:
    twin = {"prompt": "q", "input": "same"}
    items = [item(1, "a", **twin), item(2, "b", **twin), item(3, "a"), item(4, "b")]
    found = of(items, BOTH)
    assert len({one.prompt for one in found.items}) == 3
    assert card_of(found)[0]["accuracy.ab"].n == 4


def test_responses_that_are_not_text_have_a_length() -> None:
    found = of([item(1, "a", response_a=True, response_b=[{"role": "assistant", "content": "abc"}])], BOTH[:2])
    assert found.items[0].lengths == (4, 3)


def test_only_one_subset_is_looked_at() -> None:
    items = [item(1, "a", subset="x"), item(2, "b", subset="y")]
    assert [one.id for one in of(items, BOTH[:4], subset="x").items] == ["i/1"]
    with pytest.raises(DataError, match=r'no item of subset "z".* Known: x, y'):
        of(items, BOTH[:4], subset="z")


# --- people -----------------------------------------------------------------------------------------------------------


def test_people_agree_and_the_judge_stands_among_them() -> None:
    people = [["a", "a", "a"]] * 24 + [["a", "a", "b"]] * 6 + [["tie", "tie", "b"]] * 2
    items = [item(i, "a" if i < 30 else "tie", human_labels=labels) for i, labels in enumerate(people)]
    card, unsaid = card_of(of(items, [verdict(i, "ab", "a") for i in range(32)]))
    assert not unsaid
    # pairs: 24·3 + 6·1 + 2·1 of 96 agree; without ties the last two items have no pair: 78 of 90
    assert card["people.agreement_with_ties"].value == pytest.approx(80 / 96)
    assert (card["people.agreement"].value, card["people.agreement"].n) == (pytest.approx(78 / 90), 90)
    # Fleiss: mean of P (24·1 + 8/3)/32 = 80/96; shares a 84, b 8, tie 4 of 96: by chance (7056 + 64 + 16)/9216
    assert card["people.fleiss"].value == pytest.approx((80 / 96 - 7136 / 9216) / (1 - 7136 / 9216))
    epsilon = (1 - (2 * 78 / 90 - 1) ** 0.5) / 2
    assert card["people.ceiling"].value == pytest.approx(1 - epsilon)
    # the judge agrees with 84 of 84 a, and not with the 8 b
    assert card["agreement.judge_with_people"].value == pytest.approx(84 / 92)
    assert card["accuracy.noise_corrected"].value == pytest.approx((84 / 92 - epsilon) / (1 - 2 * epsilon))
    assert card["alt_test.omega.skilled"].value == 1
    assert card["alt_test.omega.skilled"].n == 3


def test_what_cannot_be_said_of_people_is_said() -> None:
    items = [item(i, "a", human_labels={"ann": "a", "bo": "b"}) for i in range(4)]
    card, unsaid = card_of(of(items, [verdict(i, "ab", "a") for i in range(4)]))
    assert card["people.agreement"].value == 0
    assert "people.ceiling" not in card
    assert [line.split(":")[0] for line in unsaid] == ["No human ceiling", "No alternative annotator test", "Careful"]
    ties = [item(i, "tie", human_labels=["tie"] * 3) for i in range(40)]
    card, unsaid = card_of(of(ties, [verdict(i, "ab", "tie") for i in range(40)]))
    assert unsaid == ["No human ceiling: no item has labels of two people that are no ties."]
    assert card["people.agreement_with_ties"].value == 1
    assert card["people.fleiss"].value is card["people.krippendorff"].value is None  # one category: nothing to expect
    assert card_of(of(ITEMS, BOTH))[1][0] == "No item has labels of two people: how far people agree cannot be said."


# --- readers ----------------------------------------------------------------------------------------------------------

BETTER = {
    "sentence at the end": ("Output (a) is short.\n\nTherefore, Output (b) is better.", "second"),
    "sentence first": ("Output (a) is better because it answers.\n\nOutput (b) does not.", "first"),
    "another noun": ("Overall, Response 2 is clearly better at it.", "second"),
    "bold": ("**Response B is the better one.**", "second"),
    "second thoughts": ("At first, Output (a) is better.\nOn reflection, Output (b) is better.", "second"),
    "someone else's claim": ("Assistant (a) argues that Output (a) is better.\nI conclude that Output (b) is better.", "second"),
    "someone else's claim alone": ("Assistant (a) argues that Output (a) is better because it is short.", None),
    "agreeing with someone": ("I agree with Assistant (b) that Output (b) is better.", "second"),
    "a condition": ("It depends on whether Output (a) is better for a child.", None),
    "a question": ("So is it that Output (a) is better?", None),
    "not better": ("Output (a) is not better.", None),
    "both in a sentence": ("Output (a) is better in style and Output (b) is better in substance.", None),
    "quoted": ('Output (b) only says "Output (b) is better."', None),
    "only thought": ("<think>Output (a) is better.</think>", None),
    "a marked verdict goes first": ("Output (a) is better in style.\n[[B]]", "second"),
    "the form alone": ("Output (b)", "second"),
    "a tie": ("[[C]]", "tie"),
    "numbers": ("Verdict: 1", "first"),
    "cut off": ("Therefore, considering the age of the reader and the", None),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "shown"), BETTER.values(), ids=BETTER)
def test_our_own_reader_takes_a_claim_and_guesses_nothing(reply: str, shown: str | None) -> None:
    assert own(reply, {}) == shown


@pytest.mark.parametrize(
    ("method", "judge", "reply", "shown"),
    [
        ("Vanilla", "GPT-4", "Output (b)", "second"),
        ("Vanilla", "GPT-4", "I say Output (b)", None),  # only where a line opens with it
        ("Vanilla", "GPT-4", "Output (b)\nOutput (a)", "first"),  # the first response's form wins wherever it stands
        ("CoT", "GPT-4", "Output (a) is better. No: Output (b) is better.", "first"),
        ("CoT", "GPT-4", "Output (b) is better at it", "second"),  # the full stop of the rule is any character
        ("CoT", "GPT-4", "Output (b)", None),
        ("CoT", "PaLM2", "Output (b) is better.\n\nOutput (a) is long.", "first"),
        ("Swap_CoT", "PaLM2", "Output (b) is better.\n\nOutput (a) is long.", "second"),
        ("Swap", "GPT-4", "Output (a) is long.\n\nTherefore, Output (b) is better.", "second"),
        ("Swap", "GPT-4", "Output (b)", "second"),
    ],
)
def test_llmbars_own_rule(method: str, judge: str, reply: str, shown: str | None) -> None:
    assert llmbar(reply, {"method": method, "judge": judge}) == shown


def test_a_reader_sees_the_reply_as_shown_and_the_order_is_put_in_afterwards() -> None:
    rows = [verdict(1, order, None, completion="[[A]]") for order in ("ab", "ba", None)]
    found = of(ITEMS, rows, reader=find_reader("own"))
    assert found.choices(found.items[0]) == {"ab": "a", "ba": "b"}
    assert found.left_out == {"order not known": 1}


def test_a_reader_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine_reading.py").write_text(
        "def last(reply, row):\n    return {'1': 'first', '2': 'second', '?': 'maybe'}[reply[-1]]\n"
    )
    rows = [verdict(1, "ab", None, completion="so 2")]
    found = of(ITEMS, rows, reader=find_reader("mine_reading:last"))
    assert found.choices(found.items[0]) == {"ab": "b"}
    with pytest.raises(UserError, match="gave 'maybe'; expected"):
        of(ITEMS, [verdict(1, "ab", None, completion="?")], reader=find_reader("mine_reading:last"))
    with pytest.raises(UserError, match="mine_reading:last: the reply 'x' could not be read: KeyError"):
        of(ITEMS, [verdict(1, "ab", None, completion="x")], reader=find_reader("mine_reading:last"))


def test_every_difference_between_two_readers_is_listed() -> None:
    rows = [
        verdict(1, "ab", "a", completion="[[A]]"),
        verdict(2, "ba", "b", completion="[[B]]"),
        verdict(3, "each-alone", None, completion="9"),
        verdict(4, "ab", None, completion=None),
    ]
    write_jsonl(Path("recorded.jsonl"), rows)
    found = differences("recorded.jsonl", find_reader("own"), None)
    assert (found.read.total(), found.alike.total()) == (2, 1)
    assert [(row["item_id"], row["reader"], row["against"]) for row in found.rows] == [("i/2", "a", "b")]


# --- bad input --------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[list[Row], list[Row], str]] = {
    "no id": ([{"response_a": "x", "response_b": "y", "label": "a"}], BOTH, r"items.jsonl line 1: no id. Found response_a"),
    "no response": ([{"id": "1", "response_a": "x", "label": "a"}], BOTH, r"line 1: no response_b"),
    "a name in capitals": ([{"ID": "1", "response_a": "x", "response_b": "y"}], BOTH, 'rename "ID" to "id"'),
    "nothing to compare with": ([{"id": "1", "response_a": "x", "response_b": "y"}], BOTH, "no label and no human_labels"),
    "a strange label": ([item(1, "A is better")], BOTH, r"label 'A is better'; expected"),
    "an id twice": ([item(1, "a"), item(1, "b")], BOTH, r"line 2: id 'i/1' stands in an earlier row too"),
    "no judge": (ITEMS, [{"item_id": "i/1", "choice": "a"}], r"recorded.jsonl line 1: no judge"),
    "a strange order": (ITEMS, [verdict(1, "AB", "a")], r"order is 'AB'; expected \"ab\""),
    "a strange choice": (ITEMS, [verdict(1, "ab", "A")], r"choice is 'A'; expected"),
    "no choice": (ITEMS, [{"item_id": "i/1", "judge": "J", "order": "ab"}], "no choice. Found item_id"),
    "a choice that was not shown": (
        ITEMS, [verdict(1, "ba", "a", choice_shown="first")], "choice 'a' is not choice_shown 'first' in order ba",
    ),
    "a verdict twice": (
        ITEMS, [verdict(1, "ab", "a"), verdict(1, "ab", "b")], r"line 2: a second verdict .* the first: recorded.jsonl line 1",
    ),
    "half a pair": (ITEMS, [verdict(1, "each-alone", None, choice_pair=["a"])], "choice_pair is"),
    "no scores": (ITEMS, [verdict(1, "each-alone", None)], "neither choice_pair nor two scores"),
    "two judges": (ITEMS, [verdict(1, "ab", "a"), verdict(1, "ab", "a", judge="K")], "one with --judge: J, K"),
    "other items": (ITEMS, [verdict(9, "ab", "a")], "no verdict of J M is on an item of items.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize(("items", "judgements", "told"), BAD.values(), ids=BAD)
def test_a_bad_row_is_one_line_that_says_where(items: list[Row], judgements: list[Row], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        of(items, judgements)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"judge": "j"}, r'no row of "j".* Known: J'),
        ({"judge": "J", "method": "N"}, r'no row of "J N".* Known: M'),
        ({"reader": find_reader("own")}, "no completion, so nothing for a reader to read"),
    ],
)
def test_a_question_the_file_cannot_answer_is_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        of(ITEMS, BOTH, **options)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_few_lines_and_writes_a_card(tmp_path: Path) -> None:
    write_jsonl(Path("items.jsonl"), ITEMS)
    write_jsonl(Path("recorded.jsonl"), BOTH)
    told = rlaif(
        tmp_path, "certify", "recorded", "--items", "items.jsonl", "--recorded", "recorded.jsonl", "--out", "card"
    )
    assert told.startswith("J M: 8 verdicts on 4 items, 37.5%")
    assert told.splitlines()[-1] == "written: card/card.json"
    card = json.loads(Path("card/card.json").read_text())
    assert card["accuracy.ab"]["n"] == 4
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in card.values())
