"""Whatever goes wrong with a call becomes one CallFailed of the right sort, on both transports, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from time import time
from typing import Any

import orjson
import pytest
from aiohttp import web

from rlaif.errors import CallFailed
from rlaif.mock import MockServer
from rlaif.mock.faults import FAULTS, LINES_ONLY
from rlaif.models import Answer
from rlaif.models.api import ApiModel
from rlaif.models.failures import failure, retry_after, seconds_to
from rlaif.models.transports import Address, Received
from tests.mock.serving import LETTER, pair, until
from tests.models.asking import (
    PROVIDERS,
    TRANSPORTS,
    answered,
    called,
    model,
    on_mock,
    on_mock_once,
    plain_server,
    request,
    rooted,
)

BOTH = pytest.mark.parametrize("transport", TRANSPORTS)
EITHER = pytest.mark.parametrize("provider", PROVIDERS)

# the mock's fault: (fault of the failure, retry_after), or how the reply ended
EXPECTED: dict[str, Any] = {
    "429": ("rate_limited", 2.0),
    "429-bare": ("rate_limited", None),
    "500": ("overloaded", None),
    "502": ("overloaded", None),
    "503": ("overloaded", None),
    "529": ("overloaded", None),
    "reset": ("lost", None),
    "reset-mid": ("lost", None),
    "truncated": ("garbled", None),
    "malformed": ("garbled", None),
    "html": ("garbled", None),
    "huge": ("garbled", None),
    "empty": ("garbled", None),
    "content-type": "stop",  # it says text/plain, and is the right JSON
    "length": "length",
    "content-filter": "refused",
    "neither": "stop",
    "clock": "stop",
}


def judged(**fields: Any) -> Any:
    return request(pair(LETTER, "quality=0.9", "quality=0.1")[0]["content"], **fields)


@BOTH
@EITHER
@pytest.mark.parametrize("name", EXPECTED)
def test_every_fault_of_the_mock_server(name: str, provider: str, transport: str) -> None:
    what = request() if name == "huge" else judged()
    found = on_mock_once(provider, what, {"fault": (f"{name}=1",), "retry_after": 2.0}, transport=transport)
    expected = EXPECTED[name]
    if isinstance(expected, str):
        assert isinstance(found, Answer), found
        assert found.reply.finish_reason == expected
        assert found.reply.prompt_tokens > 0
    else:
        assert isinstance(found, CallFailed), found
        assert (found.fault, found.retry_after, found.retryable) == (*expected, True)
        assert len(str(found).splitlines()) == 1


@BOTH
@EITHER
@pytest.mark.parametrize("name", ["slow", "drip"])
def test_an_answer_that_takes_too_long_is_lost(name: str, provider: str, transport: str) -> None:
    async def test(_: MockServer, asked: ApiModel) -> Any:
        return await called(asked, request(), timeout_seconds=0.3)

    found = on_mock(provider, test, {"fault": (f"{name}=1",), "fault_seconds": 20.0}, transport=transport)
    assert (found.fault, found.retryable) == ("lost", True)
    assert str(found) == "no whole answer within 0.3 seconds"


@BOTH
def test_a_refusal_in_the_models_own_words(transport: str) -> None:
    told = on_mock_once("openai", judged(), {"fault": ("refusal=1",)}, transport=transport)
    assert isinstance(told, Answer)
    assert (told.reply.finish_reason, told.reply.text) == ("refused", "I'm sorry, but I can't help with that.")
    assert told.reply.output_tokens > 0
    worded = on_mock_once("anthropic", judged(), {"fault": ("refusal=1",)}, transport=transport)
    assert isinstance(worded, Answer)
    assert (worded.reply.finish_reason, worded.reply.text) == ("stop", "I'm sorry, but I can't help with that.")


@BOTH
def test_log_probabilities_left_out_leave_a_reply_without_any(transport: str) -> None:
    found = on_mock_once("openai", judged(options=("A", "B")), {"fault": ("no-logprobs=1",)}, transport=transport)
    assert isinstance(found, Answer)
    assert (found.reply.logprobs, found.reply.text) == ((), "A")


def test_all_faults_of_the_mock_server_are_here() -> None:
    assert {*EXPECTED, "slow", "drip", "refusal", "no-logprobs"} == set(FAULTS).difference(LINES_ONLY)


@BOTH
@EITHER
@pytest.mark.parametrize("name", ["429", "500", "reset"])
def test_a_call_that_fails_was_put_once(name: str, provider: str, transport: str) -> None:
    async def test(server: MockServer, asked: ApiModel) -> int:
        await called(asked, request())
        requests: int = server.stats()["requests"]
        return requests

    assert on_mock(provider, test, {"fault": (f"{name}=1",), "retry_after": 0.0}, transport=transport) == 1


@BOTH
@EITHER
def test_an_expired_key_is_barred(provider: str, transport: str) -> None:
    found = on_mock_once(provider, request(), {"key_expires_after": 0}, transport=transport)
    assert isinstance(found, CallFailed)
    assert (found.fault, found.retryable) == ("barred", False)


@BOTH
@EITHER
def test_a_request_that_the_provider_refuses_is_invalid(provider: str, transport: str) -> None:
    found = on_mock_once(provider, request(), {}, transport=transport, extra_body={"no_such_thing": 1})
    assert isinstance(found, CallFailed)
    assert (found.fault, found.retryable) == ("invalid", False)
    assert "no_such_thing" in str(found)


# --- what the mock server does not do ---------------------------------------------------------------------------------


def says(status: int, body: Any, headers: dict[str, str] | None = None, kind: str = "application/json") -> Any:
    """A handler with this answer."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)

    async def handler(asked: web.Request) -> web.Response:
        await asked.read()
        return web.Response(status=status, body=data, headers={"Content-Type": kind, **(headers or {})})

    return handler


def error(message: str = "No.", **others: Any) -> dict[str, Any]:
    return {"error": {"message": message, **others}}


@BOTH
@EITHER
@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (429, error(code="insufficient_quota"), "barred"),
        (429, error(type="insufficient_quota", code=None), "barred"),
        (400, error("Your credit balance is too low to access the API."), "barred"),
        (401, error(), "barred"),
        (402, error(), "barred"),
        (403, error(), "invalid"),  # of one item: a gateway's moderation, say
        (403, error(code="permission_error"), "barred"),
        (403, error(message="Your API key may not do this."), "barred"),
        (400, error(), "invalid"),
        (404, {"detail": "Not Found"}, "invalid"),
        (413, error(), "invalid"),
        (422, {"object": "error", "message": "No.", "code": 422}, "invalid"),
        (301, b"", "invalid"),
        (408, error(), "lost"),
        (504, b"<html>", "lost"),
        (524, b"<html>", "lost"),
        (409, error(), "overloaded"),
        (500, [1], "overloaded"),
        (503, b"not JSON", "overloaded"),
        (204, b"", "garbled"),
        (200, [1], "garbled"),
        (200, {}, "garbled"),
        (200, {"choices": [1], "content": [1]}, "garbled"),
        (200, {"choices": [{"message": {"content": [1]}}], "content": [{"type": "text", "text": 1}]}, "garbled"),
        (200, error("upstream is down", code=502), "garbled"),
    ],
)
def test_statuses_and_bodies(status: int, body: Any, fault: str, provider: str, transport: str) -> None:
    found = answered(provider, says(status, body, {"Location": "http://elsewhere/"}), request(), transport=transport)
    assert isinstance(found, CallFailed), found
    assert found.fault == fault
    assert found.retryable == (fault not in ("barred", "invalid"))


@BOTH
@EITHER
def test_an_error_in_place_of_a_reply_is_told_in_its_own_words(provider: str, transport: str) -> None:
    found = answered(provider, says(200, error("upstream is down")), request(), transport=transport)
    assert str(found) == "HTTP 200: upstream is down"


@BOTH
@EITHER
def test_a_prompt_that_the_providers_filter_declined_is_a_refused_reply(provider: str, transport: str) -> None:
    handler = says(400, error("The prompt was filtered.", code="content_filter"))
    found = answered(provider, handler, request(), transport=transport)
    assert isinstance(found, Answer), found
    assert (found.reply.finish_reason, found.reply.text) == ("refused", "The prompt was filtered.")


@BOTH
@EITHER
def test_a_redirect_is_not_followed(provider: str, transport: str) -> None:
    asked: list[str] = []

    async def handler(one: web.Request) -> web.Response:
        asked.append(one.path)
        return web.Response(status=307, headers={"Location": "/other"})

    found = answered(provider, handler, request(), transport=transport)
    assert isinstance(found, CallFailed)
    assert "sends requests on to /other: set base_url to that" in str(found)
    assert len(asked) == 1


@BOTH
@EITHER
@pytest.mark.parametrize("length_told", [True, False])
def test_a_reply_over_the_limit_is_not_read_to_its_end(length_told: bool, provider: str, transport: str) -> None:
    sent = 0

    async def handler(asked: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if length_told:
            response.content_length = 100 << 20
        await response.prepare(asked)
        with suppress(ConnectionError):  # the client is gone, as it should be
            for _ in range(100):
                await response.write(b" " * (1 << 20))
                sent += 1
        return response

    found = answered(provider, handler, request(), transport=transport)
    assert isinstance(found, CallFailed)
    assert (found.fault, str(found)) == ("garbled", "an answer of more than 8 MB")
    assert sent < 50


@BOTH
@EITHER
@pytest.mark.parametrize(
    "words", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_connection_that_is_closed_too_early_is_lost(words: bytes, provider: str, transport: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(words)
        await writer.drain()
        writer.close()

    found = asked_of(talk, provider, transport)
    assert (found.fault, found.retryable) == ("lost", True)


@BOTH
@EITHER
def test_what_is_not_http_is_no_answer(provider: str, transport: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()
        writer.close()

    assert asked_of(talk, provider, transport).fault in ("garbled", "lost")


def asked_of(talk: Any, provider: str, transport: str) -> CallFailed:
    async def ask(url: str) -> Any:
        asked = model(provider, base_url=rooted(provider, url), transport=transport)
        found = await called(asked, request())
        await asked.close()
        return found

    with plain_server(talk) as run:
        found = run(ask)
    assert isinstance(found, CallFailed)
    return found


@BOTH
@EITHER
def test_a_refused_connection_is_unreachable(provider: str, transport: str) -> None:
    with socket.socket() as bound:  # bound and not listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        found = asked_at(f"http://127.0.0.1:{port}", provider, transport)
    assert (found.fault, found.retryable) == ("unreachable", True)
    assert f"no connection to 127.0.0.1:{port}: " in str(found)


@BOTH
@EITHER
def test_a_name_that_nobody_knows_is_unreachable(
    provider: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", unknown)
    found = asked_at("http://no-such-host.invalid", provider, transport, api_key_env="")
    assert found.fault == "unreachable"
    assert "no connection to no-such-host.invalid" in str(found)


@BOTH
@EITHER
def test_tls_with_a_server_that_has_none_is_unreachable(provider: str, transport: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask(url: str) -> Any:
        asked = model(provider, base_url=rooted(provider, url.replace("http:", "https:")), transport=transport)
        found = await called(asked, request())
        await asked.close()
        return found

    with plain_server(talk) as run:
        assert run(ask).fault == "unreachable"


def asked_at(url: str, provider: str, transport: str, **options: Any) -> CallFailed:
    async def run() -> Any:
        asked = model(provider, base_url=rooted(provider, url), transport=transport, **options)
        found = await called(asked, request())
        await asked.close()
        return found

    found = asyncio.run(run())
    assert isinstance(found, CallFailed), found
    return found


@BOTH
@EITHER
def test_half_a_character_cannot_be_sent(provider: str, transport: str) -> None:
    found = on_mock_once(provider, request("a \ud83d b"), {}, transport=transport)
    assert isinstance(found, CallFailed)
    assert (found.fault, found.retryable) == ("invalid", False)


@BOTH
def test_a_cancelled_call_is_cancelled(transport: str) -> None:
    async def test(server: MockServer, asked: ApiModel) -> None:
        call = asyncio.create_task(asked.routes[0].complete(request(), 30.0))
        await until(lambda: server.stats()["in_flight"] == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    on_mock("openai", test, {"latency": "20s"}, transport=transport)


# --- how long to wait -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
    ],
)
def test_seconds_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_wait_for_is_told_in_seconds_from_now() -> None:
    assert 50 < (retry_after({"retry-after": formatdate(time() + 60, usegmt=True)}) or 0) <= 60


@pytest.mark.parametrize("status", [429, 500, 503, 529, 504])
def test_whoever_can_be_asked_again_may_say_when(status: int) -> None:
    received = Received(status, {"content-type": "application/json", "retry-after": "3"}, b"{}")
    assert failure(received, Address("http://x", "/y")).retry_after == 3.0


def test_a_servers_words_are_one_short_line() -> None:
    body = orjson.dumps(error("a\n\tb  " * 200))
    found = str(failure(Received(400, {"content-type": "application/json"}, body), Address("http://x", "/y")))
    assert found.startswith("HTTP 400: a b a b")
    assert len(found) <= 220
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("ahead", "date", "seconds"),
    [
        (2, 0, 2),  # both clocks are right
        (3602, 3600, 2),  # this machine's is an hour slow
        (-3598, -3600, 2),  # an hour fast
        (2, -3600, 2),  # the server's Date is an hour slow
        (2, 3600, 2),  # an hour fast
        (-5, 0, 0),  # past
        (2, None, 2),
    ],
)
def test_a_moment_that_an_answer_names_by_clocks_that_may_be_wrong(
    ahead: float, date: float | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ahead`` and ``date`` in seconds from what this machine's clock says."""
    now = 1_800_000_000.0
    monkeypatch.setattr("rlaif.models.failures.time.time", lambda: now)
    headers = {} if date is None else {"date": format_datetime(datetime.fromtimestamp(now + date, UTC), usegmt=True)}
    assert seconds_to(now + ahead, headers) == seconds
