"""What a stranger sees in the report: plain names with units, few digits, figures that fit a phone."""

from __future__ import annotations

import re

import pytest

from rlaif.measures import Measure, Measures
from rlaif.report import arm_rows
from rlaif.report.figures import RATES, Plots
from rlaif.statistics import Figure

PHONE = 380  # CSS pixels between the margins of a window of 420


def figure(value: float, low: float | None = None, high: float | None = None) -> Figure:
    return Figure(value=value, low=low, high=high, n=40)


ARMS = {
    "policies.start.answered": figure(40),
    "policies.start.words": figure(23.4012, 21.25, 25.7),
    "policies.start.shouting": figure(0.1234, 0.1, 0.15),
    "policies.dpo.answered": figure(39),
    "policies.dpo.win_rate": figure(0.5437, 0.4801, 0.6),
    "policies.dpo.words": figure(123.4, 120.2, 130.9),
    "differences.dpo.words": figure(100.0, 95.04, 105),
    "policies.dpo.kl": figure(1.23456, -0.001, 1.5),
    "policies.best-of-n.kl_bound": figure(0.636294),
    "accounts.verdicts_on_dpo.won": figure(15),
    "accounts.verdicts_on_dpo.tied": figure(4),
    "accounts.verdicts_on_dpo.lost": figure(11),
    "accounts.verdicts_on_dpo.equal_answers": figure(10),
    "accounts.verdicts_on_dpo.unlabelled": figure(0),
}


def test_the_table_names_what_was_measured_with_its_unit_and_its_difference_from_the_start() -> None:
    assert arm_rows(ARMS, ["start", "dpo", "best-of-n"], Measures()) == [
        ("prompts answered", "", [("40", ""), ("39", ""), ("–", "")]),
        (
            "win rate against the start, a tie counting one half",
            "% of prompts",
            [("–", ""), ("54.4% (48.0 to 60.0%)", ""), ("–", "")],
        ),
        ("judged better than the start", "prompts", [("–", ""), ("15", ""), ("–", "")]),
        ("judged a tie, or the two orders disagree", "prompts", [("–", ""), ("4", ""), ("–", "")]),
        ("judged worse than the start", "prompts", [("–", ""), ("11", ""), ("–", "")]),
        ("same answer as the start: nothing to judge", "prompts", [("–", ""), ("10", ""), ("–", "")]),
        (
            "length of an answer",
            "words",
            [("23.4 (21.2 to 25.7)", ""), ("123 (120 to 131)", "+100 (+95 to +105)"), ("–", "")],
        ),
        ("distance from the start (KL)", "nats per answer", [("–", ""), ("1.23 (0.00 to 1.50)", ""), ("–", "")]),
        ("distance from the start, at most (KL bound)", "nats per answer", [("–", ""), ("–", ""), ("0.64", "")]),
        ("shouting", "", [("0.12 (0.10 to 0.15)", ""), ("–", ""), ("–", "")]),
    ]


def test_a_method_in_a_module_called_as_another_arm_keeps_its_figures_to_itself() -> None:
    metrics = {"policies.dpo.words": figure(7), "policies.dpo.DPO.words": figure(8)}
    assert arm_rows(metrics, ["dpo", "dpo.DPO"], Measures()) == [
        ("length of an answer", "words", [("7", ""), ("8", "")])
    ]


def test_rewards_that_were_not_normalised_are_not_called_standard_deviations() -> None:
    rewards = {"policies.start.reward": figure(3.0)}
    assert [unit for _, unit, _ in arm_rows(rewards, ["start"], Measures())] == ["standard deviations above average"]
    raw = Measures(normalised=False)
    assert [unit for _, unit, _ in arm_rows(rewards, ["start"], raw)] == ["as the network gives it: not normalised"]


@pytest.mark.parametrize(
    ("measure", "found", "written", "change"),
    [
        (
            Measure("harm", "% of requests"),
            figure(0.0714, 0.051, 0.091),
            "7.1% (5.1 to 9.1%)",
            "+7.1 points (+5.1 to +9.1)",
        ),
        (Measure("harm", "% of requests"), figure(-0.39), "-39.0%", "-39.0 points"),
        (Measure("politeness"), figure(-0.001, -0.004, 0.002), "0.00 (0.00 to 0.00)", "+0.00 (+0.00 to +0.00)"),
        (Measure("words", "words"), figure(12.34, 9, 15), "12.3 (9.0 to 15.0)", "+12.3 (+9.0 to +15.0)"),
        (Measure("answered"), figure(3250), "3,250", "+3,250"),
        (Measure("words"), None, "–", ""),
        (Measure("words", "%"), Figure(value=None, n=0), "–", ""),
    ],
)
def test_numbers_are_written_by_what_they_measure(
    measure: Measure, found: Figure | None, written: str, change: str
) -> None:
    assert (measure.written(found), measure.change(found)) == (written, change)


def widths(svgs: list[str]) -> list[float]:
    return [float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 96 / 72 for svg in svgs]  # type: ignore[index]


def test_every_figure_fits_a_phone_at_its_natural_size() -> None:
    history = [{"step": float(i), "loss": 0.7, "accuracy": 0.5} for i in range(1, 4)]
    held_out = {"weight": [1.0] * 20, "differences": [i / 10 for i in range(20)], "p": [1.0] * 20}
    plots = Plots()
    svgs = [
        plots.rates({name: figure(0.5, 0.4, 0.6) for name in RATES}),
        *(svg for _, svg in plots.curves(history, "dpo")),
        plots.calibration(held_out),
        *plots.arms(ARMS, ["start", "dpo", "best-of-n"]),
    ]
    assert len(svgs) == 1 + 2 + 1 + 3
    assert max(widths(svgs)) <= PHONE


def test_training_steps_are_whole_numbers() -> None:
    (_, loss), _ = Plots().curves([{"step": float(i), "loss": 0.7, "accuracy": 0.5} for i in range(1, 4)], "dpo")
    ticks = re.findall(r'id="xtick_\d+".*?<text[^>]*>([^<]*)</text>', loss, re.DOTALL)
    assert ticks
    assert all(tick.isdigit() for tick in ticks)


def test_nothing_to_show_is_no_figure() -> None:
    plots = Plots()
    assert (plots.rates({}), plots.curves([], "dpo"), plots.calibration(None), plots.arms({}, ["start"])) == (
        "",
        [],
        "",
        [],
    )
