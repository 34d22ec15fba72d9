"""Requests to one model through its provider's batch API: gathered, submitted as jobs, waited for, merged.

A job is written down in the ledger, with its requests and the most they can cost, before it is submitted. From then on
they are asked by that job alone: whoever asks for one of them waits for it, in this process or in any later one. A
process that finds a job nobody sees to takes it over; where the last one was killed before it heard the provider's name
for the job, the provider is searched for it first. What a job brings is committed line by line, each line once.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from rlaif.errors import CallFailed, OverBudget, StorageError
from rlaif.ledger import Entry, JobLine, JobRow
from rlaif.models import Answer, ChatRequest, Reply
from rlaif.models.failures import failed
from rlaif.models.job_http import Gone, JobApi, JobStatus, Refused, Result
from rlaif.models.pacing import LONGEST_RETRY_AFTER, MAYBE_BILLED, InJobs

if TYPE_CHECKING:
    from rlaif.models.calls import Call, Caller

T = TypeVar("T")

CLAIM_SECONDS = 60.0  # renewed as long as the process lives
QUIET_SECONDS = 0.5  # without a new request, before a job is made of those that are there
GROWTH, LONGEST_PAUSE = 0.1, 20  # a pause between looks: this share of the job's age, at most so many times the first
AT_ONCE = 256  # lines of results in one transaction, and lines written between two turns of other tasks
DOWNLOADS = 3  # of results of which lines are missing, before those lines count as lost
LONGEST_DELAY = 60.0  # seconds before something is tried again, where the provider names no time


@dataclass(eq=False)
class Job:
    """A job that this process sees to."""

    row: JobRow
    number: int
    name: str | None  # the provider's
    proven: bool  # whether the job of that name is known to be this one
    adopted: bool = False  # submitted by an earlier process
    status: JobStatus | None = None
    submitting: bool = False
    left: set[str] = field(default_factory=set)  # keys that it has not answered yet
    not_ours: set[str] = field(default_factory=set)  # the provider's names of jobs that looked like it


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
        self.waiting: list[Call] = []  # in no job yet
        self.inside: dict[str, Job] = {}  # by key
        self.open: list[Job] = []
        self._made = 0
        self._gathering: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen_to: dict[Job, asyncio.Task[None]] = {}
        self._counted = 0.0  # until when the time that jobs take is counted

    # --- asked --------------------------------------------------------------------------------------------------------

    def take(self, calls: Sequence[Call]) -> tuple[list[Call], list[Call]]:
        """See to calls that are in open jobs, or are to be. Returns those to be made one by one, and those that are in a
        job of another process."""
        ledger, model = self.caller.ledger, self.caller.model
        for row in ledger.take_jobs(model.identity.sha256, CLAIM_SECONDS):
            self._adopt(row)
        held = ledger.in_jobs([call.key for call in calls])
        single, elsewhere = [], []
        for call in calls:
            if call.key in self.inside:
                call.attempts += 1
            elif call.key in held:
                elsewhere.append(call)
            elif self.settings:
                self.waiting.append(call)
            else:
                single.append(call)
        self._gather()
        return single, elsewhere

    def _adopt(self, row: JobRow) -> None:
        job = self._opened(row, adopted=True)
        since = f"submitted {_ago(time.time() - row.created)} ago"
        self.notice(
            f"{self._called(job)}, {since}: {len(job.left):,} requests are in it and are waited for, not asked again."
        )
        self._seen_to[job] = self._start(self._see_to(job, None))

    def _opened(self, row: JobRow, adopted: bool = False) -> Job:
        self._made += 1
        job = Job(row, self._made, row.name, row.name is not None, adopted)
        job.left = set(self.caller.ledger.job_keys(row.job))
        self.inside.update(dict.fromkeys(job.left, job))
        self.open.append(job)
        return job

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- gathering ----------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        if self.waiting and (self._gathering is None or self._gathering.done()) and not self.caller.stopping:
            self._gathering = self._start(self._make_jobs())

    async def _make_jobs(self) -> None:
        """Make jobs of what is asked, until nothing waits."""
        while self.waiting:
            count = -1
            while count != len(self.waiting) < self.most_lines:
                count = len(self.waiting)
                await asyncio.sleep(QUIET_SECONDS)
            taken, self.waiting = self.waiting[: self.most_lines], self.waiting[self.most_lines :]
            try:
                await self._make_job([call for call in taken if self._is_waited_for(call)])
            except BaseException as error:  # whatever it is, no caller may wait for ever
                for call in taken:
                    self.caller.end(call, self.caller.told(error))
                if not isinstance(error, Exception):
                    raise

    def _is_waited_for(self, call: Call) -> bool:
        if call.done.done():
            self.caller.forget(call)
            self.caller.ledger.release([call.key])
            return False
        return True

    async def _make_job(self, calls: list[Call]) -> None:
        """One job of as many of ``calls`` as fit into it and into the budget; the others wait, or are over budget."""
        file = tempfile.TemporaryFile(dir=self.caller.ledger.path.parent)  # noqa: SIM115
        inside, usd, dear = await self._written(file, calls)
        if not inside:
            file.close()
            if dear:
                await self._without_money(dear)
            return
        purse, model = self.caller.purse, self.caller.model
        row = JobRow(uuid.uuid4().hex, model.identity.sha256, model.job_endpoint, len(inside), time.time(), purse.run)
        lines = [JobLine(call.key, call.context, _reading(call.request), call.most_usd) for call in inside]
        self.caller.ledger.open_job(row, lines)
        purse.reserve_in_job(usd)
        for call in inside:
            call.attempts += 1
            self.caller.account.asked += not call.began
            call.began = call.began or asyncio.get_running_loop().time()
        job = self._opened(row)
        self._seen_to[job] = self._start(self._see_to(job, file))
        self.waiting = dear + self.waiting

    async def _written(self, file: BinaryIO, calls: list[Call]) -> tuple[list[Call], float, list[Call]]:
        """Write requests into a job's file. Returns those in it, the most they cost together, and those that the budget
        has no room for now."""
        api, model, purse = self.api, self.caller.model, self.caller.purse
        inside: list[Call] = []
        dear: list[Call] = []
        usd, size = 0.0, file.write(api.opening) + len(api.closing)
        for place, call in enumerate(calls):
            if place % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            self.caller.prepare(call, batch=True)
            if purse.budget_usd is not None and purse.held_usd + usd + call.most_usd > purse.budget_usd:
                dear.append(call)
                continue
            line = api.line(call.key, model.body(call.request))
            if inside and size + len(api.separator) + len(line) > api.most_bytes:
                self.waiting = calls[place:] + self.waiting
                break
            size += file.write(api.separator if inside else b"") + file.write(line)
            inside.append(call)
            usd += call.most_usd
        file.write(api.closing)
        return inside, usd, dear

    async def _without_money(self, calls: list[Call]) -> None:
        """Nothing fits into the budget: wait for what is under way, or give up where nothing is."""
        purse = self.caller.purse
        if not purse.idle:
            self.waiting = calls + self.waiting
            await purse.changed()
            return
        left = max(0.0, (purse.budget_usd or 0.0) - purse.spent_usd)
        for call in calls:
            why = f"over budget: a request in a job may cost {call.most_usd:.6f} USD, {left:.6f} are left"
            self.caller.fail(call, OverBudget(why, retryable=True))

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
            self.changed()

    def _said(self, job: Job, error: CallFailed) -> CallFailed:
        """A failure of a job as its requests' own. A later run may have it otherwise."""
        return CallFailed(f"{self._called(job)}: {error}", retryable=True, fault=error.fault)

    async def _live(self, job: Job, file: BinaryIO | None) -> None:
        if file:
            job.name = await self._submitted(job, file)
            file.close()
        while job.left:
            job.name = job.name or await self._found_again(job)
            if job.name is None:  # it was never accepted
                self._over(job, None)
                return
            if await self._merged(job, await self._ended(job)):
                self._over(job, None)
                return
            job.not_ours.add(job.name)
            job.name = None
        self._over(job, None)

    # --- submission ---------------------------------------------------------------------------------------------------

    async def _submitted(self, job: Job, file: BinaryIO) -> str:
        """The provider's name for the job. Where an answer was lost it is searched for before it is sent again."""
        ours, tried = job.row.job, False

        async def create() -> str:
            nonlocal tried
            if tried and (found := await self._find(job)):
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

    async def _found_again(self, job: Job) -> str | None:
        """The provider's name for a job of which it was never heard; None where the provider has none. A job that was
        being accepted when its sender was killed may come up a moment later: a second look decides."""
        for look in range(2):
            if look:
                await asyncio.sleep(self._first_pause)
            if found := await self._patiently(lambda: self._find(job)):
                return found
        return None

    async def _find(self, job: Job) -> str | None:
        known = self.caller.ledger.job_names() | job.not_ours
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
                if key not in job.left:
                    return None
                self._prove(job, job.name or "")
            if key in job.left:
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
        keys = list(job.left)
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
        job.left.difference_update(lines)
        self._count(job, entries, failures, spent, lost)
        self._settle(job, sum(line.most_usd for line in lines.values()), spent + lost)
        for key in lines:
            self.inside.pop(key, None)
        for entry in stored:
            if call := self.caller.calls.get(entry.key):
                self.caller.finish(call, entry)
        self._again(failures)

    def _read(self, result: Result, line: JobLine) -> Reply:
        """The reply in a line, read as a call's answer is. Raises CallFailed."""
        if isinstance(result, CallFailed):
            raise result
        answer: Answer = self.caller.model.routes[0].read(result, _as_asked(line.reading))
        return answer.reply

    def _entry(self, job: Job, line: JobLine, reply: Reply) -> Entry:
        call, price = self.caller.calls.get(line.key), self.caller.price
        return Entry(
            line.key,
            self.caller.model.identity.name,
            reply,
            line.context,
            price.cost(reply, batch=True) if price else None,
            (time.time() - job.row.created) / job.row.lines,
            max(1, call.attempts if call else 1),
            run=job.row.run,
        )

    def _count(
        self, job: Job, entries: Sequence[Entry], failures: Mapping[str, CallFailed], spent: float, lost: float
    ) -> None:
        account = self.caller.account
        for entry in entries:
            account.count(entry.reply)
        account.in_jobs += len(entries)
        account.fetched += len(entries) if job.adopted else 0
        account.faults.update(error.fault or "failed" for error in failures.values())
        account.maybe_billed += sum(error.fault in MAYBE_BILLED for error in failures.values())
        account.seconds += max(0.0, time.time() - max(job.row.created, self._counted))
        self._counted = time.time()
        if job.row.run == self.caller.purse.run:
            account.spent_usd += spent + lost

    def _settle(self, job: Job, reserved: float, spent: float) -> None:
        if job.row.run == self.caller.purse.run:
            self.caller.purse.settle_in_job(reserved, spent)

    def _again(self, failures: Mapping[str, CallFailed]) -> None:
        """Requests that a job did not answer: into the next job, as often as calls are tried, or failed."""
        caller, forgotten, again = self.caller, [], []
        for key, error in failures.items():
            call = caller.calls.get(key)
            if call is None:  # of an earlier run: asked again when somebody asks
                forgotten.append(key)
            elif error.retryable and call.attempts < caller.pace.attempts:
                again.append(call)
            else:
                tries = f" (in {call.attempts} jobs)" if call.attempts > 1 else ""
                retryable = error.retryable or error.fault == "barred"
                caller.fail(call, CallFailed(f"{error}{tries}", retryable=retryable, fault=error.fault))
        caller.ledger.release(forgotten)
        self._back(again)

    def _back(self, calls: Sequence[Call]) -> None:
        """Ask again: in a job, or one by one where jobs are not wanted any more."""
        if self.settings:
            self.waiting += calls
            self._gather()
        else:
            self.caller.enqueue(calls)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _over(self, job: Job, error: CallFailed | None, billed: bool = False) -> None:
        """A job is over, or never was. Requests that it leaves fail with ``error``; without one they are asked again.
        By ``billed`` what they may have cost counts in full."""
        ledger, reserved = self.caller.ledger, self.caller.ledger.job_usd(job.row.job)
        if billed:
            ledger.charge(job.row.run, reserved)
        ledger.end_job(job.row)
        self._settle(job, reserved, reserved if billed else 0.0)
        calls = self._let_go(job)
        if error is None:
            self._back(calls)
        else:
            for call in calls:
                self.caller.fail(call, error)

    def _leave(self, job: Job, error: BaseException) -> None:
        """A job is left as it stands, for whoever asks for its requests next."""
        keys = [job.row.job, *job.left]
        calls = self._let_go(job)
        if not isinstance(error, StorageError):
            self.caller.ledger.release(keys)
        for call in calls:
            self.caller.end(call, error)

    def _let_go(self, job: Job) -> list[Call]:
        """This process does not see to a job any more; returns the calls that wait for it."""
        self.open.remove(job)
        self._seen_to.pop(job, None)
        for key in job.left:
            self.inside.pop(key, None)
        return [call for key in job.left if (call := self.caller.calls.get(key))]

    async def stop(self, grace_seconds: float) -> None:
        """Submit nothing more. Jobs go on at the provider; one that is being submitted may still be accepted."""
        submitting = [task for job, task in self._seen_to.items() if job.submitting]
        if submitting:
            await asyncio.wait(submitting, timeout=grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.open:
            names = ", ".join(job.name or "one whose name is not known yet" for job in self.open)
            left = sum(len(job.left) for job in self.open)
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
        for job in self.open:
            lines, done = job.row.lines, job.status.done if job.status else 0
            how = f"{max(done, lines - len(job.left)):,} of {lines:,} done, submitted {_ago(time.time() - job.row.created)} ago"
            said.append(f"job {job.number}: {how if job.name else f'{lines:,} requests are being submitted'}")
        if self.waiting:
            said.append(f"{len(self.waiting):,} gathered for the next job")
        return said


def _reading(request: ChatRequest) -> str:
    """What reading a reply needs of its request."""
    shape = ChatRequest(messages=(), options=request.options, json_schema=request.json_schema)
    return shape.model_dump_json(exclude_defaults=True)


@lru_cache(maxsize=64)
def _as_asked(reading: str) -> ChatRequest:
    return ChatRequest.model_validate_json(reading)


def _delay(state: Any) -> float:
    """Seconds before something is tried again: what the provider asks for, else full jitter (Brooker 2015)."""
    error = state.outcome.exception()
    if error.retry_after is not None:
        return float(min(LONGEST_RETRY_AFTER, error.retry_after)) + random.uniform(0.0, 0.1)
    return random.uniform(0.0, min(LONGEST_DELAY, 0.5 * 2.0**state.attempt_number))


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
