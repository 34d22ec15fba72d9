"""The server as processes: one or several that share a port and a count, and one started for a test or a benchmark."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import Any, Self

import orjson

from rlaif.errors import ConfigError, StorageError
from rlaif.mock.answering import CAUSES
from rlaif.mock.options import MockOptions
from rlaif.mock.server import Front, Listening, bind, url_of
from rlaif.mock.tally import Tally


def serve(options: MockOptions, say: Callable[[str], None], until_eof: bool = False) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM (or, with ``until_eof``, the end of standard input); returns the counts.

    The first line said names the address.
    """
    several = options.workers > 1
    if several and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("mock-server: --workers needs SO_REUSEPORT, which this system lacks. Use one worker.")
    context = multiprocessing.get_context("fork") if several else None
    tally = Tally(context.Lock() if context else Lock(), CAUSES)
    first = bind(options.host, options.port, shared=several)
    url, port = url_of(first), first.getsockname()[1]
    public = [first, *(bind(options.host, port, shared=True) for _ in range(1, options.workers))]
    private = [bind("127.0.0.1", 0) for _ in public] if several else []
    addresses = tuple(map(url_of, private))
    fronts = [Front(options, tally, url, worker, addresses) for worker in range(len(public))]
    read, write = os.pipe()  # its end tells the others that the first has gone
    children = []
    for worker in range(1, len(public)):
        assert context is not None
        sockets = [public[worker], private[worker]]
        child = context.Process(target=_child, args=(fronts[worker], sockets, read, write), daemon=True)
        child.start()
        children.append(child)
    watched = sys.stdin.fileno() if until_eof else None
    try:
        asyncio.run(_listen(fronts[0], [first, *private[:1]], watched, lambda: _introduce(url, say)))
    finally:
        os.close(write)
        for child in children:
            child.join()
        os.close(read)
    return tally.stats()


def _introduce(url: str, say: Callable[[str], None]) -> None:
    say(f"mock server at {url}")
    say(f"base URL for OpenAI clients {url}/v1, for Anthropic clients {url}; counts at {url}/_mock/stats; Ctrl-C stops")


def _child(front: Front, sockets: list[socket.socket], read: int, write: int) -> None:
    os.close(write)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first worker's to hear
    asyncio.run(_listen(front, sockets, read, lambda: None))


async def _listen(front: Front, sockets: list[socket.socket], watched: int | None, ready: Callable[[], None]) -> None:
    """Serve until a signal, or until ``watched`` has nothing more to read."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    if watched is not None:

        def read() -> None:
            if not os.read(watched, 4096):
                loop.remove_reader(watched)
                stop.set()

        loop.add_reader(watched, read)
    listening = Listening(front, sockets)
    await listening.start()
    ready()
    await stop.wait()
    await listening.stop()


class Running:
    """A server in a process of its own. It ends with ``stop``, with the block, or when this process does."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url

    def stats(self) -> dict[str, Any]:
        """The counts, as ``/_mock/stats`` gives them."""
        value: dict[str, Any] = orjson.loads(self._ask("GET", "/_mock/stats"))
        return value

    def reset(self) -> None:
        """All counts to zero, all batches forgotten."""
        self._ask("POST", "/_mock/reset")

    def _ask(self, method: str, path: str) -> bytes:
        from urllib.request import Request, urlopen

        with urlopen(Request(self.url + path, method=method), timeout=30) as response:
            data: bytes = response.read()
        return data

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(options: MockOptions | None = None) -> Running:
    """Start a server in its own process and wait until it listens. Raises StorageError where it does not come up."""
    options = options or MockOptions()
    command = [sys.executable, "-m", "rlaif.mock", options.model_dump_json()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    line = process.stdout.readline().decode()
    if not line.startswith("mock server at "):
        process.kill()
        raise StorageError(f"the mock server did not start: {line.strip() or 'see its message above'}")
    return Running(process, line.split()[-1])
