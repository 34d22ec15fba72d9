"""The *fast* transport: aiohttp and orjson, and nothing made anew for a call that can be made once."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from yarl import URL

from rlaif.errors import CallFailed
from rlaif.models.failures import failed, too_large
from rlaif.models.transports import CONNECT_SECONDS, LARGEST_REPLY, Address, PerLoop, Received


class Fast:
    """Requests to one address, over connections that are kept."""

    def __init__(self, address: Address, headers: dict[str, str]) -> None:
        """``headers``: all that a request carries, the key's own included."""
        self._address = address
        self._url = URL(address.url)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"rlaif/{version('rlaif')}",
            **headers,
        }
        self._sessions = PerLoop(self._session, lambda session: session.close())

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._address.connections, ttl_dns_cache=300),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_for(self._address.base_url),
        )

    async def send(self, body: dict[str, Any], timeout_seconds: float) -> Received:
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise failed("invalid", f"the request cannot be written as JSON: {error}") from error
        session = self._sessions.here()
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                session.post(self._url, data=data, allow_redirects=False) as response,
            ):
                return Received(response.status, response.headers, await _content(response))
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            trouble = self._unreachable(error)
        except TimeoutError:
            trouble = failed("lost", f"no whole answer within {timeout_seconds:g} seconds")
        except aiohttp.ClientPayloadError:
            trouble = failed("lost", "the answer broke off")
        except aiohttp.ClientResponseError:
            trouble = failed("garbled", "an answer that is not HTTP")
        except (aiohttp.ClientError, OSError) as error:
            trouble = failed("lost", f"the connection was closed before an answer came ({type(error).__name__})")
        raise trouble

    def _unreachable(self, error: Exception) -> CallFailed:
        cause = getattr(error, "os_error", None)
        why = getattr(cause, "strerror", None) or type(error).__name__
        return failed("unreachable", f"no connection to {self._address.host}: {self._address.hide(str(why))}")

    async def close(self) -> None:
        await self._sessions.close()


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to the size that a reply may have."""
    length = response.content_length
    if length is not None:
        if length > LARGEST_REPLY:
            raise too_large()
        if "content-encoding" not in response.headers:
            return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_REPLY:
            raise too_large()
        parts.append(part)
    return b"".join(parts)


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this address (HTTPS_PROXY, NO_PROXY and their like)."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
