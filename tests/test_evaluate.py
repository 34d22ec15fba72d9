"""Before and after: wins read from judgements, figures by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlaif.component import Options as BaseOptions
from rlaif.config import Component
from rlaif.errors import ConfigError, UserError
from rlaif.evaluate import (
    Arm,
    _metric_values,
    arm_figures,
    arm_values,
    contests,
    evaluation_accounts,
    named_figures,
    open_metrics,
    passed_over,
    read_wins,
    write_evaluation,
)
from rlaif.findings import findings
from rlaif.measures import Measure, Measures
from rlaif.records import Comparison, Judgement, Prompt, Response
from rlaif.statistics import Figure, wilson
from tests import make

PROMPTS = [make.prompt(f"question {i}") for i in range(5)]


def answers(*texts: str | None, **fields: object) -> list[Response | None]:
    return [
        None if text is None else make.response(prompt, text, **fields)
        for prompt, text in zip(PROMPTS, texts, strict=False)
    ]


def both(of: Comparison | None, p: float | None, **fields: object) -> list[Judgement]:
    """The judge's opinion of the arm's response, the same in both orders."""
    assert of is not None
    return [make.judgement(of, p, flipped=flipped, **fields) for flipped in (False, True)]


# --- wins -------------------------------------------------------------------------------------------------------------


def test_wins_are_read_for_the_arm_with_ties_and_without_the_unlabelled() -> None:
    start = Arm("start", answers("a", "b", "same", "d", "e"))
    arm = Arm("dpo", answers("A", "B", "same", None, "E"))
    asked = contests(PROMPTS, start, arm)
    assert [comparison is not None for comparison in asked] == [True, True, False, False, True]
    judgements = both(asked[0], 1.0) + both(asked[1], 0.25) + both(asked[4], None)
    read_wins(arm, start, asked, judgements)
    # won; lost, however unsure the judge; identical: a tie; no answer; unreadable
    assert arm.wins == [1.0, 0.0, 0.5, None, None]
    # one win and half a tie of three
    figure = arm_figures(PROMPTS, arm, {})["win_rate"]
    assert (figure.value, figure.n) == (pytest.approx(1.5 / 3), 3)
    assert evaluation_accounts(PROMPTS, [start, arm])["verdicts on dpo"]["outcomes"] == {
        "won": 1, "tied": 0, "lost": 1, "equal answers": 1, "unlabelled": 2,
    }  # fmt: skip


def test_prompts_that_the_judges_are_not_asked_about_are_in_no_account_of_verdicts() -> None:
    start, arm = Arm("start", answers("a", "b", "same", "d", "e")), Arm("dpo", answers("A", "B", "same", "D", "E"))
    arm.passed_over = passed_over(PROMPTS, 3, seed=0)
    assert len(arm.passed_over) == 2
    assert passed_over(PROMPTS, None, seed=0) == frozenset()
    asked = contests(PROMPTS, start, arm)
    read_wins(arm, start, asked, [j for comparison in asked if comparison for j in both(comparison, 1.0)])
    for place, win in enumerate(arm.wins):
        assert win == (None if place in arm.passed_over else 0.5 if place == 2 else 1.0)
    account = evaluation_accounts(PROMPTS, [start, arm])["verdicts on dpo"]
    assert account["in"] == sum(account["outcomes"].values()) == 3
    assert account["outcomes"]["unlabelled"] == 0


@pytest.mark.parametrize(
    ("first", "second", "win", "agree"),
    [
        (0.9, 0.6, 1.0, 1.0),
        (0.4, 0.1, 0.0, 1.0),
        (0.9, 0.4, 0.5, 0.0),  # 0.65 on average, and yet no win
        (0.9, 0.5, 0.5, 0.0),
        (0.5, 0.5, 0.5, 1.0),
    ],
)
def test_a_win_takes_both_orders(first: float, second: float, win: float, agree: float) -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    asked = contests(PROMPTS[:1], start, arm)
    assert asked[0] is not None
    read_wins(arm, start, asked, [make.judgement(asked[0], first), make.judgement(asked[0], second, flipped=True)])
    assert (arm.wins, arm.orders_agree) == ([win], [agree])


def test_each_order_is_the_mean_over_principles_by_weight() -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    asked = contests(PROMPTS[:1], start, arm)
    # 3 · 0.6 + 1 · 0.1 over 4 is 0.475 in both orders: lost, though the heavier principle says won
    judgements = both(asked[0], 0.6, principle_id="x@1", weight=3.0) + both(asked[0], 0.1, principle_id="y@1")
    read_wins(arm, start, asked, judgements)
    assert arm.wins == [0.0]


def test_a_judge_that_was_asked_in_one_order_is_taken_at_its_word() -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    asked = contests(PROMPTS[:1], start, arm)
    assert asked[0] is not None
    read_wins(arm, start, asked, [make.judgement(asked[0], 0.8)])
    assert (arm.wins, arm.orders_agree) == ([1.0], [None])
    assert "orders_agree" not in arm_figures(PROMPTS[:1], arm, {})


def test_the_interval_of_a_win_rate_is_wilsons_without_ties_and_no_point_where_all_are_ties() -> None:
    prompts = [make.prompt(f"question {i}") for i in range(40)]
    arm = Arm("dpo", [None] * 40, wins=[1.0] * 30 + [0.0] * 10)
    assert arm_figures(prompts, arm, {})["win_rate"] == wilson(30, 40)
    arm.wins = [0.5] * 40
    figure = arm_figures(prompts, arm, {})["win_rate"]
    # of 40 prompts none changed: Wilson's upper end is 1.96² / (40 + 1.96²) = 0.0876; half of it either way
    assert (figure.low, figure.value, figure.high) == (
        pytest.approx(0.4562, abs=1e-4), 0.5, pytest.approx(0.5438, abs=1e-4),
    )  # fmt: skip


def test_a_judge_of_position_alone_wins_nothing() -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    asked = contests(PROMPTS[:1], start, arm)
    assert asked[0] is not None
    first = [make.judgement(asked[0], 1.0), make.judgement(asked[0], 0.0, flipped=True)]
    read_wins(arm, start, asked, first)
    assert (arm.wins, arm.orders_agree) == ([0.5], [0.0])


def test_one_order_missing_is_no_win_and_no_loss() -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    asked = contests(PROMPTS[:1], start, arm)
    assert asked[0] is not None
    read_wins(arm, start, asked, [make.judgement(asked[0], 1.0), make.judgement(asked[0], None, flipped=True)])
    assert arm.wins == [None]


@pytest.mark.parametrize(
    ("opinions", "win"),
    [
        ((1.0, 0.0), 0.5),
        ((0.6, 0.6, 0.0), 1.0),
        ((0.9, 0.5, 0.5), 0.5),
        ((0.4, 0.5, 0.4, 0.9), 0.5),
        ((0.4, 0.5, 0.4, 0.4), 0.0),
        ((1.0, None), None),
    ],
)
def test_of_several_judges_the_majority_counts(opinions: tuple[float | None, ...], win: float | None) -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    asked = contests(PROMPTS[:1], start, arm)
    each = [both(asked[0], p, labeller=f"judge:{i}@1") for i, p in enumerate(opinions)]
    read_wins(arm, start, asked, [judgement for own in each for judgement in own])
    assert arm.wins == [win]


def test_nothing_judged_is_no_win_rate() -> None:
    start, arm = Arm("start", answers("a")), Arm("dpo", answers("b"))
    read_wins(arm, start, contests(PROMPTS[:1], start, arm), [])
    assert arm.wins == [None]
    assert arm_figures(PROMPTS[:1], arm, {})["win_rate"] == Figure(value=None, n=0)


# --- figures ----------------------------------------------------------------------------------------------------------


class Oracle:
    """A user's metric that gives several numbers; it has no opinion of empty answers."""

    name = "oracle"

    def __init__(self, options: object = None, where: str = "") -> None:
        pass

    def score(self, prompt: Prompt, response: Response) -> Mapping[str, float] | None:
        if not response.text:
            return None
        return {"harmful_compliance": float("bomb" in response.text), "refusal": float("sorry" in response.text)}


class Question:
    """A user's metric that gives one number."""

    name = "asks_back"

    def score(self, prompt: Prompt, response: Response) -> float:
        return float(response.text.endswith("?"))


def test_figures_are_named_before_and_after_and_by_policy(working_folder: Path) -> None:
    start = Arm("start", answers("bomb", "bomb", "sorry", "", "hm?", output_tokens=10, finish_reason="stop"))
    arm = Arm("dpo", answers("sorry", "bomb", "sorry", "ok", None, output_tokens=20, finish_reason="length"))
    start.rewards, arm.rewards = [0.0] * 5, [1.0, 2.0, 3.0, 4.0, None]
    arm.kl, arm.wins = [0.5, 1.5, 1.0, 1.0, None], [1.0, 0.0, 0.5, 0.5, None]
    write_evaluation(working_folder, PROMPTS, [start, arm], [Oracle(), Question()], {})
    found = json.loads((working_folder / "figures.json").read_text())
    expected = {
        "length.before": (10.0, 5),
        "length.after": (20.0, 4),
        "reward.before": (0.0, 5),
        "reward.after": (2.5, 4),
        "ended.before": (1.0, 5),
        "ended.after": (0.0, 4),
        "judge.win_rate": (0.5, 4),
        "policy.kl": (1.0, 4),
        "asks_back.before": (0.2, 5),
        "asks_back.after": (0.0, 4),
        "oracle.before.harmful_compliance": (0.5, 4),  # two of the four that are not empty
        "oracle.after.harmful_compliance": (0.25, 4),
        "oracle.before.refusal": (0.25, 4),
        "oracle.after.refusal": (0.5, 4),
        "policies.dpo.win_rate": (0.5, 4),
        "policies.dpo.kl": (1.0, 4),
        "policies.start.oracle.harmful_compliance": (0.5, 4),
        "policies.start.answered": (5.0, 5),
        "policies.dpo.answered": (4.0, 5),
        "reward.difference": (2.5, 4),  # the prompt that the arm did not answer is in neither mean
        "differences.dpo.reward": (2.5, 4),
        "length.difference": (10.0, 4),
        "oracle.difference.harmful_compliance": (pytest.approx(-1 / 3), 3),  # 1, 1, 0 before; 0, 1, 0 after
        "oracle.difference.refusal": (pytest.approx(1 / 3), 3),
        "asks_back.difference": (0.0, 4),
    }
    assert {name: (found[name]["value"], found[name]["n"]) for name in expected} == expected
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in found.values())
    table = pq.read_table(working_folder / "values.parquet").to_pylist()
    by_prompt: dict[str, list[float]] = {}
    for row in table:
        by_prompt.setdefault(f"policies.{row['policy']}.{row['figure']}", []).append(row["value"])
    for name in ("start.length", "dpo.reward", "dpo.kl", "dpo.win_rate", "start.oracle.harmful_compliance"):
        figure = found[f"policies.{name}"]
        assert (fmean(by_prompt[f"policies.{name}"]), len(by_prompt[f"policies.{name}"])) == (
            pytest.approx(figure["value"]), figure["n"],
        )  # fmt: skip
    assert {row["prompt_id"] for row in table} == {prompt.id for prompt in PROMPTS}
    assert not {"win_rate.after", "kl.after", "win_rate.before", "policies.start.kl"} & set(found)
    assert not [name for name in found if name.startswith("differences.start") or "win_rate.difference" in name]


def test_only_the_first_policy_is_called_after() -> None:
    one, two, three = (Figure(value=float(i), n=1) for i in range(3))
    flat = named_figures(
        "dpo",
        {"start": {"length": one}, "dpo": {"length": two}, "best-of-n": {"length": three, "win_rate": three}},
        {"dpo": {"length": one}, "best-of-n": {"length": two}},
    )
    assert (flat["length.before"], flat["length.after"]) == (one, two)
    assert flat["policies.best-of-n.length"] == three
    assert (flat["length.difference"], flat["differences.best-of-n.length"]) == (one, two)
    assert "judge.win_rate" not in flat


def test_every_figure_of_rows_carries_an_interval() -> None:
    arm = Arm("dpo", answers("a b", "c", "d e f", "g", "h"), wins=[1.0, 0.0, 1.0, 0.5, 0.5])
    figures = arm_figures(PROMPTS, arm, arm_values(PROMPTS, arm, []))
    for name in ("words", "win_rate"):
        assert (figure := figures[name]).low is not None
        assert figure.high is not None
        assert figure.value is not None
        assert figure.low <= figure.value <= figure.high


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (0.1, 0.3, 0.5, "+0.30 (+0.10 to +0.50): higher than the start's."),
        (-0.5, -0.3, -0.1, "-0.30 (-0.50 to -0.10): lower than the start's."),
        # half-width 0.35; 80% power takes (1.96 + 0.84) / 1.96 = 1.4286 of it
        (-0.25, 0.1, 0.45, "+0.10 (-0.25 to +0.45): inconclusive: this study could detect 0.50."),
        (0.0, 0.0, 0.0, "+0.00 (+0.00 to +0.00): no difference."),
    ],
)
def test_what_is_said_of_the_reward_is_said_from_the_paired_difference(
    low: float, value: float, high: float, verdict: str
) -> None:
    """The two means' own intervals overlap widely: they are no part of the verdict."""
    wide = {"low": -9.0, "high": 9.0, "n": 40}
    (line,) = findings(
        {
            "accounts.answers_of_start.answered": Figure(value=40, n=40),
            "accounts.answers_of_dpo.answered": Figure(value=40, n=40),
            "policies.start.reward": Figure(value=1.0, **wide),
            "policies.dpo.reward": Figure(value=1.0 + value, **wide),
            "differences.dpo.reward": Figure(value=value, low=low, high=high, n=40),
        }
    )
    assert f"the start 1.00; the difference on the same 40 held-out prompts is {verdict}" in line


def test_samples_for_the_report_keep_missing_answers_apart(working_folder: Path) -> None:
    write_evaluation(working_folder, PROMPTS[:1], [Arm("start", answers("a")), Arm("dpo", [None])], [], {})
    rows = json.loads((working_folder / "samples.json").read_text())
    assert rows[0]["answers"] == {"start": {"text": "a", "reward": None, "win": None}, "dpo": None}


def test_a_metric_is_found_by_its_dotted_name_and_an_unknown_one_is_a_clear_error() -> None:
    metrics = open_metrics([Component(name="tests.test_evaluate:Oracle")], "pipeline x")
    assert metrics[0].name == "oracle"
    with pytest.raises(ConfigError, match=r'pipeline x: metric "tests\.test_evaluate:Oracel".*Did you mean "Oracle"'):
        open_metrics([Component(name="tests.test_evaluate:Oracel")], "pipeline x")


class Named:
    """A metric under a name of the test's choosing that gives what it is told to."""

    class Options(BaseOptions):
        name: str = "mine"

    gives: Any = 1.0

    def __init__(self, options: Options, where: str) -> None:
        self.name = options.name

    def score(self, prompt: Any, response: Any) -> Any:
        return self.gives


@pytest.mark.parametrize("names", [["reward"], ["win_rate"], ["mine", "mine"]])
def test_a_metric_does_not_take_the_name_of_another_figure(names: list[str]) -> None:
    chosen = [Component(name="tests.test_evaluate:Named", options={"name": name}) for name in names]
    with pytest.raises(ConfigError, match=f'is called "{names[-1]}", which is taken: rename it'):
        open_metrics(chosen, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("nan")}])
def test_a_metric_that_gives_no_number_is_one_clear_line(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Named, "gives", value)
    (metric,) = open_metrics([Component(name="tests.test_evaluate:Named")], "x")
    asked = make.prompt("How?")
    with pytest.raises(UserError, match=r"Named: scoring a reply to .* is no number to average: return None"):
        _metric_values(metric, [asked], [make.response(asked, "So.")])


def test_a_metric_may_leave_out_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Named, "gives", {"a": 1, "b": None})
    (metric,) = open_metrics([Component(name="tests.test_evaluate:Named")], "x")
    asked = make.prompt("How?")
    assert _metric_values(metric, [asked], [make.response(asked, "So.")]) == {"a": [1.0]}


class Manners(Oracle):
    """One that says what its numbers are."""

    name = "manners"
    meanings: Mapping[str, Any] = {"refusal": ("refuses", "% of answers")}


class Wordless(Oracle):
    meanings: Mapping[str, Any] = {"refusal": "refuses"}


def test_what_a_metric_says_of_its_numbers_is_kept_beside_the_figures_and_orders_them(working_folder: Path) -> None:
    metrics = open_metrics([Component(name="tests.test_evaluate:Manners")], "pipeline x")
    arms = [Arm("start", answers("bomb", "sorry")), Arm("dpo", answers("sorry", "sorry"))]
    write_evaluation(working_folder, PROMPTS[:2], arms, metrics, {})
    told = json.loads((working_folder / "measures.json").read_text())
    assert told == {"manners.refusal": ["refuses", "% of answers"]}
    assert Measures(told)["manners.refusal"] == Measure("refuses", "% of answers")
    assert Measures(told)["manners.harmful_compliance"] == Measure("manners.harmful_compliance")
    own = [name for name in arm_values(PROMPTS[:2], arms[0], metrics) if name.startswith("manners")]
    assert own == ["manners.refusal", "manners.harmful_compliance"]


def test_a_metric_whose_meanings_are_no_two_texts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pipeline x: metric .*Wordless.*`meanings` must hold.*two texts"):
        open_metrics([Component(name="tests.test_evaluate:Wordless")], "pipeline x")
