"""Whole runs with a judge behind an API that misbehaves: every comparison ends as one recorded outcome, nothing is paid
twice, and a killed run goes on where it was. The server is the shipped one, in a process of its own."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlaif.mock import MockOptions, start
from tests.conftest import slow
from tests.runs import kill_when, ledger_rows, rlaif, stage_files
from tests.runs import start as start_cli
from tests.tiny import write_jsonl

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "then",
    "it",
    "sleeps",
    "in",
    "the",
    "warm",
    "sun",
    "for",
    "hours",
]
FAULTS = ("429=0.05", "500=0.02", "reset=0.01", "malformed=0.01")


@contextmanager
def server(**options: Any) -> Iterator[Any]:
    with start(MockOptions(**options)) as running:
        yield running


def pairs(folder: Path, count: int) -> Path:
    """A folder with so many pairs of different replies."""
    rng = random.Random(count)
    folder.mkdir(exist_ok=True)
    write_jsonl(
        folder / "pairs.jsonl",
        [
            {
                "prompt": f"Question {i}: what does {rng.choice(WORDS)} mean?",
                "response_a": " ".join(rng.choices(WORDS, k=12)) + f" a{i}",
                "response_b": " ".join(rng.choices(WORDS, k=12)) + f" b{i}",
            }
            for i in range(count)
        ],
    )
    return folder


def judge(url: str, **options: Any) -> list[str]:
    """What labels the pairs by a judge at ``url``."""
    model = {"provider": "openai", "model": "mock-judge", "options": {"base_url": f"{url}/v1", **options}}
    return ["judge", "compare-text", "pairs.jsonl", "--set", f"models.judge={json.dumps(model)}", "--out", "run"]


def accounts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run" / "accounts.json").read_text()))


def test_through_refusals_errors_resets_and_garbage_every_comparison_is_labelled(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "a", 400)
    with server(fault=FAULTS, retry_after=0.3, latency="5ms") as running:
        said = rlaif(folder, *judge(running.url))
        stats = running.stats()
    outcomes = accounts(folder)["judgements"]["outcomes"]
    assert outcomes == {"ranked": 800}
    assert stats["answered"] == 800
    assert stats["repeats"] == 0  # no answer that arrived was asked for again
    assert all(stats["by_fault"][name.partition("=")[0]] > 0 for name in FAULTS)
    assert "attempts that failed:" in said


def test_what_one_item_meets_costs_no_other(tmp_path: Path) -> None:
    """Faults that asking again does not mend are the outcome of their own showing only."""
    folder = pairs(tmp_path / "a", 150)
    shares = ("content-filter=0.04", "neither=0.04", "length=0.04", "refusal=0.04")
    with server(fault=shares, latency="2ms") as running:
        rlaif(folder, *judge(running.url), "--set", "failure_tolerance=1")
    account = accounts(folder)["judgements"]
    assert sum(account["outcomes"].values()) == account["in"] == 300
    assert account["outcomes"]["ranked"] > 220
    assert account["outcomes"]["refused"] > 0
    assert account["outcomes"]["unreadable"] > 0
    preferences = accounts(folder)["preferences"]
    assert sum(preferences["outcomes"].values()) == preferences["in"] == 150


def test_a_key_that_expires_ends_the_run_with_a_line_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "a", 300)
    with server(key_expires_after=250, latency="2ms") as running:
        process = start_cli(folder, *judge(running.url))
        process.join(60)
        assert process.exitcode not in (0, None)
        text = (folder / "log").read_text()
        assert "401" in text
        assert "Traceback" not in text
        answered = running.stats()["answered"]
    with server(latency="2ms") as running:
        rlaif(folder, *judge(running.url))
        assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 600}
        assert running.stats()["answered"] >= 600 - answered


def test_a_server_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "a", 300)
    with server(latency="5ms") as running:
        port = int(running.url.rpartition(":")[2])
        process = start_cli(folder, *judge(running.url, patience_seconds=60))
        assert not kill_after_replies(folder, process, 100)
    with server(latency="5ms", port=port):
        process.join(60)
    assert process.exitcode == 0, (folder / "log").read_text()
    assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 600}


def kill_after_replies(folder: Path, process: Any, count: int) -> bool:
    """Wait for so many replies in the ledger; whether the process has ended before."""
    while ledger_rows(folder) < count:
        if process.exitcode is not None:
            return True
    return False


def test_a_server_that_always_fails_ends_the_run_in_its_time_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "a", 100)
    with server(fault=("503=1.0",)) as running:
        process = start_cli(folder, *judge(running.url, patience_seconds=1.5))
        process.join(60)
    assert process.exitcode not in (0, None)
    text = (folder / "log").read_text()
    assert "no answer for 1.5 s" in text or "503" in text
    assert "Traceback" not in text
    with server(latency="2ms") as running:
        rlaif(folder, *judge(running.url))
    assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 200}


@pytest.mark.parametrize("per_minute", [12_000])
def test_a_shared_limit_is_used_and_hardly_hit(tmp_path: Path, per_minute: int) -> None:
    """200 a second, where 64 in flight at 20 ms could make 3,200: the server's own count of who it turned away."""
    folder = pairs(tmp_path / "a", 600)
    with server(rpm=per_minute, limit_window_seconds=1, latency="20ms") as running:
        rlaif(folder, *judge(running.url, max_in_flight=64))
        stats = running.stats()
    assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 1200}
    assert stats["by_status"].get("429", 0) < 0.02 * 1200


# --- kill -9 ----------------------------------------------------------------------------------------------------------

Reached = Callable[[Path], bool]


def at_replies(count: int) -> Reached:
    return lambda folder: ledger_rows(folder) >= count


def at_start(folder: Path) -> bool:
    return (folder / "run" / "judgements").is_dir() or ledger_rows(folder, "claims") > 0


def while_writing(folder: Path) -> bool:
    return any((folder / "run" / "judgements").glob(".*.tmp"))


PHASES: list[tuple[str, Reached]] = [
    ("start", at_start),
    ("plateau", at_replies(900)),
    ("tail", at_replies(1960)),
    ("a shard being written", while_writing),
    ("first replies", at_replies(1)),
]
MANY = [
    (f"{name} {turn}", at_replies(40 * turn + 7) if name == "plateau" else reached)
    for turn in range(10)
    for name, reached in PHASES
]


def replies_of(folder: Path) -> set[tuple[bytes, float]]:
    """The key of every reply in the ledger, and when it came."""
    path = folder / ".rlaif" / "ledger.sqlite"
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as ledger:
        try:
            return set(ledger.execute("SELECT key, created FROM replies"))
        except sqlite3.OperationalError:  # killed before there was a table
            return set()


def killed_and_resumed(folder: Path, reached: Reached) -> None:
    """2,000 calls at 32 in flight, killed once: every label there, no reply lost that a caller had seen, and at most those in flight asked
    for twice, as the server saw them. A shard is written so fast that a run may end before it is caught at it: then
    another one is."""
    assert any(was_killed(folder / str(turn), reached) for turn in range(6))


def was_killed(folder: Path, reached: Reached) -> bool:
    """Whether the run could be killed where it should; then all else holds."""
    folder.parent.mkdir(exist_ok=True)
    folder = pairs(folder, 1000)
    in_flight = 32
    with server(latency="8ms") as running:
        rows = 4000 if reached is while_writing else 256  # one large shard is the longest to write
        command = [*judge(running.url, max_in_flight=in_flight), "--set", f"shard_rows={rows}"]
        if not kill_when(start_cli(folder, *command), lambda: reached(folder)):
            return False
        kept = replies_of(folder)
        rlaif(folder, *command)
        stats = running.stats()
    assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 2000}
    assert ledger_rows(folder) == 2000
    assert stats["repeats"] <= in_flight
    assert stats["answered"] <= 2000 + in_flight
    assert kept <= replies_of(folder)  # each as it was, asked once
    again = stage_files(folder / "run")
    rlaif(folder, *command)
    assert stage_files(folder / "run") == again
    return True


@pytest.mark.parametrize(
    ("phase", "reached"),
    [
        (slow if name in ("start", "tail") else pytest.param)(name, reached, id=name.replace(" ", "-"))
        for name, reached in PHASES
    ],
)
def test_a_killed_run_goes_on(tmp_path: Path, phase: str, reached: Reached) -> None:
    killed_and_resumed(tmp_path / "a", reached)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "reached"), MANY, ids=[name for name, _ in MANY])
def test_fifty_killed_runs_go_on(tmp_path: Path, phase: str, reached: Reached) -> None:
    killed_and_resumed(tmp_path / "a", reached)


# --- clocks -----------------------------------------------------------------------------------------------------------

JUMPING = """
import sys, time
from rlaif.ledger import Ledger
real, put, jump, stored = time.time, Ledger.put, float(sys.argv[1]), []
def putting(self, entries, **how):
    done = put(self, entries, **how)
    stored.append(len(entries))
    return done
Ledger.put, time.time = putting, lambda: real() + (jump if stored else 0.0)  # after the first replies are dated
sys.argv = ["rlaif", *sys.argv[2:]]
from rlaif.cli import main
main()
"""


@pytest.mark.parametrize("seconds", [86_400, -86_400])
def test_a_clock_that_jumps_in_mid_run_changes_nothing(tmp_path: Path, seconds: int) -> None:
    """Rates, delays and patience are of a clock that cannot be set; the other one only dates what is kept."""
    folder = pairs(tmp_path / "a", 200)
    faults = ("429=0.05", "500=0.02")
    with server(fault=faults, retry_after=0.2, rpm=60_000, limit_window_seconds=1, latency="5ms") as running:
        ran = subprocess.run(
            [sys.executable, "-c", JUMPING, str(seconds), *judge(running.url)], cwd=folder, timeout=60, capture_output=True, text=True
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert running.stats()["repeats"] == 0
        again = stage_files(folder / "run")
        rlaif(folder, *judge(running.url))  # from the ledger alone, whatever the dates
        assert stage_files(folder / "run") == again
        assert running.stats()["answered"] == 400
    assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 400}
    dates = sorted(created for _, created in replies_of(folder))
    assert dates[-1] - dates[0] > 80_000  # it did jump
