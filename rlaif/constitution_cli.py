"""``rlaif constitution``: principles read, tried, changed and debugged like code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.driving import Settings, watched

if TYPE_CHECKING:
    from rlaif.statistics import Figure

app = typer.Typer(
    help="Constitutions as tested code: lint, test, compare, and see which principle decides what.",
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A constitution.")]
Run = Annotated[Path, typer.Option("--run", help="A run folder that judges labelled under a constitution.")]
People = Annotated[
    str | None,
    typer.Option(
        "--people", help="Their labels: a file, or a run folder. By default those in the run's file of pairs."
    ),
]
To = Annotated[Path | None, typer.Option("--to", help="Write the figures to this JSON file.")]
Rows = Annotated[Path | None, typer.Option("--rows", help="Write a row for every label to this file (.jsonl).")]


@app.command()
def lint(
    name: Name,
    against: Annotated[
        str | None,
        typer.Option("--against", help="An earlier version: whether the version number moved with the texts."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Also ask this judge for principles whose verdicts oppose each other.")
    ] = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """What is wrong or missing in a constitution, where, and what would do. Exit code 1 where something is severe."""
    from rlaif.constitutions.lint import lint_file, lint_with_judge, summary

    findings = lint_file(name, against)
    if judge:
        findings += watched(lambda watcher: lint_with_judge(name, judge, settings, watcher=watcher))
    for finding in findings:
        print(finding)
    print(f"{name}: {summary(findings)}")
    if any(finding.severe for finding in findings):
        raise typer.Exit(1)


@app.command("test")
def try_(
    name: Name,
    judge: Annotated[str, typer.Option("--judge", help="The judge that reads the principles: name or path.")],
    to: To = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Each principle alone on its own examples, in both orders. Exit code 1 unless every example passes."""
    from rlaif.constitutions.trying import try_constitution

    trial = watched(lambda watcher: try_constitution(name, judge, settings, watcher=watcher))
    _print(trial.lines(), trial.figures(), to)
    if not trial.passed:
        raise typer.Exit(1)


@app.command()
def attribute(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that judges labelled.")],
    people: People = None,
    to: To = None,
    rows: Rows = None,
) -> None:
    """Which principle decided each label of a run; dead and dominant ones; how each agrees with people."""
    from rlaif.constitutions.attribution import attribute as look

    found = asyncio.run(look(run, people, rows))
    _print(found.lines(), found.figures, to)


@app.command()
def ablate(
    name: Name,
    run: Run,
    people: People = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="package.module:Class that scores replies; may be repeated.")
    ] = None,
    to: To = None,
) -> None:
    """Each principle left out in turn, from the run's own judgements: how many labels become others, and which matters."""
    from rlaif.constitutions.ablation import ablate as look

    found = asyncio.run(look(name, run, people=people, metrics=metric or ()))
    _print(found.lines(), found.figures(), to)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A constitution: name or path.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The one in its place.")],
    run: Run,
    to: To = None,
    rows: Rows = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Which labels of a run become others when A makes way for B. Asks only what was not asked before."""
    from rlaif.constitutions.difference import diff as compare

    found = watched(lambda watcher: compare(before, after, run, settings=settings, rows=rows, watcher=watcher))
    _print(found.lines(), found.figures(), to)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Plain text, Markdown, JSON or JSON Lines.")],
    name: Annotated[str, typer.Option("--as", help="Name of the constitution in the working folder.")],
    form: Annotated[
        str | None, typer.Option("--format", help="text, markdown, rows or cai; by default as the file looks.")
    ] = None,
) -> None:
    """Principles out of another file, with their provenance, as a constitution to be read and edited; then its lint."""
    from rlaif.constitutions.importing import import_constitution
    from rlaif.constitutions.lint import lint_file, summary

    imported = import_constitution(file, name, form)
    for line in imported.lines():
        print(line)
    print(f"lint: {summary(lint_file(str(imported.path)))}; rlaif constitution lint {name} shows them")


def _print(lines: Iterable[str], figures: dict[str, Figure], to: Path | None) -> None:
    from rlaif.store import write_json

    for line in lines:
        print(line)
    if to:
        write_json(to, {name: figure.model_dump() for name, figure in figures.items()})
