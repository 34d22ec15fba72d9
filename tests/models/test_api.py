"""Opening a model behind an API: options, addresses and keys; what it objects to; who it is."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rlaif.component import Place, parse_model
from rlaif.config import ModelSpec, Sampling
from rlaif.errors import ConfigError
from rlaif.models import ChatRequest, open_model, request_key, separates_turns
from rlaif.records import Message, canonical_json
from tests import make
from tests.conftest import ROOT
from tests.models.asking import PROVIDERS, WHERE, model, request, system

HERE = "http://127.0.0.1:8000/v1"
EITHER = pytest.mark.parametrize("provider", PROVIDERS)
VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES.values():
        monkeypatch.setenv(name, f"sk-of-{name}")
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)


def names(provider: str, **options: Any) -> list[str]:
    return [route.name for route in model(provider, **options).routes]


# --- keys and addresses -----------------------------------------------------------------------------------------------


def test_a_route_is_named_by_its_host_and_the_keys_variable() -> None:
    assert names("openai") == ["api.openai.com OPENAI_API_KEY"]
    assert names("anthropic") == ["api.anthropic.com ANTHROPIC_API_KEY"]
    assert names("openai", base_url="https://gateway.example/team/v1/", api_key_env="OTHER_KEY") == [
        "gateway.example/team/v1 OTHER_KEY"
    ]


@EITHER
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_a_server_on_this_machine_needs_no_key_and_gets_none_that_was_not_named(
    provider: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(provider, base_url=f"http://{host}/v1") == [host]
    assert names(provider, base_url=f"http://{host}/v1", api_key_env="OTHER_KEY") == [f"{host} OTHER_KEY"]
    monkeypatch.delenv(VARIABLES[provider])
    assert names(provider, base_url=f"http://{host}/v1") == [host]


@EITHER
def test_a_missing_key_is_named_before_anything_is_asked(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, host = VARIABLES[provider], f"api.{provider}.com"
    for value in ("", "  "):
        monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigError) as raised:
            model(provider)
        assert str(raised.value) == (
            f"pipeline.yaml: models.judge: the key for {host} is read from {variable}, and that is not set. "
            'Set it, name another with options.api_key_env, or write api_key_env: "" where none is needed.'
        )


@pytest.mark.parametrize(
    "options",
    [
        {"api_key_env": "sk-proj-abc123"},
        {"extra_headers": {"X-Team": "$sk-proj-abc123"}},
        {"extra_body": {"a": [{"b": "sk-proj-abc123"}]}},
        {"extra_body": {"a": {"api_key": "abc123"}}},
    ],
)
def test_a_key_in_place_of_its_variables_name_is_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="A key itself is never written into a file") as raised:
        model("openai", **options)
    assert "abc123" not in str(raised.value)


def test_a_header_that_looks_like_a_secret_is_read_from_the_environment() -> None:
    with pytest.raises(ConfigError, match=r'"X-Api-Key" looks like a secret: write "\$NAME"') as raised:
        model("openai", extra_headers={"X-Api-Key": "hunter2hunter2"})
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigError, match=r'"X-Team" looks like a secret') as raised:
        model("openai", extra_headers={"X-Team": "Bearer hunter2hunter2"})
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigError, match='the value of "X-Api-Key" is read from NO_SUCH_KEY, and that is not set'):
        model("openai", extra_headers={"X-Api-Key": "$NO_SUCH_KEY"})
    assert model("openai", extra_headers={"X-Api-Key": "$OTHER_KEY"}).routes


def test_a_key_with_a_line_break_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\r\nX-Evil: two")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters that no key has") as raised:
        model("openai")
    assert "Evil" not in str(raised.value)


def test_further_endpoints_have_weights_and_keys_of_their_own() -> None:
    opened = model(
        "openai",
        endpoints=[{"api_key_env": "OTHER_KEY", "weight": 2}, {"base_url": HERE, "api_key_env": "", "weight": 0.5}],
    )
    assert [(route.name, route.weight) for route in opened.routes] == [
        ("api.openai.com OPENAI_API_KEY", 1.0),
        ("api.openai.com OTHER_KEY", 2.0),
        ("127.0.0.1:8000", 0.5),
    ]


def test_the_same_endpoint_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"api\.openai\.com OPENAI_API_KEY is there twice: give it a weight instead"):
        model("openai", endpoints=[{"weight": 2}])


def test_a_model_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="a model's name is missing"):
        model("openai", name=" ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "api.example/v1"}, "expected the beginning of an address"),
        ({"base_url": "ftp://api.example/v1"}, "expected the beginning of an address"),
        ({"base_url": "http://api.example:99999/v1"}, "expected the beginning of an address"),
        ({"base_url": "http://api.example/v1?key=x"}, "a key is named by api_key_env"),
        ({"endpoints": [{"base_url": "nowhere"}]}, "expected the beginning of an address"),
        ({"endpoints": [{"weight": 0}]}, "weight"),
        ({"extra_body": {"temperature": 1}}, '"temperature" belongs to the request'),
        ({"extra_body": {"messages": []}}, '"messages" belongs to the request'),
        ({"extra_body": {"a": float("nan")}}, "what cannot be written as JSON"),
        ({"extra_body": {"a": 2**70}}, "what cannot be written as JSON"),
        ({"extra_body": {"a": object}}, "what cannot be written as JSON"),
        ({"extra_headers": {"a b": "c"}}, '"a b" is no header'),
        ({"extra_headers": {"Content-Type": "text/plain"}}, "is no header to be set here"),
        ({"extra_headers": {"X-Team": "a\nb"}}, "is not plain ASCII text"),
        ({"transport": "carrier"}, "transport"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"leave_out": ["stop"]}, "leave_out"),
        ({"temprature": 1}, 'unknown key "temprature"'),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    for provider in PROVIDERS:
        with pytest.raises(ConfigError) as raised:
            model(provider, **options)
        assert words in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_the_gateways_settings_are_told_with_the_model() -> None:
    pace = model("openai", requests_per_minute=500, tokens_per_minute=30_000, max_in_flight=8, attempts=2).pace
    assert (pace.requests_per_minute, pace.tokens_per_minute, pace.max_in_flight, pace.attempts) == (500, 30_000, 8, 2)
    assert (pace.timeout_seconds, model("anthropic").pace.max_in_flight) == (120.0, 256)


# --- who it is --------------------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize(
    "options",
    [
        {"transport": "sdk"},
        {"api_key_env": "OTHER_KEY"},
        {"max_in_flight": 3, "timeout_seconds": 9, "attempts": 1, "requests_per_minute": 9, "tokens_per_minute": 9},
        {"endpoints": [{"base_url": HERE}]},
        {"extra_body": {}},
    ],
)
def test_what_changes_no_reply_changes_no_identity(provider: str, options: dict[str, Any]) -> None:
    assert model(provider, **options).identity == model(provider).identity


@EITHER
@pytest.mark.parametrize(
    "options",
    [
        {"name": "another"},
        {"base_url": HERE},
        {"extra_body": {"service_tier": "flex"}},
        {"extra_headers": {"X-Route": "eu"}},
        {"leave_out": ["temperature"]},
        {"prefill": True},
    ],
)
def test_what_may_change_a_reply_changes_the_identity(provider: str, options: dict[str, Any]) -> None:
    assert model(provider, **options).identity.sha256 != model(provider).identity.sha256


def test_what_may_change_a_reply_of_one_provider_only() -> None:
    plain = model("openai").identity.sha256
    for options in ({"reasoning": True}, {"reasoning_effort": "low"}, {"top_logprobs": 5}):
        assert model("openai", **options).identity.sha256 != plain
    assert model("openai", reasoning=False).identity.sha256 == plain
    plain = model("anthropic").identity.sha256
    assert model("anthropic", api_version="2026-10-21").identity.sha256 != plain
    assert model("anthropic", cache=False).identity.sha256 == plain
    assert model("openai", name="x").identity.sha256 != model("anthropic", name="x").identity.sha256


def test_an_identity_is_frozen() -> None:
    """Another value orphans every stored reply."""
    assert model("openai", "gpt-4.1", extra_body={"b": 1, "a": [2]}).identity.facts == (
        ("provider", "openai"),
        ("endpoint", "https://api.openai.com/v1"),
        ("model", "gpt-4.1"),
        ("reasoning", "False"),
        ("options", '{"extra_body":{"a":[2],"b":1}}'),
    )
    assert model("anthropic", "claude-x", base_url="https://api.anthropic.com/v1/").identity.facts == (
        ("provider", "anthropic"),
        ("endpoint", "https://api.anthropic.com"),
        ("model", "claude-x"),
        ("api_version", "2023-06-01"),
        ("options", "{}"),
    )
    assert model("openai", "gpt-4.1").identity.name == "openai:gpt-4.1"


def test_a_request_has_the_same_key_by_either_transport() -> None:
    fast, sdk = (model("openai", transport=transport).identity for transport in ("fast", "sdk"))
    assert request_key(request(), fast) == request_key(request(), sdk)


# --- objections -------------------------------------------------------------------------------------------------------


def drawn(**sampling: Any) -> ChatRequest:
    return request(sampling=Sampling(**sampling))


JUST = (Message(role="system", content="Be brief."),)
SCHEMA = canonical_json({"type": "object", "properties": {}})
REASONING = {"reasoning": True}
NEW = {"api_version": "2026-10-21"}


@pytest.mark.parametrize(
    ("provider", "what", "options", "words"),
    [
        ("openai", drawn(top_k=5), {}, "sampling.top_k (asked for: 5) has no field"),
        ("openai", drawn(min_p=0.1), {}, "sampling.min_p (asked for: 0.1) has no field"),
        ("openai", drawn(repetition_penalty=1.1), {}, "sampling.repetition_penalty"),
        ("openai", drawn(min_output_tokens=5), {}, "sampling.min_output_tokens"),
        ("openai", request(options=("A", "B")), REASONING, "no log-probabilities: take a judge that reads text"),
        ("openai", drawn(temperature=0), REASONING, "takes no temperature (asked for: 0): ask with temperature 1, or"),
        ("openai", drawn(top_p=0.5), REASONING, "takes no top_p (asked for: 0.5)"),
        ("openai", drawn(stop="x"), REASONING, "takes no stop sequences"),
        ("openai", drawn(top_k=5), REASONING, "sampling.top_k"),
        ("openai", request(prefill="Well"), {}, "the reply's beginning cannot be given to this model"),
        ("openai", request(options=("A", "B"), json_schema=SCHEMA), {}, "cannot be asked for at once"),
        ("openai", request(prefill="{", json_schema=SCHEMA), {"prefill": True}, "cannot be begun"),
        ("openai", request("\udc00"), {}, "half a character"),
        ("openai", request(prefill="é\udc00"), {"prefill": True}, "half a character"),
        ("openai", ChatRequest(messages=(Message(role="tool", content="4"),)), {}, "a tool's turn"),
        ("anthropic", request(options=("A", "B")), {}, "Anthropic gives no log-probabilities"),
        ("anthropic", drawn(temperature=1.5), {}, "Anthropic's temperature ends at 1 (asked for: 1.5)"),
        ("anthropic", drawn(temperature=0), NEW, "takes no temperature (asked for: 0): ask with temperature 1, or"),
        ("anthropic", drawn(top_p=0.5), NEW, "takes no top_p"),
        ("anthropic", drawn(top_k=5), NEW, "sampling.top_k"),
        ("anthropic", drawn(min_p=0.1), {}, "sampling.min_p"),
        ("anthropic", drawn(repetition_penalty=1.1), {}, "sampling.repetition_penalty"),
        ("anthropic", drawn(min_output_tokens=5), {}, "sampling.min_output_tokens"),
        ("anthropic", request(prefill="Well"), {}, "the reply's beginning cannot be given to this model"),
        ("anthropic", request(prefill="Well "), {"prefill": True}, "ends in a space"),
        ("anthropic", request("a", "b"), {}, "the last turn is the assistant's"),
        ("anthropic", request("a", " ", "b"), {}, "refuses a turn without text"),
        ("anthropic", ChatRequest(messages=JUST), {}, "there is none"),
    ],
)
def test_what_cannot_be_asked_is_said_beforehand(
    provider: str, what: ChatRequest, options: dict[str, Any], words: str
) -> None:
    objection = model(provider, **options).objection(what)
    assert objection
    assert words in objection


@pytest.mark.parametrize(
    ("provider", "what", "options"),
    [
        ("openai", drawn(), {}),
        ("openai", drawn(temperature=2, top_p=0.5, stop="x"), {}),
        ("openai", drawn(temperature=0, top_k=5, min_p=0.1), {}),  # greedy: the cuts do nothing
        ("openai", request(options=("A", "B"), sampling=Sampling(top_k=5)), {}),  # nothing is drawn
        ("openai", drawn(), REASONING),
        ("openai", drawn(temperature=0), {**REASONING, "leave_out": ["temperature"]}),
        ("openai", request(prefill="Well", options=("A", "B")), {"prefill": True}),
        ("openai", request(json_schema=SCHEMA), {}),
        ("openai", request("é \U0001f469"), {}),
        ("anthropic", drawn(), {}),
        ("anthropic", drawn(temperature=0, top_k=5), {}),
        ("anthropic", drawn(temperature=0.5, top_k=5), {}),
        ("anthropic", drawn(), NEW),
        ("anthropic", drawn(temperature=0, top_k=5), {**NEW, "leave_out": ["temperature"]}),
        ("anthropic", request(prefill="Well"), {"prefill": True}),
        ("anthropic", request(seed=3, json_schema=SCHEMA), {}),
    ],
)
def test_what_can_be_asked_meets_no_objection(provider: str, what: ChatRequest, options: dict[str, Any]) -> None:
    assert model(provider, **options).objection(what) is None


# --- turns and bounds -------------------------------------------------------------------------------------------------


def test_turns_are_kept_apart_by_the_providers_own_models_only() -> None:
    assert separates_turns(model("openai"), ("user", "user", "user"))
    assert separates_turns(model("anthropic"), ("system", "user", "assistant", "user"))
    assert not separates_turns(model("anthropic"), ("user", "user"))  # the API makes them one
    assert not separates_turns(model("openai", base_url=HERE), ("user",))  # its chat template may do anything
    assert not separates_turns(model("anthropic", base_url=HERE), ("user",))


@EITHER
def test_an_upper_bound_counts_bytes_and_what_a_format_adds(provider: str) -> None:
    opened = model(provider)
    short = opened.upper_bound(request("a"))
    assert opened.upper_bound(request("a" * 101))[0] == short[0] + 100
    assert opened.upper_bound(request("é" * 51))[0] == short[0] + 101
    assert opened.upper_bound(request("a", "", ""))[0] > short[0] + 8
    assert opened.upper_bound(request("a", json_schema="{}"))[0] > short[0] + 600  # a tool's own prompt
    assert opened.upper_bound(request("a", prefill="bc"))[0] == short[0] + 2
    assert opened.upper_bound(request("\udc00"))[0] == short[0] + 2
    assert short[1] == 64
    assert opened.upper_bound(request("a", options=("A", "B")))[1] == 1


def test_a_model_is_opened_by_its_provider_in_a_pipeline() -> None:
    spec = ModelSpec(provider="anthropic", model="claude-x", options={"max_in_flight": 4})
    opened = open_model(spec, Place("p.yaml", key=("models", "policy")))
    assert opened.identity.name == "anthropic:claude-x"
    assert opened.separates_turns(tuple(message.role for message in (system("s"), make.user("u"))))
    with pytest.raises(ConfigError, match=r"pipeline.yaml: models.judge.options: unknown key"):
        open_model(ModelSpec(provider="openai", model="m", options={"colour": 1}), WHERE)


def test_every_model_of_the_page_on_providers_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_KEY", "TEAM_TOKEN", "SECOND_KEY"):
        monkeypatch.setenv(name, f"sk-of-{name}")
    page = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    found = [
        (role, parse_model(ModelSpec, spec, "docs/providers.md"))
        for block in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for role, spec in yaml.safe_load(block).get("models", {}).items()
    ]
    assert len(found) >= 8
    for role, spec in found:
        opened = open_model(spec, Place("docs/providers.md", key=("models", role)))
        assert opened.objection(request(sampling=Sampling(temperature=0))) is None, spec
