"""The lean HTTP client: connections kept and dropped, TLS, proxies, and answers in every form servers send them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlaif.models import http1
from rlaif.models.http1 import BrokenOff, ConnectFailed, NotHttp, Pool, Target, TooLarge
from rlaif.models.transports import Received

PEM = Path(__file__).parent / "localhost.pem"  # a key and a certificate for localhost, made for these tests
FINE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head and the body of one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0")
    return head + await reader.readexactly(int(length.split(b":")[1]))


class Server:
    """A server that answers every request of a connection with the next of its answers; None closes the connection."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                self.requests.append(await read_request(reader))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass  # the client has left
        finally:
            writer.close()


def serve(
    server: Server,
    test: Callable[[str], Awaitable[Any]],
    *,
    tls: ssl.SSLContext | None = None,
    talk: Talk | None = None,
) -> Any:
    async def run() -> Any:
        async with await asyncio.start_server(talk or server.talk, "127.0.0.1", 0, ssl=tls) as running:
            port = running.sockets[0].getsockname()[1]
            return await test(f"{'https' if tls else 'http'}://localhost:{port}/v1/x")

    return asyncio.run(asyncio.wait_for(run(), 30))


def post(url: str, times: int = 1, most: int = 4, proxy: str | None = None) -> Awaitable[list[Any]]:
    """What each of some exchanges after each other came to."""

    async def run() -> list[Any]:
        target = Target.of(url, proxy)
        pool = Pool(target, most)
        found: list[Any] = []
        for _ in range(times):
            try:
                found.append(
                    await pool.exchange(target.head({"X-A": "b"}) + b"Content-Length: 4\r\n\r\n", b"body", 10.0)
                )
            except Exception as error:  # noqa: BLE001 - what it was is what the test looks at
                found.append(error)
        await pool.close()
        return found

    return run()


def test_a_request_is_what_http_asks_for_and_a_connection_is_kept() -> None:
    server = Server(FINE, FINE, FINE)
    found = serve(server, lambda url: post(url, 3))
    assert [(one.status, one.body) for one in found] == [(200, b"{}")] * 3
    assert found[0].headers == {"content-type": "application/json", "content-length": "2"}
    assert server.connections == 1
    lines = server.requests[0].split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1"
    assert lines[1].startswith(b"Host: localhost:")
    assert lines[2:] == [b"X-A: b", b"Content-Length: 4", b"", b"body"]


@pytest.mark.parametrize(
    "last", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n{}", None]
)
def test_a_connection_that_ends_is_not_used_again(last: bytes | None) -> None:
    class Once(Server):
        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self.requests.append(await read_request(reader))
            writer.write(last or b"")
            writer.close()

    server = Once()
    found = serve(server, lambda url: post(url, 2))
    assert server.connections == 2
    if last:
        assert [one.body for one in found] == [b"{}"] * 2
    else:
        assert [type(one) for one in found] == [BrokenOff] * 2


def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    async def test(url: str) -> list[Any]:
        target = Target.of(url, None)
        pool = Pool(target, 1)
        head = target.head({}) + b"Content-Length: 0\r\n\r\n"
        found = [await pool.exchange(head, b"", 10.0)]
        await asyncio.sleep(0.05)  # the server says goodbye meanwhile
        found.append(await pool.exchange(head, b"", 10.0))
        return found

    class Leaves(Server):
        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await read_request(reader)
            writer.write(FINE)
            writer.close()

    server = Leaves()
    assert [one.status for one in serve(server, test)] == [200, 200]
    assert server.connections == 2


def test_a_connection_idle_for_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "STALE_SECONDS", 0.0)
    server = Server(FINE, FINE)
    assert [one.status for one in serve(server, lambda url: post(url, 2))] == [200, 200]
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + FINE, (200, b"{}")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", (200, b"{}")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", (503, b"")),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}", NotHttp),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", NotHttp),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", TooLarge),
        (b"no http at all\r\n\r\n", NotHttp),
    ],
    ids=["100", "chunked", "204", "503", "brotli", "no gzip", "too large", "no http"],
)
def test_answers_in_every_form(answer: bytes, expected: Any) -> None:
    (found,) = serve(Server(answer), lambda url: post(url))
    if isinstance(expected, tuple):
        assert isinstance(found, Received)
        assert (found.status, found.body) == expected
    else:
        assert type(found) is expected


def test_an_answer_that_comes_byte_by_byte_is_read() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in FINE:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    (found,) = serve(Server(), lambda url: post(url), talk=slowly)
    assert (found.status, found.body) == (200, b"{}")


def test_time_runs_out_while_connecting_waiting_or_reading() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def test(url: str) -> Any:
        target = Target.of(url, None)
        pool = Pool(target, 1)
        head = target.head({}) + b"Content-Length: 0\r\n\r\n"
        first = asyncio.create_task(pool.exchange(head, b"", 0.3))
        await asyncio.sleep(0)
        second = asyncio.create_task(pool.exchange(head, b"", 0.1))  # waits for the one connection
        return await asyncio.gather(first, second, return_exceptions=True)

    found = serve(Server(), test, talk=silent)
    assert [type(error) for error in found] == [TimeoutError, TimeoutError]


def test_who_waits_for_a_connection_gets_one_when_another_leaves() -> None:
    async def test(url: str) -> list[Any]:
        target = Target.of(url, None)
        pool = Pool(target, 2)
        head = target.head({}) + b"Content-Length: 0\r\n\r\n"
        calls = [asyncio.create_task(pool.exchange(head, b"", 10.0)) for _ in range(12)]
        await asyncio.sleep(0.01)
        calls[5].cancel()
        calls[0].cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        return found

    server = Server(*[FINE] * 20)
    found = serve(server, test)
    assert sum(isinstance(one, Received) for one in found) >= 10
    assert not [one for one in found if not isinstance(one, Received | asyncio.CancelledError)]


# --- TLS and proxies --------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def test_tls_to_a_server_with_a_known_certificate(tls: ssl.SSLContext) -> None:
    server = Server(FINE, FINE)
    assert [one.status for one in serve(server, lambda url: post(url, 2), tls=tls)] == [200, 200]
    assert server.connections == 1


def test_an_unknown_certificate_is_refused(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    (found,) = serve(Server(FINE), lambda url: post(url), tls=tls)
    assert isinstance(found, ConnectFailed)
    assert "CERTIFICATE_VERIFY_FAILED" in str(found)


def through_proxy(url: str, requests: list[bytes], answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n") -> Talk:
    """A proxy that tunnels to the host it is asked for."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(answer)
        if b" 200 " in answer:
            host, port = requests[-1].split()[1].decode().split(":")
            there = await asyncio.open_connection(host, int(port))
            with suppress(asyncio.CancelledError):  # the test is over
                await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    return talk


@pytest.mark.parametrize("refused", [False, True])
def test_https_through_a_proxy_is_tunnelled(tls: ssl.SSLContext, refused: bool) -> None:
    requests: list[bytes] = []
    answer = b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n" if refused else b"HTTP/1.1 200 Connected\r\n\r\n"
    server = Server(FINE, FINE)

    async def test(url: str) -> Any:
        async with await asyncio.start_server(through_proxy(url, requests, answer), "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            return await post(url, 2, proxy=f"http://me:s%20cret@127.0.0.1:{port}")

    found = serve(server, test, tls=tls)
    assert requests[0].startswith(b"CONNECT localhost:")
    assert b"Proxy-Authorization: Basic bWU6cyBjcmV0\r\n" in requests[0]
    if refused:
        assert [str(one) for one in found] == ["the proxy gives no tunnel: HTTP 407"] * 2
    else:
        assert [one.status for one in found] == [200, 200]
        assert (len(requests), server.connections) == (1, 1)
        assert b"Proxy-Authorization" not in server.requests[0]


def test_plain_http_through_a_proxy_names_the_whole_address() -> None:
    server = Server(FINE)
    (found,) = serve(server, lambda url: post("http://far.example/v1/x", proxy=url.removesuffix("/v1/x")))
    assert found.status == 200
    assert server.requests[0].startswith(b"POST http://far.example/v1/x HTTP/1.1\r\nHost: far.example\r\n")


def test_on_uvloop_as_on_asyncio() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> Any:
        server = Server(FINE, FINE)
        async with await asyncio.start_server(server.talk, "127.0.0.1", 0) as running:
            url = f"http://localhost:{running.sockets[0].getsockname()[1]}/v1/x"
            return await post(url, 2), await post("http://localhost:1/v1/x")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        (one, two), (refused,) = runner.run(run())
    assert (one.status, two.status) == (200, 200)
    assert isinstance(refused, ConnectFailed)
