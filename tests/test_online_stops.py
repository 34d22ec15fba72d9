"""Online trainings that stop or fail in the midst of a step, and checkpoints that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.errors import RlaifError, UserError
from rlaif.models.local import LocalModel
from rlaif.policy import Items, Rewarded
from rlaif.policy.ppo import PPO
from rlaif.policy.rloo import RLOO
from rlaif.training.checkpoints import last_checkpoint
from rlaif.training.rollouts import Rollouts
from rlaif.training.trainer import Interrupted, Watch
from tests.test_online import Given, context_of, method_of, train


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_step_that_has_begun_to_move_weights_is_finished_before_a_stop(
    after: int, base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"accumulation": 2, "minibatches": 2, "inner_epochs": 2, "checkpoints": 1, "epochs": 2}
    straight = train(method_of(PPO, **settings), context_of(base, tmp_path / "straight"))
    told: list[int] = []
    watch = Watch(report=lambda step, steps, figures: told.append(step))
    context = context_of(base, tmp_path / "stopped", watch=watch)
    learn, learnt = PPO.trainer.learn, 0

    def counted(self: Any, part: Rollouts) -> None:
        nonlocal learnt
        learn(self, part)
        learnt += 1
        if learnt == 8 + after:  # in the third step
            context.watch.stop.set()

    monkeypatch.setattr(PPO.trainer, "learn", counted)
    with pytest.raises(Interrupted):
        train(method_of(PPO, **settings), context)
    assert [path.name for path in context.work.glob("checkpoint-*")] != ["checkpoint-0"]
    monkeypatch.setattr(PPO.trainer, "learn", learn)
    again = replace(context, watch=Watch(report=watch.report))
    assert train(method_of(PPO, **settings), again).history == straight.history
    assert told == list(range(1, len(straight.history) + 1))  # each step once, that one too
    one, other = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_was_learnt_before_a_reward_failed_is_kept(base: LocalModel, tmp_path: Path) -> None:
    class Failing(Given):
        async def __call__(self, items: Items) -> list[list[Rewarded]]:
            if len(self.asked) == 4:
                raise RlaifError("the judge is out of reach")
            return await super().__call__(items)

    context = context_of(base, tmp_path, Failing())
    with pytest.raises(RlaifError, match="out of reach"):
        train(method_of(RLOO, epochs=2, checkpoints=1), context)
    assert sorted(path.name for path in context.work.glob("checkpoint-*")) == ["checkpoint-0", "checkpoint-4"]


def test_a_checkpoint_of_another_optimiser_is_refused_in_one_line(base: LocalModel, tmp_path: Path) -> None:
    watch = Watch()
    watch.report = lambda step, steps, figures: watch.stop.set()
    method = method_of(RLOO, steps=2)
    with pytest.raises(Interrupted):
        train(method, context_of(base, tmp_path, watch=watch))
    folder = last_checkpoint(tmp_path / "work")
    assert folder is not None
    kept = folder / "state.pt"
    tensors = torch.load(kept, weights_only=True)
    one, other = tensors["optimizer"]["param_groups"]
    one["params"] += other["params"]
    torch.save({**tensors, "optimizer": {**tensors["optimizer"], "param_groups": [one]}}, kept)
    with pytest.raises(UserError, match="had 1 groups of weights, not 2"):
        train(method, context_of(base, tmp_path))
