"""Conversations along the way of a training: what a policy says, what a reward model makes of its pairs; and they move nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.models.local import LocalModel
from rlaif.policy.dpo import DPO
from rlaif.policy.kto import KTO
from rlaif.policy.sft import SFT
from rlaif.records import Message, Preference
from rlaif.training.batching import held_out
from rlaif.training.trainer import SHOWN, SHOWN_TOKENS, Interrupted, ShownPrompts, Watch
from tests.test_training import context_of, planted, stop_at, train_reward, weights

ROWS = planted(40)
SETTINGS: dict[str, Any] = {"learning_rate": 2e-2, "batch_prompts": 8, "schedule": "constant"}
METHODS: list[Any] = [DPO, KTO, SFT]


def prompts(rows: Sequence[Preference]) -> dict[str, bool]:
    """Texts of prompts, in order, and whether each is held out."""
    return {row.prompt[0].content: held_out(row.prompt_id, 0.25, 0) for row in rows}


def heard() -> tuple[list[Any], Watch]:
    said: list[Any] = []
    return said, Watch(say=lambda step, samples: said.extend((step, each["prompt"]) for each in samples))


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_a_policy_says_something_to_held_out_prompts_as_it_learns(kind: Any, base: LocalModel, tmp_path: Path) -> None:
    said, watch = heard()
    report = kind(kind.Options(**SETTINGS), "test").train(context_of(base, ROWS, tmp_path, watch))
    assert len(report.history) == 4
    asked = [text for text, out in prompts(ROWS).items() if out][:SHOWN]
    assert said == [(step, text) for step in (1, 2, 4) for text in asked]
    assert [(each["step"], each["prompt"]) for each in report.samples] == said
    answers = [[each["response"] for each in report.samples if each["step"] == step] for step in (1, 4)]
    assert answers[0] != answers[1]  # by the same draws: the weights have moved


def test_what_was_shown_before_a_stop_is_kept(base: LocalModel, tmp_path: Path) -> None:
    method = DPO(DPO.Options(**SETTINGS, checkpoints=4), "test")
    straight = method.train(context_of(base, ROWS, tmp_path / "straight"))
    with pytest.raises(Interrupted):
        method.train(context_of(base, ROWS, tmp_path / "stopped", stop_at(2)))
    assert method.train(context_of(base, ROWS, tmp_path / "stopped")) == straight


def test_a_reward_model_of_few_labels_shows_those(base: LocalModel, tmp_path: Path) -> None:
    report = train_reward(base, ROWS, tmp_path, labels=4, **SETTINGS)
    assert len({each["prompt"] for each in report.samples}) == 2


def test_a_prompt_that_is_too_long_to_answer_is_not_shown(base: LocalModel, tmp_path: Path) -> None:
    longest = max(len(base.tokens.prompt_ids(row.prompt)) for row in ROWS if held_out(row.prompt_id, 0.25, 0))
    method = DPO(DPO.Options(**SETTINGS, max_tokens=SHOWN_TOKENS + longest - 1), "test")
    report = method.train(context_of(base, ROWS, tmp_path))
    shown = {each["prompt"] for each in report.samples}
    assert len(shown) == SHOWN
    for row in ROWS:
        if row.prompt[0].content in shown:
            assert len(base.tokens.prompt_ids(row.prompt)) < longest


def test_a_reward_model_shows_what_it_makes_of_its_own_pairs(base: LocalModel, tmp_path: Path) -> None:
    said, watch = heard()
    report = train_reward(base, ROWS, tmp_path, watch, **SETTINGS)
    learnt = [text for text, out in prompts(ROWS).items() if not out][:SHOWN]
    assert {(step, text) for step in (1, 2, 4) for text in learnt} == set(said)
    last = [each for each in report.samples if each["step"] == 4 and each["prompt"] == learnt[0]]
    assert [each["label"] == "preferred" for each in last] == ["water" in each["response"] for each in last]
    assert len(last) == 3
    first = [each for each in report.samples if each["step"] == 1 and each["prompt"] == learnt[0]]
    assert [each["reward"] for each in first] != [each["reward"] for each in last]


@pytest.mark.parametrize("kind", ["reward", *METHODS], ids=lambda kind: getattr(kind, "name", kind))
def test_what_is_shown_moves_nothing(
    kind: Any, base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: Path) -> dict[str, torch.Tensor]:
        if kind == "reward":
            train_reward(base, ROWS, folder, **SETTINGS)
            return weights(folder / "reward")
        kind(kind.Options(**SETTINGS), "test").train(context_of(base, ROWS, folder))
        return weights(folder / "policy")

    shown = train(tmp_path / "shown")
    monkeypatch.setattr(ShownPrompts, "prompts", {})
    silent = train(tmp_path / "silent")
    assert all(torch.equal(values, silent[name]) for name, values in shown.items())


def test_prompts_that_are_wanted_come_first_and_no_prompt_twice() -> None:
    told = [f"p{i}" for i in (0, 0, 1, 2, 3, 4, 5)]
    shown = ShownPrompts(lambda prompt: prompt == "p4")
    assert list(shown.of(told, lambda text: (text, (Message(role="user", content=text),)))) == told
    assert [(name, prompt.text) for name, prompt in shown.prompts.items()] == [
        (p, p) for p in ("p4", "p0", "p1", "p2", "p3", "p5")
    ]
