"""The losses of training on preferences: by hand, beside TRL's, and what of a network must not change them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.errors import ModelError
from rlaif.models.local import LocalModel, LocalOptions, load_network
from rlaif.models.rows import Rows
from rlaif.models.shared_prompt import token_logprobs
from rlaif.policy.dpo import DPO
from rlaif.reward import (
    RewardOptions,
    _RewardTrainer,
    raw_rewards,
)
from rlaif.training.batching import Group
from rlaif.training.losses import soft_preference_loss
from rlaif.training.networks import initialise_head
from rlaif.training.passes import rows_of
from rlaif.training.trainer import Watch
from tests import tiny
from tests.test_training import planted, tune

# --- losses -----------------------------------------------------------------------------------------------------------


def test_soft_loss_by_hand() -> None:
    """−log σ(2) = log(1 + e⁻²) = 0.126928; 2·[¼·log(1 + e) + ¾·log(1 + e⁻¹)] = 2·(0.328315 + 0.234946) = 1.126523."""
    loss = soft_preference_loss(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.25]), torch.tensor([1.0, 2.0]))
    assert float(loss) == pytest.approx(0.126928 + 1.126523, abs=2e-6)


def test_soft_loss_is_weighted_log_two_where_rewards_are_equal() -> None:
    loss = soft_preference_loss(torch.zeros(3), torch.tensor([0.0, 0.3, 1.0]), torch.tensor([1.0, 0.5, 0.0]))
    assert float(loss) == pytest.approx(1.5 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.83, 0.99])
def test_soft_loss_is_least_at_the_logit_of_p(p: float) -> None:
    d = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64, requires_grad=True)
    soft_preference_loss(d, torch.tensor([p], dtype=torch.float64), torch.ones(1)).backward()
    assert d.grad is not None
    assert float(d.grad) == pytest.approx(0, abs=1e-12)


def test_swapping_the_sides_with_p_changes_no_loss() -> None:
    d, p = torch.randn(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    one = soft_preference_loss(d, p, torch.ones(20))
    assert float(soft_preference_loss(-d, 1 - p, torch.ones(20))) == pytest.approx(float(one), rel=1e-14)


def test_soft_loss_stays_finite_far_out() -> None:
    d = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = soft_preference_loss(d, torch.tensor([0.5, 1.0]), torch.ones(2))
    loss.backward()
    assert loss.item() == pytest.approx(15_000)
    assert d.grad is not None
    assert torch.isfinite(d.grad).all()


# --- the same loss as TRL's -------------------------------------------------------------------------------------------


def hard_groups(base: LocalModel, count: int = 6) -> list[Group]:
    """One pair a prompt, the first better: what TRL's collators take."""
    rows = planted(count)[::2]
    return [
        Group(
            row.prompt_id,
            tuple(base.tokens.prompt_ids(row.prompt)),
            [tuple(base.tokens.response_ids(row.prompt, side)) for side in (row.chosen, row.rejected)],
            [(0, 1)],
            [1.0],
            [1.0],
        )
        for row in rows
    ]


def shaken(start: LocalModel) -> tuple[Any, Any]:
    """The start's network, and another with its weights a little off."""
    one, other = (load_network(start.folder, start.options, "float32", "test") for _ in range(2))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return one, other


def trl_rows(groups: Sequence[Group]) -> list[dict[str, list[int]]]:
    """Hard pairs as TRL's DPO collator takes them."""
    return [
        {"prompt_ids": list(g.prompt), "chosen_ids": list(g.responses[0]), "rejected_ids": list(g.responses[1])}
        for g in groups
    ]


def loss_of(
    kind: type[Any], settings: Any, network: Any, groups: list[Group], folder: Path, reference: Any = None
) -> float:
    """Our trainer's loss of all groups as one step, by networks as they are."""
    trainer = kind(network.eval(), groups, settings, folder / "ours", 0, Watch())
    if reference is not None:
        trainer.look_at_reference(reference.eval(), 4096)
    with torch.no_grad():
        return float(trainer.compute_loss(network, {"micro_batch": 0}))


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_reward_loss_equals_trls(base: LocalModel, tmp_path: Path, margin: float) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    network = load_network(base.folder, base.options, "float32", "test", head=True)
    initialise_head(network, 0)
    network.config.pad_token_id = base.tokens.pad_id
    with torch.no_grad():
        network.score.weight.mul_(50)  # an untrained network's rewards are nearly equal, and the loss log 2
    groups = hard_groups(base)
    rows: list[dict[str, Any]] = [
        {"chosen_ids": [*g.prompt, *g.responses[0]], "rejected_ids": [*g.prompt, *g.responses[1]]} for g in groups
    ]
    rows = [{**row, "margin": margin} for row in rows] if margin else rows
    trainer = trl.RewardTrainer(
        network,
        args=trl.RewardConfig(
            output_dir=str(tmp_path), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none"
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=base.tokens.hf,
    )
    with torch.no_grad():
        theirs = float(trainer.compute_loss(network, trainer.data_collator(rows)))
    ours = loss_of(_RewardTrainer, RewardOptions(margin=margin), network, groups, tmp_path)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours - math.log(2)) > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bloom", "falcon", "gpt_neox"])
def test_no_architecture_drops_anything_out_while_it_learns(architecture: str, tmp_path: Path) -> None:
    """Reference and policy are one at first, and the loss is log 2; what is written has the dropout it came with."""
    folder = tiny.build(tmp_path / "start", architecture, hidden=32)
    config = json.loads((folder / "config.json").read_text())
    rates = dict.fromkeys(DROPOUT[architecture], 0.1)
    (folder / "config.json").write_text(json.dumps({**config, **rates}))
    start = LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
    history = tune(start, planted(24), tmp_path, epochs=1)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    written = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert {name: written[name] for name in rates} == rates


DROPOUT = {
    "llama": ["attention_dropout"],
    "gpt2": ["attn_pdrop", "embd_pdrop", "resid_pdrop"],
    "opt": ["dropout", "attention_dropout"],
    "bloom": ["hidden_dropout", "attention_dropout"],
    "falcon": ["hidden_dropout", "attention_dropout"],
    "gpt_neox": ["hidden_dropout", "attention_dropout"],
}


def test_rewards_are_as_exact_in_bfloat16_as_the_head_can_say_them(base: LocalModel) -> None:
    network = load_network(base.folder, base.options, "float32", "test", head=True)
    initialise_head(network, 0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rewards = raw_rewards(network.eval(), rows_of(hard_groups(base)), base.tokens.pad_id, share=True)
    assert rewards.dtype == torch.float32
    assert not torch.equal(rewards, rewards.bfloat16().float())


def test_further_gpus_are_left_to_accelerate(base: LocalModel, tmp_path: Path) -> None:
    network = load_network(base.folder, base.options, "float32", "test")
    trainer = DPO.trainer(network, hard_groups(base), DPO.Options(), tmp_path, 0, Watch())
    trainer.args._n_gpu = 2  # as transformers counts them
    assert trainer.args.n_gpu == 1


def test_the_head_runs_on_responses_alone(base: LocalModel) -> None:
    """Also where every row goes through the network by itself: prompts of 40 tokens, continuations of 3 and 5."""
    network = load_network(base.folder, base.options, "float32", "test").eval()
    seen: list[int] = []
    network.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape[0] * out.shape[1]))
    rows = Rows.of([tuple(range(5, 45))], [[(7, 8, 9), (9, 8, 7, 6, 5)]])
    apart, mask = token_logprobs(network, rows, base.tokens.pad_id, share=False)
    together, _ = token_logprobs(network, rows, base.tokens.pad_id, share=True)
    assert torch.allclose(apart, together, atol=1e-5)
    assert seen == [2 * 5, 3 + 5]
    assert mask.sum() == 8


def test_dpo_loss_equals_trls(base: LocalModel, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    start, tuned = shaken(base)
    groups = hard_groups(base)
    rows = trl_rows(groups)
    trainer = trl.DPOTrainer(
        tuned,
        ref_model=start,
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=0.3, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none"
        ),
        train_dataset=Dataset.from_list([{"prompt": "hi", "chosen": " you", "rejected": " no"}]),
        processing_class=base.tokens.hf,
    )
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, trainer.data_collator(rows)))
    ours = loss_of(DPO.trainer, DPO.Options(beta=0.3), tuned, groups, tmp_path, reference=start)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours - math.log(2)) > 1e-3


def test_rows_on_both_sides_of_a_length_where_positions_change_are_refused_where_weights_are_split(
    tmp_path: Path,
) -> None:
    """They would have to go through the network together; of one side they train as ever."""
    folder = tiny.build(tmp_path / "start", "longrope", hidden=32)
    start = LocalModel(str(folder), LocalOptions(device="cpu"), where="models.policy", notice=lambda line: None)
    network = load_network(folder, start.options, "float32", "test", head=True)
    network.config.pad_token_id = start.tokens.pad_id
    limit = network.config.rope_parameters["original_max_position_embeddings"]
    short, long = (
        Group(str(n), tuple(range(5, 5 + n)), [(7, 8), (9,)], [(0, 1)], [1.0], [1.0]) for n in (4, limit + 4)
    )
    network.one_pass = True
    for fine in ([short, short], [long, long]):
        _RewardTrainer(network, fine, RewardOptions(), tmp_path, 0, Watch())
    with pytest.raises(ModelError, match="a max_tokens that keeps all of them short, or DDP"):
        _RewardTrainer(network, [short, long], RewardOptions(), tmp_path, 0, Watch())
