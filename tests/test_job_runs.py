"""Whole runs through the providers' batch APIs: the labels that calls would bring, whatever fails, is killed or stopped on
the way, and nothing is paid twice. The server is the shipped one, in a process of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif.store import RunFolder
from tests.conftest import slow
from tests.runs import kill_when, ledger_rows, rlaif
from tests.runs import start as start_cli
from tests.test_api_runs import accounts, pairs, server
from tests.test_judging import write_judge
from tests.tiny import write_jsonl

PROVIDERS = ("openai", "anthropic")
BATCH = {"poll_seconds": 0.1}


def judge(url: str, provider: str, name: str = "compare-text", out: str = "run", **options: Any) -> list[str]:
    """What labels the pairs by a judge at ``url``."""
    base_url = f"{url}/v1" if provider == "openai" else url
    model = {"provider": provider, "model": "mock-judge", "options": {"base_url": base_url, **options}}
    return ["judge", name, "pairs.jsonl", "--set", f"models.judge={json.dumps(model)}", "--out", out]


def opinions(run: Path) -> list[Any]:
    """What a run's judgements say, whoever gave them."""
    found = RunFolder(run).read("judgements")
    return [(row.comparison_id, row.shown, row.outcome, row.ranking, row.p) for row in found]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The opinions that calls bring on 300 pairs."""
    folder = pairs(tmp_path_factory.mktemp("called") / "a", 300)
    with server() as running:
        rlaif(folder, *judge(running.url, "openai"))
    return opinions(folder / "run")


def test_by_calls_and_by_jobs_of_either_provider_the_labels_are_the_same(tmp_path: Path, called: list[Any]) -> None:
    with server(batch_seconds=0.2) as running:
        rlaif(pairs(tmp_path / "a", 300), *judge(running.url, "anthropic"))
        assert running.stats()["answered"] == 600
        for provider in PROVIDERS:
            running.reset()
            said = rlaif(pairs(tmp_path / provider, 300), *judge(running.url, provider, batch=BATCH))
            stats = running.stats()
            assert (stats["batch"]["lines"], stats["answered"]) == ({"succeeded": 600}, 0)
            assert "is submitted: 600 requests." in said
            assert "600 asked, 0 from the ledger, 0 failed" in said
    assert {outcome for _, _, outcome, _, _ in called} == {"ranked"}
    assert opinions(tmp_path / "a" / "run") == called
    assert opinions(tmp_path / "openai" / "run") == called
    assert opinions(tmp_path / "anthropic" / "run") == called


@pytest.mark.parametrize("provider", PROVIDERS)
def test_lines_that_fail_and_expire_are_asked_again_and_all_is_labelled(
    provider: str, tmp_path: Path, called: list[Any]
) -> None:
    folder = pairs(tmp_path / "a", 300)
    with server(batch_seconds=0.1, fault=("batch-failed=0.1", "batch-expired=0.1")) as running:
        said = rlaif(folder, *judge(running.url, provider, batch=BATCH, attempts=20))
        stats = running.stats()["batch"]
    assert accounts(folder)["judgements"]["outcomes"] == {"ranked": 600}
    assert opinions(folder / "run") == called
    assert stats["lines"]["succeeded"] == 600
    assert stats["repeats"] == 0
    assert stats["lines"]["errored"] > 0 < stats["lines"]["expired"]
    assert "attempts that failed:" in said


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_share_of_votes_by_jobs_is_within_binomial_error_of_the_log_probability(
    provider: str, tmp_path: Path
) -> None:
    """A judge without opinions of its own (skill 1), which would hang on the words of its instructions."""
    n = 150
    marks = [(0.5, 0.45), (0.55, 0.4), (0.3, 0.5)]
    rows = [{"prompt": f"q{a}", "response_a": f"quality={a}", "response_b": f"quality={b}"} for a, b in marks]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    letters = {"template": "compare-two-letter", "choices": ["A", "B"]}
    poll = {**letters, "votes": n, "early_stop": False, "tie": None}
    write_judge("polled", protocol="pairwise-votes", options=poll, sampling={"temperature": 1.0})
    with server(skill=1, batch_seconds=0.1) as running:
        rlaif(tmp_path, *judge(running.url, provider, "polled", "votes", batch=BATCH))
        assert running.stats()["batch"]["lines"] == {"succeeded": 2 * len(marks) * n}
        rlaif(tmp_path, *judge(running.url, "openai", "compare-logprobs-api", "logprobs"))
    by_votes, by_logprobs = (list(RunFolder(tmp_path / run).read("judgements")) for run in ("votes", "logprobs"))
    assert len(by_votes) == len(by_logprobs) == 2 * len(marks)
    for sampled, measured in zip(by_votes, by_logprobs, strict=True):
        p, share = first_of(measured), first_of(sampled)
        assert 0.1 < p < 0.9
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def first_of(judgement: Any) -> float:
    """The probability that what was shown first is better."""
    place = next(i for i, group in enumerate(judgement.ranking) if judgement.shown[0] in group)
    return float(judgement.p[place])


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def jobs_in(folder: Path, which: str) -> int:
    """Jobs in the ledger's table of which something holds; 0 where there is no ledger yet."""
    path = folder / ".rlaif" / "ledger.sqlite"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as ledger:
            return int(ledger.execute(f"SELECT count(*) FROM jobs WHERE {which}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


Point = Callable[[Path, Any], bool]
POINTS: dict[str, tuple[Point, tuple[str, ...]]] = {
    "written down": (lambda folder, _: jobs_in(folder, "name IS NULL") > 0, ("slow=1",)),
    "accepted and not heard of": (
        lambda folder, running: bool(running.stats()["batch"]["lines"]) and jobs_in(folder, "name IS NULL") > 0,
        ("slow=1",),
    ),
    "under way": (lambda folder, _: jobs_in(folder, "name IS NOT NULL") > 0, ()),
    "being fetched": (lambda folder, _: 0 < ledger_rows(folder) < 600, ("drip=1",)),
}


@pytest.mark.parametrize("provider", [PROVIDERS[0], slow(PROVIDERS[1])])
@pytest.mark.parametrize("point", POINTS, ids=lambda name: name.replace(" ", "-"))
def test_killed_and_run_again_nothing_is_lost_and_nothing_paid_twice(
    point: str, provider: str, tmp_path: Path, called: list[Any]
) -> None:
    reached, faults = POINTS[point]
    folder = pairs(tmp_path / "a", 300)
    with server(batch_seconds=0.5, fault=faults, fault_seconds=0.7) as running:
        asking = judge(running.url, provider, batch=BATCH)
        killed = kill_when(start_cli(folder, *asking), lambda: reached(folder, running))
        assert killed, "the run ended before it could be killed"
        rlaif(folder, *asking)
        stats = running.stats()["batch"]
    assert opinions(folder / "run") == called
    assert (stats["lines"], stats["repeats"]) == ({"succeeded": 600}, 0)
    assert jobs_in(folder, "ended IS NULL") == 0
    assert ledger_rows(folder, "job_lines") == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ctrl_c_leaves_the_job_at_the_provider_and_says_so(provider: str, tmp_path: Path, called: list[Any]) -> None:
    folder = pairs(tmp_path / "a", 300)
    with server(batch_seconds=1.0) as running:
        asking = judge(running.url, provider, batch=BATCH)
        process = start_cli(folder, *asking)
        while not jobs_in(folder, "name IS NOT NULL"):
            assert process.exitcode is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
        text = (folder / "log").read_text()
        assert f"note: {provider}:mock-judge: 600 requests go on at the provider, in " in text
        assert "interrupted: finished work is kept" in text
        again = rlaif(folder, *asking)
        assert "600 requests are in it and are waited for, not asked again." in again
        assert "600 by batch jobs, 600 of them in jobs of an earlier run" in again
        stats = running.stats()["batch"]
        assert (stats["lines"], stats["repeats"]) == ({"succeeded": 600}, 0)
    assert opinions(folder / "run") == called
