"""The report: one HTML file that opens anywhere, with everything a person needs to judge a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlaif.accounts import held_out_of
from rlaif.config import Constitution, Pipeline
from rlaif.findings import arms_of, findings, verdicts
from rlaif.measures import Measure, Measures, normalised
from rlaif.report.figures import Plots
from rlaif.statistics import Figure
from rlaif.store import RunFolder, write_text

if TYPE_CHECKING:
    from jinja2 import Template

EXAMPLES = 8


def page(name: str) -> Template:
    """A page of this folder, to be filled."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("rlaif", "report"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["sentence"] = lambda text: text if not text or text[-1] in ".!?" else f"{text}."
    environment.filters["figure"] = Measure("").written
    environment.filters["contest"] = contest
    environment.filters["percent"] = Measure("", "%").written
    environment.filters["change"] = Measure("", "%").change
    return environment.get_template(name)


def write_report(
    run: RunFolder,
    pipeline: Pipeline,
    told: Sequence[tuple[str, Constitution]],
    accounts: dict[str, Any],
    metrics: dict[str, Figure],
    measures: Measures,
) -> None:
    """Write ``report.html`` into the run folder. ``told``: what the judges were told, and what their verdicts became."""
    template = page("report.html.j2")
    plots = Plots()
    arms = arms_of(metrics)
    tuned = [section.policy for section in pipeline.policies]
    html = template.render(
        name=run.path.name,
        pipeline=pipeline,
        manifest=run.manifest,
        notes=_others(run.notes(), told, run.cares()),
        cares=run.cares(),
        readings=_readings(run),
        accounts=accounts,
        metrics=metrics,
        arms=arms,
        normalised=normalised(metrics),
        arm_rows=arm_rows(metrics, arms, measures),
        told=told,
        examples=_examples(run),
        findings=findings(metrics, measures),
        methods={section.policy: section.name for section in pipeline.policies},
        trainings=[(name, plots.curves(_history(run, f"policies/{name}"), name)) for name in tuned],
        judged=(run.trained("reward_model") or {}).get("samples"),
        conversations={name: _told(run, name, "samples") for name in tuned},
        probes={name: _told(run, name, "probes") for name in tuned},
        plots={
            "labels": plots.rates(metrics),
            "reward_curves": plots.curves(_history(run, "reward_model"), "reward model"),
            "calibration": plots.calibration(held_out_of(run)),
            "looks": {name: plots.looks(_told(run, name, "looks"), name) for name in tuned},
            "arms": plots.arms(metrics, arms),
        },
    )
    write_text(run.path / "report.html", html)


def contest(win: float | None) -> str:
    """What became of one prompt in the contest with the start."""
    return {None: "", 1.0: "won", 0.5: "tied", 0.0: "lost"}[win]


CONTEST_ROWS = {
    "won": "judged better than the start",
    "tied": "judged a tie, or the two orders disagree",
    "lost": "judged worse than the start",
    "equal answers": "same answer as the start: nothing to judge",
    "unlabelled": "without a verdict",
}

Cell = tuple[str, str]  # an arm's number, and its paired difference from the start or nothing
Row = tuple[str, str, list[Cell]]  # what, unit, a cell for each arm


def arm_rows(metrics: dict[str, Figure], arms: list[str], measures: Measures) -> list[Row]:
    """Before, after and their paired differences as a table: the run's own figures, then those of the recipe's metrics."""
    heads = [f"policies.{arm}." for arm in arms]
    there = {name: None for head in heads for name in _names_under(metrics, head, heads)}
    rows: list[Row] = []
    for name in {**{name: None for name in measures if name in there}, **there}:
        measure = measures[name]
        numbers = [measure.written(metrics.get(head + name)) for head in heads]
        differences = [measure.change(metrics.get(f"differences.{arm}.{name}")) for arm in arms]
        rows.append((measure.what, measure.unit, list(zip(numbers, differences, strict=True))))
        if name == "win_rate":
            rows += _contest_rows([verdicts(metrics, arm) for arm in arms])
    return rows


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


def _readings(run: RunFolder) -> dict[str, list[str]]:
    """By what begins a line before a colon, such as a principle's id: what was told of it."""
    found: dict[str, list[str]] = {}
    for line in (line for lines in run.notes().values() for line in lines):
        about, colon, told = line.partition(": ")
        if colon and told not in found.setdefault(about, []):
            found[about].append(told)
    return found


def _others(
    notes: dict[str, list[str]], told: Sequence[tuple[str, Constitution]], cares: Sequence[str]
) -> dict[str, list[str]]:
    """What was said that stands nowhere else in the report: neither beside a principle nor at its beginning."""
    ids = {principle.id for _, constitution in told for principle in constitution.principles}
    kept = {
        stage: [line for line in lines if line.partition(": ")[0] not in ids and line not in cares]
        for stage, lines in notes.items()
    }
    return {stage: lines for stage, lines in kept.items() if lines}


def _history(run: RunFolder, stage: str) -> list[dict[str, float]]:
    return (run.trained(stage) or {}).get("history", [])


def _told(run: RunFolder, arm: str, name: str) -> Any:
    """What a policy's training told beside its history; nothing where it told nothing."""
    return (run.trained(f"policies/{arm}") or {}).get(name) or []


def _examples(run: RunFolder) -> list[dict[str, Any]]:
    """The first few evaluation prompts (they are in keyed random order) with every arm's answer."""
    return (run.evaluated("samples") or [])[:EXAMPLES]
