"""Both transports put the same questions and bring back the same answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from rlaif.catalogue import Catalogue
from rlaif.config import Sampling
from rlaif.judging import ProtocolContext, Question, Showing
from rlaif.judging.pairwise_logprobs import PairwiseLogprobs
from rlaif.mock import MockOptions, MockServer, start
from rlaif.models import Answer, ChatRequest
from rlaif.models.api import ApiModel
from rlaif.records import canonical_json
from tests import make
from tests.mock.serving import BRACKETS, LETTER, pair
from tests.models.asking import GREEDY, PROVIDERS, TRANSPORTS, answered, called, model, on_mock, request, rooted, system

SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B"]}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
BOTH = pytest.mark.parametrize("transport", TRANSPORTS)
EITHER = pytest.mark.parametrize("provider", PROVIDERS)
DRAWN = "Draw something"  # the mock draws by the bytes of a body where it has no seed: a script speaks in its place
SAMPLED = Sampling(temperature=0.7, top_p=0.9, max_output_tokens=40, stop=("END", "STOP"))


def judged(form: str, **fields: Any) -> ChatRequest:
    text = pair(form, "quality=0.9", "quality=0.1")[0]["content"]
    return request(text, **fields)


def with_system(what: ChatRequest, *texts: str) -> ChatRequest:
    return what.model_copy(update={"messages": (*map(system, texts), *what.messages)})


# name: (request, the model's options, the server's)
COMMON: dict[str, tuple[ChatRequest, dict[str, Any], dict[str, Any]]] = {
    "plain": (request(), {}, {}),
    "sampling": (request(DRAWN, sampling=SAMPLED), {}, {}),
    "sampling left out": (request(DRAWN, sampling=SAMPLED), {"leave_out": ["temperature", "top_p"]}, {}),
    "defaults": (request(DRAWN, sampling=Sampling()), {}, {}),
    "seed": (request(DRAWN, sampling=Sampling(), seed=11, sample_index=3), {}, {}),
    "turns": (with_system(request("One?", "1", "Two?", "2", "Three?"), "Count.", "Be brief."), {}, {}),
    "a judge": (judged(BRACKETS), {}, {}),
    "schema": (judged(LETTER, json_schema=canonical_json(SCHEMA)), {}, {}),
    "prefill": (judged(LETTER, prefill="The better reply is"), {"prefill": True}, {"prefill": True, "lenient": True}),
    "headers": (request(), {"extra_headers": {"X-Team": "red", "X-Secret-Token": "$TEAM_TOKEN"}}, {}),
    "another scheme": (request(), {"api_key_env": "", "extra_headers": {"Authorization": "$AN_AUTHORIZATION"}}, {}),
    "an organisation": (request(), {"extra_headers": {"OpenAI-Organization": "org-named"}}, {}),
    "awkward text": (request('"quoted" \\ \x00\u2028 \U0001f469\u200d\U0001f52c é\r\n{{x}}'), {}, {}),
    "cut off": (request(sampling=GREEDY.model_copy(update={"max_output_tokens": 3})), {}, {}),
    "long": (request("word " * 20_000), {}, {}),
}
CASES: dict[str, dict[str, tuple[ChatRequest, dict[str, Any], dict[str, Any]]]] = {
    "openai": {
        **COMMON,
        "options": (judged(LETTER, options=("A", "B")), {}, {}),
        "fewer candidates": (judged(LETTER, options=("A", "B")), {"top_logprobs": 2}, {}),
        "reasoning": (
            request(DRAWN, sampling=Sampling(max_output_tokens=900)),
            {"reasoning": True, "reasoning_effort": "low"},
            {},
        ),
        "without a seed": (request(seed=3), {"leave_out": ["seed"]}, {}),
        "a server's own fields": (
            request(),
            {"extra_body": {"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}}},
            {"lenient": True},
        ),
    },
    "anthropic": {
        **COMMON,
        "top_k": (request(DRAWN, sampling=Sampling(temperature=0.9, top_k=5)), {}, {}),
        "new version": (request(DRAWN, sampling=Sampling()), {"api_version": "2026-10-21"}, {}),
        "no cache": (with_system(request("One?", "1", "Two?"), "Count."), {"cache": False}, {}),
        "a server's own fields": (
            request(),
            {"extra_body": {"thinking": {"type": "disabled"}, "service_tier": "auto", "metadata": {"user_id": "u"}}},
            {},
        ),
    },
}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", "t-0123456789")
    monkeypatch.setenv("OPENAI_ORG_ID", "an organisation that nobody named in a recipe")
    monkeypatch.setenv("AN_AUTHORIZATION", "Bearer sk-from-elsewhere")


@pytest.fixture
def script(working_folder: Path) -> str:
    path = working_folder / "script.jsonl"
    path.write_text(json.dumps({"match": DRAWN, "reply": "A drawn reply of some words, then END and more."}) + "\n")
    return str(path)


async def last_request(server: MockServer) -> dict[str, Any]:
    """The last request as the server saw it, less what differs between two runs and what a client says of itself."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/_mock/requests?last=1") as response:
        (seen,) = await response.json()
    kept = ("content-type", "anthropic-version", "x-team", "openai-organization", "openai-project")
    headers = {name: seen["headers"].get(name) for name in kept}
    return {
        "method": seen["method"],
        "path": seen["path"],
        "key": seen["key"],
        "headers": headers,
        "body": seen["body"],
    }


def asked_by_both(
    provider: str, what: ChatRequest, options: dict[str, Any], server: dict[str, Any]
) -> list[tuple[dict[str, Any], Any]]:
    async def test(running: MockServer, asked: ApiModel) -> tuple[dict[str, Any], Any]:
        assert asked.objection(what) is None
        answer = await called(asked, what)
        return await last_request(running), answer

    return [on_mock(provider, test, server, transport=transport, **options) for transport in TRANSPORTS]


@pytest.mark.parametrize(("provider", "name"), [(provider, name) for provider in PROVIDERS for name in CASES[provider]])
def test_both_transports_send_the_same_request_and_bring_the_same_answer(
    provider: str, name: str, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "sk-0123456789abcdef")
    what, options, server = CASES[provider][name]
    (sent_fast, fast), (sent_sdk, sdk) = asked_by_both(
        provider, what, {"api_key_env": "A_KEY", **options}, {"script": script, **server}
    )
    assert isinstance(fast, Answer), fast
    assert sent_fast == sent_sdk
    assert fast == sdk


def test_no_key_is_sent_where_none_is_wanted() -> None:
    for provider in PROVIDERS:
        for _, failure in asked_by_both(provider, request(), {"api_key_env": ""}, {}):
            assert (failure.fault, str(failure)[:8]) == ("barred", "HTTP 401")


def test_log_probabilities_are_read_by_the_judge_that_reads_those_of_local_models(working_folder: Path) -> None:
    context = ProtocolContext("here", Catalogue(working_folder), True, "", Sampling())
    judge = PairwiseLogprobs(PairwiseLogprobs.Options(), context)
    prompt = make.prompt("Say hello.")
    shown = tuple(make.response(prompt, text) for text in ("quality=0.9", "quality=0.1"))
    showing = Showing(prompt, shown, None, "Be kind.", "0123456789abcdef")

    async def test(running: MockServer, asked: ApiModel) -> Any:
        async def ask(question: Question) -> Any:
            fields = question.model_dump(exclude={"messages"})
            what = ChatRequest(messages=question.messages, sampling=GREEDY, **fields)
            assert asked.objection(what) is None
            return (await asked.routes[0].complete(what, 20.0)).reply

        return await judge.judge(showing, ask)

    server = {"prefill": True, "lenient": True, "skill": 1.0}
    fast, sdk = (on_mock("openai", test, server, transport=way, prefill=True) for way in TRANSPORTS)
    assert fast == sdk
    assert fast.p[0] > 0.9
    assert fast.option_mass > 0.9


def test_a_cached_prompt_is_counted_in_all_and_in_part() -> None:
    what = with_system(request("Which?"), "word " * 2000)

    async def test(running: MockServer, asked: ApiModel) -> list[Any]:
        return [(await called(asked, what)).reply for _ in range(2)]  # type: ignore[union-attr]

    for transport in TRANSPORTS:
        written, read = on_mock("anthropic", test, {}, transport=transport)
        assert written.cache_written_tokens == read.cached_tokens > 2000
        assert written.prompt_tokens == read.prompt_tokens > read.cached_tokens
        _, again = on_mock("openai", test, {}, transport=transport)
        assert again.prompt_tokens > again.cached_tokens > 2000


@BOTH
@EITHER
def test_headroom_comes_with_the_answer(provider: str, transport: str) -> None:
    async def test(running: MockServer, asked: ApiModel) -> Any:
        return await called(asked, request())

    headroom = on_mock(provider, test, {"rpm": 60, "tpm": 60_000}, transport=transport).headroom
    assert (headroom.requests_limit, headroom.requests_left, headroom.tokens_limit) == (60, 59, 60_000)
    assert 0 <= headroom.requests_reset <= 2
    assert headroom.tokens_left < 60_000


@BOTH
def test_a_model_serves_one_event_loop_after_another(transport: str) -> None:
    with start(MockOptions()) as server:
        asked = model("openai", base_url=rooted("openai", server.url), transport=transport)

        async def once(close: Callable[[], Any]) -> Any:
            answer = await called(asked, request())
            await close()
            return answer

        assert [type(asyncio.run(once(asked.close))) for _ in range(2)] == [Answer, Answer]


def test_a_prompt_that_ends_with_the_user_is_what_sampling_asks() -> None:
    for provider in PROVIDERS:
        what = ChatRequest(messages=make.prompt("Why?").messages, sampling=Sampling(), seed=1, sample_index=2)
        for _, answer in asked_by_both(provider, what, {}, {}):
            assert answer.reply.text


@BOTH
@EITHER
def test_every_route_goes_to_its_own_address_with_its_own_key(
    provider: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_KEY", "sk-one")
    monkeypatch.setenv("TWO_KEY", "sk-two")

    async def run() -> Any:
        async with MockServer(MockOptions()) as here, MockServer(MockOptions()) as there:
            further = [{"api_key_env": "TWO_KEY"}, {"base_url": rooted(provider, there.url)}]
            options = {"base_url": rooted(provider, here.url), "api_key_env": "ONE_KEY", "endpoints": further}
            asked = model(provider, transport=transport, **options)
            for route in asked.routes:
                await route.complete(request(), 20.0)
            await asked.close()
            return [server.stats()["by_key"] for server in (here, there)]

    here, there = asyncio.run(run())
    assert [row["requests"] for row in here.values()] == [1, 1]
    assert [row["requests"] for row in there.values()] == [1]
    assert set(there) <= set(here)  # the first key, where an endpoint names none


@BOTH
@EITHER
@pytest.mark.parametrize("way", ["compressed", "in chunks"])
def test_an_answer_may_come_compressed_or_in_chunks(way: str, provider: str, transport: str) -> None:
    content = {"content": [{"type": "text", "text": "Fine."}], "stop_reason": "end_turn"}
    value = {"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}], **content}
    body = orjson.dumps(value)

    async def handler(asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
        if way == "compressed":
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(asked)
        for place in range(0, len(body), 10):
            await response.write(body[place : place + 10])
        return response

    found = answered(provider, handler, request(), transport=transport)
    assert isinstance(found, Answer), found
    assert found.reply.text == "Fine."


@BOTH
@EITHER
def test_the_environments_proxy_is_used(provider: str, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def run() -> Any:
        async with MockServer(MockOptions()) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            asked = model(
                provider, base_url=rooted(provider, "http://inside.example"), transport=transport, api_key_env=""
            )
            await called(asked, request())
            await asked.close()
            return await last_request(proxy)

    seen = asyncio.run(run())
    assert seen["path"].startswith("http://inside.example/")


@BOTH
def test_no_more_connections_than_calls_in_flight_are_allowed(transport: str) -> None:
    async def test(running: MockServer, asked: ApiModel) -> Any:
        found = await asyncio.gather(*(called(asked, request(f"Say {i}.")) for i in range(60)))
        return found, running.stats()["peak_in_flight"]

    found, peak = on_mock("openai", test, {"latency": "20ms"}, transport=transport, max_in_flight=8)
    assert all(isinstance(answer, Answer) for answer in found)
    assert 1 < peak <= 8
