"""The gateway: one call to ask; behind it batches, the ledger, claims and accounts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import CallFailed, CallRefused, ModelError
from rlaif.ledger import Entry, Ledger
from rlaif.models import ChatRequest, Identity, Reply, request_key
from rlaif.models.calls import Account
from rlaif.models.gateway import Gateway, gather_all
from rlaif.models.pacing import Pace
from rlaif.models.scripted import ScriptedModel
from tests import make


class Shouter:
    """A BatchModel that shouts back, in batches of three planned by text; it remembers what it computed."""

    def __init__(self, name: str = "shouter", gate: threading.Event | None = None) -> None:
        self.identity = Identity(name, None, (("weights", name),))
        self.computed: list[list[str]] = []
        self.plans: list[list[str]] = []
        self.planned, self.began = threading.Event(), threading.Event()
        self.gate = gate

    def objection(self, request: ChatRequest) -> str | None:
        return "longer than the context" if len(request.messages[0].content) > 20 else None

    def plan(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        self.plans.append([request.messages[0].content for request in requests])
        self.planned.set()
        order = sorted(range(len(requests)), key=lambda i: requests[i].messages[0].content)
        return [order[start : start + 3] for start in range(0, len(order), 3)]

    def complete_batch(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        self.began.set()
        if self.gate:
            assert self.gate.wait(20)
        texts = [request.messages[0].content for request in requests]
        self.computed.append(texts)
        if "break" in texts:
            raise ModelError("out of memory")
        return [
            Reply(text=f"{text.upper()} by {self.identity.name}", prompt_tokens=2, output_tokens=1) for text in texts
        ]


def request(text: str) -> ChatRequest:
    return ChatRequest(messages=(make.user(text),))


def ask_all(gateway: Gateway, model: Any, *texts: str) -> list[Any]:
    """Replies' texts, or the exception, of each text asked at the same time."""

    async def work() -> list[Any]:
        found = await asyncio.gather(*(gateway.ask(model, request(t), {}) for t in texts), return_exceptions=True)
        await gateway.close()
        return [f if isinstance(f, BaseException) else f[1].text for f in found]

    return asyncio.run(asyncio.wait_for(work(), 30))


@pytest.fixture
def path(working_folder: Path) -> Path:
    return working_folder / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger(path)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_planned_from_everything_asked_at_the_same_time(ledger: Ledger) -> None:
    model = Shouter()
    replies = ask_all(Gateway(ledger), model, *"gfedcba")
    assert replies == [f"{text} by shouter" for text in "GFEDCBA"]
    assert model.plans == [list("gfedcba")]
    assert model.computed == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_requests_made_some_awaits_deep_join_the_same_plan(ledger: Ledger) -> None:
    gateway, model = Gateway(ledger), Shouter()

    async def after(ticks: int) -> None:
        for _ in range(ticks):
            await asyncio.sleep(0)
        await gateway.ask(model, request(f"r{ticks}"), {})

    async def work() -> None:
        await asyncio.gather(*(after(ticks) for ticks in range(6)))
        await gateway.close()

    asyncio.run(work())
    assert len(model.plans) == 1


def test_equal_requests_are_computed_once_and_answered_each(ledger: Ledger) -> None:
    model = Shouter()
    assert ask_all(Gateway(ledger), model, "a", "a", "a") == ["A by shouter"] * 3
    assert model.computed == [["a"]]


def test_two_models_do_not_share_a_batch(ledger: Ledger) -> None:
    gateway, one, two = Gateway(ledger), Shouter("one"), Shouter("two")

    async def work() -> list[str]:
        found = await asyncio.gather(*(gateway.ask(model, request("a"), {}) for model in (one, two)))
        await gateway.close()
        return [reply.text for _, reply in found]

    assert asyncio.run(work()) == ["A by one", "A by two"]


def test_the_key_that_is_returned_leads_to_the_reply_and_what_was_asked(ledger: Ledger) -> None:
    gateway, model = Gateway(ledger), Shouter()

    async def work() -> str:
        key, _ = await gateway.ask(model, request("a"), {"comparison": "c-1"})
        await gateway.close()
        return key

    key = asyncio.run(work())
    assert key == request_key(request("a"), model.identity)
    assert (found := ledger.get([key])[key]).reply.text == "A by shouter"
    assert found.context == '{"comparison":"c-1"}'


# --- nothing may be asked ---------------------------------------------------------------------------------------------


def test_offline_a_local_batch_answers_what_the_ledger_has_and_fails_the_rest(path: Path) -> None:
    ask_all(Gateway(Ledger(path)), Shouter(), *"abd")
    model, gateway = Shouter(), Gateway(Ledger(path), offline=True)
    counted: list[int] = []
    gateway.replies = counted.append
    found = ask_all(gateway, model, *"abcde", "a", "far longer than the context allows")
    assert [str(reply) for reply in found] == [
        "A by shouter",
        "B by shouter",
        "its reply is not in the ledger",
        "D by shouter",
        "its reply is not in the ledger",
        "A by shouter",
        "longer than the context",  # what could not be asked at any time is told as ever
    ]
    assert [error.retryable for error in found if isinstance(error, CallFailed)] == [True, True, False]
    assert (model.plans, model.computed) == ([], [])
    account = gateway.accounts["shouter"]
    assert (account.asked, account.from_ledger, account.missing, account.failed) == (0, 3, 2, 1)
    assert str(account).endswith("; 2 not in the ledger")
    assert sum(counted) == 3


def test_a_local_reply_says_for_which_run_it_was_computed(path: Path) -> None:
    ledger = Ledger(path)
    ask_all(Gateway(ledger, run="r1"), Shouter(), "a")
    (entry,) = ledger.get([request_key(request("a"), Shouter().identity)]).values()
    assert (entry.run, entry.cost_usd) == ("r1", None)


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_what_the_ledger_holds_is_not_computed_again(path: Path) -> None:
    ask_all(Gateway(Ledger(path)), Shouter(), *"abcde")
    again, gateway = Shouter(), Gateway(Ledger(path))
    assert ask_all(gateway, again, *"abcde") == [f"{text} by shouter" for text in "ABCDE"]
    assert again.computed == []
    assert gateway.account(again.identity) == Account(from_ledger=5)


def test_of_a_batch_partly_in_the_ledger_only_the_rest_is_computed(ledger: Ledger) -> None:
    model = Shouter()
    ledger.put([Entry(request_key(request("b"), model.identity), "m", Reply(text="B of old"))])
    assert ask_all(Gateway(ledger), model, *"abcd") == ["A by shouter", "B of old", "C by shouter", "D by shouter"]
    assert model.computed == [["a", "c"], ["d"]]


def test_a_resumed_run_computes_only_the_batches_that_were_not_finished(ledger: Ledger) -> None:
    model = Shouter()
    ask_all(Gateway(ledger), model, *"abc")
    ask_all(Gateway(ledger), model, *"abcdef")
    assert model.computed == [["a", "b", "c"], ["d", "e", "f"]]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_objection_fails_only_its_own_request(ledger: Ledger) -> None:
    model, gateway = Shouter(), Gateway(ledger)
    replies = ask_all(gateway, model, "a", "far too long for this model", "b")
    assert replies[0::2] == ["A by shouter", "B by shouter"]
    assert isinstance(replies[1], CallFailed)
    assert str(replies[1]) == "longer than the context"
    assert model.computed == [["a", "b"]]


def test_an_exception_reaches_every_waiter_and_leaves_no_claim(path: Path) -> None:
    model, gateway = Shouter(), Gateway(Ledger(path))
    replies = ask_all(gateway, model, "a", "break", "c", "z")
    assert [type(reply) for reply in replies] == [ModelError] * 4
    keys = [request_key(request(text), model.identity) for text in ("a", "break", "c", "z")]
    assert Ledger(path).claim(keys, 60)


def test_batches_finished_before_a_failure_are_kept(ledger: Ledger) -> None:
    model = Shouter()
    replies = ask_all(Gateway(ledger), model, "a1", "a2", "a3", "break")
    assert replies[:3] == ["A1 by shouter", "A2 by shouter", "A3 by shouter"]
    assert isinstance(replies[3], ModelError)
    assert len(ledger) == 3


def test_a_gateway_answers_again_after_a_failure(ledger: Ledger) -> None:
    gateway, model = Gateway(ledger), Shouter()

    async def work() -> str:
        with pytest.raises(ModelError):
            await gateway.ask(model, request("break"), {})
        _, reply = await gateway.ask(model, request("a"), {})
        await gateway.close()
        return reply.text

    assert asyncio.run(work()) == "A by shouter"


# --- two processes ----------------------------------------------------------------------------------------------------


def test_two_gateways_on_one_ledger_file_do_not_compute_the_same_batch_twice(path: Path) -> None:
    gate = threading.Event()
    models = [Shouter(gate=gate), Shouter(gate=gate)]
    gateways = [Gateway(Ledger(path)), Gateway(Ledger(path))]

    async def work() -> list[list[str]]:
        async def one(i: int) -> list[str]:
            found = await asyncio.gather(*(gateways[i].ask(models[i], request(text), {}) for text in "abc"))
            return [reply.text for _, reply in found]

        first = asyncio.create_task(one(0))
        await asyncio.to_thread(models[0].began.wait, 20)
        second = asyncio.create_task(one(1))
        await asyncio.to_thread(models[1].planned.wait, 20)
        gate.set()
        replies = [await first, await second]
        for gateway in gateways:
            await gateway.close()
        return replies

    assert asyncio.run(asyncio.wait_for(work(), 30)) == [["A by shouter", "B by shouter", "C by shouter"]] * 2
    assert models[0].computed == [["a", "b", "c"]]
    assert models[1].computed == []
    assert gateways[1].account(models[1].identity).from_ledger == 3


def test_a_batch_another_process_finishes_just_before_the_claim_is_not_computed_again(path: Path) -> None:
    model, other = Shouter(), Ledger(path)
    key = request_key(request("a"), model.identity)

    class Overtaken(Ledger):
        def claim(self, keys: Sequence[str], seconds: float) -> bool:
            other.put([Entry(key, "m", Reply(text="A of theirs"))])
            return super().claim(keys, seconds)

    assert ask_all(Gateway(Overtaken(path)), model, "a") == ["A of theirs"]
    assert model.computed == []
    assert other.claim([key], 60)  # nothing stays claimed


def test_the_batch_of_a_dead_process_is_computed_once_its_claim_expires(path: Path) -> None:
    model = Shouter()
    other = Ledger(path)
    other.owner = "elsewhere:1:9-abc"  # of another machine: nobody here can tell that it is gone
    assert other.claim([request_key(request("a"), model.identity)], 0.2)
    assert ask_all(Gateway(Ledger(path)), model, "a") == ["A by shouter"]


# --- cancelled callers ------------------------------------------------------------------------------------------------


def test_a_cancelled_caller_takes_no_one_with_it(ledger: Ledger) -> None:
    gate = threading.Event()
    gateway, model = Gateway(ledger), Shouter(gate=gate)

    async def work() -> list[Any]:
        tasks = [asyncio.create_task(gateway.ask(model, request(text), {})) for text in "ab"]
        await asyncio.to_thread(model.began.wait, 20)
        tasks[0].cancel()
        gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.close()
        return found

    cancelled, answered = asyncio.run(asyncio.wait_for(work(), 30))
    assert isinstance(cancelled, asyncio.CancelledError)
    assert answered[1].text == "B by shouter"
    assert len(ledger) == 2  # computed: kept


def test_when_every_caller_is_gone_only_the_batch_in_flight_is_finished_and_kept(ledger: Ledger) -> None:
    gate = threading.Event()
    gateway, model = Gateway(ledger), Shouter(gate=gate)

    async def work() -> None:
        tasks = [asyncio.create_task(gateway.ask(model, request(text), {})) for text in "abcdefghi"]
        await asyncio.to_thread(model.began.wait, 20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gate.set()
        await gateway.close()

    asyncio.run(asyncio.wait_for(work(), 30))
    assert model.computed == [["a", "b", "c"]]
    assert len(ledger) == 3


def test_one_failure_among_many_cancels_the_rest_before_it_is_raised() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ModelError("no")

    with pytest.raises(ModelError):
        asyncio.run(gather_all([slow(), fails(), slow()]))
    assert ended == ["slow", "slow"]


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_accounts_add_up(path: Path) -> None:
    ask_all(Gateway(Ledger(path)), Shouter(), *"abc")
    finished: list[int] = []
    gateway, model = Gateway(Ledger(path), finished.append), Shouter()
    ask_all(gateway, model, *"abcde", "far too long for this model")
    account = gateway.account(model.identity)
    # asked: d and e. From the ledger: a, b, c. Failed: the long one. Two tokens in and one out for each that was asked.
    assert (account.asked, account.from_ledger, account.failed) == (2, 3, 1)
    assert (account.prompt_tokens, account.output_tokens) == (4, 2)
    assert sum(finished) == 5


def test_a_failed_batch_counts_as_asked_and_failed(ledger: Ledger) -> None:
    gateway, model = Gateway(ledger), Shouter()
    ask_all(gateway, model, "a", "break")
    assert gateway.account(model.identity) == Account(asked=2, failed=2)


# --- models behind an API ---------------------------------------------------------------------------------------------


class Service:
    """A CallModel: answers, refuses or fails as the text says."""

    identity = Identity("service", None, (("endpoint", "https://example.org"),))
    pace = Pace(attempts=1)

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: ChatRequest) -> Reply:
        self.calls += 1
        text = request.messages[0].content
        await asyncio.sleep(0)
        if text == "fail":
            raise CallFailed("500", retryable=True)
        return Reply(text=text.upper(), finish_reason="refused" if text == "refuse" else "stop", output_tokens=1)


def test_a_call_is_kept_and_not_made_again(path: Path) -> None:
    service = Service()
    assert ask_all(Gateway(Ledger(path)), service, "a", "b") == ["A", "B"]
    gateway = Gateway(Ledger(path))
    assert ask_all(gateway, service, "a", "b", "c") == ["A", "B", "C"]
    assert service.calls == 3
    account = gateway.account(service.identity)
    assert (account.asked, account.from_ledger, account.failed, account.output_tokens) == (1, 2, 0, 1)


def test_a_failed_call_fails_alone_and_is_asked_again_next_time(path: Path) -> None:
    service = Service()
    replies = ask_all(Gateway(Ledger(path)), service, "a", "fail")
    assert replies[0] == "A"
    assert isinstance(replies[1], CallFailed)
    ask_all(Gateway(Ledger(path)), service, "fail")
    assert service.calls == 3


def test_a_refusal_is_paid_for_kept_and_raised_each_time(path: Path) -> None:
    service = Service()
    for _ in range(2):
        assert isinstance(ask_all(Gateway(Ledger(path)), service, "refuse")[0], CallRefused)
    assert service.calls == 1


class Hanging:
    """A service that never answers, and counts who asked."""

    identity = Identity("hanging", None, (("provider", "test"),))

    def __init__(self) -> None:
        self.asked = self.left = 0

    async def complete(self, request: ChatRequest) -> Reply:
        self.asked += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1
        raise AssertionError("unreachable")


def test_closing_ends_calls_in_flight_and_records_nothing_of_them(ledger: Ledger) -> None:
    gateway, service = Gateway(ledger, grace_seconds=0.05), Hanging()

    async def work() -> None:
        task = asyncio.create_task(gateway.ask(service, request("a"), {}))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gateway.close()

    asyncio.run(asyncio.wait_for(work(), 30))
    assert (service.asked, service.left) == (1, 1)
    assert len(ledger) == 0


def test_equal_calls_at_once_are_asked_once(ledger: Ledger) -> None:
    gateway, service = Gateway(ledger), Service()

    async def work() -> list[Any]:
        return await asyncio.gather(*(gateway.ask(service, request("a"), {}) for _ in range(4)))

    found = asyncio.run(work())
    assert len({key for key, _ in found}) == 1
    assert gateway.account(service.identity).asked == 1


def test_a_dead_process_does_not_keep_its_claims(ledger: Ledger) -> None:
    """Killed while it computed: whoever comes next computes at once, instead of waiting for the claim to expire."""
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom rlaif.ledger import Ledger\n"
        f"Ledger(Path({str(ledger.path.resolve())!r})).claim(['k' * 64], 900)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert ledger.claim(["k" * 64], 1)


# --- the scripted model -----------------------------------------------------------------------------------------------


def scripted(working_folder: Path, text: str, default: str | None = None) -> ScriptedModel:
    (working_folder / "replies.jsonl").write_text(text, encoding="utf-8")
    options = ScriptedModel.Options(default=default)
    return ScriptedModel("replies.jsonl", options, where="test", notice=lambda line: None)


def test_the_first_row_whose_needle_is_in_the_last_message_answers(working_folder: Path, ledger: Ledger) -> None:
    table = '{"contains": "magnet", "reply": "A"}\n\n{"contains": "", "reply": "B"}\n'
    assert ask_all(Gateway(ledger), scripted(working_folder, table), "a magnet?", "bread?") == ["A", "B"]


def test_a_question_no_row_matches_fails_unless_there_is_a_default(working_folder: Path, ledger: Ledger) -> None:
    table = '{"contains": "magnet", "reply": "A"}\n'
    assert isinstance(ask_all(Gateway(ledger), scripted(working_folder, table), "bread?")[0], CallFailed)
    assert ask_all(Gateway(ledger), scripted(working_folder, table, "C"), "bread?") == ["C"]


def test_a_scripted_word_is_as_sure_as_can_be_when_options_are_offered(working_folder: Path) -> None:
    model = scripted(working_folder, '{"contains": "", "reply": "A"}')
    offered = request("x").model_copy(update={"options": ("A", "B")})
    assert asyncio.run(model.complete(offered)).logprobs == (("A", 0.0),)  # log 1


def test_an_edited_table_is_another_model(working_folder: Path) -> None:
    one = scripted(working_folder, '{"contains": "", "reply": "A"}').identity
    two = scripted(working_folder, '{"contains": "", "reply": "B"}').identity
    assert one.sha256 != two.sha256
