"""The wire formats as the official SDKs parse them, and what each provider refuses, in its own shape."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from threading import Lock
from typing import Any

import aiohttp
import anthropic
import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.mock import MockOptions, MockServer
from rlaif.mock.answering import CAUSES, Answering
from rlaif.mock.tally import Tally
from tests.mock.serving import ANTHROPIC, BRACKETS, KEY, LETTER, chat, message, pair, post, serving

SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "verdict": {"type": "string", "enum": ["A", "B", "tie"]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["reason", "verdict", "confidence"],
    "additionalProperties": False,
}


def openai_client(server: MockServer, **others: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0, **others)


def anthropic_client(server: MockServer, **others: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="sk-ant-test", max_retries=0, **others)


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def test_a_chat_completion_is_what_the_sdk_expects() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            reply = await client.chat.completions.create(
                model="mock-policy", messages=[{"role": "user", "content": "Hello"}], n=3, max_completion_tokens=8
            )
            assert (reply.object, reply.model, len(reply.choices)) == ("chat.completion", "mock-policy", 3)
            assert reply.usage
            assert reply.usage.completion_tokens == 24 == reply.usage.total_tokens - reply.usage.prompt_tokens
            assert {choice.finish_reason for choice in reply.choices} == {"length"}
            assert len({choice.message.content for choice in reply.choices}) > 1
            assert reply.system_fingerprint
            assert reply._request_id
            assert "mock-judge" in [model.id async for model in client.models.list()]

    serving(test)


def test_log_probabilities_carry_every_variant_of_an_option() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            reply = await client.chat.completions.create(
                model="mock-judge",
                messages=pair(LETTER, "quality=0.9", "quality=0.1"),  # type: ignore[arg-type]
                logprobs=True,
                top_logprobs=20,
                temperature=0,
                max_tokens=1,
            )
            (choice,) = reply.choices
            assert choice.message.content == "A"
            assert choice.logprobs
            assert choice.logprobs.content
            (token,) = choice.logprobs.content
            assert {"A", " A", "a", "B", " B", "b"} <= {top.token for top in token.top_logprobs}
            assert token.logprob == token.top_logprobs[0].logprob
            assert bytes(token.bytes or ()).decode() == "A"

    serving(test)


def test_json_schema_output_fits_the_schema_and_holds_the_verdict() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
        for better in ("A", "B"):
            replies = ("quality=1", "quality=0") if better == "A" else ("quality=0", "quality=1")
            body = {**chat(temperature=0), "messages": pair(LETTER, *replies), "response_format": form}
            _, reply, _ = await post(session, body)
            value = json.loads(reply["choices"][0]["message"]["content"])
            assert set(value) == set(SCHEMA["properties"])
            assert value["verdict"] == better
            assert 0 <= value["confidence"] <= 1

    serving(test, skill=1.0)


def test_a_schema_that_strict_mode_forbids_is_refused() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        loose = {**SCHEMA, "additionalProperties": True}
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": loose}}
        status, reply, _ = await post(session, chat(response_format=form))
        assert status == 400
        assert "'additionalProperties' is required to be supplied and to be false" in reply["error"]["message"]

    serving(test)


def test_stop_sequences_cut_the_reply() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        _, whole, _ = await post(session, chat(temperature=0))
        text = whole["choices"][0]["message"]["content"]
        word = text.split()[2]
        _, cut, _ = await post(session, chat(temperature=0, stop=word))
        assert cut["choices"][0]["message"]["content"] == text.partition(word)[0]
        assert cut["choices"][0]["finish_reason"] == "stop"
        _, message_, _ = await post(session, message(temperature=0, stop_sequences=[word]), "/v1/messages", ANTHROPIC)
        assert (message_["stop_reason"], message_["stop_sequence"]) == ("stop_sequence", word)

    serving(test)


def test_a_long_prefix_is_counted_as_cached_the_second_time() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        cached = []
        for question in ("one", "two"):
            messages = [{"role": "system", "content": "Rules. " * 1000}, {"role": "user", "content": question}]
            _, reply, _ = await post(session, chat() | {"messages": messages})
            cached.append(reply["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached == [0, 1664]  # 7,000 characters hold 13 blocks of 512, 128 tokens each

    serving(test)


REFUSED_BY_OPENAI: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no model": ({"messages": []}, "you must provide a model parameter", None),
    "no messages": ({"model": "m"}, "Missing required parameter: 'messages'.", "messages"),
    "no message": ({"model": "m", "messages": []}, "minimum length 1", "messages"),
    "role": (
        chat() | {"messages": [{"role": "judge", "content": ""}]},
        "Supported values are: 'system'",
        "messages[0]",
    ),
    "picture": (
        chat() | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "expected text",
        "messages[0].content",
    ),
    "stream": (chat(stream=True), "does not stream", "stream"),
    "unknown": (chat(top_k=4), "Unknown parameter: 'top_k'.", "top_k"),
    "hot": (chat(temperature=3), "Expected a value <= 2, but got 3 instead.", "temperature"),
    "words": (chat(temperature="0"), "expected a decimal, but got a string", "temperature"),
    "half a choice": (chat(n=1.5), "expected an integer, but got a decimal", "n"),
    "no tokens": (chat(max_tokens=0), "integer below minimum value", "max_tokens"),
    "two limits": (chat(max_tokens=1, max_completion_tokens=1), "at the same time", "max_tokens"),
    "many tops": (chat(logprobs=True, top_logprobs=21), "Expected a value <= 20", "top_logprobs"),
    "tops alone": (chat(top_logprobs=2), "only allowed when 'logprobs' is enabled", "top_logprobs"),
    "many stops": (chat(stop=["a", "b", "c", "d", "e"]), "at most 4 strings", "stop"),
    "json unasked": (chat(response_format={"type": "json_object"}), "must contain the word 'json'", "messages"),
    "reasoner's temperature": (
        chat(temperature=0) | {"model": "mock-reasoner"},
        "'temperature' does not support 0 with this model. Only the default (1) value is supported.",
        "temperature",
    ),
    "reasoner's max_tokens": (
        chat(max_tokens=9) | {"model": "mock-reasoner"},
        "Use 'max_completion_tokens' instead.",
        "max_tokens",
    ),
    "reasoner's logprobs": (
        chat(logprobs=True) | {"model": "mock-reasoner"},
        "'logprobs' is not supported with this model",
        "logprobs",
    ),
}


@pytest.mark.parametrize("row", REFUSED_BY_OPENAI)
def test_openai_refuses(row: str) -> None:
    body, words, param = REFUSED_BY_OPENAI[row]

    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        status, reply, headers = await post(session, body)
        assert status == 400
        assert set(reply) == {"error"}
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert words in reply["error"]["message"]
        assert reply["error"]["param"] == param
        assert reply["error"]["type"] == "invalid_request_error"
        assert headers["x-request-id"].startswith("req_")
        assert server.stats()["billed"]["prompt"] == 0

    serving(test)


def test_a_reasoner_thinks_first_and_may_have_nothing_left_to_say() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        _, whole, _ = await post(session, chat(max_completion_tokens=2000) | {"model": "mock-reasoner"})
        assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] >= 64
        assert whole["choices"][0]["message"]["content"]
        _, short, _ = await post(session, chat(max_completion_tokens=10) | {"model": "mock-reasoner"})
        assert (short["choices"][0]["message"]["content"], short["choices"][0]["finish_reason"]) == ("", "length")
        assert short["usage"]["completion_tokens"] == 10

    serving(test)


def test_a_lenient_server_takes_what_compatible_servers_know() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> int:
        return (await post(session, chat(top_k=4)))[0]

    assert serving(test, lenient=True) == 200


OPENAI_ERRORS = {
    "401": openai.AuthenticationError,
    "429": openai.RateLimitError,
    "500": openai.InternalServerError,
    "502": openai.InternalServerError,
    "503": openai.InternalServerError,
    "529": openai.InternalServerError,
    "reset": openai.APIConnectionError,
    "reset-mid": openai.APIConnectionError,
}
ANTHROPIC_ERRORS = {
    "401": (anthropic.AuthenticationError, "authentication_error"),
    "429": (anthropic.RateLimitError, "rate_limit_error"),
    "500": (anthropic.InternalServerError, "api_error"),
    "502": (anthropic.InternalServerError, None),
    "503": (anthropic.ServiceUnavailableError, "api_error"),
    "529": (anthropic.OverloadedError, "overloaded_error"),
    "reset": (anthropic.APIConnectionError, None),
    "reset-mid": (anthropic.APIConnectionError, None),
}


@pytest.mark.parametrize("name", OPENAI_ERRORS)
def test_failures_are_the_sdks_exceptions(name: str) -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            with pytest.raises(OPENAI_ERRORS[name]):
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
        async with anthropic_client(server) as client:
            kind, word = ANTHROPIC_ERRORS[name]
            with pytest.raises(kind) as raised:
                await client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hello"}])
            assert getattr(raised.value, "type", None) == word
            if word:
                assert raised.value.request_id == raised.value.body["request_id"]

    serving(test, **({"key_expires_after": 0} if name == "401" else {"fault": (f"{name}=1",)}))


# --- Anthropic --------------------------------------------------------------------------------------------------------


def test_a_message_is_what_the_sdk_expects() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with anthropic_client(server) as client:
            reply = await client.messages.create(
                model="mock-judge",
                max_tokens=50,
                system="You judge.",
                messages=pair(BRACKETS, "quality=1", "quality=0"),
            )
            assert (reply.role, reply.stop_reason, reply.model) == ("assistant", "end_turn", "mock-judge")
            assert reply.content[0].type == "text"
            assert reply.content[0].text.splitlines()[-1] in ("[[A]]", "[[B]]", "[[C]]")
            counted = await client.messages.count_tokens(
                model="mock-judge", system="You judge.", messages=pair(BRACKETS, "quality=1", "quality=0")
            )
            assert counted.input_tokens == reply.usage.input_tokens
            short = await client.messages.create(
                model="m", max_tokens=3, messages=[{"role": "user", "content": "Hello"}]
            )
            assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)

    serving(test)


def test_a_forced_tool_is_called_with_the_verdict() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with anthropic_client(server) as client:
            reply = await client.messages.create(
                model="mock-judge",
                max_tokens=200,
                messages=pair(LETTER, "quality=0", "quality=1"),
                tools=[{"name": "decide", "description": "Say it.", "input_schema": SCHEMA}],
                tool_choice={"type": "tool", "name": "decide"},
            )
            (block,) = reply.content
            assert reply.stop_reason == "tool_use"
            assert block.type == "tool_use"
            assert (block.name, block.input["verdict"]) == ("decide", "B")
            asked = await client.messages.create(
                model="mock-judge",
                max_tokens=200,
                messages=pair(LETTER, "quality=0", "quality=1"),
                output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
            )
            assert json.loads(asked.content[0].text)["verdict"] == "B"

    serving(test, temperature=0, skill=1)


def test_marked_prefixes_are_written_to_the_cache_and_then_read() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        usages = []
        for question in ("one", "two"):
            rules = {"type": "text", "text": "Rules. " * 1000, "cache_control": {"type": "ephemeral"}}
            body = message(question) | {"system": [rules]}
            _, reply, _ = await post(session, body, "/v1/messages", ANTHROPIC)
            usages.append(reply["usage"])
        first, second = usages
        assert (first["cache_creation_input_tokens"], first["cache_read_input_tokens"]) == (1750, 0)
        assert (second["cache_creation_input_tokens"], second["cache_read_input_tokens"]) == (0, 1750)
        assert first["input_tokens"] == second["input_tokens"] < 20

    serving(test)


def test_a_marked_prefix_that_is_too_short_is_not_cached() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> Any:
        rules = {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral"}}
        return (await post(session, message() | {"system": [rules]}, "/v1/messages", ANTHROPIC))[1]["usage"]

    assert serving(test)["cache_creation_input_tokens"] == 0


NEW = {**ANTHROPIC, "anthropic-version": "2026-10-21"}
MARK = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
REFUSED_BY_ANTHROPIC: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no version": (message(), {"x-api-key": "k"}, "anthropic-version: header is required"),
    "strange version": (message(), {**ANTHROPIC, "anthropic-version": "2027-01-01"}, "is not a valid version"),
    "no limit": ({"model": "m", "messages": []}, ANTHROPIC, "max_tokens: Field required"),
    "no message": (message() | {"messages": []}, ANTHROPIC, "at least one message is required"),
    "unknown": (message(seed=1), ANTHROPIC, "seed: Extra inputs are not permitted"),
    "hot": (message(temperature=1.5), ANTHROPIC, "temperature: range: 0..1"),
    "any temperature today": (message(temperature=1.0), NEW, "temperature: Extra inputs are not permitted"),
    "any top_k today": (message(top_k=5), NEW, "top_k: Extra inputs are not permitted"),
    "stream": (message(stream=True), ANTHROPIC, "does not stream"),
    "tools": (message(tools="decide"), ANTHROPIC, "tools: Input should be a valid list"),
    "no such tool": (message(tool_choice={"type": "tool", "name": "x"}), ANTHROPIC, "Tool 'x' not found"),
    "empty text": (message() | {"system": [{"type": "text", "text": ""}]}, ANTHROPIC, "must be non-empty"),
    "marks": (message() | {"system": [MARK] * 5}, ANTHROPIC, "A maximum of 4 blocks with cache_control"),
    "prefill": (
        message() | {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        ANTHROPIC,
        "This model does not support assistant message prefill.",
    ),
}


@pytest.mark.parametrize("row", REFUSED_BY_ANTHROPIC)
def test_anthropic_refuses(row: str) -> None:
    body, headers, words = REFUSED_BY_ANTHROPIC[row]

    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        status, reply, answered = await post(session, body, "/v1/messages", headers)
        assert status == 400
        assert reply["type"] == "error"
        assert reply["error"]["type"] == "invalid_request_error"
        assert words in reply["error"]["message"]
        assert reply["request_id"] == answered["request-id"]

    serving(test)


def test_prefill_is_continued_where_it_is_allowed() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> str:
        turns = [*pair(LETTER, "quality=1", "quality=0"), {"role": "assistant", "content": "The better reply is"}]
        body = message(temperature=0) | {"messages": turns}
        return str((await post(session, body, "/v1/messages", ANTHROPIC))[1]["content"][0]["text"])

    assert serving(test, prefill=True, skill=1) == " A"


# --- both -------------------------------------------------------------------------------------------------------------


def test_a_request_without_a_key_is_refused() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        status, reply, _ = await post(session, chat(), headers={})
        assert (status, reply["error"]["type"]) == (401, "invalid_request_error")
        status, reply, _ = await post(session, message(), "/v1/messages", {"anthropic-version": "2023-06-01"})
        assert (status, reply["error"]["type"]) == (401, "authentication_error")

    serving(test)


def test_what_is_not_json_is_refused() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        for data in (b"{", b"[]", b""):
            async with session.post("/v1/chat/completions", data=data, headers=KEY) as response:
                assert response.status == 400
                assert "could not parse the JSON body" in (await response.json())["error"]["message"]

    serving(test)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OPENAI_BODY = chat(stop=["x"], n=2, logprobs=True, top_logprobs=3, tool_choice="auto") | {
    "response_format": {"type": "json_schema", "json_schema": {"name": "v", "strict": True, "schema": SCHEMA}}
}
ANTHROPIC_BODY = message(stop_sequences=["x"], system=[{"type": "text", "text": "x"}]) | {
    "tools": [{"name": "v", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "v"},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_no_body_is_answered_by_a_crash(wire: str) -> None:
    answering = Answering(MockOptions(), Tally(Lock(), CAUSES))
    body, form = {"openai": (OPENAI_BODY, answering.openai), "anthropic": (ANTHROPIC_BODY, answering.anthropic)}[wire]
    assert answering.call(form, ANTHROPIC, "key", 0, 1, orjson.dumps(body)).status == 200

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(sorted(places(body), key=str)), JSON)
    def spoil(path: tuple[Any, ...], value: Any) -> None:
        spoilt = copy.deepcopy(body)
        inner: Any = spoilt
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        assert answering.call(form, ANTHROPIC, "key", 0, 1, orjson.dumps(spoilt)).status in (200, 400)

    spoil()


def test_unknown_paths_and_methods_are_named() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        async with session.get("/v1/responses", headers=KEY) as response:
            assert response.status == 404
            assert "Invalid URL (GET /v1/responses)" in await response.text()
        async with session.get("/v1/chat/completions", headers=KEY) as response:
            assert response.status == 405
        async with session.get("/v1/messages/unknown", headers=ANTHROPIC) as response:
            assert (await response.json())["error"]["type"] == "not_found_error"

    serving(test)
