"""Between whoever asks and whoever answers: the ledger, batching, and what it all took.

``ask`` looks like a plain call. Behind it, requests to a model in this process wait until nothing more is being asked,
are cut into batches by the model's own plan, and each batch is committed to the ledger as one transaction before any
caller sees a reply. A planned batch is committed whole or not at all, so a resumed run meets the same batches and the
same bytes; where another run has asked some of its requests, only the others are computed. Models run in one worker
thread; Ctrl-C and progress stay alive. Calls to models behind an API go through ``calls.Caller``: limits, retries,
outages, money.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rlaif.component import users_code
from rlaif.errors import CallFailed, CallRefused, ConfigError
from rlaif.ledger import CLAIM_SECONDS, Entry, Ledger
from rlaif.models import BatchModel, ChatRequest, Identity, Model, Notice, Reply, request_key
from rlaif.models.calls import NOT_KEPT, Account, Caller
from rlaif.models.jobs import ANNOUNCING
from rlaif.models.prices import is_paid
from rlaif.models.spending import Price, Purse
from rlaif.ondisk import Kept
from rlaif.records import canonical_json

S = TypeVar("S")
T = TypeVar("T")
QUIET_TICKS = 8  # passes of the event loop without a new request before a batch is planned
ANSWERING = "answering requests"  # what a user's own provider was doing when it raised


@dataclass
class _Queue:
    pending: list[tuple[ChatRequest, str, asyncio.Future[Entry]]] = field(default_factory=list)
    worker: asyncio.Task[None] | None = None


class Gateway:
    """One per run. ``replies`` is called with the number of finished requests, for progress.

    ``run`` names who pays, over any number of restarts; ``budget_usd`` is a hard cap on it, or on all runs of its ``pot``. ``prices``
    finds a model's price. ``offline``: no model is asked anything, replies come from the ledger alone.
    """

    def __init__(
        self,
        ledger: Ledger,
        replies: Callable[[int], None] = lambda count: None,
        *,
        run: str = "",
        budget_usd: float | None = None,
        prices: Callable[[Any], Price | None] = lambda model: None,
        offline: bool = False,
        grace_seconds: float = 30.0,
        notice: Notice = lambda line: None,
    ) -> None:
        self.ledger = ledger
        self.replies = replies
        self.run, self.budget_usd, self.prices, self.offline = run, budget_usd, prices, offline
        self.pot = ""  # the budget that the run has with others
        self.notice = notice
        self.grace_seconds = grace_seconds  # for calls in flight, when the run ends before they do
        self.accounts: dict[str, Account] = {}
        self._queues: dict[int, _Queue] = {}
        self._callers: dict[str, Caller] = {}  # by identity: two roles may name one model
        self._caller_of: dict[int, tuple[Any, Caller]] = {}  # the same, by object
        self._purse: Purse | None = None
        self._turn = asyncio.Lock()  # of those who begin requests to models behind APIs
        self._renewal: asyncio.Task[None] | None = None
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlaif-model")

    async def close(self) -> None:
        """Wait for the batch in the worker thread and for calls in flight, so that what they bring is kept, and stop."""
        self._closing = True
        await asyncio.gather(*(caller.stop(self.grace_seconds) for caller in self._callers.values()))
        if self._purse:
            self._purse.close()
        if self._renewal:
            self._renewal.cancel()
        for queue in self._queues.values():
            if queue.worker and not queue.worker.done():
                await asyncio.gather(queue.worker, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def in_worker(
        self, function: Callable[..., T], *arguments: Any, stop: Callable[[], None] = lambda: None
    ) -> T:
        """Run ``function`` in the model thread. Threads cannot be stopped: when the caller is cancelled, ``stop`` asks
        the function to end, and the caller waits until it has."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # ended as asked
            raise

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """While it lasts, finished requests are no stage's progress."""
        counted, self.replies = self.replies, lambda count: None
        try:
            yield
        finally:
            self.replies = counted

    def account(self, identity: Identity) -> Account:
        return self.accounts.setdefault(identity.name, Account())

    async def ask(self, model: Model, request: ChatRequest, context: dict[str, Any]) -> tuple[str, Reply]:
        """The reply and its ledger key. Raises CallRefused or CallFailed; StorageError if it cannot be kept."""
        key = request_key(request, model.identity)
        if not self._renewal:
            self._renewal = asyncio.create_task(self._renew())
        known = self._caller_of.get(id(model))
        if known is None and isinstance(model, BatchModel):
            entry = await self._queued(model, request, key, canonical_json(context))
        else:
            _, caller = known or self._find_caller(model)
            try:
                entry = await caller.ask(request, key, canonical_json(context))
            finally:
                self.replies(1)
        if entry.reply.finish_reason == "refused":
            raise CallRefused("the provider declined to answer", key=key)
        return key, entry.reply

    # --- models behind an API ---------------------------------------------------------------------------------------

    def _find_caller(self, model: Any) -> tuple[Any, Caller]:
        name = model.identity.sha256
        if name not in self._callers:
            account, price = self.account(model.identity), self.prices(model)
            if self.budget_usd is not None and price is None and is_paid(model):
                raise ConfigError(f"budget_usd cannot be kept: no price is known of {model.identity.name}.")
            self._callers[name] = Caller(
                model,
                self.ledger,
                self.purse,
                account,
                price,
                self.offline,
                notice=self.notice,
                changed=lambda: self.replies(0),
            )
        self._caller_of[id(model)] = model, self._callers[name]
        return self._caller_of[id(model)]

    async def _renew(self) -> None:
        """Keep other processes from what this one has claimed, as long as it lives."""
        while True:
            await asyncio.sleep(CLAIM_SECONDS / 3)
            self.ledger.renew(CLAIM_SECONDS)

    @property
    def purse(self) -> Purse:
        """What the run has spent, and may."""
        if self._purse is None:
            self._purse = Purse(self.ledger, self.run, self.budget_usd, self.pot)
        return self._purse

    def standing(self) -> str:
        """What is going on between askers and models behind APIs, in a few words for a person."""
        parts = [caller.standing() for caller in self._callers.values() if caller.busy]
        if self._purse and self._purse.spent_usd:
            left = self._purse.left_usd
            parts.append(f"{self._purse.spent_usd:.2f} USD spent" + (f", {left:.2f} left" if left is not None else ""))
        return "; ".join(parts)

    async def in_order(
        self,
        models: Iterable[Any],
        batches: AsyncIterator[list[S]],
        work: Callable[[list[S]], Coroutine[Any, Any, list[T]]],
    ) -> AsyncIterator[list[T]]:
        """``work`` on each batch of input, which asks ``models``; the results in order. Several batches are under way at
        once, where models are behind APIs; where a model is asked in jobs, all of the input is."""
        found = list(models)
        local = any(isinstance(model, BatchModel) for model in found)
        behind_apis = [] if self.offline else [model for model in found if not isinstance(model, BatchModel)]
        callers = [caller for _, caller in map(self._find_caller, behind_apis)]
        if in_jobs := [caller for caller in callers if caller.in_jobs]:
            batches = self._through_jobs(in_jobs, batches, work)
        several = found and not local  # a model in this process plans its own batches from one at a time
        async for results in in_order(batches, work, (lambda: self._begun(callers)) if several else None):
            yield results

    async def _begun(self, callers: Sequence[Caller]) -> None:
        """Return when all that was started has begun, and few of its calls wait to be made."""
        await asyncio.sleep(0)  # what was started just now asks for its turn
        async with self._turn:
            for caller in callers:
                await caller.room()

    async def gather(self, models: Iterable[Any], coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """``gather_all`` for what asks ``models``. Where all of those are behind APIs, it is begun a few at a time, as calls
        before it are made: nothing is rendered long before its turn, and answers are taken in meanwhile."""
        found = list(models)
        if self.offline or any(isinstance(model, BatchModel) for model in found):
            return await gather_all(coroutines)
        callers = [caller for _, caller in map(self._find_caller, found)]
        tasks: list[asyncio.Task[T]] = []
        async with together() as group, self._turn:
            for coroutine in coroutines:
                tasks.append(group.create_task(coroutine))
                if len(tasks) % BEGUN_AT_ONCE == 0:
                    for caller in callers:
                        await caller.room()
        return [task.result() for task in tasks]

    async def _through_jobs(
        self,
        callers: Sequence[Caller],
        batches: AsyncIterator[list[S]],
        work: Callable[[list[S]], Coroutine[Any, Any, list[T]]],
    ) -> AsyncIterator[list[S]]:
        """The batches, once jobs have answered what ``work`` asks about them: round after round, for what it asks may
        follow from replies, and jobs leave requests unanswered."""
        kept: Kept[list[S]] = Kept()
        async for batch in batches:
            kept.add(batch)
            await self._announce(work, batch)
        while any(await asyncio.gather(*(caller.jobs.round() for caller in callers if caller.jobs))):
            for batch in kept:
                await self._announce(work, batch)
        for batch in kept:
            yield batch

    async def _announce(self, work: Callable[[list[S]], Coroutine[Any, Any, list[T]]], batch: list[S]) -> None:
        """Let ``work`` ask what it would ask; the results are none."""
        token = ANNOUNCING.set(True)
        try:
            with self.uncounted():
                await work(batch)
        finally:
            ANNOUNCING.reset(token)

    # --- models in this process -------------------------------------------------------------------------------------

    async def _queued(self, model: BatchModel, request: ChatRequest, key: str, context: str) -> Entry:
        queue = self._queues.setdefault(id(model), _Queue())
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        queue.pending.append((request, key + context, future))
        if queue.worker is None or queue.worker.done():
            queue.worker = asyncio.create_task(self._drain(model, queue))
        return await future

    async def _drain(self, model: BatchModel, queue: _Queue) -> None:
        while queue.pending:
            count = -1
            while count != len(queue.pending):
                count = len(queue.pending)
                for _ in range(QUIET_TICKS):
                    await asyncio.sleep(0)
            taken, queue.pending = queue.pending, []
            try:
                await self._answer(model, taken)
            except BaseException as error:
                for _, _, future in taken:
                    if not future.done():
                        if isinstance(error, asyncio.CancelledError):
                            future.cancel()
                        else:
                            future.set_exception(error)
                if isinstance(error, asyncio.CancelledError):
                    raise

    async def _answer(self, model: BatchModel, taken: list[tuple[ChatRequest, str, asyncio.Future[Entry]]]) -> None:
        """Plan, then batch by batch: from the ledger where all of it is there, else compute and commit it whole."""
        unique: dict[str, tuple[ChatRequest, str]] = {}
        waiting: dict[str, list[asyncio.Future[Entry]]] = {}
        for request, label, future in taken:
            key, context = label[:64], label[64:]
            unique.setdefault(key, (request, context))
            waiting.setdefault(key, []).append(future)
        account = self.account(model.identity)
        if self.offline:
            unique = self._from_ledger(unique, waiting, account)
        with users_code(model, "looking at requests"):
            objections = await self.in_worker(lambda: {key: model.objection(unique[key][0]) for key in unique})
        for key, objection in objections.items():
            if objection:
                account.failed += 1
                for future in waiting[key]:
                    if not future.done():
                        future.set_exception(CallFailed(objection))
        keys = [key for key in unique if not objections[key]]
        if self.offline:
            account.missing += len(keys)
            for future in (future for key in keys for future in waiting[key]):
                if not future.done():
                    future.set_exception(CallFailed(NOT_KEPT, retryable=True))
            return
        requests = [unique[key][0] for key in keys]
        with users_code(model, "planning batches"):
            plan = await self.in_worker(model.plan, requests)
        for batch in plan:
            batch_keys = [keys[i] for i in batch]
            if all(future.done() for key in batch_keys for future in waiting[key]):
                continue  # every caller was cancelled: nobody waits for this batch
            entries = await self._stored_or_claimed(batch_keys)
            account.from_ledger += len(entries)
            if missing := [i for i in batch if keys[i] not in entries]:
                entries |= await self._compute(model, requests, missing, [keys[i] for i in missing], unique, account)
            for key in batch_keys:
                for future in waiting[key]:
                    if not future.done():
                        future.set_result(entries[key])
            self.replies(len(batch))

    def _from_ledger(
        self,
        unique: dict[str, tuple[ChatRequest, str]],
        waiting: dict[str, list[asyncio.Future[Entry]]],
        account: Account,
    ) -> dict[str, tuple[ChatRequest, str]]:
        """Answer what the ledger has, whatever batches it was computed in; returns the rest."""
        entries = self.ledger.get(unique)
        for key, entry in entries.items():
            for future in waiting[key]:
                if not future.done():
                    future.set_result(entry)
        account.from_ledger += len(entries)
        self.replies(len(entries))
        return {key: asked for key, asked in unique.items() if key not in entries}

    async def _stored_or_claimed(self, keys: Sequence[str]) -> dict[str, Entry]:
        """What the ledger holds of ``keys``; the rest is claimed, and this process computes it."""
        entries = self.ledger.get(keys)
        while len(entries) < len(keys):
            missing = [key for key in keys if key not in entries]
            claimed = self.ledger.claim(missing, CLAIM_SECONDS)
            entries = self.ledger.get(keys)  # after the claim: another process may have finished in between
            if claimed:
                self.ledger.release([key for key in missing if key in entries])
                break
            if self._closing:
                raise asyncio.CancelledError
            await asyncio.sleep(0.05)  # another process is computing some of these: its replies serve as well
        return entries

    async def _compute(
        self,
        model: BatchModel,
        requests: Sequence[ChatRequest],
        batch: list[int],
        keys: list[str],
        unique: dict[str, tuple[ChatRequest, str]],
        account: Account,
    ) -> dict[str, Entry]:
        start = time.perf_counter()
        account.asked += len(batch)
        try:
            with users_code(model, ANSWERING):
                replies = await self.in_worker(model.complete_batch, [requests[i] for i in batch])
                _need_replies(replies, len(batch))
        except BaseException:
            account.failed += len(batch)
            self.ledger.release(keys)
            raise
        seconds = time.perf_counter() - start
        entries = [
            Entry(key, model.identity.name, reply, unique[key][1], seconds=seconds / len(batch), run=self.run)
            for key, reply in zip(keys, replies, strict=True)
        ]
        self._count(account, replies, seconds)
        return {entry.key: entry for entry in self.ledger.put(entries)}

    @staticmethod
    def _count(account: Account, replies: Iterable[Reply], seconds: float) -> None:
        for reply in replies:
            account.count(reply)
        account.seconds += seconds


def _need_replies(replies: Sequence[Any], count: int) -> None:
    """Raises TypeError for what is not ``count`` replies."""
    if len(replies) != count or not all(isinstance(reply, Reply) for reply in replies):
        found = ", ".join(sorted({type(reply).__name__ for reply in replies}))
        raise TypeError(f"expected {count} Reply, got {len(replies)} of {found}")


BEGUN_AT_ONCE = 64  # requests to models behind APIs: looked up in the ledger and claimed together
AHEAD = 16  # batches of input under way at once, at most: the last calls of each may wait to be tried again


async def in_order(
    batches: AsyncIterator[list[S]],
    work: Callable[[list[S]], Coroutine[Any, Any, list[T]]],
    begun: Callable[[], Coroutine[Any, Any, None]] | None,
) -> AsyncIterator[list[T]]:
    """``work`` on each batch; the results in order. The next batch is taken as soon as ``begun()`` says that the ones
    before it have begun, while the last of each are still waited for; None: one after the other. Whatever ends it ends
    what is under way."""
    under_way: deque[asyncio.Task[list[T]]] = deque()
    beginning: asyncio.Task[None] | None = None
    try:
        async for batch in batches:
            under_way.append(asyncio.create_task(work(batch)))
            beginning = asyncio.create_task(begun()) if begun else None
            while under_way:
                if under_way[0].done():
                    yield under_way.popleft().result()
                elif beginning and beginning.done() and len(under_way) < AHEAD:
                    beginning.result()
                    break
                else:
                    waited = [under_way[0], *([beginning] if beginning and not beginning.done() else [])]
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        while under_way:
            yield await under_way.popleft()
    finally:
        ended = [*under_way, *([beginning] if beginning else [])]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all; if one raises, cancel the rest and wait for them before raising, so that nothing runs on unseen."""
    async with together() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises what was raised first, as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
