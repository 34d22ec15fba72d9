"""Between whoever asks and whoever answers: the ledger, batching, and what it all took.

``ask`` looks like a plain call. Behind it, requests to a model in this process wait until nothing more is being asked,
are cut into batches by the model's own plan, and each batch is committed to the ledger as one transaction before any
caller sees a reply. A planned batch runs whole or not at all, so a resumed run meets the same batches and the same
bytes. Models run in one worker thread; Ctrl-C and progress stay alive.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rlaif.component import users_code
from rlaif.errors import CallFailed, CallRefused
from rlaif.ledger import Entry, Ledger
from rlaif.models import BatchModel, ChatRequest, Identity, Model, Reply, request_key
from rlaif.records import canonical_json

T = TypeVar("T")
QUIET_TICKS = 8  # passes of the event loop without a new request before a batch is planned
ANSWERING = "answering requests"  # what a user's own provider was doing when it raised
CLAIM_SECONDS = 60.0  # renewed while the batch is computed


@dataclass
class Account:
    """What one model was asked and what it took in this process; stored replies are counted apart."""

    asked: int = 0
    from_ledger: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0


@dataclass
class _Queue:
    pending: list[tuple[ChatRequest, str, asyncio.Future[Entry]]] = field(default_factory=list)
    worker: asyncio.Task[None] | None = None


class Gateway:
    """One per run. ``replies`` is called with the number of finished requests, for progress."""

    def __init__(self, ledger: Ledger, replies: Callable[[int], None] = lambda count: None) -> None:
        self.ledger = ledger
        self.replies = replies
        self.accounts: dict[str, Account] = {}
        self._queues: dict[int, _Queue] = {}
        self._calls: dict[str, asyncio.Task[Entry]] = {}  # API calls in flight, by key
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rlaif-model")

    async def close(self) -> None:
        """Wait for the batch in the worker thread, so that what it computed is kept, and stop."""
        self._closing = True
        for call in list(self._calls.values()):
            call.cancel()
        await asyncio.gather(*self._calls.values(), return_exceptions=True)
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
        if isinstance(model, BatchModel):
            entry = await self._queued(model, request, key, canonical_json(context))
        else:
            entry = await self._called(model, request, key, canonical_json(context))
        if entry.reply.finish_reason == "refused":
            raise CallRefused("the provider declined to answer", key=key)
        return key, entry.reply

    # --- models behind an API ---------------------------------------------------------------------------------------

    async def _called(self, model: Any, request: ChatRequest, key: str, context: str) -> Entry:
        """From the ledger, from an equal call already in flight, or by a call of its own."""
        account = self.account(model.identity)
        if stored := self.ledger.get([key]).get(key):
            account.from_ledger += 1
            self.replies(1)
            return stored
        if key in self._calls:
            account.from_ledger += 1
        else:
            self._calls[key] = asyncio.create_task(self._call(model, request, key, context, account))
            self._calls[key].add_done_callback(lambda _: self._calls.pop(key))
        call = self._calls[key]
        try:
            return await asyncio.shield(call)
        finally:
            self.replies(1)

    async def _call(self, model: Any, request: ChatRequest, key: str, context: str, account: Account) -> Entry:
        start = time.perf_counter()
        account.asked += 1
        try:
            with users_code(model, ANSWERING):
                reply = await model.complete(request)
                _need_replies([reply], 1)
        except BaseException:
            account.failed += 1
            raise
        entry = Entry(key, model.identity.name, reply, context, seconds=time.perf_counter() - start)
        stored = await self.ledger.record(entry)
        self._count(account, [reply], entry.seconds)
        return stored

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
        with users_code(model, "looking at requests"):
            objections = await self.in_worker(lambda: {key: model.objection(unique[key][0]) for key in unique})
        for key, objection in objections.items():
            if objection:
                account.failed += 1
                for future in waiting[key]:
                    if not future.done():
                        future.set_exception(CallFailed(objection))
        keys = [key for key in unique if not objections[key]]
        requests = [unique[key][0] for key in keys]
        with users_code(model, "planning batches"):
            plan = await self.in_worker(model.plan, requests)
        for batch in plan:
            batch_keys = [keys[i] for i in batch]
            if all(future.done() for key in batch_keys for future in waiting[key]):
                continue  # every caller was cancelled: nobody waits for this batch
            entries = await self._stored_or_claimed(batch_keys)
            if len(entries) == len(batch):
                account.from_ledger += len(batch)
            else:
                entries = await self._compute(model, requests, batch, batch_keys, unique, account)
            for key in batch_keys:
                for future in waiting[key]:
                    if not future.done():
                        future.set_result(entries[key])
            self.replies(len(batch))

    async def _stored_or_claimed(self, keys: Sequence[str]) -> dict[str, Entry]:
        """What the ledger holds of ``keys``; where that is not all, they are claimed and this process computes them."""
        entries = self.ledger.get(keys)
        while len(entries) < len(keys):
            claimed = self.ledger.claim(keys, CLAIM_SECONDS)
            entries = self.ledger.get(keys)  # after the claim: another process may have finished in between
            if claimed and len(entries) == len(keys):
                self.ledger.release(keys)
            if claimed:
                break
            if self._closing:
                raise asyncio.CancelledError
            await asyncio.sleep(0.05)  # another process is computing some of these: its replies serve as well
        return entries

    async def _renewing(self, keys: Sequence[str], work: Coroutine[Any, Any, T]) -> T:
        """``work``, with the claim on ``keys`` renewed as long as it takes."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(CLAIM_SECONDS / 3)
                self.ledger.claim(keys, CLAIM_SECONDS)

        renewal = asyncio.create_task(renew())
        try:
            return await work
        finally:
            renewal.cancel()

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
                replies = await self._renewing(keys, self.in_worker(model.complete_batch, [requests[i] for i in batch]))
                _need_replies(replies, len(batch))
        except BaseException:
            account.failed += len(batch)
            self.ledger.release(keys)
            raise
        seconds = time.perf_counter() - start
        entries = [
            Entry(key, model.identity.name, reply, unique[key][1], seconds=seconds / len(batch))
            for key, reply in zip(keys, replies, strict=True)
        ]
        self._count(account, replies, seconds)
        return {entry.key: entry for entry in self.ledger.put(entries)}

    @staticmethod
    def _count(account: Account, replies: Iterable[Reply], seconds: float) -> None:
        for reply in replies:
            account.prompt_tokens += reply.prompt_tokens
            account.output_tokens += reply.output_tokens
        account.seconds += seconds


def _need_replies(replies: Sequence[Any], count: int) -> None:
    """Raises TypeError for what is not ``count`` replies."""
    if len(replies) != count or not all(isinstance(reply, Reply) for reply in replies):
        found = ", ".join(sorted({type(reply).__name__ for reply in replies}))
        raise TypeError(f"expected {count} Reply, got {len(replies)} of {found}")


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all; if one raises, cancel the rest and wait for them before raising, so that nothing runs on unseen."""
    tasks: list[asyncio.Task[T]] = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
