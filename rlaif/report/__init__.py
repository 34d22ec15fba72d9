"""The report: one HTML file that opens anywhere, with everything a person needs to judge a run."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rlaif.config import Pipeline
from rlaif.findings import arms_of, findings
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
    arms = arms_of(metrics)
    html = template.render(
        name=run.path.name,
        pipeline=pipeline,
        manifest=run.manifest,
        accounts=accounts,
        metrics=metrics,
        arms=arms,
        arm_names=_arm_names(metrics, arms),
        examples=_examples(run),
        findings=findings(metrics),
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
