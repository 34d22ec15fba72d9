"""Anthropic's wire format: what a request becomes, and what is read from an answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rlaif.config import Sampling
from rlaif.errors import CallFailed
from rlaif.models import ChatRequest, Reply
from rlaif.models.anthropic_messages import headroom_of, message_body, read_message
from rlaif.records import canonical_json
from tests import make
from tests.models.asking import model, request, system

SCHEMA = {"type": "object", "properties": {"verdict": {"type": "string"}}, "required": ["verdict"]}
MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-for-tests")


def body(what: ChatRequest, **options: Any) -> dict[str, Any]:
    opened = model("anthropic", "claude-x", **options)
    return message_body(what, opened.model, opened.options)


def judged(*examples: str) -> ChatRequest:
    """A judge's request: a system prompt, turns that show how it is done, and the question."""
    what = request(*examples, "Which is better?")
    return what.model_copy(update={"messages": (system("You are a judge."), *what.messages)})


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_system_prompt_stands_apart_and_is_marked_to_be_cached() -> None:
    assert body(judged()) == {
        "model": "claude-x",
        "max_tokens": 64,
        "system": [{"type": "text", "text": "You are a judge.", **MARK}],
        "messages": [{"role": "user", "content": "Which is better?"}],
        "temperature": 0.0,
    }


def test_without_the_cache_nothing_is_marked() -> None:
    found = body(judged("Example?", "A"), cache=False)
    assert found["system"] == "You are a judge."
    assert "cache_control" not in json.dumps(found)


def test_earlier_turns_are_marked_up_to_the_last_of_the_assistants() -> None:
    messages = body(judged("First?", "A", "Second?", "B"))["messages"]
    assert [isinstance(message["content"], list) for message in messages] == [False, False, False, True, False]
    assert messages[3]["content"] == [{"type": "text", "text": "B", **MARK}]


def test_several_system_messages_are_one_prompt_and_a_later_one_stays_a_turn() -> None:
    messages = (system("a"), system("b"), make.user("?"), system("c"), make.user("!"))
    found = body(ChatRequest(messages=messages), cache=False)
    assert found["system"] == "a\n\nb"
    assert [message["role"] for message in found["messages"]] == ["user", "system", "user"]


def test_sampling_is_said_where_it_is_not_the_apis_own() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=40, max_output_tokens=9, stop=("END", "STOP"))
    found = body(request(sampling=sampling))
    assert (found["temperature"], found["top_p"], found["top_k"]) == (0.5, 0.9, 40)
    assert (found["max_tokens"], found["stop_sequences"]) == (9, ["END", "STOP"])
    assert not {"temperature", "top_p", "top_k", "stop_sequences"} & set(body(request(sampling=Sampling())))
    greedy = body(request(sampling=Sampling(temperature=0, top_p=0.9, top_k=40)))
    assert greedy["temperature"] == 0
    assert not {"top_p", "top_k"} & set(greedy)


def test_the_new_api_version_is_told_no_sampling() -> None:
    found = body(request(sampling=Sampling()), api_version="2026-10-21")
    assert not {"temperature", "top_p", "top_k"} & set(found)


def test_what_is_left_out_is_not_sent() -> None:
    assert "temperature" not in body(request(), leave_out=["temperature"])


def test_a_seed_is_not_known() -> None:
    assert body(request(seed=3)) == body(request())


def test_a_schema_is_followed_by_a_forced_tool() -> None:
    found = body(request(json_schema=canonical_json(SCHEMA)))
    (tool,) = found["tools"]
    assert tool["input_schema"] == SCHEMA
    assert found["tool_choice"] == {"type": "tool", "name": tool["name"]}


def test_a_beginning_is_a_last_turn_of_the_assistants() -> None:
    found = body(request("Hi", prefill="The better reply is"), prefill=True)
    assert found["messages"][-1] == {"role": "assistant", "content": "The better reply is"}


def test_fields_of_the_servers_own_join_the_body() -> None:
    assert body(request(), extra_body={"service_tier": "auto"})["service_tier"] == "auto"


# --- answers ----------------------------------------------------------------------------------------------------------


def message(*content: dict[str, Any], stop: str | None = "end_turn", **usage: int) -> dict[str, Any]:
    return {
        "type": "message",
        "model": "claude-x-1",
        "content": list(content),
        "stop_reason": stop,
        "usage": {"input_tokens": 10, "output_tokens": 5, **usage},
    }


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_a_reply_has_its_text_and_all_of_its_prompts_tokens() -> None:
    value = message(said("Fi"), said("ne."), cache_read_input_tokens=100, cache_creation_input_tokens=40)
    assert read_message(value, request()) == Reply(
        text="Fine.",
        prompt_tokens=150,
        output_tokens=5,
        cached_tokens=100,
        cache_written_tokens=40,
        served_by="claude-x-1",
    )


def test_thoughts_are_no_part_of_the_text() -> None:
    value = message({"type": "thinking", "thinking": "A? [[A]]", "signature": "x"}, said("[[B]]"))
    assert read_message(value, request()).text == "[[B]]"


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refused"),
        (None, "stop"),
    ],
)
def test_how_a_reply_ended(stop: str | None, finish: str) -> None:
    reply = read_message(message(said("Half"), stop=stop), request())
    assert (reply.text, reply.finish_reason, reply.output_tokens) == ("Half", finish, 5)


def test_the_tools_input_is_the_text_of_a_reply_that_follows_a_schema() -> None:
    what = request(json_schema=canonical_json(SCHEMA))
    called = {"type": "tool_use", "id": "t", "name": "reply", "input": {"verdict": "Ä", "reason": 1}}
    reply = read_message(message(said("Let me see."), called, stop="tool_use"), what)
    assert (json.loads(reply.text), reply.finish_reason) == ({"verdict": "Ä", "reason": 1}, "stop")
    assert read_message(message(called, stop="max_tokens"), what).finish_reason == "length"


def test_a_refusal_needs_no_tool_call() -> None:
    what = request(json_schema=canonical_json(SCHEMA))
    reply = read_message(message(said("No."), stop="refusal"), what)
    assert (reply.text, reply.finish_reason) == ("No.", "refused")


@pytest.mark.parametrize("value", [message(), message(said("")), message({"type": "thinking", "thinking": "..."})])
def test_an_answer_without_text_is_garbled(value: dict[str, Any]) -> None:
    with pytest.raises(CallFailed) as raised:
        read_message(value, request())
    assert raised.value.fault == "garbled"


def test_words_in_place_of_a_tool_call_are_garbled() -> None:
    with pytest.raises(CallFailed, match="where a tool was to be called"):
        read_message(message(said("I'd say A.")), request(json_schema=canonical_json(SCHEMA)))


# --- headers ----------------------------------------------------------------------------------------------------------


def limits(unit: str, limit: int, left: int, seconds: float) -> dict[str, str]:
    then = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    start = f"anthropic-ratelimit-{unit}"
    return {f"{start}-limit": str(limit), f"{start}-remaining": str(left), f"{start}-reset": then}


def test_headroom() -> None:
    found = headroom_of({**limits("requests", 50, 49, 3600), **limits("tokens", 8000, 7000, -5)})
    assert found is not None
    assert (found.requests_limit, found.requests_left) == (50, 49)
    assert 3000 < (found.requests_reset or 0) <= 3600
    assert (found.tokens_limit, found.tokens_left, found.tokens_reset) == (8000, 7000, 0.0)


def test_headroom_of_input_tokens_where_tokens_are_not_told_as_a_whole() -> None:
    found = headroom_of({**limits("output-tokens", 10, 9, 0), **limits("input-tokens", 20, 19, 0)})
    assert found is not None
    assert (found.requests_limit, found.tokens_limit, found.tokens_left) == (None, 20, 19)


def test_no_headroom_where_nothing_is_said() -> None:
    assert headroom_of({"content-type": "application/json"}) is None


def test_a_reset_that_is_no_time_is_not_known() -> None:
    found = headroom_of({**limits("requests", 50, 49, 0), "anthropic-ratelimit-requests-reset": "soon"})
    assert found is not None
    assert found.requests_reset is None
