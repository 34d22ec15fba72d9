"""The *fast* transport: a lean HTTP client and orjson, and nothing made anew for a call that can be made once."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from rlaif.models.failures import failed, too_large
from rlaif.models.http1 import BrokenOff, ConnectFailed, NotHttp, Pool, Target, TooLarge
from rlaif.models.transports import Address, PerLoop, Received


class Fast:
    """Requests to one address, over connections that are kept."""

    def __init__(self, address: Address, headers: dict[str, str]) -> None:
        """``headers``: all that a request carries, the key's own included."""
        self._address = address
        target = Target.of(address.url, proxy_for(address.base_url))
        self._head = target.head(
            {
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"rlaif/{version('rlaif')}",
                **headers,
            }
        )
        self._pools = PerLoop(lambda: Pool(target, address.connections), lambda pool: pool.close())

    async def send(self, body: dict[str, Any], timeout_seconds: float) -> Received:
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise failed("invalid", f"the request cannot be written as JSON: {error}") from error
        pool = self._pools.here()
        try:  # the head, with the key in it, is in no variable: tracebacks may show those
            return await pool.exchange(b"%bContent-Length: %d\r\n\r\n" % (self._head, len(data)), data, timeout_seconds)
        except ConnectFailed as error:
            trouble = failed("unreachable", f"no connection to {self._address.host}: {self._address.hide(str(error))}")
        except TimeoutError:
            trouble = failed("lost", f"no whole answer within {timeout_seconds:g} seconds")
        except BrokenOff as error:
            trouble = failed("lost", str(error))
        except NotHttp:
            trouble = failed("garbled", "an answer that is not HTTP")
        except TooLarge:
            trouble = too_large()
        raise trouble

    async def close(self) -> None:
        await self._pools.close()


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this address (HTTPS_PROXY, NO_PROXY and their like)."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
