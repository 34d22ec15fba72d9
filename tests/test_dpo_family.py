"""Conservative, robust and identity preference optimisation: by hand, beside TRL's, and on labels of known noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from rlaif.models.local import LocalModel
from rlaif.policy.dpo import DPO
from rlaif.training.batching import held_out
from rlaif.training.losses import ipo_loss, smoothed, soft_preference_loss, unflipped
from tests.test_training import context_of, log_ratios, planted, tune
from tests.test_training_losses import hard_groups, loss_of, shaken, trl_rows


def number(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ipo_by_hand() -> None:
    # tau 0.5: p 1 wants u = 1, p 0 wants -1, p 0.5 wants 0: (1.5 - 1)^2 + 2 * (0.5 + 1)^2 + 3 * 0.25^2
    loss = ipo_loss(number([1.5, 0.5, 0.25]), number([1.0, 0.0, 0.5]), number([1.0, 2.0, 3.0]), 0.5)
    assert float(loss) == pytest.approx(0.25 + 4.5 + 0.1875)


@given(st.floats(-3, 3), st.floats(0, 1), st.floats(0.05, 2))
def test_soft_ipo_is_the_expected_hard_one_but_for_a_constant(u: float, p: float, tau: float) -> None:
    soft, better, worse = (float(ipo_loss(number([u]), number([q]), number([1.0]), tau)) for q in (p, 1.0, 0.0))
    assert soft + p * (1 - p) / tau**2 == pytest.approx(p * better + (1 - p) * worse, rel=1e-9, abs=1e-9)


def test_conservative_labels_by_hand() -> None:
    assert smoothed(number([1.0, 0.0, 0.5, 0.8]), 0.1).tolist() == pytest.approx([0.9, 0.1, 0.5, 0.74])
    # -0.9 log sigma(2) - 0.1 log sigma(-2) = 0.9 * 0.126928 + 0.1 * 2.126928
    loss = soft_preference_loss(number([2.0]), smoothed(number([1.0]), 0.1), number([1.0]))
    assert float(loss) == pytest.approx(0.326928, abs=1e-6)


def test_robust_labels_by_hand() -> None:
    # (0.9 * 0.126928 - 0.1 * 2.126928) / 0.8
    loss = soft_preference_loss(number([2.0]), unflipped(number([1.0]), 0.1), number([1.0]))
    assert float(loss) == pytest.approx(-0.123072, abs=1e-6)


@given(st.floats(-4, 4), st.floats(0, 1), st.floats(0, 0.45))
def test_robust_labels_undo_flips_on_average(h: float, p: float, rate: float) -> None:
    def loss(q: float) -> float:
        return float(soft_preference_loss(number([h]), unflipped(number([q]), rate), number([1.0])))

    true = float(soft_preference_loss(number([h]), number([p]), number([1.0])))
    assert (1 - rate) * loss(p) + rate * loss(1 - p) == pytest.approx(true, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("theirs", "loss", "options"),
    [
        ("ipo", "ipo", {}),
        ("robust", "sigmoid", {"flip_rate": 0.2}),
    ],
)
def test_the_loss_equals_trls(
    base: LocalModel,
    tmp_path: Path,
    theirs: str,
    loss: str,
    options: dict[str, Any],
) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    start, tuned = shaken(base)
    groups = hard_groups(base)
    rows = trl_rows(groups)
    trainer = trl.DPOTrainer(
        tuned,
        ref_model=start,
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=0.3, loss_type=[theirs], label_smoothing=options.get("flip_rate", 0.0), bf16=False,
            gradient_checkpointing=False, use_cpu=True, report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": "hi", "chosen": " you", "rejected": " no"}]),
        processing_class=base.tokens.hf,
    )  # fmt: skip
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model, trainer.data_collator(rows)))
    ours = loss_of(DPO.trainer, DPO.Options(beta=0.3, loss=loss, **options), tuned, groups, tmp_path, reference=start)
    assert ours == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "ipo"},
        {"loss": "ipo", "length_average": False, "beta": 0.05},
        {"label_smoothing": 0.1},
        {"flip_rate": 0.1},
    ],
)
def test_each_learns_a_planted_rule(base: LocalModel, tmp_path: Path, options: dict[str, Any]) -> None:
    rows = planted(64)
    tune(base, rows, tmp_path, **{"epochs": 4, "beta": 0.3, **options})
    margins = log_ratios(base, tmp_path / "policy", [row for row in rows if held_out(row.prompt_id, 0.25, 0)])
    assert sum(m > 0 for m in margins) / len(margins) >= 0.85


def test_the_first_loss_is_that_of_a_policy_that_is_its_reference(base: LocalModel, tmp_path: Path) -> None:
    # u = 0: ((1 - 0.5) / 0.4)^2
    history = tune(base, planted(8), tmp_path, loss="ipo", beta=0.4)
    assert history[0]["loss"] == pytest.approx((0.5 / 0.4) ** 2, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label_smoothing": 0.1, "flip_rate": 0.1}, "set one of them"),
        ({"flip_rate": 0.5}, "less than 0.5"),
        ({"length_average": False}, "is of loss: ipo"),
        ({"loss": "hinge"}, "'sigmoid' or 'ipo'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DPO.Options(**options)


def test_smoothing_bounds_what_is_learnt(base: LocalModel, tmp_path: Path) -> None:
    """The optimum of h is logit(1 - eps): with smoothing the policy goes less far from its reference."""
    rows = planted(32)
    far = {}
    for rate in (0.0, 0.3):
        tune(base, rows, tmp_path / str(rate), epochs=6, beta=0.3, label_smoothing=rate)
        far[rate] = sum(map(abs, log_ratios(base, tmp_path / str(rate) / "policy", rows)))
    assert far[0.3] < far[0.0]
    assert math.isfinite(far[0.0])


def test_the_reference_is_computed_once_for_all_methods_of_a_run(
    base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from rlaif.policy import offline

    passes: list[int] = []
    plain = offline.sequence_logprobs

    def counted(network: Any, groups: Any, *rest: Any, **named: Any) -> Any:
        passes.append(len(groups))
        return plain(network, groups, *rest, **named)

    monkeypatch.setattr(offline, "sequence_logprobs", counted)
    rows = planted(12)
    weights = []
    for name, kept in (("alone", None), ("first", tmp_path / "kept"), ("second", tmp_path / "kept")):
        context = replace(context_of(base, rows, tmp_path / name), kept=kept)
        DPO(DPO.Options(batch_prompts=4, learning_rate=1e-3), "test").train(context)
        weights.append(load_file(tmp_path / name / "policy" / "model.safetensors"))
    assert len(passes) == 2
    assert all(torch.equal(value, other[name]) for other in weights[1:] for name, value in weights[0].items())
    context = replace(context_of(base, planted(12, seed=1), tmp_path / "other"), kept=tmp_path / "kept")
    DPO(DPO.Options(batch_prompts=4), "test").train(context)
    assert len(passes) == 3
