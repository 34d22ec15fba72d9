"""A key reaches the server it is for, and nothing else: no message, traceback, log, identity, repr or reply."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

import orjson
import pytest
from aiohttp import web

from rlaif.errors import CallFailed
from rlaif.mock import MockServer
from rlaif.models import Answer
from rlaif.models.api import ApiModel
from rlaif.models.transports import Address, Received
from tests.mock.serving import LETTER, pair
from tests.models.asking import PROVIDERS, TRANSPORTS, answered, called, model, on_mock, plain_server, request, rooted
from tests.models.test_faults import EXPECTED

KEY = "sk-proj-Recognisable0123456789"
HEADER = "team-Recognisable-9876543210"
MARK = "Recognisable"
WITH_KEY = {"api_key_env": "A_KEY", "extra_headers": {"X-Team-Token": "$A_HEADER"}}
BOTH = pytest.mark.parametrize("transport", TRANSPORTS)
EITHER = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv("A_HEADER", HEADER)
    caplog.set_level(logging.DEBUG)


def shown(error: BaseException, local: bool = True) -> str:
    """All that a person could be shown of an error: its chain, and the locals of the frames it went through."""
    found, chain = [], [error]
    while chain:
        one = chain.pop()
        found += [str(one), repr(one), repr(one.args), repr(vars(one))]
        found += traceback.TracebackException.from_exception(one, capture_locals=local).format()
        chain += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "\n".join(found)


def nothing_of_it_in(found: Any, asked: ApiModel | None = None) -> None:
    text = shown(found) if isinstance(found, BaseException) else repr(found)
    if isinstance(found, Answer):
        text += found.reply.model_dump_json()
    if asked is not None:
        objects = (asked, asked.routes, asked.identity, asked.options, asked.pace, vars(asked))
        text += " ".join(map(repr, objects)) + asked.options.model_dump_json()
    assert MARK not in text


@BOTH
@EITHER
def test_calls_that_fail_in_every_way_say_nothing_of_the_key(
    provider: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    what = request(pair(LETTER, "quality=0.9", "quality=0.1")[0]["content"])

    async def test(_: MockServer, asked: ApiModel) -> None:
        found = await called(asked, what)
        nothing_of_it_in(found, asked)

    for name in EXPECTED:
        on_mock(provider, test, {"fault": (f"{name}=1",)}, transport=transport, **WITH_KEY)
    on_mock(provider, test, {"key_expires_after": 0}, transport=transport, **WITH_KEY)
    assert MARK not in caplog.text


@BOTH
@EITHER
def test_neither_do_calls_that_never_arrive(provider: str, transport: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[Any]:
        asked = model(provider, base_url=rooted(provider, "http://127.0.0.1:9"), transport=transport, **WITH_KEY)
        found = [await called(asked, request())]
        await asked.close()
        return found

    (found,) = asyncio.run(run())
    assert found.fault == "unreachable"
    nothing_of_it_in(found)

    async def late(_: MockServer, asked: ApiModel) -> Any:
        return await called(asked, request(), timeout_seconds=0.2)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 two hundred\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask(url: str) -> Any:
        asked = model(provider, base_url=rooted(provider, url), transport=transport, **WITH_KEY)
        found = await called(asked, request())
        await asked.close()
        return found

    with plain_server(talk) as run_with:
        nothing_of_it_in(run_with(ask))
    found = on_mock(provider, late, {"latency": "20s"}, transport=transport, **WITH_KEY)
    assert found.fault == "lost"
    nothing_of_it_in(found)
    assert MARK not in caplog.text


@BOTH
@EITHER
@pytest.mark.parametrize("status", [200, 307, 400, 401, 403, 429, 500])
def test_a_server_that_quotes_the_key_is_not_repeated(
    status: int, provider: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[str] = []

    async def handler(asked: web.Request) -> web.Response:
        got.append(f"{asked.headers.get('Authorization')} {asked.headers.get('x-api-key')}")
        words = f"Incorrect API key {' '.join(f'{k}: {v}' for k, v in asked.headers.items())} " * 3
        body = {"error": {"message": words, "code": words, "type": "x"}}
        headers = {"Location": f"http://elsewhere/?key={KEY}", "Content-Type": "application/json"}
        return web.Response(status=status, body=orjson.dumps(body), headers=headers)

    found = answered(provider, handler, request(), transport=transport, **WITH_KEY)
    assert isinstance(found, CallFailed)
    assert KEY in got[0]
    assert MARK not in shown(found, local=False)  # the answer itself, in its frame, is as the server wrote it
    assert MARK not in "".join(row.getMessage() for row in caplog.records if row.levelno > logging.DEBUG)


@pytest.mark.parametrize(
    "words",
    [
        "Incorrect API key provided: sk-proj-abcd************wxyz.",
        "Authorization: Bearer abcdefghijk",
        "key sk-ant-api03-abcdefgh is disabled",
    ],
)
def test_what_looks_like_a_key_is_hidden_though_it_is_another_one(words: str) -> None:
    found = Address("http://x", "/y").hide(words)
    assert "[key]" in found
    assert "abcd" not in found


def test_ordinary_words_are_left_as_they_are() -> None:
    words = "The key 'temperature' is no keyword; token-based task-specific risk-averse models ask."
    assert Address("http://x", "/y", secrets=(KEY,)).hide(words) == words


@BOTH
@EITHER
def test_no_repr_shows_the_key(provider: str, transport: str) -> None:
    asked = model(provider, transport=transport, **WITH_KEY)
    (route,) = asked.routes
    held = [asked, route, *vars(asked).values(), *vars(route).values()]
    assert any(isinstance(item, Address) and item.key == KEY and HEADER in item.secrets for item in held)
    assert MARK not in " ".join(map(repr, held))
    assert MARK not in repr(Received(200, {"x": KEY}, KEY.encode()))
