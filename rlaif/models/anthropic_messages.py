"""Anthropic's messages. They give no log-probabilities and know no seed; a JSON schema is followed by a forced tool."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from pydantic import Field

from rlaif.models import ChatRequest, Headroom, Reply
from rlaif.models.api import ApiModel, ApiOptions, asked_in_vain, no_such_setting
from rlaif.models.failures import empty, failed, seconds_to, whole
from rlaif.models.transports import Address, Transport
from rlaif.records import Role

if TYPE_CHECKING:
    from rlaif.models.job_http import JobApi

HOME = "https://api.anthropic.com"
WITHOUT_SAMPLING = "2026-10-21"  # the API version from which temperature, top_p and top_k are refused
WITHOUT_FIELD = ("min_p", "repetition_penalty", "min_output_tokens")
FINISH: dict[Any, Any] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}
TOOL = "reply"
MARK = {"type": "ephemeral"}
TOKENS = ("tokens", "input-tokens", "output-tokens")  # the first is the limit that is nearest, where it is told
WRITTEN = "model messages system max_tokens stop_sequences temperature top_p top_k tools tool_choice stream"


class AnthropicOptions(ApiOptions):
    written: ClassVar[frozenset[str]] = frozenset(WRITTEN.split())

    api_version: str = Field(default="2023-06-01", pattern=r"^\d{4}-\d\d-\d\d$")  # the newest with a temperature
    cache: bool = True  # mark what stays the same, the system prompt and earlier turns, to be cached

    @property
    def takes_sampling(self) -> bool:
        return self.api_version < WITHOUT_SAMPLING


def message_body(request: ChatRequest, model: str, options: AnthropicOptions) -> dict[str, Any]:
    """The JSON of a request."""
    sampling, first = request.sampling, _first_turn(request)
    messages = [{"role": message.role, "content": message.content} for message in request.messages[first:]]
    body: dict[str, Any] = {"model": model, "max_tokens": sampling.max_output_tokens, "messages": messages}
    if system := "\n\n".join(message.content for message in request.messages[:first] if message.content):
        body["system"] = _marked(system) if options.cache else system
    if options.cache:
        _mark_earlier(messages)
    if request.prefill:
        messages.append({"role": "assistant", "content": request.prefill})
    if options.takes_sampling:
        _write_sampling(body, request, options)
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    if request.json_schema:
        body["tools"] = [_tool(request.json_schema)]
        body["tool_choice"] = {"type": "tool", "name": TOOL}
    if options.extra_body:
        body.update(options.extra_body)
    return body


def _first_turn(request: ChatRequest) -> int:
    """The place of the first message that is not part of the system prompt."""
    return next((i for i, message in enumerate(request.messages) if message.role != "system"), len(request.messages))


def _marked(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": MARK}]


def _mark_earlier(messages: list[dict[str, Any]]) -> None:
    """Mark the last turn of the assistant's: what stands before the question, examples say, is asked again and again."""
    for message in reversed(messages[:-1]):
        if message["role"] == "assistant":
            message["content"] = _marked(message["content"])
            return


def _write_sampling(body: dict[str, Any], request: ChatRequest, options: AnthropicOptions) -> None:
    """Sampling that is not the API's own default: newer models refuse the rest."""
    sampling = request.sampling
    if sampling.temperature != 1 and "temperature" not in options.leave_out:
        body["temperature"] = sampling.temperature
    if sampling.temperature == 0:
        return  # greedy: the cuts do nothing
    if sampling.top_p != 1 and "top_p" not in options.leave_out:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k


@lru_cache(maxsize=64)
def _tool(schema: str) -> dict[str, Any]:
    return {"name": TOOL, "description": "Gives the reply.", "input_schema": orjson.loads(schema)}


def read_message(value: dict[str, Any], request: ChatRequest) -> Reply:
    """The reply in a message. Raises CallFailed (*garbled*)."""
    content, finish = value["content"], FINISH.get(value.get("stop_reason"), "stop")
    text = "".join(block["text"] for block in content if block["type"] == "text")
    if request.json_schema and finish != "refused":
        called = [block["input"] for block in content if block["type"] == "tool_use"]
        if called:
            text = orjson.dumps(called[0]).decode()
        elif finish == "stop":
            raise failed("garbled", "an answer in words where a tool was to be called")
    usage = value.get("usage") or {}
    read, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    reply = Reply(
        text=text,
        finish_reason=finish,
        prompt_tokens=(usage.get("input_tokens") or 0) + read + written,
        output_tokens=usage.get("output_tokens") or 0,
        cached_tokens=read,
        cache_written_tokens=written,
        served_by=value.get("model") or "",
    )
    if not text and finish == "stop":
        raise empty(reply)
    return reply


def headroom_of(headers: Mapping[str, str]) -> Headroom | None:
    start = "anthropic-ratelimit-"
    requests = headers.get(f"{start}requests-remaining")
    unit = next((unit for unit in TOKENS if f"{start}{unit}-remaining" in headers), None)
    if requests is None and unit is None:
        return None
    return Headroom(
        requests_limit=whole(headers.get(f"{start}requests-limit")),
        requests_left=whole(requests),
        requests_reset=_reset(headers, f"{start}requests-reset"),
        tokens_limit=whole(headers.get(f"{start}{unit}-limit")),
        tokens_left=whole(headers.get(f"{start}{unit}-remaining")),
        tokens_reset=_reset(headers, f"{start}{unit}-reset"),
    )


def _reset(headers: Mapping[str, str], name: str) -> float | None:
    """Seconds to the time in RFC 3339 that a header names."""
    try:
        then = datetime.fromisoformat(headers.get(name, ""))
    except ValueError:
        return None
    return seconds_to((then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp(), headers)


class AnthropicModel(ApiModel):
    """A model at Anthropic, or by ``base_url`` at a server that speaks its messages."""

    Options = AnthropicOptions
    provider, home, path, key_variable = "anthropic", HOME, "/v1/messages", "ANTHROPIC_API_KEY"
    options: AnthropicOptions

    def facts(self) -> list[tuple[str, str]]:
        return [("api_version", self.options.api_version)]

    def rooted(self, base_url: str) -> str:
        return base_url.removesuffix("/v1")

    def headers(self) -> dict[str, str]:
        return {"anthropic-version": self.options.api_version}

    def key_headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key}

    def transport(self, address: Address) -> Transport:
        from rlaif.models.sdk import AnthropicSdk

        return AnthropicSdk(address)

    def jobs(self) -> JobApi:
        from rlaif.models.anthropic_jobs import AnthropicJobs

        return AnthropicJobs(self.job_http())

    def body(self, request: ChatRequest) -> dict[str, Any]:
        return message_body(request, self.model, self.options)

    def reply(self, value: dict[str, Any], request: ChatRequest) -> Reply:
        return read_message(value, request)

    def headroom(self, headers: Mapping[str, str]) -> Headroom | None:
        return headroom_of(headers)

    def keeps_apart(self, roles: Sequence[Role]) -> bool:
        """Turns of one role that follow each other are made one by the API."""
        turns = [role for role in roles if role != "system"]
        return all(one != other for one, other in itertools.pairwise(turns))

    def refusal(self, request: ChatRequest) -> str | None:
        if request.options:
            return "Anthropic gives no log-probabilities: take a judge that reads text, such as compare-text"
        return self._turns(request) or self._sampling(request) or asked_in_vain(request, WITHOUT_FIELD)

    def _turns(self, request: ChatRequest) -> str | None:
        """What the API refuses of messages."""
        turns = request.messages[_first_turn(request) :]
        if not turns:
            return "Anthropic answers a turn of the user's, and there is none"
        if not all(message.content.strip() for message in turns):
            return "Anthropic refuses a turn without text"
        if turns[-1].role == "assistant" and not self.options.prefill:
            return "the last turn is the assistant's: this model answers the user's, unless options.prefill is set"
        if request.prefill != request.prefill.rstrip():
            return "Anthropic refuses a beginning of the reply that ends in a space: take it off the template's end"
        return None

    def _sampling(self, request: ChatRequest) -> str | None:
        """What the API version refuses of sampling."""
        sampling, left_out = request.sampling, self.options.leave_out
        if "temperature" not in left_out:
            if sampling.temperature > 1:
                return f"Anthropic's temperature ends at 1 (asked for: {sampling.temperature:g})"
            if sampling.temperature != 1 and not self.options.takes_sampling:
                return no_such_setting("temperature", sampling.temperature, 1)
        if self.options.takes_sampling or sampling.temperature == 0:
            return None
        if sampling.top_p != 1 and "top_p" not in left_out:
            return no_such_setting("top_p", sampling.top_p, 1)
        return asked_in_vain(request, ("top_k",))
