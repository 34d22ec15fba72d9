"""Kahneman-Tversky optimisation: its loss by hand and beside TRL's, its reference point, and what it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlaif.models.local import LocalModel
from rlaif.policy.kto import KTO, _Trainer, mismatched_steps
from rlaif.training.batching import Group, group_preferences, held_out
from rlaif.training.losses import kto_loss
from rlaif.training.trainer import Watch
from tests.test_training import context_of, log_ratios, planted
from tests.test_training_losses import hard_groups, shaken


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_loss_by_hand() -> None:
    # the first desirable with 0.8, the second with 0.2; z 0.5, lambdas 1 and 2
    loss = kto_loss(number(1.5), number(-0.5), number(0.8), number(3.0), 0.5, 1.0, 2.0)
    first = 0.8 * sigma(-1.0) + 0.2 * 2 * sigma(1.0)
    second = 0.2 * sigma(1.0) + 0.8 * 2 * sigma(-1.0)
    assert float(loss) == pytest.approx(3 * (first + second) / 2)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 3))
def test_which_response_is_named_first_changes_nothing(one: float, other: float, p: float, z: float) -> None:
    there = kto_loss(number(one), number(other), number(p), number(1.0), z, 1.0, 1.3)
    back = kto_loss(number(other), number(one), number(1 - p), number(1.0), z, 1.0, 1.3)
    assert float(there) == pytest.approx(float(back), rel=1e-12)


def trainer_of(
    model: LocalModel, network: Any, reference: Any, groups: Sequence[Group], folder: Path, **options: Any
) -> _Trainer:
    found = _Trainer(network, groups, KTO.Options(**{"batch_prompts": len(groups), **options}), folder, 0, Watch())
    found.pad_id = model.tokens.pad_id
    found.look_at_reference(reference, 256)
    return found


def test_the_loss_equals_trls(base: LocalModel, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    tuned, start = shaken(base)  # this way round the mean of log π − log π_ref is above 0
    groups = hard_groups(base)
    ours = trainer_of(base, tuned, start, groups, tmp_path / "ours", beta=0.3, undesirable_weight=1.5)
    (mismatched,) = ours.mismatched
    other = {group.prompt: group.responses[0] for group in mismatched}
    rows = [
        {
            "prompt_ids": list(g.prompt), "completion_ids": list(response), "KL_completion_ids": list(other[g.prompt]),
            "label": good,
        }
        for g in groups for response, good in zip(g.responses, (True, False), strict=True)
    ]  # fmt: skip
    theirs = trl.KTOTrainer(
        tuned,
        ref_model=start,
        args=trl.KTOConfig(
            output_dir=str(tmp_path / "theirs"), beta=0.3, undesirable_weight=1.5, bf16=False, gradient_checkpointing=False,
            use_cpu=True, report_to="none", per_device_train_batch_size=4,
        ),
        train_dataset=Dataset.from_list([{"prompt": f"hi {i}", "completion": " you", "label": i % 2 == 0} for i in range(8)]),
        processing_class=base.tokens.hf,
    )  # fmt: skip
    with torch.no_grad():
        expected = theirs.compute_loss(theirs.model, theirs.data_collator(rows))
        found = ours.compute_loss(tuned, {"micro_batch": 0})
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert ours.point[1] > 0.05


def test_the_loss_and_its_point_do_not_depend_on_how_a_step_is_split(base: LocalModel, tmp_path: Path) -> None:
    tuned, start = shaken(base)  # this way round the mean of log π − log π_ref is above 0
    groups = hard_groups(base, 8)
    losses, points = [], []
    for tokens in (4096, sum(group.tokens for group in groups) // 2, 1):
        trainer = trainer_of(base, tuned, start, groups, tmp_path / str(tokens), micro_batch_tokens=tokens, beta=0.3)
        with torch.no_grad():
            losses.append(sum(float(trainer.compute_loss(tuned, {"micro_batch": i})) for i in range(trainer.split)))
        points.append(trainer.point[1])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert points == pytest.approx([points[0]] * 3, rel=1e-6)
    assert points[0] > 0.05


def test_mismatched_rows_are_prompts_with_others_responses_whatever_the_labels(base: LocalModel) -> None:
    groups = hard_groups(base, 5)
    steps = mismatched_steps(groups, [[0, 1], [2], [3], [4]], 2, 256)
    assert [[group.prompt_id for group in step] for step in steps] == [
        [groups[i].prompt_id for i in step] for step in ((0, 1, 2), (3, 4))
    ]
    assert [group.responses[0] for step in steps for group in step] == [
        groups[i].responses[0] for i in (1, 2, 3, 4, 0)
    ]  # the last has the first's
    assert mismatched_steps(groups[:1], [[0]], 1, 256) == [[]]  # one prompt alone has no other's response
    assert mismatched_steps(groups, [[0, 1]], 1, 3) == [[]]  # too long


def test_it_learns_a_planted_rule(base: LocalModel, tmp_path: Path) -> None:
    rows = planted(64)
    report = KTO(KTO.Options(learning_rate=3e-3, epochs=4, beta=0.3, batch_prompts=8), "test").train(
        context_of(base, rows, tmp_path)
    )
    assert report.history[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # at the reference every sigma is one half
    margins = log_ratios(base, tmp_path / "policy", [row for row in rows if held_out(row.prompt_id, 0.25, 0)])
    assert sum(m > 0 for m in margins) / len(margins) >= 0.85


def test_a_pair_of_no_weight_changes_nothing_but_the_point(base: LocalModel, tmp_path: Path) -> None:
    start, tuned = shaken(base)
    rows = planted(6)
    some = [row.model_copy(update={"weight": 0.0}) if i % 3 == 0 else row for i, row in enumerate(rows)]
    other = [row.model_copy(update={"p": 0.7}) if row.weight == 0 else row for row in some]
    losses = []
    for n, each in enumerate((some, other)):
        groups = group_preferences(each, base.tokens, 256).groups
        trainer = trainer_of(base, tuned, start, groups, tmp_path / str(n))
        with torch.no_grad():
            losses.append(float(trainer.compute_loss(tuned, {"micro_batch": 0})))
    assert losses[0] == losses[1]
