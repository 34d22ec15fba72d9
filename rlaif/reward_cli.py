"""``rlaif reward``: a reward model on files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.driving import shown

app = typer.Typer(help="A reward model on files: rewards, and accuracy by category.", rich_markup_mode=None)
Folders = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Reward model folders, or a run folder: all its members.")
]


@app.command()
def score(
    models: Folders,
    file: Annotated[str, typer.Option("--file", help="Prompts with a response each, or pairs.")],
    out: Annotated[Path, typer.Option("--out", help="A JSON-lines file: the rows with their rewards.")],
) -> None:
    """Rewards of a file's responses; of an ensemble the mean, and the deviation of its members."""
    from rlaif.errors import UserError
    from rlaif.scoring import NOT_READ, means, rows_to_score, score, scores_row
    from rlaif.store import writing

    if Path(file).exists() and out.exists() and out.samefile(file):
        raise UserError(f"--out {out}: the file that is scored. Name another.")
    for _ in rows_to_score(file):
        pass  # a row that is none is found before any is scored
    count = not_read = 0
    with (
        _opened(models) as (members, done),
        writing(out) as temporary,
        temporary.open("w", encoding="utf-8") as file_out,
    ):
        for row, rewards in score(rows_to_score(file), members, done):
            file_out.write(json.dumps(scores_row(row, rewards), ensure_ascii=False) + "\n")
            count, not_read = count + 1, not_read + (None in means(rewards))
    if not_read:
        typer.echo(f"{not_read:,} rows have responses whose reward is null: {NOT_READ}.")
    typer.echo(f"{count:,} rows, each scored by {len(members)} reward model{'s' * (len(members) > 1)}: {out}")


@app.command("test")
def of_set(
    models: Folders,
    file: Annotated[str, typer.Option("--file", help="prompt, chosen, rejected; subset or category.")],
    out: Annotated[Path | None, typer.Option("--out", help="A JSON file of the figures.")] = None,
) -> None:
    """How often chosen has the higher reward, over all rows and by category, with 95% intervals."""
    from rlaif.scoring import accuracies, rows_to_test, score
    from rlaif.store import write_json

    for _ in rows_to_test(file):
        pass
    with _opened(models) as (members, done):
        found = accuracies(score(rows_to_test(file), members, done))
    for name, figure in found.items():
        typer.echo(f"{name:<32} {_said(name, figure)}")
    if out:
        write_json(out, {name: figure.model_dump() for name, figure in found.items()})


@contextmanager
def _opened(models: list[Path]) -> Iterator[tuple[list[Any], Callable[[int], None]]]:
    """The models, and what is told how many rows more are done."""
    from rlaif.progress import Progress
    from rlaif.scoring import open_members
    from rlaif.training.trainer import quiet_libraries

    quiet_libraries()
    with shown() as (_, watcher):
        count = 0

        def done(more: int) -> None:
            nonlocal count
            count += more
            watcher.listen(Progress("rows", count, None))

        yield open_members(models, watcher.notice), done


def _said(name: str, figure: Any) -> str:
    from rlaif.scoring import NOT_READ

    if name == "not_read":
        return f"{figure.value:.0f} of {figure.n:,} rows, left out of all figures: {NOT_READ}"
    values = [value for value in (figure.value, figure.low, figure.high) if value is not None]
    texts = [f"{value:+.3f}" if name == "gap" else f"{100 * value:.1f}%" for value in values]
    interval = f" ({texts[1]} to {texts[2]})" if len(texts) == 3 else ""
    return f"{texts[0]}{interval}, n = {figure.n:,}"
