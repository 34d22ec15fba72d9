"""A run labelled again from the ledger alone: what changes, what stays, what is refused."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import UserError
from rlaif.judging import pairwise_text
from rlaif.judging.reading import read_choice
from rlaif.mock import MockOptions, start
from rlaif.reread import Ahead, Changes, Reread, open_reread
from rlaif.store import RunFolder
from tests.command_line import Rlaif
from tests.runs import ledger_rows, stage_files
from tests.runs import rlaif as run_cli
from tests.runs import start as start_cli
from tests.test_judging import write_judge
from tests.tiny import write_jsonl

SPEAKER = '''
from rlaif.errors import CallFailed


def speak(request):
    """A verdict for the reply with GOOD in it; every fourth pair in words that no parser knows, every ninth call fails."""
    text = request.messages[-1].content
    number = int(text.split("question ")[1].split("\\n")[0])
    if number % 9 == 8:
        raise CallFailed("the server is down", retryable=True)
    better = "A" if text.index("GOOD") < text.index("BAD") else "B"
    return f"I would go with {better}, all told." if number % 4 == 3 else f"[[{better}]]"


def sure(request):
    """Log-probabilities: half of the pairs with little mass on the options."""
    from rlaif.models import Reply

    number = int(request.messages[-1].content.split("question ")[1].split("\\n")[0])
    low = -3.0 if number % 2 else -0.3
    return Reply(logprobs=(("A", low), ("B", low - 1.0), ("a", -4.0)))


def votes(request):
    return "[[A]]" if request.sample_index < 3 else "[[B]]"
'''
PAIRS = 18
FAILED = 2  # pairs 8 and 17
UNKNOWN = 4  # pairs 3, 7, 11 and 15
JUDGE = ("judge", "compare-text", "pairs.jsonl", "--model", "scripted:reread_voice:speak", "--out", "run")
LOOSE = ("--set", "failure_tolerance=0.5")


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module is imported from the test's own folder, here and in child processes."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "reread_voice", raising=False)


@pytest.fixture
def folder(working_folder: Path) -> Path:
    (working_folder / "reread_voice.py").write_text(SPEAKER)
    rows = [{"prompt": f"question {i}", "response_a": f"GOOD {i}", "response_b": f"BAD {i}"} for i in range(PAIRS)]
    write_jsonl(working_folder / "pairs.jsonl", rows)
    return working_folder


@pytest.fixture
def judged(folder: Path) -> Path:
    run_cli(folder, *JUDGE, *LOOSE)
    (folder / "log").unlink()
    return folder


def reread(folder: Path, *judges: str, settings: tuple[str, ...] = (), **options: Any) -> tuple[Changes, Reread]:
    """The library's reread of ``folder/run``; what changed."""
    road = open_reread(folder / "run", judges, settings)
    try:
        changes, _ = asyncio.run(road.reread(**options))
    finally:
        road.gateway.ledger.close()
    return changes, road


def outcomes(folder: Path, noun: str = "provenance") -> list[str]:
    return [row.outcome for row in RunFolder(folder / "run").read(noun)]


def understands(text: str, options: Any, tie: str | None = None) -> int | None:
    """A parser of a later version."""
    found = read_choice(text, options, tie)
    return options.index(text[16]) if found is None and text.startswith("I would go with") else found


# --- what changes -----------------------------------------------------------------------------------------------------


def test_a_mended_parser_reads_old_replies_though_nothing_in_the_recipe_changed(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RunFolder(judged / "run").manifest["stages"]["judgements"]["signature"]
    assert outcomes(judged).count("unreadable") == UNKNOWN
    monkeypatch.setattr(pairwise_text, "read_choice", understands)
    changes, road = reread(judged)
    assert changes.judgements == {"unreadable -> ranked": 2 * UNKNOWN}
    assert changes.labels == {"unreadable -> labelled": UNKNOWN}
    assert changes.lines() == [
        f"judgements: {2 * PAIRS} showings read again, {2 * UNKNOWN} changed",
        f"{'':<20}        8 × unreadable -> ranked",
        f"labels: {PAIRS} comparisons, {UNKNOWN} changed",
        f"{'':<20}        4 × unreadable -> labelled",
    ]
    assert outcomes(judged).count("labelled") == PAIRS - FAILED
    assert all("GOOD" in row.chosen[0].content for row in RunFolder(judged / "run").read("preferences") if row.weight)
    assert RunFolder(judged / "run").manifest["stages"]["judgements"]["signature"] == before
    (account,) = road.gateway.accounts.values()
    assert (account.asked, account.missing) == (0, 2 * FAILED)
    superseded = [path.name.partition("-")[0] for path in (judged / "run" / "superseded").iterdir()]
    assert {"judgements", "preferences", "provenance"} <= set(superseded)
    changes, _ = reread(judged)  # read as this version does, all stays
    assert not changes.judgements + changes.labels


def test_where_nothing_changes_nothing_is_touched(judged: Path) -> None:
    before = stage_files(judged / "run")
    stages = RunFolder(judged / "run").manifest["stages"]
    changes, _ = reread(judged)
    assert not changes.judgements + changes.labels
    assert changes.lost == 0
    assert (changes.same_judgements, changes.same_labels) == (True, True)
    assert stage_files(judged / "run") == before
    assert RunFolder(judged / "run").manifest["stages"] == stages
    assert not (judged / "run" / "superseded").exists()
    assert not (judged / "run" / ".reread").exists()


def test_an_edited_judge_gives_what_a_run_with_it_would(folder: Path) -> None:
    """The same files, byte for byte, as a run that asks; and the next walk has nothing to do."""
    model = ("--model", "scripted:reread_voice:sure")
    write_judge("mine", protocol="pairwise-logprobs")
    run_cli(folder, "judge", "mine", "pairs.jsonl", *model, "--out", "run")
    assert outcomes(folder).count("unreadable") == PAIRS // 2
    write_judge("mine", protocol="pairwise-logprobs", options={"minimum_mass": 0.01})
    changes, _ = reread(folder)
    assert changes.judgements == {"unreadable -> ranked": PAIRS}
    assert changes.labels == {"unreadable -> tie": PAIRS // 2}
    run_cli(folder, "judge", "mine", "pairs.jsonl", *model, "--out", "asked", "--set", "ledger=other.sqlite")
    reread_files, asked_files = stage_files(folder / "run"), stage_files(folder / "asked")
    assert {name: data for name, data in reread_files.items() if name.startswith(("judgements", "prefer", "prov"))} == {
        name: data for name, data in asked_files.items() if name.startswith(("judgements", "prefer", "prov"))
    }
    (folder / "log").unlink()
    text = run_cli(folder, "judge", "mine", "--out", "run")
    assert text.count("(kept from an earlier run)") == 3


def test_other_rules_change_labels_and_no_judgement(folder: Path) -> None:
    write_judge("mine", protocol="pairwise-logprobs", options={"minimum_mass": 0.01}, both_orders=False)
    run_cli(folder, "judge", "mine", "pairs.jsonl", "--model", "scripted:reread_voice:sure", "--out", "run")
    judgements = stage_files(folder / "run")["judgements/part-00000.parquet"]
    changes, _ = reread(folder, settings=("preferences.clamp=[0.4, 0.6]",))
    assert not changes.judgements
    assert changes.labels == {"labelled, with another probability": PAIRS}
    assert {row.p for row in RunFolder(folder / "run").read("preferences")} == {0.6}
    changes, _ = reread(folder, settings=("preferences.minimum_margin=0.9",))  # and the clamp stays in the recipe
    assert changes.labels == {"labelled -> filtered": PAIRS}
    assert stage_files(folder / "run")["judgements/part-00000.parquet"] == judgements


def test_another_judge_that_asks_the_same_is_read_from_the_same_replies(judged: Path) -> None:
    run_cli(judged, "copy", "compare-text", "--as", "mine")
    mine = judged / "judges" / "mine.yaml"
    mine.write_text(mine.read_text().replace("tie: C", "tie: null"))
    changes, _ = reread(judged, "mine")
    assert not changes.judgements + changes.labels
    assert not changes.same_judgements  # they say who judged
    labellers = {row.labeller.partition("@")[0] for row in RunFolder(judged / "run").read("judgements")}
    assert labellers == {"judge:mine"}
    files = {file["name"] for file in RunFolder(judged / "run").manifest["files"]}
    assert {"mine", "compare-two", "helpful-and-safe"} <= files


def test_a_failed_call_stays_what_it_was_and_is_asked_by_the_next_run(judged: Path) -> None:
    reasons = [row.reason for row in RunFolder(judged / "run").read("judgements") if row.outcome == "failed"]
    reread(judged, settings=("preferences.clamp=[0.4, 0.6]",))
    assert reasons == [row.reason for row in RunFolder(judged / "run").read("judgements") if row.outcome == "failed"]
    assert len(reasons) == 2 * FAILED
    assert "the server is down" in reasons[0]
    rows = ledger_rows(judged)
    text = run_cli(judged, *JUDGE[:2], "--out", "run", *LOOSE)
    assert f"{2 * FAILED} failed" in text  # asked again, and down again
    assert ledger_rows(judged) == rows


# --- replies that are missing -----------------------------------------------------------------------------------------


@pytest.fixture
def voted(folder: Path) -> Path:
    """A run of votes that stopped early: three of five."""
    write_judge("mine", protocol="pairwise-votes", sampling={"temperature": 1.0})
    run_cli(folder, "judge", "mine", "pairs.jsonl", "--model", "scripted:reread_voice:votes", "--out", "run")
    assert outcomes(folder) == ["tie"] * PAIRS  # first of both orders
    write_judge("mine", protocol="pairwise-votes", sampling={"temperature": 1.0}, options={"early_stop": False})
    (folder / "log").unlink()
    return folder


def test_labels_that_would_be_lost_are_not(voted: Path, rlaif: Rlaif) -> None:
    before, manifest = stage_files(voted / "run"), (voted / "run" / "manifest.json").read_bytes()
    said = rlaif("reread", "run")
    assert said.code == 2
    asking = "rlaif judge mine --out run"
    assert said.err.splitlines()[-1] == (
        f"rlaif: reread: run: {4 * PAIRS} replies are not in the ledger, and {PAIRS} comparisons would lose their labels for "
        f"it: nothing was changed. `{asking}` asks for them; --allow-missing leaves these comparisons without a label."
    )
    assert (stage_files(voted / "run"), (voted / "run" / "manifest.json").read_bytes()) == (before, manifest)
    asked = rlaif(*shlex.split(asking)[1:])
    assert f"{4 * PAIRS} asked" in asked.err
    changes, _ = reread(voted)
    assert changes.lines()[0] == f"judgements: {2 * PAIRS} showings read again, 0 changed"


def test_labels_that_may_be_lost_are_counted_and_come_back(voted: Path, rlaif: Rlaif) -> None:
    said = rlaif("reread", "run", "--allow-missing")
    assert said.code == 0
    assert f"{2 * PAIRS} × ranked -> failed" in said.out
    assert f"{PAIRS} × tie -> failed" in said.out
    assert f"{4 * PAIRS} replies are not in the ledger; `rlaif judge mine --out run` asks for them" in said.out
    assert f"{2 * PAIRS} × its reply is not in the ledger" in said.err
    assert "0 asked" in said.err
    rlaif("judge", "mine", "--out", "run")
    assert outcomes(voted) == ["tie"] * PAIRS


def test_an_unfinished_run_is_read_as_far_as_it_got(folder: Path) -> None:
    """A run that stopped at too many failures has some shards; reread labels what is in the ledger."""
    rows = [{"prompt": f"question {i}", "response_a": f"GOOD {i}", "response_b": f"BAD {i}"} for i in range(90)]
    write_jsonl(folder / "pairs.jsonl", rows)
    process = start_cli(folder, *JUDGE, "--set", "shard_rows=8", "--set", "failure_tolerance=0.04")
    process.join(60)
    assert process.exitcode == 1
    run = RunFolder(folder / "run")
    assert not run.is_complete("judgements")
    written, asked = run.rows("judgements"), ledger_rows(folder)
    assert 0 < written < asked
    changes, _ = reread(folder)
    assert changes.lost == 0
    assert sum(changes.judgements.values()) == 180 - written
    assert changes.judgements["not judged -> ranked"] > 0  # replies of batches that were not written
    assert changes.missing == 180 - asked
    assert sum(changes.labels.values()) == 90
    assert ledger_rows(folder) == asked
    run_cli(folder, *JUDGE[:2], "--out", "run", *LOOSE)
    run_cli(folder, *JUDGE[:-1], "straight", *LOOSE, "--set", "shard_rows=8", "--set", "ledger=other.sqlite")
    assert stage_files(folder / "run") == stage_files(folder / "straight")  # as if nothing had come between


# --- nothing is asked -------------------------------------------------------------------------------------------------


def test_a_model_behind_an_api_is_read_without_its_server_or_key(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    rlaif: Rlaif,
) -> None:
    monkeypatch.setenv("A_KEY", "sk-a-key-of-tests")
    with start(MockOptions()) as server:
        options = f"{{base_url: {server.url}/v1, api_key_env: A_KEY}}"
        model = f"models.judge={{provider: openai, model: mock-judge, options: {options}}}"
        assert rlaif("judge", "compare-api", "pairs.jsonl", "--out", "run", "--set", model).code == 0
    monkeypatch.delenv("A_KEY")
    (folder / "pairs.jsonl").unlink()
    said = rlaif("reread", "run", "--set", "preferences.clamp=[0.4, 0.6]")
    assert said.code == 0, said.err
    assert f"0 asked, {2 * PAIRS} from the ledger, 0 failed" in said.err
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert rlaif("reread", "../run").code == 0  # the ledger is found from the run folder
    assert not (elsewhere / ".rlaif").exists()


def test_a_local_judge_is_read_without_a_pass_of_its_network(
    folder: Path,
    judge_folder: Path,
    rlaif: Rlaif,
) -> None:
    write_judge("mine", protocol="pairwise-logprobs", options={"minimum_mass": 0.0})
    run_cli(folder, "judge", "mine", "pairs.jsonl", "--model", str(judge_folder), "--out", "run")
    write_judge("mine", protocol="pairwise-logprobs", options={"minimum_mass": 1.0})
    said = rlaif("reread", "run")
    assert said.code == 0, said.err
    assert f"{2 * PAIRS} × ranked -> unreadable" in said.out
    assert f"0 asked, {2 * PAIRS} from the ledger" in said.err


# --- what cannot be reread --------------------------------------------------------------------------------------------


def test_what_cannot_be_reread_is_one_line(judged: Path, rlaif: Rlaif) -> None:
    run_cli(judged, "judge", "longest", "pairs.jsonl", "--out", "people")
    shutil.rmtree(judged / "people")
    rows = [{"prompt": "q", "response_a": "x", "response_b": "y", "label": "a"}]
    write_jsonl(judged / "people.jsonl", rows)
    run_cli(judged, "label", "people.jsonl", "--out", "people")
    (judged / "empty").mkdir()
    cases = {
        ("nowhere",): "nowhere: not a run folder (it has no config/pipelines/effective.json).",
        ("empty",): "empty: not a run folder (it has no config/pipelines/effective.json).",
        ("people",): "people: people labelled it: their answers are in files, not in a ledger.",
        (
            "run",
            "--set",
            "seed=4",
        ): 'reread: --set seed: the comparisons of run stay as they are, and "seed" is about how '
        "they came about. rlaif run makes others.",
        (
            "run",
            "--set",
            "ledger=gone.sqlite",
        ): "run: its ledger, gone.sqlite, is not there: name it with --set ledger=PATH.",
        (
            "run",
            "--judge",
            "compare-txt",
        ): 'rlaif reread: judge "compare-txt" not found in ./judges or the built-ins. Did you mean "compare-text"?',
    }
    for arguments, words in cases.items():
        said = rlaif("reread", *arguments)
        assert (said.code, said.line) == (2, f"rlaif: {words}")
    assert not (judged / "nowhere").exists()
    (judged / ".rlaif" / "ledger.sqlite").rename(judged / "moved.sqlite")
    assert rlaif("reread", "run").line.endswith("is not there: name it with --set ledger=PATH.")
    assert rlaif("reread", "run", "--set", "ledger=moved.sqlite").code == 0


def test_a_run_that_another_process_walks_is_left_alone(judged: Path) -> None:
    with RunFolder(judged / "run").alone(), pytest.raises(UserError, match="another run is at work in this folder"):
        reread(judged)


def test_rows_are_taken_in_the_order_of_the_comparisons_and_others_wait() -> None:
    rows = Ahead(["a1", "a2", "c1"], lambda row: row[0])
    assert [rows("a"), rows("b"), rows.ended, rows("c"), rows.ended, rows("d")] == [
        ["a1", "a2"], [], False, ["c1"], True, []
    ]  # fmt: skip
