"""Progress for people: a live line per stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rlaif.progress import Progress

PLAIN_FIRST_SECONDS, PLAIN_EVERY_SECONDS = 2.0, 15.0


class Display:
    """Listens to a run. On a terminal rich draws bars with rate and time left; otherwise a line now and then."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}  # by stage: when it may speak again

    def __enter__(self) -> Self:
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def notice(self, line: str) -> None:
        self.say(f"note: {line}")

    def say(self, line: str) -> None:
        if self._bars:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def listen(self, progress: Progress) -> None:
        now = time.monotonic()
        began = self._began.setdefault(progress.stage, now)
        if self._bars:
            self._draw(progress, now - began)
        elif progress.finished:  # the same stage of another run, or of another model, begins anew
            del self._began[progress.stage]
            self._said.pop(progress.stage, None)
        elif now >= self._said.get(progress.stage, began + PLAIN_FIRST_SECONDS):
            self._said[progress.stage] = now + PLAIN_EVERY_SECONDS
            total = f" of {progress.total:,}" if progress.total else ""
            self.say(
                f"{progress.stage}: {progress.done:,}{total}, {_pace(progress, now - began)} {progress.note}".rstrip()
            )

    def _draw(self, progress: Progress, seconds: float) -> None:
        if progress.finished:
            if progress.stage in self._tasks:
                self._bars.stop_task(self._tasks[progress.stage])
            return
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, rate="", note="")
        rate = f"{progress.done / seconds:,.1f}/s" if seconds > 0.5 else ""
        self._bars.update(
            self._tasks[progress.stage], completed=progress.done, total=progress.total, rate=rate, note=progress.note
        )


def _pace(progress: Progress, seconds: float) -> str:
    rate = progress.done / seconds if seconds > 0 else 0.0
    if not progress.total or not rate:
        return f"{rate:,.1f}/s"
    return f"{rate:,.1f}/s, {(progress.total - progress.done) / rate:,.0f} s left,"
