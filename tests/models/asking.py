"""Models behind an API, opened as a pipeline opens them, and asked over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from rlaif.component import Place
from rlaif.config import ModelSpec, Sampling
from rlaif.errors import CallFailed
from rlaif.mock import MockOptions, MockServer
from rlaif.models import Answer, ChatRequest, open_model
from rlaif.models.api import ApiModel
from rlaif.records import Message
from tests import make

PROVIDERS = ("openai", "anthropic")
TRANSPORTS = ("fast", "sdk")
GREEDY = Sampling(temperature=0.0, max_output_tokens=64)
WHERE = Place("pipeline.yaml", key=("models", "judge"))


def model(provider: str, name: str = "mock-policy", **options: Any) -> ApiModel:
    opened: ApiModel = open_model(ModelSpec(provider=provider, model=name, options=options), WHERE)
    return opened


def rooted(provider: str, url: str) -> str:
    """A server's URL as this provider's base URL."""
    return f"{url}/v1" if provider == "openai" else url


def request(*texts: str, **fields: Any) -> ChatRequest:
    """A request of the user's and the assistant's turns in turn."""
    roles = (make.user, make.assistant)
    messages = tuple(roles[i % 2](text) for i, text in enumerate(texts or ("Hello, who are you?",)))
    return ChatRequest(**{"messages": messages, "sampling": GREEDY, **fields})


def system(text: str) -> Message:
    return Message(role="system", content=text)


async def called(asked: ApiModel, what: ChatRequest, timeout_seconds: float = 20.0) -> Answer | CallFailed:
    """One call of the first route: its answer or its failure."""
    try:
        return await asked.routes[0].complete(what, timeout_seconds)
    except CallFailed as failure:
        return failure


def on_mock(
    provider: str, test: Callable[[MockServer, ApiModel], Awaitable[Any]], server: dict[str, Any], **options: Any
) -> Any:
    """Run ``test`` with a mock server and a model that is asked there."""

    async def run() -> Any:
        async with MockServer(MockOptions(**server)) as running:
            asked = model(provider, **{"base_url": rooted(provider, running.url), **options})
            try:
                return await test(running, asked)
            finally:
                await asked.close()

    return asyncio.run(run())


def on_mock_once(provider: str, what: ChatRequest, server: dict[str, Any], **options: Any) -> Answer | CallFailed:
    """One call to a mock server."""

    async def test(_: MockServer, asked: ApiModel) -> Answer | CallFailed:
        return await called(asked, what)

    found: Answer | CallFailed = on_mock(provider, test, server, **options)
    return found


def answered(
    provider: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], what: ChatRequest, **options: Any
) -> Answer | CallFailed:
    """One call to a server that answers everything by ``handler``."""

    async def run() -> Answer | CallFailed:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        asked = model(provider, **{"base_url": rooted(provider, f"http://{host}:{port}"), **options})
        try:
            return await called(asked, what)
        finally:
            await asked.close()
            await runner.cleanup()

    return asyncio.run(run())


@contextmanager
def plain_server(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> Iterator[Any]:
    """A function that runs ``ask(url)`` while a bare TCP server talks as told."""

    def run(ask: Callable[[str], Awaitable[Any]]) -> Any:
        async def both() -> Any:
            server = await asyncio.start_server(talk, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            try:
                return await ask(f"http://127.0.0.1:{port}")
            finally:
                server.close()

        return asyncio.run(both())

    yield run
