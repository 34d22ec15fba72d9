"""Whole models by a recorded judge, raw and at equal length, and preferences in a circle: by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rlaif.recorded.card import card_of, lines_of
from tests.recorded.test_certify import item, of, verdict

Row = dict[str, Any]


def judged(rows: list[Row], choices: list[str | None]) -> dict[str, float | None]:
    """Figures of a judge that says these of the items, one order each."""
    found = of(rows, [verdict(int(row["id"][2:]), "ab", choice) for row, choice in zip(rows, choices, strict=True)])
    return {name: figure.value for name, figure in card_of(found)[0].items()}


def between(number: int, one: str, other: str, label: str | None = "a", **more: Any) -> Row:
    return item(number, label, model_a=one, model_b=other, response_a="x" * 9, response_b="y" * 9, **more)


def test_who_wins_whichever_stands_first() -> None:
    rows = [between(i, *(("new", "old") if i % 2 else ("old", "new")), label="ab"[i % 2]) for i in range(1, 41)]
    # the judge: new in 30 of 40, a tie in 4; people: always old, which stands second where i is odd
    choices = [
        ("a" if i % 2 else "b") if i <= 30 else "tie" if i <= 34 else ("b" if i % 2 else "a") for i in range(1, 41)
    ]
    found = judged(rows, choices)
    assert found["models.new.over.old"] == pytest.approx((30 + 2) / 40)
    assert found["models.new.over.old.people"] == 0.0
    assert found["models.new.over.old.judge_minus_people"] == pytest.approx(0.8)
    assert found["models.new.over.old.length_controlled"] == pytest.approx(0.8, abs=1e-5)  # all are as long


def test_where_length_alone_tells_wins_from_losses_nothing_is_known_of_equal_length() -> None:
    rows = []
    for i in range(1, 101):
        longer = i % 4 != 0  # the new model is longer three times in four
        rows.append(
            item(i, None, model_a="new", model_b="old", response_a="x" * (20 if longer else 10), response_b="y" * 15)
        )
    found = judged(rows, ["a" if i % 4 else "b" for i in range(1, 101)])
    assert found["models.new.over.old"] == 0.75
    assert found["models.new.over.old.length_controlled"] is None
    assert found["models.new.over.old.people"] is None  # nobody labelled them


def test_few_pairs_and_unknown_authors_say_nothing() -> None:
    rows = [between(i, "new", "old") for i in range(1, 20)] + [item(i, "a") for i in range(20, 60)]
    assert not any(name.startswith("models.") for name in judged(rows, ["a"] * 59))


def circle(prompt: str, start: int, *, texts: str = "xyz") -> list[Row]:
    """Every two of three replies to a prompt."""
    return [
        item(start + i, None, prompt=prompt, response_a=one, response_b=other)
        for i, (one, other) in enumerate(itertools.combinations(texts, 2))
    ]


def test_three_replies_in_a_circle() -> None:
    rows = circle("p", 1) + circle("q", 4) + circle("r", 7) + [item(10, "a")]
    # p: x over y, z over x, y over z, a circle; q: x over both; r: one tie, so no triple
    choices = [*"aba", *"aab", "a", "tie", "a", "a"]
    found = of(rows, [verdict(i + 1, "ab", choice) for i, choice in enumerate(choices)])
    card, _ = card_of(found)
    assert (card["cycles"].value, card["cycles"].n) == (0.5, 2)
    assert any("prefers three replies in a circle 50.0%" in line for line in lines_of(found, card))


def test_the_same_reply_by_two_writers_is_one() -> None:
    rows = [*circle("p", 1), item(4, None, prompt="p", response_a="x", response_b="x")]
    assert judged(rows, ["a", "b", "a", "a"])["cycles"] == 1.0


def test_two_orders_that_differ_are_no_preference() -> None:
    rows = circle("p", 1)
    both = [verdict(i, order, choice) for i, choice in ((1, "a"), (2, "b"), (3, "a")) for order in ("ab", "ba")]
    assert card_of(of(rows, both))[0]["cycles"].value == 1.0
    both[0] = verdict(1, "ab", "b")
    assert "cycles" not in card_of(of(rows, both))[0]
