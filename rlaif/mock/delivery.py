"""How a reply goes over the connection, whole or not: bytes straight to the transport.

aiohttp reads the request; the reply is one write of prepared bytes, which costs a fifth less than its own responses and
lets a fault decide about every byte.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from aiohttp import ClientConnectionError, web

from rlaif.mock.answering import Reply

RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST
AT_ONCE = 1 << 15  # bytes that a connection takes in one go
DRIPS = 20  # portions of a body that drips in
ARRIVING_SECONDS = 0.005  # for the first half of a body to be read before the connection is reset
CLOCK_JUMPS = (-86_400.0, -3_600.0, 3_600.0, 86_400.0)  # seconds by which a Date is off
PAGE = b"<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head><body><h1>Checking your browser</h1></body></html>\n"
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Written(web.StreamResponse):
    """Stands for a response whose bytes are already on their way."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> Any:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


KEPT, CLOSED = Written(True), Written(False)


async def deliver(request: web.BaseRequest, reply: Reply, fault_seconds: float, leave: Callable[[str], None]) -> bool:
    """Send the reply, as its fault lets it; whether it was sent to its end.

    ``leave`` is told the status as the last byte is handed over, before anybody who has read it can ask for the counts.
    """
    fault = reply.fault.name if reply.fault else None
    if fault == "slow":
        await asyncio.sleep(fault_seconds)
    transport = request.transport
    if transport is None or transport.is_closing():
        return _gone(reply)
    if fault == "reset":
        _reset(transport)
        return False
    body, content_type = _spoilt(fault, reply)
    head = _head(reply, content_type, len(body), request.keep_alive)
    if fault == "reset-mid":
        transport.write(head + body[: len(body) // 2])
        await asyncio.sleep(ARRIVING_SECONDS)
        _reset(transport)
        return False
    last = head + body
    if fault == "drip":
        last = await _drip(transport, last, fault_seconds)
    elif len(last) > AT_ONCE:
        last = await _most_of(last, request, transport)
    if transport.is_closing():
        return _gone(reply)
    leave(str(reply.status))
    transport.write(last)
    return True


def _gone(reply: Reply) -> bool:
    reply.cause = "client-gone"
    return False


async def _most_of(data: bytes, request: web.BaseRequest, transport: asyncio.Transport) -> bytes:
    """Write all but the end of it, wait until that is the system's or the connection is lost, and return the end."""
    transport.write(data[:-AT_ONCE])
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(0)
        with suppress(ConnectionError, ClientConnectionError):
            await request.writer.drain()
    return data[-AT_ONCE:]


async def _drip(transport: asyncio.Transport, data: bytes, seconds: float) -> bytes:
    """Write all but the last portion of it over so many seconds, and return that."""
    step = len(data) // DRIPS + 1
    for start in range(0, len(data) - step, step):
        if not transport.is_closing():
            transport.write(data[start : start + step])
        await asyncio.sleep(seconds / DRIPS)
    return data[(len(data) - 1) // step * step :]


def abort(request: web.BaseRequest) -> None:
    """Reset the connection of a request."""
    if request.transport is not None:
        _reset(request.transport)


def _reset(transport: asyncio.Transport) -> None:
    handle = transport.get_extra_info("socket")
    if handle is not None and handle.family in (socket.AF_INET, socket.AF_INET6):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


def _spoilt(fault: str | None, reply: Reply) -> tuple[bytes, str]:
    """Body and content type as the fault leaves them."""
    if fault == "truncated":
        return reply.body[: len(reply.body) // 2], reply.content_type
    if fault == "malformed":
        return reply.body.replace(b":", b"=", 1), reply.content_type
    if fault == "content-type":
        return reply.body, "text/plain; charset=utf-8"
    if fault == "html":
        return PAGE, "text/html; charset=utf-8"
    return reply.body, reply.content_type


def _head(reply: Reply, content_type: str, length: int, keep_alive: bool) -> bytes:
    now = time.time()
    if reply.fault and reply.fault.name == "clock":
        now += CLOCK_JUMPS[reply.request % len(CLOCK_JUMPS)]
    lines = [
        f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Overloaded')}",
        f"date: {_date(int(now))}",
        f"content-type: {content_type}",
        f"content-length: {length}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
        "\r\n" if keep_alive else "connection: close\r\n\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1")


@lru_cache(maxsize=16)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
