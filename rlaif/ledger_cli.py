"""``rlaif ledger``: what models replied, what it cost, and for whom."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="What models replied, what it cost and for whom: look, export, prune, check.", rich_markup_mode=None
)

Where = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PATH]", help="A ledger, or a run folder for its own; else this folder's .rlaif/ledger.sqlite."
    ),
]
OfModel = Annotated[str | None, typer.Option("--model", help="Replies of this model alone.")]
OfRun = Annotated[str | None, typer.Option("--of-run", help="Replies that this run folder, or run's id, asked for.")]
Run = Annotated[Path | None, typer.Option("--run", help="A run folder that the ledger has replies for.")]
DATE = "2026-01-31, or 30d for days ago."


@app.command()
def info(path: Where = None) -> None:
    """Size, models, runs and their money, and who is asking now."""
    from rlaif.ledger_tools import Reader, ledger_of, run_folder
    from rlaif.ledger_tools.looking import info as look

    folders = {run_folder(path).id: str(path)} if path and path.is_dir() else {}
    with Reader(ledger_of(path)) as reader:
        for line in look(reader).lines(folders):
            print(line)


@app.command()
def show(
    key: Annotated[
        str, typer.Argument(help="A reply's key, as judgements name it, or its beginning; or a run folder.")
    ],
    path: Where = None,
    run: Run = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many of a run folder's replies.")] = 2,
) -> None:
    """One reply with all that is known of it; with a run folder the prompt too, rendered again. A run folder alone shows
    the first replies that its judgements point to."""
    from rlaif.ledger_tools import Reader, ledger_of, run_folder
    from rlaif.ledger_tools.looking import first_keys, lines_of

    keys = [key]
    if Path(key).is_dir():
        run, keys = Path(key), first_keys(run_folder(Path(key)), count)
    run = run or (path if path and path.is_dir() else None)
    with Reader(ledger_of(path or run)) as reader:
        for number, each in enumerate(keys):
            entry = reader.entry(each)
            if number:
                print()
            print("\n".join(lines_of(entry)))
            if run:
                from rlaif.ledger_tools import rendering

                request = asyncio.run(rendering.request_of(entry, run, reader))
                said = [f"=== prompt: {request}"] if isinstance(request, str) else rendering.lines_of(request)
                print("", *said, sep="\n")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="What to write: .jsonl or .parquet.")],
    path: Where = None,
    model: OfModel = None,
    of_run: OfRun = None,
    since: Annotated[str | None, typer.Option("--since", help=f"From this date on: {DATE}")] = None,
    before: Annotated[str | None, typer.Option("--before", help=f"Before this date: {DATE}")] = None,
) -> None:
    """Replies as rows, oldest first."""
    from rlaif.ledger_tools import Reader, ledger_of, selected
    from rlaif.ledger_tools.exporting import export as write

    with Reader(ledger_of(path)) as reader:
        count = write(reader, file, selected(reader, model=model, run=of_run, since=since, before=before))
    print(f"{file}: {count:,} replies")


@app.command()
def prune(
    path: Where = None,
    model: OfModel = None,
    of_run: OfRun = None,
    before: Annotated[str | None, typer.Option("--before", help=f"Before this date: {DATE}")] = None,
    keep: Annotated[
        list[Path] | None,
        typer.Option("--keep", metavar="RUN", help="Keep the replies that this run folder points to; may be repeated."),
    ] = None,
    used_too: Annotated[
        bool, typer.Option("--used-too", help="Delete replies that runs' judgements point to as well.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without this, only what would be deleted is said.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete replies, for good: whoever asks the same again pays again. Name the runs that are still needed."""
    from rlaif.errors import UserError
    from rlaif.ledger_tools import Reader, ledger_of, selected
    from rlaif.ledger_tools.pruning import prune as delete

    if not any((model, of_run, before, keep)):
        raise UserError("prune: say which replies: --model, --of-run, --before, or --keep RUN.")
    if bool(keep) == used_too:
        raise UserError(
            "prune: name the run folders that are still needed, --keep RUN for each, or say --used-too: raw replies behind "
            "judgements are nowhere else."
        )
    ledger = ledger_of(path)
    with Reader(ledger) as reader:
        selection = selected(reader, model=model, run=of_run, before=before)
    done = yes and not dry_run
    found = delete(ledger, selection, keep, dry_run=not done)
    for line in found.lines(done):
        print(line)
    if not done and found.replies:
        print("nothing was deleted: --yes does it")


@app.command()
def check(path: Where = None, run: Run = None) -> None:
    """Whether the file, its rows and its money are sound; with a run folder, whether its judgements lead here. Exit code 1
    where something is wrong."""
    from rlaif.ledger_tools import Reader, ledger_of
    from rlaif.ledger_tools.checking import check as look
    from rlaif.ledger_tools.checking import check_run

    run = run or (path if path and path.is_dir() else None)
    with Reader(ledger_of(path or run)) as reader:
        checked = look(reader)
        if run:
            asyncio.run(check_run(reader, run, checked))
    for line in checked.lines():
        print(line)
    if checked.wrong:
        raise typer.Exit(1)
