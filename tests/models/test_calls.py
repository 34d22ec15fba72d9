"""Calls to a model behind an API: tried again, slowed, paused, paid for, kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import CallFailed, CallRefused, OverBudget, StorageError
from rlaif.ledger import JobLine, JobRow, Ledger
from rlaif.models import Answer, ChatRequest, Identity, Reply, request_key
from rlaif.models.gateway import BEGUN_AT_ONCE, Gateway
from rlaif.models.pacing import Pace
from rlaif.models.spending import Price, Purse
from tests import make

PRICE = Price(input=1.0, output=10.0)  # of the service below: a call costs 100 x 1 + 10 x 10 millionths of a dollar
COST = 200e-6
MOST = 500e-6


def failed(fault: Any, *, retryable: bool = True, retry_after: float | None = 0.0) -> CallFailed:
    return CallFailed(str(fault), retryable=retryable, fault=fault, retry_after=retry_after)


@dataclass
class Endpoint:
    """A route whose answers a test writes: called with the text and how often it was asked before."""

    answer: Callable[[str, int], Any]
    name: str = "here"
    weight: float = 1.0
    seconds: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most: int = 0

    async def complete(self, request: ChatRequest, timeout_seconds: float) -> Answer:
        text = request.messages[0].content
        self.asked[text] += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            found = self.answer(text, self.asked[text] - 1)
        finally:
            self.in_flight -= 1
        if isinstance(found, BaseException):
            raise found
        self.answered[text] += 1
        return Answer(Reply(text=found, prompt_tokens=100, output_tokens=10))


class Service:
    """A model behind an API with these endpoints."""

    identity = Identity("service", None, (("endpoint", "test"),))

    def __init__(self, *routes: Endpoint, pace: Pace | None = None) -> None:
        self.routes = routes
        self.pace = pace or Pace()

    def upper_bound(self, request: ChatRequest) -> tuple[int, int]:
        return 300, 20


def always(text: str, before: int) -> Any:
    return text.upper()


def fails_first(times: int, error: CallFailed) -> Callable[[str, int], Any]:
    return lambda text, before: error if before < times else text.upper()


@pytest.fixture
def path(working_folder: Path) -> Path:
    return working_folder / "ledger.sqlite"


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


def ask_all(gateway: Gateway, model: Any, texts: list[str]) -> list[Any]:
    """Each text's reply, or its exception."""

    async def work() -> list[Any]:
        asked = (gateway.ask(model, ChatRequest(messages=(make.user(text),)), {}) for text in texts)
        found = await asyncio.gather(*asked, return_exceptions=True)
        await gateway.close()
        return [f if isinstance(f, BaseException) else f[1].text for f in found]

    return list(run(work))


def numbered(count: int) -> list[str]:
    return [f"q{i}" for i in range(count)]


# --- trying again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["rate_limited", "overloaded", "unreachable", "lost", "garbled"])
def test_what_may_help_is_tried_again(path: Path, fault: str) -> None:
    endpoint = Endpoint(fails_first(2, failed(fault)))
    gateway = Gateway(Ledger(path))
    assert ask_all(gateway, Service(endpoint), ["a", "b"]) == ["A", "B"]
    assert endpoint.asked == {"a": 3, "b": 3}
    account = gateway.accounts["service"]
    assert (account.asked, account.failed, account.faults) == (2, 0, {fault: 4})


def test_what_cannot_help_is_not_tried_again(path: Path) -> None:
    endpoint = Endpoint(lambda text, before: failed("invalid", retryable=False) if text == "bad" else text.upper())
    (bad, good) = ask_all(Gateway(Ledger(path)), Service(endpoint), ["bad", "good"])
    assert (str(bad), bad.retryable, good) == ("invalid", False, "GOOD")
    assert endpoint.asked == {"bad": 1, "good": 1}


def test_a_call_that_fails_each_time_fails_alone_and_says_how_often_it_was_tried(path: Path) -> None:
    endpoint = Endpoint(lambda text, before: failed("garbled") if text == "bad" else text.upper())
    gateway = Gateway(Ledger(path))
    found = ask_all(gateway, Service(endpoint, pace=Pace(attempts=3)), ["bad", *numbered(40)])
    assert str(found[0]) == "garbled (tried 3 times)"
    assert found[0].retryable
    assert found[1:] == [text.upper() for text in numbered(40)]
    assert gateway.accounts["service"].failed == 1


def test_refusals_for_the_rate_do_not_use_up_attempts(path: Path) -> None:
    endpoint = Endpoint(fails_first(9, failed("rate_limited")))
    assert ask_all(Gateway(Ledger(path)), Service(endpoint, pace=Pace(attempts=2)), ["a"]) == ["A"]


def test_a_call_waits_as_long_as_the_provider_asks_and_holds_no_other_up(path: Path) -> None:
    endpoint = Endpoint(lambda t, before: failed("rate_limited", retry_after=0.4) if (t, before) == ("a", 0) else t)
    order: list[str] = []

    async def work() -> None:
        gateway, service = Gateway(Ledger(path)), Service(endpoint, pace=Pace(max_in_flight=1))

        async def ask(text: str) -> None:
            await gateway.ask(service, ChatRequest(messages=(make.user(text),)), {})
            order.append(text)

        start = asyncio.get_running_loop().time()
        await asyncio.gather(*map(ask, ["a", "b", "c"]))
        assert asyncio.get_running_loop().time() - start >= 0.4
        await gateway.close()

    run(work)
    assert order == ["b", "c", "a"]


def test_a_simple_class_of_ones_own_is_tried_again_too(path: Path) -> None:
    class Own:
        identity = Identity("own", None, ())
        asked = 0

        async def complete(self, request: ChatRequest) -> Reply:
            self.asked += 1
            if self.asked == 1:
                raise CallFailed("once", retryable=True)
            return Reply(text="yes")

    assert ask_all(Gateway(Ledger(path)), Own(), ["a"]) == ["yes"]


def test_a_call_that_hangs_is_lost_after_its_time(path: Path) -> None:
    class Hangs:
        identity = Identity("hangs", None, ())
        pace = Pace(timeout_seconds=0.05, attempts=1)

        async def complete(self, request: ChatRequest) -> Reply:
            await asyncio.sleep(60)
            raise AssertionError

    (error,) = ask_all(Gateway(Ledger(path)), Hangs(), ["a"])
    assert (error.fault, error.retryable, str(error)) == ("lost", True, "no answer within 0.05 s")


def test_a_bug_of_a_provider_reaches_its_caller_and_no_other_waits_for_ever(path: Path) -> None:
    endpoint = Endpoint(lambda text, before: ZeroDivisionError("oh") if text == "bad" else text)
    found = ask_all(Gateway(Ledger(path)), Service(endpoint, pace=Pace(max_in_flight=1)), ["a", "bad", "b"])
    assert (found[0], found[2]) == ("a", "b")
    assert "ZeroDivisionError: oh" in str(found[1])


# --- many at once -----------------------------------------------------------------------------------------------------


def test_no_more_than_allowed_are_in_flight_and_all_are_answered(path: Path) -> None:
    endpoint = Endpoint(always, seconds=0.002)
    texts = numbered(500)
    gateway = Gateway(Ledger(path))
    assert ask_all(gateway, Service(endpoint, pace=Pace(max_in_flight=32)), texts) == [t.upper() for t in texts]
    assert endpoint.most == 32
    assert gateway.accounts["service"].most_in_flight == 32
    assert set(endpoint.asked.values()) == {1}


def test_a_stage_begins_requests_as_calls_before_them_are_made(path: Path) -> None:
    service = Service(Endpoint(always, seconds=0.002), pace=Pace(max_in_flight=8))
    texts = numbered(400)
    open_now = most = 0

    async def one(gateway: Gateway, text: str) -> str:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        _, reply = await gateway.ask(service, ChatRequest(messages=(make.user(text),)), {})
        open_now -= 1
        return reply.text

    async def work() -> tuple[list[str], ...]:
        gateway = Gateway(Ledger(path))
        both = (gateway.gather([service], (one(gateway, text) for text in half)) for half in (texts[:300], texts[300:]))
        asked = await asyncio.gather(*both)
        kept = await gateway.gather(
            [service], (one(gateway, text) for text in texts)
        )  # from the ledger: none is called
        await gateway.close()
        return (*asked, kept)

    first, second, kept = run(work)
    assert first + second == kept == [text.upper() for text in texts]
    assert service.routes[0].asked.total() == len(texts)
    assert most <= 8 + 8 + 2 * BEGUN_AT_ONCE  # in flight, waiting, and begun since room was found


def test_a_stage_ends_at_its_first_bug_while_it_still_begins_requests(path: Path) -> None:
    service = Service(Endpoint(always, seconds=0.001), pace=Pace(max_in_flight=8))

    async def one(gateway: Gateway, text: str) -> None:
        await gateway.ask(service, ChatRequest(messages=(make.user(text),)), {})
        raise ZeroDivisionError(text)

    async def work() -> None:
        gateway = Gateway(Ledger(path))
        try:
            await gateway.gather([service], (one(gateway, text) for text in numbered(1000)))
        finally:
            await gateway.close()

    with pytest.raises(ZeroDivisionError):
        run(work)
    assert service.routes[0].asked.total() < 50


def test_several_endpoints_share_the_load_by_weight(path: Path) -> None:
    one, two = Endpoint(always, "one", 3.0, 0.005), Endpoint(always, "two", 1.0, 0.005)
    ask_all(Gateway(Ledger(path)), Service(one, two, pace=Pace(max_in_flight=40)), numbered(800))
    assert (one.most, two.most) == (30, 10)
    assert one.asked.total() + two.asked.total() == 800
    assert 500 < one.asked.total() < 700


def test_a_few_calls_go_to_the_endpoints_in_turn(path: Path) -> None:
    one, two = Endpoint(always, "one", seconds=0.01), Endpoint(always, "two", seconds=0.01)
    ask_all(Gateway(Ledger(path)), Service(one, two), numbered(6))
    assert (one.asked.total(), two.asked.total()) == (3, 3)


def test_a_barred_key_ends_its_endpoint_and_the_other_takes_its_calls(path: Path) -> None:
    barred = Endpoint(lambda text, before: failed("barred", retryable=False), "barred", seconds=0.001)
    good = Endpoint(always, "good", seconds=0.001)
    texts = numbered(300)
    assert ask_all(Gateway(Ledger(path)), Service(barred, good), texts) == [text.upper() for text in texts]
    assert barred.asked.total() <= 16


def test_with_no_key_left_every_call_fails_at_once_and_can_be_made_later(path: Path) -> None:
    endpoint = Endpoint(lambda text, before: failed("barred", retryable=False), seconds=0.001)
    found = ask_all(Gateway(Ledger(path)), Service(endpoint), numbered(300))
    assert {(str(error), error.retryable) for error in found} == {("here: barred", True)}
    assert endpoint.asked.total() <= 16
    assert ask_all(Gateway(Ledger(path)), Service(Endpoint(always)), ["q7"]) == ["Q7"]


# --- outages ----------------------------------------------------------------------------------------------------------


def test_an_outage_pauses_all_calls_and_none_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.models.pacing.LONG_PAUSE", 1.0)
    ended, said = False, []
    outage = Endpoint(lambda text, before: text.upper() if ended else failed("unreachable"), seconds=0.001)

    async def work() -> list[str]:
        nonlocal ended
        gateway, service = Gateway(Ledger(path), notice=said.append), Service(outage, pace=Pace(attempts=2))
        asked = [
            asyncio.create_task(gateway.ask(service, ChatRequest(messages=(make.user(text),)), {}))
            for text in numbered(100)
        ]
        await asyncio.sleep(1.2)
        assert "paused" in gateway.standing()
        during = outage.asked.total()
        ended = True
        found = [reply.text for _, reply in await asyncio.gather(*asked)]
        await gateway.close()
        assert during < 60  # not each call again and again
        return found

    assert run(work) == [text.upper() for text in numbered(100)]
    assert said == ["here does not answer (unreachable): calls wait for it, 600 s at most.", "here answers again."]


def test_who_never_answers_is_given_up_and_the_calls_can_be_made_later(path: Path) -> None:
    gone = Endpoint(lambda text, before: failed("overloaded"), seconds=0.001)
    found = ask_all(Gateway(Ledger(path)), Service(gone, pace=Pace(patience_seconds=0.3)), numbered(50))
    assert all(isinstance(error, CallFailed) and error.retryable for error in found)
    assert Counter(map(str, found)).most_common(1)[0][0].startswith(("here: no answer for 0.3 s", "overloaded"))
    assert ask_all(Gateway(Ledger(path)), Service(Endpoint(always)), numbered(50)) == [t.upper() for t in numbered(50)]


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_a_reply_is_paid_once_however_often_and_wherever_it_is_asked(path: Path) -> None:
    """Two gateways on one file, as two processes would have, ask the same at the same time."""
    endpoint = Endpoint(always, seconds=0.02)

    async def work() -> list[Any]:
        gateways = [Gateway(Ledger(path)), Gateway(Ledger(path))]
        asked = [
            gateway.ask(Service(endpoint), ChatRequest(messages=(make.user(text),)), {})
            for gateway in gateways
            for text in numbered(60) * 2
        ]
        found = await asyncio.gather(*asked)
        for gateway in gateways:
            await gateway.close()
        return [reply.text for _, reply in found]

    assert run(work) == [text.upper() for text in numbered(60) * 4]
    assert set(endpoint.asked.values()) == {1}


def test_what_another_process_gave_up_is_asked_here(path: Path) -> None:
    async def work() -> str:
        other, gateway, service = Ledger(path), Gateway(Ledger(path)), Service(Endpoint(always))
        request = ChatRequest(messages=(make.user("a"),))
        assert other.claim([request_key(request, service.identity)], 60)
        task = asyncio.create_task(gateway.ask(service, request, {}))
        await asyncio.sleep(0.05)
        assert not service.routes[0].asked
        other.close()
        _, reply = await task
        await gateway.close()
        return reply.text

    assert run(work) == "A"


def test_offline_only_the_ledger_answers(path: Path) -> None:
    endpoint = Endpoint(always)
    ask_all(Gateway(Ledger(path)), Service(endpoint), ["a"])
    found = ask_all(Gateway(Ledger(path), offline=True), Service(endpoint), ["a", "b"])
    assert found[0] == "A"
    assert str(found[1]) == "its reply is not in the ledger"
    assert endpoint.asked == {"a": 1}


def test_calls_in_flight_when_the_run_ends_are_kept(path: Path) -> None:
    endpoint = Endpoint(always, seconds=0.1)

    async def work() -> None:
        gateway, service = Gateway(Ledger(path)), Service(endpoint, pace=Pace(max_in_flight=8))
        tasks = [
            asyncio.create_task(gateway.ask(service, ChatRequest(messages=(make.user(text),)), {}))
            for text in numbered(50)
        ]
        await asyncio.sleep(0.03)
        for task in tasks:
            task.cancel()
        await gateway.close()

    run(work)
    assert len(Ledger(path)) == endpoint.answered.total() == 8


# --- money ------------------------------------------------------------------------------------------------------------


def paying(path: Path, budget_usd: float | None, run: str = "r") -> Gateway:
    return Gateway(Ledger(path), run=run, budget_usd=budget_usd, prices=lambda model: PRICE)


@pytest.mark.parametrize("in_flight", [1, 64, 256])
def test_a_budget_is_never_exceeded_and_used_as_far_as_it_reaches(path: Path, in_flight: int) -> None:
    """100 calls' worth, and 300 are asked: a call is made while the most it can cost still fits."""
    endpoint, gateway = Endpoint(always, seconds=0.002), paying(path, 100 * COST)
    found = ask_all(gateway, Service(endpoint, pace=Pace(max_in_flight=in_flight)), numbered(300))
    made = sum(isinstance(reply, str) for reply in found)
    assert endpoint.asked.total() == made
    assert made == 98  # after 98 calls two costs are left: less than the most that a call can cost, 2.5 times its cost
    assert gateway.purse.spent_usd == pytest.approx(made * COST)
    assert {type(error) for error in found if not isinstance(error, str)} == {OverBudget}
    assert all(error.retryable for error in found if not isinstance(error, str))


def test_calls_that_may_have_been_billed_count_in_full(path: Path) -> None:
    endpoint, gateway = Endpoint(fails_first(1, failed("lost"))), paying(path, None)
    assert ask_all(gateway, Service(endpoint), ["a", "b"]) == ["A", "B"]
    assert gateway.purse.spent_usd == pytest.approx(2 * (MOST + COST))
    assert gateway.accounts["service"].maybe_billed == 2
    assert Ledger(path).open_purse("r") == pytest.approx(2 * (MOST + COST))


def test_calls_that_were_not_billed_cost_nothing(path: Path) -> None:
    endpoint, gateway = Endpoint(fails_first(2, failed("overloaded"))), paying(path, None)
    ask_all(gateway, Service(endpoint), ["a"])
    assert gateway.purse.spent_usd == pytest.approx(COST)


def test_a_budget_holds_over_restarts(path: Path) -> None:
    endpoint = Endpoint(always)
    ask_all(paying(path, 10 * COST), Service(endpoint), numbered(100))
    again = paying(path, 10 * COST)
    ask_all(again, Service(endpoint), [f"r{i}" for i in range(100)])
    assert endpoint.asked.total() == 8
    assert again.purse.spent_usd == pytest.approx(8 * COST)
    more = paying(path, 20 * COST)
    ask_all(more, Service(endpoint), numbered(100))
    assert endpoint.asked.total() == 18
    ask_all(paying(path, 10 * COST, run="another"), Service(endpoint), [f"s{i}" for i in range(9)])
    assert endpoint.asked.total() == 26  # its own money


def test_a_budget_holds_when_the_process_is_killed_with_calls_in_flight(path: Path) -> None:
    """What was in flight is unknown: it counts in full."""
    hangs = Endpoint(always, seconds=60)

    async def killed() -> float:
        gateway = paying(path, 1.0)
        tasks = [
            asyncio.create_task(gateway.ask(Service(hangs), ChatRequest(messages=(make.user(text),)), {}))
            for text in numbered(5)
        ]
        await asyncio.sleep(0.05)
        spent = Ledger(path).open_purse("r")  # what the next process would find
        for task in tasks:
            task.cancel()
        gateway.grace_seconds = 0.0
        await gateway.close()
        return spent

    spent = run(killed)
    assert 5 * MOST <= spent <= 2 * 5 * MOST


def test_a_refusal_is_paid(path: Path) -> None:
    class Refuses(Endpoint):
        async def complete(self, request: ChatRequest, timeout_seconds: float) -> Answer:
            return Answer(Reply(finish_reason="refused", prompt_tokens=100, output_tokens=10))

    gateway = paying(path, None)
    (error,) = ask_all(gateway, Service(Refuses(always)), ["a"])
    assert isinstance(error, CallRefused)
    assert gateway.purse.spent_usd == pytest.approx(COST)


def test_cached_tokens_cost_what_their_price_says() -> None:
    reply = Reply(prompt_tokens=1000, cached_tokens=600, cache_written_tokens=100, output_tokens=50)
    assert Price(2.0, 8.0).cost(reply) == pytest.approx((1000 * 2 + 50 * 8) / 1e6)
    dear = Price(2.0, 8.0, cached_input=0.5, cache_write=2.5)
    assert dear.cost(reply) == pytest.approx((300 * 2 + 600 * 0.5 + 100 * 2.5 + 50 * 8) / 1e6)
    assert dear.most(1000, 50) == pytest.approx((1000 * 2.5 + 50 * 8) / 1e6)


# --- who asks, who leaves, and what goes wrong on our side ------------------------------------------------------------


def request_of(text: str) -> ChatRequest:
    return ChatRequest(messages=(make.user(text),))


def test_who_asks_second_has_the_reply_though_the_first_has_left(path: Path) -> None:
    service = Service(Endpoint(always, seconds=0.2))

    async def work() -> tuple[str, list[Any]]:
        gateway = Gateway(Ledger(path), run="r", prices=lambda model: PRICE)
        first = asyncio.create_task(gateway.ask(service, request_of("a"), {}))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(gateway.ask(service, request_of("a"), {}))
        await asyncio.sleep(0.05)
        first.cancel()
        third = asyncio.create_task(gateway.ask(service, request_of("a"), {}))
        found = [(await task)[1].text for task in (second, third)]
        await gateway.close()
        return found[0], found

    assert run(work)[1] == ["A", "A"]
    assert service.routes[0].asked == {"a": 1}


def test_a_reply_that_is_about_to_be_kept_is_not_asked_for_again(path: Path) -> None:
    service = Service(Endpoint(always))

    async def work() -> None:
        gateway = Gateway(Ledger(path))
        for _ in range(40):
            await asyncio.gather(*(gateway.ask(service, request_of("a"), {}) for _ in range(3)))
            await asyncio.sleep(0)
        await gateway.close()

    run(work)
    assert service.routes[0].asked == {"a": 1}


def test_what_nobody_waits_for_is_not_sent_and_is_free_for_others(path: Path) -> None:
    service = Service(Endpoint(always, seconds=0.1), pace=Pace(max_in_flight=1))

    async def work() -> None:
        gateway = Gateway(Ledger(path))
        tasks = [asyncio.create_task(gateway.ask(service, request_of(text), {})) for text in "abc"]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)
        key = request_key(request_of("b"), service.identity)
        assert Ledger(path).claim([key], 60)
        await gateway.close()

    run(work)
    assert service.routes[0].asked == {"a": 1, "c": 1}


def test_a_stop_sends_nothing_that_waits_at_a_limit(path: Path) -> None:
    service = Service(Endpoint(always, seconds=0.05), pace=Pace(requests_per_minute=600))

    async def work() -> tuple[int, int, float]:
        gateway = Gateway(Ledger(path))
        tasks = [asyncio.create_task(gateway.ask(service, request_of(text), {})) for text in numbered(60)]
        await asyncio.sleep(0.5)
        before = service.routes[0].asked.total()
        began = asyncio.get_running_loop().time()
        await gateway.close()
        took = asyncio.get_running_loop().time() - began
        await asyncio.gather(*tasks, return_exceptions=True)
        return before, service.routes[0].asked.total(), took

    before, after, took = run(work)
    assert 5 <= before < 30
    assert after == before
    assert took < 1  # forty calls more would have taken four seconds


def test_a_call_that_waited_for_its_turn_is_tried_again_all_the_same(path: Path) -> None:
    endpoint = Endpoint(lambda text, before: failed("overloaded") if text == "q29" and not before else text.upper())
    pace = Pace(requests_per_minute=600, patience_seconds=1.0)
    assert ask_all(Gateway(Ledger(path)), Service(endpoint, pace=pace), numbered(30))[-1] == "Q29"


def test_a_provider_that_refuses_everything_is_given_up_after_the_models_patience(path: Path) -> None:
    endpoint = Endpoint(lambda text, before: failed("rate_limited", retry_after=None))
    found = ask_all(Gateway(Ledger(path)), Service(endpoint, pace=Pace(patience_seconds=1.5)), numbered(40))
    assert all(isinstance(error, CallFailed) and error.retryable for error in found)
    assert all("nothing but refusals for 1.5 s" in str(error) for error in found)
    assert endpoint.asked.total() < 40 * 6  # ever longer pauses


def test_replies_that_do_not_say_what_they_used_count_in_full(path: Path) -> None:
    class Silent(Endpoint):
        async def complete(self, request: ChatRequest, timeout_seconds: float) -> Answer:
            answer = await super().complete(request, timeout_seconds)
            return Answer(answer.reply.model_copy(update={"prompt_tokens": 0, "output_tokens": 0}))

    gateway = Gateway(Ledger(path), run="r", budget_usd=10.5 * MOST, prices=lambda model: PRICE)
    found = ask_all(gateway, Service(Silent(always)), numbered(30))
    assert sum(isinstance(each, OverBudget) for each in found) == 20
    assert gateway.purse.spent_usd == pytest.approx(10 * MOST)
    assert gateway.accounts["service"].without_usage == 10


def test_an_empty_answer_costs_what_it_says_and_is_no_outage(path: Path) -> None:
    used = Reply(text="", prompt_tokens=100, output_tokens=10)
    empty = failed("garbled")
    empty.reply = used
    gateway = Gateway(Ledger(path), run="r", budget_usd=1.0, prices=lambda model: PRICE)
    assert ask_all(gateway, Service(Endpoint(fails_first(1, empty))), ["a"]) == ["A"]
    assert gateway.purse.spent_usd == pytest.approx(2 * COST)
    assert gateway.accounts["service"].maybe_billed == 0


def test_a_bound_that_raises_reaches_every_caller(path: Path) -> None:
    class Broken(Service):
        def upper_bound(self, request: ChatRequest) -> tuple[int, int]:
            raise ZeroDivisionError("bound")

    gateway = Gateway(Ledger(path), run="r", budget_usd=1.0, prices=lambda model: PRICE)
    found = ask_all(gateway, Broken(Endpoint(always)), ["a", "b"])
    assert all("bound" in str(error) for error in found)


def test_a_ledger_that_cannot_be_read_while_another_process_asks_reaches_every_caller(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(Endpoint(always))
    other = Ledger(path)
    other.claim([request_key(request_of("a"), service.identity)], 60)
    ledger = Ledger(path)
    looks, real = Counter[str](), ledger.get

    def get(keys: Any) -> Any:
        looks["at"] += 1
        if looks["at"] > 1:
            raise StorageError("the ledger cannot be read")
        return real(keys)

    monkeypatch.setattr(ledger, "get", get)
    (error,) = ask_all(Gateway(ledger), service, ["a"])
    assert isinstance(error, StorageError)


def test_money_in_a_job_that_nobody_here_sees_to_is_held_and_not_waited_for(path: Path) -> None:
    ledger = Ledger(path)
    row = JobRow("job", "another model", "there", 1, 0.0, "r")
    ledger.open_job(row, [JobLine("k", "{}", "{}", 0.5)])

    async def work() -> tuple[bool, bool, bool]:
        purse = Purse(ledger, "r", budget_usd=0.8)
        first, second = await purse.reserve(0.2), asyncio.create_task(purse.reserve(0.2))
        await asyncio.sleep(0)
        waits = not second.done()  # what is in flight may leave money
        purse.settle(0.2, 0.2)
        return first, waits, await asyncio.wait_for(second, 5)

    assert run(work) == (True, True, False)


def test_money_in_a_job_of_ours_is_waited_for_until_it_is_left(path: Path) -> None:
    ledger = Ledger(path)

    async def work() -> tuple[bool, bool]:
        purse = Purse(ledger, "r", budget_usd=1.0)
        purse.reserve_in_job(0.9)
        asked = asyncio.create_task(purse.reserve(0.2))
        await asyncio.sleep(0)
        waits = not asked.done()
        purse.see_to(-0.9)
        return waits, await asyncio.wait_for(asked, 5)

    assert run(work) == (True, False)
