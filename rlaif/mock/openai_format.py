"""OpenAI's chat completions: what a request may say, and replies, errors and headers in its words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlaif.mock.cache import PrefixCache
from rlaif.mock.faults import Fault
from rlaif.mock.limits import Level, Standing
from rlaif.mock.logprobs import token_logprobs
from rlaif.mock.options import MockOptions
from rlaif.mock.schema import is_sound, parts_of
from rlaif.mock.talk import Answer, Question, Rejected, Usage, prompt_tokens

O_SERIES = re.compile(r"o\d")
REASONING = re.compile(r"o\d|gpt-5|.*reason", re.IGNORECASE)
PARAMETERS = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier "
    "stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options"
)
KNOWN = frozenset(PARAMETERS.split())
NOT_REASONING = ("top_p", "stop", "presence_penalty", "frequency_penalty", "logit_bias")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
FINISH = {"stop_sequence": "stop", "refusal": "stop"}
ERROR_TYPES = {429: "requests", 500: "server_error", 503: "server_error", 529: "server_error"}
FAILURES = {
    429: "Too many requests. Please slow down and try again later.",
    500: "The server had an error while processing your request. Sorry about that!",
    503: "The engine is currently overloaded, please try again later.",
    529: "The engine is currently overloaded, please try again later.",
}
MOST_CHOICES, MOST_STOPS, MOST_TOP = 128, 4, 20


class OpenAI:
    """The wire format. Keeps nothing but the prompt cache."""

    path = "/v1/chat/completions"
    id_header = "x-request-id"

    def __init__(self, options: MockOptions) -> None:
        self._lenient = options.lenient
        self._cache = PrefixCache(options.cache_minimum)
        self._smallest = options.cache_minimum  # tokens below which there is nothing to look up

    def key(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key if scheme == "Bearer" and key else None

    def without_key(self) -> Rejected:
        message = "You didn't provide an API key. You need to provide it in an Authorization header: Bearer YOUR_KEY."
        return Rejected(401, message)

    def expired(self) -> Rejected:
        return Rejected(401, "Incorrect API key provided: it has expired.", code="invalid_api_key", cause="key-expired")

    def question(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Question:
        """What is asked. Raises Rejected as OpenAI refuses a request."""
        if not self._lenient and not body.keys() <= KNOWN:
            unknown = next(name for name in body if name not in KNOWN)
            raise Rejected(400, f"Unknown parameter: '{unknown}'.", param=unknown, code="unknown_parameter")
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise Rejected(400, "you must provide a model parameter")
        if body.get("stream"):
            raise Rejected(400, "The mock server does not stream: leave out 'stream'.", param="stream")
        reasoning = bool(REASONING.match(model))
        if reasoning:
            _refuse_sampling(model, body)
        if body.get("tool_choice") not in (None, "auto", "none"):
            message = "The mock server calls no tools here: ask for a response_format of type json_schema."
            raise Rejected(400, message, param="tool_choice")
        logprobs = body.get("logprobs")
        top = _number(body, "top_logprobs", 0, MOST_TOP)
        if top is not None and not logprobs:
            raise Rejected(
                400, "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", param="top_logprobs"
            )
        turns = _turns(body)
        return Question(
            model=model,
            turns=turns,
            n=int(_number(body, "n", 1, MOST_CHOICES) or 1),
            temperature=_number(body, "temperature", 0, 2, whole=False),
            seed=_whole(_number(body, "seed", -math.inf, math.inf)),
            max_tokens=_most(body),
            stop=_stops(body.get("stop")),
            top_logprobs=int(top or 0) if logprobs else None,
            schema=_schema(body.get("response_format"), turns),
            reasoning=reasoning,
        )

    def usage(self, question: Question, answers: Sequence[Answer], now: float) -> Usage:
        prompt = prompt_tokens(question.turns)
        cached = (
            self._cache.automatic("\n".join([text for _, text in question.turns]), now)
            if prompt > self._smallest
            else 0
        )
        reasoning = sum(answer.reasoning for answer in answers)
        return Usage(prompt, reasoning + sum(len(answer.pieces) for answer in answers), cached, 0, reasoning)

    def reply(
        self, question: Question, answers: Sequence[Answer], usage: Usage, name: str, now: float
    ) -> dict[str, Any]:
        """The body of a completion; ``name`` is unique to request and attempt."""
        return {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "created": int(now),
            "model": question.model,
            "choices": [_choice(index, answer, question.top_logprobs) for index, answer in enumerate(answers)],
            "usage": {
                "prompt_tokens": usage.prompt,
                "completion_tokens": usage.completion,
                "total_tokens": usage.prompt + usage.completion,
                "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0},
            },
            "service_tier": "default",
            "system_fingerprint": "fp_mock",
        }

    def error(self, refused: Rejected, request_id: str) -> dict[str, Any]:
        kind = refused.kind or ERROR_TYPES.get(refused.status, "invalid_request_error")
        return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}

    def failure(self, fault: Fault) -> Rejected:
        """A fault that is a status, in OpenAI's words."""
        code = "rate_limit_exceeded" if fault.status == 429 else None
        return Rejected(fault.status, FAILURES[fault.status], code=code, cause=fault.name)

    def too_many(self, question: Question, standing: Standing) -> Rejected:
        assert standing.short
        level = standing.levels[standing.short]
        unit = "RPM" if standing.short == "requests" else "TPM"
        message = (
            f"Rate limit reached for {question.model} in organization org-mock on {standing.short} per min ({unit}): "
            f"Limit {level.limit:.0f}, Used {level.limit - level.remaining:.0f}. Please try again in {_span(standing.wait)}."
        )
        return Rejected(
            429, message, kind=standing.short, code="rate_limit_exceeded", cause=unit.lower(), wait=standing.wait
        )

    def wait(self, seconds: float) -> dict[str, str]:
        return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}

    def limits(self, levels: Mapping[str, Level], now: float) -> dict[str, str]:
        headers = {}
        for unit, level in levels.items():
            headers[f"x-ratelimit-limit-{unit}"] = str(int(level.limit))
            headers[f"x-ratelimit-remaining-{unit}"] = str(int(level.remaining))
            headers[f"x-ratelimit-reset-{unit}"] = _span(level.reset)
        return headers


def _refuse_sampling(model: str, body: Mapping[str, Any]) -> None:
    """What reasoning models refuse, as they word it."""
    if body.get("temperature") not in (None, 1):
        message = (
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this model. "
            "Only the default (1) value is supported."
        )
        raise Rejected(400, message, param="temperature", code="unsupported_value")
    if body.get("max_tokens") is not None:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Rejected(400, message, param="max_tokens", code="unsupported_parameter")
    if (body.get("logprobs") or body.get("top_logprobs")) and O_SERIES.match(model):
        raise Rejected(403, "You are not allowed to request logprobs from this model")
    for name in ("logprobs", "top_logprobs", *NOT_REASONING):
        if body.get(name):
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise Rejected(400, message, param=name, code="unsupported_parameter")


def _number(body: Mapping[str, Any], name: str, low: float, high: float, whole: bool = True) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    kind = "integer" if whole else "decimal"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        found = {str: "a string", bool: "a boolean", list: "an array", dict: "an object"}.get(type(value), "a decimal")
        message = f"Invalid type for '{name}': expected {'an' if whole else 'a'} {kind}, but got {found} instead."
        raise Rejected(400, message, param=name, code="invalid_type")
    if value < low:
        message = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low:g}, but got {value} instead."
        raise Rejected(400, message, param=name, code=f"{kind}_below_min_value")
    if value > high:
        message = (
            f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high:g}, but got {value} instead."
        )
        raise Rejected(400, message, param=name, code=f"{kind}_above_max_value")
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _most(body: Mapping[str, Any]) -> int | None:
    old, new = _number(body, "max_tokens", 1, math.inf), _number(body, "max_completion_tokens", 1, math.inf)
    if old is not None and new is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Rejected(400, message, param="max_tokens", code="invalid_parameter_combination")
    return _whole(old if new is None else new)


def _stops(value: Any) -> tuple[str, ...]:
    stops = tuple(value) if isinstance(value, list) else () if value is None else (value,)
    if not all(isinstance(stop, str) for stop in stops) or len(stops) > MOST_STOPS:
        message = f"Invalid 'stop': expected a string or an array of at most {MOST_STOPS} strings."
        raise Rejected(400, message, param="stop", code="invalid_type")
    return stops


def _turns(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    messages = body.get("messages")
    if messages is None:
        raise Rejected(
            400, "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
        )
    if not isinstance(messages, list) or not messages:
        message = "Invalid 'messages': expected an array with minimum length 1."
        raise Rejected(400, message, param="messages", code="empty_array")
    return [_turn(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _turn(message: Any, where: str) -> tuple[str, str]:
    role = ROLES.get(str(message.get("role"))) if isinstance(message, dict) else None
    if role is None:
        known = ", ".join(f"'{name}'" for name in ROLES)
        raise Rejected(
            400, f"Invalid value for '{where}.role'. Supported values are: {known}.", param=where, code="invalid_value"
        )
    content = message.get("content")
    if isinstance(content, str):
        return role, content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return role, "".join(str(part.get("text", "")) for part in content)
    if content is None and role == "assistant":
        return role, ""
    raise Rejected(
        400, f"Invalid type for '{where}.content': expected text.", param=f"{where}.content", code="invalid_type"
    )


def _schema(wanted: Any, turns: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        if not any("json" in text.lower() for _, text in turns):
            message = (
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )
            raise Rejected(400, message, param="messages")
        return {"type": "object", "properties": {"reason": {"type": "string"}, "verdict": {"type": "string"}}}
    form = wanted.get("json_schema") if kind == "json_schema" else None
    if not isinstance(form, dict) or not isinstance(form.get("schema"), dict) or not form.get("name"):
        message = "Invalid 'response_format': expected type json_schema with json_schema.name and json_schema.schema."
        raise Rejected(400, message, param="response_format", code="invalid_value")
    if not is_sound(form["schema"]):
        raise Rejected(400, f"Invalid schema for response_format '{form['name']}'.", param="response_format")
    if form.get("strict"):
        _need_strict(form)
    schema: dict[str, Any] = form["schema"]
    return schema


def _need_strict(form: Mapping[str, Any]) -> None:
    """In strict mode every object names all its properties as required and allows no others."""
    start = f"Invalid schema for response_format '{form['name']}': "
    for _, part in parts_of(form["schema"]):
        if part.get("type") != "object" and "properties" not in part:
            continue
        if part.get("additionalProperties") is not False:
            message = f"{start}'additionalProperties' is required to be supplied and to be false."
            raise Rejected(400, message, param="response_format")
        if missing := [name for name in part.get("properties") or {} if name not in (part.get("required") or ())]:
            message = (
                f"{start}'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{missing[0]}'."
            )
            raise Rejected(400, message, param="response_format")


def _choice(index: int, answer: Answer, top: int | None) -> dict[str, Any]:
    logprobs = None if top is None else {"content": token_logprobs(answer, top), "refusal": None}
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": None if answer.declined else answer.text,
            "refusal": answer.text if answer.declined else None,
            "annotations": [],
        },
        "logprobs": logprobs,
        "finish_reason": FINISH.get(answer.finish, answer.finish),
    }


def _span(seconds: float) -> str:
    """A time as OpenAI's headers write it: 12ms, 6.5s, 1m12s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:.3g}s"
