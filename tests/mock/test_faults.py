"""Each fault as a raw client sees it, and that the same attempts meet the same faults whatever the concurrency."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from rlaif.mock import MockOptions, MockServer
from rlaif.mock.faults import FAULTS, parse_faults
from tests.conftest import ROOT
from tests.mock.serving import ANTHROPIC, KEY, LETTER, chat, message, pair, post, seen, serving, until

SEEN = {
    "429": "429",
    "429-bare": "429",
    "500": "500",
    "502": "not JSON",
    "503": "503",
    "529": "529",
    "reset": "reset",
    "reset-mid": "cut",
    "truncated": "not JSON",
    "malformed": "not JSON",
    "html": "not JSON",
    **dict.fromkeys(("content-type", "slow", "drip", "huge", "empty", "length", "content-filter", "refusal"), "200"),
    **dict.fromkeys(("neither", "no-logprobs", "clock"), "200"),
}


def faulty(name: str, body: Any, path: str = "/v1/chat/completions", headers: Any = KEY) -> tuple[int, Any, Any]:
    """A reply under one fault that always happens."""

    async def test(_: MockServer, session: aiohttp.ClientSession) -> Any:
        return await post(session, body, path, headers)

    found: tuple[int, Any, Any] = serving(test, fault=(f"{name}=1",), fault_seconds=0.05)
    return found


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith("batch-")])
def test_a_client_sees_the_fault_and_the_server_counts_it(name: str) -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        assert await seen(session, chat()) == SEEN[name]
        stats = server.stats()
        assert stats["by_fault"] == {name: 1}
        status = SEEN[name] if SEEN[name].isdigit() else {"reset": "none", "cut": "none"}.get(SEEN[name], "200")
        assert stats["by_status"] == {"502" if name == "502" else status: 1}
        assert stats["answered"] == (FAULTS[name].status == 200 and not FAULTS[name].spoils)
        assert bool(stats["billed"]["prompt"]) == (FAULTS[name].status == 200)

    serving(test, fault=(f"{name}=1",), fault_seconds=0.05)


def test_too_many_requests_say_how_long_to_wait_or_do_not() -> None:
    _, body, headers = faulty("429", chat())
    assert (headers["Retry-After"], headers["Retry-After-Ms"]) == ("1", "1000")
    assert body["error"]["code"] == "rate_limit_exceeded"
    _, _, headers = faulty("429-bare", chat())
    assert "Retry-After" not in headers
    _, _, headers = faulty("429", message(), "/v1/messages", ANTHROPIC)
    assert headers["Retry-After"] == "1"


def test_a_reply_of_ten_megabytes_is_whole_and_ends_with_the_verdict() -> None:
    body = chat(temperature=0) | {"messages": pair(LETTER, "quality=1", "quality=0")}
    _, reply, headers = faulty("huge", body)
    assert int(headers["Content-Length"]) > 10_000_000
    assert reply["choices"][0]["message"]["content"].endswith("A")
    assert reply["usage"]["completion_tokens"] < 10


def test_wrong_content_type_is_right_json() -> None:
    _, reply, headers = faulty("content-type", chat())
    assert headers["Content-Type"].startswith("text/plain")
    assert reply["choices"]


def test_an_empty_reply_and_a_cut_one() -> None:
    _, reply, _ = faulty("empty", chat())
    assert (reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]) == ("", "stop")
    _, reply, _ = faulty("empty", message(), "/v1/messages", ANTHROPIC)
    assert (reply["content"], reply["stop_reason"]) == ([], "end_turn")
    _, reply, _ = faulty("length", chat())
    assert reply["choices"][0]["finish_reason"] == "length"
    _, reply, _ = faulty("length", message(), "/v1/messages", ANTHROPIC)
    assert reply["stop_reason"] == "max_tokens"


def test_content_filters_of_both_providers() -> None:
    _, reply, _ = faulty("content-filter", chat())
    assert (reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]) == ("", "content_filter")
    _, reply, _ = faulty("content-filter", message(), "/v1/messages", ANTHROPIC)
    assert (reply["content"], reply["stop_reason"], reply["stop_details"]["type"]) == ([], "refusal", "refusal")


def test_a_model_that_declines() -> None:
    _, reply, _ = faulty("refusal", chat())
    said = reply["choices"][0]["message"]
    assert said["content"] is None
    assert "can't help" in said["refusal"]
    _, reply, _ = faulty("refusal", message(), "/v1/messages", ANTHROPIC)
    assert "can't help" in reply["content"][0]["text"]


def test_a_judge_that_settles_on_nothing_leaves_the_options_little_mass() -> None:
    body = chat(logprobs=True, top_logprobs=20) | {"messages": pair(LETTER, "one", "two")}
    _, reply, _ = faulty("neither", body)
    (choice,) = reply["choices"]
    assert "rather not" in choice["message"]["content"]
    top = {token["token"]: token["logprob"] for token in choice["logprobs"]["content"][0]["top_logprobs"]}
    assert max(top, key=top.__getitem__) == "Both"
    assert {"A", "B"} <= set(top)
    assert top["A"] < -4 or top["B"] < -4


def test_missing_log_probabilities() -> None:
    _, reply, _ = faulty("no-logprobs", chat(logprobs=True))
    assert reply["choices"][0]["logprobs"] is None
    assert reply["choices"][0]["message"]["content"]


def test_a_clock_that_jumps_is_an_hour_off_at_least() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> set[int]:
        off = set()
        for i in range(20):
            _, _, headers = await post(session, chat(f"{i}"))
            away = (parsedate_to_datetime(headers["Date"]) - datetime.now(UTC)).total_seconds()
            off.add(round(away / 3600))
        return off

    assert serving(test, fault=("clock=1",)) == {-24, -1, 1, 24}


def test_first_attempts_fail_and_later_ones_do_not() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> list[str]:
        return [await seen(session, chat(text)) for text in ("one", "two", "one", "two", "one", "two")]

    assert serving(test, fault=("503=first:2",)) == ["503", "503", "503", "503", "200", "200"]


def test_a_server_that_always_fails() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> set[str]:
        return {await seen(session, chat(f"{i}")) for i in range(10)}

    assert serving(test, fault=("503=1",)) == {"503"}


RATES = ("429=0.05", "500=0.1", "reset=0.05", "malformed=0.1", "reset-mid=0.05", "neither=0.1")


def outcomes(at_once: int, seed: int = 0) -> list[list[str]]:
    """What 60 requests, each asked three times in a row, met; ``at_once`` in flight."""

    async def test(_: MockServer, session: aiohttp.ClientSession) -> list[list[str]]:
        room = asyncio.Semaphore(at_once)

        async def ask(i: int) -> list[str]:
            async with room:
                return [await seen(session, chat(f"question {i}")) for _ in range(3)]

        return await asyncio.gather(*map(ask, range(60)))

    found: list[list[str]] = serving(test, fault=RATES, seed=seed, latency="0-2ms")
    return found


def test_the_same_seed_gives_the_same_faults_whatever_the_concurrency() -> None:
    alone = outcomes(1)
    assert alone == outcomes(64)
    assert alone != outcomes(64, seed=1)
    assert len({tuple(attempts) for attempts in alone}) > 5  # attempts of one request differ


def test_rates_are_met() -> None:
    plan = parse_faults(["500=0.2", "429=0.3"])
    drawn = Counter(fault.name if (fault := plan.drawn(1, i / 1000)) else "" for i in range(1000))
    assert drawn == {"429": 300, "500": 200, "": 500}
    assert plan.only({"500"}).drawn(1, 0.1) == FAULTS["500"]
    assert plan.only({"500"}).drawn(1, 0.25) is None


WRONG = {
    "resett=0.1": 'unknown fault "resett". Did you mean "reset"?',
    "banana=0.1": "Known: 429, 429-bare, 500",
    "500": "has no rate: write 500=0.05, or 500=first:2.",
    "500=2": "a rate is a number from 0 to 1",
    "500=first:0": 'after "first:" stands how many attempts fail',
}


@pytest.mark.parametrize("text", WRONG)
def test_a_fault_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValidationError) as raised:
        MockOptions(fault=(text,))
    assert WRONG[text] in str(raised.value)


def test_rates_cannot_add_up_to_more_than_one() -> None:
    with pytest.raises(ValidationError, match="at most 1"):
        MockOptions(fault=("500=0.7", "429=0.7"))
    with pytest.raises(ValidationError, match="given twice"):
        MockOptions(fault=("500=0.1", "500=0.1"))


def test_a_key_expires_in_mid_run() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        assert [await seen(session, chat(f"{i}")) for i in range(5)] == ["200"] * 3 + ["401"] * 2
        assert server.stats()["by_fault"] == {"key-expired": 2}
        status, _, _ = await post(session, chat(), headers={"Authorization": "Bearer another"})
        assert status == 200

    serving(test, key_expires_after=3)


def test_faults_befall_requests_that_call_no_model_too() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> list[int]:
        statuses = []
        for _ in range(3):
            async with session.get("/v1/models", headers=KEY) as response:
                statuses.append(response.status)
        return statuses

    assert serving(test, fault=("500=first:2",)) == [500, 500, 200]
    assert serving(test, fault=("neither=1",)) == [200, 200, 200]


def test_a_client_that_goes_away_is_not_answered() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        call = asyncio.ensure_future(post(session, chat()))
        await until(lambda: server.stats()["in_flight"] == 1)
        call.cancel()
        await until(lambda: server.stats()["in_flight"] == 0)
        stats = server.stats()
        assert (stats["answered"], stats["by_fault"], stats["by_status"]) == (0, {"client-gone": 1}, {"none": 1})
        assert stats["billed"]["completion"] > 0

    serving(test, latency="200ms")


def test_every_fault_is_documented() -> None:
    page = (ROOT / "docs" / "mock-server.md").read_text(encoding="utf-8")
    assert not [name for name in FAULTS if f"`{name}`" not in page]
