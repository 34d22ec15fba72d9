"""A mock server in the test's own loop, and what tests ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from rlaif.mock import MockOptions, MockServer

KEY = {"Authorization": "Bearer sk-test"}
ANTHROPIC = {"x-api-key": "sk-ant-test", "anthropic-version": "2023-06-01"}
PAIR = """<<{fence} conversation>>
How do I boil an egg? Answer A or B or 1 or 2.
<<{fence} reply A>>
{a}
<<{fence} reply B>>
{b}
<<{fence} end>>

"""
LETTER = PAIR + "Say which reply is better, A or B, with the letter alone."
BRACKETS = PAIR + "Which reply is better? End with [[A]], [[B]] or [[C]] for a tie."


def pair(form: str, a: str, b: str, fence: str = "0123456789abcdef") -> list[dict[str, str]]:
    """A judge's conversation about two replies."""
    return [{"role": "user", "content": form.format(fence=fence, a=a, b=b)}]


def chat(text: str = "Hello", **others: Any) -> dict[str, Any]:
    """A body for OpenAI's chat completions."""
    return {"model": "mock-policy", "messages": [{"role": "user", "content": text}], **others}


def message(text: str = "Hello", **others: Any) -> dict[str, Any]:
    """A body for Anthropic's messages."""
    return {"model": "mock-policy", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **others}


def serving(test: Callable[[MockServer, aiohttp.ClientSession], Awaitable[Any]], **options: Any) -> Any:
    """Run ``test(server, session)`` against a server with these options."""

    async def run() -> Any:
        async with MockServer(MockOptions(**options)) as server, aiohttp.ClientSession(server.url) as session:
            return await test(server, session)

    return asyncio.run(run())


async def post(
    session: aiohttp.ClientSession, body: Any, path: str = "/v1/chat/completions", headers: Any = KEY
) -> tuple[int, Any, Any]:
    """(status, JSON body, headers) of one call."""
    async with session.post(path, json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None), response.headers


async def until(reached: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until a condition of the server's holds, or the test's own time is over."""
    while True:
        held = reached()
        if held if isinstance(held, bool) else await held:
            return
        await asyncio.sleep(0.005)


async def seen(session: aiohttp.ClientSession, body: Any) -> str:
    """What a client without any retry sees of a call: a status, or the kind of failure."""
    try:
        status, _, _ = await post(session, body)
    except aiohttp.ClientPayloadError:
        return "cut"
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return "reset"
    except ValueError:
        return "not JSON"
    return str(status)
