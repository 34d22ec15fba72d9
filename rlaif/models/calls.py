"""Calls to one model behind an API: from the ledger where the reply is there, else made at the pace that its limits,
its refusals and its outages allow, tried again where that may help, and committed before any caller sees the reply.

A call waits in one queue. A worker holds a place in flight on one route (an endpoint with a key): it takes calls until
none is left. What fails and may be tried again returns to the queue after its delay, and its worker goes on with the
next, so that one slow or unlucky call costs no other.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlaif.component import users_code
from rlaif.errors import CallError, CallFailed, OverBudget, StorageError, UserError
from rlaif.ledger import CLAIM_SECONDS, Entry, Ledger
from rlaif.models import Answer, ChatRequest, Notice, Reply
from rlaif.models.jobs import ANNOUNCING, Announced, Jobs
from rlaif.models.pacing import MAYBE_BILLED, Gate, Pace, delay_before
from rlaif.models.spending import Price, Purse

ELSEWHERE_SECONDS = 0.25  # between looks at what another process is asking
OUTAGE = ("overloaded", "unreachable", "lost", "garbled")
NOT_KEPT = "its reply is not in the ledger"  # the reason where nothing may be asked


class Route(Protocol):
    """One way to a model: an endpoint with a key."""

    name: str
    weight: float

    async def complete(self, request: ChatRequest, timeout_seconds: float) -> Answer: ...


class PlainRoute:
    """A model that has no routes of its own: a class that a user wrote, a script."""

    name = ""
    weight = 1.0

    def __init__(self, model: Any) -> None:
        self.model = model

    async def complete(self, request: ChatRequest, timeout_seconds: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_seconds):
                reply = await self.model.complete(request)
        except TimeoutError as error:
            raise CallFailed(f"no answer within {timeout_seconds:g} s", retryable=True, fault="lost") from error
        if not isinstance(reply, Reply):
            raise TypeError(f"expected 1 Reply, got 1 of {type(reply).__name__}")
        return Answer(reply)


@dataclass
class Account:
    """What one model was asked and what it took in this process; stored replies are counted apart."""

    asked: int = 0  # requests that went to the model, however often each was tried
    from_ledger: int = 0
    failed: int = 0
    missing: int = 0  # that were not in the ledger, where nothing may be asked
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0  # of computing; of calls, from the first sent to the last answered
    spent_usd: float = 0.0
    in_jobs: int = 0  # replies that came by the provider's batch API
    fetched: int = 0  # of those, in jobs that an earlier process submitted
    without_usage: int = 0  # replies that do not say what they used, counted in full where they cost something
    maybe_billed: int = 0  # attempts that brought no reply and were counted in full
    faults: Counter[str] = field(default_factory=Counter)  # attempts that failed, by their fault
    in_flight: int = 0
    most_in_flight: int = 0

    def __str__(self) -> str:
        """The account in one line for a person."""
        rate = f", {self.asked / self.seconds:,.0f}/s" if self.seconds else ""
        parts = [
            f"{self.asked:,} asked, {self.from_ledger:,} from the ledger, {self.failed:,} failed, "
            f"{self.prompt_tokens:,} + {self.output_tokens:,} tokens, {self.seconds:.1f} s{rate}"
        ]
        if self.missing:
            parts.append(f"{self.missing:,} not in the ledger")
        if self.in_jobs:
            earlier = f", {self.fetched:,} of them in jobs of an earlier run" if self.fetched else ""
            parts.append(f"{self.in_jobs:,} by batch jobs{earlier}")
        if self.cached_tokens:
            parts.append(f"{self.cached_tokens:,} tokens read from the provider's cache")
        if self.most_in_flight:
            parts.append(f"at most {self.most_in_flight} in flight")
        if self.faults:
            faults = ", ".join(f"{count:,} {fault.replace('_', ' ')}" for fault, count in self.faults.most_common())
            parts.append(f"attempts that failed: {faults}")
        if self.spent_usd:
            parts.append(f"{self.spent_usd:.4f} USD")
        if self.without_usage:
            parts.append(f"{self.without_usage:,} replies that do not say what they used counted in full")
        if self.maybe_billed:
            parts.append(f"{self.maybe_billed:,} attempts without a reply counted in full")
        return "; ".join(parts)

    def count(self, reply: Reply) -> None:
        self.prompt_tokens += reply.prompt_tokens
        self.output_tokens += reply.output_tokens
        self.cached_tokens += reply.cached_tokens


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way to a reply, for all who ask for it meanwhile. The ledger hands it what is stored, as it would
    a future."""

    request: ChatRequest
    key: str
    context: str
    forget: Callable[[Call], None]
    askers: list[asyncio.Future[Entry]] = field(default_factory=list)
    tokens: int = 0  # at most, prompt and reply together
    most_usd: float = 0.0
    attempts: int = 0
    refusals: int = 0  # for the rate of calls: nothing was tried
    prepared: bool = False
    began: float = 0.0  # when its first attempt was sent
    ended: bool = False
    announced: bool = False  # to be put into a job, and asked again when that is over

    def done(self) -> bool:
        return self.ended

    @property
    def unwanted(self) -> bool:
        """Whether all who asked have left."""
        return all(asker.done() for asker in self.askers)

    def _end(self) -> list[asyncio.Future[Entry]]:
        """It is over; who still waits is to be told."""
        self.ended = True
        self.forget(self)
        return [asker for asker in self.askers if not asker.done()]

    def set_result(self, entry: Entry) -> None:
        for asker in self._end():
            asker.set_result(entry)

    def set_exception(self, error: BaseException) -> None:
        for asker in self._end():
            asker.set_exception(error)
            asker.exception()  # a caller that is gone leaves nobody to look

    def cancel(self) -> None:
        for asker in self._end():
            asker.cancel()


@dataclass(eq=False)
class Lane:
    """A route with what is known of its limits."""

    route: Route
    gate: Gate
    workers: int = 0
    dead: str = ""  # why no call can succeed here
    probing: bool = False

    def called(self, model: Any) -> str:
        """Its name for a person."""
        return self.route.name or str(model.identity.name)


class Caller:
    """The calls to one model. ``stop`` makes it end; ``ask`` is all that others need."""

    def __init__(
        self,
        model: Any,
        ledger: Ledger,
        purse: Purse,
        account: Account,
        price: Price | None,
        offline: bool = False,
        notice: Notice = lambda line: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``changed`` is called where something has got on that is no reply."""
        self.model, self.ledger, self.purse, self.account, self.price = model, ledger, purse, account, price
        self.offline, self.notice = offline, notice
        self.pace: Pace = getattr(model, "pace", None) or Pace()
        routes: tuple[Route, ...] = getattr(model, "routes", ()) or (PlainRoute(model),)
        whole = sum(route.weight for route in routes)
        self.lanes = [Lane(route, Gate(self.pace, route.weight / whole)) for route in routes]
        self.queue: deque[Call] = deque()
        self.calls: dict[str, Call] = {}  # unfinished, by key
        self.delayed = 0  # calls that wait to be tried again
        self.stopping = False
        self._asked: list[Call] = []
        self._room: asyncio.Future[None] | None = None  # for whoever waits to ask more
        self._elsewhere: list[Call] = []
        self._released: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._loop = asyncio.get_running_loop()
        self._first_sent = 0.0
        self._stopped = asyncio.Event()
        self.jobs = Jobs(self, model.jobs(), model.options.batch, notice, changed) if hasattr(model, "jobs") else None

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, request: ChatRequest, key: str, context: str) -> Entry:
        """The reply, from the ledger or from the model. Raises CallError, StorageError, or what the model raised."""
        while True:
            call = self.calls.get(key)
            joined = call is not None
            if call is None:
                call = self._begin(request, key, context)
            asker: asyncio.Future[Entry] = self._loop.create_future()
            call.askers.append(asker)
            try:
                entry = await asker
                break
            except Announced:
                if not joined or ANNOUNCING.get():
                    raise  # else it was announced by another: ask again
            finally:
                del (
                    call,
                    asker,
                )  # else a failure, its traceback and this frame are a cycle: many of those are much memory
        self.account.from_ledger += joined
        return entry

    def _begin(self, request: ChatRequest, key: str, context: str) -> Call:
        call = self.calls[key] = Call(request, key, context, self.forget)
        call.announced = ANNOUNCING.get() and self.in_jobs
        if not self._asked:
            self._loop.call_soon(self._look_up)
        self._asked.append(call)
        return call

    async def room(self) -> None:
        """Return when no more calls wait to be made than may be in flight: more would only lie about."""
        for _ in range(2):  # what was begun just now asks, and is looked up
            await asyncio.sleep(0)
        while len(self.queue) > self.pace.max_in_flight and not self.stopping:
            self._room = self._loop.create_future()
            await self._room

    @property
    def in_jobs(self) -> bool:
        """Whether the model is asked through its provider's batch API."""
        return self.jobs is not None and self.jobs.settings is not None

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self.calls) or (self.jobs is not None and bool(self.jobs.open))

    def _look_up(self) -> None:
        """Find all that was asked in this tick in the ledger, and claim the rest."""
        asked, self._asked = self._asked, []
        try:
            self._find(asked)
        except BaseException as error:  # whatever it is, no caller may wait for ever
            for call in asked:
                self.end(call, error)
            if not isinstance(error, Exception):
                raise

    def _find(self, asked: list[Call]) -> None:
        """Answer from the ledger; of the rest, see to what is ours to ask and wait for what another process asks."""
        stored = self.ledger.get([call.key for call in asked])
        missing = []
        for call in asked:
            if entry := stored.get(call.key):
                self._count_stored(call)
                self.finish(call, entry)
            elif objection := self._objection(call.request):
                self.account.failed += not call.announced
                self.end(call, CallFailed(objection))
            elif self.offline:
                self.account.missing += 1
                self.end(call, CallFailed(NOT_KEPT, retryable=True))
            else:
                missing.append(call)
        claimed = self.ledger.claim_each([call.key for call in missing], CLAIM_SECONDS) if missing else set()
        self._await_elsewhere([call for call in missing if call.key not in claimed])
        self._take([call for call in missing if call.key in claimed])

    def _count_stored(self, call: Call) -> None:
        """A reply was in the ledger: from an earlier run, unless a job of this one has brought it meanwhile."""
        if call.announced:
            return
        if self.jobs and self.jobs.unclaimed:
            self.jobs.unclaimed -= 1
        else:
            self.account.from_ledger += 1

    def _take(self, calls: list[Call]) -> None:
        """See to calls that this process has claimed."""
        if self.jobs and calls:
            calls, elsewhere = self.jobs.take(calls)
            self._await_elsewhere(elsewhere)
        self.enqueue(calls)

    def enqueue(self, calls: Iterable[Call]) -> None:
        """Make calls, one by one."""
        self.queue.extend(calls)
        self._pump()

    def _await_elsewhere(self, calls: list[Call]) -> None:
        """Wait for what another process asks."""
        if calls and not self._elsewhere:
            self._start(self._watch())
        self._elsewhere += calls

    def _objection(self, request: ChatRequest) -> str | None:
        """Why the model cannot be asked this, before it costs anything."""
        return self.model.objection(request) if hasattr(self.model, "objection") else None

    async def _watch(self) -> None:
        """Look now and then whether another process has the replies, or has given up."""
        while self._elsewhere:
            await asyncio.sleep(ELSEWHERE_SECONDS)
            waiting, self._elsewhere = self._elsewhere, []
            try:
                stored = self.ledger.get([call.key for call in waiting])
                claimed = self.ledger.claim_each([c.key for c in waiting if c.key not in stored], CLAIM_SECONDS)
                again = self.ledger.get(claimed)  # finished just before the claim
                if again:
                    self.ledger.release(list(again))
            except StorageError as error:
                for call in waiting:
                    self.end(call, error)
                continue
            stored |= again
            ours = []
            for call in waiting:
                if call.key in stored:
                    self.account.from_ledger += 1
                    self.finish(call, stored[call.key])
                elif call.key in claimed:
                    ours.append(call)
                else:
                    self._elsewhere.append(call)
            self._take(ours)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What a task of ours raises is a bug: no caller may wait for ever for it."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.break_off(error)

    def break_off(self, error: BaseException) -> None:
        """Every caller has the error."""
        told = self.told(error)
        for call in list(self.calls.values()):
            self.end(call, told)

    def _pump(self) -> None:
        """As many workers as there are calls for, on the routes with most room."""
        if self.stopping:
            return
        wanted = len(self.queue)
        while wanted > 0:
            open_lanes = [lane for lane in self.lanes if self._takes(lane)]
            if not open_lanes:
                break
            lane = min(open_lanes, key=lambda lane: lane.workers / lane.route.weight)
            lane.workers += 1
            wanted -= 1
            self._start(self._work(lane))
        if self.queue and all(lane.dead for lane in self.lanes):
            self._give_up()

    def _takes(self, lane: Lane) -> bool:
        return not lane.dead and not lane.gate.breaker.open and lane.workers < lane.gate.concurrency.limit

    def _next(self) -> Call:
        """Take the call that has waited longest; the queue is not empty."""
        call = self.queue.popleft()
        if self._room and len(self.queue) <= self.pace.max_in_flight:
            self._make_room()
        return call

    def _make_room(self) -> None:
        if self._room and not self._room.done():
            self._room.set_result(None)
        self._room = None

    async def _work(self, lane: Lane) -> None:
        gate = lane.gate
        try:
            while self.queue and not self.stopping and not lane.dead and not gate.breaker.open:
                if lane.workers > gate.concurrency.limit:
                    break
                await self._attempt(lane, self._next())
                if self.queue and lane.workers < gate.concurrency.limit:
                    self._pump()  # there is more room than before
        finally:
            lane.workers -= 1
        if gate.breaker.open and not lane.probing and not lane.dead:
            lane.probing = True
            self._start(self._probe(lane))
        elif self.queue:
            self._pump()

    async def _probe(self, lane: Lane) -> None:
        """In an outage: one call after each pause, until one is answered or patience ends."""
        breaker, told = lane.gate.breaker, False
        try:
            while breaker.open and not self.stopping and not lane.dead:
                if breaker.gone(self._loop.time()):
                    lane.dead = f"{lane.called(self.model)}: no answer for {breaker.patience:g} s ({breaker.why})"
                    break
                await asyncio.sleep(breaker.pause)
                if not self.queue:
                    break  # the next call that comes is the probe
                call = self._next()
                call.attempts -= 1  # the outage is not this call's doing
                await self._attempt(lane, call)
                if breaker.open:
                    breaker.lengthen()
                if breaker.long and not told:
                    told = True
                    self.notice(
                        f"{lane.called(self.model)} does not answer ({breaker.why}): calls wait for it, "
                        f"{breaker.patience:g} s at most."
                    )
        finally:
            lane.probing = False
        if told and not breaker.open:
            self.notice(f"{lane.called(self.model)} answers again.")
        self._pump_after(lane)

    def _pump_after(self, lane: Lane) -> None:
        """Go on after an outage; where there was nothing to try, the next call tries."""
        if lane.gate.breaker.open and not lane.dead:
            lane.gate.breaker.succeeded()
        self._pump()

    def _give_up(self) -> None:
        """No route is left: every call that waits fails, and can be made by a later run."""
        why = "; ".join(lane.dead for lane in self.lanes)
        while self.queue:
            self.fail(self._next(), CallFailed(why, retryable=True))

    # --- one attempt --------------------------------------------------------------------------------------------------

    async def _attempt(self, lane: Lane, call: Call) -> None:
        """One attempt of a call that somebody still waits for. It leaves the call answered, failed, or to be tried again."""
        if call.unwanted:
            self._give_back(call)
            return
        try:
            await self._try(lane, call)
            await self.ledger.committed()  # until then it is in flight: a kill would lose it
        except StorageError as error:  # the ledger cannot keep account: nothing more may be spent on it
            self.end(call, error)

    async def _try(self, lane: Lane, call: Call) -> None:
        if not call.prepared:
            self.prepare(call)
            call.prepared = True
            self.account.asked += 1
        if not await self.purse.reserve(call.most_usd):
            self.fail(call, OverBudget())
            return
        spent, headroom, cohort, refused, sent = 0.0, None, None, False, 0.0
        account = self.account
        wait = lane.gate.take(call.tokens, self._loop.time())
        try:
            if wait > 0:
                await self._pause(wait)
            if self.stopping or call.unwanted:  # nothing is sent that nobody waits for
                self._give_back(call)
                return
            call.attempts += 1
            account.in_flight += 1
            account.most_in_flight = max(account.most_in_flight, account.in_flight)
            sent = self._loop.time()
            call.began = call.began or sent
            self._first_sent = self._first_sent or sent
            cohort = lane.gate.finder.sent(sent)
            try:
                answer = await lane.route.complete(call.request, self.pace.timeout_seconds)
            except asyncio.CancelledError:
                spent = self._maybe_billed(call)
                raise
            finally:
                account.in_flight -= 1
            headroom = answer.headroom
            spent = self._answered(lane, call, answer.reply, sent)
        except CallFailed as error:
            refused, headroom = error.fault == "rate_limited", error.headroom
            spent = self._failed(lane, call, error)
        except CallError as error:
            self.fail(call, error)
        except BaseException as error:  # a bug, or a stop: no caller may wait for ever
            self.account.failed += 1
            self.end(call, self.told(error))
            if not isinstance(error, Exception):
                raise
        finally:
            now = self._loop.time()
            lane.gate.ended(call.tokens, headroom, now)
            if cohort:
                lane.gate.finder.ended(cohort, refused, now, now - sent)
            self.purse.settle(call.most_usd, spent)
        if pause := lane.gate.finder.pause(refused):
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not once the end has come."""
        if not self.stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)

    def _give_back(self, call: Call) -> None:
        """A call that was not made after all."""
        if not self.stopping:
            self.forget(call)
            self._free(call.key)

    def prepare(self, call: Call, batch: bool = False) -> None:
        """The most tokens and money that a call can take, by itself or by ``batch`` in a job."""
        if not hasattr(self.model, "upper_bound"):
            return
        prompt, output = self.model.upper_bound(call.request)
        call.tokens = prompt + output
        if self.price:
            call.most_usd = self.price.most(prompt, output, batch)

    def _answered(self, lane: Lane, call: Call, reply: Reply, sent: float) -> float:
        """Hand the reply to the ledger; the caller sees it once it is committed. Returns what it cost."""
        now = self._loop.time()
        lane.gate.concurrency.ended(overloaded=False)
        lane.gate.breaker.succeeded()
        lane.gate.answered()
        account = self.account
        account.count(reply)
        account.seconds = now - self._first_sent
        cost = self.cost(reply, call.most_usd)
        account.spent_usd += cost or 0.0
        name = self.model.identity.name
        entry = Entry(call.key, name, reply, call.context, cost, now - sent, max(1, call.attempts), run=self.purse.run)
        self.ledger.record(entry, call)
        return cost or 0.0

    def cost(self, reply: Reply, most_usd: float, batch: bool = False) -> float | None:
        """What a reply cost; the most it could where the server does not say what it used. None: no price is known."""
        if self.price is None:
            return None
        if not (reply.prompt_tokens or reply.output_tokens):
            self.account.without_usage += 1
            return most_usd
        return self.price.cost(reply, batch)

    def _failed(self, lane: Lane, call: Call, error: CallFailed) -> float:
        """Try again, or let the caller know. Returns what may have been billed."""
        now, gate = self._loop.time(), lane.gate
        self.account.faults[error.fault or "failed"] += 1
        gate.concurrency.ended(error.fault in ("overloaded", "lost"))
        if error.fault in OUTAGE and error.reply is None:
            gate.breaker.failed(now, str(error))
        else:
            gate.breaker.succeeded()
        if error.fault == "barred":
            lane.dead = f"{lane.route.name}: {error}" if lane.route.name else str(error)
            self.queue.append(call)  # for another route, or to fail with the rest
            self._pump()
            return 0.0
        patience = self.pace.patience_seconds
        waited = now - call.began > patience
        refused = ""
        if error.fault == "rate_limited":
            call.attempts, call.refusals = call.attempts - 1, call.refusals + 1  # nothing was tried
            refused = f"{lane.called(self.model)}: nothing but refusals for {patience:g} s: {error}"
            if gate.refused_for(now) > patience:
                lane.dead = refused
        if not error.retryable or waited or call.attempts >= self.pace.attempts or self.stopping:
            tries = f" (tried {call.attempts} times)" if call.attempts > 1 else ""
            message = refused if refused and waited and not call.attempts else f"{error}{tries}"
            self.fail(call, CallFailed(message, retryable=error.retryable, fault=error.fault))
        else:
            self._later(call, delay_before(call.attempts + call.refusals, error.retry_after))
        if error.reply is not None and self.price:  # it says what it used
            usd = self.price.cost(error.reply)
            self.account.spent_usd += usd
            self.purse.charge(usd)
            return usd
        return self._maybe_billed(call) if error.fault in MAYBE_BILLED else 0.0

    def _later(self, call: Call, seconds: float) -> None:
        def again() -> None:
            self._timers.discard(timer)
            self.delayed -= 1
            self.queue.appendleft(call)
            self._pump()

        self.delayed += 1
        timer = self._loop.call_later(seconds, again)
        self._timers.add(timer)

    def _maybe_billed(self, call: Call) -> float:
        """An attempt that brought no reply and may have been billed counts in full."""
        self.account.maybe_billed += 1
        self.account.spent_usd += call.most_usd
        self.purse.charge(call.most_usd)
        return call.most_usd

    # --- ends ---------------------------------------------------------------------------------------------------------

    def forget(self, call: Call) -> None:
        if self.calls.get(call.key) is call:
            del self.calls[call.key]

    def finish(self, call: Call, entry: Entry) -> None:
        call.set_result(entry)

    def end(self, call: Call, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            call.cancel()
        else:
            call.set_exception(error)

    def fail(self, call: Call, error: BaseException) -> None:
        self.account.failed += not call.announced
        self.end(call, error)
        self._free(call.key)

    def _free(self, key: str) -> None:
        """Other processes may ask it."""
        if not self._released:
            self._loop.call_soon(self._release)
        self._released.append(key)

    def _release(self) -> None:
        released, self._released = self._released, []
        self.ledger.release(released)

    def told(self, error: BaseException) -> BaseException:
        """What a provider raised that is no CallError: one line where the class is a user's, else the bug itself."""
        try:
            with users_code(self.model, "answering requests"):
                raise error
        except UserError as told:
            return told
        except type(error):
            return error

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing more; what is in flight may still arrive, and is kept. Then it is cancelled."""
        self.stopping = True
        self._stopped.set()
        for timer in self._timers:
            timer.cancel()
        waiting = [*self._asked, *self._elsewhere, *self.queue]
        self.queue.clear()
        self._make_room()
        self._elsewhere.clear()
        if self._tasks and (left := self.account.in_flight):
            self.notice(
                f"{left} calls are in flight: their replies are waited for, {grace_seconds:g} s at most. Ctrl-C leaves "
                "them: they may be billed all the same."
            )
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.jobs:
            await self.jobs.stop(grace_seconds)
        await asyncio.sleep(0)  # the ledger commits what arrived last
        for call in (*waiting, *list(self.calls.values())):
            call.cancel()
        self.calls.clear()
        if hasattr(self.model, "close"):
            await self.model.close()

    def standing(self) -> str:
        """What a person watching wants to know now, in a few words."""
        said = self.jobs.standing() if self.jobs else []
        parts = said if said and not self.account.in_flight else [*said, f"{self.account.in_flight} in flight"]
        held = len(self.queue) + self.delayed
        if self.delayed:
            parts.append(f"{self.delayed} to be tried again")
        if any(lane.gate.breaker.open for lane in self.lanes):
            parts.append(f"paused: {held} wait for the provider to answer")
        elif any(lane.gate.finder.rate or lane.gate.requests.rate or lane.gate.tokens.rate for lane in self.lanes):
            parts.append(f"{held} wait on limits")
        return ", ".join(parts)
