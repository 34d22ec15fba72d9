"""The providers' batch APIs, over HTTP against the mock server: jobs are submitted, waited for, merged; nothing is paid
twice, whatever is lost on the way and whoever goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from rlaif.errors import CallError, CallFailed, CallRefused, ConfigError, OverBudget
from rlaif.ledger import Entry, JobLine, JobRow, Ledger
from rlaif.ledger_tools import Reader
from rlaif.ledger_tools.looking import info
from rlaif.mock import MockOptions, MockServer
from rlaif.mock.answering import key_name
from rlaif.models import Reply, jobs, openai_jobs, request_key
from rlaif.models.api import ApiModel
from rlaif.models.gateway import Gateway, gather_all
from rlaif.models.job_http import JobHttp
from rlaif.models.openai_jobs import OpenAIJobs
from rlaif.models.spending import Price
from tests.mock.serving import until
from tests.models.asking import PROVIDERS, model, request, rooted
from tests.models.test_secrets import HEADER, KEY, MARK, WITH_KEY, nothing_of_it_in, shown

BOTH = pytest.mark.parametrize("provider", PROVIDERS)
PRICE = Price(input=1000.0, output=10_000.0, batch=0.5)
QUICK = {"poll_seconds": 0.05}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv("A_HEADER", HEADER)
    monkeypatch.setattr(jobs, "QUIET_SECONDS", 0.02)


@dataclass
class Desk:
    """A process of its own, as far as the ledger can tell: a gateway with a model."""

    server: MockServer
    provider: str
    options: dict[str, Any] = field(default_factory=dict)
    budget_usd: float | None = None
    run: str = "r"
    path: str = "ledger.sqlite"
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(Path(self.path))
        self.model: ApiModel = model(
            self.provider, **{"base_url": rooted(self.provider, self.server.url), "batch": QUICK, **self.options}
        )
        self.gateway = Gateway(
            self.ledger,
            run=self.run,
            budget_usd=self.budget_usd,
            prices=lambda _: PRICE,
            notice=self.said.append,
            grace_seconds=5,
        )

    async def ask(self, texts: list[str], **fields: Any) -> list[Any]:
        """Each text's reply, or its exception."""
        asked = (self.gateway.ask(self.model, request(text, **fields), {"text": text}) for text in texts)
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [f if isinstance(f, BaseException) else f[1].text for f in found]

    async def leave(self) -> None:
        await self.gateway.close()
        self.ledger.close()

    @property
    def account(self) -> Any:
        return self.gateway.accounts[self.model.identity.name]

    def open_jobs(self) -> list[tuple[Any, ...]]:
        return list(self.ledger._db.execute("SELECT name, lines FROM jobs WHERE ended IS NULL"))


def with_server(test: Callable[[MockServer], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with MockServer(MockOptions(**{"batch_seconds": 0.05, **options})) as server:
            return await asyncio.wait_for(test(server), 60)

    return asyncio.run(run())


def texts(count: int, word: str = "question") -> list[str]:
    return [f"{word} {i}" for i in range(count)]


def lines(server: MockServer) -> dict[str, int]:
    """Lines of jobs that the server saw, by what became of them."""
    found: dict[str, int] = server.stats()["batch"]["lines"]
    return found


HEADERS = {"Authorization": "Bearer k", "x-api-key": "k", "anthropic-version": "2023-06-01"}


async def fetched(server: MockServer, path: str) -> Any:
    """JSON from the server; faults of its own are waited out."""
    async with aiohttp.ClientSession(server.url) as session:
        for _ in range(5):
            with suppress(aiohttp.ClientError, ValueError):
                async with session.get(path, headers=HEADERS) as answer:
                    if answer.status == 200:
                        return await answer.json(content_type=None)
    raise AssertionError(path)


async def jobs_at(server: MockServer) -> int:
    """Jobs that the server was given."""
    paths = ("/v1/batches?limit=100", "/v1/messages/batches?limit=100")
    pages = [await fetched(server, path) for path in paths]
    return sum(len(page["data"]) for page in pages)


async def forget(server: MockServer) -> None:
    """The server loses all jobs and counts."""
    async with aiohttp.ClientSession(server.url) as session, session.post("/_mock/reset") as answer:
        assert answer.status == 200


def paid_once(server: MockServer, count: int) -> None:
    stats = server.stats()
    assert (lines(server).get("succeeded"), stats["batch"]["repeats"], stats["answered"]) == (count, 0, 0)


# --- replies ----------------------------------------------------------------------------------------------------------


@BOTH
def test_replies_are_those_of_calls_and_of_one_identity(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        by_jobs = await desk.ask(texts(30))
        await desk.leave()
        paid_once(server, 30)
        assert "30 by batch jobs" in str(desk.account)
        other = Desk(server, provider, {"batch": False}, path="another.sqlite")
        assert await other.ask(texts(30)) == by_jobs
        await other.leave()
        assert server.stats()["answered"] == 30
        assert other.model.identity == desk.model.identity

    with_server(test, temperature=0)


@BOTH
def test_what_is_asked_twice_is_in_one_job_once_and_later_in_none(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        found = await desk.ask(texts(10) * 3)
        assert found == found[:10] * 3
        assert await desk.ask(texts(10)) == found[:10]
        await desk.leave()
        paid_once(server, 10)
        assert (await jobs_at(server), desk.account.asked, desk.account.from_ledger) == (1, 10, 30)

    with_server(test)


@BOTH
def test_a_job_has_no_more_lines_than_it_may_and_they_run_side_by_side(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider, {"batch": {**QUICK, "lines": 10}})
        task = asyncio.create_task(desk.ask(texts(25)))
        await until(lambda: len(desk.open_jobs()) == 3)
        await until(lambda: all(name for name, _ in desk.open_jobs()))
        assert sorted(count for _, count in desk.open_jobs()) == [5, 10, 10]
        assert "of 10 done, submitted 0 s ago" in desk.gateway.standing()
        assert all(isinstance(reply, str) for reply in await task)
        await desk.leave()
        assert await jobs_at(server) == 3
        paid_once(server, 25)

    with_server(test, batch_seconds=1.0)


@BOTH
def test_a_job_is_no_larger_than_it_may_be(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        monkeypatch.setattr(type(desk.model.jobs()), "most_bytes", 2000)
        await desk.ask(texts(25))
        await desk.leave()
        paid_once(server, 25)
        assert await jobs_at(server) > 2
        seen = await fetched(server, "/_mock/requests")
        sizes = [int(each["headers"].get("content-length", 0)) for each in seen if each["method"] == "POST"]
        assert 1500 < max(sizes) < 2000 + (500 if provider == "openai" else 0)  # what a form adds

    with_server(test)


@BOTH
def test_a_refused_line_is_a_refusal(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        assert [type(error) for error in await desk.ask(texts(3))] == [CallRefused] * 3
        await desk.leave()
        paid_once(server, 3)
        assert desk.gateway.purse.spent_usd > 0

    with_server(test, fault=("content-filter=1",))


@BOTH
def test_what_cannot_be_asked_is_in_no_job(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        (error,) = await desk.ask(["x"], prefill="I ")
        assert "prefill" in str(error)
        await desk.leave()
        assert await jobs_at(server) == 0

    with_server(test)


# --- lines that fail --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("fault", ["batch-failed", "batch-expired"])
def test_lines_that_fail_or_expire_go_into_the_next_job_and_cost_nothing(provider: str, fault: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await desk.ask(texts(20)))
        await desk.leave()
        assert lines(server) == {"succeeded": 20, {"batch-failed": "errored", "batch-expired": "expired"}[fault]: 20}
        assert desk.account.faults == {"overloaded": 20}
        tokens = server.stats()["batch"]["tokens"]
        usd = (tokens["prompt"] * 1000 + tokens["completion"] * 10_000) / 1e6
        assert desk.gateway.purse.spent_usd == pytest.approx(usd / 2)  # the discount
        assert Ledger(Path("ledger.sqlite")).open_purse("r") == pytest.approx(usd / 2)

    with_server(test, fault=(f"{fault}=first:1",))


@BOTH
def test_some_lines_fail_and_all_end_with_an_outcome(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider, {"attempts": 2})
        found = await desk.ask(texts(100))
        await desk.leave()
        failed = [error for error in found if not isinstance(error, str)]
        assert 0 < len(failed) < 60
        assert {type(error) for error in failed} == {CallFailed}
        assert all(error.retryable and str(error).endswith("(in 2 jobs)") for error in failed)
        assert len(Ledger(Path("ledger.sqlite"))) == 100 - len(failed)
        paid_once(server, 100 - len(failed))

    with_server(test, fault=("batch-failed=0.3", "batch-expired=0.2"))


@BOTH
def test_a_request_that_the_provider_refuses_fails_and_is_not_sent_again(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider, {"extra_body": {"nonsense": 1}})
        (error,) = await desk.ask(["x"])
        assert (error.fault, error.retryable) == ("invalid", False)
        assert "nonsense" in str(error)
        await desk.leave()
        assert lines(server) == {"errored": 1}

    with_server(test)


def broken(every: int, times: int = 100) -> Any:
    """``JobHttp.lines`` with each ``every``-th line cut in half, in the first ``times`` downloads."""
    whole, seen = JobHttp.lines, {"downloads": 0}

    async def cut(self: JobHttp, path: str) -> AsyncIterator[bytes | None]:
        seen["downloads"] += 1
        number = 0
        async for line in whole(self, path):
            number += 1
            half = seen["downloads"] <= times and number % every == 0 and line
            yield line[: len(line) // 2] if half else line

    return cut


@BOTH
def test_lines_that_cannot_be_read_are_lost_alone_and_count_in_full(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobHttp, "lines", broken(10))

    async def test(server: MockServer) -> None:
        desk = Desk(server, provider, {"attempts": 1})
        found = await desk.ask(texts(30))
        lost = [error for error in found if not isinstance(error, str)]
        assert [(error.fault, str(error)) for error in lost] == [
            ("garbled", "the job's results say nothing of it"),
        ] * 3
        assert desk.account.maybe_billed == 3
        prompt, output = desk.model.upper_bound(request("question 10"))
        tokens = server.stats()["batch"]["tokens"]
        assert desk.gateway.purse.spent_usd > 3 * PRICE.most(prompt - 1, output, batch=True)
        assert desk.gateway.purse.spent_usd < 3 * PRICE.most(prompt, output, batch=True) + tokens["completion"] * 0.01
        await desk.leave()
        assert desk.gateway.purse.in_jobs_usd == 0

    with_server(test)


@BOTH
def test_results_that_arrive_broken_are_fetched_again(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobHttp, "lines", broken(2, times=1))

    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await desk.ask(texts(30)))
        await desk.leave()
        paid_once(server, 30)

    with_server(test)


@BOTH
def test_a_reply_larger_than_any_is_lost_alone(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider, {"attempts": 1})
        (error,) = await desk.ask(["x"])
        assert error.fault == "garbled"
        await desk.leave()

    with_server(test, fault=("huge=1",))


# --- jobs that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429", "503", "reset", "reset-mid", "html", "truncated"])
@BOTH
def test_whatever_is_lost_on_the_way_no_job_is_submitted_twice(provider: str, fault: str) -> None:
    """The first attempt of every request about files and jobs comes to nothing, that which makes the job included."""

    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await desk.ask(texts(12)))
        await desk.leave()
        paid_once(server, 12)
        assert await jobs_at(server) == 1
        assert desk.account.faults

    with_server(test, fault=(f"{fault}=first:1",), retry_after=0.1)


def test_a_file_that_the_provider_cannot_take_fails_its_requests_with_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OpenAIJobs, "line", lambda self, key, body: b"{")

    async def test(server: MockServer) -> None:
        desk = Desk(server, "openai")
        found = await desk.ask(texts(2))
        await desk.leave()
        for error in found:
            assert error.retryable
            assert "the provider refused it: line 1: invalid_json_line: This line is not parseable" in str(error)
        assert desk.gateway.purse.spent_usd == 0
        assert not Ledger(Path("ledger.sqlite")).in_jobs(keys(desk, texts(2)))

    with_server(test)


def keys(desk: Desk, asked: list[str]) -> list[str]:
    return [request_key(request(text), desk.model.identity) for text in asked]


def test_a_job_that_is_refused_at_once_fails_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_jobs, "WINDOW", "1h")

    async def test(server: MockServer) -> None:
        desk = Desk(server, "openai")
        (error,) = await desk.ask(["x"])
        assert "job 1: HTTP 400: Invalid value for 'completion_window'" in str(error)
        assert not desk.open_jobs()
        await desk.leave()

    with_server(test)


@BOTH
def test_with_a_key_that_is_refused_the_requests_fail_and_say_why(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        (error,) = await desk.ask(["x"])
        assert (error.fault, error.retryable) == ("barred", True)
        assert "HTTP 401" in str(error)
        await desk.leave()

    with_server(test, key_expires_after=0)


@BOTH
def test_a_job_that_the_provider_no_longer_knows_counts_in_full_and_may_be_asked_anew(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        task = asyncio.create_task(desk.ask(texts(3)))
        await until(lambda: any(name for name, _ in desk.open_jobs()))
        most = desk.gateway.purse.in_jobs_usd
        await forget(server)
        for error in await task:
            assert error.retryable
            assert "the provider does not know it" in str(error)
        assert desk.gateway.purse.spent_usd == pytest.approx(most)
        assert all(isinstance(reply, str) for reply in await desk.ask(texts(3)))
        await desk.leave()

    with_server(test, batch_seconds=1.0)


def test_a_server_without_a_batch_api_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, "openai", {"base_url": f"{server.url}/elsewhere"})
        (error,) = await desk.ask(["x"])
        assert "HTTP 404" in str(error)
        assert f"(at {server.url}/elsewhere/files)" in str(error)
        await desk.leave()

    with_server(test)


# --- going on ---------------------------------------------------------------------------------------------------------


async def submitted(desk: Desk, asked: list[str]) -> None:
    """Ask, and leave once the job is known to be the provider's."""
    task = asyncio.create_task(desk.ask(asked))
    await until(lambda: any(name for name, _ in desk.open_jobs()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@BOTH
def test_who_leaves_says_which_jobs_go_on_and_the_next_fetches_them(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        await submitted(first, texts(20))
        held = first.gateway.purse.held_usd
        ((name, _),) = first.open_jobs()
        await first.leave()
        identity = first.model.identity.name
        assert f"{identity}: 20 requests go on at the provider, in {name}: the same command fetches" in first.said[-1]
        second = Desk(server, provider)
        assert second.gateway.purse.held_usd == pytest.approx(held)
        found = await second.ask(texts(25))
        assert all(isinstance(reply, str) for reply in found)
        assert f"job 1 ({name}), submitted 0 s ago: 20 requests are in it and are waited for" in second.said[0]
        assert (second.account.asked, second.account.fetched) == (5, 20)
        assert second.gateway.purse.in_jobs_usd == 0
        await second.leave()
        assert await jobs_at(server) == 2
        paid_once(server, 25)

    with_server(test, batch_seconds=0.5)


def test_an_open_job_is_seen_in_the_ledger() -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, "openai")
        await submitted(desk, texts(20))
        ((name, _),) = desk.open_jobs()
        await desk.leave()
        with Reader(Path("ledger.sqlite")) as reader:
            (job,) = info(reader).jobs
            assert (job.name, job.lines, job.left) == (name, 20, 20)
            said = "\n".join(info(reader).lines())
        assert f"job {name}, at {server.url.partition('//')[2]}: 20 of 20 requests unanswered, submitted 20" in said
        again = Desk(server, "openai")
        await again.ask(texts(20))
        await again.leave()
        with Reader(Path("ledger.sqlite")) as reader:
            assert info(reader).jobs == []

    with_server(test, batch_seconds=0.2)


def test_what_a_job_brings_a_second_time_is_money_without_a_reply() -> None:
    """Asked by a process that did not know of the job: both were paid, and one reply is kept."""
    ledger = Ledger(Path("ledger.sqlite"))
    ledger.open_purse("r")
    row = JobRow("j", "m", "here", 2, 1.0, "r")
    ledger.open_job(row, [JobLine(key * 64, "{}", "", 1.0) for key in "ab"])
    ledger.put([Entry("a" * 64, "m", Reply(text="first"), cost_usd=0.5, run="r")])
    entries = [Entry(key * 64, "m", Reply(text="second"), cost_usd=0.25, run="r") for key in "ab"]
    assert [entry.reply.text for entry in ledger.merge(row, entries, [], 0.0)] == ["first", "second"]
    spent = ledger._db.execute("SELECT spent_usd, lost_usd FROM purses WHERE run = 'r'").fetchone()
    assert spent == (0.75, 0.25)
    assert ledger.job_keys("j") == []


@BOTH
def test_another_run_on_the_ledger_fetches_a_job_and_who_submitted_it_pays(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        await submitted(first, texts(20))
        await first.leave()
        second = Desk(server, provider, run="another")
        assert all(isinstance(reply, str) for reply in await second.ask(texts(5)))  # five of the twenty
        assert second.gateway.purse.spent_usd == 0
        assert len(second.ledger) == 20
        assert second.ledger.open_purse("r") > 0
        await second.leave()
        paid_once(server, 20)

    with_server(test, batch_seconds=0.3)


@BOTH
def test_who_does_not_ask_for_jobs_waits_for_those_that_are_open_all_the_same(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        await submitted(first, texts(6))
        await first.leave()
        await until(lambda: lines(server) == {"succeeded": 6})
        await asyncio.sleep(0.1)
        second = Desk(server, provider, {"batch": False})
        assert all(isinstance(reply, str) for reply in await second.ask(texts(8)))
        await second.leave()
        assert (lines(server), server.stats()["answered"]) == ({"succeeded": 6}, 2)

    with_server(test, batch_seconds=0.1)


@BOTH
def test_two_processes_at_once_wait_for_one_job(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first, second = Desk(server, provider), Desk(server, provider)
        task = asyncio.create_task(first.ask(texts(15)))
        await until(lambda: any(name for name, _ in first.open_jobs()))
        found = await second.ask(texts(15))
        assert found == await task
        await first.leave()
        await second.leave()
        paid_once(server, 15)
        assert (second.account.asked, second.account.from_ledger) == (0, 15)

    with_server(test, batch_seconds=0.3)


@BOTH
def test_what_a_process_leaves_another_one_that_waits_takes_over(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first, second = Desk(server, provider), Desk(server, provider)
        await submitted(first, texts(15))
        task = asyncio.create_task(second.ask(texts(15)))
        await asyncio.sleep(0.1)
        await first.leave()
        assert all(isinstance(reply, str) for reply in await task)
        await second.leave()
        paid_once(server, 15)
        assert second.account.fetched == 15

    with_server(test, batch_seconds=1.0)


def unheard(desk: Desk) -> None:
    """As if the process had been killed after the provider took the job and before it heard its name."""
    desk.ledger._db.execute("UPDATE jobs SET name = NULL")


@BOTH
def test_a_job_whose_name_was_never_heard_is_found(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        await submitted(first, texts(20))
        unheard(first)
        await first.leave()
        second = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await second.ask(texts(20)))
        await second.leave()
        assert await jobs_at(server) == 1
        paid_once(server, 20)

    with_server(test, batch_seconds=0.3)


@BOTH
def test_jobs_that_only_look_like_it_are_not_taken_for_it(provider: str) -> None:
    """Jobs of another ledger, with as many requests, before and after it."""

    async def test(server: MockServer) -> None:
        await elsewhere(server, provider, "before")
        first = Desk(server, provider)
        await submitted(first, texts(20))
        unheard(first)
        await first.leave()
        await elsewhere(server, provider, "after")
        second = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await second.ask(texts(20)))
        await second.leave()
        assert await jobs_at(server) == 3
        paid_once(server, 60)

    with_server(test, batch_seconds=0.1)


async def elsewhere(server: MockServer, provider: str, word: str) -> None:
    """A job of twenty requests of somebody else's."""
    other = Desk(server, provider, path="another.sqlite")
    await other.ask(texts(20, word))
    await other.leave()


@BOTH
def test_a_job_that_never_reached_the_provider_is_submitted_again(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        await submitted(first, texts(20))
        unheard(first)
        await first.leave()
        await forget(server)  # the provider knows of nothing
        second = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await second.ask(texts(20)))
        assert not second.open_jobs()
        await second.leave()
        assert await jobs_at(server) == 1

    with_server(test)


@BOTH
def test_the_list_of_jobs_is_read_to_where_it_gets_older(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More jobs than a page holds were submitted since."""

    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        await submitted(first, texts(3))
        unheard(first)
        await first.leave()
        async with aiohttp.ClientSession(server.url) as session:
            for i in range(110):
                await decoy(session, provider, i)
        second = Desk(server, provider)
        assert all(isinstance(reply, str) for reply in await second.ask(texts(3)))
        await second.leave()
        assert server.stats()["batch"]["repeats"] == 0
        assert lines(server) == {"succeeded": 113}

    with_server(test)


async def decoy(session: aiohttp.ClientSession, provider: str, number: int) -> None:
    """A job of one line."""
    body = {"model": "mock-policy", "max_tokens": 5, "messages": [{"role": "user", "content": f"decoy {number}"}]}
    if provider == "anthropic":
        sent = {"requests": [{"custom_id": "x", "params": body}]}
        async with session.post("/v1/messages/batches", json=sent, headers=HEADERS) as answer:
            assert answer.status == 200
        return
    form = aiohttp.FormData({"purpose": "batch"})
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": body}
    form.add_field("file", orjson.dumps(line), filename="x.jsonl")
    async with session.post("/v1/files", data=form, headers=HEADERS) as answer:
        file = (await answer.json())["id"]
    wanted = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with session.post("/v1/batches", json=wanted, headers=HEADERS) as answer:
        assert answer.status == 200


# --- the whole input --------------------------------------------------------------------------------------------------


async def walked(desk: Desk, count: int, size: int = 7) -> list[list[str]]:
    """Batches of input, each item asked about and then asked about its reply."""

    async def batches() -> AsyncIterator[list[str]]:
        for start in range(0, count, size):
            yield texts(count)[start : start + size]

    async def one(text: str) -> str:
        try:
            _, first = await desk.gateway.ask(desk.model, request(text), {})
            _, second = await desk.gateway.ask(desk.model, request(f"{text}: {first.text}"), {})
        except CallError as error:
            return error.outcome
        return f"{text}: {second.text}"

    async def work(batch: list[str]) -> list[str]:
        return await gather_all(one(text) for text in batch)

    return [found async for found in desk.gateway.in_order([desk.model], batches(), work)]


@BOTH
def test_all_of_the_input_is_in_one_job_and_what_follows_from_it_in_the_next(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        found = await walked(desk, 40)
        await desk.leave()
        plain = Desk(server, provider, {"batch": False}, path="another.sqlite")
        assert await walked(plain, 40) == found
        await plain.leave()
        assert await jobs_at(server) == 2
        assert [len(batch) for batch in found] == [7] * 5 + [5]
        assert [text.partition(":")[0] for batch in found for text in batch] == texts(40)
        assert (lines(server), server.stats()["answered"]) == ({"succeeded": 80}, 80)
        assert (desk.account.asked, desk.account.from_ledger, desk.account.failed) == (80, 0, 0)

    with_server(test, temperature=0)


@BOTH
def test_lines_that_fail_go_into_one_more_job_for_all_of_the_input(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        found = await walked(desk, 40)
        await desk.leave()
        assert all(text.startswith("question") for batch in found for text in batch)
        assert await jobs_at(server) == 4
        assert lines(server) == {"succeeded": 80, "expired": 80}
        assert (desk.account.asked, desk.account.failed) == (80, 0)

    with_server(test, fault=("batch-expired=first:1",))


@BOTH
def test_lines_that_fail_in_each_job_fail_their_items(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider, {"attempts": 2})
        assert await walked(desk, 10) == [["failed"] * 7, ["failed"] * 3]
        await desk.leave()
        assert lines(server) == {"errored": 20}
        assert (desk.account.asked, desk.account.failed) == (10, 10)

    with_server(test, fault=("batch-failed=1",))


@BOTH
def test_what_the_budget_has_no_room_for_is_over_budget(provider: str) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        prompt, output = desk.model.upper_bound(request("question 0"))
        await desk.leave()
        budget = 6.5 * PRICE.most(prompt, output, batch=True)
        desk = Desk(server, provider, budget_usd=budget)
        found = [text for batch in await walked(desk, 40) for text in batch]
        await desk.leave()
        assert found.count("over budget") > 5
        assert 0 < desk.gateway.purse.spent_usd <= budget
        assert desk.gateway.purse.in_jobs_usd == 0

    with_server(test)


@BOTH
def test_a_job_that_fails_fails_the_items_and_is_not_tried_for_ever(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        monkeypatch.setattr(type(desk.model.jobs()), "line", lambda self, key, body: b"{")
        assert await walked(desk, 10) == [["failed"] * 7, ["failed"] * 3]
        await desk.leave()
        assert await jobs_at(server) == (1 if provider == "openai" else 0)

    with_server(test)


@BOTH
def test_who_was_stopped_half_way_goes_on_with_the_jobs(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider)
        task = asyncio.create_task(walked(first, 40))
        await until(lambda: any(name for name, _ in first.open_jobs()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await first.leave()
        second = Desk(server, provider)
        found = await walked(second, 40)
        await second.leave()
        assert all(text.startswith("question") for batch in found for text in batch)
        assert (second.account.asked, second.account.fetched) == (40, 40)
        paid_once(server, 80)

    with_server(test, batch_seconds=0.3)


# --- money ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_budget_is_never_exceeded_and_used_as_far_as_it_reaches(provider: str) -> None:
    """What a job leaves of what was set aside for it serves the next one."""

    async def test(server: MockServer) -> None:
        desk = Desk(server, provider)
        prompt, output = desk.model.upper_bound(request("question 0"))
        most = PRICE.most(prompt, output, batch=True)
        await desk.leave()
        desk = Desk(server, provider, budget_usd=4.5 * most)
        found = await desk.ask(texts(40))
        await desk.leave()
        made = sum(isinstance(reply, str) for reply in found)
        assert 4 < made < 40
        assert lines(server) == {"succeeded": made}
        assert {type(error) for error in found if not isinstance(error, str)} == {OverBudget}
        assert all(error.retryable for error in found if not isinstance(error, str))
        spent = desk.gateway.purse.spent_usd
        assert 4.5 * most - most - 1e-3 < spent < 4.5 * most
        assert await jobs_at(server) > 1

    with_server(test)


@BOTH
def test_a_budget_holds_while_a_job_of_an_earlier_process_is_open(provider: str) -> None:
    async def test(server: MockServer) -> None:
        first = Desk(server, provider, budget_usd=1e9)
        await submitted(first, texts(10))
        held = first.gateway.purse.held_usd
        await first.leave()
        second = Desk(server, provider, budget_usd=held)
        task = asyncio.create_task(second.ask([*texts(10), "one more"]))
        await asyncio.sleep(0.2)
        assert await jobs_at(server) == 1
        assert all(isinstance(reply, str) for reply in await task)  # the job cost less than was set aside
        await second.leave()
        assert second.gateway.purse.spent_usd < held

    with_server(test, batch_seconds=0.6)


# --- words and options ------------------------------------------------------------------------------------------------


@BOTH
def test_no_failure_of_a_job_shows_a_key(provider: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: MockServer) -> None:
        for fault in ("unreachable", "barred"):
            url = {"base_url": rooted(provider, "http://127.0.0.1:9")} if fault == "unreachable" else {}
            desk = Desk(server, provider, {"patience_seconds": 0.2, **WITH_KEY, **url}, path=f"{fault}.sqlite")
            (error,) = await desk.ask(["x"])
            await desk.leave()
            assert error.fault == fault
            nothing_of_it_in(error, desk.model)
            assert MARK not in shown(error, local=False) + "".join(desk.said) + repr(desk.model.jobs())

    with_server(test, key_expires_after=0)
    assert MARK not in caplog.text
    assert all(MARK.encode() not in path.read_bytes() for path in Path().glob("*.sqlite*"))


def test_every_request_about_jobs_carries_the_key_and_the_headers_of_calls() -> None:
    async def test(server: MockServer) -> None:
        desk = Desk(server, "anthropic", WITH_KEY)
        await desk.ask(["x"])
        await desk.leave()
        assert set(server.stats()["by_key"]) == {key_name(KEY)}
        seen = await fetched(server, "/_mock/requests")
        assert {each["headers"].get("anthropic-version") for each in seen} == {"2023-06-01"}

    with_server(test)


def test_batch_is_an_option_that_changes_no_reply() -> None:
    plain, quick = (
        model("openai", api_key_env="", batch=True),
        model("openai", api_key_env="", batch={"poll_seconds": 3, "lines": 7}),
    )
    assert plain.options.batch.poll_seconds == 15
    assert (quick.options.batch.poll_seconds, quick.options.batch.lines) == (3, 7)
    assert model("openai", api_key_env="", batch=False).options.batch is None
    assert plain.identity == quick.identity == model("openai", api_key_env="").identity


@pytest.mark.parametrize("batch", [{"lines": 0}, {"poll_seconds": 0}, {"pol_seconds": 3}, "yes"])
def test_impossible_settings_are_refused(batch: Any) -> None:
    with pytest.raises(ConfigError, match="batch"):
        model("openai", api_key_env="", batch=batch)
