"""Both batch APIs, through the official SDKs: their life, their results, and lines that fail or expire."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from rlaif.mock import MockServer
from tests.mock.serving import BRACKETS, KEY, chat, message, pair, post, serving, until
from tests.mock.test_formats import anthropic_client, openai_client

ENDPOINT = "/v1/chat/completions"


def rows(*bodies: Any) -> bytes:
    lines = [
        {"custom_id": f"item-{i}", "method": "POST", "url": ENDPOINT, "body": body} for i, body in enumerate(bodies)
    ]
    return b"\n".join(json.dumps(line).encode() for line in lines)


async def submitted(client: openai.AsyncOpenAI, data: bytes) -> Any:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


async def ended(retrieve: Callable[[], Awaitable[Any]]) -> tuple[Any, list[str]]:
    """The batch once it has ended, and the statuses it went through."""
    found: list[Any] = []
    statuses: list[str] = []

    async def over() -> bool:
        found[:] = [await retrieve()]
        status = getattr(found[0], "status", None) or found[0].processing_status
        if status not in statuses:
            statuses.append(status)
        return status in ("completed", "failed", "expired", "cancelled", "ended")

    await until(over)
    return found[0], statuses


async def lines_of(client: openai.AsyncOpenAI, file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    text = (await client.files.content(file)).text
    return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def test_an_openai_batch_from_file_to_file() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            batch = await submitted(client, rows(*(chat(f"{i}") for i in range(30)), chat(temperature=9)))
            assert (batch.object, batch.status) == ("batch", "validating")
            batch, statuses = await ended(lambda: client.batches.retrieve(batch.id))
            assert statuses == ["validating", "in_progress", "finalizing", "completed"]
            assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
                31,
                30,
                1,
            )
            good, bad = await lines_of(client, batch.output_file_id), await lines_of(client, batch.error_file_id)
            assert set(good) == {f"item-{i}" for i in range(30)}
            assert good["item-0"]["response"]["status_code"] == 200
            assert good["item-0"]["response"]["body"]["object"] == "chat.completion"
            assert bad["item-30"]["response"]["status_code"] == 400
            assert bad["item-30"]["response"]["body"]["error"]["param"] == "temperature"
            assert bad["item-30"]["error"] is None
            assert [each.id async for each in client.batches.list(limit=1)] == [batch.id]
        stats = server.stats()["batch"]
        assert stats["lines"] == {"succeeded": 30, "errored": 1}
        assert stats["tokens"]["completion"] > 0
        assert server.stats()["answered"] == 0

    serving(test, batch_seconds=0.4)


BAD_FILES = {
    "nothing": (b"", "empty_file", None),
    "not JSON": (rows(chat()) + b"\n{", "invalid_json_line", 2),
    "the same id": (rows(chat()) + b"\n" + rows(chat()), "duplicate_custom_id", 2),
    "another endpoint": (rows(chat()).replace(b"completions", b"questions"), "mismatched_endpoint", 1),
    "two models": (rows(chat(), chat() | {"model": "another"}), "mismatched_model", None),
}


@pytest.mark.parametrize("row", BAD_FILES)
def test_a_file_that_cannot_be_run_fails_with_its_line(row: str) -> None:
    data, code, line = BAD_FILES[row]

    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            sent = await submitted(client, data)
            batch, statuses = await ended(lambda: client.batches.retrieve(sent.id))
            assert statuses[-1] == "failed"
            assert [(error.code, error.line) for error in batch.errors.data] == [(code, line)]
            assert batch.output_file_id is None

    serving(test, batch_seconds=0.02)


def test_lines_that_expire_make_the_batch_expired_and_can_be_told_apart() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            batch = await submitted(client, rows(*(chat(f"{i}") for i in range(60))))
            batch, _ = await ended(lambda: client.batches.retrieve(batch.id))
            assert batch.status == "expired"
            good, bad = await lines_of(client, batch.output_file_id), await lines_of(client, batch.error_file_id)
            assert set(good) | set(bad) == {f"item-{i}" for i in range(60)}
            codes = Counter(
                row["error"]["code"] if row["error"] else row["response"]["status_code"] for row in bad.values()
            )
            assert set(codes) == {"batch_expired", 500}
            again = await submitted(client, rows(*(chat(f"{i}") for i in range(60))))
            again, _ = await ended(lambda: client.batches.retrieve(again.id))
            assert (
                await lines_of(client, again.error_file_id) != bad
            )  # the second attempt of a line has a draw of its own

    serving(test, batch_seconds=0.02, fault=("batch-expired=0.2", "batch-failed=0.2"))


def test_a_canceled_batch_keeps_what_was_answered() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            batch = await submitted(client, rows(*(chat(f"{i}") for i in range(100))))
            await until(lambda: server.stats()["batch"]["lines"].get("succeeded", 0) > 0)
            assert (await client.batches.cancel(batch.id)).status == "cancelling"
            batch, _ = await ended(lambda: client.batches.retrieve(batch.id))
            good, bad = await lines_of(client, batch.output_file_id), await lines_of(client, batch.error_file_id)
            assert batch.status == "cancelled"
            assert 0 < len(good) < 100 == len(good) + len(bad)
            assert {row["error"]["code"] for row in bad.values()} == {"batch_cancelled"}
            with pytest.raises(openai.ConflictError):
                await client.batches.cancel(batch.id)

    serving(test, batch_seconds=1.0)


def test_files_are_kept_shown_and_deleted() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        async with openai_client(server) as client:
            file = await client.files.create(file=("in.jsonl", b"--x\r\n\r\n{}"), purpose="batch")
            assert (file.filename, file.bytes, file.status) == ("in.jsonl", 9, "processed")
            assert (await client.files.content(file.id)).content == b"--x\r\n\r\n{}"
            assert (await client.files.delete(file.id)).deleted
            with pytest.raises(openai.NotFoundError):
                await client.files.retrieve(file.id)
            with pytest.raises(openai.BadRequestError):
                await client.files.create(file=("in.jsonl", b""), purpose="fine-tune")
            with pytest.raises(openai.NotFoundError):
                await client.batches.create(input_file_id="file-0", endpoint=ENDPOINT, completion_window="24h")
        status, _, _ = await post(session, {}, "/v1/files")
        assert status == 400

    serving(test)


# --- Anthropic --------------------------------------------------------------------------------------------------------


def requests(*bodies: Any) -> list[Any]:
    return [{"custom_id": f"item-{i}", "params": body} for i, body in enumerate(bodies)]


def test_a_message_batch_from_requests_to_results() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with anthropic_client(server) as client:
            batches = client.messages.batches
            bad = message() | {"max_tokens": 0}
            batch = await batches.create(requests=requests(*(message(f"{i}") for i in range(30)), bad))
            assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 31)
            with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
                await batches.results(batch.id)
            batch, _ = await ended(lambda: batches.retrieve(batch.id))
            assert (batch.request_counts.succeeded, batch.request_counts.errored) == (30, 1)
            results = {row.custom_id: row.result async for row in await batches.results(batch.id)}
            assert results["item-0"].type == "succeeded"
            assert results["item-0"].message.content[0].text
            assert results["item-30"].type == "errored"
            assert results["item-30"].error.error.type == "invalid_request_error"
            assert [each.id async for each in batches.list(limit=1)] == [batch.id]
            assert (await batches.delete(batch.id)).type == "message_batch_deleted"
        assert server.stats()["batch"]["lines"] == {"succeeded": 30, "errored": 1}

    serving(test, batch_seconds=0.3)


def test_results_of_a_message_batch_that_expired_failed_or_was_canceled() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with anthropic_client(server) as client:
            batches = client.messages.batches
            batch = await batches.create(requests=requests(*(message(f"{i}") for i in range(100))))
            await until(lambda: server.stats()["batch"]["lines"].get("succeeded", 0) > 0)
            canceled = await batches.cancel(batch.id)
            assert (canceled.processing_status, bool(canceled.cancel_initiated_at)) == ("canceling", True)
            batch, _ = await ended(lambda: batches.retrieve(batch.id))
            kinds = Counter([row.result.type async for row in await batches.results(batch.id)])
            counts = batch.request_counts
            assert kinds == {
                "succeeded": counts.succeeded,
                "errored": counts.errored,
                "expired": counts.expired,
                "canceled": counts.canceled,
            }
            assert min(kinds.values()) > 0
            with pytest.raises(anthropic.BadRequestError):
                await batches.cancel(batch.id)
            with pytest.raises(anthropic.NotFoundError):
                await batches.retrieve("msgbatch_0")
            with pytest.raises(anthropic.BadRequestError):
                await batches.create(requests=[*requests(message()), *requests(message())])

    serving(test, batch_seconds=1.0, fault=("batch-expired=0.3", "batch-failed=0.3"))


def test_lists_of_message_batches_come_in_pages() -> None:
    async def test(server: MockServer, _: aiohttp.ClientSession) -> None:
        async with anthropic_client(server) as client:
            ids = [(await client.messages.batches.create(requests=requests(message()))).id for _ in range(5)]
            assert [each.id async for each in client.messages.batches.list(limit=2)] == ids[::-1]
            page = await client.messages.batches.list(limit=2, before_id=ids[0])
            assert ([each.id for each in page.data], page.has_more) == ([ids[2], ids[1]], False)

    serving(test, batch_seconds=0)


# --- both -------------------------------------------------------------------------------------------------------------


def test_a_batch_gives_the_verdicts_of_single_calls() -> None:
    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        turns = [{"model": "mock-judge", "messages": pair(BRACKETS, f"one {i}", f"two {i}")} for i in range(20)]
        single = [
            (await post(session, chat(temperature=0) | each))[1]["choices"][0]["message"]["content"] for each in turns
        ]
        async with openai_client(server) as client:
            batch = await submitted(client, rows(*(chat(temperature=0) | each for each in turns)))
            batch, _ = await ended(lambda: client.batches.retrieve(batch.id))
            lines = await lines_of(client, batch.output_file_id)
        assert [lines[f"item-{i}"]["response"]["body"]["choices"][0]["message"]["content"] for i in range(20)] == single
        async with anthropic_client(server) as client:
            sent = await client.messages.batches.create(requests=requests(*(message() | each for each in turns)))
            await ended(lambda: client.messages.batches.retrieve(sent.id))
            found = {row.custom_id: row.result async for row in await client.messages.batches.results(sent.id)}
        assert [found[f"item-{i}"].message.content[0].text for i in range(20)] == single

    serving(test, batch_seconds=0.02, temperature=0)


def test_a_batch_whose_creation_was_reset_exists_all_the_same() -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
    form += (
        b'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + rows(chat()) + b"\r\n--x--\r\n"
    )
    upload = {**KEY, "Content-Type": "multipart/form-data; boundary=x"}

    async def test(server: MockServer, session: aiohttp.ClientSession) -> None:
        async def second(method: str, path: str, **sent: Any) -> Any:
            """The answer to the second attempt; the first is reset (aiohttp itself repeats a GET)."""
            with suppress(aiohttp.ClientError):
                await session.request(method, path, **sent)
            async with session.request(method, path, **sent) as response:
                return await response.json()

        file = (await second("POST", "/v1/files", data=form, headers=upload))["id"]
        wanted = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        with pytest.raises(aiohttp.ClientError):
            await post(session, wanted, "/v1/batches")
        assert len((await second("GET", "/v1/batches", headers=KEY))["data"]) == 1

    serving(test, fault=("reset=first:1",))
