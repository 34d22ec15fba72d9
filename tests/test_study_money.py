"""What a whole study asks and costs: its runs have one budget, and what several ask alike is asked once."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.catalogue import Catalogue
from rlaif.ledger import Entry, Ledger
from rlaif.models import Reply
from rlaif.models.spending import Purse
from rlaif.plan import Plan
from rlaif.study.planning import plan_study
from rlaif.study.recipe import load_study
from tests.runs import kill_when, ledger_rows, rlaif, start
from tests.test_money import billed, pairs, serving

ROWS = 20
CALLS = 6 * ROWS
BUDGET = 0.03  # US dollars


def study(folder: Path, url: str, **changes: Any) -> None:
    """Two judges, and one of them with some of its labels turned round, on the same pairs with two seeds."""
    pairs(folder / "pairs.jsonl", ROWS)
    model = {
        "provider": "openai",
        "model": "mock-judge",
        "options": {"base_url": f"{url}/v1", "price": {"input": 1.0, "output": 10.0}, "max_in_flight": 4},
    }
    recipe = {"pairs": "pairs.jsonl", "models": {"judge": model}, "labels": "human", **changes}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text, reasons = (
        {"source": "judges", "options": {"judges": [name]}} for name in ("compare-text", "compare-reasons")
    )
    arms = {"text": text, "turned": {"source": "noisy", "options": {"of": text, "rate": 0.2}}, "reasons": reasons}
    told = {
        "recipe": "recipe.yaml",
        "seeds": [0, 1],
        "arms": {name: {"labels": own} for name, own in arms.items()},
        "at_once": 2,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(told, sort_keys=False))


def planned() -> Plan:
    return asyncio.run(plan_study(load_study(Path("study.yaml"), (), Catalogue())))


def test_a_study_asks_what_its_plan_says_and_each_question_once(working_folder: Path) -> None:
    with serving() as server:
        study(working_folder, server.url)
        before = planned()
        calls = {line.stage: line.calls for line in before.lines}
        assert calls == {  # in both orders; who gives reasons draws them anew with each seed
            "text: judgements": 2 * ROWS,
            "reasons: judgements": 4 * ROWS,
        }
        said = rlaif(working_folder, "plan", "study.yaml")
        assert "text: judgements (compare-text): 80 showings, 40 calls of models.judge" in said
        rlaif(working_folder, "compare", "study.yaml", "--out", "out")
        assert server.stats()["requests"] == CALLS
        after = planned()
        assert {line.stage: (line.calls, line.paid) for line in after.lines} == {
            name: (0, count) for name, count in calls.items()
        }


def test_the_runs_of_a_study_have_one_budget(working_folder: Path) -> None:
    with serving() as server:
        study(working_folder, server.url, budget_usd=BUDGET)
        assert planned().budget_usd == BUDGET
        said = rlaif(working_folder, "compare", "study.yaml", "--out", "out", code=1)
        asked = server.stats()["requests"]
        assert 0 < asked < CALLS
        assert 0 < billed(server) <= BUDGET
        assert "Traceback" not in said
        assert f"of {BUDGET:g} USD; the same command asks what is over it, where the recipe" in said
        page = working_folder / "out" / "compare.html"
        assert "Careful: the budget was spent before all was asked for" in page.read_text()
        larger = rlaif(working_folder, "compare", "study.yaml", "--out", "out", "--set", "set=[budget_usd=5]")
        assert server.stats()["requests"] == CALLS  # and nothing twice
        assert f"budget: {billed(server):.4f} of 5 USD\n" in larger
        assert "the budget was spent" not in page.read_text()


def test_a_study_that_is_killed_asks_on_where_it_was(working_folder: Path, tmp_path: Path) -> None:
    with serving(latency="20ms") as server:
        (straight := tmp_path / "straight").mkdir()
        study(straight, server.url)
        rlaif(straight, "compare", "study.yaml", "--out", "out")
    in_flight = 2 * 4  # of two runs at once
    with serving(latency="20ms") as server:
        study(working_folder, server.url)
        for replies in (10, 70):
            process = start(working_folder, "compare", "study.yaml", "--out", "out")
            assert kill_when(process, lambda replies=replies: ledger_rows(working_folder) >= replies)  # type: ignore[misc]
        rlaif(working_folder, "compare", "study.yaml", "--out", "out")
        stats = server.stats()
        assert stats["repeats"] <= 2 * in_flight
        assert CALLS <= stats["answered"] <= CALLS + 2 * in_flight
        assert ledger_rows(working_folder) == CALLS
    one, other = (json.loads((folder / "out" / "compare.json").read_text()) for folder in (straight, working_folder))
    measured = [name for name in one if "usd" not in name and "seconds" not in name]
    assert measured
    assert {name: other[name] for name in measured} == {name: one[name] for name in measured}
    assert one.keys() == other.keys()


@pytest.mark.parametrize("seed", range(5))
def test_several_processes_never_set_aside_more_than_the_budget(seed: int, tmp_path: Path) -> None:
    """Each with a connection of its own, as processes have: calls that cost at most 1 and less in the end, in any order."""
    budget, draw = 20.0, random.Random(seed)
    ledgers = [Ledger(tmp_path / "ledger.sqlite") for _ in range(3)]
    purses = [Purse(ledger, f"run {n}", budget, "pot") for n, ledger in enumerate(ledgers)]

    def held() -> float:
        spent, open_usd = ledgers[0].others_usd("", "pot")
        return spent + open_usd

    async def walk(n: int) -> float:
        spent = 0.0
        for call in range(20):
            if not await purses[n].reserve(1.0):
                break
            await asyncio.sleep(draw.random() / 1000)
            assert held() <= budget + 1e-9
            cost = draw.random()
            if draw.random() < 0.2:  # no reply, and perhaps billed
                purses[n].charge(cost)
                purses[n].settle(1.0, cost)
                spent += cost
                continue
            entry = Entry(f"{n:032x}{call:032x}", "m", Reply(text="a", prompt_tokens=1), "{}", cost, run=f"run {n}")
            ledgers[n].record(entry, asyncio.get_running_loop().create_future())
            purses[n].settle(1.0, cost)
            spent += cost
        await ledgers[n].committed()
        return spent

    async def scenario() -> list[float]:
        return await asyncio.gather(*map(walk, range(3)))

    spent = sum(asyncio.run(scenario()))
    for purse in purses:
        purse.close()
    assert held() == pytest.approx(spent)
    assert budget - 1.0 < spent <= budget  # until not one more would surely fit
    again = Purse(Ledger(tmp_path / "ledger.sqlite"), "another run", budget, "pot")
    assert again.left_usd == pytest.approx(budget - spent)
    for ledger in ledgers:
        ledger.close()


def test_a_run_that_asks_nothing_now_holds_no_money_back(tmp_path: Path) -> None:
    """However much more than they cost its calls might have cost, and though it is not over."""
    ledgers = [Ledger(tmp_path / "ledger.sqlite") for _ in range(2)]
    one, other = (Purse(ledger, name, 10.0, "pot") for ledger, name in zip(ledgers, ("one", "other"), strict=True))

    async def scenario() -> None:
        for _ in range(8):
            assert await one.reserve(1.0)
        for call in range(8):
            entry = Entry(f"{call:064x}", "m", Reply(text="a", prompt_tokens=1), "{}", 0.01, run="one")
            ledgers[0].record(entry, asyncio.get_running_loop().create_future())
            one.settle(1.0, 0.01)
        await ledgers[0].committed()
        assert await one.reserve(1.0)
        one.settle(1.0, 0.0)  # failed, and not billed
        assert await asyncio.wait_for(other.reserve(9.0), 1.0)

    asyncio.run(scenario())
    other.settle(9.0, 0.0)
    assert Purse(Ledger(tmp_path / "ledger.sqlite"), "other", 10.0).pot == "pot"  # whoever walks it


def test_what_a_killed_run_had_under_way_is_spent_of_the_pot(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    killed = Purse(Ledger(path), "killed", 10.0, "pot")
    assert asyncio.run(killed.reserve(6.0))
    ledger = Ledger(path)
    ledger.settle_pot("pot")
    other = Purse(ledger, "other", 10.0, "pot")
    assert not asyncio.run(other.reserve(6.0))
    assert asyncio.run(other.reserve(2.0))
    alone = Purse(ledger, "of no pot", 10.0)
    assert asyncio.run(alone.reserve(10.0))
