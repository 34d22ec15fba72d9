"""The report: one HTML file that opens anywhere, with everything a person needs to judge a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from rlaif.config import Constitution, Pipeline
from rlaif.findings import arms_of, findings, normalised, verdicts
from rlaif.report.figures import Plots
from rlaif.statistics import Figure
from rlaif.store import RunFolder, write_text

EXAMPLES = 8


def write_report(
    run: RunFolder,
    pipeline: Pipeline,
    told: Sequence[tuple[str, Constitution]],
    accounts: dict[str, Any],
    metrics: dict[str, Figure],
) -> None:
    """Write ``report.html`` into the run folder. ``told``: what the judges were told, and what their verdicts became."""
    from jinja2 import Environment, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["figure"] = show
    environment.filters["contest"] = contest
    environment.filters["percent"] = percent
    template = environment.from_string((files("rlaif.report") / "report.html.j2").read_text(encoding="utf-8"))
    plots = Plots()
    arms = arms_of(metrics)
    html = template.render(
        name=run.path.name,
        pipeline=pipeline,
        manifest=run.manifest,
        accounts=accounts,
        metrics=metrics,
        arms=arms,
        normalised=normalised(metrics),
        arm_rows=arm_rows(metrics, arms),
        told=told,
        examples=_examples(run),
        findings=findings(metrics),
        plots={
            "labels": plots.rates(metrics),
            "reward_curves": plots.curves(_history(run, "reward_model"), "reward model"),
            "calibration": plots.calibration(_held_out(run)),
            "policy_curves": [(arm, plots.curves(_history(run, f"policies/{arm}"), arm)) for arm in arms],
            "arms": plots.arms(metrics, arms),
        },
    )
    write_text(run.path / "report.html", html)


def show(figure: Figure | None) -> str:
    """A figure for people: value and interval, three digits of it, at most two behind the point."""
    if figure is None or figure.value is None:
        return "–"
    digits = 2 if abs(figure.value) < 10 else 1 if abs(figure.value) < 100 else 0
    value, *interval = (
        None if number is None else f"{number:z,.{digits}f}" for number in (figure.value, figure.low, figure.high)
    )
    return f"{value} ({interval[0]} to {interval[1]})" if all(interval) else str(value)


def contest(win: float | None) -> str:
    """What became of one prompt in the contest with the start."""
    return {None: "", 1.0: "won", 0.5: "tied", 0.0: "lost"}[win]


def count(figure: Figure | None) -> str:
    return "–" if figure is None or figure.value is None else f"{int(figure.value):,}"


def percent(figure: Figure | None) -> str:
    """A share in per cent, with its interval."""
    if figure is None or figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.0%}"
    return f"{figure.value:.0%} ({figure.low * 100:.0f} to {figure.high:.0%})"


REWARD_UNIT, RAW_UNIT = "standard deviations above average", "as the network gives it: not normalised"
ARM_ROWS: dict[
    str, tuple[str, str, Callable[[Figure | None], str]]
] = {  # an arm's figures by short name, as a stranger reads them: what, unit, and what writes the number
    "answered": ("prompts answered", "", count),
    "win_rate": ("win rate against the start, a tie counting one half", "% of prompts", percent),
    "orders_agree": ("judged alike in both orders", "% of judged prompts", percent),
    "reward": ("reward", REWARD_UNIT, show),
    "words": ("length of an answer", "words", show),
    "length": ("length of an answer", "tokens", show),
    "ended": ("ended by itself, not cut off at the limit", "% of answers", percent),
    "kl": ("distance from the start (KL)", "nats per answer", show),
    "kl_bound": ("distance from the start, at most (KL bound)", "nats per answer", show),
}
CONTEST_ROWS = {
    "won": "judged better than the start",
    "tied": "judged a tie, or the two orders disagree",
    "lost": "judged worse than the start",
    "equal answers": "same answer as the start: nothing to judge",
    "unlabelled": "without a verdict",
}

Cell = tuple[str, str]  # an arm's number, and its paired difference from the start or nothing
Row = tuple[str, str, list[Cell]]  # what, unit, a cell for each arm


def arm_rows(metrics: dict[str, Figure], arms: list[str]) -> list[Row]:
    """Before, after and their paired differences as a table; a user's own metrics by their own names, last."""
    heads = [f"policies.{arm}." for arm in arms]
    there = {name: None for head in heads for name in _names_under(metrics, head, heads)}
    rows: list[Row] = []
    for name in {**{name: None for name in ARM_ROWS if name in there}, **there}:
        what, unit, write = ARM_ROWS.get(name, (name, "", show))
        unit = RAW_UNIT if unit == REWARD_UNIT and not normalised(metrics) else unit
        differences = [metrics.get(f"differences.{arm}.{name}") for arm in arms]
        numbers = [write(metrics.get(head + name)) for head in heads]
        rows.append((what, unit, [(n, _signed(d, write)) for n, d in zip(numbers, differences, strict=True)]))
        if name == "win_rate":
            rows += _contest_rows([verdicts(metrics, arm) for arm in arms])
    return rows


def _signed(difference: Figure | None, write: Callable[[Figure | None], str]) -> str:
    if difference is None or difference.value is None:
        return ""
    return ("+" if difference.value > 0 else "") + write(difference)


def _names_under(metrics: dict[str, Figure], head: str, heads: list[str]) -> list[str]:
    """Short names of one arm's figures; those of "dpo.DPO" are not of "dpo"."""
    longer = tuple(other for other in heads if other.startswith(head) and other != head)
    return [name.removeprefix(head) for name in metrics if name.startswith(head) and not name.startswith(longer)]


def _contest_rows(contests: list[dict[str, int]]) -> list[Row]:
    return [
        (what, "prompts", [(f"{found[outcome]:,}" if found else "–", "") for found in contests])
        for outcome, what in CONTEST_ROWS.items()
        if any(found.get(outcome) for found in contests)
    ]


def _history(run: RunFolder, stage: str) -> list[dict[str, float]]:
    return (run.trained(stage) or {}).get("history", [])


def _held_out(run: RunFolder) -> dict[str, Any] | None:
    return (run.trained("reward_model") or {}).get("held_out")


def _examples(run: RunFolder) -> list[dict[str, Any]]:
    """The first few evaluation prompts (they are in keyed random order) with every arm's answer."""
    return (run.evaluated("samples") or [])[:EXAMPLES]
