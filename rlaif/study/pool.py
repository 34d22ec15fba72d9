"""Processes that walk the runs of a study, several at a time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from rlaif import errors
from rlaif.errors import RlaifError
from rlaif.pipeline import Watcher
from rlaif.progress import Progress

LONGEST_LINE = 2**20  # bytes of an event


@dataclass(frozen=True)
class Contest:
    """Another run, whose policies a run's are set against, who judges them, and the folder for what comes of it."""

    against: Path | None  # None of the run that others are set against
    out: Path
    judges: bool  # whether the recipe's do
    truth: list[str] | None  # under these settings the labels of the recipe judge too, and policies against the start


@dataclass(frozen=True)
class Run:
    """A recipe with settings laid over it, to be walked in a folder as far as a stage; or a contest of the policies there."""

    name: str  # for a person
    recipe: str
    settings: list[str]
    folder: Path
    until: str | Contest

    def told(self, pot: str) -> dict[str, object]:
        """As a worker is told it."""
        until = asdict(self.until) if isinstance(self.until, Contest) else self.until
        return {"recipe": self.recipe, "settings": self.settings, "folder": self.folder, "until": until, "pot": pot}


class Pool:
    """``async with Pool(2, watcher, pot, lock) as pool: await pool.walk(run)``: at most so many runs at a time, each process with its
    part of the cores, all with the one budget ``pot``; each holds ``lock`` as long as it lives. A stop of the caller stops them as Ctrl-C stops a run, and waits until they have kept what is finished."""

    def __init__(self, size: int, watcher: Watcher, pot: str, lock: Path) -> None:
        self.size, self.watcher, self.pot, self.lock = size, watcher, pot, lock
        self.idle: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        self.all: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for _ in range(self.size):
            self.idle.put_nowait(None)  # started when there is something to walk
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.all:
            assert process.stdin is not None
            process.stdin.close()  # one at work stops as at Ctrl-C, one that waits ends
        for process in self.all:
            await process.wait()

    async def walk(self, run: Run) -> None:
        """Raises UserError or RlaifError with the line in which the run ended otherwise than at its end."""
        process = await self.idle.get()
        if process is None:
            process = await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(run.told(self.pot), default=str).encode() + b"\n")
        while True:
            line = await process.stdout.readline()
            if not line:
                raise RlaifError(
                    f"{run.name}: its process ended with code {await process.wait()}; what it said is above."
                )
            ((kind, said),) = json.loads(line).items()
            if kind == "progress":
                progress = Progress(**said)
                self.watcher.listen(replace(progress, stage=f"{run.name}: {progress.stage}"))
            elif kind == "notice":
                self.watcher.notice(f"{run.name}: {said}")
            else:
                break
        self.idle.put_nowait(process)
        if kind != "done":
            raise getattr(errors, kind)(f"{run.name}: {said}")

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rlaif.study.worker", str(self.lock)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            env=own_environment(self.size, os.environ),
            start_new_session=True,  # Ctrl-C is for whoever started it, and comes from there
        )
        self.all.append(process)
        return process


def own_environment(size: int, environment: Mapping[str, str]) -> dict[str, str]:
    """That of one of ``size`` processes: each has its part of the cores, where ``environment`` does not say how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // size)), **environment}
