"""Anthropic's messages: what a request may say, and replies, errors and headers in its words.

Two API versions are spoken. 2026-10-21, which the SDK's second major version sends, knows no sampling parameters at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlaif.mock.cache import PrefixCache
from rlaif.mock.faults import Fault
from rlaif.mock.limits import Level, Standing
from rlaif.mock.options import MockOptions
from rlaif.mock.schema import is_sound
from rlaif.mock.talk import PER_PROMPT, Answer, Question, Rejected, Usage, prompt_tokens, tokens_in

VERSIONS = ("2023-01-01", "2023-06-01", "2026-10-21")
WITHOUT_SAMPLING = "2026-10-21"
SAMPLING = ("temperature", "top_p", "top_k")
PARAMETERS = (
    "max_tokens messages model cache_control container diagnostics inference_geo metadata output_config service_tier "
    "speed stop_sequences stream system thinking tool_choice tools temperature top_p top_k"
)
KNOWN = frozenset(PARAMETERS.split())
SHAPES: dict[str, type] = {"tools": list, "stop_sequences": list, "tool_choice": dict, "output_config": dict}
MOST_MARKS = 4
STOP = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
FAILURES = {
    429: "Number of requests has exceeded your rate limit. Please try again later.",
    500: "Internal server error",
    503: "Service unavailable",
    529: "Overloaded",
}


class Anthropic:
    """The wire format. Keeps nothing but the prompt cache."""

    path = "/v1/messages"
    id_header = "request-id"

    def __init__(self, options: MockOptions) -> None:
        self._prefill = options.prefill
        self._cache = PrefixCache(options.cache_minimum)

    def key(self, headers: Mapping[str, str]) -> str | None:
        if key := headers.get("x-api-key"):
            return key
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key if scheme == "Bearer" and key else None

    def without_key(self) -> Rejected:
        return Rejected(401, "x-api-key header is required")

    def expired(self) -> Rejected:
        return Rejected(401, "invalid x-api-key", cause="key-expired")

    def question(self, body: Mapping[str, Any], headers: Mapping[str, str], counting: bool = False) -> Question:
        """What is asked. Raises Rejected as Anthropic refuses a request; only ``counting`` tokens needs no max_tokens."""
        version = headers.get("anthropic-version")
        if version is None:
            raise Rejected(400, "anthropic-version: header is required")
        if version not in VERSIONS:
            raise Rejected(400, f'anthropic-version: "{version}" is not a valid version')
        _need_fields(body, version, ("model", "messages") if counting else ("model", "max_tokens", "messages"))
        prompt = _Prompt()
        for tool in body.get("tools", ()):
            prompt.add("tool", json.dumps({k: v for k, v in tool.items() if k != "cache_control"}), tool)
        prompt.add_content("system", body.get("system"), "system")
        for place, message in enumerate(body["messages"]):
            if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
                raise Rejected(400, f"messages.{place}.role: Input should be 'user' or 'assistant'")
            prompt.add_content(message["role"], message.get("content"), f"messages.{place}")
        if body.get("cache_control"):
            prompt.mark()
        if len(prompt.marks) > MOST_MARKS:
            found = len(prompt.marks)
            raise Rejected(400, f"A maximum of {MOST_MARKS} blocks with cache_control may be provided. Found {found}.")
        if body["messages"][-1]["role"] == "assistant" and not self._prefill:
            message = (
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )
            raise Rejected(400, message)
        tool, schema = _wanted(body)
        return Question(
            model=body["model"],
            turns=[turn for turn in prompt.turns if turn[0] != "tool"],
            temperature=body.get("temperature"),
            max_tokens=body.get("max_tokens"),
            stop=tuple(body.get("stop_sequences") or ()),
            schema=schema,
            tool=tool,
            marks=tuple(prompt.marks),
            prompt="\n".join(prompt.texts) if prompt.marks else "",
            overhead=sum(tokens_in(text) for role, text in prompt.turns if role == "tool"),
        )

    def usage(self, question: Question, answers: Sequence[Answer], now: float) -> Usage:
        prompt = prompt_tokens(question.turns) + question.overhead
        read, written = self._cache.marked(question.prompt, question.marks, now)
        completion = sum(len(answer.pieces) for answer in answers)
        return Usage(
            prompt, max(completion, 1), min(read, prompt - PER_PROMPT), min(written, prompt - PER_PROMPT - read)
        )

    def reply(
        self, question: Question, answers: Sequence[Answer], usage: Usage, name: str, now: float
    ) -> dict[str, Any]:
        """The body of a message; ``name`` is unique to request and attempt."""
        (answer,) = answers
        called = question.tool and answer.finish in ("stop", "length") and not answer.declined
        return {
            "id": f"msg_{name}",
            "type": "message",
            "role": "assistant",
            "model": question.model,
            "content": _content(question, answer, name) if called else _text(answer),
            "stop_reason": "tool_use" if called and answer.finish == "stop" else STOP.get(answer.finish, answer.finish),
            "stop_sequence": answer.stopped_by,
            "stop_details": {"type": "refusal", "category": "general_harms", "explanation": None}
            if answer.finish == "content_filter"
            else None,
            "usage": {
                "input_tokens": usage.prompt - usage.cached - usage.written,
                "cache_creation_input_tokens": usage.written,
                "cache_read_input_tokens": usage.cached,
                "cache_creation": {"ephemeral_5m_input_tokens": usage.written, "ephemeral_1h_input_tokens": 0},
                "output_tokens": usage.completion,
                "service_tier": "standard",
            },
        }

    def error(self, refused: Rejected, request_id: str) -> dict[str, Any]:
        kind = refused.kind or ERROR_TYPES.get(refused.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": refused.message}, "request_id": request_id}

    def failure(self, fault: Fault) -> Rejected:
        """A fault that is a status, in Anthropic's words."""
        return Rejected(fault.status, FAILURES[fault.status], cause=fault.name)

    def too_many(self, question: Question, standing: Standing) -> Rejected:
        assert standing.short
        limit = f"{standing.levels[standing.short].limit:,.0f}"
        unit, cause = ("requests", "rpm") if standing.short == "requests" else ("input tokens", "tpm")
        message = f"This request would exceed the rate limit for your organization of {limit} {unit} per minute."
        return Rejected(429, message, cause=cause, wait=standing.wait)

    def wait(self, seconds: float) -> dict[str, str]:
        return {"retry-after": str(math.ceil(seconds))}

    def limits(self, levels: Mapping[str, Level], now: float) -> dict[str, str]:
        headers = {}
        for unit, level in levels.items():
            full = datetime.fromtimestamp(math.ceil(now + level.reset), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            for name in ("tokens", "input-tokens") if unit == "tokens" else ("requests",):
                headers[f"anthropic-ratelimit-{name}-limit"] = str(int(level.limit))
                headers[f"anthropic-ratelimit-{name}-remaining"] = str(int(level.remaining))
                headers[f"anthropic-ratelimit-{name}-reset"] = full
        return headers


class _Prompt:
    """A prompt as it is cached: tools, system, messages; and where it was marked."""

    def __init__(self) -> None:
        self.turns: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.marks: list[int] = []
        self._length = 0

    def add(self, role: str, text: str, block: Any = None) -> None:
        self.turns.append((role, text))
        self._grow(text, block)

    def add_content(self, role: str, content: Any, where: str) -> None:
        """One turn out of a string or of text blocks."""
        if content is None and role == "system":
            return
        if isinstance(content, str):
            self.add(role, content)
            return
        if not isinstance(content, list) or not all(isinstance(b, dict) and b.get("type") == "text" for b in content):
            raise Rejected(400, f"{where}.content: Input should be a string or text blocks on the mock server")
        texts = [str(block.get("text", "")) for block in content]
        if not all(texts):
            raise Rejected(400, f"{where}: text content blocks must be non-empty")
        self.turns.append((role, "\n".join(texts)))
        for text, block in zip(texts, content, strict=True):
            self._grow(text, block)

    def _grow(self, text: str, block: Any) -> None:
        self._length += len(text) + bool(self.texts)
        self.texts.append(text)
        if isinstance(block, dict) and block.get("cache_control"):
            self.mark()

    def mark(self) -> None:
        self.marks.append(self._length)


def _need_fields(body: Mapping[str, Any], version: str, required: Sequence[str]) -> None:
    for name in required:
        if name not in body:
            raise Rejected(400, f"{name}: Field required")
    for name in body:
        if name not in KNOWN or (name in SAMPLING and version == WITHOUT_SAMPLING):
            raise Rejected(400, f"{name}: Extra inputs are not permitted")
    if not isinstance(body["model"], str) or not body["model"]:
        raise Rejected(400, "model: String should have at least 1 character")
    if not isinstance(body["messages"], list) or not body["messages"]:
        raise Rejected(400, "messages: at least one message is required")
    most = body.get("max_tokens", 1)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise Rejected(400, "max_tokens: Input should be a valid integer greater than or equal to 1")
    for name, kind in SHAPES.items():
        if not isinstance(body.get(name, kind()), kind):
            raise Rejected(400, f"{name}: Input should be a valid {'list' if kind is list else 'dictionary'}")
    if not all(isinstance(stop, str) for stop in body.get("stop_sequences", ())):
        raise Rejected(400, "stop_sequences: Input should be a list of strings")
    if not all(map(_is_tool, body.get("tools", ()))):
        raise Rejected(400, "tools: every tool needs a name and an input_schema on the mock server")
    temperature = body.get("temperature")
    if temperature is not None and (not isinstance(temperature, int | float) or not 0 <= temperature <= 1):
        raise Rejected(400, "temperature: range: 0..1")
    if body.get("stream"):
        raise Rejected(400, "stream: the mock server does not stream")


def _is_tool(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name"), str) and isinstance(tool.get("input_schema"), dict)


def _wanted(body: Mapping[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
    """(tool that has to be called, schema of what is wanted)."""
    choice, tools = body.get("tool_choice", {}), {tool["name"]: tool for tool in body.get("tools", ())}
    if choice.get("type") in ("tool", "any"):
        name = str(choice.get("name")) if choice["type"] == "tool" else next(iter(tools), "")
        if name not in tools:
            raise Rejected(400, f"tool_choice: Tool '{name}' not found in provided tools")
        return name, _sound(tools[name]["input_schema"], "tools.input_schema")
    form = body.get("output_config", {}).get("format")
    if form is None:
        return None, None
    if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise Rejected(400, "output_config.format: Input should be of type json_schema with a schema")
    return None, _sound(form["schema"], "output_config.format.schema")


def _sound(schema: dict[str, Any], where: str) -> dict[str, Any]:
    if not is_sound(schema):
        raise Rejected(400, f"{where}: not a JSON schema that can be followed")
    return schema


def _text(answer: Answer) -> list[dict[str, Any]]:
    return [{"type": "text", "text": answer.text}] if answer.text else []


def _content(question: Question, answer: Answer, name: str) -> list[dict[str, Any]]:
    """The forced call of a tool; where it was cut off, as far as it came."""
    try:
        values = json.loads(answer.text)
    except json.JSONDecodeError:
        values = {}
    return [{"type": "tool_use", "id": f"toolu_{name}", "name": question.tool, "input": values}]
