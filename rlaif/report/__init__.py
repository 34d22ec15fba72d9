"""The report: one HTML file that opens anywhere, with everything a person needs to judge a run."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rlaif.config import Pipeline
from rlaif.report.figures import Plots
from rlaif.statistics import Figure
from rlaif.store import RunFolder, write_text

EXAMPLES = 8


def write_report(run: RunFolder, pipeline: Pipeline, accounts: dict[str, Any], metrics: dict[str, Figure]) -> None:
    """Write ``report.html`` into the run folder."""
    from jinja2 import Environment, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = show
    environment.filters["count"] = lambda value: f"{value:,}"
    template = environment.from_string((files("rlaif.report") / "report.html.j2").read_text(encoding="utf-8"))
    plots = Plots()
    arms = [name.split(".")[1] for name in metrics if name.startswith("policies.") and name.endswith(".answered")]
    html = template.render(
        name=run.path.name,
        pipeline=pipeline,
        manifest=run.manifest,
        accounts=accounts,
        metrics=metrics,
        arms=arms,
        arm_names=_arm_names(metrics, arms),
        examples=_examples(run),
        headline=headline(metrics, arms),
        plots={
            "labels": plots.rates(metrics),
            "reward_curve": plots.curve(_history(run, "reward_model"), "reward model"),
            "calibration": plots.calibration(_held_out(run)),
            "policy_curves": [
                (arm, plots.curve(_history(run, f"policies-{arm}"), arm))
                for arm in arms
                if _history(run, f"policies-{arm}")
            ],
            "arms": plots.arms(metrics, arms),
        },
    )
    write_text(run.path / "report.html", html)


def show(figure: Figure | None) -> str:
    """A figure for people: value and interval, shares as per cent left to the reader."""
    if figure is None or figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:,.3g}" if figure.value != int(figure.value) else f"{int(figure.value):,}"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def headline(metrics: dict[str, Figure], arms: list[str]) -> list[str]:
    """What happened, in sentences that claim no more than the intervals do."""
    lines = []
    accuracy = metrics.get("reward_model.accuracy")
    if accuracy and accuracy.value is not None and accuracy.low is not None and accuracy.high is not None:
        verdict = (
            "better than a coin" if accuracy.low > 0.5
            else "worse than a coin" if accuracy.high < 0.5
            else "not distinguishable from a coin"
        )  # fmt: skip
        lines.append(
            f"On {accuracy.n} held-out pairs the reward model agrees with the labels in {accuracy.value:.1%} "
            f"({accuracy.low:.1%} to {accuracy.high:.1%}): {verdict}."
        )
    for arm in arms:
        win = metrics.get(f"policies.{arm}.win_rate")
        if arm == "start":
            continue
        if win is None or win.value is None or win.low is None or win.high is None:
            lines += _reward_line(metrics, arm)
            continue
        verdict = (
            "better than the start" if win.low > 0.5 else "worse than the start" if win.high < 0.5 else "inconclusive"
        )
        half = (win.high - win.low) / 2
        more = f"; a difference below about {half:.1%} could not be seen here" if verdict == "inconclusive" else ""
        lines.append(
            f"{arm}: preferred to the start in {win.value:.1%} of {win.n} held-out prompts "
            f"({win.low:.1%} to {win.high:.1%}): {verdict}{more}."
        )
    return lines


def _reward_line(metrics: dict[str, Figure], arm: str) -> list[str]:
    """Reward before and after, for a run that no judge compared."""
    before, after = metrics.get("policies.start.reward"), metrics.get(f"policies.{arm}.reward")
    if before is None or after is None or before.value is None or after.value is None:
        return []
    return [
        f"{arm}: mean reward {after.value:.2f}, the start {before.value:.2f}, on {after.n} held-out prompts. The reward "
        "model learnt from the same labels: what it likes more need not be better."
    ]


def _arm_names(metrics: dict[str, Figure], arms: list[str]) -> list[str]:
    names: dict[str, None] = {}
    for arm in arms:
        head = f"policies.{arm}."
        names.update(dict.fromkeys(name.removeprefix(head) for name in metrics if name.startswith(head)))
    return list(names)


def _history(run: RunFolder, name: str) -> list[dict[str, float]]:
    path = run.path / "training" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["history"] if path.is_file() else []


def _held_out(run: RunFolder) -> dict[str, Any] | None:
    path = run.path / "training" / "reward_model.json"
    return json.loads(path.read_text(encoding="utf-8"))["held_out"] if path.is_file() else None


def _examples(run: RunFolder) -> list[dict[str, Any]]:
    """The first few evaluation prompts (they are in keyed random order) with every arm's answer."""
    path = run.path / "evaluation" / "samples.json"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows[:EXAMPLES]
