"""Reward and DPO training beside TRL's trainers, and sampling beside generate. `make bench-training`.

    python benchmarks/training.py [--quick] [--only reward]
    python benchmarks/training.py --device cuda --size 0.5b --profile profiles

The model, the texts and the way of measuring are those of ``benchmarks/local.py``: one thread, random weights, lengths as
uneven as real ones, variants in turn, ratios of CPU times. Both sides train on the same token ids with the same loss, which is
asserted on a batch before anything is timed; TRL gets the setting in which it is fastest, searched for in every case, on a
third of the prompts, and on all of them among those that are about as quick: precision, kind of attention, reference before
or beside, and parts of a step, which pad less the more there are; ours is as it comes, in the quicker precision, with no
prompts to show conversations by. The ratio in float32 is of the quickest of single runs on a third of the prompts. A prompt
with K responses has all K·(K − 1)/2 pairs, all labelled.

On a GPU there are prompts of 3,600 tokens too. With ``--rank`` adapters learn alone, which is what a model of 8 billion
parameters has room for. ``--profile`` writes what each side spends its time on, as torch's profiler has it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from local import Variant, World, fastest, keep_memory, place, ratio, rounds, sampling, single
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from rlaif.models.local import LocalOptions, load_network
from rlaif.policy.dpo import DPO, _Trainer
from rlaif.records import Message
from rlaif.reward import RewardOptions, _RewardTrainer
from rlaif.training.batching import Group
from rlaif.training.networks import initialise_head
from rlaif.training.trainer import Watch, quiet_libraries

BETA = 0.1
SAME = 1e-4  # by which the two losses of a batch may differ, of their size
ALIKE = 1.1  # settings whose times are within so much of the least are tried again, for longer
PARTS = (8, 4, 2, 1)  # prompts of a micro-batch that are tried


@dataclass(frozen=True)
class Case:
    name: str
    prompt: int  # mean tokens
    samples: int
    prompts: int
    spread: float = 0.7  # of the prompts' lengths: the deviation of their logarithm
    step: int = 8  # prompts of an optimiser step
    most: int = 8  # prompts of a micro-batch: of more, TRL's rows do not fit into 24 GB


CASES = (
    Case("short", 50, 2, 320, step=32),
    Case("short.k4", 50, 4, 24),
    Case("long", 300, 2, 128, step=32),
    Case("long.k4", 300, 4, 16, most=2),
)
ON_GPU = (*CASES, Case("4k", 3600, 2, 24, spread=0.05), Case("4k.k4", 3600, 4, 16, spread=0.05))


@dataclass(frozen=True)
class Setting:
    """How a side trains."""

    bf16: bool
    eager: bool = False
    ahead: bool = False  # what the reference makes of the rows is computed before the first step
    split: int = 1  # micro-batches of a step

    def __str__(self) -> str:
        words = ["bfloat16" if self.bf16 else "float32", *["eager"] * self.eager, *["reference first"] * self.ahead]
        return ", ".join([*words, *[f"{self.split} parts"] * (self.split > 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test of about a minute; its figures mean little")
    parser.add_argument("--only", choices=["reward", "dpo", "sampling"], help="one of the three parts")
    parser.add_argument("--case", choices=[case.name for case in ON_GPU], help="one of the cases")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, help="train low-rank adapters of this rank; without it every weight learns")
    parser.add_argument("--profile", type=Path, help="folder for the profiles of each case")
    place(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    quiet_libraries()
    warnings.filterwarnings("ignore")
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), args.size, args.device)
        for method in ("reward", "dpo"):
            if args.only in (None, method):
                cases = CASES[:1] if args.quick else CASES if args.device == "cpu" else ON_GPU
                for case in cases if args.case is None else [c for c in ON_GPU if c.name == args.case]:
                    sides = Sides(world, method, args.rank)
                    figures |= training(sides, case, args.profile, 1 if args.quick else args.rounds, quick=args.quick)
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
        prompt = (
            Message(role="user", content=world.text(world.length(case.prompt, case.spread, 3 * case.prompt), hf)),
        )
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


@dataclass(frozen=True)
class Sides:
    """Our trainer and TRL's, of one method on one model."""

    world: World
    method: str
    rank: int | None  # of adapters; None: every weight learns

    def network(self, *, eager: bool = False) -> tuple[Any, Any]:
        """The network, and what wraps it: its adapters, or nothing."""
        options = LocalOptions(device=self.world.device, attention="eager" if eager else None)
        network = load_network(self.world.folder, options, "float32", "benchmark", head=self.method == "reward")
        if self.method == "reward":
            network.config.pad_token_id = 0
            initialise_head(network, 0)
        if self.rank is None:
            return network, network
        head = ["score"] if self.method == "reward" else None
        config = LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules="all-linear", exclude_modules=head)
        torch.manual_seed(0)  # both sides' adapters begin alike
        wrapped = get_peft_model(network, config)
        if head:
            network.score.requires_grad_(requires_grad=True)
        return network, wrapped

    def ours(self, groups: Sequence[Group], folder: Path, prompts: int, setting: Setting) -> Any:
        """Our trainer, ready to run, with so many prompts to a step."""
        network, _ = self.network()
        settings: dict[str, Any] = {
            "learning_rate": 1e-4, "batch_prompts": prompts, "schedule": "constant", "warmup": 0.0, "checkpoints": 1,
            "precision": "bfloat16" if setting.bf16 else "float32",
        }  # fmt: skip
        if self.method == "reward":
            options: Any = RewardOptions(**settings)
            trainer: Any = _RewardTrainer(network, groups, options, folder, 0, Watch())
        else:
            options = DPO.Options(**settings, beta=BETA)
            trainer = _Trainer(network, groups, options, folder, 0, Watch())
            with options.autocast(network):
                trainer.look_at_reference(network.eval(), 8192)
        trainer.args.save_strategy = "no"  # as on the other side
        return trainer

    def theirs(self, rows: list[dict[str, Any]], folder: Path, per_step: int, setting: Setting) -> Any:
        """TRL's trainer, ready to run."""
        settings: dict[str, Any] = {
            "output_dir": str(folder), "per_device_train_batch_size": per_step // setting.split, "num_train_epochs": 1,
            "gradient_accumulation_steps": setting.split, "learning_rate": 1e-4, "lr_scheduler_type": "constant",
            "bf16": setting.bf16, "gradient_checkpointing": False, "use_cpu": self.world.device == "cpu", "max_length": None,
            "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
            "dataloader_pin_memory": False, "seed": 0,
        }  # fmt: skip
        _, network = self.network(eager=setting.eager)
        hf, data = self.world.open().tokens.hf, Dataset.from_list(rows)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if self.method == "reward":
                return RewardTrainer(network, args=RewardConfig(**settings), train_dataset=data, processing_class=hf)
            words = Dataset.from_list(
                [{"prompt": "a", "chosen": "b", "rejected": "c"}]
            )  # it tokenises what it is given itself
            trainer = DPOTrainer(
                network,
                ref_model=self.network(eager=setting.eager)[0] if self.rank is None else None,
                args=DPOConfig(**settings, beta=BETA),
                train_dataset=words,
                processing_class=hf,
            )
            trainer.train_dataset = data
            if setting.ahead:
                trainer.train_dataset = trainer._precompute_ref_logps(data, "train", 2 * per_step // setting.split)
                trainer.precompute_ref_logps = True
        return trainer

    def assert_equal(self, groups: Sequence[Group], count: int) -> None:
        """Both losses of the first groups, by networks that are not at the start, are the same."""
        few = list(groups[: count if self.world.device == "cpu" else 2])
        plain = Setting(bf16=False)
        with tempfile.TemporaryDirectory() as folder:
            own = self.ours(few, Path(folder) / "ours", count, plain)
            rows = rows_of(few, self.method)
            other = self.theirs(rows, Path(folder) / "theirs", len(few), plain)
            for network in (own.model, other.model):
                generator = torch.Generator(network.device).manual_seed(1)
                with torch.no_grad():
                    for parameter in filter(lambda each: each.requires_grad, network.parameters()):
                        noise = torch.randn(parameter.shape, generator=generator, device=network.device)
                        parameter.add_(0.01 * noise)
                network.eval()
            with torch.no_grad():
                found = sum(float(own.compute_loss(own.model, {"micro_batch": i})) for i in range(own.split))
                batch = other._prepare_inputs(other.data_collator(rows))
                expected = float(other.compute_loss(other.model, batch))
        if abs(found - expected) > SAME * abs(expected):
            raise SystemExit(f"{self.method}: the losses of a batch differ: {found} here, {expected} there.")
        print(f"\n{self.method}: both sides have loss {found:.6f} on the same batch")


def training(
    sides: Sides, case: Case, profiles: Path | None, count: int, *, quick: bool
) -> dict[str, dict[str, float]]:
    """One epoch, beside TRL's trainer: ratios, and peak memory and padding in the table."""
    groups = groups_of(sides.world, case, 16 if quick else case.prompts)
    sides.assert_equal(groups, case.step)
    rows = rows_of(groups, sides.method)
    per_step = case.step * len(groups[0].pairs)
    real = float(sum(len(g.prompt) + len(g.responses[i]) for g in groups for pair in g.pairs for i in pair))

    def variant(side: str, setting: Setting, some: Sequence[Group] = groups) -> Variant:
        pairs = rows_of(some, sides.method)

        def run(number: int) -> float:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                if side == "rlaif":
                    sides.ours(some, Path(folder), case.step, setting).run()
                else:
                    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "1024"  # as it is where rlaif is not imported
                    sides.theirs(pairs, Path(folder), per_step, setting).train()
            return real * len(pairs) / len(rows)

        return Variant(f"{side}, {setting}", run, sides.world.device)

    tried: dict[tuple[str, Setting], float] = {}

    def quickest(side: str, settings: Sequence[Setting]) -> Setting:
        """By one run each on a third of the prompts, and then on all of them where several are about as quick."""
        few = groups[: case.step * max(1, len(groups) // (3 * case.step))]
        variants = [variant(side, each, few) for each in settings]
        fastest(variants)
        for setting, found in zip(settings, variants, strict=True):
            tried[side, setting] = min(found.tried, tried.get((side, setting), math.inf))
        alike = [s for s in settings if tried[side, s] <= ALIKE * min(tried[side, each] for each in settings)]
        if len(alike) == 1:
            return alike[0]
        variants = [variant(side, each) for each in alike]
        return alike[variants.index(fastest(variants))]

    def exact(side: str) -> float:
        """Seconds of the quickest in float32."""
        return min(seconds for (of, setting), seconds in tried.items() if of == side and not setting.bf16)

    splits = [case.step // part for part in PARTS if part <= case.most]
    kinds = ((False, False), (True, False), (True, True)) if sides.world.device == "cpu" else ((True, False),)
    theirs = quickest("TRL", [Setting(bf16, eager, split=split) for bf16, eager in kinds for split in splits])
    if sides.method == "dpo":
        plain = min((s for of, s in tried if not s.bf16), key=lambda s: tried["TRL", s], default=theirs)
        both = [replace(each, ahead=ahead) for each in {theirs, plain} for ahead in (False, True)]
        theirs = quickest("TRL", both)
    ours = quickest("rlaif", [Setting(bf16) for bf16 in {bf16 for bf16, _ in kinds}])
    mine, best = variant("rlaif", ours), variant("TRL", theirs)
    found = rounds(
        f"{sides.method}, {case.name}: {len(groups)} prompts of {case.prompt} tokens on average, K = {case.samples}, {len(rows)} "
        f"pairs, {case.step} prompts a step, {real:,.0f} tokens in separate rows; {sides.world.parameters:,} parameters",
        "tokens",
        [mine, best],
        count,
    )
    name = sides.method if case.name == "short" else f"{sides.method}.{case.name}"
    if profiles:
        profile([mine, best], profiles / name)
    memory = round(found[mine.name].peak_mb / max(1.0, found[best.name].peak_mb), 3)
    figures = {
        f"{name}.ratio_to_trl": ratio(found[mine.name], found[best.name]),
        f"{name}.memory_to_trl": single(memory),
    }
    if sides.world.device == "cpu":
        figures[f"{name}.float32.ratio_to_trl"] = single(round(exact("TRL") / exact("rlaif"), 3))
    for side, told in (("ours", found[mine.name]), ("trl", found[best.name])):
        speeds = sorted(round(1 / used, 1) for used in told.used)
        figures |= {
            f"{name}.{side}.tokens_per_second": {
                "value": statistics.median(speeds), "low": speeds[0], "high": speeds[-1], "n": len(speeds),
            },
            f"{name}.{side}.computed_per_token": single(round(told.positions, 3)),
            f"{name}.{side}.peak_mb": single(round(told.peak_mb)),
        }  # fmt: skip
    return figures


def profile(variants: Sequence[Variant], folder: Path) -> None:
    """What each spends its time on, as a table a side."""
    folder.mkdir(parents=True, exist_ok=True)
    for variant in variants:
        with torch.profiler.profile() as found:
            variant.run(0)
        by = "self_cpu_time_total" if variant.device == "cpu" else "self_device_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=30)
        (folder / f"{variant.name.split(',')[0]}.txt").write_text(f"{variant.name}\n{table}\n")


if __name__ == "__main__":
    main()
