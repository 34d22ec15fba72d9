"""Training on groups, of preferences above all, on ``transformers.Trainer``: our plan, our rows, our loss; its schedules, checkpoints and resume.

Used by reward models, the DPO family, KTO and fine-tuning; what differs is what a response is worth, and what a loss is made
of. A run that was killed continues from its last whole checkpoint, bit for bit on the same build and threads.
"""

from __future__ import annotations

import json
import math
import threading
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeVar

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from rlaif.config import Sampling
from rlaif.errors import ModelError, RlaifError, UserError
from rlaif.models import ChatRequest
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.models.rows import Rows
from rlaif.models.shared_prompt import cache_self_test, rope_kinds, sharing_works, token_logprobs
from rlaif.records import Message, Preference, Prompt
from rlaif.store import write_json
from rlaif.training import processes
from rlaif.training.batching import Group, plan_steps, split_steps
from rlaif.training.checkpoints import COMPLETE, last_checkpoint, saving
from rlaif.training.losses import soft_preference_loss
from rlaif.training.networks import (
    NetworkOptions,
    Schedule,
    Trained,
    called_with,
    check_schedule,
    learnt,
    take,
    take_calls,
)
from rlaif.training.passes import Done, pair_index, rows_of
from rlaif.training.rollouts import ALWAYS, PolicySampler

ADAPTED = "learnt.safetensors"  # in a checkpoint of a network with adapters
SHOWN, SHOWN_TOKENS = 3, 96  # conversations of a step that has some, and the tokens that a policy then says at most
CANDIDATES = 12  # prompts that are kept for them, of which some may be too long
T = TypeVar("T")
Report = Callable[[int, int, dict[str, float]], None]  # step, steps, the latest figures
Say = Callable[[int, Sequence[Mapping[str, Any]]], None]  # step, conversations of it
Part = Callable[[str, int, int], None]  # a pass beside the training: its name, groups done, groups in all


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint was written first."""


class TrainingOptions(NetworkOptions):
    """Settings every preference trainer shares. Batch sizes count prompts, with all their responses and pairs."""

    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: int = Field(default=1, ge=1)
    batch_prompts: int = Field(default=32, ge=1)  # per optimiser step
    # in one pass: a step that has more makes several, and one update; None: 1,024 on a CPU, for its memory, 4,096 elsewhere
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(default=2048, ge=2)  # of prompt and one response; longer pairs are left out and counted
    labels: int | None = Field(
        default=None, ge=1
    )  # pairs to learn from, at most: whole prompts by keyed draw; None: all
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of steps
    schedule: Schedule = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    checkpoints: int = Field(default=10, ge=1)  # written along the way

    def room(self, context: int) -> int:
        """Tokens that prompt and response may have together: ``max_tokens``, or fewer where the model reads fewer."""
        return min(self.max_tokens, context)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        check_schedule(self)
        return self


@dataclass
class Watch:
    """How a caller follows and stops a training."""

    report: Report = lambda step, steps, figures: None
    say: Say = lambda step, samples: None
    part: Part = lambda name, done, total: None
    stop: threading.Event = field(default_factory=threading.Event)

    def look(self, *_: Any) -> None:
        """Raises Interrupted when the training was asked to stop."""
        if self.stop.is_set():
            raise Interrupted

    def through(self, rows: Iterable[T]) -> Iterator[T]:
        """``rows``, until the training is asked to stop."""
        for row in rows:
            self.look()
            yield row

    @contextmanager
    def passing(self, name: str, network: Any) -> Iterator[Done]:
        """A pass through ``network`` beside the training: progress, and a stop request ends it before the next layer.

        What such a pass computes is computed again when the training goes on; steps and weights are kept.
        """
        hooks = [module.register_forward_pre_hook(self.look) for module in network.modules()]
        try:
            yield partial(self.part, name)
        finally:
            for hook in hooks:
                hook.remove()


class ShownPrompts:
    """Prompts of what is read, by which a training shows what it has come to: the first that are ``wanted``, then any."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._found: dict[bool, dict[str, tuple[Message, ...]]] = {True: {}, False: {}}

    def of(self, rows: Iterable[T], prompt_of: Callable[[T], tuple[str, tuple[Message, ...]]]) -> Iterator[T]:
        """``rows``, looked at as they pass; ``prompt_of``: the id and the messages of one's prompt."""
        for row in rows:
            if len(self._found[True]) < CANDIDATES:
                name, messages = prompt_of(row)
                known = self._found[self._wanted(name)]
                if len(known) < CANDIDATES:
                    known[name] = messages
            yield row

    def of_preferences(self, rows: Iterable[Preference]) -> Iterator[Preference]:
        """``of`` rows that say themselves what their prompt is."""
        return self.of(rows, lambda row: (row.prompt_id, row.prompt))

    @property
    def prompts(self) -> dict[str, Prompt]:
        """By id."""
        found = [*self._found[True].items(), *self._found[False].items()][:CANDIDATES]
        return {name: Prompt(messages=messages) for name, messages in found}


def has_shown(step: int) -> bool:
    """Whether conversations are shown of a step: of 1, 2, 4, 8, …"""
    return step & (step - 1) == 0


class Plan(Dataset[list[int]]):
    """The whole training as a list of micro-batches: epochs one after another, so that resume has nothing to recompute.

    A step is made of ``split`` of them. Of several processes each takes every so manieth.
    """

    def __init__(self, groups: Sequence[Group], batches: list[list[int]], split: int) -> None:
        self.batches = batches
        weights = [sum(sum(groups[i].weight) for i in batch) for batch in batches]
        # the weight of the global batch each micro-batch belongs to: what its loss is divided by
        self.weight = [
            sum(weights[start : start + split])
            for start in range(0, len(weights), split)
            for _ in weights[start : start + split]
        ]

    def __len__(self) -> int:
        return len(self.batches) // processes.count()

    def __getitem__(self, index: int) -> list[int]:
        return [index * processes.count() + processes.rank()]

    def beside(self, index: int) -> list[list[int]]:
        """The micro-batches that all processes have at the same time as this one."""
        first = index - index % processes.count()
        return self.batches[first : first + processes.count()]


class GroupTrainer(Trainer, ABC):
    """Trains ``model`` on groups, by a loss that is a sum of what each group's weights weigh."""

    head: bool = False  # whether the network has a scalar head in the place of its language model's
    share: bool = True  # whether a prompt goes through the network once for all its responses
    pad_id: int = 0
    prompts: Mapping[str, Prompt] = MappingProxyType({})  # by which it shows what it has come to
    base: LocalModel

    def __init__(
        self, model: Any, groups: Sequence[Group], options: TrainingOptions, folder: Path, seed: int, watch: Watch
    ) -> None:
        self.groups, self.options, self.watch = groups, options, watch
        sizes = [group.tokens for group in groups]
        planned = plan_steps(sizes, options.batch_prompts, options.epochs, seed)
        # micro-batches, and how many of them a step has in all processes
        tokens = options.micro_batch_tokens or (1024 if model.device.type == "cpu" else 4096)
        batches, self.split = split_steps(planned, sizes, tokens, processes.count())
        self.plan = Plan(groups, batches, self.split)
        self.shortest = [min(range(len(groups)), key=sizes.__getitem__)] if groups else []
        steps = len(planned)
        self.sums: dict[str, float] = defaultdict(float)  # of the step that is being made
        self.history: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []  # conversations along the way
        self.stopped = False  # the watch has asked for it
        self.adapted = options.lora is not None and not processes.sharding()  # checkpoints hold what learns alone
        model._hf_peft_config_loaded = options.lora is not None  # no base in four bits is trained but with adapters
        if model.device.type == "cuda" and processes.count() == 1 and model.device.index:
            raise ModelError(
                f"device {model.device}: training on preferences is on the first GPU that is to be seen. What would do: "
                f"CUDA_VISIBLE_DEVICES={model.device.index}, and device cuda."
            )
        super().__init__(
            model=model,
            args=_Arguments(
                output_dir=str(folder),
                per_device_train_batch_size=1,
                gradient_accumulation_steps=self.split // processes.count(),
                num_train_epochs=1,
                learning_rate=options.learning_rate,
                lr_scheduler_type=options.schedule,
                warmup_steps=int(options.warmup * steps),
                weight_decay=options.weight_decay,
                adam_epsilon=options.adam_epsilon,
                max_grad_norm=options.max_gradient_norm,
                save_strategy="steps",
                save_steps=max(1, steps // options.checkpoints),
                save_total_limit=2,  # the one before stays until the next is whole
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed,
                remove_unused_columns=False,
                # else FSDP keeps whole gradients in every process until a step's last micro-batch
                accelerator_config={
                    "gradient_accumulation_kwargs": {"sync_each_batch": processes.sharding() == "FSDP"}
                },
                use_cpu=model.device.type == "cpu",
                dataloader_pin_memory=False,
            ),
            train_dataset=self.plan,
            data_collator=lambda items: {"micro_batch": items[0][0]},
            callbacks=[_Follow(self, steps)],
        )
        del model._hf_peft_config_loaded  # what is saved is the whole model
        self.remove_callback(PrinterCallback)
        if not hasattr(self, "loss_is_scaled_for_ga"):
            raise ModelError("this transformers would divide the loss once more: transformers 5.23 or later is needed.")
        take_calls(model)
        lengths = [len(group.prompt) + len(ids) for group in groups for ids in group.responses]
        if getattr(model, "one_pass", False) and len(rope_kinds(model, lengths)) > 1:
            raise ModelError(
                "this model turns the positions of longer texts by other frequencies, and weights that are split between processes "
                "take all rows through it together. What would do: a max_tokens that keeps all of them short, or DDP."
            )
        self.loss_is_scaled_for_ga = True  # the loss is already divided by the global batch's weight

    def prepare(self, base: LocalModel, kept: tuple[Path, str] | None) -> None:
        """What is to be known before the first step, while the network is as it began."""

    def look_at_step(self, step: int) -> None:
        """What the losses of a step have in common, by the network as the step finds it; asked before each of them."""

    @abstractmethod
    def loss_of(self, model: Any, groups: Sequence[Group], first: int) -> Tensor:
        """The loss of a micro-batch, a sum: 0 where all weights are 0. ``first``: its index. What the step's figures need
        goes into ``sums``."""

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What is told of a step beside its loss."""
        return {}

    def say(self) -> list[dict[str, Any]]:
        """Conversations with the network as it is, for eyes: one sample to each prompt, by draws that are the same at every step."""
        if not self.prompts:
            return []
        room = self.options.room(self.base.context)
        sampling = Sampling(max_output_tokens=SHOWN_TOKENS)
        fitting = [
            prompt
            for prompt in self.prompts.values()
            if not self.base.objection(ChatRequest(messages=prompt.messages, sampling=sampling))
            and len(self.base.tokens.prompt_ids(prompt.messages)) + SHOWN_TOKENS <= room
        ][:SHOWN]
        if not fitting:
            return []
        network: Any = self.model
        network.eval()
        with self.options.autocast(network):
            said = self.sampler.sample(fitting, ALWAYS).responses
        network.train()
        return [{"prompt": prompt.text, "response": one.text} for prompt, (one,) in zip(fitting, said, strict=True)]

    @cached_property
    def sampler(self) -> PolicySampler:
        network, sampling = self.model, Sampling(temperature=1.0, max_output_tokens=SHOWN_TOKENS)
        caches, _ = sharing_works(network, self.base.tokens.pad_id, test=cache_self_test)
        return PolicySampler(self.base, network, caches=caches, sampling=sampling, samples=1, seed=int(self.args.seed))

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.plan, batch_size=1, shuffle=False, collate_fn=self.data_collator)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        index = int(inputs["micro_batch"])
        groups = [self.groups[i] for i in self.plan.batches[index]]
        self.look_at_step(index // self.split)
        if not groups:  # no loss, and no gradient
            # DeepSpeed reduces after every pass what it made, and fails where that is nothing
            skipped = not any(self.plan.beside(index)) and processes.sharding() != "DeepSpeed"
            none = self.zero() if skipped else called_with(model, self.nothing)
            return (none, {}) if return_outputs else none
        total = called_with(model, partial(self.loss_of, groups=groups, first=index))
        self.sums["loss"] += float(total.detach())
        self.sums["weight"] += sum(sum(group.weight) for group in groups)
        # processes take the mean of their gradients, where the sum is meant
        loss = total * processes.count() / max(self.plan.weight[index], 1e-12)
        return (loss, {}) if return_outputs else loss

    def zero(self) -> Tensor:
        """A loss of 0 that nothing has a part in."""
        return torch.zeros((), device=self.args.device, requires_grad=True) * 1.0

    def nothing(self, model: Any) -> Tensor:
        """A loss of 0 with gradients of 0, among several processes by a pass: the others wait in theirs."""
        if processes.count() == 1:
            return self.zero()
        return self.outputs(model, rows_of([self.groups[i] for i in self.shortest])).sum() * 0.0

    def outputs(self, model: Any, rows: Rows) -> Tensor:
        """What the network says of rows, by all of its weights."""
        return token_logprobs(model, rows, self.pad_id, share=self.share)[0]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.adapted:
            super()._save(output_dir, state_dict)
            return
        Path(str(output_dir)).mkdir(parents=True, exist_ok=True)
        save_file({name: p.cpu().contiguous() for name, p in learnt(self.model).items()}, f"{output_dir}/{ADAPTED}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.adapted:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        take(self.model, load_file(f"{resume_from_checkpoint}/{ADAPTED}"))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(str(self.args.output_dir)) / "checkpoint"):
            super()._save_checkpoint(model, trial)
            processes.gathered(None)  # all have written theirs

    def run(self) -> list[dict[str, float]]:
        """Train to the end, from the last whole checkpoint if there is one. Returns loss and accuracy per step.

        Raises Interrupted after writing a checkpoint, when ``watch.stop`` was set.
        """
        assert self.args.output_dir
        folder = Path(self.args.output_dir)
        checkpoint = processes.of_first(lambda: last_checkpoint(folder))
        if checkpoint:
            kept = json.loads((checkpoint / COMPLETE).read_text())
            if kept["layout"] != processes.layout():
                raise UserError(
                    f"{checkpoint}: written with weights {kept['layout']}, and started with weights {processes.layout()}. Start it as "
                    "it was, or remove the checkpoint to train anew."
                )
            self.history, self.samples = kept["history"], kept["samples"]
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.stopped:
            raise Interrupted
        if not all(bool(weights.isfinite().all()) for weights in learnt(self.model).values()):
            raise Diverged("the last step: its weights are no numbers", self.options.precision)
        return self.history

    def close_step(self, step: int, steps: int) -> None:
        sums, self.sums = processes.total(self.sums), defaultdict(float)
        if not math.isfinite(sums["loss"]):
            raise Diverged(f"step {step}: the loss is {sums['loss']}", self.options.precision)
        loss = {"loss": sums["loss"] / sums["weight"]} if sums["weight"] else {}
        figures = {"step": float(step), **loss, **self.figures(sums)}
        self.history.append(figures)
        self.watch.report(step, steps, figures)
        if has_shown(step) and not processes.rank() and not processes.sharding():
            said = [{"step": step, **each} for each in self.say()]
            self.samples += said
            self.watch.say(step, said)
        self.stopped = processes.of_first(self.watch.stop.is_set)

    def gathered(self) -> Mapping[str, Tensor] | None:
        """All weights, where processes had them split between them; None where each has them whole."""
        return self.accelerator.get_state_dict(self.model_wrapped) if processes.sharding() else None


@dataclass(frozen=True)
class Job:
    """A training as any process can begin it."""

    kind: type[GroupTrainer]
    model: str  # the base, how it is opened, and what it is called in messages
    model_options: LocalOptions
    where: str
    groups: list[Group]
    options: TrainingOptions
    work: Path
    seed: int
    pad_id: int | None = None  # None: the base's own
    prompts: Mapping[str, Prompt] = field(default_factory=dict)  # by which it shows what it has come to
    kept: tuple[Path, str] | None = None  # where passes of the reference are kept, and what they depend on


class Fitted(NamedTuple):
    """What a training gives: the network, whole, figures per step, and conversations along the way."""

    trained: Trained
    history: list[dict[str, float]]
    samples: list[dict[str, Any]]


def fit(
    kind: type[GroupTrainer],
    base: LocalModel,
    groups: list[Group],
    options: TrainingOptions,
    *,
    work: Path,
    seed: int,
    watch: Watch,
    pad_id: int | None = None,
    prompts: Mapping[str, Prompt] | None = None,
    kept: tuple[Path, str] | None = None,
) -> Fitted:
    """Train a network of ``base`` on groups, in all processes."""
    job = Job(kind, base.name, base.options, base.where, groups, options, work, seed, pad_id, prompts or {}, kept)
    return processes.everywhere(_fit, job, base=base, watch=watch)


def _fit(job: Job, *, base: LocalModel | None = None, watch: Watch | None = None) -> Fitted:
    base = base or LocalModel(job.model, job.model_options, where=job.where, notice=lambda line: None)
    trained = Trained(base, job.options, seed=job.seed, head=job.kind.head, pad_id=job.pad_id)
    trainer = job.kind(trained.network, job.groups, job.options, job.work, job.seed, watch or Watch())
    trainer.share = trained.share
    trainer.pad_id = base.tokens.pad_id if job.pad_id is None else job.pad_id
    trainer.base, trainer.prompts = base, job.prompts
    trainer.prepare(base, job.kept)
    history = trainer.run()
    weights = trainer.gathered()
    whole = trained.whole(weights) if weights is not None and not processes.rank() else trained
    return Fitted(whole, history, trainer.samples)


class PreferenceTrainer(GroupTrainer):
    """Trains ``model`` on groups of preferences."""

    @abstractmethod
    def values(self, model: Any, rows: Rows, groups: Sequence[Group], first: int) -> Tensor:
        """What each response of ``groups`` is worth, of shape (rows,). ``first``: index of the micro-batch."""

    def total(self, one: Tensor, other: Tensor, p: Tensor, weight: Tensor, first: int) -> Tensor:
        """The loss of pairs whose responses are worth these, a sum: 0 where all weights are 0."""
        return soft_preference_loss(one - other, p, weight)

    def part_of(self, one: Tensor, other: Tensor, p: Tensor, weight: Tensor, own: Tensor, first: int) -> Tensor:
        """What of ``total`` is due to pairs that are ``own``, which is 1 there and 0 elsewhere; over all sources it adds up."""
        return self.total(one, other, p, weight * own, first)

    def loss_of(self, model: Any, groups: Sequence[Group], first: int) -> Tensor:
        with self.options.autocast(model):
            values = self.values(model, rows_of(groups), groups, first)
        a, b = pair_index(groups, values.device)
        one, other = values[a], values[b]
        p, weight = labels_of(groups, values.device)
        total = self.total(one, other, p, weight, first)
        with torch.no_grad():
            clear = (weight > 0) & (p != 0.5)
            right = torch.where(one == other, 0.5, ((one > other) == (p > 0.5)).float()) * clear
            self.sums["right"] += float(right.sum())
            self.sums["clear"] += float(clear.sum())
            self._by_source(groups, (one, other, p, weight), right, clear, first)
        return total

    def _by_source(
        self, groups: Sequence[Group], pairs: Sequence[Tensor], right: Tensor, clear: Tensor, first: int
    ) -> None:
        """The same sums apart for each source of labels, of a blend; nothing is learnt from them."""
        sources = [source for group in groups for source in group.sources]
        one, other, p, weight = pairs
        for name in sorted(set(sources)):
            own = torch.tensor([source == name for source in sources], device=weight.device)
            self.sums[f"loss {name}"] += float(self.part_of(one, other, p, weight, own, first))
            self.sums[f"weight {name}"] += float((weight * own).sum())
            self.sums[f"right {name}"] += float((right * own).sum())
            self.sums[f"clear {name}"] += float((clear & own).sum())

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        found = {"accuracy": sums["right"] / sums["clear"]} if sums["clear"] else {}
        for name in [key.removeprefix("weight ") for key in sums if key.startswith("weight ")]:
            weight, clear = sums[f"weight {name}"], sums[f"clear {name}"]
            found[f"weight.{name}"] = weight
            found |= {f"loss.{name}": sums[f"loss {name}"] / weight} if weight else {}
            found |= {f"accuracy.{name}": sums[f"right {name}"] / clear} if clear else {}
        return found


@dataclass
class _Arguments(TrainingArguments):
    """One GPU to a process: further ones are for ``accelerate launch``."""

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


class Diverged(RlaifError):
    """A training whose numbers are none."""

    def __init__(self, what: str, precision: str) -> None:
        exact = ", or precision: float32" if precision != "float32" else ""
        super().__init__(f"{what}. What would do: a lower learning_rate{exact}.")


class _Follow(TrainerCallback):
    """Progress, the stop request, and the mark on whole checkpoints."""

    def __init__(self, trainer: GroupTrainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.plan.weight[state.global_step * self.trainer.split]:
            kwargs["model"].zero_grad(set_to_none=True)  # no label: momentum and decay move nothing either

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.close_step(state.global_step, self.steps)
        if self.trainer.stopped:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if processes.rank() == 0:
            write_json(folder / COMPLETE, {
                "layout": processes.layout(), "history": self.trainer.history, "samples": self.trainer.samples,
            })  # fmt: skip


def labels_of(groups: Sequence[Group], device: Any) -> tuple[Tensor, Tensor]:
    """p and weight of every pair, float32."""
    p = torch.tensor([value for group in groups for value in group.p], dtype=torch.float32, device=device)
    weight = torch.tensor([value for group in groups for value in group.weight], dtype=torch.float32, device=device)
    return p, weight


def quiet_libraries() -> None:
    """No warnings and progress bars of other libraries in our output."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
