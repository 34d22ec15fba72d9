"""What the two ways of sending a request have in common: where to, with which key, and what comes back.

A transport takes the body of one request and brings back a status, headers and bytes, whatever they are; or it raises
CallFailed where no whole answer came. What a status or a body means is not its business (``failures.py``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

LARGEST_REPLY = 8 << 20  # bytes; more is not read
CONNECT_SECONDS = 30.0  # for a connection to come about
KEY_LIKE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w*.…-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
SHORTEST_SECRET = 4  # characters; shorter ones stand in ordinary words
HIDDEN = "[key]"


class Received(NamedTuple):
    """An answer as it came in."""

    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes

    def __repr__(self) -> str:
        """Without what the server said: some servers quote keys."""
        return f"Received({self.status}, {len(self.body)} bytes)"


@dataclass(frozen=True)
class Address:
    """One endpoint and the key used there. The key is in no repr."""

    base_url: str
    path: str
    key: str | None = field(default=None, repr=False)  # None: no key is sent
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # beside the key's own
    secrets: tuple[str, ...] = field(default=(), repr=False)
    connections: int = 256

    @property
    def url(self) -> str:
        return self.base_url + self.path

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    def hide(self, text: str) -> str:
        """``text`` without this address's secrets and without what looks like a key: servers quote them."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return KEY_LIKE.sub(HIDDEN, text)


class Transport(Protocol):
    """One way to send requests to one address."""

    async def send(self, body: dict[str, Any], timeout_seconds: float) -> Received:
        """The whole answer, whatever its status. Raises CallFailed: *unreachable*, *lost*, *garbled* (too large) or
        *invalid* (text that JSON cannot carry).

        What is raised is not chained: the errors of HTTP clients carry the request, and with it the key.
        """
        ...

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        ...


class PerLoop(Generic[T]):
    """A client for each event loop that asks for one: connections cannot move between loops."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[Any]]) -> None:
        self._make, self._close = make, close
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def here(self) -> T:
        """The running loop's client, made at its first use."""
        loop = asyncio.get_running_loop()
        found = self._made.get(loop)
        if found is None:
            self._made = {other: client for other, client in self._made.items() if not other.is_closed()}
            found = self._made[loop] = self._make()
        return found

    async def close(self) -> None:
        client = self._made.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await self._close(client)
