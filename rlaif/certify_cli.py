"""``rlaif certify``: how far a judge can be trusted; and win rates from recorded verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlaif.driving import Constitution, Limit, Model, Settings, judged_by, watched


class JudgeFirst(TyperGroup):
    """``certify NAME`` is ``certify judge NAME``, unless it names a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] != "--help":
            args = ["judge", *args]
        return list(super().parse_args(ctx, args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            args = ["judge", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=JudgeFirst,
    help="How far a judge can be trusted: `rlaif certify JUDGE --human FILE` asks it; the commands below read what others recorded.",
    rich_markup_mode=None,
)

Recorded = Annotated[str, typer.Option("--recorded", help="Its verdicts: a file of judgements.")]
Judge = Annotated[str | None, typer.Option("--judge", help="The judge, where the file has several.")]
Method = Annotated[str | None, typer.Option("--method", help="Its method, where the file has several.")]
READER = "own, llmbar, or package.module:function"


@app.command()
def judge(
    name: Annotated[str, typer.Argument(metavar="JUDGE", help="A judge: name or path.")],
    human: Annotated[str, typer.Option("--human", help="Pairs with people's labels.")],
    model: Model = None,
    constitution: Constitution = None,
    canaries: Annotated[
        int, typer.Option("--canaries", min=0, help="Pairs that are turned into canaries, at most.")
    ] = 200,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the card; by default cards/JUDGE.")] = None,
    second: Annotated[
        str | None,
        typer.Option("--second", help="A judge of another family of models, for what a judge makes of its own."),
    ] = None,
    second_model: Annotated[
        str | None, typer.Option("--second-model", help="The second judge's model, as --model.")
    ] = None,
    limit: Limit = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """A judge against people: agreement, habits, canaries, calibration, cost. Writes card.json and card.html."""
    from rlaif.certification.certify import certify

    data = judged_by(name, model, constitution)
    folder = out or Path("cards") / Path(name).name.removeprefix("builtin:").removesuffix(".yaml")
    other = judged_by(second, second_model or model, constitution) if second else None
    found = watched(
        lambda watcher: certify(
            data, human, folder, second=other, settings=settings, limit=limit, canaries=canaries, watcher=watcher
        )
    )
    for line in found.lines():
        print(line)
    print(f"written: {folder}; look at {folder / 'card.html'}")


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
    second: Annotated[
        str | None,
        typer.Option("--second", help="JUDGE or JUDGE:METHOD of another family, for what the judge makes of its own."),
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
    other = None
    if second:
        name, _, way = second.partition(":")
        other = replay(items, file, judge=name, method=way or None, subset=subset)
    card, unsaid = card_of(found, other)
    for line in [*lines_of(found, card), *unsaid]:
        print(line)
    write_json(out / "card.json", {name: figure.model_dump() for name, figure in card.items()})
    print(f"written: {out / 'card.json'}")


@app.command()
def panel(
    items: Annotated[str, typer.Option("--items", help="The pairs that were judged, with labels.")],
    file: Recorded,
    member: Annotated[
        list[str], typer.Option("--member", help="JUDGE, or JUDGE:METHOD where it has several; to be repeated.")
    ],
    subset: Annotated[str | None, typer.Option("--subset", help="Only items of this subset.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write the figures to this JSON file.")] = None,
) -> None:
    """Judges that others recorded, alone and as a panel: what the second order, calibration and the panel each gain."""
    from rlaif.recorded.panel import panel_of
    from rlaif.recorded.replay import replay
    from rlaif.store import write_json

    named = [each.partition(":") for each in member]
    found = panel_of(
        [replay(items, file, judge=judge, method=method or None, subset=subset) for judge, _, method in named]
    )
    for line in found.lines():
        print(line)
    if to:
        write_json(to, {name: figure.model_dump() for name, figure in found.figures.items()})


@app.command()
def responses(
    file: Annotated[str, typer.Option("--recorded", help="Responses, a row each, with a column for each labeller.")],
    truth: Annotated[str, typer.Option("--truth", help="The column whose classes count as true.")],
    judge: Annotated[list[str], typer.Option("--judge", help="A judge's column; to be repeated.")],
    person: Annotated[
        list[str],
        typer.Option("--person", help="One person's column, for how far people agree; to be repeated."),
    ] = [],  # noqa: B006
    by: Annotated[str | None, typer.Option("--by", help="A column: the same figures for each of its values.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write the figures to this JSON file.")] = None,
) -> None:
    """Judges that put each response into a class (complied, refused) against people: agreement, and classes they over-use."""
    from rlaif.recorded.classes import classes_card, classes_lines, read_labelled
    from rlaif.store import write_json

    found = read_labelled(file, truth, judge, person, by)
    card = classes_card(found)
    for line in classes_lines(found, card):
        print(line)
    if to:
        write_json(to, {name: figure.model_dump() for name, figure in card.items()})


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
    beside: Annotated[
        str | None, typer.Option("--beside", help="Another model against the same baseline: the paired difference.")
    ] = None,
) -> None:
    """Win rate of a model from recorded verdicts, raw, discrete and at equal length. The last line is JSON."""
    import json

    from rlaif.recorded.winrate import figures_of, lines_of, paired, read_contest

    contest = read_contest(judgements, model, baseline=baseline, judge=judge, outputs=outputs)
    card = figures_of(contest)
    lines = lines_of(contest, card)
    if beside:
        other = read_contest(
            judgements, beside, baseline=contest.baseline, judge=contest.judge or None, outputs=outputs
        )
        others = figures_of(other)
        differences, said = paired(contest, other)
        card |= {f"beside.{name}": figure for name, figure in others.items()} | differences
        lines += ["", *lines_of(other, others), "", *said]
    for line in lines:
        print(line)
    print(json.dumps({name: figure.model_dump() for name, figure in card.items()}))
