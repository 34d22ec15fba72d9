"""OpenAI's wire format: what a request becomes, and what is read from an answer."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlaif.config import Sampling
from rlaif.errors import CallFailed
from rlaif.judging.reading import option_masses
from rlaif.models import Headroom, Reply
from rlaif.models.openai_chat import REASONING, SEEDS, chat_body, headroom_of, read_chat, seconds_of, seed_of
from rlaif.records import canonical_json
from tests.models.asking import model, request, system

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["A", "B"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-tests")


def body(what: Any, name: str = "gpt-4.1", **options: Any) -> dict[str, Any]:
    opened = model("openai", name, **options)
    return chat_body(what, opened.model, opened.options)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_plain_request_says_all_of_its_sampling() -> None:
    what = request("Hello", sampling=Sampling(temperature=0.7, top_p=0.9, max_output_tokens=99, stop=("END",)))
    assert body(what) == {
        "model": "gpt-4.1",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_completion_tokens": 99,
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["END"],
    }


def test_sampling_that_is_the_default_is_said_too_because_servers_have_defaults_of_their_own() -> None:
    found = body(request(sampling=Sampling()), base_url="http://127.0.0.1:8000/v1")
    assert (found["temperature"], found["top_p"]) == (1.0, 1.0)


def test_a_compatible_server_is_told_max_tokens() -> None:
    found = body(request(), base_url="http://127.0.0.1:8000/v1")
    assert found["max_tokens"] == 64
    assert "max_completion_tokens" not in found


def test_turns_keep_their_order_and_roles() -> None:
    what = request("a", "b", "c")
    what = what.model_copy(update={"messages": (system("s"), *what.messages)})
    assert [(m["role"], m["content"]) for m in body(what)["messages"]] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]


def test_options_ask_for_the_log_probabilities_of_one_token() -> None:
    found = body(request(options=("A", "B"), sampling=Sampling(temperature=0, stop=("\n",))), top_logprobs=5)
    assert (found["logprobs"], found["top_logprobs"], found["max_completion_tokens"]) == (True, 5, 1)
    assert "stop" not in found


def test_a_reasoning_model_is_asked_without_sampling() -> None:
    found = body(request(sampling=Sampling(max_output_tokens=900)), "o3-mini", reasoning_effort="low")
    assert set(found) == {"model", "messages", "max_completion_tokens", "reasoning_effort"}
    assert found["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("o1", True),
        ("o1-mini", True),
        ("o3-2025-04-16", True),
        ("o4-mini", True),
        ("gpt-5", True),
        ("gpt-5-mini-2025-08-07", True),
        ("gpt-5.1", True),
        ("gpt-6.1-terra", True),
        ("openai/gpt-5-nano", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4.1", False),
        ("gpt-4o-mini", False),
        ("gpt-oss-20b", False),
        ("Qwen/Qwen3-8B", False),
        ("olmo-2", False),
    ],
)
def test_reasoning_models_are_known_by_their_names(name: str, reasons: bool) -> None:
    assert bool(REASONING.match(name)) == reasons
    assert ("temperature" not in body(request(), name)) == reasons


def test_what_is_said_of_reasoning_goes_before_the_name() -> None:
    assert "temperature" in body(request(), "gpt-5.1", reasoning=False, reasoning_effort="none")
    assert "temperature" not in body(request(), "my-thinker", reasoning=True)


def test_what_is_left_out_is_not_sent() -> None:
    found = body(request(seed=1), leave_out=["temperature", "top_p", "seed"])
    assert not {"temperature", "top_p", "seed"} & set(found)


def test_samples_have_seeds_of_their_own() -> None:
    seeds = [body(request(seed=7, sample_index=index))["seed"] for index in range(50)]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < SEEDS for seed in seeds)
    assert seeds[0] == body(request(seed=7))["seed"]
    assert seed_of(0, 1) != seed_of(1, 0)
    assert "seed" not in body(request(sample_index=3))


def test_a_schema_is_asked_for_in_strict_form() -> None:
    found = body(request(json_schema=canonical_json(SCHEMA)))["response_format"]
    assert found["type"] == "json_schema"
    assert (found["json_schema"]["schema"], found["json_schema"]["strict"]) == (SCHEMA, True)


def test_a_beginning_is_handed_over_as_vllm_takes_it() -> None:
    found = body(request("Hi", prefill="The better reply is"), prefill=True)
    assert found["messages"][-1] == {"role": "assistant", "content": "The better reply is"}
    assert (found["continue_final_message"], found["add_generation_prompt"]) == (True, False)


def test_fields_of_a_servers_own_join_the_body() -> None:
    extra = {"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}}
    found = body(request(), extra_body=extra)
    assert {name: found[name] for name in extra} == extra


# --- answers ----------------------------------------------------------------------------------------------------------


def completion(message: Any = None, finish: Any = "stop", logprobs: Any = None, **others: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Fine."}, "finish_reason": finish}
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
    return {"model": "gpt-4.1-2025", "choices": [{**choice, "logprobs": logprobs}], "usage": usage, **others}


def test_a_reply_has_its_text_and_tokens_and_says_who_served_it() -> None:
    details = {"cached_tokens": 12, "cache_write_tokens": 4, "audio_tokens": 0}
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": details}
    assert read_chat(completion(usage=usage), request()) == Reply(
        text="Fine.",
        prompt_tokens=20,
        output_tokens=3,
        cached_tokens=12,
        cache_written_tokens=4,
        served_by="gpt-4.1-2025",
    )


def test_candidates_of_the_first_token_are_read_as_a_judge_reads_those_of_a_local_model() -> None:
    top = [("A", 0.5), (" A", 0.1), ("B", 0.3), ("The", 0.05)]
    entry = {
        "token": "A",
        "logprob": math.log(0.5),
        "top_logprobs": [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top],
    }
    second = {"token": ".", "logprob": 0.0, "top_logprobs": []}
    reply = read_chat(completion(logprobs={"content": [entry, second]}), request(options=("A", "B")))
    assert option_masses(reply.logprobs, ("A", "B")) == pytest.approx([0.6, 0.3])


def test_a_drawn_token_outside_the_likeliest_counts() -> None:
    entry = {"token": "B", "logprob": -3.0, "top_logprobs": [{"token": "A", "logprob": -0.1}]}
    reply = read_chat(completion(logprobs={"content": [entry]}), request(options=("A", "B")))
    assert reply.logprobs == (("A", -0.1), ("B", -3.0))


def test_log_probabilities_that_were_not_asked_for_are_not_kept() -> None:
    entry = {"token": "B", "logprob": -3.0, "top_logprobs": []}
    assert read_chat(completion(logprobs={"content": [entry]}), request()).logprobs == ()


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_missing_log_probabilities_leave_a_reply_without_any(logprobs: Any) -> None:
    assert read_chat(completion(logprobs=logprobs), request(options=("A", "B"))).logprobs == ()


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": "Half a"}, "length", ("Half a", "length")),
        ({"content": ""}, "length", ("", "length")),  # all spent on reasoning
        ({"content": "So I"}, "content_filter", ("So I", "refused")),
        ({"content": None}, "content_filter", ("", "refused")),
        ({"content": None, "refusal": "I cannot."}, "stop", ("I cannot.", "refused")),
        ({"content": "Yes."}, None, ("Yes.", "stop")),
        ({"content": "Yes."}, "eos_token", ("Yes.", "stop")),
    ],
)
def test_how_a_reply_ended(message: Any, finish: Any, expected: tuple[str, str]) -> None:
    reply = read_chat(completion(message, finish), request())
    assert (reply.text, reply.finish_reason, reply.output_tokens) == (*expected, 3)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"choices": []},
        {"choices": None},
        completion({"content": ""}),
        completion({"content": None}, "tool_calls"),
        completion({"content": "Half a"}, "error"),
        completion({"content": "Half a"}, "abort"),
    ],
)
def test_what_is_no_reply_is_garbled(value: dict[str, Any]) -> None:
    with pytest.raises(CallFailed) as raised:
        read_chat(value, request())
    assert (raised.value.fault, raised.value.retryable) == ("garbled", True)


def test_an_answer_without_usage_is_read() -> None:
    assert read_chat(completion(usage=None), request()).prompt_tokens == 0


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        ("1s", 1),
        ("20ms", 0.02),
        ("6m0s", 360),
        ("1m12s", 72),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("1d", 86_400),
        ("30", 30),
        ("0.5", 0.5),
        ("", None),
        (None, None),
        ("soon", None),
        ("nan", None),
    ],
)
def test_spans_of_time(span: str | None, seconds: float | None) -> None:
    assert seconds_of(span) == (None if seconds is None else pytest.approx(seconds))


def test_headroom() -> None:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "29000",
        "x-ratelimit-reset-tokens": "2s",
    }
    assert headroom_of(headers) == Headroom(500, 499, pytest.approx(0.12), 30_000, 29_000, 2.0)
    assert headroom_of({"content-type": "application/json"}) is None
    assert headroom_of({"x-ratelimit-remaining-tokens": "many"}) == Headroom()
