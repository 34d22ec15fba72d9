"""Texts that are learnt beside PPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.errors import DataError
from rlaif.models.local import LocalModel
from rlaif.policy.ppo import PPO
from tests import tiny
from tests.test_online import Given, gradients, method_of, rolled, trainer_of


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_texts_are_learnt_beside_by_their_weight(base: LocalModel, tmp_path: Path) -> None:
    """The gradient of an update is PPO's and γ times that of the mean of −log π over the texts' tokens."""
    texts = [" ".join(tiny.WORDS[i : i + 5]) for i in range(3)]
    tiny.write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    spec = {"source": str(tmp_path / "texts.jsonl"), "weight": 0.5, "texts": 3}

    def gradient(**options: Any) -> dict[str, torch.Tensor]:
        trainer = trainer_of(PPO, base, tmp_path, max_gradient_norm=1e9, **options)
        part = rolled(trainer, Given())
        trainer.prepare([part])
        trainer.learn(part)
        taken: dict[str, torch.Tensor] = {}
        trainer.optimizer.step = lambda: taken.update(gradients(trainer))
        trainer.update()
        return taken

    alone, beside = gradient(), gradient(pretraining=spec)
    network = trainer_of(PPO, base, tmp_path).network
    total = tokens = 0.0
    for text in texts:
        ids = torch.tensor([base.tokens.text_ids(text)])
        logprobs = network(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
        total, tokens = total - logprobs.sum(), tokens + ids.shape[1] - 1
    (0.5 * total / tokens).backward()
    for name, parameter in network.named_parameters():
        added = beside[f"policy.{name}"] - alone[f"policy.{name}"]
        assert torch.allclose(added, parameter.grad, atol=1e-5), name


def test_texts_without_a_text_are_one_line(base: LocalModel, tmp_path: Path) -> None:
    tiny.write_jsonl(tmp_path / "texts.jsonl", [{"words": "no"}])
    with pytest.raises(DataError, match="no text: expected a column text, found words"):
        method_of(PPO, pretraining={"source": str(tmp_path / "texts.jsonl")})
