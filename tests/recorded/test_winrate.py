"""Win rates from recorded judgements: by hand on small files, and what a person is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import DataError
from rlaif.recorded.winrate import figures_of, lines_of, probability, read_contest
from tests.runs import rlaif
from tests.tiny import write_jsonl

Row = dict[str, Any]


def row(number: int, p: float | None, **more: Any) -> Row:
    return {"item_id": f"i/{number}", "model_a": "base", "model_b": "new", "judge": "J", "p_b": p} | more


ROWS = [row(1, 0.9, len_a=10, len_b=30), row(2, 0.5, len_a=10, len_b=5), row(3, 0.2, len_a=9, len_b=9), row(4, 0.4, len_a=1, len_b=2)]  # fmt: skip


def contest(rows: list[Row], model: str = "new", **options: Any) -> Any:
    return read_contest(str(write_jsonl(Path("verdicts.jsonl"), rows)), model, **options)


def test_the_win_rates_by_hand() -> None:
    card = figures_of(contest(ROWS))
    assert card["win_rate"].value == pytest.approx(50)
    assert card["win_rate.discrete"].value == pytest.approx(37.5)  # a win, half a draw, two losses
    assert card["win_rate.se"].value == pytest.approx(100 * math.sqrt(0.26 / 3) / 2)
    assert card["length_controlled"].n == 4
    assert card["longer_by"].value == pytest.approx((20 - 5 + 0 + 1) / 4)


def test_the_two_sides_share_one_hundred_percent() -> None:
    one, other = figures_of(contest(ROWS)), figures_of(contest(ROWS, "base"))
    for name in ("win_rate", "win_rate.discrete", "length_controlled"):
        assert one[name].value + other[name].value == pytest.approx(100, abs=1e-4), name
    assert one["win_rate.se"].value == pytest.approx(other["win_rate.se"].value)


def test_a_row_that_no_one_judged_is_counted_and_no_draw() -> None:
    card = figures_of(contest([*ROWS, row(5, None)]))
    assert (card["not_judged"].value, card["win_rate"].n) == (1, 4)


def test_lengths_come_from_outputs_where_they_are_given() -> None:
    outputs = [{"item_id": f"i/{n}", "model": model, "output": "x" * size} for n in (1, 2, 3) for model, size in (("base", 10), ("new", 10 * n))]  # fmt: skip
    found = contest(ROWS, outputs=str(write_jsonl(Path("outputs.jsonl"), outputs)))
    assert found.longer_by == {"i/1": 0, "i/2": 10, "i/3": 20}
    assert any("on 3 items with known lengths" in line for line in lines_of(found, figures_of(found)))


def test_without_lengths_there_is_no_length_controlled_figure() -> None:
    found = contest([row(1, 1.0), row(2, 0.0)])
    card = figures_of(found)
    assert card["length_controlled"].value is None
    assert "not known" in lines_of(found, card)[-1]


@pytest.mark.parametrize(
    ("more", "p"),
    [
        ({"preference": 1.75}, 0.75),
        ({"preference": 1}, 0.0),
        ({"preference": 1.5}, 0.5),
        ({"preference": 0}, 0.5),  # an older mark for a draw
        ({"preference": None}, None),
        # shown first is "m": 0.6 against 0.2, the rest is other words
        ({"top_logprobs": {"m": math.log(0.6), "M": math.log(0.2), "The": -3.0}, "order": "ab"}, 0.25),
        ({"top_logprobs": {"m": math.log(0.6), "M": math.log(0.2)}, "order": "ba"}, 0.75),
        ({"top_logprobs": {"m": -0.1}, "order": "ba"}, 1.0),
        ({"top_logprobs": {"The": -0.1}, "order": "ba"}, None),
        ({"top_logprobs": {"m": -0.1}, "order": None}, None),
    ],
)
def test_a_probability_in_every_form_it_is_recorded_in(more: Row, p: float | None) -> None:
    found = probability("here", {"item_id": "1"} | more)
    assert found == (None if p is None else pytest.approx(p))


BAD: dict[str, tuple[list[Row], dict[str, Any], str]] = {
    "no model": ([{"item_id": "1", "model_a": "x", "p_b": 1}], {}, "verdicts.jsonl line 1: no model_b"),
    "no such model": (ROWS, {"model": "nwe"}, 'no row of --model "nwe". Did you mean "new"'),
    "no such baseline": (ROWS, {"baseline": "old"}, 'no row of --baseline "old". Known: base'),
    "two baselines": ([*ROWS, row(1, 1.0, model_a="old")], {}, r"--baseline: base \(4 rows\), old \(1 rows\)"),
    "two judges": ([*ROWS, row(1, 1.0, judge="K")], {}, r"--judge: J \(4 rows\), K \(1 rows\)"),
    "an item twice": ([*ROWS, row(1, 1.0)], {}, "line 5: a second judgement of item 'i/1'; the first: verdicts.jsonl line 1"),
    "no probability": ([row(1, 1.5)], {}, "p_b is 1.5; expected a number from 0 to 1"),
    "a word": ([row(1, "yes")], {}, "p_b is 'yes'"),  # type: ignore[arg-type]
    "nothing recorded": ([{"item_id": "1", "model_a": "base", "model_b": "new"}], {}, "no p_b, preference or top_logprobs"),
    "none judged": ([row(1, None)], {}, "no row was judged"),
    "the model against itself": ([row(1, 1.0, model_a="new")], {}, "no row sets new against another model"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "options", "told"), BAD.values(), ids=BAD)
def test_a_bad_row_is_one_line_that_says_where(rows: list[Row], options: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        contest(rows, **{"model": "new", **options})
    assert "\n" not in str(caught.value)


def test_the_last_line_is_json(tmp_path: Path) -> None:
    write_jsonl(Path("verdicts.jsonl"), ROWS)
    told = rlaif(tmp_path, "winrate", "--judgements", "verdicts.jsonl", "--model", "new")
    assert told.startswith("new against base, judged by J: 4 items\nwin rate 50.00% (")
    card = json.loads(told.splitlines()[-1])
    assert set(card) >= {"win_rate", "win_rate.se", "win_rate.discrete", "length_controlled"}
    assert card["win_rate"]["value"] == pytest.approx(50)
