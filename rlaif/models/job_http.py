"""HTTP about jobs: small JSON back and forth, files that go up from disk, results that come down line by line.

No body of a job is ever whole in memory. The official clients hold all of it, several times over; so this is plain HTTP,
to their addresses and with their headers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

from rlaif.errors import CallFailed
from rlaif.ledger import JobRow
from rlaif.models.failures import failed, failure, parsed
from rlaif.models.sdk import lost
from rlaif.models.transports import CONNECT_SECONDS, LARGEST_REPLY, Address, PerLoop, Received

LARGEST_ANSWER = 64 << 20  # bytes of JSON about jobs, results apart
PIECE = 1 << 20
JSON = {"content-type": "application/json"}
EARLIER = 600.0  # seconds by which a provider's clock may be behind ours


@dataclass(frozen=True)
class JobStatus:
    """How far a job is at its provider."""

    ended: bool
    done: int  # requests
    total: int
    refused: str = ""  # why the provider would not run it at all
    whole: bool = True  # every request came to its end: none was left when time ran out or somebody canceled
    files: tuple[str, ...] = ()  # that hold its results


class Gone(CallFailed):
    """The provider knows nothing of what was named."""


class Refused(CallFailed):
    """The provider would not have a job at all: nothing of it was asked."""


Result = Received | CallFailed


class JobApi(Protocol):
    """One provider's batch API. Everything raises CallFailed with its fault."""

    most_lines: int
    most_bytes: int
    opening: bytes  # of the file that is sent: opening, lines with the separator between them, closing
    separator: bytes
    closing: bytes

    def line(self, key: str, body: dict[str, Any]) -> bytes:
        """One request of the file."""
        ...

    async def upload(self, file: BinaryIO, job: str) -> str:
        """Send the file, where that is a step of its own; the provider's name for it."""
        ...

    async def create(self, file: BinaryIO, uploaded: str, job: str) -> str:
        """Start a job; the provider's name for it. ``job``: our name, to be found again by."""
        ...

    async def status(self, name: str) -> JobStatus: ...

    async def find(self, row: JobRow) -> list[str]:
        """The provider's names of jobs that may be ``row``, oldest first. Only what a job answers proves that it is."""
        ...

    def results(self, name: str, status: JobStatus) -> AsyncIterator[tuple[str | None, Result]]:
        """What became of each request, by key, as the answer to a call would have come; None where the key cannot be
        read."""
        ...

    async def close(self) -> None: ...


class JobHttp:
    """Requests to one address, with its key."""

    def __init__(self, address: Address, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """``headers``: all that a request carries, the key's own included. The timeout is of silence, not of the whole."""
        self._address, self._headers, self._timeout = address, dict(headers), timeout_seconds
        self._clients = PerLoop(self._client, lambda client: client.aclose())

    def _client(self) -> Any:
        """Redirects are not followed: they would take the key along."""
        import httpx2

        return httpx2.AsyncClient(
            headers=self._headers,
            follow_redirects=False,
            timeout=httpx2.Timeout(self._timeout, connect=CONNECT_SECONDS),
        )

    async def json(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        """The JSON of an answer; ``sent`` is httpx's."""
        import httpx2

        try:
            async with self._stream(method, path, **sent) as answer:
                received = await _received(answer)
        except httpx2.HTTPError as error:
            trouble = lost(error, self._address)  # raised below, so that it is not chained: the error carries the key
        else:
            if received.status != 200:
                raise self._failure(received, path)
            return parsed(received)
        raise trouble

    async def lines(self, path: str) -> AsyncIterator[bytes | None]:
        """The lines of a file of results as they arrive; None for one that is longer than any reply."""
        import httpx2

        try:
            async with self._stream("GET", path) as answer:
                if answer.status_code != 200:
                    trouble = self._failure(await _received(answer), path)
                else:
                    async for line in _cut(answer.aiter_bytes(PIECE)):
                        yield line
                    return
        except httpx2.HTTPError as error:
            trouble = lost(error, self._address)
        raise trouble

    def _stream(self, method: str, path: str, **sent: Any) -> AbstractAsyncContextManager[Any]:
        answer: AbstractAsyncContextManager[Any] = self._clients.here().stream(
            method, self._address.base_url + path, **sent
        )
        return answer

    def _failure(self, received: Received, path: str) -> CallFailed:
        trouble = failure(received, replace(self._address, path=path.partition("?")[0]))
        return Gone(str(trouble), fault=trouble.fault) if received.status == 404 else trouble

    async def close(self) -> None:
        await self._clients.close()


async def _received(answer: Any) -> Received:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise failed("garbled", f"an answer of more than {LARGEST_ANSWER >> 20} MB")
        parts.append(part)
    return Received(answer.status_code, answer.headers, b"".join(parts))


async def _cut(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """Lines of what arrives in parts, without their ends; None for a line that is too long."""
    held, long = b"", False
    async for part in parts:
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield None if long or len(line) > LARGEST_REPLY else line
            long = False
        if len(held) > LARGEST_REPLY:
            held, long = b"", True
    if held or long:
        yield None if long else held
