"""Limits let through what they say, tell a client where it stands, and queue what is over the capacity."""

from __future__ import annotations

import asyncio
from datetime import datetime
from threading import Lock
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.mock import MockOptions, MockServer
from rlaif.mock.latency import parse_latency
from rlaif.mock.limits import Bucket, Limits
from tests.mock.serving import ANTHROPIC, KEY, chat, message, post, serving


def limits(rpm: float | None = None, tpm: float | None = None, window: float = 60.0) -> Limits:
    named = (("requests", rpm), ("tokens", tpm))
    return Limits([Bucket(unit, limit, window, [0.0] * 8) for unit, limit in named if limit is not None], Lock())


# --- buckets, on a clock of the test's own ----------------------------------------------------------------------------


def test_a_minute_of_requests_at_once_and_then_one_after_another() -> None:
    bucket = limits(rpm=60)
    assert [bucket.charge(0, 0, 1.0).short for _ in range(61)] == [None] * 60 + ["requests"]
    assert bucket.charge(0, 0, 1.5).wait == pytest.approx(0.5)
    assert bucket.charge(0, 0, 2.0).short is None
    assert bucket.charge(0, 0, 2.0).short == "requests"


def test_a_short_window_allows_no_burst() -> None:
    bucket = limits(rpm=600, window=1.0)
    assert [bucket.charge(0, 0, 1.0).short for _ in range(11)] == [None] * 10 + ["requests"]


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200), st.floats(1.0, 200.0))
def test_no_more_is_let_through_than_the_limit_says(gaps: list[float], rpm: float) -> None:
    bucket, now, passed = limits(rpm=rpm, window=10.0), 1.0, 0
    for gap in gaps:
        now += gap
        passed += bucket.charge(0, 0, now).short is None
    assert passed <= max(rpm / 6, 1) + (now - 1.0) * rpm / 60 + 1e-6


def test_a_refused_request_takes_nothing_from_either_bucket() -> None:
    both = limits(rpm=10, tpm=100)
    assert both.charge(0, 90, 1.0).short is None
    refused = both.charge(0, 90, 1.0)
    assert (refused.short, refused.levels["requests"].remaining) == ("tokens", 9)
    assert both.charge(0, 10, 1.0).short is None


def test_a_request_larger_than_the_bucket_waits_for_a_full_one() -> None:
    bucket = limits(tpm=60)
    assert bucket.charge(0, 1000, 1.0).short is None
    assert bucket.charge(0, 1000, 2.0).wait == pytest.approx(59)
    assert bucket.charge(0, 1000, 61.0).short is None


def test_keys_have_buckets_of_their_own() -> None:
    bucket = limits(rpm=1)
    assert [bucket.charge(key, 0, 1.0).short for key in (0, 1, 0, 1)] == [None, None, "requests", "requests"]


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_a_shared_limit_refuses_with_headers_and_a_time_to_wait() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        _, _, headers = await post(session, chat("0"))
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == "2"
        assert headers["x-ratelimit-reset-requests"] == "20s"
        replies = await asyncio.gather(*(post(session, chat(f"{i}")) for i in range(1, 10)))
        assert sorted(status for status, _, _ in replies) == [200] * 2 + [429] * 7
        _, body, headers = next(reply for reply in replies if reply[0] == 429)
        assert "on requests per min (RPM): Limit 3, Used 3" in body["error"]["message"]
        assert (body["error"]["type"], body["error"]["code"]) == ("requests", "rate_limit_exceeded")
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert 0 < int(headers["retry-after-ms"]) <= 20_000
        assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)
        assert server.stats()["by_fault"] == {"rpm": 7}

    serving(test, rpm=3)


def test_tokens_are_limited_by_prompt_and_max_tokens() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> list[Any]:
        replies = [await post(session, chat(f"{i}", max_tokens=92)) for i in range(3)]  # 8 of the prompt's own
        assert replies[0][2]["x-ratelimit-remaining-tokens"] == "150"
        return [(status, body.get("error", {}).get("type")) for status, body, _ in replies]

    assert serving(test, tpm=250) == [(200, None), (200, None), (429, "tokens")]


def test_anthropics_limit_headers_say_when() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        _, _, headers = await post(session, message("0"), "/v1/messages", ANTHROPIC)
        assert headers["anthropic-ratelimit-requests-limit"] == "1"
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert headers["anthropic-ratelimit-input-tokens-limit"] == "1000"
        assert datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"]).tzinfo
        status, body, headers = await post(session, message("1"), "/v1/messages", ANTHROPIC)
        assert (status, body["error"]["type"]) == (429, "rate_limit_error")
        assert 0 < int(headers["retry-after"]) <= 60

    serving(test, rpm=1, tpm=1000)


def test_an_independent_429_says_that_there_is_room() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> None:
        status, _, headers = await post(session, chat())
        assert status == 429
        assert int(headers["x-ratelimit-remaining-requests"]) == 99

    serving(test, rpm=100, fault=("429=1",))


def test_refusals_by_a_limit_do_not_change_which_attempts_fail() -> None:
    async def test(_: MockServer, session: aiohttp.ClientSession) -> list[int]:
        statuses = []
        for key in ("one", "one", "two", "three"):
            status, _, _ = await post(session, chat(), headers={"Authorization": f"Bearer {key}"})
            statuses.append(status)
        return statuses

    assert serving(test, rpm=1, fault=("500=first:2",)) == [500, 429, 500, 200]


def test_what_is_over_the_capacity_waits_its_turn() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> list[int]:
        done: list[int] = []

        async def ask(i: int) -> None:
            await post(session, chat(f"{i}"))
            done.append(i)

        await asyncio.gather(*map(ask, range(12)))
        assert server.stats()["peak_in_flight"] == 12
        async with session.get("/_mock/requests", headers=KEY) as response:
            came = [int(row["body"]["messages"][0]["content"]) for row in await response.json()]
        return [came.index(i) for i in done]

    assert serving(test, capacity=1, latency="1-15ms") == list(range(12))


# --- latency ----------------------------------------------------------------------------------------------------------


def test_latencies_are_read() -> None:
    assert parse_latency("0")(0.3) == 0
    assert parse_latency("50ms")(0.3) == pytest.approx(0.05)
    assert parse_latency("1.5s")(0.3) == 1.5
    assert [parse_latency("20-80ms")(u) for u in (0.0, 0.5, 1.0)] == pytest.approx([0.02, 0.05, 0.08])
    assert parse_latency("500ms-2s")(1.0) == 2
    lognormal = parse_latency("lognormal:50ms:0.5")
    assert lognormal(0.5) == pytest.approx(0.05)
    assert lognormal(0.8413447) == pytest.approx(0.05 * 2.718281828**0.5, rel=1e-4)  # one sigma above the median


@pytest.mark.parametrize("text", ["50", "fast", "80-20ms", "lognormal:50ms", "-5ms"])
def test_a_latency_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="latency"):
        MockOptions(latency=text)


def test_limits_that_are_hidden_are_told_by_refusals_alone() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        replies = [await post(session, chat(str(i))) for i in range(3)]
        (refused,) = [headers for status, _, headers in replies if status == 429]
        assert "retry-after" in refused
        assert not [name for _, _, headers in replies for name in headers if name.lower().startswith("x-ratelimit")]

    serving(test, rpm=2, hide_limits=True)
