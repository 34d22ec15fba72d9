"""Several recorded judges on the same items: what each rule of a panel makes of them, by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rlaif.errors import DataError
from rlaif.recorded.panel import panel_of
from rlaif.recorded.replay import Replay, replay
from tests.recorded.test_certify import Row, item, verdict
from tests.runs import rlaif
from tests.tiny import write_jsonl

LABELS = "abababab"


def said(judge: str, choices: str, orders: tuple[str, ...] = ("ab",)) -> list[Row]:
    """One verdict of every item in each order: a, b, t (a tie) or x (unreadable); a letter for each item."""
    named = {"a": "a", "b": "b", "t": "tie", "x": None}
    return [verdict(i, order, named[c], judge=judge) for i, c in enumerate(choices) for order in orders]


def members(*rows: list[Row]) -> list[Replay]:
    write_jsonl(Path("items.jsonl"), [item(i, label) for i, label in enumerate(LABELS)])
    write_jsonl(Path("recorded.jsonl"), [row for each in rows for row in each])
    return [replay("items.jsonl", "recorded.jsonl", judge=str(each[0]["judge"]), method="M") for each in rows]


def test_each_rule_by_hand() -> None:
    # right by each: 6, 6, 6 of 8, never wrong on the same item: a majority of three is always right
    found = panel_of(members(said("J", "bbababab"[0] + "aababab"), said("K", "abbaabab"), said("L", "ababbaab")))
    names = found.names
    values = {name: figure.value for name, figure in found.figures.items()}
    assert found.items == 8
    assert [values[f"{name}.single"] for name in names] == [0.75, 0.75, 0.75]
    assert values["panel.majority"] == values["panel.mean"] == 1.0
    assert values["panel.majority.over_average"] == 0.25
    assert values["error_correlation.J M.K M"] == pytest.approx(-1 / 3)  # 0 both wrong: (0 - 1/16) / (3/16)


def test_a_panel_is_set_against_its_best_member() -> None:
    # K is right everywhere, J and L together wrong on two items: there the majority loses to K
    found = panel_of(members(said("J", "baababab"), said("K", LABELS), said("L", "baababab")))
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["panel.majority"] == 0.75
    assert values["panel.majority.over_best"] == -0.25
    # five coins: whoever was luckiest on these items is not the best, and the panel no worse for it
    rng = random.Random(3)
    labels = "".join(rng.choices("ab", k=400))
    write_jsonl(Path("items.jsonl"), [item(i, label) for i, label in enumerate(labels)])
    rows = [said(name, "".join(rng.choices("ab", k=400))) for name in "PQRST"]
    write_jsonl(Path("recorded.jsonl"), [row for each in rows for row in each])
    coins = panel_of([replay("items.jsonl", "recorded.jsonl", judge=name) for name in "PQRST"])
    over = coins.figures["panel.mean.over_best"]
    assert over.low is not None
    assert over.high is not None
    assert over.low < 0 < over.high


def test_a_member_that_cannot_be_read_is_no_vote_and_does_not_shrink_the_panel() -> None:
    # item 0: J alone says a, two cannot be read: one of three is no majority, and a mean of one is no panel's
    found = panel_of(members(said("J", LABELS), said("K", "x" + LABELS[1:]), said("L", "x" + LABELS[1:])))
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["panel.majority"] == values["panel.mean"] == values["panel.weighted"] == 7 / 8


def test_two_orders_say_where_a_judge_is_sure() -> None:
    # by position on the last four items: right in one order, wrong in the other; sure, and right, on the first four
    rows = said("J", LABELS[:4] + "aaaa", ("ab",)) + said("J", LABELS[:4] + "bbbb", ("ba",))
    found = panel_of(members(rows))
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["J M.single"] == 0.75
    assert values["J M.decided_share"] == 0.5
    assert values["J M.decided"] == 1.0
    assert values["J M.decided_gain"] == 0.25


def test_ties_count_half_and_items_without_a_better_reply_are_left_out() -> None:
    write_jsonl(Path("items.jsonl"), [item(0, "a"), item(1, "tie"), item(2, None), item(3, "b")])
    write_jsonl(Path("recorded.jsonl"), said("J", "tabb"))
    found = panel_of([replay("items.jsonl", "recorded.jsonl")])
    assert (found.items, found.figures["J M.single"].value) == (2, 0.75)


def test_what_makes_no_panel_is_one_line() -> None:
    one, *_ = members(said("J", LABELS))
    with pytest.raises(DataError, match="J M is named twice"):
        panel_of([one, one])
    write_jsonl(Path("items.jsonl"), [item(i, "tie") for i in range(8)])
    with pytest.raises(DataError, match="no item has a label that is no tie"):
        panel_of([replay("items.jsonl", "recorded.jsonl")])


def test_the_command_prints_and_writes_it(tmp_path: Path) -> None:
    members(said("J", LABELS), said("K", "bb" + LABELS[2:]))
    out = rlaif(Path.cwd(), "certify", "panel", "--items", "items.jsonl", "--recorded", "recorded.jsonl", "--member", "J", "--member", "K:M", "--to", "panel.json")  # fmt: skip
    assert "panel, majority: right" in out
    assert Path("panel.json").is_file()
