"""The life of a batch, the same for both providers: validating, in progress, finalizing, ended."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlaif.mock.answering import LineResult

Stage = Literal["validating", "in_progress", "finalizing", "ended"]
SHARES = (0.1, 0.8, 0.1)  # of a batch's time that validating, working and finalizing take
AT_ONCE = 20  # lines answered before other requests get their turn
PAGE = 20  # batches in a list where nobody says how many
CANCELED = LineResult("canceled")


@dataclass(slots=True)
class Line:
    custom_id: str
    body: Any


@dataclass(slots=True)
class Job:
    """One batch. ``at`` holds the time each stage began, in seconds since 1970."""

    id: str
    lines: Sequence[Line]
    stage: Stage = "validating"
    canceled: bool = False
    at: dict[str, float] = field(default_factory=dict)
    results: list[LineResult] = field(default_factory=list)

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self.at[stage] = time.time()

    def cancel(self) -> None:
        """Stop after the line in hand; lines that are answered stay so."""
        if self.stage != "ended" and not self.canceled:
            self.canceled = True
            self.at["canceled"] = time.time()

    def counts(self) -> Counter[str]:
        """Lines by outcome."""
        return Counter(result.outcome for result in self.results)

    async def run(
        self, seconds: float, answer: Callable[[Any], LineResult], record: Callable[[LineResult], None]
    ) -> None:
        """Go through all stages. ``record`` is told of lines that were never asked because the batch was canceled."""
        validating, working, finalizing = (seconds * share for share in SHARES)
        self.enter("validating")
        await asyncio.sleep(validating)
        self.enter("in_progress")
        for start in range(0, len(self.lines), AT_ONCE):
            if self.canceled:
                break
            self.results += [answer(line.body) for line in self.lines[start : start + AT_ONCE]]
            await asyncio.sleep(working * AT_ONCE / max(len(self.lines), AT_ONCE))
        for _ in self.lines[len(self.results) :]:
            self.results.append(CANCELED)
            record(CANCELED)
        self.enter("finalizing")
        await asyncio.sleep(finalizing)
        self.enter("ended")


class Jobs:
    """The batches of one kind, newest last, and the tasks that run them."""

    def __init__(self, seconds: float, record: Callable[[LineResult], None]) -> None:
        self.all: dict[str, Job] = {}
        self._seconds = seconds
        self._record = record
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Job, answer: Callable[[Any], LineResult]) -> Job:
        self.all[job.id] = job
        job.enter("validating")
        task = asyncio.get_running_loop().create_task(job.run(self._seconds, answer, self._record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def page(self, after: str | None, before: str | None, most: str) -> tuple[list[Job], bool]:
        """Jobs, newest first, from after one id or up to another, and whether there are more."""
        limit = min(max(int(most), 1), 100) if most.isdecimal() else PAGE
        ids = list(reversed(self.all))
        if after in self.all:
            ids = ids[ids.index(after) + 1 :]
        elif before in self.all:
            ids = ids[: ids.index(before)][-limit:]
        return [self.all[name] for name in ids[:limit]], len(ids) > limit

    def clear(self) -> None:
        """Forget all batches and stop those that run."""
        for task in self._tasks:
            task.cancel()
        self.all.clear()
