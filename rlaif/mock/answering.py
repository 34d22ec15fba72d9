"""From the bytes of a request to the bytes of a reply: keys, limits, faults, minds and the wire format put together.

Nothing here waits or touches a socket; how long a reply takes and what becomes of it on the way is the delivery's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Any

import orjson

from rlaif.mock.anthropic_format import Anthropic
from rlaif.mock.faults import FAULTS, IN_BATCHES, IN_CALLS, IN_REQUESTS, Fault, parse_faults
from rlaif.mock.latency import parse_latency
from rlaif.mock.limits import UNLIMITED, Bucket, Limits, Standing
from rlaif.mock.minds import Minds
from rlaif.mock.openai_format import OpenAI
from rlaif.mock.options import MockOptions
from rlaif.mock.talk import Question, Rejected, Usage, fingerprint, prompt_tokens, uniform
from rlaif.mock.tally import Bill, Tally

Wire = OpenAI | Anthropic
CAUSES = (*FAULTS, "rpm", "tpm", "key-expired", "client-gone")  # what the counters list under by_fault
DRAWN = Struct("<QqQ")
UNIFORMS = Struct("<QQ")
JSON = "application/json"
BAD_GATEWAY = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
)


@dataclass(slots=True)
class Reply:
    """A reply and what is known about it before it is sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON
    fault: Fault | None = None  # still to be done to it, on its way
    cause: str | None = None  # what the counters call it
    seconds: float = 0.0  # in service
    request: int = 0
    usage: Usage | None = None  # where the model wrote something

    def bill(self, status: str) -> Bill | None:
        """What the provider charges once ``status`` was sent: all that the model wrote, even where it never arrived."""
        if self.usage is None:
            return None
        answered = status == "200" and not (self.fault and self.fault.spoils)
        return Bill(self.request, self.usage.tokens, answered)


@dataclass(frozen=True, slots=True)
class LineResult:
    """What became of one line of a batch: succeeded or errored with a status and a body, or expired."""

    outcome: str
    status: int = 200
    body: dict[str, Any] | None = None
    usage: Usage | None = None


class Answering:
    """Answers requests of one worker."""

    def __init__(self, options: MockOptions, tally: Tally, worker: int = 0) -> None:
        self.options = options
        self.tally = tally
        self.openai, self.anthropic = OpenAI(options), Anthropic(options)
        self._worker = worker
        self._numbered = 0
        plan = parse_faults(options.fault)
        self._in_calls, self._in_batches, self._in_requests = map(plan.only, (IN_CALLS, IN_BATCHES, IN_REQUESTS))
        self._latency = parse_latency(options.latency)
        self._limits = limits_of(options, tally)
        self._minds = Minds(options)

    def wire_of(self, headers: Mapping[str, str]) -> Wire:
        """Whose words to use where the path does not say."""
        return self.anthropic if "anthropic-version" in headers else self.openai

    def new_id(self) -> str:
        """A request id that no other request of this server has."""
        self._numbered += 1
        return f"req_mock{self._worker:02x}{self._numbered:012x}"

    def call(
        self, wire: Wire, headers: Mapping[str, str], key: str | None, place: int, count: int, body: bytes
    ) -> Reply:
        """The reply to one call of a model. ``place`` and ``count``: of the key, as the tally has them."""
        request_id, standing, now = self.new_id(), UNLIMITED, time.time()
        try:
            self.admit(wire, key, count)
            question = wire.question(json_object(body), headers)
            if self._limits:
                tokens = prompt_tokens(question.turns) + question.overhead + (question.max_tokens or 0)
                standing = self._limits.charge(place, tokens, time.monotonic())
            if standing.short:
                raise wire.too_many(question, standing)
            reply = self._answered(wire, question, body, request_id, now)
        except Rejected as refused:
            reply = self.refusal(wire, refused, request_id)
        return self._addressed(wire, reply, request_id, standing, now)

    def admit(self, wire: Wire, key: str | None, count: int) -> None:
        """Raises Rejected without a key, or with one that has made more requests than it may."""
        if key is None:
            raise wire.without_key()
        if self.options.key_expires_after is not None and count > self.options.key_expires_after:
            raise wire.expired()

    def _answered(self, wire: Wire, question: Question, body: bytes, request_id: str, now: float) -> Reply:
        request = fingerprint(wire.path.encode(), body)
        attempt = self.tally.attempt(request)
        u, v = self._draws(request, attempt)
        fault = self._in_calls.drawn(attempt, u)
        seconds = self._latency(v)
        if fault and fault.status >= 400:
            return self._failed(wire, fault, request_id, seconds)
        value, usage = self._said(wire, question, request, attempt, fault, now)
        cause = fault.name if fault else None
        return Reply(200, orjson.dumps(value), fault=fault, cause=cause, seconds=seconds, request=request, usage=usage)

    def _said(
        self, wire: Wire, question: Question, request: int, attempt: int, fault: Fault | None, now: float
    ) -> tuple[dict[str, Any], Usage]:
        if fault and fault.name == "no-logprobs":
            question = replace(question, top_logprobs=None)
        answers = self._minds.answers(question, request, attempt, fault)
        usage = wire.usage(question, answers, now)
        return wire.reply(question, answers, usage, f"mock{request:016x}{attempt:x}", now), usage

    def _draws(self, request: int, attempt: int) -> tuple[float, float]:
        """The attempt's draws for fault and latency, each in (0, 1)."""
        drawn = blake2b(DRAWN.pack(request, self.options.seed, attempt), digest_size=16).digest()
        a, b = UNIFORMS.unpack(drawn)
        return uniform(a), uniform(b)

    # --- refusals and failures ----------------------------------------------------------------------------------------

    def refusal(self, wire: Wire, refused: Rejected, request_id: str) -> Reply:
        """A refused request, in the provider's words."""
        headers = wire.wait(refused.wait) if refused.wait is not None else {}
        return Reply(refused.status, orjson.dumps(wire.error(refused, request_id)), headers, cause=refused.cause)

    def _failed(self, wire: Wire, fault: Fault, request_id: str, seconds: float) -> Reply:
        """A fault that is a status; too many requests are turned away at once."""
        if fault.status == 502:
            return Reply(502, BAD_GATEWAY, content_type="text/html", cause=fault.name, seconds=seconds)
        refused = wire.failure(fault)
        if fault.name == "429":
            refused.wait = self.options.retry_after
        reply = self.refusal(wire, refused, request_id)
        reply.seconds = 0.0 if fault.status == 429 else seconds
        return reply

    def _addressed(self, wire: Wire, reply: Reply, request_id: str, standing: Standing, now: float) -> Reply:
        reply.headers[wire.id_header] = request_id
        if standing.levels and not self.options.hide_limits:
            reply.headers.update(wire.limits(standing.levels, now))
        return reply

    # --- other endpoints, and lines of batches ------------------------------------------------------------------------

    def failing(self, wire: Wire, method: str, path: str, body: bytes, request_id: str) -> Reply:
        """The reply to a request that calls no model, as far as its fault decides about it: failed, or still empty."""
        request = fingerprint(method.encode(), path.encode(), body)
        attempt = self.tally.attempt(request)
        fault = self._in_requests.drawn(attempt, self._draws(request, attempt)[0])
        if fault and fault.status >= 400:
            return self._failed(wire, fault, request_id, 0.0)
        return Reply(200, b"", fault=fault, cause=fault.name if fault else None)

    def line(self, wire: Wire, headers: Mapping[str, str], body: Any) -> LineResult:
        """One line of a batch, answered as a call would be, under the faults that befall lines."""
        request = fingerprint(b"line", wire.path.encode(), orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
        attempt = self.tally.attempt(request)
        fault = self._in_batches.drawn(attempt, self._draws(request, attempt)[0])
        try:
            question = wire.question(body if isinstance(body, dict) else {}, headers)
            if fault and fault.name == "batch-failed":
                raise wire.failure(FAULTS["500"])
        except Rejected as refused:
            return self._lined(request, LineResult("errored", refused.status, wire.error(refused, self.new_id())))
        if fault and fault.name == "batch-expired":
            return self._lined(request, LineResult("expired"))
        value, usage = self._said(wire, question, request, attempt, fault, time.time())
        return self._lined(request, LineResult("succeeded", 200, value, usage))

    def not_asked(self, result: LineResult) -> None:
        """Count a line of a batch that was canceled before its turn."""
        self.tally.line(result.outcome, Bill(0, (0, 0, 0, 0), False))

    def _lined(self, request: int, result: LineResult) -> LineResult:
        tokens = result.usage.tokens if result.usage else (0, 0, 0, 0)
        self.tally.line(result.outcome, Bill(request, tokens, result.outcome == "succeeded"))
        return result


def limits_of(options: MockOptions, tally: Tally) -> Limits | None:
    named = (("requests", options.rpm), ("tokens", options.tpm))
    buckets = [
        Bucket(unit, limit, options.limit_window_seconds, tally.levels[unit])
        for unit, limit in named
        if limit is not None
    ]
    return Limits(buckets, tally.lock) if buckets else None


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises Rejected."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise Rejected(400, "We could not parse the JSON body of your request: expected a JSON object.")
    return value


@lru_cache(maxsize=1024)
def key_hash(key: str | None) -> int:
    """What stands for an API key in counters and lists, its first 12 hex digits where people see it."""
    return fingerprint((key or "").encode("utf-8", "surrogatepass"))


def key_name(key: str | None) -> str:
    return f"{key_hash(key):016x}"[:12]
