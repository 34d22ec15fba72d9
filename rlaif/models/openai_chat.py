"""OpenAI's chat completions, and the many servers that speak them: vLLM, SGLang, llama.cpp, Ollama, gateways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from pydantic import Field

from rlaif.models import ChatRequest, Headroom, Notice, Reply
from rlaif.models.api import ApiModel, ApiOptions, asked_in_vain, no_such_setting
from rlaif.models.failures import empty, failed, number, whole
from rlaif.models.transports import Address, Transport
from rlaif.records import Role, digest

if TYPE_CHECKING:
    from rlaif.models.job_http import JobApi

HOME = "https://api.openai.com/v1"
REASONING = re.compile(r"(?:.*/)?(?:o[1-9](?![a-z0-9])|gpt-[5-9](?!.*chat))")
WITHOUT_FIELD = ("top_k", "min_p", "repetition_penalty", "min_output_tokens")
FINISH: dict[Any, Any] = {"length": "length", "content_filter": "refused"}
BROKEN = ("error", "abort")  # finish reasons with which gateways and servers own up to half a reply
SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d*)?)s)?(?:(\d+(?:\.\d*)?)ms)?")
SECONDS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
SEEDS = 2**31  # servers keep a seed in 32 bits, some with a sign
WRITTEN = (
    "model messages n stream temperature top_p seed stop max_tokens max_completion_tokens logprobs top_logprobs "
    "response_format reasoning_effort continue_final_message add_generation_prompt"
)


class OpenAIOptions(ApiOptions):
    asking: ClassVar[frozenset[str]] = ApiOptions.asking | {"reasoning_effort", "top_logprobs"}
    written: ClassVar[frozenset[str]] = frozenset(WRITTEN.split())

    reasoning: bool | None = (
        None  # a model that refuses temperature, top_p, stop and log-probabilities; None: by its name
    )
    reasoning_effort: str | None = None
    top_logprobs: int = Field(default=20, ge=1)  # candidates of the first token; some servers allow fewer


def chat_body(request: ChatRequest, model: str, options: OpenAIOptions) -> dict[str, Any]:
    """The JSON of a request; ``options.reasoning`` has been settled."""
    sampling = request.sampling
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    body: dict[str, Any] = {"model": model, "messages": messages}
    new = options.reasoning or options.base_url in (None, HOME)
    body["max_completion_tokens" if new else "max_tokens"] = 1 if request.options else sampling.max_output_tokens
    if not options.reasoning:
        if "temperature" not in options.leave_out:
            body["temperature"] = sampling.temperature
        if "top_p" not in options.leave_out:
            body["top_p"] = sampling.top_p
    if request.options:
        body["logprobs"], body["top_logprobs"] = True, options.top_logprobs
    elif sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.seed is not None and "seed" not in options.leave_out:
        body["seed"] = seed_of(request.seed, request.sample_index)
    if request.json_schema:
        form = {"name": "reply", "schema": _schema(request.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if request.prefill:
        messages.append({"role": "assistant", "content": request.prefill})
        body["continue_final_message"], body["add_generation_prompt"] = True, False
    if options.reasoning_effort is not None:
        body["reasoning_effort"] = options.reasoning_effort
    if options.extra_body:
        body.update(options.extra_body)
    return body


def read_chat(value: dict[str, Any], request: ChatRequest, *, may_be_empty: bool = False) -> Reply:
    """The reply in a completion, with its token ids where the server gives them. Raises CallFailed (*garbled*)."""
    if not value.get("choices"):
        raise failed("garbled", "an answer without choices")
    choice = value["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason")
    if reason in BROKEN:
        raise failed("garbled", f"a reply that ended with finish reason {reason}")
    text, finish = message.get("content") or "", FINISH.get(reason, "stop")
    if message.get("refusal"):
        text, finish = message["refusal"], "refused"
    usage = value.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    ids = choice.get("token_ids")  # vLLM's, where return_token_ids was asked for
    reply = Reply(
        text=text,
        finish_reason=finish,
        logprobs=_first_token(choice) if request.options else (),
        token_ids=None if ids is None else tuple(ids),
        prompt_tokens=usage.get("prompt_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        cache_written_tokens=details.get("cache_write_tokens") or 0,
        served_by=value.get("model") or "",
    )
    if not text and finish == "stop" and not request.options and not may_be_empty:
        raise empty(reply)
    return reply


def _first_token(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """The candidates of the first token, the one that was drawn among them."""
    tokens = (choice.get("logprobs") or {}).get("content")
    if not tokens:
        return ()
    first = tokens[0]
    found = [(candidate["token"], candidate["logprob"]) for candidate in first.get("top_logprobs") or ()]
    if all(token != first["token"] for token, _ in found):
        found.append((first["token"], first["logprob"]))
    return tuple(found)


@lru_cache(maxsize=1024)
def seed_of(seed: int, sample_index: int) -> int:
    """The seed of one sample: another one for every index, and none that another seed has at another index."""
    return int(digest("api seed", seed, sample_index, length=16), 16) % SEEDS


@lru_cache(maxsize=64)
def _schema(text: str) -> Any:
    return orjson.loads(text)


def headroom_of(headers: Mapping[str, str]) -> Headroom | None:
    requests, tokens = headers.get("x-ratelimit-remaining-requests"), headers.get("x-ratelimit-remaining-tokens")
    if requests is None and tokens is None:
        return None
    return Headroom(
        requests_limit=whole(headers.get("x-ratelimit-limit-requests")),
        requests_left=whole(requests),
        requests_reset=seconds_of(headers.get("x-ratelimit-reset-requests")),
        tokens_limit=whole(headers.get("x-ratelimit-limit-tokens")),
        tokens_left=whole(tokens),
        tokens_reset=seconds_of(headers.get("x-ratelimit-reset-tokens")),
    )


def seconds_of(span: str | None) -> float | None:
    """A time as OpenAI's headers write it (``1s``, ``6m0s``, ``20ms``) or a plain number, in seconds."""
    if not span:
        return None
    match = SPAN.fullmatch(span.strip())
    if match is None:
        return number(span)
    return sum(float(part) * unit for part, unit in zip(match.groups(), SECONDS, strict=True) if part)


class OpenAIModel(ApiModel):
    """A model at OpenAI, or by ``base_url`` at any server that speaks its chat completions."""

    Options = OpenAIOptions
    provider, home, path, key_variable = "openai", HOME, "/chat/completions", "OPENAI_API_KEY"
    options: OpenAIOptions

    def __init__(self, model: str, options: OpenAIOptions, *, where: str, notice: Notice) -> None:
        if options.reasoning is None:
            options = options.model_copy(update={"reasoning": REASONING.match(model) is not None})
        super().__init__(model, options, where=where, notice=notice)

    def facts(self) -> list[tuple[str, str]]:
        return [("reasoning", str(self.options.reasoning))]

    def key_headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def transport(self, address: Address) -> Transport:
        from rlaif.models.sdk import OpenAISdk

        return OpenAISdk(address)

    def jobs(self) -> JobApi:
        from rlaif.models.openai_jobs import OpenAIJobs

        return OpenAIJobs(self.routes[0].address, self.job_http())

    def body(self, request: ChatRequest) -> dict[str, Any]:
        return chat_body(request, self.model, self.options)

    def reply(self, value: dict[str, Any], request: ChatRequest) -> Reply:
        return read_chat(value, request)

    def headroom(self, headers: Mapping[str, str]) -> Headroom | None:
        return headroom_of(headers)

    def keeps_apart(self, roles: Sequence[Role]) -> bool:
        return True

    def refusal(self, request: ChatRequest) -> str | None:
        if self.options.reasoning:
            return self._unreasonable(request) or asked_in_vain(request, WITHOUT_FIELD)
        return asked_in_vain(request, WITHOUT_FIELD)

    def _unreasonable(self, request: ChatRequest) -> str | None:
        """What a reasoning model refuses."""
        sampling = request.sampling
        if request.options:
            return "a reasoning model gives no log-probabilities: take a judge that reads text, such as compare-text"
        if sampling.stop:
            return "a reasoning model takes no stop sequences: leave sampling.stop out"
        for name in ("temperature", "top_p"):
            if (value := getattr(sampling, name)) != 1 and name not in self.options.leave_out:
                return no_such_setting(name, value, 1)
        return None
