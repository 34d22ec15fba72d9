"""Counters of what was answered to whom, in memory that all workers share.

The memory is anonymous and mapped before the workers fork; one lock guards it. Requests are counted by a 64-bit hash of
path and body, which says how often a request was asked (its attempt number, which faults and draws are keyed by) and
whether it was completely answered more than once.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

STATUSES = ("200", "400", "401", "403", "404", "405", "409", "413", "429", "500", "502", "503", "529", "none")
TOKENS = ("prompt", "cached", "cache_write", "completion")  # prompt: all of them, cached and written ones too
LINES = ("succeeded", "errored", "expired", "canceled")
PLAIN = ("requests", "answered", "distinct", "repeats", "in_flight", "peak_in_flight", "untracked")
REQUESTS, ANSWERED, DISTINCT, REPEATS, IN_FLIGHT, PEAK, UNTRACKED, BATCH_REPEATS = range(8)  # their cells
REQUEST_SLOTS = 1 << 22
KEY_SLOTS = 1 << 10
FULL = 0.9  # share of slots from which no new hash is taken in
OTHERS = 0  # the place of keys beyond those that have one of their own


@dataclass(frozen=True, slots=True)
class Bill:
    """What the model wrote in reply to a request; ``answered`` where all of it was sent in a usable form."""

    request: int
    tokens: tuple[int, int, int, int]  # as TOKENS
    answered: bool


class Memory:
    """Zeroed memory that survives a fork as one and the same."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size)
        self._view = memoryview(self._map)
        self._used = 0

    def take(self, code: Literal["Q", "I", "d"], count: int) -> Any:
        """``count`` numbers of a struct code, as a memoryview."""
        start = -(-self._used // 8) * 8
        self._used = start + count * (4 if code == "I" else 8)
        return self._view[start : self._used].cast(code)


class HashTable:
    """64-bit hashes to places: open addressing, nothing is ever taken out."""

    def __init__(self, memory: Memory, slots: int) -> None:
        self._hashes = memory.take("Q", slots)
        self._used = memory.take("Q", 1)
        self._mask = slots - 1

    def place(self, key: int) -> int | None:
        """Where ``key`` stands, which is entered if it is new; None where the table is full."""
        key = key or 1
        hashes, mask = self._hashes, self._mask
        place = key & mask
        while (found := hashes[place]) != key:
            if not found:
                if self._used[0] > FULL * mask:
                    return None
                self._used[0] += 1
                hashes[place] = key
                return place
            place = (place + 1) & mask
        return place

    def items(self) -> Iterator[tuple[int, int]]:
        """(hash, place) of all entries; walks the whole table."""
        return ((key, place) for place, key in enumerate(self._hashes) if key)

    def clear(self) -> None:
        zero(self._hashes)
        zero(self._used)


def zero(view: Any) -> None:
    """Set all numbers of a view to 0."""
    raw = view.cast("B")
    for start in range(0, len(raw), 1 << 20):
        raw[start : start + (1 << 20)] = bytes(min(1 << 20, len(raw) - start))


class Tally:
    """All counts of one server. Methods take the lock; none of them waits for anything else."""

    def __init__(self, lock: AbstractContextManager[Any], faults: Sequence[str]) -> None:
        self.lock = lock
        self._names = [
            *PLAIN,
            "batch_repeats",
            *(f"{sort}/{token}" for sort in ("tokens", "billed", "batch") for token in TOKENS),
            *(f"status/{status}" for status in STATUSES),
            *(f"fault/{fault}" for fault in faults),
            *(f"line/{outcome}" for outcome in LINES),
        ]
        self._faults = tuple(faults)
        self._cell = {name: place for place, name in enumerate(self._names)}
        self._status = {status: self._cell[f"status/{status}"] for status in STATUSES}
        self._fault = {fault: self._cell[f"fault/{fault}"] for fault in faults}
        memory = Memory(REQUEST_SLOTS * 16 + KEY_SLOTS * 64 + len(self._names) * 8 + 4096)
        self._count = memory.take("Q", len(self._names))
        self._requests = HashTable(memory, REQUEST_SLOTS)
        self._attempts = memory.take("I", REQUEST_SLOTS)
        self._answers = memory.take("I", REQUEST_SLOTS)
        self._keys = HashTable(memory, KEY_SLOTS)
        self._key_counts = memory.take("Q", 2 * KEY_SLOTS)  # requests, answered
        self.levels = {unit: memory.take("d", 2 * KEY_SLOTS) for unit in ("requests", "tokens")}  # of limits, by key

    def arrive(self, key: int) -> tuple[int, int]:
        """Count a request of an API key in; returns the key's place and how many requests it has made."""
        count = self._count
        with self.lock:
            count[REQUESTS] += 1
            count[IN_FLIGHT] += 1
            if count[IN_FLIGHT] > count[PEAK]:
                count[PEAK] = count[IN_FLIGHT]
            place = self._keys.place(key) or OTHERS
            self._key_counts[2 * place] += 1
            return place, self._key_counts[2 * place]

    def attempt(self, request: int) -> int:
        """How often this request has now been asked, from 1; limits and mistakes of the client do not count."""
        with self.lock:
            place = self._requests.place(request)
            if place is None:
                self._count[UNTRACKED] += 1
                return 1
            self._attempts[place] += 1
            return int(self._attempts[place])

    def leave(self, key: int, status: str, fault: str | None, bill: Bill | None) -> None:
        """Count a request out: what it was sent, and what the model wrote for it."""
        count = self._count
        with self.lock:
            count[IN_FLIGHT] -= 1
            count[self._status[status]] += 1
            if fault:
                count[self._fault[fault]] += 1
            if bill:
                self._add(self._cell["billed/prompt"], bill.tokens)
                if bill.answered:
                    self._add(self._cell["tokens/prompt"], bill.tokens)
                    count[ANSWERED] += 1
                    self._key_counts[2 * key + 1] += 1
                    answers = self._answer(bill.request)
                    count[DISTINCT] += answers == 1
                    count[REPEATS] += answers == 2

    def line(self, outcome: str, bill: Bill) -> None:
        """Count one line of a batch, by what became of it."""
        with self.lock:
            self._count[self._cell[f"line/{outcome}"]] += 1
            self._add(self._cell["batch/prompt"], bill.tokens)
            if bill.answered:
                self._count[BATCH_REPEATS] += self._answer(bill.request) == 2

    def _add(self, start: int, tokens: Sequence[int]) -> None:
        """Add to the cells of TOKENS that begin at ``start``."""
        for place, number in enumerate(tokens, start):
            if number:
                self._count[place] += number

    def _answer(self, request: int) -> int:
        """How many times this request has now been completely answered; 0 where it is not tracked."""
        place = self._requests.place(request)
        if place is None:
            return 0
        self._answers[place] += 1
        return int(self._answers[place])

    def clear(self) -> None:
        """Everything back to zero, but for requests in flight."""
        with self.lock:
            flying = self._count[IN_FLIGHT]
            for view in (self._count, self._attempts, self._answers, self._key_counts, *self.levels.values()):
                zero(view)
            self._requests.clear()
            self._keys.clear()
            self._count[IN_FLIGHT] = self._count[PEAK] = flying

    def stats(self) -> dict[str, Any]:
        """The counts as JSON; what never happened is left out of the tables."""
        with self.lock:
            count = dict(zip(self._names, self._count.tolist(), strict=True))
            keys = {
                f"{key:016x}"[:12]: self._key_counts[2 * place : 2 * place + 2].tolist()
                for key, place in self._keys.items()
            }

        def table(prefix: str, names: Sequence[str]) -> dict[str, int]:
            return {name: count[f"{prefix}/{name}"] for name in names if count[f"{prefix}/{name}"]}

        return {
            **{name: count[name] for name in PLAIN},
            "by_status": table("status", STATUSES),
            "by_fault": table("fault", self._faults),
            "by_key": {key: {"requests": asked, "answered": answered} for key, (asked, answered) in keys.items()},
            "tokens": {name: count[f"tokens/{name}"] for name in TOKENS},
            "billed": {name: count[f"billed/{name}"] for name in TOKENS},
            "batch": {
                "lines": table("line", LINES),
                "repeats": count["batch_repeats"],
                "tokens": {name: count[f"batch/{name}"] for name in TOKENS},
            },
        }
