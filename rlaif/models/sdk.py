"""The *sdk* transport: the official clients, with their own ways of building and sending a request.

Their retries are off, and they hand over what came in unread, so that both transports' answers are read by the same code.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from rlaif.errors import CallFailed
from rlaif.models.failures import failed, too_large
from rlaif.models.transports import CONNECT_SECONDS, LARGEST_REPLY, Address, PerLoop, Received

ORGANISATION = ("OpenAI-Organization", "OpenAI-Project")  # said by extra_headers, on both transports, or not at all


class Sdk:
    """Requests to one address through an official client; the subclasses say which, and what it calls things."""

    module: ClassVar[str]
    client: ClassVar[str]
    named: ClassVar[tuple[str, ...]]  # what the client takes by name; it passes the rest on as it is
    unset: ClassVar[tuple[str, ...]] = ()  # headers that it would send for itself

    def __init__(self, address: Address) -> None:
        self._address = address
        self._kept = {name.lower() for name in address.headers}
        self._clients: PerLoop[Any] = PerLoop(self._client, lambda client: client.close())

    @property
    def _sdk(self) -> Any:
        """The client's module, which takes a second to import: at first use."""
        return importlib.import_module(self.module)

    def _client(self) -> Any:
        """Redirects are not followed: they would take the key along."""
        import httpx2

        http = self._sdk.DefaultAsyncHttpxClient(
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=self._address.connections, max_keepalive_connections=None),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        )
        return getattr(self._sdk, self.client)(
            api_key=self._address.key or "none",
            base_url=self._address.base_url,
            max_retries=0,
            default_headers={**self._address.headers, **self._without(self.unset)},
            http_client=http,
        )

    def _without(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self._sdk.Omit() for name in names if name.lower() not in self._kept}

    def _create(self, client: Any) -> Any:
        """The client's method for a request whose answer is handed over unread."""
        raise NotImplementedError

    def _asked(self, client: Any, body: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
        named = {name: body[name] for name in self.named}
        rest = {name: value for name, value in body.items() if name not in named}
        headers = self._without(("Authorization",)) if self._address.key is None else None
        asked: AbstractAsyncContextManager[Any] = self._create(client)(**named, extra_body=rest, extra_headers=headers)
        return asked

    async def send(self, body: dict[str, Any], timeout_seconds: float) -> Received:
        client, sdk = self._clients.here(), self._sdk
        import httpx2

        try:
            async with asyncio.timeout(timeout_seconds), self._asked(client, body) as response:
                return Received(response.status_code, response.headers, await _content(response))
        except UnicodeEncodeError as error:
            trouble = failed("invalid", f"the request cannot be written as JSON: {error.reason}")
        except TimeoutError:
            trouble = failed("lost", f"no whole answer within {timeout_seconds:g} seconds")
        except sdk.APIStatusError as error:
            return Received(error.response.status_code, error.response.headers, error.response.content)
        except (sdk.APIConnectionError, httpx2.HTTPError) as error:
            trouble = lost(error if isinstance(error, httpx2.HTTPError) else error.__cause__, self._address)
        raise trouble

    async def close(self) -> None:
        await self._clients.close()


class OpenAISdk(Sdk):
    module, client = "openai", "AsyncOpenAI"
    named = ("model", "messages")
    unset = ORGANISATION

    def _create(self, client: Any) -> Any:
        return client.chat.completions.with_streaming_response.create


class AnthropicSdk(Sdk):
    module, client = "anthropic", "AsyncAnthropic"
    named = ("model", "messages", "max_tokens")

    def _create(self, client: Any) -> Any:
        return client.messages.with_streaming_response.create


def lost(cause: BaseException | None, address: Address) -> CallFailed:
    """What an error of the connection means."""
    import httpx2

    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.ProxyError):
        why = address.hide(str(cause)) or type(cause).__name__
        return failed("unreachable", f"no connection to {address.host}: {why}")
    return failed("lost", f"the connection was closed before a whole answer came ({type(cause).__name__})")


async def _content(response: Any) -> bytes:
    """The body, up to the size that a reply may have."""
    parts, size = [], 0
    async for part in response.iter_bytes():
        size += len(part)
        if size > LARGEST_REPLY:
            raise too_large()
        parts.append(part)
    return b"".join(parts)
