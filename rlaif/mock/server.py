"""The HTTP server: which request goes where, what is counted, and the server as an async context manager."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import orjson
from aiohttp import ClientError, ClientSession, web

from rlaif.errors import ConfigError
from rlaif.mock.answering import CAUSES, Answering, Reply, Wire, json_object, key_hash, key_name
from rlaif.mock.anthropic_batches import AnthropicBatches
from rlaif.mock.delivery import CLOSED, KEPT, abort, deliver
from rlaif.mock.openai_batches import OpenAIBatches
from rlaif.mock.options import MockOptions
from rlaif.mock.talk import Rejected, prompt_tokens
from rlaif.mock.tally import Tally

LARGEST_BODY = 512 << 20  # bytes: a batch's file
REMEMBERED = 1000  # requests that /_mock/requests can show
SECRET = frozenset(("authorization", "x-api-key", "cookie", "proxy-authorization"))
MODELS = ("mock-judge", "mock-policy", "mock-reasoner")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to an endpoint that calls no model."""

    headers: Mapping[str, str]
    query: dict[str, str]
    body: bytes
    name: str = ""  # of the file or batch in the path


Handler = Callable[[Asked], dict[str, Any] | bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in, kept for /_mock/requests."""

    when: float
    method: str
    path: str
    headers: Mapping[str, str]
    key: str | None
    body: bytes

    def shown(self) -> dict[str, Any]:
        try:
            body = orjson.loads(self.body) if self.body else None
        except orjson.JSONDecodeError:
            body = self.body.decode("utf-8", "replace")
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in SECRET}
        shown = {"time": self.when, "method": self.method, "path": self.path, "key": key_name(self.key)}
        return {**shown, "headers": headers, "body": body}


class Visit:
    """A request between its arrival and its end: counted out once, at the first word about what became of it."""

    __slots__ = ("_place", "_tally", "left", "reply")

    def __init__(self, tally: Tally, place: int) -> None:
        self._tally = tally
        self._place = place
        self.reply: Reply | None = None
        self.left = False

    def leave(self, status: str) -> None:
        if self.left:
            return
        self.left = True
        reply = self.reply
        self._tally.leave(self._place, status, reply.cause if reply else None, reply.bill(status) if reply else None)


class Front:
    """Answers the HTTP requests of one worker. Files, batches and /_mock live in the first, where others send them."""

    def __init__(
        self, options: MockOptions, tally: Tally, url: str, worker: int = 0, private: tuple[str, ...] = ()
    ) -> None:
        self._options = options
        self._tally = tally
        self._worker = worker
        self._private = private  # addresses at which the workers reach each other
        self._answering = Answering(options, tally, worker)
        self._calls: dict[str, Wire] = {wire.path: wire for wire in (self._answering.openai, self._answering.anthropic)}
        self._seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self._room: AbstractAsyncContextManager[Any] = nullcontext()
        if options.capacity is not None:
            self._room = asyncio.Semaphore(max(options.capacity // options.workers, 1))
        self._files, self._batches = OpenAIBatches(self._answering), AnthropicBatches(self._answering, url)
        self._routes = self._table()
        self._session: ClientSession | None = None

    def _table(self) -> list[tuple[str, re.Pattern[str], Handler]]:
        files, messages = self._files, self._batches
        rows: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/models", self._models),
            ("POST", "/v1/messages/count_tokens", self._count_tokens),
            ("POST", "/v1/files", lambda asked: files.upload(asked.headers, asked.body)),
            ("GET", "/v1/files/ID", lambda asked: files.file(asked.name)),
            ("DELETE", "/v1/files/ID", lambda asked: files.delete(asked.name)),
            ("GET", "/v1/files/ID/content", lambda asked: files.content(asked.name)),
            ("POST", "/v1/batches", lambda asked: files.create(asked.headers, asked.body)),
            ("GET", "/v1/batches", lambda asked: files.list(asked.query)),
            ("GET", "/v1/batches/ID", lambda asked: files.retrieve(asked.name)),
            ("POST", "/v1/batches/ID/cancel", lambda asked: files.cancel(asked.name)),
            ("POST", "/v1/messages/batches", lambda asked: messages.create(asked.headers, asked.body)),
            ("GET", "/v1/messages/batches", lambda asked: messages.list(asked.query)),
            ("GET", "/v1/messages/batches/ID", lambda asked: messages.retrieve(asked.name)),
            ("DELETE", "/v1/messages/batches/ID", lambda asked: messages.delete(asked.name)),
            ("GET", "/v1/messages/batches/ID/results", lambda asked: messages.results(asked.name)),
            ("POST", "/v1/messages/batches/ID/cancel", lambda asked: messages.cancel(asked.name)),
        ]
        return [(method, re.compile(path.replace("ID", r"([\w-]+)")), handler) for method, path, handler in rows]

    async def close(self) -> None:
        self._files.clear()
        self._batches.clear()
        if self._session:
            await self._session.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; what is returned stands for bytes that are on their way already."""
        path, _, query = request.raw_path.partition("?")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return await self._send(request, self._too_large(request.headers))
        if path in self._calls and request.method == "POST":
            wire = self._calls[path]
            return await self._counted(
                request,
                wire,
                body,
                lambda key, place, count: self._answering.call(wire, request.headers, key, place, count, body),
            )
        if self._private and path.startswith("/_mock/own/"):
            return await self._send(request, self._own(path))
        if self._worker:
            return await self._forward(request, body)
        asked = Asked(request.headers, dict(parse_qsl(query)), body)
        if path.startswith("/_mock/"):
            return await self._send(request, await self._about(request.method, path, asked))
        wire = self._answering.anthropic if path.startswith("/v1/messages") else self._answering.wire_of(asked.headers)
        return await self._counted(
            request, wire, body, lambda key, place, count: self._served(wire, key, count, request.method, path, asked)
        )

    async def _send(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        """Send what is not counted."""
        sent = await deliver(request, reply, self._options.fault_seconds, lambda status: None)
        return KEPT if sent and request.keep_alive else CLOSED

    async def _counted(
        self, request: web.BaseRequest, wire: Wire, body: bytes, answer: Callable[[str | None, int, int], Reply]
    ) -> web.StreamResponse:
        """Answer a request of the API and count it in and out. ``answer`` takes the key, its place and its count."""
        key = wire.key(request.headers)
        place, count = self._tally.arrive(key_hash(key))
        self._seen.append(Seen(time.time(), request.method, request.raw_path, request.headers, key, body))
        visit = Visit(self._tally, place)
        try:
            visit.reply = reply = answer(key, place, count)
            if reply.usage or reply.seconds:
                async with self._room:
                    if reply.seconds:
                        await asyncio.sleep(reply.seconds)
            sent = await deliver(request, reply, self._options.fault_seconds, visit.leave)
        finally:
            visit.leave("none")
        return KEPT if sent and request.keep_alive else CLOSED

    def _too_large(self, headers: Mapping[str, str]) -> Reply:
        refused = Rejected(413, f"Request exceeds the maximum size of {LARGEST_BODY} bytes.")
        return self._answering.refusal(self._answering.wire_of(headers), refused, self._answering.new_id())

    # --- endpoints that call no model ---------------------------------------------------------------------------------

    def _served(self, wire: Wire, key: str | None, count: int, method: str, path: str, asked: Asked) -> Reply:
        request_id = self._answering.new_id()
        try:
            self._answering.admit(wire, key, count)
            handler, name = self._handler(method, path)
            reply = self._answering.failing(wire, method, path, asked.body, request_id)
            if reply.status == 200:
                value = handler(replace(asked, name=name))
                reply.body = value if isinstance(value, bytes) else orjson.dumps(value)
                reply.content_type = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        except Rejected as refused:
            reply = self._answering.refusal(wire, refused, request_id)
        reply.headers[wire.id_header] = request_id
        return reply

    def _handler(self, method: str, path: str) -> tuple[Handler, str]:
        found = [(row, match) for row in self._routes if (match := row[1].fullmatch(path))]
        for (allowed, _, handler), match in found:
            if allowed == method:
                return handler, "".join(match.groups())
        if found or path in self._calls:
            raise Rejected(405, f"Not allowed to {method} on {path}.")
        raise Rejected(404, f"Invalid URL ({method} {path})")

    def _models(self, asked: Asked) -> dict[str, Any]:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "rlaif"} for name in MODELS]
        return {"object": "list", "data": data}

    def _count_tokens(self, asked: Asked) -> dict[str, Any]:
        question = self._answering.anthropic.question(json_object(asked.body), asked.headers, counting=True)
        return {"input_tokens": prompt_tokens(question.turns) + question.overhead}

    # --- /_mock -------------------------------------------------------------------------------------------------------

    async def _about(self, method: str, path: str, asked: Asked) -> Reply:
        if (method, path) == ("GET", "/_mock/stats"):
            return Reply(200, orjson.dumps(self._tally.stats()))
        if (method, path) == ("GET", "/_mock/requests"):
            last = asked.query.get("last", "")
            rows = await self._recent()
            return Reply(200, orjson.dumps(rows[-int(last) :] if last.isdecimal() and int(last) else rows))
        if (method, path) == ("POST", "/_mock/reset"):
            await self._reset()
            return Reply(200, b"{}")
        known = "GET /_mock/stats, GET /_mock/requests?last=N and POST /_mock/reset"
        return Reply(404, orjson.dumps({"error": f"There is no {method} {path}: there are {known}."}))

    def _own(self, path: str) -> Reply:
        """What only this worker knows, for the first one to ask."""
        if path == "/_mock/own/forget":
            self._seen.clear()
        return Reply(200, orjson.dumps([seen.shown() for seen in self._seen]))

    async def _recent(self) -> list[dict[str, Any]]:
        rows = [seen.shown() for seen in self._seen]
        for found in await self._ask_others("/_mock/own/requests"):
            rows += found
        return sorted(rows, key=lambda row: float(row["time"]))

    async def _reset(self) -> None:
        self._tally.clear()
        self._seen.clear()
        self._files.clear()
        self._batches.clear()
        await self._ask_others("/_mock/own/forget")

    async def _ask_others(self, path: str) -> list[Any]:
        async def ask(address: str) -> Any:
            async with self._client().get(address + path) as response:
                return await response.json()

        return await asyncio.gather(*map(ask, self._private[1:]))

    async def _forward(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """Let the first worker answer, byte for byte as far as it comes."""
        try:
            address = self._private[0] + request.raw_path
            async with self._client().request(request.method, address, data=body, headers=request.headers) as response:
                answer = await response.read()
        except ClientError:
            abort(request)
            return CLOSED
        headers = {
            k: v for k, v in response.headers.items() if k.lower() not in ("content-length", "content-type", "date")
        }
        return await self._send(request, Reply(response.status, answer, headers, response.headers["Content-Type"]))

    def _client(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(auto_decompress=False)
        return self._session


class Listening:
    """A front bound to sockets, in the running loop."""

    def __init__(self, front: Front, sockets: list[socket.socket]) -> None:
        self._front = front
        self._sockets = sockets
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LARGEST_BODY)

        server = web.Server(self._front.handle, request_factory=request, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        for each in self._sockets:
            await web.SockSite(self._runner, each, backlog=4096).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
        await self._front.close()


class MockServer:
    """The server in the running loop: ``async with MockServer(MockOptions()) as server: ... server.url``."""

    def __init__(self, options: MockOptions | None = None) -> None:
        self.options = options or MockOptions()
        if self.options.workers > 1:
            raise ConfigError("MockServer: several workers need a process of their own: use rlaif.mock.start(options).")
        self.url = ""

    async def __aenter__(self) -> Self:
        self._tally = Tally(Lock(), CAUSES)
        bound = bind(self.options.host, self.options.port)
        self.url = url_of(bound)
        self._listening = Listening(Front(self.options, self._tally, self.url), [bound])
        await self._listening.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listening.stop()

    def stats(self) -> dict[str, Any]:
        """The counts, as ``/_mock/stats`` gives them."""
        return self._tally.stats()


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """A bound TCP socket; ``shared`` lets other processes bind the same port. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"mock-server: cannot listen at {host}:{port}: {error.strerror}. --port 0 takes a free port."
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
