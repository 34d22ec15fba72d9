"""``rlaif ledger``: what is said of a ledger and its replies, what is taken from it and deleted, and what check finds."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlaif.errors import StorageError, UserError
from rlaif.ledger import Entry, Ledger
from rlaif.ledger_tools import Reader, Selection, moment, selected
from rlaif.ledger_tools.exporting import export
from rlaif.ledger_tools.looking import info
from rlaif.ledger_tools.pruning import prune
from rlaif.ledger_tools.rendering import request_of
from rlaif.models import Reply
from rlaif.records import digest
from rlaif.store import RunFolder
from tests.command_line import Rlaif
from tests.runs import rlaif as run_cli
from tests.runs import start as start_cli
from tests.test_judging import write_judge
from tests.test_ledger import FIRST_FORMAT
from tests.tiny import write_jsonl

YEAR = 31_536_000.0
START = 1_700_000_000.0  # 2023-11-14


def fill(path: Path, rows: list[tuple[str, str, float | None, float]]) -> list[str]:
    """A ledger of replies by (model, run, cost, created), with the purses of their runs; their keys."""
    ledger = Ledger(path)
    for run in sorted({run for _, run, _, _ in rows if run}):
        ledger.open_purse(run)
    keys = [digest("reply", number) for number in range(len(rows))]
    for number, (key, (model, run, cost, created)) in enumerate(zip(keys, rows, strict=True)):
        reply = Reply(text=f"reply {number}", prompt_tokens=10, output_tokens=2)
        ledger.put([Entry(key, model, reply, "{}", cost, 0.5, 1, created, run)])
    ledger.close()
    return keys


ROWS: list[tuple[str, str, float | None, float]] = [
    ("openai:gpt", "aaaa1111", 0.25, START),
    ("openai:gpt", "aaaa1111", 0.5, START + YEAR),
    ("openai:gpt", "aaaa2222", 0.125, START + YEAR),
    ("models/Qwen", "aaaa2222", None, START + 2 * YEAR),
]


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module is imported from the test's own folder, here and in child processes."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "voice", raising=False)


@pytest.fixture
def path(working_folder: Path) -> Path:
    return working_folder / ".rlaif" / "ledger.sqlite"


@pytest.fixture
def keys(path: Path) -> list[str]:
    return fill(path, ROWS)


@pytest.fixture
def reader(path: Path, keys: list[str]) -> Iterator[Reader]:
    with Reader(path) as reader:
        yield reader


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_sums_by_model_and_by_run(path: Path, keys: list[str], rlaif: Rlaif) -> None:
    ledger = Ledger(path)
    ledger.charge("aaaa1111", 0.0625)
    ledger.set_open("aaaa2222", 0.03125)
    ledger.claim(["x", "y"], 60)
    before = path.read_bytes()
    with Reader(path) as reader:
        found = info(reader)
    assert (found.format, found.replies, found.bytes) == (3, 4, path.stat().st_size)
    said = rlaif("ledger", "info")
    assert said.code == 0
    first, *lines = said.out.splitlines()
    assert first.startswith(".rlaif/ledger.sqlite: format 3, ")
    assert first.endswith(" MB, 4 replies")
    assert lines == [
        "model models/Qwen: 1 replies, 10 + 2 tokens, 2025-11-13 22:13:20Z to 2025-11-13 22:13:20Z",
        "model openai:gpt: 3 replies, 30 + 6 tokens, 0.8750 USD, 2023-11-14 22:13:20Z to 2024-11-13 22:13:20Z",
        "run aaaa1111: 2 replies, 0.7500 USD, 0.0625 for calls without a reply",
        "run aaaa2222: 2 replies, 0.1250 USD, 0.0312 at most in flight",
        *[line for line in lines if line.startswith(f"claimed by process {os.getpid()}: 2 requests, until ")],
    ]
    assert len(lines) == 5
    assert path.read_bytes() == before  # only read
    ledger.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO owners VALUES ('elsewhere:7:abc', ?)", (START,))
        db.execute("INSERT INTO claims VALUES ('x', 'elsewhere:7:abc')")
        db.commit()
    assert rlaif("ledger", "info").out.splitlines()[-1] == (
        "claimed by process 7 on elsewhere: 1 requests, gone; free to be claimed"
    )


def test_an_empty_ledger_has_nothing_in_it(path: Path, rlaif: Rlaif) -> None:
    Ledger(path).close()
    assert rlaif("ledger", "info").out.endswith(" MB, 0 replies\n")
    assert rlaif("ledger", "check").out == "0 replies checked: sound\n"


# --- show -------------------------------------------------------------------------------------------------------------


def test_a_reply_is_shown_by_the_beginning_of_its_key(keys: list[str], rlaif: Rlaif) -> None:
    said = rlaif("ledger", "show", keys[1][:9].upper())
    assert said.out.splitlines() == [
        f"key        {keys[1]}",
        "model      openai:gpt",
        "asked      2024-11-13 22:13:20Z, 0.500 s",
        "run        aaaa1111",
        "took       10 + 2 tokens, 0.500000 USD",
        "ended      stop",
        "",
        "=== reply",
        "reply 1",
    ]


def test_a_beginning_that_several_keys_have_lists_them(path: Path, rlaif: Rlaif) -> None:
    ledger = Ledger(path)
    same = [f"abc{number}".ljust(64, "0") for number in range(7)]
    ledger.put([Entry(key, "m", Reply()) for key in [*same, "abd".ljust(64, "0")]])
    ledger.close()
    line = rlaif("ledger", "show", "abc").line
    assert line == (
        f"rlaif: abc: several replies have a key that begins so: {', '.join(key[:16] for key in same[:5])} and more."
    )
    assert rlaif("ledger", "show", "abd").code == 0
    assert rlaif("ledger", "show", "ffff").line == (
        "rlaif: .rlaif/ledger.sqlite: no reply has a key that begins with ffff."
    )
    assert rlaif("ledger", "show", "nonsense").line == (
        "rlaif: nonsense: a reply's key is up to 64 digits of 0-9 and a-f, as judgements name it."
    )


# --- what a run's judgements lead to ----------------------------------------------------------------------------------

SPEAKER = """
def speak(request):
    text = request.messages[-1].content
    better = "A" if text.index("GOOD") < text.index("BAD") else "B"
    return f"Some reasons. [[{better}]]"
"""


@pytest.fixture
def judged(working_folder: Path) -> Path:
    """A run by votes under a constitution: several questions, both orders, drawn principles."""
    (working_folder / "voice.py").write_text(SPEAKER)
    rows = [
        {"prompt": f"question {i} {{braces}}", "response_a": f"GOOD {i}", "response_b": f"BAD {i}"} for i in range(8)
    ]
    write_jsonl(working_folder / "pairs.jsonl", rows)
    write_judge("mine", protocol="pairwise-votes", sampling={"temperature": 1.0})
    run_cli(
        working_folder, "judge", "mine", "pairs.jsonl", "--model", "scripted:voice:speak", "--constitution",
        "harmless-helpful", "--out", "run",
    )  # fmt: skip
    return working_folder


def every_key(folder: Path) -> list[str]:
    return [key for row in RunFolder(folder / "run").read("judgements") for key in row.reply_keys]


def test_every_reply_of_a_run_leads_to_the_very_prompt_that_was_sent(judged: Path, path: Path) -> None:
    keys = every_key(judged)
    assert len(keys) == 8 * 2 * 3  # three votes settle it
    with Reader(path) as reader:
        for key in keys:
            request = asyncio.run(request_of(reader.entry(key), Path("run"), reader))
            assert not isinstance(request, str), request
            assert "GOOD" in request.messages[-1].content


def test_the_prompt_is_shown_from_the_runs_own_copies_after_an_edit(judged: Path, rlaif: Rlaif) -> None:
    write_judge("mine", protocol="pairwise-votes", sampling={"temperature": 1.0}, rubric=None)
    first = next(iter(RunFolder(judged / "run").read("judgements")))
    for arguments in (("run",), ("--run", "run"), (".rlaif/ledger.sqlite", "--run", "run")):
        said = rlaif("ledger", "show", first.reply_keys[2][:12], *arguments)
        assert said.code == 0, said.err
        reply, _, prompt = said.out.partition("=== system")
        assert f"judge      {first.labeller}" in reply
        assert f"principle  {first.principle_id}" in reply
        assert f"comparison {first.comparison_id}" in reply
        assert "question   2" in reply
        assert "=== reply\nSome reasons. [[" in reply
        assert "question 0 {braces}" in prompt
        assert prompt.rstrip().endswith("=== sampling seed 0, sample 2")


def test_a_run_folder_alone_shows_its_first_replies(judged: Path, rlaif: Rlaif) -> None:
    keys = every_key(judged)
    said = rlaif("ledger", "show", "run").out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("key  ")] == keys[:2]
    assert said.count("=== reply\nSome reasons. [[") == said.count("=== system") == 2
    assert rlaif("ledger", "show", "run", "--count", "3").out.count("=== reply\n") == 3
    rlaif("judge", "longest", "pairs.jsonl", "--out", "rule")
    assert rlaif("ledger", "show", "rule").err == "rlaif: rule: it has no judgements that point to a model's reply.\n"
    named = RunFolder(judged / "run").id
    assert f"run {named}, run: {len(keys)} replies" in rlaif("ledger", "info", "run").out


def test_a_prompt_that_cannot_be_rendered_again_is_not_made_up(judged: Path, path: Path, rlaif: Rlaif) -> None:
    key = every_key(judged)[0]
    (judged / "voice.py").write_text(SPEAKER.replace("Some reasons.", "Other reasons."))
    text = run_cli(judged, "ledger", "show", key, "run")  # a process of its own: the module is read anew
    assert "=== prompt: rendered again as judge:mine@" in text
    assert "it has another key" in text
    assert "=== system" not in text
    write_jsonl(judged / "other.jsonl", [{"prompt": "q", "response_a": "x", "response_b": "y"}])
    run_cli(judged, "judge", "longest", "other.jsonl", "--out", "other")
    assert "other has no comparison c-" in rlaif("ledger", "show", key, "--run", "other").out


def test_a_sample_leads_to_its_prompt(working_folder: Path, path: Path, policy_folder: Path) -> None:
    prompts = write_jsonl(working_folder / "prompts.jsonl", [{"prompt": f"how long is way {i}"} for i in range(3)])
    run_cli(
        working_folder, "sample", str(prompts), "--model", str(policy_folder), "--samples", "2", "--out", "run",
        "--set", "responses.sampling.max_output_tokens=4", "--set", "seed=5",
    )  # fmt: skip
    with Reader(path) as reader:
        assert info(reader).runs[0].replies == 6
        for row in reader.rows("SELECT key FROM replies"):
            entry = reader.entry(row[0].hex())
            request = asyncio.run(request_of(entry, Path("run"), reader))
            assert not isinstance(request, str), request
            assert request.messages[-1].content.startswith("how long is way")
            assert request.seed == 5


def test_check_with_a_run_finds_replies_that_are_gone_and_requests_that_are_others(
    judged: Path,
    path: Path,
    rlaif: Rlaif,
) -> None:
    assert rlaif("ledger", "check", "run").out == "48 replies, 16 judgements checked: sound\n"
    keys = every_key(judged)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM replies WHERE key = ?", (bytes.fromhex(keys[-1]),))
        db.commit()
    said = rlaif("ledger", "check", "--run", "run")
    assert said.code == 1
    assert said.out.splitlines()[1] == f"{1:>9,} × a judgement whose reply is not there (first: {keys[-1]})"
    (judged / "voice.py").write_text(SPEAKER.replace("Some", "Other"))
    (judged / "log").unlink()
    process = start_cli(judged, "ledger", "check", "run")
    process.join(60)
    assert process.exitcode == 1
    assert "47 × a judgement whose request, rendered again, has another key" in (judged / "log").read_text()


# --- check ------------------------------------------------------------------------------------------------------------

REPLY = "UPDATE replies SET {} WHERE key = ?"
DAMAGE = {
    "a reply that cannot be read": REPLY.format("reply = '{\"text\": 1'"),
    "a key that is none of a request": REPLY.format("key = 'k'"),
    "a context that cannot be read": REPLY.format("about = '{'"),
    "tokens that are not those of the reply": REPLY.format("prompt_tokens = 11"),
    "a cost, time or number of tokens that is none": REPLY.format("seconds = -1"),
    "a number of attempts that is none": REPLY.format("attempts = 0"),
    "a date in the future, or none": REPLY.format("created = 1e11"),
    "a reply of a model that is not known": REPLY.format("asker = 99"),
    "a run whose money is not what its replies cost": "UPDATE purses SET spent_usd = 0.76 WHERE ? != ''",
    "money of a run that is no amount": "UPDATE purses SET lost_usd = -1.0 WHERE run = 'aaaa1111' AND ? != ''",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_check_names_what_is_wrong_counts_it_and_ends_with_1(
    path: Path,
    keys: list[str],
    what: str,
    rlaif: Rlaif,
) -> None:
    assert rlaif("ledger", "check").out == "4 replies checked: sound\n"
    with closing(sqlite3.connect(path)) as db:
        value = bytes.fromhex(keys[3]) if "replies SET" in DAMAGE[what] else "x"
        db.execute(DAMAGE[what], (value,))
        db.commit()
    said = rlaif("ledger", "check")
    assert said.code == 1
    assert f" × {what} (first: " in said.out


def test_check_finds_a_damaged_file(path: Path, working_folder: Path, rlaif: Rlaif) -> None:
    fill(path, [("m", "", None, START + number) for number in range(300)])
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_replies_1'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * size + size // 2)
        file.write(b"\xff" * (size // 2))
    said = rlaif("ledger", "check")
    assert said.code != 0
    assert "damaged" in said.text or "malformed" in said.text


def test_claims_of_the_dead_are_a_note_and_no_fault(path: Path, keys: list[str], rlaif: Rlaif) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO owners VALUES ('elsewhere:7:abc', 1.0)")
        db.executemany("INSERT INTO claims VALUES (?, 'elsewhere:7:abc')", [("x",), ("y",)])
        db.commit()
    said = rlaif("ledger", "check")
    assert (said.code, said.out.splitlines()[1]) == (
        0,
        "note: 2 requests are claimed by processes that are gone; the next run frees them",
    )


# --- export -----------------------------------------------------------------------------------------------------------


def test_an_export_holds_every_selected_reply_whole(path: Path, working_folder: Path, rlaif: Rlaif) -> None:
    ledger = Ledger(path)
    reply = Reply(
        text='naïve "\n', finish_reason="length", logprobs=(("A", -0.5), ("B", float("-inf"))), token_ids=(1, 2),
        prompt_tokens=3, output_tokens=2, cached_tokens=1, served_by="gpt-x",
    )  # fmt: skip
    context = '{"asker":{"judge":"j","principle":null},"comparison":"c-1","shown":[1,0]}'
    key = digest("k")
    ledger.put([Entry(key, "openai:gpt", reply, context, 0.5, 1.5, 2, START, "r")])
    ledger.close()
    expected: dict[str, Any] = {
        "key": key, "model": "openai:gpt", "run": "r", "created": "2023-11-14 22:13:20Z", "context": json.loads(context),
        "text": 'naïve "\n', "finish_reason": "length",
        "logprobs": [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": float("-inf")}], "token_ids": [1, 2],
        "prompt_tokens": 3, "output_tokens": 2, "cached_tokens": 1, "attempts": 2, "served_by": "gpt-x",
        "cost_usd": 0.5, "seconds": 1.5,
    }  # fmt: skip
    assert rlaif("ledger", "export", "out.jsonl").out == "out.jsonl: 1 replies\n"
    assert json.loads((working_folder / "out.jsonl").read_text()) == expected
    assert rlaif("ledger", "export", "out.parquet", ".rlaif/ledger.sqlite").code == 0
    assert pq.read_table(working_folder / "out.parquet").to_pylist() == [{**expected, "context": context}]


SELECTIONS: dict[str, tuple[dict[str, str], list[int]]] = {
    "all": ({}, [0, 1, 2, 3]),
    "a model": ({"model": "openai:gpt"}, [0, 1, 2]),
    "a model without its provider": ({"model": "gpt"}, [0, 1, 2]),
    "a model by its folder": ({"model": "Qwen"}, [3]),
    "a run": ({"run": "aaaa2222"}, [2, 3]),
    "a run by the beginning of its id": ({"run": "aaaa1"}, [0, 1]),
    "from a day on": ({"since": "2024-11-13"}, [1, 2, 3]),
    "before a moment": ({"before": "2024-11-13T22:13:20"}, [0]),
    "days ago": ({"before": "1d"}, [0, 1, 2, 3]),
    "together": ({"model": "gpt", "run": "aaaa2222", "since": "2024-01-01", "before": "2026-01-01"}, [2]),
}


@pytest.mark.parametrize(("chosen", "expected"), SELECTIONS.values(), ids=SELECTIONS)
def test_replies_are_chosen_by_model_run_and_date(
    reader: Reader, keys: list[str], chosen: dict[str, str], expected: list[int]
) -> None:
    export(reader, Path("out.jsonl"), selected(reader, **chosen))
    assert [json.loads(line)["key"] for line in Path("out.jsonl").read_text().splitlines()] == [
        keys[number] for number in expected
    ]


def test_what_cannot_be_chosen_is_said(reader: Reader) -> None:
    cases = {
        ("model", "openai:gtp"): '--model openai:gtp: no model is called so. Did you mean "openai:gpt"?',
        ("run", "aaaa"): "--of-run aaaa: several are meant by that: aaaa1111, aaaa2222.",
        ("run", "b"): "--of-run b: no run folder, and no run's id begins so. Known: aaaa1111, aaaa2222.",
        ("since", "yesterday"): "yesterday: not a date: 2026-01-31, 2026-01-31T12:00 or 30d (days ago).",
    }
    for (name, value), words in cases.items():
        with pytest.raises(UserError) as raised:
            selected(reader, **{name: value})
        assert str(raised.value) == words


def test_a_date_is_utc_unless_it_says_otherwise() -> None:
    assert moment("2023-11-14T22:13:20") == START
    assert moment("2023-11-14T23:13:20+01:00") == START


def test_an_export_does_not_hold_the_ledger_in_memory(path: Path, working_folder: Path) -> None:
    ledger = Ledger(path)

    def more(first: int, count: int) -> None:
        ledger.put([Entry(digest(n), "m", Reply(text="x" * 2000), created=START) for n in range(first, first + count)])

    def peak() -> int:
        with Reader(path) as reader:
            tracemalloc.start()
            export(reader, working_folder / "out.jsonl", Selection())
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    more(0, 500)
    peak()  # what is imported at first use
    small = peak()
    more(500, 4500)
    assert peak() < 2 * small + 1_000_000  # ten times the rows: 10 MB of text
    ledger.close()


# --- prune ------------------------------------------------------------------------------------------------------------


def there(path: Path) -> set[str]:
    with Reader(path) as reader:
        return {row[0].hex() for row in reader.rows("SELECT key FROM replies")}


def test_nothing_is_deleted_without_yes(path: Path, keys: list[str], rlaif: Rlaif) -> None:
    for last in ((), ("--dry-run",), ("--yes", "--dry-run")):
        said = rlaif("ledger", "prune", "--model", "gpt", "--used-too", *last)
        assert said.out.splitlines() == [
            "3 replies that cost 0.8750 USD would be deleted",
            f"{'':<4}{2:>9,} × model openai:gpt, run aaaa1111",
            f"{'':<4}{1:>9,} × model openai:gpt, run aaaa2222",
            "nothing was deleted: --yes does it",
        ]
        assert there(path) == set(keys)


def test_what_is_deleted_is_what_was_said_and_the_money_still_adds_up(
    path: Path,
    rlaif: Rlaif,
) -> None:
    keys = fill(path, [*ROWS, *(("models/Qwen", "aaaa1111", None, START) for _ in range(500))])
    size = path.stat().st_size
    said = rlaif("ledger", "prune", "--of-run", "aaaa1111", "--before", "2024-01-01", "--used-too", "--yes")
    assert said.code == 0
    assert said.out.startswith("501 replies that cost 0.2500 USD deleted\n")
    assert said.out.splitlines()[-1] == f"{(size - path.stat().st_size) / 1e6:,.2f} MB freed"
    assert path.stat().st_size < size / 2
    assert there(path) == set(keys[1:4])
    assert rlaif("ledger", "check").code == 0
    assert "run aaaa1111: 1 replies, 0.7500 USD; 0.2500 of it for replies pruned since" in rlaif("ledger", "info").out
    ledger = Ledger(path)
    assert ledger.open_purse("aaaa1111") == 0.75  # a budget counts what was spent, kept or not
    ledger.put([Entry(digest("new"), "openai:gpt", Reply(), run="aaaa1111", cost_usd=0.5)])
    ledger.close()
    assert rlaif("ledger", "check").code == 0


def test_what_a_named_run_points_to_stays(judged: Path, path: Path, rlaif: Rlaif) -> None:
    ledger = Ledger(path)
    ledger.put([Entry(digest("other"), "m", Reply(), '{"sample":"p-0","index":0}')])
    ledger.close()
    said = rlaif("ledger", "prune", "--keep", "run", "--yes")
    assert said.out.splitlines()[0] == "1 replies deleted; 48 that the named runs point to stay"
    assert there(path) == set(every_key(judged))
    assert rlaif("ledger", "check", "run").code == 0
    assert rlaif("reread", "run").code == 0


def test_superseded_judgements_and_samples_of_a_named_run_stay_too(
    working_folder: Path,
    path: Path,
    policy_folder: Path,
    rlaif: Rlaif,
) -> None:
    prompts = write_jsonl(working_folder / "prompts.jsonl", [{"prompt": f"how long is way {i}"} for i in range(3)])
    (working_folder / "voice.py").write_text("def speak(request):\n    return '[[A]]'\n")
    run_cli(
        working_folder, "sample", str(prompts), "--model", str(policy_folder), "--samples", "2", "--out", "run",
        "--set", "responses.sampling.max_output_tokens=4",
    )  # fmt: skip
    judge = ("judge", "compare-text", "--model", "scripted:voice:speak", "--out", "run")
    run_cli(working_folder, *judge)
    run_cli(working_folder, *judge, "--constitution", "concise")
    whole = there(path)
    assert len(whole) == 6 + 2 * 2 * len(list(RunFolder(Path("run")).read("comparisons")))
    said = rlaif("ledger", "prune", "--keep", "run", "--yes")
    assert said.out == f"0 replies deleted; {len(whole)} that the named runs point to stay\n"
    assert there(path) == whole


def test_prune_wants_to_be_told_what_and_what_to_keep(keys: list[str], rlaif: Rlaif) -> None:
    which = "rlaif: prune: say which replies: --model, --of-run, --before, or --keep RUN."
    assert rlaif("ledger", "prune", "--yes").line == which
    assert rlaif("ledger", "prune", "--used-too", "--yes").line == which
    told = rlaif("ledger", "prune", "--model", "gpt", "--yes").line
    assert told.startswith(
        "rlaif: prune: name the run folders that are still needed, --keep RUN for each, or say --used-too"
    )
    assert rlaif("ledger", "prune", "--keep", "gone", "--yes").line == (
        "rlaif: gone: not a run folder (it has no manifest.json)."
    )


def test_prune_waits_for_who_is_asking(path: Path, keys: list[str]) -> None:
    ledger = Ledger(path)
    ledger.claim(["x"], 60)
    with pytest.raises(UserError, match=f"process {os.getpid()} is asking models now"):
        prune(path, Selection(), None, dry_run=False)
    assert there(path) == set(keys)
    ledger.close()
    assert prune(path, Selection(), None, dry_run=False).replies == 4


# --- what is no ledger, or cannot be used -----------------------------------------------------------------------------


def _other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE shops (name TEXT)")


def _newer(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE meta SET value = '99'")
        db.commit()


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: None, "l.sqlite: there is no ledger here. Name a ledger's file or a run folder."),
    "text": (
        lambda path: path.write_text("no database " * 99),
        "l.sqlite: the ledger cannot be read: file is not a database.",
    ),
    "an empty file": (lambda path: path.write_text(""), "l.sqlite: a database, and not a ledger of replies."),
    "another database": (_other_database, "l.sqlite: a database, and not a ledger of replies."),
    "a newer one": (
        _newer,
        "l.sqlite: ledger format 99, this version reads up to 3. A newer rlaif wrote it: upgrade rlaif to read it.",
    ),
    "a folder that is no run": (lambda path: path.mkdir(), "l.sqlite: not a run folder (it has no manifest.json)."),
}
COMMANDS = {
    "info": ("l.sqlite",),
    "show": ("ab", "l.sqlite"),
    "export": ("x.jsonl", "l.sqlite"),
    "prune": ("l.sqlite", "--before", "1d", "--used-too", "--yes"),
    "check": ("l.sqlite",),
}


@pytest.mark.parametrize("row", WRONG)
def test_what_is_no_ledger_is_one_line_for_every_command(working_folder: Path, row: str, rlaif: Rlaif) -> None:
    spoil, words = WRONG[row]
    spoil(working_folder / "l.sqlite")
    before = sorted(working_folder.iterdir())
    for command, arguments in COMMANDS.items():
        said = rlaif("ledger", command, *arguments)
        assert (said.code, said.line) == (2, f"rlaif: {words}")
    assert [path for path in sorted(working_folder.iterdir()) if not path.name.endswith(("-wal", "-shm"))] == before


def test_without_a_ledger_in_the_folder_none_is_made(working_folder: Path, rlaif: Rlaif) -> None:
    assert rlaif("ledger", "info").line == (
        "rlaif: .rlaif/ledger.sqlite: there is no ledger here. Name one, or go to the folder that has one."
    )
    assert not list(working_folder.iterdir())


def test_a_run_folder_whose_ledger_is_gone_is_said(judged: Path, path: Path, rlaif: Rlaif) -> None:
    assert rlaif("ledger", "info", "run").out.startswith(".rlaif/ledger.sqlite: ")
    path.unlink()
    assert rlaif("ledger", "info", "run").line == "rlaif: run: its ledger is not there (any more). Name the file."
    assert rlaif("ledger", "show", "ab", "--run", "nowhere").line.startswith("rlaif: nowhere: there is no ledger here.")


def test_an_older_ledger_is_brought_up_to_date_and_read(path: Path, rlaif: Rlaif) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_FORMAT)
    assert rlaif("ledger", "info").out.startswith(".rlaif/ledger.sqlite: format 3, ")


def test_a_ledger_that_another_process_holds_is_said(path: Path, keys: list[str]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # it writes: reading goes on
        with Reader(path, wait_seconds=0.05) as reader:
            assert info(reader).replies == 4
        with pytest.raises(StorageError, match=r"cannot be pruned: database is locked. Another process holds it"):
            prune(path, Selection(), None, dry_run=False, wait_seconds=0.05)
        other.execute("ROLLBACK")
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"cannot be read: database is locked. Another process holds it"):
            Reader(path, wait_seconds=0.05)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_ledger_that_cannot_be_written_can_be_read(path: Path, keys: list[str], rlaif: Rlaif) -> None:
    path.chmod(0o400)
    assert rlaif("ledger", "info").code == 0
    said = rlaif("ledger", "prune", "--model", "gpt", "--used-too", "--yes")
    assert (said.code, "cannot be pruned: attempt to write a readonly database" in said.line) == (2, True)


def test_a_file_to_export_to_is_checked(path: Path, keys: list[str], rlaif: Rlaif) -> None:
    assert rlaif("ledger", "export", "out.csv").line == "rlaif: out.csv: the name of a file ends in .jsonl or .parquet."
    assert rlaif("ledger", "export", "no/such/../../out.jsonl").code == 0
