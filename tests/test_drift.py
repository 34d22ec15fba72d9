"""A hosted model that changes under its name is noticed where old replies would be used beside new ones."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rlaif.judging import Verdict
from rlaif.labels.drift import Drift
from tests.runs import rlaif
from tests.test_api_runs import judge, pairs, server
from tests.tiny import write_jsonl

SAID = "answers otherwise than on"


def labelled_yesterday(folder: Path, url: str) -> None:
    """Forty pairs are judged, a day passes, and twenty more join their file."""
    pairs(folder, 60)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    write_jsonl(folder / "pairs.jsonl", rows[:40])
    rlaif(folder, *judge(url))
    with closing(sqlite3.connect(folder / ".rlaif" / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE replies SET created = created - 86400")
    write_jsonl(folder / "pairs.jsonl", rows)
    (folder / "log").unlink()


@pytest.mark.parametrize("changed", [False, True])
def test_a_model_that_changed_is_noticed_and_one_that_did_not_is_not(tmp_path: Path, changed: bool) -> None:
    folder = tmp_path / "a"
    with server(latency="1ms", skill=0.2) as running:
        url, port = running.url, int(running.url.rpartition(":")[2])
        labelled_yesterday(folder, url)
    with server(latency="1ms", skill=0.2, seed=int(changed), port=port) as running:
        said = rlaif(folder, *judge(url)[:-1], "again")
        answered = running.stats()["answered"]
        assert answered == 2 * 20 + 8  # what is new, and eight questions again
        rlaif(folder, *judge(url)[:-1], "third", "--set", "seed=3", "--set", "shard_rows=50")
        assert running.stats()["answered"] == answered  # once a day
    assert (SAID in said) == changed, said
    notes = folder / "again" / "notes.json"
    assert (notes.is_file() and SAID in notes.read_text()) == changed


def test_probes_can_be_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with server(latency="1ms") as running:
        labelled_yesterday(folder, running.url)
        before = running.stats()["answered"]
        rlaif(folder, *judge(running.url)[:-1], "again", "--set", "labels.options.drift_probes=0")
        assert running.stats()["answered"] == before + 40


def test_a_model_that_is_asked_in_jobs_is_not_probed(tmp_path: Path) -> None:
    """Each probe would be a job of its own, of up to a day."""
    folder = tmp_path / "a"
    with server(latency="1ms", batch_seconds=0.2) as running:
        labelled_yesterday(folder, running.url)
        said = rlaif(folder, *judge(running.url, batch={"poll_seconds": 0.2})[:-1], "again")
    assert said.count("is submitted") == 1


@pytest.mark.parametrize(
    ("before", "now", "noticed"),
    [
        ([1.0] * 8, [1.0] * 8, False),
        ([1.0] * 8, [1.0] * 6 + [0.0] * 2, False),  # two of eight may be near-ties that a server's batching turned
        ([1.0] * 8, [1.0] * 5 + [0.0] * 3, True),
        ([1.0] * 3, [0.0] * 3, False),  # too few to say
        ([0.9] * 8, [0.75] * 8, True),  # the same side, and surely another model
        ([0.9] * 8, [0.85] * 8, False),
        ([1.0] * 8, [1.0] * 5 + [None] * 3, True),
        ([None] * 8, [None] * 8, False),
    ],
)
def test_what_counts_as_a_change(before: list[float | None], now: list[float | None], noticed: bool) -> None:
    def verdicts(ps: list[float | None]) -> list[Verdict]:
        return [Verdict(reason="no verdict") if p is None else Verdict(p=(p, 1 - p)) for p in ps]

    assert (Drift("m", 0.0, verdicts(before), verdicts(now)).line() is not None) == noticed


def test_rankings_that_change_are_a_change() -> None:
    one, other = Verdict(ranking=((0,), (1, 2))), Verdict(ranking=((1,), (0, 2)))
    assert Drift("m", 0.0, [one] * 8, [one] * 8).line() is None
    assert "8 verdicts are others now" in (Drift("m", 0.0, [one] * 8, [other] * 8).line() or "")
