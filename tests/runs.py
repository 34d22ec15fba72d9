"""Run the command line in child processes that start at once, so that they can be killed and run again cheaply."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER: Any = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preload"])


def _child(folder: str, arguments: list[str], log: str, environ: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environ)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["rlaif", *arguments]
    from rlaif.cli import main

    main()


def start(folder: Path, *arguments: str, log: Path | None = None, **environ: str) -> Any:
    """``rlaif ARGUMENTS`` in ``folder``, as a child process; what it prints goes to ``log``, by default ``folder/log``."""
    process = SERVER.Process(target=_child, args=(str(folder), list(arguments), str(log or folder / "log"), environ))
    process.start()
    return process


def rlaif(folder: Path, *arguments: str, seconds: float = 120, code: int = 0) -> str:
    """Run to the end; the printed output. Fails the test on another exit code."""
    process = start(folder, *arguments)
    process.join(seconds)
    text = (folder / "log").read_text()
    assert process.exitcode == code, f"exit code {process.exitcode}:\n{text}"
    return text


def kill_when(process: Any, reached: Callable[[], bool], seconds: float = 120, number: int = signal.SIGKILL) -> bool:
    """``kill -9``, or another signal, as soon as ``reached()``; False when the process ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if reached():
            os.kill(process.pid, number)
            process.join()
            return True
        if process.exitcode is not None:
            return False
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    raise AssertionError("the point was not reached in time")


def ledger_rows(folder: Path, table: str = "replies") -> int:
    """Rows of a folder's ledger, replies or claims; 0 where there is none yet."""
    path = folder / ".rlaif" / "ledger.sqlite"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as ledger:
            return int(ledger.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def stage_files(run: Path) -> dict[str, bytes]:
    """Every file of a run folder that two equal runs have in common, by name."""
    patterns = (
        "*/part-*.parquet",
        "*/*/part-*.parquet",
        "**/model.safetensors",
        "evaluation/*.json",
        "training/*.json",
    )
    named = {str(path.relative_to(run)): path.read_bytes() for pattern in patterns for path in run.glob(pattern)}
    for name in ("accounts.json", "metrics.json"):
        named[name] = (run / name).read_bytes()
    return {name: data for name, data in named.items() if not name.startswith(("superseded", "training/reward_model/"))}
