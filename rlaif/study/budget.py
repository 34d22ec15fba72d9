"""The money of a study: one budget for all its runs, whichever processes walk them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq

from rlaif.catalogue import Catalogue
from rlaif.ledger import Ledger
from rlaif.pipeline import Watcher
from rlaif.store import write_json
from rlaif.study.recipe import CONTESTS, SHARED, TRUTH, Study, recipe_of

POT = "pot.json"  # in a study's folder: the name that the ledger knows its budget by
WAIT_SECONDS = 0.1
AT_WORK = ".at-work"  # held by every process that walks a run of the study
JUDGED = ("evaluation/judgements", "*/judgements/*")  # verdicts on policies, in the folders of runs and of contests


async def opened_pot(study: Study, out: Path, watcher: Watcher) -> str:
    """The name of a study's budget. Waits for what processes of an earlier command still have under way; what calls of killed ones
    may have cost is spent."""
    with (out / AT_WORK).open("w") as lock:
        said = False
        while not _locked(lock):
            if not said:
                watcher.notice("Runs of an earlier command are coming to their end: waiting for them.")
            said = True
            await asyncio.sleep(WAIT_SECONDS)
    path = out / POT
    if not path.is_file():
        write_json(path, {"pot": f"study {uuid.uuid4().hex[:16]}"})
    if ledger := _ledger(study):
        ledger.settle_pot(_pot(out))
        ledger.close()
    return _pot(out)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def spent_of(study: Study, out: Path) -> float:
    """US dollars that all runs have spent."""
    if not (ledger := _ledger(study)):
        return 0.0
    spent, _ = ledger.others_usd("", _pot(out))
    ledger.close()
    return spent


def over_budget(study: Study, out: Path) -> bool:
    """Whether a run, or a contest, has something left to ask for which the budget has no room."""
    arms = [SHARED, *study.arms, *([TRUTH] if study.truth else [])]
    folders = [place / arm / f"seed{seed}" for place in (out, out / CONTESTS) for arm in arms for seed in study.seeds]
    return any("over budget" in outcomes for folder in folders for outcomes in _outcomes(folder))


def _outcomes(folder: Path) -> Iterator[set[str]]:
    accounts = folder / "accounts.json"
    for account in json.loads(accounts.read_text(encoding="utf-8")).values() if accounts.is_file() else ():
        yield set(account["outcomes"])
    for place in JUDGED:
        for shard in folder.glob(f"{place}/part-*.parquet"):
            yield set(pq.read_table(shard, columns=["outcome"])["outcome"].to_pylist())


def _pot(out: Path) -> str:
    return str(json.loads((out / POT).read_text(encoding="utf-8"))["pot"])


def _ledger(study: Study) -> Ledger | None:
    path = Path(recipe_of(study, Catalogue()).ledger)
    return Ledger(path) if path.is_file() else None
