"""What a model is to the rest of the system: something that answers requests.

A provider is one class, named in ``PROVIDERS`` or by ``package.module:Class`` in YAML. It either answers whole batches
(``BatchModel``: a model in this process) or single calls (``CallModel``: a model behind an API). Retries, limits,
batching and the ledger are the gateway's; a provider knows none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from json.encoder import encode_basestring
from typing import Any, Literal, Protocol, runtime_checkable

import orjson
from pydantic import ConfigDict, Field

from rlaif.component import Place, construct, load, parse_options
from rlaif.config import ModelSpec, Sampling
from rlaif.errors import ConfigError
from rlaif.prompting import redact
from rlaif.records import Message, Record, Role, canonical_json, digest

TOO_LONG = "exceed the model's context"  # in the reason of a request that does not fit

PROVIDERS = {
    "anthropic": "rlaif.models.anthropic_messages:AnthropicModel",
    "local": "rlaif.models.local:LocalModel",
    "openai": "rlaif.models.openai_chat:OpenAIModel",
    "scripted": "rlaif.models.scripted:ScriptedModel",
}

REQUEST_FORMAT = "rlaif-request-1"  # frozen: another value makes every stored reply unreachable


class ChatRequest(Record):
    """One question to a model, complete: equal requests to one model may be answered by one reply.

    With ``options`` the reply carries the log-probabilities of those words as the next token and no text is generated.
    """

    messages: tuple[Message, ...]
    prefill: str = ""  # the reply is continued from here
    options: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    seed: int | None = None
    sample_index: int = 0
    probe_epoch: int = 0  # raised by a drift canary so that it is really asked again
    json_schema: str = ""  # canonical JSON of a schema that the reply's text must follow
    fence: str | None = None  # the word that a placeholder stands for in the key


class Reply(Record):
    """What came back, raw. Stored in the ledger as it is; verdicts are read from it, again and again if need be."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # a masked token's log-probability is -Infinity

    text: str = ""
    finish_reason: Literal["stop", "length", "refused"] = "stop"
    logprobs: tuple[tuple[str, float], ...] = ()  # first-token candidates: (token text, natural log-probability)
    token_ids: tuple[int, ...] | None = None
    prompt_tokens: int = Field(default=0, ge=0)  # all of them, those below included
    output_tokens: int = Field(default=0, ge=0)  # hidden reasoning included
    cached_tokens: int = Field(default=0, ge=0)  # of the prompt, read from the provider's cache
    cache_written_tokens: int = Field(default=0, ge=0)  # of the prompt, written to it at a price
    served_by: str = ""  # the model that the provider says answered


@dataclass(frozen=True)
class Headroom:
    """What a provider's headers said of its limits when it answered; None where they say nothing.

    ``…_reset`` is in seconds from now: until the whole limit is there again.
    """

    requests_limit: int | None = None
    requests_left: int | None = None
    requests_reset: float | None = None
    tokens_limit: int | None = None
    tokens_left: int | None = None
    tokens_reset: float | None = None


@dataclass(frozen=True)
class Answer:
    """A reply with what came beside it and is not kept."""

    reply: Reply
    headroom: Headroom | None = None


@dataclass(frozen=True)
class Identity:
    """Which model answers: everything about it that could change a reply."""

    name: str  # how people call it
    revision: str | None
    facts: tuple[tuple[str, str], ...]  # endpoint and API version, or hashes of weights, adapter, template; dtype

    @cached_property
    def sha256(self) -> str:
        return digest(list(self.facts))

    @cached_property
    def canonical(self) -> str:
        """The canonical JSON of the facts."""
        return canonical_json(list(self.facts))


@runtime_checkable
class BatchModel(Protocol):
    """A model in this process. ``plan`` cuts requests into batches; the cut depends on the requests alone."""

    identity: Identity

    def objection(self, request: ChatRequest) -> str | None: ...  # why it cannot be answered here

    def plan(self, requests: Sequence[ChatRequest]) -> list[list[int]]: ...

    def complete_batch(self, requests: Sequence[ChatRequest]) -> list[Reply]: ...


@runtime_checkable
class CallModel(Protocol):
    """A model behind an API: one call, one reply. Raises CallError with ``retryable`` set."""

    identity: Identity

    async def complete(self, request: ChatRequest) -> Reply: ...


Model = BatchModel | CallModel


def separates_turns(model: Any, roles: Sequence[Role]) -> bool:
    """Whether turns of these roles reach the model with something between them that no text in a turn can imitate.

    A model says so by a method of this name; one that has none is not trusted to.
    """
    return hasattr(model, "separates_turns") and bool(model.separates_turns(roles))


Notice = Callable[[str], None]  # a line for the person watching


def request_key(request: ChatRequest, identity: Identity) -> str:
    """The ledger's key: SHA-256 over the complete canonical request. Frozen.

    Fields that have their default are left out, so that requests can gain fields without orphaning any stored reply.
    """
    opening = f'["{REQUEST_FORMAT}",{identity.canonical},'.encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"".join((opening, request_json(request), b"]"))).hexdigest()


def request_json(request: ChatRequest) -> bytes:
    """The canonical JSON of what a request asks, with a placeholder for the fence: written by hand, for every call needs
    it. A test holds it against the definition."""
    fence = request.fence

    def text(value: str) -> bytes:
        return text_json(value.replace(fence, "{fence}") if fence else value)

    turns = [b'{"content":%b,"role":"%b"}' % (text(m.content), m.role.encode()) for m in request.messages]
    parts = [b'"json_schema":%b' % text(request.json_schema)] if request.json_schema else []
    parts.append(b'"messages":[%b]' % b",".join(turns))
    if request.options:
        parts.append(b'"options":[%b]' % b",".join(map(text, request.options)))
    if request.prefill:
        parts.append(b'"prefill":%b' % text(request.prefill))
    if request.probe_epoch:
        parts.append(b'"probe_epoch":%d' % request.probe_epoch)
    if request.sample_index:
        parts.append(b'"sample_index":%d' % request.sample_index)
    if sampling := _sampling_json(request.sampling, fence if request.sampling.stop else None):
        parts.append(b'"sampling":%b' % sampling)
    if request.seed is not None:
        parts.append(b'"seed":%d' % request.seed)
    return b"{%b}" % b",".join(parts)


def text_json(text: str) -> bytes:
    """The canonical JSON of a text, in UTF-8. Half a character (a lone surrogate), which orjson refuses, stays as it is."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return encode_basestring(text).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)
def _sampling_json(sampling: Sampling, fence: str | None) -> bytes:
    """Canonical JSON of what is not as by default; nothing where all is."""
    value = sampling.model_dump(mode="json", exclude_defaults=True)
    text = canonical_json(redact(value, fence, "{fence}") if fence else value) if value else ""
    return text.encode("utf-8", "surrogatepass")


def open_model(spec: ModelSpec, where: Place, notice: Notice = lambda line: None) -> Any:
    """The model a pipeline's ``models:`` entry names. Raises ConfigError or ModelError before anything is asked."""
    prefix, colon, rest = spec.model.partition(":")
    if spec.provider == "local" and colon and prefix in PROVIDERS:
        raise ConfigError(
            f'{where}: "{spec.model}" is a model of another provider: write provider: {prefix}, model: {rest} (with --model, '
            f"{spec.model} is enough)."
        )
    provider = load(spec.provider, PROVIDERS, "provider", where.at("provider"))
    options = parse_options(provider, spec.options, where.at("options"))
    named = where.at("model")
    said = str(named if named.setting() else where)
    return construct(provider, "(model, options, where=…, notice=…)", spec.model, options, where=said, notice=notice)


def sampling_text(sampling: Sampling) -> str:
    """Canonical text of sampling parameters, as responses keep it."""
    return canonical_json(sampling.model_dump(mode="json"))
