"""A budget holds from the command line to the provider's bill, whatever happens to calls on their way."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlaif.catalogue import Catalogue
from rlaif.component import Place
from rlaif.config import Principle
from rlaif.errors import CallFailed
from rlaif.labels import LabelContext
from rlaif.labels.judges import JudgeLabels
from rlaif.ledger import Entry, Ledger
from rlaif.mock import MockOptions, start
from rlaif.models import Reply
from rlaif.models.gateway import Gateway
from rlaif.models.scripted import ScriptedModel
from rlaif.models.spending import Purse
from rlaif.store import RunFolder
from tests import make
from tests.models.asking import PROVIDERS, rooted
from tests.runs import kill_when, ledger_rows, rlaif
from tests.runs import start as start_cli
from tests.tiny import write_jsonl

ROWS = 60  # comparisons, of 120 showings
FAULTS = ("reset=0.05", "reset-mid=0.03", "slow=0.03", "truncated=0.03", "500=0.05", "429-bare=0.02", "empty=0.02")


def pairs(path: Path, rows: int = ROWS) -> None:
    write_jsonl(
        path,
        [{"prompt": f"Question {i}?", "response_a": f"Yes {i}.", "response_b": f"No {i}, no."} for i in range(rows)],
    )


@contextmanager
def serving(**options: Any) -> Iterator[Any]:
    with start(MockOptions(**options)) as server:
        yield server


def billed(server: Any) -> Any:
    """US dollars that a provider would ask for, replies that were lost on the way included."""
    tokens = server.stats()["billed"]
    plain = tokens["prompt"] - tokens["cached"] - tokens["cache_write"]
    return (plain * 1.0 + tokens["cached"] * 0.25 + tokens["cache_write"] * 1.25 + tokens["completion"] * 10.0) / 1e6


def judge(folder: Path, url: str, *settings: str, provider: str = "openai", code: int = 0, **options: Any) -> str:
    """What `rlaif judge` printed, at the end of a run of its own process; with exit code 1, where its money ran out."""
    price = {"input": 1.0, "output": 10.0, "cached_input": 0.25, "cache_write": 1.25}
    options = {"base_url": rooted(provider, url), "price": price, **options}
    model = json.dumps({"provider": provider, "model": "mock-judge", "options": options})
    every = [part for setting in (f"models.judge={model}", *settings) for part in ("--set", setting)]
    (folder / "log").unlink(missing_ok=True)
    return rlaif(folder, "judge", "compare-text", "pairs.jsonl", "--out", "out", *every, code=code)


def spent(printed: str) -> float:
    (found,) = re.findall(r"budget: ([\d.]+) of", printed)
    return float(found)


def outcomes(folder: Path) -> dict[str, int]:
    rows = list(RunFolder(folder / "out", lambda line: None).read("judgements"))
    return {outcome: sum(row.outcome == outcome for row in rows) for outcome in {row.outcome for row in rows}}


@pytest.mark.parametrize("in_flight", [1, 64, 256])
def test_a_budget_is_never_exceeded_whatever_happens_to_calls(in_flight: int, working_folder: Path) -> None:
    """Less than what all calls cost on a clean server; resets, hangs and half replies are billed, and counted in full."""
    pairs(working_folder / "pairs.jsonl")
    with serving(fault=FAULTS, fault_seconds=5.0, seed=in_flight) as server:
        budget = 0.05
        printed = judge(
            working_folder,
            server.url,
            f"budget_usd={budget}",
            code=1,
            max_in_flight=in_flight,
            timeout_seconds=0.5,
            attempts=8,
        )
        bill = billed(server)
    with sqlite3.connect(working_folder / ".rlaif" / "ledger.sqlite") as ledger:
        ((counted,),) = ledger.execute("SELECT spent_usd + lost_usd FROM purses")
    assert 0 < bill <= counted <= budget
    assert spent(printed) == pytest.approx(counted, abs=1e-4)
    assert "; the same command with a larger budget_usd asks what is over it" in printed
    found = outcomes(working_folder)
    assert found["over budget"] > 0
    assert found["ranked"] > 0
    reasons = json.loads((working_folder / "out" / "accounts.json").read_text())["judgements"]["reasons"]
    assert reasons["the most it can cost is more than is left of budget_usd"] == found["over budget"]
    assert sum(found.values()) == 2 * ROWS


def test_a_budget_holds_over_runs_of_one_folder_and_is_used_when_it_grows(working_folder: Path) -> None:
    pairs(working_folder / "pairs.jsonl")
    with serving() as server:
        first = judge(working_folder, server.url, "budget_usd=0.02", code=1)
        bill = billed(server)
        assert bill <= 0.02
        judge(working_folder, server.url, "budget_usd=0.02", code=1)
        assert billed(server) <= 0.02
        last = judge(working_folder, server.url, "budget_usd=1")
        assert spent(first) < spent(last) == pytest.approx(billed(server), abs=1e-4)
        assert spent(judge(working_folder, server.url, "budget_usd=1")) == spent(last)  # nothing was left to ask
    assert outcomes(working_folder) == {"ranked": 2 * ROWS}


def test_replies_that_cannot_be_read_are_paid_and_counted(working_folder: Path) -> None:
    pairs(working_folder / "pairs.jsonl", rows=5)
    with serving(fault=("neither=1",)) as server:
        printed = judge(working_folder, server.url, "budget_usd=1", "failure_tolerance=1")
        assert spent(printed) == pytest.approx(billed(server), abs=1e-4)
    assert outcomes(working_folder) == {"unreadable": 10}
    with sqlite3.connect(working_folder / ".rlaif" / "ledger.sqlite") as ledger:
        costs = [cost for (cost,) in ledger.execute("SELECT cost_usd FROM replies")]
    assert len(costs) == 10
    assert all(cost > 0 for cost in costs)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tokens_from_the_providers_cache_have_their_own_price(provider: str, working_folder: Path) -> None:
    """The mock caches prefixes from 64 tokens on; instructions and principle come first, so that they are found."""
    pairs(working_folder / "pairs.jsonl", rows=20)
    settings = ("budget_usd=1", "constitution=harmless-helpful")
    with serving(cache_minimum=64) as server:
        printed = judge(working_folder, server.url, *settings, provider=provider, max_in_flight=1)
        tokens = server.stats()["billed"]
        assert tokens["cached"] > 0.1 * tokens["prompt"]
        assert (tokens["cache_write"] > 0) == (provider == "anthropic")
        assert spent(printed) == pytest.approx(billed(server), abs=1e-4)


# --- the stable prefix ------------------------------------------------------------------------------------------------

FOR_APIS = (
    "check-items", "compare-api", "compare-critiques", "compare-logprobs-api", "compare-reasons", "compare-text",
    "compare-votes", "first-wrong-step", "instruction-text", "rank-list", "score-aspects", "score-aspects-api",
    "score-logprobs-api", "score-text",
)  # fmt: skip
# principle last, or in the form a model was trained on, or first a question that shows neither rubric nor principle
OTHERS = (
    "check-items-local", "compare-few-shot", "compare-local", "compare-reference", "prometheus-absolute",
    "practice", "practice-second", "prometheus-relative",
    "score-local",
)  # fmt: skip


def test_those_are_the_shipped_judges_that_ask_a_model_behind_an_api() -> None:
    catalogue = Catalogue()
    asking = {n for n in catalogue.names("judge") if catalogue.find("judge", n, where="x").yaml()["model_role"]}
    assert asking == {*FOR_APIS, *OTHERS}


@pytest.mark.parametrize("name", FOR_APIS)
def test_instructions_and_principle_come_first_and_are_the_same_for_all_comparisons(name: str) -> None:
    requests = []
    principle = Principle(id="kind", text="Prefer the reply that is kinder to the asker.")
    source = labels(name)
    (opened,) = source.judges
    for question in ("How do magnets work?", "Is water wet?"):
        of = make.comparison("Well.", "It is complicated.", question=question)
        for shown in source.orders(opened, of):
            requests += rendered(source, of, principle, shown)
    first = requests[0].messages
    assert len({request.messages[:-1] for request in requests}) == 1
    # two comparisons; in two orders where there are two, or of two replies that are first looked at one by one
    assert len({request.messages[-1] for request in requests}) == (2 if opened.each_alone else 4)
    assert opened.rubric in first[0].content
    assert principle.text in first[0].content
    for request in requests:
        assert opened.rubric not in request.messages[-1].content
        assert principle.text not in request.messages[-1].content


def labels(name: str) -> JudgeLabels:
    script = ScriptedModel(f"{__name__}:answer", ScriptedModel.Options(), where="x", notice=print)
    context = LabelContext(
        where=Place("recipe.yaml"),
        catalogue=Catalogue(),
        gateway=Gateway(Ledger(Path("ledger.sqlite"))),
        models={"judge": script},
        constitution=None,
        pairs=None,
        split="train",
        limit=None,
        secret=b"a secret",
        seed=0,
    )
    return JudgeLabels(JudgeLabels.Options(judges=(name,)), context)


def answer(request: Any) -> str:
    return "A"


def rendered(source: JudgeLabels, of: Any, principle: Principle, shown: Any) -> list[Any]:
    """The first request of a showing."""
    (opened,) = source.judges
    showing = source.showing(opened, of, principle, shown)
    found: list[Any] = []

    async def ask(question: Any) -> Any:
        found.append(opened.request(question, 0, showing.fence))
        raise CallFailed("only looked at")

    with pytest.raises(CallFailed):
        asyncio.run(opened.protocol.judge(showing, ask))
    return found[:1]


def test_after_a_kill_what_was_in_flight_counts_and_no_more(working_folder: Path) -> None:
    """Two long pairs are among the first calls: what was set aside for them is free again once they are answered."""
    pairs(working_folder / "pairs.jsonl", 400)
    rows = (working_folder / "pairs.jsonl").read_text().splitlines()
    long = {"prompt": "Long?", "response_a": "word " * 8000, "response_b": "words " * 8000}
    (working_folder / "pairs.jsonl").write_text("\n".join([json.dumps(long), *rows]) + "\n")
    with serving(latency="20ms") as server:
        price = {"input": 1.0, "output": 10.0}
        model = {
            "provider": "openai",
            "model": "mock-judge",
            "options": {"base_url": rooted("openai", server.url), "price": price, "max_in_flight": 16},
        }
        command = ("judge", "compare-text", "pairs.jsonl", "--out", "out", "--set", f"models.judge={json.dumps(model)}")
        process = start_cli(working_folder, *command)
        assert kill_when(process, lambda: ledger_rows(working_folder) > 300)
    with sqlite3.connect(working_folder / ".rlaif" / "ledger.sqlite") as ledger:
        ((open_usd,),) = ledger.execute("SELECT open_usd FROM purses")
    call = 512 * 10.0 / 1e6 + 0.0016  # the most that a short one can cost: its output, and a prompt of some 1,500 bytes
    assert open_usd < 16 * call * 1.6


def test_what_is_settled_counts_as_open_until_it_is_written_down(tmp_path: Path) -> None:
    """Between a reply and its transaction other calls may take the room that it left; a kill in between loses no money."""

    async def scenario() -> None:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        purse = Purse(ledger, "run", 10.0)

        def marked() -> float:
            with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
                ((spent, open_usd),) = other.execute("SELECT spent_usd, open_usd FROM purses")
            return float(spent + open_usd)

        for i in range(40):  # one call after the other is answered, at the most that it could cost
            assert await purse.reserve(0.1)
            assert marked() >= 0.1 * (i + 1) - 1e-9
            reply = Entry(f"{i:064x}", "m", Reply(text="a", prompt_tokens=1), "{}", 0.1, run="run")
            ledger.record(reply, asyncio.get_running_loop().create_future())
            purse.settle(0.1, 0.1)
            assert marked() >= 0.1 * (i + 1) - 1e-9
            if i % 7 == 0:
                await ledger.committed()
                assert marked() < 0.1 * (i + 1) + 0.3  # and what is written down is not counted twice
        await ledger.committed()
        purse.close()
        assert marked() == pytest.approx(4.0)
        ledger.close()

    asyncio.run(scenario())
