"""A process that walks runs of a study, one after another: ``python -m rlaif.study.worker LOCK``.

A run comes in as a line of JSON, and what a person should see of it goes out as lines of JSON: progress, notices, how it ended.
Where whoever started it is gone, or asks it to stop, it stops as a run does: what is finished is kept.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlaif.checking import open_road
from rlaif.driving import collect_seldom, quiet_bitsandbytes, run_to_end
from rlaif.errors import RlaifError, StorageError, UserError
from rlaif.pipeline import Watcher
from rlaif.progress import Progress
from rlaif.study.contests import contest
from rlaif.study.pool import Contest


def main() -> None:
    at_work = Path(sys.argv[1]).open("w")  # noqa: SIM115 - held as long as the process lives
    fcntl.flock(at_work, fcntl.LOCK_SH)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no event
    runs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(runs, busy), daemon=True).start()
    quiet_bitsandbytes()
    collect_seldom()

    def tell(kind: str, what: Any = None) -> None:
        with suppress(OSError):  # whoever started it is gone, and it stops as a run does
            told.write(json.dumps({kind: what}) + "\n")

    def listen(progress: Progress) -> None:
        tell("progress", asdict(progress))

    while (line := runs.get()) is not None:
        ended: tuple[str, Any] = ("done", None)
        try:
            run_to_end(lambda run=json.loads(line): _walk(run, Watcher(listen, lambda said: tell("notice", said))))  # type: ignore[misc]
        except KeyboardInterrupt:
            sys.exit(130)
        except RlaifError as error:
            kind = next(each for each in (UserError, StorageError, RlaifError) if isinstance(error, each))
            ended = (kind.__name__, str(error))
        busy.clear()  # before another run is sent
        tell(*ended)


def _listen(runs: queue.SimpleQueue[str | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        busy.set()  # before the run can begin: whoever goes away then stops it
        runs.put(line)
    runs.put(None)
    if busy.is_set():  # nobody is there any more to be told
        os.kill(os.getpid(), signal.SIGTERM)


async def _walk(run: dict[str, Any], watcher: Watcher) -> None:
    recipe, settings, folder, until = run["recipe"], run["settings"], Path(run["folder"]), run["until"]
    if isinstance(until, dict):
        against = Path(until["against"]) if until["against"] else None
        asked = Contest(against, Path(until["out"]), until["judges"], until["truth"])
        return await contest(recipe, settings, folder, asked, watcher, run["pot"])
    road = open_road(recipe, settings, out=folder, watcher=watcher)
    road.gateway.pot = run["pot"]
    try:
        await road.run(until)
    finally:
        road.gateway.ledger.close()


if __name__ == "__main__":
    main()
