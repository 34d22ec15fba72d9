"""The command line: each command parses, calls one library function and prints the result.

Heavy modules are imported inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif import __version__
from rlaif.certify_cli import app as certify
from rlaif.certify_cli import winrate
from rlaif.compare_cli import compare
from rlaif.constitution_cli import app as constitution
from rlaif.driving import (
    Constitution,
    Limit,
    Model,
    Out,
    Settings,
    judged_by,
    model_of,
    quiet_bitsandbytes,
    run_to_end,
    shown,
)
from rlaif.ledger_cli import app as ledger
from rlaif.reward_cli import app as reward
from rlaif.world.cli import app as world

if TYPE_CHECKING:
    from rlaif.config import Pipeline
    from rlaif.pipeline import Outcome, Road, Until

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="AI feedback from prompts to a tuned policy: sample, judge under a constitution, train, report.",
)

app.add_typer(world, name="world")
app.add_typer(ledger, name="ledger")
app.add_typer(reward, name="reward")
app.add_typer(certify, name="certify")
app.command()(winrate)
app.command()(compare)
app.add_typer(constitution, name="constitution")

INTERRUPTED = 130


def main() -> None:
    """Entry point: what a person can mend (a disk too) is one line and exit code 2, Ctrl-C 130, other stops 1."""
    from rlaif.errors import RlaifError, StorageError, UserError
    from rlaif.training import processes

    quiet_bitsandbytes()
    if processes.rank():  # started by `accelerate launch`, to help the first one train
        processes.follow()
        processes.leave(0)
    code = None
    try:
        # None, or the code a command left with
        code = processes.lead(lambda: app(prog_name="rlaif", standalone_mode=False))
    except (UserError, StorageError) as error:
        _fail(str(error), 2)
    except RlaifError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # the command line itself could not be understood
            _fail(error.format_message(), 2)
        raise
    if code == INTERRUPTED:  # typer makes this code of a KeyboardInterrupt
        _fail("interrupted: finished work is kept, the same command goes on from here.", INTERRUPTED)
    if code:
        sys.exit(code)
    if processes.count() > 1:
        processes.leave(0)


def _fail(line: str, code: int) -> None:
    print(f"rlaif: {line}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _alone(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """What `rlaif` does without a command."""
    if version:
        print(f"rlaif {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


# --- the catalogue ----------------------------------------------------------------------------------------------------


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(help="judge, constitution, rubric, …")] = None) -> None:
    """What there is: judges, constitutions, rubrics, templates, prompt sets, pipelines."""
    from rlaif.catalogue import FOLDERS, Catalogue
    from rlaif.errors import ConfigError, did_you_mean

    if kind is not None and kind.removesuffix("s") not in FOLDERS:
        raise ConfigError(f'list: unknown kind "{kind}".{did_you_mean(kind, FOLDERS)}')
    catalogue = Catalogue()
    for each in FOLDERS:
        if kind is None or kind.removesuffix("s") == each:
            print(f"{each}s")
            for name in catalogue.names(each):
                builtin = catalogue.is_builtin(each, name)
                print(f"  {name:<28}{'' if builtin else '(local) '}{_summary(catalogue, each, name)}".rstrip())


def _summary(catalogue: Any, kind: Any, name: str) -> str:
    from rlaif.errors import UserError

    try:
        entry = catalogue.find(kind, name, where="list")
        if kind == "launcher":  # accelerate reads no key that is not its own
            return entry.text.partition("\n")[0].removeprefix("# ")
        return str(entry.yaml().get("description", "")) if entry.path.suffix == ".yaml" else ""
    except UserError as error:
        return f"(not readable: {error})"


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name from `rlaif list`.")]) -> None:
    """Print a file of the catalogue."""
    sys.stdout.write(_find_any(name).text)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A name from `rlaif list`.")],
    to: Annotated[str | None, typer.Option("--as", help="Name of the copy; by default the same.")] = None,
) -> None:
    """Copy a file of the catalogue into the working folder, to be edited."""
    from rlaif.catalogue import FOLDERS
    from rlaif.errors import ConfigError
    from rlaif.store import writing

    entry = _find_any(name)
    folder, _ = FOLDERS[entry.kind]
    suffix = entry.path.name.removeprefix(Path(entry.name).name)
    target = Path(folder) / f"{to or entry.name}{suffix}"
    if target.exists():
        raise ConfigError(f"{target}: exists already. Give the copy another name with --as.")
    with writing(target) as temporary:
        temporary.write_bytes(entry.data)
    print(f"{target}  (edit it; your own files and --set find it first, shipped pipelines go on using the shipped one)")


def _find_any(name: str) -> Any:
    from rlaif.catalogue import FOLDERS, Catalogue
    from rlaif.errors import ConfigError, did_you_mean

    catalogue = Catalogue()
    for kind in FOLDERS:
        if name.removeprefix("builtin:") in catalogue.names(kind) or Path(name).is_file():
            try:
                return catalogue.find(kind, name, where="rlaif")
            except ConfigError:
                continue
    everything = [known for kind in FOLDERS for known in catalogue.names(kind)]
    raise ConfigError(f'"{name}" is not in the catalogue.{did_you_mean(name, everything)}')


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="A pipeline, study, judge or constitution: name or path.")],
    settings: Settings = [],  # noqa: B006
) -> None:
    """Check a file and everything it refers to, without asking a model anything."""
    from rlaif.catalogue import Catalogue
    from rlaif.checking import check_file
    from rlaif.study.recipe import check_study

    print(check_study(file, tuple(settings), Catalogue()) or check_file(file, settings))


# --- the road ---------------------------------------------------------------------------------------------------------


@app.command()
def run(
    pipeline: Annotated[str, typer.Argument(help="A pipeline: name or path of a YAML file.")],
    out: Out = None,
    limit: Limit = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Walk the whole road of a recipe; run again to go on after an interruption."""
    _walk(pipeline, settings, out, limit, "report")


@app.command()
def plan(
    pipeline: Annotated[str, typer.Argument(help="A pipeline or a study: name or path of a YAML file.")],
    limit: Limit = None,
    latency: Annotated[float, typer.Option("--latency", min=0.0, help="Seconds that a call is taken to last.")] = 2.0,
    to: Annotated[Path | None, typer.Option("--to", help="Write the figures to this JSON file.")] = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """What a recipe would ask of its models, and what that takes and costs. Nothing is asked."""
    from rlaif.catalogue import Catalogue
    from rlaif.plan import plan_pipeline, told
    from rlaif.store import write_json
    from rlaif.study.planning import plan_study
    from rlaif.study.recipe import study_of

    if study := study_of(pipeline, tuple(settings), Catalogue()):
        planned = asyncio.run(plan_study(study, limit=limit, latency_seconds=latency))
    else:
        planned = asyncio.run(plan_pipeline(pipeline, settings, limit=limit, latency_seconds=latency))
    for line in told(planned):
        print(line)
    if to:
        write_json(to, {name: figure.model_dump() for name, figure in planned.figures().items()})
    if planned.blocked:
        raise typer.Exit(1)


@app.command()
def prices(
    model: Annotated[str | None, typer.Argument(help="A model's name; without it all that are known.")] = None,
) -> None:
    """What models behind APIs cost, as the price tables have it, and where each price is from."""
    from rlaif.models.prices import Prices, price_lines

    for line in price_lines(Prices.load(Path()), model):
        print(line)


@app.command()
def sample(
    file: Annotated[str, typer.Argument(help="Prompts: a file, hub:OWNER/NAME or set:NAME.")],
    model: Annotated[str, typer.Option("--model", help="Policy: a local folder, openai:NAME or anthropic:NAME.")],
    samples: Annotated[int, typer.Option("--samples", help="Responses per prompt.")] = 4,
    out: Out = None,
    limit: Limit = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Prompts to responses and comparisons."""
    data = {"models": {"policy": model_of(model)}, "prompts": file, "responses": {"samples": samples}}
    _walk_data("sample", data, settings, out, limit, "comparisons")


@app.command()
def judge(
    name: Annotated[str, typer.Argument(metavar="JUDGE", help="A judge: name or path.")],
    file: Annotated[
        str | None, typer.Argument(help="Pairs: a file or hub:OWNER/NAME; without it --out names a sampled run.")
    ] = None,
    model: Model = None,
    constitution: Constitution = None,
    out: Out = None,
    limit: Limit = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Comparisons to judgements and preferences, by a judge."""
    _continue("judge", judged_by(name, model, constitution), file, settings, out, limit, "preferences")


@app.command()
def label(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Pairs with people's labels, or one or more files of answers to tasks."),
    ],
    out: Out = None,
    limit: Limit = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """People's labels to judgements and preferences. With an --out that was sampled, FILE holds answers to its tasks;
    several people's files go in together."""
    from rlaif.pairs import hold_answers

    answers = hold_answers(files)
    data: dict[str, Any] = {"labels": {"source": "human", "options": {"file": files} if answers else {}}}
    _continue("label", data, None if answers else files[0], settings, out, limit, "preferences")


@app.command()
def train(
    what: Annotated[str, typer.Argument(help="reward, or a policy method such as dpo.")],
    out: Annotated[Path, typer.Option("--out", help="A run folder that holds preferences.")],
    model: Annotated[str | None, typer.Option("--model", help="The model to train: a local folder.")] = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Preferences of a run folder to a reward model or a tuned policy."""
    data: dict[str, Any] = {"reward_model": True} if what == "reward" else {"policies": [what]}
    if model:
        data["models"] = {"policy": model}
    _continue("train", data, None, settings, out, None, "policy")


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option("--out", help="A run folder that holds a tuned policy or a reward model.")],
    judge: Annotated[list[str] | None, typer.Option("--judge", help="Judge for the win rate; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The judge's model.")] = None,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Measure a run folder's policies against the start and write the report."""
    data: dict[str, Any] = {"evaluation": {"judges": judge} if judge else True}
    if model:
        data["models"] = {"judge": model_of(model)}
    _continue("evaluate", data, None, settings, out, None, "report")


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="A run folder with labels by judges.")],
    people: Annotated[
        str | None,
        typer.Option(
            "--people",
            help="People's labels of its pairs: a file, or a run folder. By default those in the run's file of pairs.",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="temperature, platt, isotonic, verdicts or panel; else the best of them."),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="The file for preferences.calibration.")] = Path("calibration.json"),
) -> None:
    """Fit a judge's probabilities to people's labels, and say on unseen prompts what it gains."""
    from rlaif.calibrating import calibrate as fitted
    from rlaif.calibration import KINDS, PANEL
    from rlaif.errors import UserError, did_you_mean
    from rlaif.store import write_json

    wanted = next((each for each in (*KINDS, PANEL) if each == kind), None)
    if kind is not None and wanted is None:
        raise UserError(f'calibrate: --kind "{kind}"?{did_you_mean(kind, (*KINDS, PANEL))}')
    found = asyncio.run(fitted(run, people, wanted))
    for line in found.lines():
        print(line)
    write_json(to, found.calibration.model_dump(mode="json"))
    print(f"written: {to}; --set preferences.calibration={to}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    form: Annotated[str, typer.Option("--form", help="trl, openrlhf, kto, ranked, jsonl or tasks.")] = "trl",
    to: Annotated[
        str | None, typer.Option("--to", help="File (.jsonl or .parquet), or a folder: a dataset with its card.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of a dataset, as the Hub names it, for instance cc-by-4.0.")
    ] = None,
) -> None:
    """Preferences for other trainers (trl, openrlhf, kto, ranked), all that is known of every row (jsonl), or blank
    tasks for people (tasks)."""
    from rlaif.export import export as write

    for line in write(folder, form, to, licence):
        print(line)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A dataset folder that `rlaif export --to FOLDER/` wrote.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The dataset on the Hub; made where it is new.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owner may see it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be uploaded.")] = False,
) -> None:
    """Upload a dataset folder to the Hugging Face Hub, with the token in HF_TOKEN."""
    from rlaif.export.push import push as upload

    for line in upload(folder, name, private=private, dry_run=dry_run):
        print(line)


# --- the ledger -------------------------------------------------------------------------------------------------------


@app.command()
def reread(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that judges labelled.")],
    judge: Annotated[
        list[str] | None, typer.Option("--judge", help="In place of the recipe's judges; may be repeated.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on where labels are lost for want of a reply.")
    ] = False,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Label a run again from the ledger alone, without a call: after a change of a judge's file or code, or of how labels
    are made of judgements. Says what changed."""
    from rlaif.reread import open_reread

    with ExitStack() as stack:
        with shown() as (display, watcher):
            road = open_reread(folder, judge or (), settings, watcher)
            stack.callback(road.gateway.ledger.close)
            changes, outcome = run_to_end(lambda: road.reread(allow_missing=allow_missing))
        for line in changes.lines():
            print(line)
        if changes.missing:
            print(f"{changes.missing:,} replies are not in the ledger; `{road.asking()}` asks for them")
        _summary_of(road, outcome, display.say)


# --- rehearsal --------------------------------------------------------------------------------------------------------


@app.command(
    "mock-server", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def mock_server(context: typer.Context) -> None:
    """A mock LLM server with the wire formats of OpenAI and Anthropic, to rehearse on before paying."""
    from rlaif.mock.cli import run

    run(context.args)


# --- plumbing ---------------------------------------------------------------------------------------------------------


def _walk(name: str, settings: list[str], out: Path | None, limit: int | None, until: Until) -> None:
    from rlaif.catalogue import Catalogue
    from rlaif.checking import default_out
    from rlaif.config import load_pipeline

    catalogue = Catalogue()
    entry = catalogue.find("pipeline", name, where="rlaif run")
    _drive(load_pipeline(entry, settings), entry, catalogue, settings, out or default_out(name), limit, until)


def _walk_data(
    name: str, data: dict[str, Any], settings: list[str], out: Path | None, limit: int | None, until: Until
) -> None:
    """A recipe made of a command's flags."""
    from rlaif.catalogue import Catalogue
    from rlaif.checking import default_out, recipe_of

    pipeline, entry = recipe_of(name, data, settings)
    _drive(pipeline, entry, Catalogue(), settings, out or default_out(name), limit, until)


def _continue(
    name: str,
    data: dict[str, Any],
    source: str | None,
    settings: list[str],
    out: Path | None,
    limit: int | None,
    until: Until,
) -> None:
    """A recipe on a new file of pairs, or laid over the one that a run folder was made with."""
    from rlaif.checking import recipe_of_folder
    from rlaif.errors import UserError

    if source is not None:
        _walk_data(name, {**data, "pairs": source}, settings, out, limit, until)
        return
    if out is None:
        raise UserError(f"{name}: name a file of pairs, or a run folder with --out.")
    if limit is not None:
        raise UserError(f"{name}: --limit counts rows of a file of pairs, and {out} brings comparisons of its own.")
    from rlaif.catalogue import Catalogue

    pipeline, entry = recipe_of_folder(name, out, data, settings)
    _drive(pipeline, entry, Catalogue(), settings, out, limit, until)


def _drive(
    pipeline: Pipeline, entry: Any, catalogue: Any, settings: list[str], out: Path, limit: int | None, until: Until
) -> None:
    """Build the road, walk it under a progress display, print the summary."""
    from rlaif.checking import build, limited

    pipeline = limited(pipeline, limit)
    with ExitStack() as stack:
        with shown() as (display, watcher):
            road = build(pipeline, entry, catalogue, out=out, settings=settings, watcher=watcher)
            stack.callback(road.gateway.ledger.close)
            outcome = run_to_end(lambda: road.run(until))
        _summary_of(road, outcome, display.say)
    if over_budget(outcome):
        raise typer.Exit(1)  # stopped, with what is finished kept


def over_budget(outcome: Outcome) -> bool:
    return any("over budget" in account["outcomes"] for account in outcome.accounts.values())


def _summary_of(road: Road, outcome: Outcome, say: Callable[[str], None]) -> None:
    """What became of everything, how long it took, what the figures say, what was written and what to look at."""
    from rlaif.findings import AGREEMENT, NO_AGREEMENT, findings

    say("")
    for stage, account in outcome.accounts.items():
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in account["outcomes"].items())
        say(f"{stage:<20}{account['in']:>9,} {account['unit']}: {outcomes}{_took(road, stage)}")
        reasons = sorted(account["reasons"].items(), key=lambda item: -item[1])
        for reason, count in reasons[:4]:
            say(f"{'':<20}{count:>9,} × {reason}")
        if len(reasons) > 4:
            say(f"{'':<20}{len(reasons) - 4:>9,} more reasons: accounts.json")
    for name, account in road.gateway.accounts.items():
        say(f"model {name}: {account}")
    if road.pipeline.budget_usd is not None:
        more = "; the same command with a larger budget_usd asks what is over it" if over_budget(outcome) else ""
        say(f"budget: {road.gateway.purse.spent_usd:.4f} of {road.pipeline.budget_usd:g} USD{more}")
    if road.pipeline.labels and road.pipeline.labels.source == "human" and AGREEMENT not in outcome.metrics:
        say(NO_AGREEMENT)
    for line in [*road.run_folder.cares(), *findings(outcome.metrics, outcome.measures)]:
        say(line)
    report = road.folder / "report.html"
    say(f"written: {road.folder}" + (f"; look at {report}" if report.exists() else ""))


def _took(road: Road, stage: str) -> str:
    """How long a stage took, or that an earlier run had finished it."""
    whole = "evaluation" if stage.startswith(("answers of ", "verdicts on ")) else stage
    if whole in road.run_folder.kept:
        return "  (kept from an earlier run)"
    return f"  ({road.seconds[stage]:.1f} s)" if stage in road.seconds else ""


if __name__ == "__main__":
    main()
