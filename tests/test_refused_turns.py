"""Rows whose turns the model's chat template refuses: left out of what is trained on and scored, and counted; the rest goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import RlaifError
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.policy.best_of_n import BestOfN
from rlaif.policy.rloo import RLOO
from rlaif.policy.sft import SFT
from rlaif.records import Message, Preference, Prompt, Response
from rlaif.reward import RewardModel
from rlaif.training.batching import held_out
from tests import make, tiny
from tests.runs import rlaif
from tests.test_online import context_of as online_context
from tests.test_online import method_of, prompts
from tests.test_online import train as online
from tests.test_training import context_of, planted, said, train_reward, tune, user

QUESTION = make.prompt()
TWICE = (Message(role="user", content="hello"), Message(role="user", content="are you there"))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A model whose template wants turns to alternate."""
    folder = tiny.build(tmp_path_factory.mktemp("strict") / "model", template=tiny.ALTERNATING)
    return LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)


def twice(count: int) -> list[Preference]:
    return [
        Preference(
            prompt=TWICE, chosen=said(f"yes {i}"), rejected=said("no"), p=1.0, weight=1.0, prompt_id=f"twice {i}",
            comparison_id=f"twice {i}",
        )
        for i in range(count)
    ]  # fmt: skip


def test_preferences_of_refused_turns_are_counted_and_the_others_learnt(strict: LocalModel, tmp_path: Path) -> None:
    rows = planted(12)
    mixed = [*twice(3), *rows, *twice(5)[3:]]
    report = train_reward(strict, mixed, tmp_path)
    assert report.account["outcomes"]["refused by the chat template"] == 5
    assert report.account["in"] == len(mixed)
    assert report.history == train_reward(strict, rows, tmp_path / "without").history
    assert tune(strict, mixed, tmp_path / "a") == tune(strict, rows, tmp_path / "b")
    policy = SFT(SFT.Options(batch_prompts=4), "test").train(context_of(strict, mixed, tmp_path / "sft"))
    assert policy.account
    learnt = sum(not held_out(row.prompt_id, 0.25, 0) for row in twice(5))
    assert policy.account["outcomes"]["refused by the chat template"] == learnt > 0
    assert all("are you there" not in sample["prompt"] for sample in policy.samples)
    assert policy.samples


def test_where_all_are_refused_it_says_so(strict: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(
        RlaifError, match=r"\d+ of turns that the chat template refuses.*a model whose chat template takes"
    ):
        tune(strict, twice(9), tmp_path)


def test_prompts_of_refused_turns_are_not_sampled_online_and_counted(strict: LocalModel, tmp_path: Path) -> None:
    asked = [*prompts(6), Prompt(messages=TWICE), make.prompt("how " * 600)]
    report = online(method_of(RLOO, batch_prompts=2, epochs=1), online_context(strict, tmp_path, prompts=lambda: asked))
    assert report.account
    assert report.account["outcomes"] == {
        "trained on": 6, "held out": 0, "too long": 1, "refused by the chat template": 1,
    }  # fmt: skip
    assert report.account["in"] == 8


def test_the_best_of_replies_without_a_reward_is_none() -> None:
    method = BestOfN(BestOfN.Options(n=3), "test")
    replies = [
        [Response(prompt_id=QUESTION.id, messages=said(text), sample_index=i) for i, text in enumerate("abc")]
        for _ in range(3)
    ]
    rewards: list[list[float | None]] = [[None, 1.0, 1.0], [None, None, None], [None, -2.0, -1.0]]

    async def sample(model: Any, prompts: Any, count: int) -> Any:
        return replies

    async def reward(items: Any) -> Any:
        return rewards

    best = asyncio.run(method.respond([QUESTION] * 3, None, sample, reward))
    assert [one and one.text for one in best] == ["b", None, "c"]


def test_demonstrations_of_refused_turns_are_counted(strict: LocalModel, tmp_path: Path) -> None:
    turns = [turn.model_dump() for turn in TWICE]
    rows: list[dict[str, Any]] = [{"prompt": f"say {i}", "response": f"word {i}"} for i in range(12)]
    rows += [{"messages": [*turns, {"role": "assistant", "content": "yes"}]}]
    path = str(tiny.write_jsonl(tmp_path / "said.jsonl", rows))
    report = SFT(SFT.Options(demonstrations=path, batch_prompts=4), "test").train(context_of(strict, [], tmp_path))
    assert report.account
    outcomes = report.account["outcomes"]
    assert outcomes["refused by the chat template"] == 1
    assert (report.account["in"], sum(outcomes.values())) == (13, 13)


def test_their_responses_have_no_reward(strict: LocalModel, tmp_path: Path) -> None:
    train_reward(strict, planted(12), tmp_path)
    folder = tmp_path / "reward"
    model = RewardModel(folder, LocalOptions(device="cpu"), where="test", notice=lambda line: None)
    fine = (user("hi"), [(said("one"), True), (said("two three"), True)])
    alone = model([fine])
    refused = (TWICE, [(said("one"), True)])
    assert model([refused, fine, refused]) == [[None], *alone, [None]]
    in_part = (user("hi"), [(said("one"), True), ((*said("a"), *said("b")), True), (said("two three"), True)])
    assert model([in_part]) == [[alone[0][0], None, alone[0][1]]]


def test_scoring_a_file_counts_its_refused_rows(strict: LocalModel, tmp_path: Path) -> None:
    train_reward(strict, planted(12), tmp_path)
    turns = [turn.model_dump() for turn in TWICE]
    rows = [{"prompt": "hi", "chosen": "one two", "rejected": "x"}, {"prompt": turns, "chosen": "one", "rejected": "x"}]
    tiny.write_jsonl(tmp_path / "set.jsonl", rows)
    told = rlaif(tmp_path, "reward", "score", "reward", "--file", "set.jsonl", "--out", "scored.jsonl")
    assert "1 rows have responses whose reward is null: null, longer" in told
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [row["reward_chosen"] is None for row in scored] == [False, True]
    told = rlaif(tmp_path, "reward", "test", "reward", "--file", "set.jsonl")
    assert "1 of 2 rows, left out of all figures" in told
