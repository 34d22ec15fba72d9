"""What the server counts, and that it adds up."""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import Any

import aiohttp
import pytest

from rlaif.mock import MockServer
from rlaif.mock.answering import key_name
from rlaif.mock.tally import Bill, HashTable, Memory, Tally
from tests.mock.serving import ANTHROPIC, KEY, chat, message, post, seen, serving, until

SECOND = {"Authorization": "Bearer sk-second"}


def test_counts_add_up_under_every_sort_of_failure() -> None:
    faults = (
        "429=0.05",
        "500=0.05",
        "502=0.05",
        "reset=0.05",
        "reset-mid=0.05",
        "truncated=0.05",
        "empty=0.1",
        "drip=0.02",
    )

    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        async def ask(i: int) -> tuple[str, Any]:
            if i % 10 == 0:
                return await seen(session, chat(temperature=9)), None
            try:
                status, body, _ = await post(session, chat(f"{i % 120}"), headers=SECOND if i % 2 else KEY)
                return str(status), body.get("usage")
            except (aiohttp.ClientError, ValueError):
                return "failed", None

        replies = await asyncio.gather(*map(ask, range(400)))
        stats = server.stats()
        usages = [usage for status, usage in replies if status == "200" and usage]
        assert stats["requests"] == 400 == sum(stats["by_status"].values())
        assert (stats["in_flight"], stats["by_status"]["400"]) == (0, 40)
        assert stats["answered"] == len(usages)
        assert stats["tokens"]["prompt"] == sum(usage["prompt_tokens"] for usage in usages)
        assert stats["tokens"]["completion"] == sum(usage["completion_tokens"] for usage in usages)
        unusable = sum(stats["by_fault"][name] for name in ("reset", "reset-mid", "truncated"))
        assert stats["by_status"]["200"] - stats["answered"] == stats["by_fault"]["truncated"]
        assert stats["by_status"]["none"] == stats["by_fault"]["reset"] + stats["by_fault"]["reset-mid"]
        assert stats["billed"]["prompt"] > stats["tokens"]["prompt"]
        assert unusable > 0
        assert set(stats["by_key"]) == {key_name("sk-test"), key_name("sk-second")}
        assert sum(key["requests"] for key in stats["by_key"].values()) == 400
        assert sum(key["answered"] for key in stats["by_key"].values()) == stats["answered"]

    serving(test, fault=faults, fault_seconds=0.02, latency="0-5ms")


def test_only_bodies_answered_more_than_once_are_repeats() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        for text, times in (("once", 1), ("twice", 2), ("thrice", 3)):
            for _ in range(times):
                await post(session, chat(text))
        stats = server.stats()
        assert (stats["answered"], stats["distinct"], stats["repeats"]) == (6, 3, 2)

    serving(test)


@pytest.mark.parametrize("name", ["reset", "reset-mid", "truncated", "malformed", "html"])
def test_a_retry_after_a_lost_reply_is_no_repeat_but_is_billed(name: str) -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        assert await seen(session, chat()) != "200"
        assert await seen(session, chat()) == "200"
        stats = server.stats()
        assert (stats["answered"], stats["repeats"], stats["requests"]) == (1, 0, 2)
        assert stats["billed"]["prompt"] == 2 * stats["tokens"]["prompt"]

    serving(test, fault=(f"{name}=first:1",))


def test_requests_are_shown_without_their_keys() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        await post(session, chat("first"))
        await post(session, message("second"), "/v1/messages", {**ANTHROPIC, "x-trace": "7"})
        async with session.get("/_mock/requests?last=1") as response:
            text = await response.text()
            (row,) = await response.json()
        assert row["body"]["messages"][0]["content"] == "second"
        assert (row["path"], row["method"], row["key"]) == ("/v1/messages", "POST", key_name("sk-ant-test"))
        assert row["headers"]["x-trace"] == "7"
        assert "sk-ant-test" not in text

    serving(test)


def test_reset_forgets_everything() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        fresh = server.stats()
        assert [await seen(session, chat()) for _ in range(2)] == ["500", "200"]
        async with session.post("/_mock/reset") as response:
            assert response.status == 200
        assert server.stats() == fresh
        async with session.get("/_mock/requests") as response:
            assert await response.json() == []
        assert [await seen(session, chat()) for _ in range(2)] == ["500", "200"]

    serving(test, fault=("500=first:1",))


def test_stats_over_http_are_those_of_the_library() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        await post(session, chat())
        async with session.get("/_mock/stats") as response:
            assert await response.json() == server.stats()
        async with session.get("/_mock/status") as response:
            assert response.status == 404
            assert "GET /_mock/stats" in await response.text()

    serving(test)


def test_in_flight_and_its_peak() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        calls = [asyncio.ensure_future(post(session, chat(f"{i}"))) for i in range(5)]
        await until(lambda: server.stats()["in_flight"] == 5)
        await asyncio.gather(*calls)
        assert (server.stats()["in_flight"], server.stats()["peak_in_flight"]) == (0, 5)

    serving(test, latency="300ms")


# --- the table under it -----------------------------------------------------------------------------------------------


def test_a_hash_table_keeps_what_collides_apart_until_it_is_full() -> None:
    table = HashTable(Memory(16 * 8 + 64), 16)
    keys = [16 * i + 3 for i in range(14)]  # all want the same place
    places = [table.place(key) for key in keys]
    assert len(set(places)) == 14
    assert [table.place(key) for key in keys] == places
    assert table.place(999) is None
    assert table.place(keys[0]) == places[0]


def test_requests_beyond_the_table_are_said_to_be_untracked() -> None:
    tally = Tally(Lock(), ())
    tally._requests = HashTable(Memory(1024), 16)
    attempts = [tally.attempt(key) for key in (*range(1, 15), *range(1, 31))]
    assert attempts[:14] == [1] * 14
    assert attempts[14:28] == [2] * 14
    assert tally.stats()["untracked"] == 16
    tally.arrive(1)
    tally.leave(1, "200", None, Bill(99, (1, 0, 0, 1), True))
    assert (tally.stats()["answered"], tally.stats()["distinct"]) == (1, 0)
