"""Requests and tokens a minute, by API key: buckets that fill continuously and start full.

A limit of 600 with a window of 60 seconds allows 600 at once and then ten a second; with a window of one second, ten at
once and then ten a second. A refused request takes nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Level:
    """What a key has left of one limit; ``reset``: seconds until its bucket is full."""

    limit: float  # a minute
    remaining: float
    reset: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What a key has left after its request, by unit; and, where it was refused, by which unit and for how long."""

    levels: dict[str, Level]
    short: str | None = None
    wait: float = 0.0  # seconds until the request would fit


UNLIMITED = Standing({})


class Bucket:
    """One limit, for all keys. ``levels`` holds two numbers a key: what is left, and when that was."""

    def __init__(self, unit: str, limit: float, window: float, levels: Any) -> None:
        self.unit = unit
        self.limit = limit
        self.rate = limit / 60
        self.room = max(self.rate * window, 1.0)
        self._levels = levels

    def level(self, key: int, now: float) -> float:
        left, then = self._levels[2 * key], self._levels[2 * key + 1]
        return min(self.room, left + (now - then) * self.rate) if then else self.room

    def leave(self, key: int, level: float, now: float) -> Level:
        self._levels[2 * key], self._levels[2 * key + 1] = level, now
        return Level(self.limit, level, (self.room - level) / self.rate)


class Limits:
    """The buckets of a server, in memory that its workers share."""

    def __init__(self, buckets: list[Bucket], lock: AbstractContextManager[Any]) -> None:
        self._buckets = buckets
        self._lock = lock

    def charge(self, key: int, tokens: float, now: float) -> Standing:
        """Take a request and its tokens from the key's buckets, or take nothing and say which was short.

        ``now`` is a monotonic clock that all workers share, in seconds and above 0.
        """
        with self._lock:
            short, wait, found = None, 0.0, []
            for bucket in self._buckets:
                level = bucket.level(key, now)
                cost = min(tokens if bucket.unit == "tokens" else 1.0, bucket.room)  # more would never fit
                if level < cost and not short:
                    short, wait = bucket.unit, (cost - level) / bucket.rate
                found.append((bucket, level, cost))
            left = {
                bucket.unit: bucket.leave(key, level if short else level - cost, now) for bucket, level, cost in found
            }
        return Standing(left, short, wait)
