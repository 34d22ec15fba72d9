"""A model behind an API: what the providers share.

A provider is a wire format, two pure functions from a request to the body of an HTTP request and from the answer's JSON
to a Reply, with its options, its refusals and its headers. Here it gets its addresses, keys and transport. One call goes
in, one Answer or one CallFailed comes out: concurrency, limits, retries and deadlines are the gateway's, and ``Pace``
only says what a person has set for them.

A key is read from the environment when the model is opened. It stands in no record, message, identity or repr.
"""

from __future__ import annotations

import ipaddress
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import Field, ValidationError, field_validator

from rlaif.component import Options as BaseOptions
from rlaif.config import Sampling
from rlaif.errors import ConfigError
from rlaif.models import Answer, ChatRequest, Headroom, Identity, Notice, Reply
from rlaif.models.failures import declined, failed, failure, in_words, parsed
from rlaif.models.pacing import InJobs, Pace
from rlaif.models.spending import Price
from rlaif.models.transports import KEY_LIKE, SHORTEST_SECRET, Address, Received, Transport
from rlaif.records import Role, canonical_json, digest

if TYPE_CHECKING:
    from rlaif.models.job_http import JobApi, JobHttp

NO_KEY = "none"  # what a server on this machine is sent in place of a key; some insist on one, any will do
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
PRINTABLE = re.compile(r"[\x20-\x7e]*")
SECRET_NAME = re.compile(r"api[-_]?key|secret|password|authorization|access[-_]?token", re.IGNORECASE)
SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
OWN_HEADERS = ("content-type", "content-length", "host", "accept-encoding", "anthropic-version", "transfer-encoding")
PER_MESSAGE, PER_REQUEST = 16, 512  # tokens at most that a chat format adds, a default system prompt included
HALF_A_CHARACTER = "a text holds half a character (a lone surrogate), which JSON cannot carry"
AS_BY_DEFAULT = Sampling().model_dump()
PER_SCHEMA = 1024  # tokens at most of a provider's own words about a tool or a form


class Endpoint(BaseOptions):
    """A further address or key for the same model. What is left out is as at the first."""

    base_url: str | None = None
    api_key_env: str | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # its share of the calls, beside the first's 1

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else sound_url(value)


class ApiOptions(Pace):
    """What both providers' options have in common."""

    # which of them could change a reply, and so belong to the identity
    asking: ClassVar[frozenset[str]] = frozenset(("extra_body", "extra_headers", "leave_out", "prefill"))
    written: ClassVar[frozenset[str]] = frozenset()  # fields of a body that requests decide about

    transport: Literal["fast", "sdk"] = "fast"
    batch: InJobs | None = None  # true: as by default
    base_url: str | None = None  # None: the provider's own
    api_key_env: str | None = None  # None: the provider's usual variable, and no key on this machine; "": no key
    endpoints: tuple[Endpoint, ...] = ()
    extra_body: dict[str, Any] = Field(default_factory=dict)  # fields of the body that only this server knows
    extra_headers: dict[str, str] = Field(default_factory=dict)  # a value "$NAME" is read from the environment
    leave_out: tuple[Literal["temperature", "top_p", "seed"], ...] = ()  # never sent: the server's own value applies
    prefill: bool = False  # whether the server goes on from a last turn of the assistant's
    price: Price | None = None  # US dollars for a million tokens; None: as the price tables say
    tokenizer: str | None = None  # a folder with the model's tokenizer, for plans

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else sound_url(value)

    @field_validator("batch", mode="before")
    @classmethod
    def _batch(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @field_validator("extra_body")
    @classmethod
    def _body(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in cls.written:
                raise ValueError(f'"{name}" belongs to the request: set it by sampling, or by an option of its own')
        try:
            canonical_json(value)
            orjson.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError("what cannot be written as JSON cannot be sent") from error
        return value

    @field_validator("extra_headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not HEADER.fullmatch(name) or name.lower() in OWN_HEADERS:
                raise ValueError(f'"{name}" is no header to be set here')
        return value


def _secret_in(value: Any, name: str = "") -> str:
    """Where in a value something looks like a key, by its name or by what it is; empty where nothing does."""
    if isinstance(value, dict):
        return next((found for key, each in value.items() if (found := _secret_in(each, key))), "")
    if isinstance(value, list):
        return next((found for each in value if (found := _secret_in(each, name))), "")
    return name if isinstance(value, str) and (SECRET_NAME.search(name) or KEY_LIKE.search(value)) else ""


def sound_url(value: str) -> str:
    """A base URL without its last slash. Raises ValueError."""
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or any(character.isspace() for character in value):
        raise ValueError("expected the beginning of an address, such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError('an address holds no key, "?" or "#": a key is named by api_key_env')
    return value.rstrip("/")


class Route:
    """One address and one key of a model. The name may be shown: it names the key's variable, not the key."""

    def __init__(self, name: str, weight: float, model: ApiModel, address: Address, transport: Transport) -> None:
        self.name, self.weight = name, weight
        self._model, self.address, self._transport = model, address, transport

    async def complete(self, request: ChatRequest, timeout_seconds: float) -> Answer:
        """One call. Raises CallFailed with its fault."""
        return self.read(await self._transport.send(self._model.body(request), timeout_seconds), request)

    def read(self, received: Received, request: ChatRequest) -> Answer:
        """What an answer means. Raises CallFailed with its fault."""
        model = self._model
        if received.status != 200:
            return self._refused(received)
        value = parsed(received)
        if value.get("error"):
            raise failure(received, self.address)
        return Answer(readable(model.reply, value, request), model.headroom(received.headers))

    def _refused(self, received: Received) -> Answer:
        """What a status other than 200 means: a prompt that the provider's filter declined, or a CallFailed."""
        words = declined(received)
        if words is None:
            refusal = failure(received, self.address)
            refusal.headroom = self._model.headroom(received.headers)
            raise refusal
        return Answer(Reply(text=in_words(words, self.address), finish_reason="refused"))

    async def close(self) -> None:
        await self._transport.close()

    def __repr__(self) -> str:
        return f"Route({self.name!r}, weight={self.weight:g})"


def readable(
    reply: Callable[[dict[str, Any], ChatRequest], Reply], value: dict[str, Any], request: ChatRequest
) -> Reply:
    """The reply in an answer's JSON. Raises CallFailed (*garbled*) where it has another shape."""
    try:
        return reply(value, request)
    except (KeyError, IndexError, TypeError, AttributeError, ValidationError) as error:
        raise failed("garbled", f"an answer of another shape ({type(error).__name__})") from error


class ApiModel(ABC):
    """A model by its name at a provider. ``routes`` answer; the gateway chooses among them."""

    Options: ClassVar[type[ApiOptions]]
    provider: ClassVar[str]
    home: ClassVar[str]  # the provider's own base URL
    path: ClassVar[str]
    key_variable: ClassVar[str]

    def __init__(self, model: str, options: Any, *, where: str, notice: Notice) -> None:
        if not model.strip():
            raise ConfigError(f"{where}: a model's name is missing, as its provider knows it.")
        self.model, self.options, self.where = model, options, where
        self.base_url = self.rooted(options.base_url or self.home)
        if name := _secret_in(options.extra_body):
            raise ConfigError(
                f'{where}: options.extra_body: "{name}" looks like a key. A key itself is never written into a file: name its '
                "variable in api_key_env, or in extra_headers as $NAME."
            )
        self.pace: Pace = options
        self._extra_bytes = len(orjson.dumps(options.extra_body)) if options.extra_body else 0  # it may hold text
        endpoints = (Endpoint(base_url=options.base_url, api_key_env=options.api_key_env), *options.endpoints)
        self.routes = tuple(self._route(endpoint) for endpoint in endpoints)
        urls = [self._base_url(endpoint) for endpoint in endpoints]
        self.hosts, self.remote = tuple(urlsplit(url).netloc for url in urls), not all(map(on_this_machine, urls))
        names = [route.name for route in self.routes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"{where}: options.endpoints: {twice} is there twice: give it a weight instead.")
        self.identity = Identity(f"{self.provider}:{model}", None, (("provider", self.provider), *self._facts()))

    def _facts(self) -> list[tuple[str, str]]:
        """What could change a reply. Options that have their default are left out, so that there can be more of them."""
        options = self.options.model_dump(mode="json", include=set(self.options.asking), exclude_defaults=True)
        if "extra_headers" in options:
            options["extra_headers"] = digest(options["extra_headers"])
        return [("endpoint", self.base_url), ("model", self.model), *self.facts(), ("options", canonical_json(options))]

    @classmethod
    def without_keys(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Options of the same model, its identity and hosts too, that read no key from the environment: it cannot be asked."""
        kept = {name: value for name, value in options.items() if name not in ("endpoints", "transport")}
        others = dict.fromkeys(endpoint.get("base_url") for endpoint in options.get("endpoints", ()))
        elsewhere = [{"base_url": url} for url in others if url not in (None, options.get("base_url"))]
        return {**kept, "api_key_env": "", "endpoints": elsewhere}

    # --- what a provider says for itself ------------------------------------------------------------------------------

    def facts(self) -> list[tuple[str, str]]:
        """What else could change a reply."""
        return []

    def rooted(self, base_url: str) -> str:
        """A base URL as this provider's paths are put to it."""
        return base_url

    def headers(self) -> dict[str, str]:
        """Headers of every request, beside the key's."""
        return {}

    @abstractmethod
    def key_headers(self, key: str) -> dict[str, str]:
        """The header that carries a key."""

    @abstractmethod
    def transport(self, address: Address) -> Transport:
        """The official client."""

    @abstractmethod
    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The JSON of the HTTP request."""

    @abstractmethod
    def reply(self, value: dict[str, Any], request: ChatRequest) -> Reply:
        """The reply in the JSON of an answer. Raises CallFailed (*garbled*); where the shape is another one, whatever."""

    @abstractmethod
    def headroom(self, headers: Mapping[str, str]) -> Headroom | None:
        """What an answer's headers say of the provider's limits."""

    @abstractmethod
    def refusal(self, request: ChatRequest) -> str | None:
        """Why this provider cannot be asked this."""

    @abstractmethod
    def keeps_apart(self, roles: Sequence[Role]) -> bool:
        """Whether the provider's own models see control tokens between turns of these roles."""

    # --- what the gateway and the stages ask ----------------------------------------------------------------------------

    def objection(self, request: ChatRequest) -> str | None:
        """Why this request cannot be asked of this model; None where it can."""
        if request.options and request.json_schema:
            return "log-probabilities and a JSON schema cannot be asked for at once"
        if request.prefill and request.json_schema:
            return "a reply that follows a JSON schema cannot be begun"
        if request.prefill and not self.options.prefill:
            return (
                "the reply's beginning cannot be given to this model: take a template without an assistant section, or, "
                "where the server goes on from a last assistant turn, set options.prefill"
            )
        for message in request.messages:
            if message.role == "tool":
                return "a tool's turn cannot be told without the call that it answers"
            if not _sendable(message.content):
                return HALF_A_CHARACTER
        if not _sendable(request.prefill):
            return HALF_A_CHARACTER
        return self.refusal(request)

    def separates_turns(self, roles: Sequence[Role]) -> bool:
        """Whether no text in a turn can imitate the end of it. Of a server of somebody else's nobody here can tell."""
        return self.base_url == self.home and self.keeps_apart(roles)

    def upper_bound(self, request: ChatRequest) -> tuple[int, int]:
        """(tokens of the prompt, tokens of the reply) at most: a token is at least one byte of UTF-8."""
        size = _bytes(request.prefill) + _bytes(request.json_schema)
        for message in request.messages:
            size += _bytes(message.content)
        size += self._extra_bytes
        added = PER_MESSAGE * (len(request.messages) + 1) + PER_REQUEST + (PER_SCHEMA if request.json_schema else 0)
        return size + added, 1 if request.options else request.sampling.max_output_tokens

    @property
    def job_endpoint(self) -> str:
        """The endpoint that jobs go through: the first."""
        return self.routes[0].name

    def job_http(self) -> JobHttp:
        """HTTP to the first endpoint, for jobs."""
        from rlaif.models.job_http import JobHttp

        address = self.routes[0].address
        return JobHttp(address, self._headers(address), self.options.timeout_seconds)

    @abstractmethod
    def jobs(self) -> JobApi:
        """The provider's batch API, at the first endpoint."""

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        for route in self.routes:
            await route.close()

    # --- addresses and keys -------------------------------------------------------------------------------------------

    def _base_url(self, endpoint: Endpoint) -> str:
        return self.rooted(endpoint.base_url or self.options.base_url or self.home)

    def _route(self, endpoint: Endpoint) -> Route:
        base_url = self._base_url(endpoint)
        variable = self.options.api_key_env if endpoint.api_key_env is None else endpoint.api_key_env
        if variable is None:
            variable = "" if on_this_machine(base_url) else self.key_variable
            key: str | None = self._key(variable, base_url) if variable else NO_KEY
        else:
            key = self._key(variable, base_url) if variable else None
        address = self._address(base_url, key)
        parts = urlsplit(base_url)
        place = parts.netloc + (parts.path if parts.path not in ("", "/v1") else "")
        return Route(f"{place} {variable}".rstrip(), endpoint.weight, self, address, self._transport(address))

    def _address(self, base_url: str, key: str | None) -> Address:
        headers, secrets = self.headers(), [] if key in (None, NO_KEY) else [key]
        for name, value in self.options.extra_headers.items():
            if value.startswith("$"):
                value = self._environment(value[1:], f'options.extra_headers: the value of "{name}"')
                secrets.append(value)
            elif SECRET_HEADER.search(name) or KEY_LIKE.search(value):
                raise ConfigError(
                    f'{self.where}: options.extra_headers: "{name}" looks like a secret: write "$NAME", '
                    "and its value is read from that environment variable."
                )
            elif not PRINTABLE.fullmatch(value):
                raise ConfigError(
                    f'{self.where}: options.extra_headers: the value of "{name}" is not plain ASCII text.'
                )
            headers[name] = value
        known = tuple(secret for secret in secrets if secret and len(secret) >= SHORTEST_SECRET)
        return Address(base_url, self.path, key, headers, known, self.options.max_in_flight)

    def _key(self, variable: str, base_url: str) -> str:
        remedy = 'Set it, name another with options.api_key_env, or write api_key_env: "" where none is needed.'
        return self._environment(variable, f"the key for {urlsplit(base_url).netloc}", remedy)

    def _environment(self, variable: str, what: str, remedy: str = "Set it.") -> str:
        """The secret that an environment variable holds. Raises ConfigError, which never quotes it, nor what may be one."""
        if not VARIABLE.fullmatch(variable):
            raise ConfigError(
                f"{self.where}: {what} is read from an environment variable: expected its name, such as "
                f"{self.key_variable}, and found something else. A key itself is never written into a file."
            )
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"{self.where}: {what} is read from {variable}, and that is not set. {remedy}")
        if not PRINTABLE.fullmatch(value):
            raise ConfigError(f"{self.where}: the environment variable {variable} holds characters that no key has.")
        return value

    def _transport(self, address: Address) -> Transport:
        if self.options.transport == "sdk":
            return self.transport(address)
        from rlaif.models.fast import Fast

        return Fast(address, self._headers(address))

    def _headers(self, address: Address) -> dict[str, str]:
        own = {} if address.key is None else self.key_headers(address.key)
        return {**own, **address.headers}


def on_this_machine(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _sendable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def asked_in_vain(request: ChatRequest, names: Sequence[str]) -> str | None:
    """The first of these sampling settings that a request sets and the wire has no field for, as an objection."""
    sampling = request.sampling
    if request.options:
        return None  # nothing is drawn: only log-probabilities are read
    for name in names:
        value, default = getattr(sampling, name), AS_BY_DEFAULT[name]
        if value != default and not (name in ("top_k", "min_p") and sampling.temperature == 0):
            return (
                f"sampling.{name} (asked for: {value:g}) has no field in this API: leave it at {default:g}, or give a "
                "server that has one its own name for it in options.extra_body"
            )
    return None


def no_such_setting(name: str, value: float, default: float) -> str:
    """The objection to a sampling setting that a model refuses."""
    return (
        f"this model takes no {name} (asked for: {value:g}): ask with {name} {default:g}, or leave the choice to the model "
        f"with options.leave_out: [{name}]"
    )
