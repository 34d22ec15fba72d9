"""Reward and DPO training beside TRL's trainers, and sampling beside generate. `make bench-training`.

    python benchmarks/training.py [--quick] [--only reward]

The model, the texts and the way of measuring are those of ``benchmarks/local.py``: one thread, random weights, lengths as
uneven as real ones, variants in turn, ratios of CPU times. Both sides train on the same token ids with the same loss, which is
asserted on a batch before anything is timed; each side gets the setting in which it is fastest, searched for in every case. A prompt
with K responses has all K·(K − 1)/2 pairs, all labelled.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from local import Variant, World, fastest, ratio, rounds, sampling
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from rlaif.models.local import LocalOptions, load_network
from rlaif.policy.dpo import DPO, _Trainer
from rlaif.records import Message
from rlaif.reward import RewardOptions, _RewardTrainer
from rlaif.training.batching import Group
from rlaif.training.networks import choose_attention, initialise_head
from rlaif.training.trainer import Watch, quiet_libraries

PROMPTS_PER_STEP = 8
BETA = 0.1
SAME = 1e-4  # by which the two losses of a batch may differ, of their size


@dataclass(frozen=True)
class Case:
    name: str
    prompt: int  # mean tokens
    samples: int
    prompts: int


CASES = (
    Case("short", 50, 2, 96),
    Case("short.k4", 50, 4, 48),
    Case("long", 300, 2, 48),
    Case("long.k4", 300, 4, 24),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test of about a minute; its figures mean little")
    parser.add_argument("--only", choices=["reward", "dpo", "sampling"], help="one of the three parts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    warnings.filterwarnings("ignore")
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for method in ("reward", "dpo"):
            if args.only in (None, method):
                for case in CASES[:1] if args.quick else CASES:
                    figures |= training(world, method, case, quick=args.quick)
        if args.only in (None, "sampling"):
            figures |= sampling(world, quick=args.quick)
    print(json.dumps(figures))


# --- the data ---------------------------------------------------------------------------------------------------------


def groups_of(world: World, case: Case, count: int) -> list[Group]:
    """Prompts with their responses and all their pairs, the first of each pair the better."""
    model = world.open()
    hf = model.tokens.hf
    found: list[Group] = []
    for i in range(count):
        prompt = (Message(role="user", content=world.text(world.length(case.prompt, 0.7, 3 * case.prompt), hf)),)
        ids = [
            tuple(
                model.tokens.response_ids(
                    prompt, (Message(role="assistant", content=world.text(world.length(68, 0.7, 300), hf)),)
                )
            )
            for _ in range(case.samples)
        ]
        pairs = list(itertools.combinations(range(case.samples), 2))
        ones = [1.0] * len(pairs)
        found.append(Group(str(i), tuple(model.tokens.prompt_ids(prompt)), ids, pairs, ones, ones))
    return found


def rows_of(groups: Sequence[Group], method: str) -> list[dict[str, Any]]:
    """A row for each pair, as TRL's collators take them."""
    rows = []
    for group in groups:
        for a, b in group.pairs:
            sides = {"chosen_ids": list(group.responses[a]), "rejected_ids": list(group.responses[b])}
            if method == "reward":
                sides = {name: [*group.prompt, *ids] for name, ids in sides.items()}
            rows.append({"prompt_ids": list(group.prompt), **sides} if method == "dpo" else sides)
    return rows


# --- the two sides ----------------------------------------------------------------------------------------------------


def network_of(world: World, method: str, *, eager: bool = False) -> Any:
    options = LocalOptions(device="cpu", attention="eager" if eager else None)
    network = load_network(world.folder, options, "float32", "benchmark", head=method == "reward")
    if method == "reward":
        network.config.pad_token_id = 0
        initialise_head(network, 0)
    return network


def ours(world: World, method: str, groups: Sequence[Group], folder: Path, precision: str) -> Any:
    """Our trainer, ready to run."""
    network = network_of(world, method)
    settings: dict[str, Any] = {
        "learning_rate": 1e-4, "batch_prompts": PROMPTS_PER_STEP, "schedule": "constant", "warmup": 0.0, "checkpoints": 1,
        "precision": precision,
    }  # fmt: skip
    if method == "reward":
        options: Any = RewardOptions(**settings)
        choose_attention(network, options, None)
        return _RewardTrainer(network, groups, options, folder, 0, Watch())
    options = DPO.Options(**settings, beta=BETA)
    choose_attention(network, options, None)
    trainer = _Trainer(network, groups, options, folder, 0, Watch())
    with options.autocast(network):
        trainer.look_at_reference(network.eval(), 4096)
    return trainer


def theirs(
    world: World,
    method: str,
    rows: list[dict[str, Any]],
    folder: Path,
    per_step: int,
    *,
    bf16: bool,
    eager: bool,
    ahead: bool,
) -> Any:
    """TRL's trainer, ready to run; ``ahead``: what the reference makes of the rows is computed before the first step."""
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": per_step, "num_train_epochs": 1, "learning_rate": 1e-4,
        "lr_scheduler_type": "constant", "bf16": bf16, "gradient_checkpointing": False, "use_cpu": True, "max_length": None,
        "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False, "seed": 0,
    }  # fmt: skip
    network, hf, data = network_of(world, method, eager=eager), world.open().tokens.hf, Dataset.from_list(rows)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if method == "reward":
            return RewardTrainer(network, args=RewardConfig(**settings), train_dataset=data, processing_class=hf)
        words = Dataset.from_list(
            [{"prompt": "a", "chosen": "b", "rejected": "c"}]
        )  # it tokenises what it is given itself
        trainer = DPOTrainer(
            network,
            ref_model=network_of(world, method, eager=eager),
            args=DPOConfig(**settings, beta=BETA),
            train_dataset=words,
            processing_class=hf,
        )
        trainer.train_dataset = data
        if ahead:
            trainer.train_dataset = trainer._precompute_ref_logps(data, "train", 2 * per_step)
            trainer.precompute_ref_logps = True
    return trainer


def assert_equal(world: World, method: str, groups: Sequence[Group]) -> None:
    """Both losses of the first groups, by networks that are not at the start, are the same."""
    few = list(groups[:PROMPTS_PER_STEP])
    with tempfile.TemporaryDirectory() as folder:
        own = ours(world, method, few, Path(folder) / "ours", "float32")
        other = theirs(
            world, method, rows_of(few, method), Path(folder) / "theirs", len(few), bf16=False, eager=False, ahead=False
        )
        for network in (own.model, other.model):
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
            network.eval()
        with torch.no_grad():
            found = float(own.compute_loss(own.model, {"micro_batch": 0}))
            expected = float(other.compute_loss(other.model, other.data_collator(rows_of(few, method))))
    if abs(found - expected) > SAME * abs(expected):
        raise SystemExit(f"{method}: the losses of a batch differ: {found} here, {expected} there.")
    print(f"\n{method}: both sides have loss {found:.6f} on the same batch")


def training(world: World, method: str, case: Case, *, quick: bool) -> dict[str, dict[str, float]]:
    """One epoch, beside TRL's trainer: ratios, and peak memory and padding in the table."""
    groups = groups_of(world, case, 16 if quick else case.prompts)
    assert_equal(world, method, groups)
    rows = rows_of(groups, method)
    pairs = len(groups[0].pairs)
    real = float(sum(len(g.prompt) + len(g.responses[i]) for g in groups for pair in g.pairs for i in pair))

    def run_ours(number: int, precision: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            ours(world, method, groups, Path(folder), precision).run()
        return real

    def run_theirs(number: int, **settings: bool) -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            theirs(world, method, rows, Path(folder), PROMPTS_PER_STEP * pairs, **settings).train()
        return real

    def rival(bf16: bool, eager: bool, ahead: bool) -> Variant:
        words = [
            "bfloat16" if bf16 else "float32",
            *(["eager"] if eager else []),
            *(["reference first"] if ahead else []),
        ]
        run: Callable[[int], float] = lambda number: run_theirs(number, bf16=bf16, eager=eager, ahead=ahead)  # noqa: E731
        return Variant(f"TRL, {', '.join(words)}", run)

    aheads = (False, True) if method == "dpo" else (False,)
    rivals = [
        rival(bf16, eager, ahead) for ahead in aheads for bf16, eager in ((False, False), (True, False), (True, True))
    ]
    best = fastest(rivals)
    mine = fastest([Variant(f"rlaif, {p}", lambda number, p=p: run_ours(number, p)) for p in ("float32", "bfloat16")])
    found = rounds(
        f"{method}, {case.name}: {len(groups)} prompts of {case.prompt} tokens on average, K = {case.samples}, {len(rows)} pairs, "
        f"{PROMPTS_PER_STEP} prompts a step, {real:,.0f} tokens in separate rows",
        "tokens",
        [mine, best],
        1 if quick else 3,
    )
    name = method if case.name == "short" else f"{method}.{case.name}"
    memory = round(found[mine.name].peak_mb / max(1.0, found[best.name].peak_mb), 3)
    figures = {
        f"{name}.ratio_to_trl": ratio(found[mine.name], found[best.name]),
        f"{name}.memory_to_trl": {"value": memory, "low": None, "high": None, "n": 1},
    }
    return figures


if __name__ == "__main__":
    main()
