"""``rlaif compare``: arms of a study that differ in who labels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from rlaif.driving import Settings, watched


def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's recipe: arms that differ in who labels.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the study; made, or continued where it stands. By default runs/STUDY."),
    ] = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Walk every arm of a study with every seed, and say whether it made a difference who labelled."""
    from rlaif.catalogue import Catalogue
    from rlaif.checking import default_out
    from rlaif.store import write_json
    from rlaif.study.budget import over_budget, spent_of
    from rlaif.study.measures import measure
    from rlaif.study.page import write_page
    from rlaif.study.planning import size_of
    from rlaif.study.recipe import check_arms, load_study, recipe_of
    from rlaif.study.telling import lines, planned
    from rlaif.study.walk import folder_of, walk

    out = out or default_out(str(study))
    plan = load_study(study, tuple(settings), Catalogue())
    if not all(folder_of(out, arm, seed).exists() for arm in plan.arms for seed in plan.seeds):
        check_arms(plan)
        if line := planned(plan, recipe_of(plan, Catalogue()), asyncio.run(size_of(plan))):
            typer.echo(line)
    watched(lambda watcher: walk(plan, out, watcher))
    found, over = measure(plan, out), over_budget(plan, out)
    if over:
        found.unsaid.insert(
            0,
            "Careful: the budget was spent before all was asked for: arms may have fewer labels, and policies fewer contests, than others. "
            "What is said of them holds for what there is, and may change with the rest.",
        )
    write_json(out / "compare.json", {name: figure.model_dump() for name, figure in found.figures.items()})
    write_page(out / "compare.html", plan, out, found)
    for line in lines(plan, found):
        typer.echo(line)
    if (budget := recipe_of(plan, Catalogue()).budget_usd) is not None:
        more = "; the same command asks what is over it, where the recipe, or the study's set, has a larger budget_usd"
        typer.echo(f"budget: {spent_of(plan, out):.4f} of {budget:g} USD{more if over else ''}")
    typer.echo(f"written: {out / 'compare.html'}, {out / 'compare.json'}")
    if over:
        raise typer.Exit(1)
