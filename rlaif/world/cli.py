"""``rlaif world``: look at the practice world's prompts, replies, truths, annotators and judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlaif.statistics import Figure

app = typer.Typer(
    help="The practice world: prompts with known truth, simulated people, small judges.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Seed = Annotated[int, typer.Option("--seed", help="Another seed draws other prompts.")]
Number = Annotated[int, typer.Option("--number", "-n", min=1, help="How many.")]
Judge = Annotated[str, typer.Option("--model", help="The folder of a judge that `rlaif world build` made.")]
JUDGE, POLICY = "package:rlaif.world/models/judge", "package:rlaif.world/models/policy"
HeldOut = Annotated[bool, typer.Option("--held-out", help="Only what stands in no model's training data.")]


@app.command()
def prompts(
    number: Number = 10,
    kind: Annotated[str | None, typer.Option("--kind", help="benign, borderline, harmful, fact or sum.")] = None,
    held_out: HeldOut = False,
    seed: Seed = 0,
    to: Annotated[Path | None, typer.Option("--to", help="Write JSONL for `prompts: FILE` instead.")] = None,
) -> None:
    """Draw prompts, and show a reply to each with its attributes, or write them to a file."""
    from rlaif.world.showing import questions, row_of, shown

    drawn = questions(number, _kinds(kind), held_out=held_out, seed=seed)
    if to is None:
        print("\n\n".join(shown(question, seed) for question in drawn))
        return
    _write(to, [row_of(question) for question in drawn])
    print(f"{to}: {len(drawn)} prompts")


@app.command()
def attributes(
    prompt: Annotated[str, typer.Option("--prompt", help="What a person asks.")],
    reply: Annotated[str, typer.Option("--reply", help="What is answered.")],
) -> None:
    """What the oracle reads in a prompt and a reply: the truth that judges are measured against."""
    from dataclasses import asdict

    from rlaif.errors import DataError
    from rlaif.records import Message
    from rlaif.world.oracle import FAMILIES, read, score
    from rlaif.world.oracle import attributes as truth

    question = read((Message(role="user", content=prompt),))
    if question is None:
        raise DataError("--prompt: not a question of the practice world (`rlaif world prompts` shows some).")
    found = truth(question, reply)
    about = {"kind": question.kind, "topic": question.topic, "harmful": question.harmful, "answer": question.answer}
    _print_table("prompt", {key: value for key, value in about.items() if value != ""})
    _print_table("reply", asdict(found))
    _print_table("score by family (- : no opinion)", {f: score(f, question, found) for f in FAMILIES})


@app.command()
def annotators(
    number: Number = 2000,
    seed: Seed = 0,
    options: Annotated[list[str], typer.Option("--set", help="An option of the annotators, such as noise=0.25.")] = [],  # noqa: B006
    held_out: Annotated[bool, typer.Option("--held-out", help="Pairs about prompts that no model has seen.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the pairs with their labels to this JSONL file.")
    ] = None,
) -> None:
    """Let simulated people label random pairs, and compare what they do with what their values and faults imply."""
    from rlaif.component import parse_options
    from rlaif.config import apply_settings
    from rlaif.world.annotators import Annotators
    from rlaif.world.showing import annotator_rates, labelled_pairs

    chosen = parse_options(Annotators, apply_settings({}, options), "--set")
    rates = annotator_rates(chosen, number, seed, held_out)
    ties = rates["ties"].measured
    left_out = round((ties.value or 0) * ties.n)
    print(
        f"{number:,} pairs, {ties.n:,} labels; {left_out:,} ties, left out of what is preferred or agrees with values"
    )
    print(f"{'':<34}{'measured':<44}implied by the options")
    for name, (figure, implied) in rates.items():
        print(f"{name:<34}{_figure(figure):<44}{implied:.3f}")
    if to:
        from rlaif.export.files import write_rows

        written = write_rows(to, labelled_pairs(chosen, number, seed, held_out), None)
        print(f"written: {to}, {written:,} pairs")


@app.command()
def check(
    principles: Annotated[list[str], typer.Argument(help="A principle in quotes, or the name of a constitution.")],
    model: Judge = JUDGE,
) -> None:
    """How the practice judge reads principles: unknown words, and verdicts on pairs that differ in one thing."""
    from rlaif.world.showing import check_principles

    for line in check_principles(principles, model):
        print(line)


@app.command()
def build(
    models: Annotated[list[str] | None, typer.Argument(help="policy, judge, second-judge; all without a name.")] = None,
    work: Annotated[Path, typer.Option("--work", help="Where training is kept; it goes on from there.")] = Path(
        "world-build"
    ),
) -> None:
    """Train the embedded models from nothing: hours on one core, resumable."""
    from rlaif.world.build import build_models

    build_models(models or [], work, print)


@app.command()
def harden(
    name: Annotated[str, typer.Argument(help="judge or second-judge.")],
    model: Annotated[str, typer.Option("--model", help="The judge's folder; by default the embedded one.")] = "",
    work: Annotated[Path, typer.Option("--work", help="Where training is kept; it goes on from there.")] = Path(
        "world-build"
    ),
) -> None:
    """Give a finished judge its last lessons, on replies that are none: a quarter of an hour on one core, resumable."""
    from rlaif.errors import ConfigError, did_you_mean
    from rlaif.models.local import model_folder
    from rlaif.world.build import JUDGES, harden_folder

    if name not in JUDGES:
        raise ConfigError(f'harden: "{name}"?{did_you_mean(name, JUDGES)}')
    harden_folder(model_folder(model or f"package:rlaif.world/models/{name}", "--model"), name, work, print)


@app.command()
def exam(
    model: Judge = JUDGE,
    number: Annotated[int, typer.Option("--number", "-n", min=12, help="Pairs for each figure.")] = 1200,
    seed: Seed = 0,
    held_out_wordings: Annotated[
        bool, typer.Option("--held-out-wordings", help="Also those written without sight of the grammar.")
    ] = False,
) -> None:
    """Examine a judge against the oracle on held-out prompts, both orders averaged, each figure with n and interval."""
    from rlaif.models.local import model_folder
    from rlaif.world.build import foreign
    from rlaif.world.exam import examine
    from rlaif.world.showing import open_judge

    if line := foreign(model_folder(model, "--model")):
        print(line)
    for name, figure in examine(*open_judge(model), number, seed, held_out=held_out_wordings).items():
        print(f"{name:<34}{_figure(figure)}")


@app.command()
def rates(
    model: Annotated[str, typer.Option("--model", help="The folder of a policy.")] = POLICY,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Held-out prompts of each kind.")] = 650,
    seed: Seed = 0,
) -> None:
    """What a policy does, by the oracle, on held-out prompts: one reply to each, sampled at temperature 1."""
    from rlaif.world.showing import policy_rates

    for name, figure in policy_rates(model, number, seed).items():
        print(f"{name:<34}{_figure(figure)}")


def _kinds(kind: str | None) -> Any:
    from rlaif.errors import ConfigError, did_you_mean
    from rlaif.world.chat import KINDS

    if kind is None:
        return KINDS
    if kind not in KINDS:
        raise ConfigError(f'--kind: "{kind}"?{did_you_mean(kind, KINDS)}')
    return (kind,)


def _figure(figure: Figure) -> str:
    interval = "" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}, "
    return f"{'–' if figure.value is None else f'{figure.value:.3f}'}  ({interval}n = {figure.n})"


def _print_table(title: str, values: dict[str, Any]) -> None:
    print(title)
    for key, value in values.items():
        print(f"  {key:<14}{'-' if value is None else value}")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from rlaif.store import write_text

    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
