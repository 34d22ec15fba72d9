"""Contract 8 for every loss on preferences: however a step is split, with prompts shared or in every row, its loss is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.models.local import LocalModel, LocalOptions, load_network
from rlaif.policy.dpo import DPO
from rlaif.policy.kto import KTO
from rlaif.policy.sft import SFT
from rlaif.reward import RewardOptions, _RankingTrainer, _RewardTrainer
from rlaif.training.batching import Group, group_preferences, worths
from rlaif.training.finetuning import FineTuner, demonstrated
from rlaif.training.networks import initialise_head
from rlaif.training.trainer import Watch
from tests import tiny
from tests.test_training import planted

LOSSES: dict[str, tuple[Any, Callable[..., Any]]] = {
    "pairs": (_RewardTrainer, lambda **own: RewardOptions(margin=0.3, **own)),
    "plackett-luce": (_RankingTrainer, lambda **own: RewardOptions(loss="plackett-luce", **own)),
    "dpo": (DPO.trainer, lambda **own: DPO.Options(label_smoothing=0.1, **own)),
    "robust": (DPO.trainer, lambda **own: DPO.Options(flip_rate=0.1, **own)),
    "ipo": (DPO.trainer, lambda **own: DPO.Options(loss="ipo", **own)),
    "kto": (KTO.trainer, lambda **own: KTO.Options(undesirable_weight=1.5, **own)),
    "sft": (FineTuner, lambda **own: SFT.Options(**own)),
}
# two with a sliding window; gpt2 computes all of its layers in float64
ARCHITECTURES = [(name, torch.float32) for name in ("llama", "qwen3", "mistral", "gemma3")] + [("gpt2", torch.float64)]


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=[name for name, _ in ARCHITECTURES])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalModel, torch.dtype]:
    name, dtype = request.param
    folder = tiny.build(tmp_path_factory.mktemp(name) / "start", name, hidden=32, context=256)
    model = LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
    return model, dtype


def learnt_from(base: LocalModel, *, weighed: bool) -> list[Group]:
    """Uneven lengths, weights and probabilities, ties and pairs without a label; ``weighed``: as fine-tuning takes them."""
    rows = [
        row.model_copy(update={"weight": float(i % 4), "p": 0.5 + (i % 6) / 10}) for i, row in enumerate(planted(8))
    ]
    groups = group_preferences(rows, base.tokens, 200).groups
    if not weighed:
        return groups
    return [
        demonstrated(g.prompt_id, g.prompt, [(ids, max(0.0, w)) for ids, w in zip(g.responses, worths(g), strict=True)])
        for g in groups
    ]


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_depends_on_how_a_step_is_split(
    loss: str, start: tuple[LocalModel, torch.dtype], tmp_path: Path
) -> None:
    base, dtype = start
    kind, options = LOSSES[loss]
    network = load_network(base.folder, base.options, "float32", "test", head=kind.head).to(dtype).eval()
    network.config.pad_token_id = base.tokens.pad_id
    if kind.head:
        initialise_head(network, 0)
        network.score.weight.data.mul_(50)
    reference = load_network(base.folder, base.options, "float32", "test").to(dtype).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    groups = learnt_from(base, weighed=loss == "sft")
    two = 2 * max(group.tokens for group in groups)
    losses, splits = [], []
    for tokens, share in ((4096, True), (two, True), (1, True), (4096, False)):
        trainer = kind(network, groups, options(batch_prompts=8, micro_batch_tokens=tokens), tmp_path, 0, Watch())
        trainer.pad_id, trainer.share = base.tokens.pad_id, share
        with torch.no_grad():
            if hasattr(trainer, "look_at_reference"):
                trainer.look_at_reference(reference, 256)
            parts = [float(trainer.compute_loss(network, {"micro_batch": i})) for i in range(trainer.split)]
        losses.append(sum(parts))
        splits.append(trainer.split)
    assert splits[0] == splits[3] == 1 < splits[1] < splits[2] == 8
    assert losses[0]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-9 if dtype == torch.float64 else 1e-6)
