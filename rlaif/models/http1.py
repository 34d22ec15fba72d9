"""HTTP/1.1 over kept connections, for one kind of exchange: a POST with a short body, answered whole.

General clients spend more time on a call than on everything else about a judgement. Here the parser is httptools' (llhttp, as in
Node.js), a request is one write, and an answer costs one wake-up. What is not needed is not there: no redirects,
cookies, pipelining or streaming. TLS is the standard library's, with its usual checks; proxies are spoken to as
RFC 9112, 3.2.2, and RFC 9110, 9.3.6 (CONNECT), say.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import httptools

from rlaif.models.transports import CONNECT_SECONDS, LARGEST_REPLY, Received

STALE_SECONDS = 30.0  # idle for longer, a connection may be about to be closed at the other end
ENCODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's window bits; no other is asked for


class ConnectFailed(Exception):
    """No connection came about; why, in a few words."""


class BrokenOff(Exception):
    """The connection ended, or time ran out, before the answer was whole. ``begun``: some of it had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__("the answer broke off" if begun else "the connection was closed before an answer came")
        self.begun = begun


class NotHttp(Exception):
    """What came is no HTTP."""


class TooLarge(Exception):
    """The answer is larger than a reply may be; the rest of it was not read."""


class Connection(asyncio.Protocol):
    """One connection with at most one exchange under way."""

    def __init__(self) -> None:
        self.closed = False
        self.idle_since = 0.0
        self._transport: Any = None
        self._done: asyncio.Future[Received] | None = None

    # --- one exchange -------------------------------------------------------------------------------------------------

    def exchange(self, head: bytes, body: bytes, *, tunnel: bool = False) -> asyncio.Future[Received]:
        """Send a request; the future has its answer, or BrokenOff, NotHttp or TooLarge. ``tunnel``: it asks for one, and
        what follows the head of a good answer is not HTTP."""
        self._done = asyncio.get_running_loop().create_future()
        self._begun, self._tunnel = False, tunnel
        self._parser = httptools.HttpResponseParser(self)
        self._start()
        self._transport.write(head + body)
        return self._done

    def _start(self) -> None:
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._in_body = False
        self.reusable = False

    def _end(self, outcome: Received | Exception) -> None:
        done, self._done = self._done, None
        if done is None or done.done():
            return
        if isinstance(outcome, Exception):
            self.close()
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()  # nothing of ours is left to be sent

    # --- asyncio's callbacks ------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            self.close()  # nobody asked
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._end(error.__context__ if isinstance(error.__context__, TooLarge) else NotHttp())
        except httptools.HttpParserError:
            self._end(NotHttp())

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        until_closed = not {"content-length", "transfer-encoding"} & self._headers.keys() if self._done else False
        if self._done and self._in_body and until_closed and error is None:
            self._finish()
        elif self._done:
            self._end(BrokenOff(self._begun))

    # --- httptools' callbacks -----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_body = True
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > LARGEST_REPLY:
            raise TooLarge
        if self._tunnel and self._parser.get_status_code() // 100 == 2:
            self._finish()

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LARGEST_REPLY:
            raise TooLarge
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._start()  # "100 Continue" and its like: the answer is still to come
            return
        self.reusable = self._parser.should_keep_alive()
        self._finish()

    def _finish(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._parts)
        if coding := self._headers.get("content-encoding"):
            try:
                body = decoded(body, coding)
            except (TooLarge, NotHttp) as error:
                self._end(error)
                return
        self._end(Received(status, self._headers, body))


def decoded(body: bytes, coding: str) -> bytes:
    """A body without its content coding. Raises TooLarge, or NotHttp for a coding that was not asked for."""
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ENCODINGS:
        raise NotHttp
    try:
        stream = zlib.decompressobj(ENCODINGS[name])
        plain = stream.decompress(body, LARGEST_REPLY + 1)
    except zlib.error as error:
        raise NotHttp from error
    if len(plain) > LARGEST_REPLY:
        raise TooLarge
    return plain


# --- where to ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """An address with the way to it."""

    url: SplitResult
    proxy: SplitResult | None

    @classmethod
    def of(cls, url: str, proxy: str | None) -> Target:
        return cls(urlsplit(url), urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None)

    @property
    def secure(self) -> bool:
        return self.url.scheme == "https"

    @property
    def authority(self) -> str:
        return self.url.netloc.rpartition("@")[2]

    def head(self, headers: dict[str, str]) -> bytes:
        """All of a request's head but the length and the empty line."""
        path = self.url.path or "/"
        fields = {"Host": self.authority, **headers}
        if self.proxy and not self.secure:
            path = f"{self.url.scheme}://{self.authority}{path}"
            fields |= self.proxy_headers()
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n"

    def proxy_headers(self) -> dict[str, str]:
        """Who we are to the proxy, where its address says so."""
        if self.proxy is None or not self.proxy.username:
            return {}
        words = f"{unquote(self.proxy.username)}:{unquote(self.proxy.password or '')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}


async def connect(target: Target, context: ssl.SSLContext | None) -> Connection:
    """A new connection to ``target``. Raises ConnectFailed."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await _connect(target, context)
    except TimeoutError:
        why = f"none within {CONNECT_SECONDS:g} seconds"
    except ssl.SSLError as error:
        why = error.reason or "TLS failed"
    except OSError as error:
        why = error.strerror or type(error).__name__
    raise ConnectFailed(why)


async def _connect(target: Target, context: ssl.SSLContext | None) -> Connection:
    loop = asyncio.get_running_loop()
    place, host = target.proxy or target.url, target.url.hostname or ""
    port = place.port or (443 if place.scheme == "https" else 80)
    tunnel = target.proxy is not None and target.secure
    _, connection = await loop.create_connection(
        Connection,
        place.hostname or "",
        port,
        ssl=context if place.scheme == "https" else None,
        server_hostname=place.hostname if place.scheme == "https" else None,
    )
    if not tunnel:
        return connection
    where = f"{host}:{target.url.port or 443}"
    fields = {"Host": where, **target.proxy_headers()}
    lines = [f"CONNECT {where} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    await _tunnelled(connection, "\r\n".join(lines).encode("latin-1"))
    secured = Connection()
    transport = await loop.start_tls(connection._transport, secured, context or ssl.SSLContext(), server_hostname=host)
    secured.connection_made(transport)
    return secured


async def _tunnelled(connection: Connection, request: bytes) -> None:
    """Ask a proxy for a tunnel. Raises OSError where it gives none."""
    try:
        found = await connection.exchange(request, b"", tunnel=True)
    except (BrokenOff, NotHttp, TooLarge) as error:
        raise ConnectionError(0, "the proxy gives no tunnel") from error
    if not 200 <= found.status < 300:
        connection.close()
        raise ConnectionError(0, f"the proxy gives no tunnel: HTTP {found.status}")


class Pool:
    """Connections of one event loop to one address: kept, at most ``most`` of them."""

    def __init__(self, target: Target, most: int) -> None:
        self._target, self._most = target, most
        self._idle: list[Connection] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._context = None
        if target.secure or (target.proxy and target.proxy.scheme == "https"):
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])

    async def exchange(self, head: bytes, body: bytes, timeout_seconds: float) -> Received:
        """One request and its answer, connecting included. Raises TimeoutError, ConnectFailed, BrokenOff, NotHttp or
        TooLarge."""
        deadline = self._loop.time() + timeout_seconds
        connection = self._kept()
        if connection is None:
            async with asyncio.timeout_at(deadline):
                connection = await self._new()
        try:
            done = connection.exchange(head, body)
            timer = self._loop.call_at(deadline, _expire, done)
            try:
                received = await done
            finally:
                timer.cancel()
        except BaseException:
            connection.close()
            raise
        finally:
            self._leave(connection)
        return received

    def _kept(self) -> Connection | None:
        """The connection used last, if it is still good."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and self._loop.time() - connection.idle_since < STALE_SECONDS:
                return connection
            connection.close()
            self._open -= 1
        return None

    async def _new(self) -> Connection:
        while self._open >= self._most:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was ours to take: somebody else's now
                raise
            if kept := self._kept():
                return kept
        self._open += 1
        try:
            return await connect(self._target, self._context)
        except BaseException:
            self._open -= 1
            self._wake()
            raise

    def _leave(self, connection: Connection) -> None:
        if connection.closed or not connection.reusable:
            connection.close()
            self._open -= 1
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._open -= len(self._idle)
        self._idle.clear()
        await asyncio.sleep(0)  # let the transports say goodbye


def _expire(done: asyncio.Future[Received]) -> None:
    if not done.done():
        done.set_exception(TimeoutError())
