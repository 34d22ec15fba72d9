"""What an answer that is no reply means: a status, a body that cannot be read, and how long the server asks to wait.

Words of a server reach people in one line, shortened, and without keys.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from rlaif.errors import CallFailed, Fault
from rlaif.models import Reply
from rlaif.models.transports import LARGEST_REPLY, Address, Received

MOST_WORDS = 200  # characters of a server's message that are passed on
RETRYABLE: frozenset[Fault] = frozenset(("rate_limited", "overloaded", "unreachable", "lost", "garbled"))
BARRED = (401, 402)
NOT_PERMITTED = frozenset(  # codes of a 403 that no request of the key escapes
    (
        "permission_error",
        "permission_denied",
        "request_forbidden",
        "unsupported_country_region_territory",
        "access_denied",
    )
)
NO_PERMISSION = re.compile(r"\b(api )?key\b|permission|not authori[sz]ed|country|region", re.IGNORECASE)
MAYBE_BILLED = (408, 504, 524)  # somebody on the way gave up waiting for an answer that may have been written
OUT_OF_MONEY = frozenset(
    ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "account_deactivated")
)
NO_CREDIT = re.compile(r"credit balance|insufficient (?:balance|credit|funds)", re.IGNORECASE)
DECLINED = frozenset(("content_filter", "content_policy_violation"))  # of a prompt, before any model saw it
SPACES = re.compile(r"\s+")


def failed(fault: Fault, reason: str, retry_after: float | None = None) -> CallFailed:
    return CallFailed(reason, retryable=fault in RETRYABLE, fault=fault, retry_after=retry_after)


def empty(reply: Reply) -> CallFailed:
    """An answer without text, by what it says it used."""
    error = failed("garbled", "an answer without text")
    error.reply = reply if reply.prompt_tokens or reply.output_tokens else None
    return error


def too_large() -> CallFailed:
    return failed("garbled", f"an answer of more than {LARGEST_REPLY >> 20} MB")


def parsed(received: Received) -> dict[str, Any]:
    """The JSON object of an answer, whatever type it is called. Raises CallFailed (*garbled*)."""
    try:
        value = orjson.loads(received.body)
    except orjson.JSONDecodeError as error:
        raise failed("garbled", _no_json(received)) from error
    if not isinstance(value, dict):
        raise failed("garbled", "an answer that is not a JSON object")
    return value


def _no_json(received: Received) -> str:
    """What came in place of JSON."""
    kind = received.headers.get("content-type", "")
    if is_json(kind):
        return "an answer that is not JSON"
    name = kind.partition(";")[0].strip()[:40]
    return f"an answer of type {name or 'unknown'} where JSON was expected"


def is_json(content_type: str) -> bool:
    if content_type.startswith("application/json"):
        return True
    name = content_type.partition(";")[0].strip().lower()
    return name == "application/json" or name.endswith("+json")


def failure(received: Received, address: Address) -> CallFailed:
    """What a status other than 200, or an error in place of a reply, means."""
    status = received.status
    codes, message = described(received)
    words = in_words(message, address)
    reason = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    if 300 <= status < 400:
        where = in_words(received.headers.get("location", "elsewhere"), address)
        return failed("invalid", f"HTTP {status}: {address.host} sends requests on to {where}: set base_url to that")
    if status == 403 and (not message or codes & NOT_PERMITTED or NO_PERMISSION.search(message)):
        return failed("barred", reason)
    if status in BARRED or codes & OUT_OF_MONEY or (400 <= status < 500 and NO_CREDIT.search(message)):
        return failed("barred", reason)
    if status == 429:
        return failed("rate_limited", reason, retry_after(received.headers))
    if status in MAYBE_BILLED:
        return failed("lost", reason, retry_after(received.headers))
    if status >= 500 or status in (409, 425):
        return failed("overloaded", reason, retry_after(received.headers))
    if status >= 400:
        return failed("invalid", f"{reason} (at {address.url})" if status in (404, 405) else reason)
    return failed("garbled", reason)


def declined(received: Received) -> str | None:
    """The words with which a provider's filter declined a prompt; None where it did not."""
    if received.status != 400:
        return None
    codes, message = described(received)
    return message if codes & DECLINED else None


def described(received: Received) -> tuple[set[str], str]:
    """(codes and types, message) of an error in any of the shapes that servers use; empty where it has none."""
    kind = received.headers.get("content-type", "")
    if not is_json(kind):
        return set(), "a page in HTML" if "html" in kind else ""
    try:
        value = orjson.loads(received.body)
    except orjson.JSONDecodeError:
        return set(), ""
    error = value.get("error") or value if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return set(), str(error)
    codes = {str(error[name]) for name in ("code", "type") if error.get(name)}
    message = next((error[name] for name in ("message", "detail", "msg") if error.get(name)), "")
    return codes, str(message)


def in_words(message: str, address: Address) -> str:
    """A server's message on one line, without secrets, and not too long."""
    line = SPACES.sub(" ", address.hide(message)).strip()
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 1] + "…"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait; None where it does not say."""
    if (milliseconds := number(headers.get("retry-after-ms"))) is not None:
        return max(milliseconds / 1000, 0.0)
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := number(value)) is not None:
        return max(seconds, 0.0)
    try:
        return seconds_to(parsedate_to_datetime(value).timestamp(), headers)
    except (ValueError, OverflowError):
        return None


def seconds_to(moment: float, headers: Mapping[str, str]) -> float:
    """Seconds to a moment (Unix time) that an answer names, 0 where it is past. Its own ``Date`` or this machine's clock
    may be wrong: the nearer of the two counts, of those by which the moment is still to come."""
    clocks = [time.time()]
    with suppress(KeyError, ValueError, OverflowError, TypeError):
        clocks.append(parsedate_to_datetime(headers["date"]).timestamp())
    return min((moment - now for now in clocks if moment >= now), default=0.0)


def number(text: str | None) -> float | None:
    """A header's number; None where it is none, or not finite."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(text: str | None) -> int | None:
    value = number(text)
    return None if value is None else int(value)
