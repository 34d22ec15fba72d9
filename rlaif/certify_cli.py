"""``rlaif certify``: how far a judge can be trusted; and win rates from recorded verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="How far a judge can be trusted, against labels.", rich_markup_mode=None)

Recorded = Annotated[str, typer.Option("--recorded", help="Its verdicts: a file of judgements.")]
Judge = Annotated[str | None, typer.Option("--judge", help="The judge, where the file has several.")]
Method = Annotated[str | None, typer.Option("--method", help="Its method, where the file has several.")]
READER = "own, llmbar, or package.module:function"


@app.command()
def recorded(
    items: Annotated[str, typer.Option("--items", help="The pairs that were judged, with labels.")],
    file: Recorded,
    judge: Judge = None,
    method: Method = None,
    subset: Annotated[str | None, typer.Option("--subset", help="Only items of this subset.")] = None,
    reader: Annotated[
        str | None, typer.Option("--reader", help=f"Read the raw replies again: {READER}. Else the recorded choice.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for card.json.")] = Path(),
) -> None:
    """A judge that others recorded: its verdicts against labels, both orders, habits, people's agreement."""
    from rlaif.recorded.card import card_of, lines_of
    from rlaif.recorded.readers import find_reader
    from rlaif.recorded.replay import replay
    from rlaif.store import write_json

    found = replay(
        items, file, judge=judge, method=method, subset=subset, reader=find_reader(reader) if reader else None
    )
    card, unsaid = card_of(found)
    for line in [*lines_of(found, card), *unsaid]:
        print(line)
    write_json(out / "card.json", {name: figure.model_dump() for name, figure in card.items()})
    print(f"written: {out / 'card.json'}")


@app.command()
def readers(
    file: Recorded,
    reader: Annotated[str, typer.Option("--reader", help=f"One way to read raw replies: {READER}.")] = "own",
    against: Annotated[
        str | None, typer.Option("--against", help="Another reader; without it, the recorded choice.")
    ] = None,
    judge: Judge = None,
    method: Method = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write every difference to this JSONL file.")] = None,
) -> None:
    """Two ways of reading recorded replies: how often they agree, and every difference."""
    import json

    from rlaif.recorded.differences import differences
    from rlaif.recorded.readers import find_reader
    from rlaif.store import writing

    other = find_reader(against) if against else None
    found = differences(file, find_reader(reader), other, judge=judge, method=method)
    for line in found.lines():
        print(line)
    if to:
        with writing(to) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows), "utf-8")
        print(f"{to}: {len(found.rows):,} differences")


def winrate(
    judgements: Annotated[str, typer.Option("--judgements", help="Recorded verdicts between models.")],
    model: Annotated[str, typer.Option("--model", help="The model whose win rate it is.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Against this one, where there are several.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Judged by this one, where there are several.")] = None,
    outputs: Annotated[
        str | None, typer.Option("--outputs", help="What the models wrote, for its length; else len_a and len_b.")
    ] = None,
) -> None:
    """Win rate of a model from recorded verdicts, raw, discrete and at equal length. The last line is JSON."""
    import json

    from rlaif.recorded.winrate import figures_of, lines_of, read_contest

    contest = read_contest(judgements, model, baseline=baseline, judge=judge, outputs=outputs)
    card = figures_of(contest)
    for line in lines_of(contest, card):
        print(line)
    print(json.dumps({name: figure.model_dump() for name, figure in card.items()}))
