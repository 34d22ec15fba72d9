"""Requests to one model through its provider's batch API: gathered, submitted as jobs, waited for, merged.

A job is written down in the ledger, with its requests and the most they can cost, before it is submitted. From then on
they are asked by that job alone: whoever asks for one of them waits for it, in this process or in any later one. A
process that finds a job nobody sees to takes it over; where the last one was killed before it heard the provider's name
for the job, the provider is searched for it first. What a job brings is committed line by line, each line once.

Requests are *announced* before they are asked: they are written into the next job's file and forgotten, so that a job
may be as large as providers allow and memory does not grow with it. Who announces asks again once the jobs are over.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from rlaif.errors import CallError, CallFailed, OverBudget, StorageError
from rlaif.ledger import CLAIM_SECONDS, Entry, JobLine, JobRow
from rlaif.models import Answer, ChatRequest, Reply
from rlaif.models.failures import failed
from rlaif.models.job_http import Gone, JobApi, JobStatus, Refused, Result
from rlaif.models.pacing import MAYBE_BILLED, InJobs, delay_before

if TYPE_CHECKING:
    from rlaif.models.calls import Call, Caller

T = TypeVar("T")

QUIET_SECONDS = 0.5  # without a new request, before a job is made of those that are there
LOOK_SECONDS = 1.0  # between looks for other processes' jobs, where there were none
GROWTH, LONGEST_PAUSE = 0.1, 20  # a pause between looks: this share of the job's age, at most so many times the first
AT_ONCE = 256  # lines of results in one transaction, and lines written between two turns of other tasks
DOWNLOADS = 3  # of results of which lines are missing, before those lines count as lost


ANNOUNCING: ContextVar[bool] = ContextVar("announcing", default=False)


class Announced(CallError):
    """The request has been announced: its reply comes by a job, to whoever asks again."""


@dataclass(eq=False)
class Job:
    """A job that this process sees to."""

    row: JobRow
    number: int
    left: int  # requests that it has not answered yet
    name: str | None = None  # the provider's
    proven: bool = False  # whether the job of that name is known to be this one
    adopted: bool = False  # submitted by an earlier process
    status: JobStatus | None = None
    task: asyncio.Task[None] | None = None
    submitting: bool = False


@dataclass(frozen=True)
class Tried:
    """A request that jobs did not answer: how many, and why; ``final``: it goes into no other."""

    jobs: int
    error: CallFailed
    final: bool


class Pile:
    """The requests of the next job, in its file."""

    def __init__(self, api: JobApi, folder: Path) -> None:
        self.api, self.folder = api, folder
        self.lines: dict[str, JobLine] = {}
        self.file: BinaryIO | None = None
        self.size = 0  # bytes
        self.live = False  # whether somebody waits for one of its replies

    def has_room(self, line: bytes) -> bool:
        size = self.size + len(self.api.separator) + len(line) + len(self.api.closing)
        return not self.lines or size <= self.api.most_bytes

    def add(self, line: JobLine, data: bytes) -> None:
        if self.file is None:
            self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
            self._write(self.api.opening)
        self._write((self.api.separator if self.lines else b"") + data)
        self.lines[line.key] = line

    def closed(self) -> BinaryIO:
        """The whole file."""
        assert self.file
        self._write(self.api.closing)
        return self.file

    def _write(self, data: bytes) -> None:
        assert self.file
        try:
            self.file.seek(self.size)  # where the last write ended, had one failed half way since
            self.file.write(data)
        except OSError as error:
            raise StorageError(f"{self.folder}: a job's file cannot be written: {error.strerror or error}.") from error
        self.size += len(data)


class Jobs:
    """All jobs of one model in this process. ``take`` is the caller's door to it."""

    def __init__(
        self,
        caller: Caller,
        api: JobApi,
        settings: InJobs | None,
        notice: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """``settings``: options.batch; None where only jobs of earlier runs are seen to. ``changed``: called where a job
        has got on."""
        self.caller, self.api, self.settings = caller, api, settings
        self.notice, self.changed = notice, changed
        self.most_lines = min(api.most_lines, (settings and settings.lines) or api.most_lines)
        self.open: dict[str, Job] = {}  # by our name
        self.left: dict[str, BaseException] = {}  # jobs that this process has given up, by our name
        self.tried: dict[str, Tried] = {}  # by key
        self.unclaimed = 0  # replies that came while nobody waited for them, and will be asked for
        self._pile = self._new_pile()
        self._dear: list[Call] = []  # for which there is no money now
        self._said_dear = False
        self._announced = self._made = 0
        self._look_again = 0.0
        self._broken: BaseException | None = None
        self._over_now = asyncio.Event()  # set where a job has come to an end
        self._quiet: asyncio.Task[None] | None = None
        self._money: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted = 0.0  # until when the time that jobs take is counted

    # --- asked --------------------------------------------------------------------------------------------------------

    def take(self, calls: Sequence[Call]) -> tuple[list[Call], list[Call]]:
        """See to calls that are in open jobs, or are to be. Returns those to be made one by one, and those that are in a
        job of another process. What is only announced is in neither, and ended."""
        ledger = self.caller.ledger
        if not self.settings and self._nothing_open():
            return list(calls), []
        for row in ledger.take_jobs(self.caller.model.identity.sha256, CLAIM_SECONDS, but=self.left):
            self._adopt(row)
        held = ledger.in_jobs([call.key for call in calls])
        single: list[Call] = []
        elsewhere: list[Call] = []
        for call in calls:
            job = held.get(call.key)
            if job is None:
                self._put(call, single)
            elif job in self.left:
                self.caller.fail(call, copy(self.left[job]))
            elif job not in self.open and not call.announced:
                elsewhere.append(call)
            if call.announced and not call.ended:
                self.caller.end(call, Announced("announced"))
        return single, elsewhere

    def _nothing_open(self) -> bool:
        """Whether no process has an open job of this model; looked up now and then, for every call comes by here."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_again and not self.caller.ledger.has_jobs(self.caller.model.identity.sha256):
            self._look_again = now + LOOK_SECONDS
        return now < self._look_again

    def _put(self, call: Call, single: list[Call]) -> None:
        """A call that is in no job: into the next one, to those that are made one by one, or failed."""
        tried = self.tried.get(call.key)
        if tried and tried.final:
            if not call.announced:
                del self.tried[call.key]
            self.caller.fail(
                call, copy(tried.error)
            )  # raised by each caller: one of its own has a traceback of its own
        elif not self.settings:
            single.append(call)
        elif call.key in self._pile.lines or self._piled(call):
            if not call.announced:
                self._pile.live = True
                self._quiet = self._at_work(self._quiet, self._when_quiet)
            if len(self._pile.lines) >= self.most_lines:
                self._submit()
        elif not call.announced:
            self._dear.append(call)
            self._money = self._at_work(self._money, self._when_money)
        else:
            self.caller.ledger.release([call.key])

    def _say_dear(self) -> None:
        """Once: that jobs wait for each other, for want of money that may never be spent."""
        if not self._said_dear and (self._pile.lines or self.open):
            self._said_dear = True
            self.notice(
                "budget_usd has no room for all requests at the most that they can cost: some wait until a job is over, and go "
                "into a later one. A larger budget_usd makes fewer jobs, whatever they cost in the end."
            )

    def _piled(self, call: Call) -> bool:
        """Write a request into the next job's file. False: the budget has no room for it now."""
        purse = self.caller.purse
        self.caller.prepare(call, batch=True)
        if not purse.secure(call.most_usd):
            self._say_dear()
            return False
        purse.reserve_in_job(call.most_usd)
        data = self.api.line(call.key, self.caller.model.body(call.request))
        if not self._pile.has_room(data):
            self._submit()
        self._pile.add(JobLine(call.key, call.context, _reading(call.request), call.most_usd), data)
        self.caller.account.asked += call.key not in self.tried
        self._announced += call.announced
        return True

    def _new_pile(self) -> Pile:
        return Pile(self.api, self.caller.ledger.path.parent)

    async def _when_quiet(self) -> None:
        """Make a job of what is there, once nothing more is asked for a moment."""
        while self._pile.live:
            count = len(self._pile.lines)
            await asyncio.sleep(QUIET_SECONDS)
            if count == len(self._pile.lines):
                self._submit()

    async def _when_money(self) -> None:
        """Wait for what is under way, where that may leave money, and try again."""
        purse = self.caller.purse
        while self._dear:
            waited = not purse.idle
            if waited:
                await purse.changed()
            else:
                waited = await purse.others_done()
            calls, self._dear = self._dear, []
            if waited or not purse.idle:
                self._put_again(calls)
                continue
            left = max(0.0, purse.left_usd or 0.0)
            for call in calls:
                if call.most_usd <= left:
                    self._put_again([call])
                else:
                    self.caller.fail(call, OverBudget())

    def _put_again(self, calls: Sequence[Call]) -> None:
        single: list[Call] = []
        for call in calls:
            if not (call.ended or call.unwanted):
                self._put(call, single)
        self.caller.enqueue(single)

    async def round(self) -> bool:
        """Submit what is announced and wait until all jobs are over. Whether there was any: then what they left
        unanswered, and what follows from what they answered, can be announced."""
        self._submit()
        waited = bool(self.open or self._announced)
        while self.open:
            self._over_now.clear()
            await self._over_now.wait()
        if self._broken:
            raise self._broken
        self._announced = 0
        return waited

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Make a job of what is there."""
        pile, self._pile = self._pile, self._new_pile()
        if not pile.lines or self.caller.stopping:
            return
        model, run = self.caller.model, self.caller.purse.run
        most = sum(line.most_usd for line in pile.lines.values())
        row = JobRow(uuid.uuid4().hex, model.identity.sha256, model.job_endpoint, len(pile.lines), time.time(), run)
        try:
            file = pile.closed()
            self.caller.ledger.open_job(row, list(pile.lines.values()))
        except StorageError as error:
            self._broken = error
            self.caller.purse.written_in_job(most)
            self.caller.purse.settle_in_job(most, 0.0)
            for key in pile.lines:
                if call := self.caller.calls.get(key):
                    self.caller.end(call, error)
            return
        self.caller.purse.written_in_job(most)
        job = self._opened(row)
        job.task = self._start(self._see_to(job, file))

    def _adopt(self, row: JobRow) -> None:
        job = self._opened(row, adopted=True)
        since = f"submitted {_ago(time.time() - row.created)} ago"
        self.notice(
            f"{self._called(job)}, {since}: {job.left:,} requests are in it and are waited for, not asked again."
        )
        if row.run == self.caller.purse.run:
            self.caller.purse.see_to(self.caller.ledger.job_usd(row.job))
        job.task = self._start(self._see_to(job, None))

    def _opened(self, row: JobRow, adopted: bool = False) -> Job:
        self._made += 1
        left = len(self.caller.ledger.job_keys(row.job)) if adopted else row.lines
        job = self.open[row.job] = Job(row, self._made, left, row.name, row.name is not None, adopted)
        return job

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._at_an_end)
        return task

    def _at_an_end(self, task: asyncio.Task[None]) -> None:
        """What a task raises is a bug: no caller may wait for ever for it."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._broken = error
            self.caller.break_off(error)
            self._over_now.set()

    def _at_work(self, task: asyncio.Task[None] | None, work: Callable[[], Any]) -> asyncio.Task[None]:
        """The task that does ``work``, begun where it is not at it."""
        return task if task and not task.done() else self._start(work())

    # --- a job --------------------------------------------------------------------------------------------------------

    async def _see_to(self, job: Job, file: BinaryIO | None) -> None:
        """From its submission, or from wherever an earlier process left it, to its end."""
        try:
            await self._live(job, file)
        except Refused as error:
            self._over(job, self._said(job, error))
        except Gone as error:
            why = f"the provider does not know it (any more, or by this key): {error}; run again to ask anew"
            self._over(job, self._said(job, failed("lost", why)), billed=True)
        except CallFailed as error:
            self._leave(job, self._said(job, error))
        except StorageError as error:  # the ledger cannot keep account: the job is left for a later run
            self._leave(job, error)
        except BaseException as error:
            if not isinstance(error, Exception):
                raise  # a stop
            self._leave(job, self.caller.told(error))  # a bug: no caller may wait for ever
        finally:
            if file:
                file.close()
            self._over_now.set()
            self.changed()

    def _said(self, job: Job, error: CallFailed) -> CallFailed:
        """A failure of a job as its requests' own. A later run may have it otherwise."""
        return CallFailed(f"{self._called(job)}: {error}", retryable=True, fault=error.fault)

    async def _live(self, job: Job, file: BinaryIO | None) -> None:
        not_ours: set[str] = set()  # the provider's names of jobs that looked like it
        if file:
            job.name = await self._submitted(job, file)
            file.close()
        while job.left:
            job.name = job.name or await self._found_again(job, not_ours)
            if job.name is None:  # it was never accepted
                break
            if await self._merged(job, await self._ended(job)):
                break
            not_ours.add(job.name)
            job.name = None
        self._over(job, None)

    # --- submission ---------------------------------------------------------------------------------------------------

    async def _submitted(self, job: Job, file: BinaryIO) -> str:
        """The provider's name for the job. Where an answer was lost it is searched for, twice, before it is sent again."""
        ours, tried = job.row.job, False

        async def create() -> str:
            nonlocal tried
            if tried and (found := await self._found_again(job, frozenset())):
                return found
            tried = True
            name = await self.api.create(file, uploaded, ours)
            self._prove(job, name)
            self.notice(f"{self._called(job)} is submitted: {job.row.lines:,} requests.")
            return name

        job.submitting = True
        try:
            uploaded = await self._patiently(lambda: self.api.upload(file, ours))
            return await self._patiently(create)
        except CallFailed as error:
            if not error.retryable:  # it said no: there is no such job
                raise Refused(str(error), fault=error.fault) from None
            raise
        finally:
            job.submitting = False

    def _prove(self, job: Job, name: str) -> None:
        self.caller.ledger.name_job(job.row.job, name)
        job.name, job.proven = name, True

    async def _found_again(self, job: Job, not_ours: Set[str]) -> str | None:
        """The provider's name for a job of which it was never heard; None where the provider has none. A job that was
        being accepted when its sender was killed may come up a moment later: a second look decides."""
        for look in range(2):
            if look:
                await asyncio.sleep(self._first_pause)
            if found := await self._patiently(lambda: self._find(job, not_ours)):
                return found
        return None

    async def _find(self, job: Job, not_ours: Set[str]) -> str | None:
        known = self.caller.ledger.job_names() | not_ours
        return next((name for name in await self.api.find(job.row) if name not in known), None)

    # --- waiting ------------------------------------------------------------------------------------------------------

    @property
    def _first_pause(self) -> float:
        return (self.settings or InJobs()).poll_seconds

    async def _ended(self, job: Job) -> JobStatus:
        """Look again and again until the provider is done with a job."""
        name, looks = job.name or "", 0
        while True:
            if self.caller.stopping:
                raise asyncio.CancelledError
            if looks or not job.adopted:
                age = GROWTH * (time.time() - job.row.created)
                await asyncio.sleep(min(max(self._first_pause, age), LONGEST_PAUSE * self._first_pause))
            looks += 1
            job.status = await self._patiently(lambda: self.api.status(name))
            self.changed()
            if job.status.refused:
                raise Refused(f"the provider refused it: {job.status.refused}")
            if job.status.ended:
                return job.status

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """``work``, tried again with growing pauses where that may help, as long as the model's patience lasts."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay

        def may_help(error: BaseException) -> bool:
            if not isinstance(error, CallFailed):
                return False
            self.caller.account.faults[error.fault or "failed"] += 1
            return error.retryable

        patience = stop_after_delay(self.caller.pace.patience_seconds)
        trying = AsyncRetrying(retry=retry_if_exception(may_help), wait=_delay, stop=patience, reraise=True)
        async for attempt in trying:
            with attempt:
                return await work()
        raise AssertionError("tenacity ends by a result or by raising")

    # --- merging ------------------------------------------------------------------------------------------------------

    async def _merged(self, job: Job, status: JobStatus) -> bool:
        """Keep all that a job brought. False: it is another job than the one that was searched for."""
        broken: int | None = 0
        for download in range(DOWNLOADS):
            if download:
                await asyncio.sleep(self._first_pause)
            broken = await self._patiently(lambda: self._download(job, status))
            if broken is None:
                return False
            if not job.left or not (broken or status.whole):
                break
        if not job.proven:
            raise failed("garbled", "no line of its results can be read")
        self._give_up(job, billed=bool(broken) or status.whole)
        return True

    async def _download(self, job: Job, status: JobStatus) -> int | None:
        """Read the results as they arrive and keep those that are not kept yet; how many lines could not be read, or None
        where they are another job's."""
        broken, held = 0, {}
        async for key, result in self.api.results(job.name or "", status):
            if key is None:
                broken += 1
                continue
            if not job.proven:
                if not self.caller.ledger.job_lines(job.row.job, [key]):
                    return None
                self._prove(job, job.name or "")
            held[key] = result
            if len(held) >= AT_ONCE:
                self._keep(job, held)
                held = {}
                await asyncio.sleep(0)
        self._keep(job, held)
        return broken

    def _give_up(self, job: Job, billed: bool) -> None:
        """What a job's results say nothing of; by ``billed``, it may have been answered in a line that is broken."""
        error = failed("garbled" if billed else "overloaded", "the job's results say nothing of it")
        keys = self.caller.ledger.job_keys(job.row.job)
        for start in range(0, len(keys), AT_ONCE):
            self._keep(job, dict.fromkeys(keys[start : start + AT_ONCE], error))

    def _keep(self, job: Job, results: Mapping[str, Result]) -> None:
        """Commit results of some requests in one transaction, then let their callers see them."""
        lines = self.caller.ledger.job_lines(job.row.job, list(results))
        entries, failures, spent, lost = [], {}, 0.0, 0.0
        for key, line in lines.items():
            try:
                entry = self._entry(job, line, self._read(results[key], line))
            except CallFailed as error:
                failures[key] = error
                lost += line.most_usd if error.fault in MAYBE_BILLED else 0.0
            else:
                entries.append(entry)
                spent += entry.cost_usd or 0.0
        stored = self.caller.ledger.merge(job.row, entries, list(failures), lost)
        job.left -= len(lines)
        self._count(job, entries, failures, spent + lost)
        self._settle(job, sum(line.most_usd for line in lines.values()), spent + lost)
        for entry in stored:
            self.tried.pop(entry.key, None)
            if call := self.caller.calls.get(entry.key):
                self.caller.finish(call, entry)
            else:
                self.unclaimed += 1
        self._again(failures)

    def _read(self, result: Result, line: JobLine) -> Reply:
        """The reply in a line, read as a call's answer is. Raises CallFailed."""
        if isinstance(result, CallFailed):
            raise result
        answer: Answer = self.caller.model.routes[0].read(result, _as_asked(line.reading))
        return answer.reply

    def _entry(self, job: Job, line: JobLine, reply: Reply) -> Entry:
        tried = self.tried.get(line.key)
        return Entry(
            line.key,
            self.caller.model.identity.name,
            reply,
            line.context,
            self.caller.cost(reply, line.most_usd, batch=True),
            (time.time() - job.row.created) / job.row.lines,
            1 + (tried.jobs if tried else 0),
            run=job.row.run,
        )

    def _count(self, job: Job, entries: Sequence[Entry], failures: Mapping[str, CallFailed], usd: float) -> None:
        account, now = self.caller.account, time.time()
        for entry in entries:
            account.count(entry.reply)
        account.in_jobs += len(entries)
        account.fetched += len(entries) if job.adopted else 0
        account.faults.update(error.fault or "failed" for error in failures.values())
        account.maybe_billed += sum(error.fault in MAYBE_BILLED for error in failures.values())
        account.seconds += max(0.0, now - max(job.row.created, self._counted))
        self._counted = now
        if job.row.run == self.caller.purse.run:
            account.spent_usd += usd

    def _settle(self, job: Job, reserved: float, spent: float) -> None:
        if job.row.run == self.caller.purse.run:
            self.caller.purse.settle_in_job(reserved, spent)

    def _again(self, failures: Mapping[str, CallFailed]) -> None:
        """Requests that a job did not answer: into the next one, as often as calls are tried, or failed."""
        forgotten, most = [], self.caller.pace.attempts
        for key, error in failures.items():
            jobs = 1 + (self.tried[key].jobs if key in self.tried else 0)
            tries = f" (in {jobs} jobs)" if jobs > 1 else ""
            told = CallFailed(
                f"{error}{tries}", retryable=error.retryable or error.fault == "barred", fault=error.fault
            )
            self.tried[key] = Tried(jobs, told, final=not error.retryable or jobs >= most)
            if key not in self.caller.calls:  # it is asked again when somebody asks
                forgotten.append(key)
        self.caller.ledger.release(forgotten)
        self._put_again([call for key in failures if (call := self.caller.calls.get(key))])

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _over(self, job: Job, error: CallFailed | None, billed: bool = False) -> None:
        """A job is over, or never was. Requests that it leaves fail with ``error``; without one they are asked again.
        By ``billed`` what they may have cost counts in full."""
        ledger, ours = self.caller.ledger, job.row.job
        reserved, keys, calls = ledger.job_usd(ours), ledger.job_keys(ours), self._waiting_for(job)
        if billed:
            ledger.charge(job.row.run, reserved)
        ledger.end_job(job.row)
        ledger.release(keys if error else [key for key in keys if key not in self.caller.calls])
        self._settle(job, reserved, reserved if billed else 0.0)
        del self.open[ours]
        if error:
            self.tried.update(dict.fromkeys(keys, Tried(0, error, final=True)))
        self._put_again(calls)

    def _leave(self, job: Job, error: BaseException) -> None:
        """A job is left as it stands, for a later run."""
        ledger, calls = self.caller.ledger, self._waiting_for(job)
        del self.open[job.row.job]
        self.left[job.row.job] = error
        with suppress(StorageError):  # which may be why it is left
            ledger.release([job.row.job, *ledger.job_keys(job.row.job)])
            if job.row.run == self.caller.purse.run:
                self.caller.purse.see_to(-ledger.job_usd(job.row.job))
        for call in calls:
            self.caller.end(call, copy(error))

    def _waiting_for(self, job: Job) -> list[Call]:
        """The calls that a job is to answer."""
        held = self.caller.ledger.in_jobs(list(self.caller.calls))
        return [self.caller.calls[key] for key, name in held.items() if name == job.row.job]

    async def stop(self, grace_seconds: float) -> None:
        """Submit nothing more. Jobs go on at the provider; one that is being submitted may still be accepted."""
        submitting = [job.task for job in self.open.values() if job.submitting and job.task]
        if submitting:
            await asyncio.wait(submitting, timeout=grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.open:
            names = ", ".join(job.name or "one whose name is not known yet" for job in self.open.values())
            left = sum(job.left for job in self.open.values())
            self.notice(
                f"{self.caller.model.identity.name}: {left:,} requests go on at the provider, in {names}: the same command "
                "fetches what they bring."
            )
        await self.api.close()

    # --- words --------------------------------------------------------------------------------------------------------

    def _called(self, job: Job) -> str:
        return f"job {job.number}" + (f" ({job.name})" if job.name else "")

    def standing(self) -> list[str]:
        """What a person watching wants to know of the jobs."""
        said = []
        for job in self.open.values():
            lines, done = job.row.lines, job.status.done if job.status else 0
            ago = _ago(time.time() - job.row.created)
            how = f"{max(done, lines - job.left):,} of {lines:,} done, submitted {ago} ago"
            said.append(f"job {job.number}: {how if job.name else f'{lines:,} requests are being submitted'}")
        if self._pile.lines:
            said.append(f"{len(self._pile.lines):,} gathered for the next job")
        return said


def _reading(request: ChatRequest) -> str:
    """What reading a reply needs of its request."""
    shape = ChatRequest(messages=(), options=request.options, json_schema=request.json_schema)
    return shape.model_dump_json(exclude_defaults=True)


@lru_cache(maxsize=64)
def _as_asked(reading: str) -> ChatRequest:
    return ChatRequest.model_validate_json(reading)


def _delay(state: Any) -> float:
    """Seconds before something is tried again, as tenacity asks for them."""
    return delay_before(state.attempt_number, state.outcome.exception().retry_after)


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
