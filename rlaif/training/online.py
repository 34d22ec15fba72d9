"""Tuning a policy on what it says itself: the part that holds networks. What a step does, and in which order, is
``rlaif.policy.online``; what a response's reward is made into, and the loss of it, each method's module.

Gradients of a step add up over micro-batches as sums, and are divided at its end by what the whole step counts, so that a
loss does not depend on how a step is split, and a micro-batch can be learnt from while others still wait for their rewards.
"""

from __future__ import annotations

import json
import math
import shutil
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from transformers import get_scheduler

from rlaif.config import Sampling
from rlaif.errors import UserError
from rlaif.models import ChatRequest, Reply
from rlaif.models.local import LocalModel, load_network
from rlaif.models.shared_prompt import token_logprobs
from rlaif.policy import GoldSpec, RewardSpec
from rlaif.store import write_json
from rlaif.training import processes
from rlaif.training.advantages import KLController
from rlaif.training.checkpoints import COMPLETE, last_checkpoint, saving
from rlaif.training.networks import (
    NetworkOptions,
    Schedule,
    Trained,
    check_schedule,
    decaying_groups,
    learning,
    learnt,
    take,
)
from rlaif.training.passes import rows_of
from rlaif.training.rollouts import ALWAYS, PolicySampler, Rollouts
from rlaif.training.trainer import Diverged, Watch

STATE, TENSORS = "state.json", "state.pt"


class OnlineOptions(NetworkOptions):
    """Settings that every method shares which samples what it learns from."""

    rewards: tuple[RewardSpec, ...] = (RewardSpec(),)
    sampler: str | None = None  # one of the recipe's models: a server that loads the policy's adapters, and samples
    learning_rate: float = Field(default=1e-6, gt=0)
    epochs: int = Field(default=1, ge=1)  # passes over the prompts
    steps: int | None = Field(default=None, ge=1)  # at most so many; None: as the epochs take
    batch_prompts: int = Field(default=32, ge=1)  # to a step
    samples: int = Field(default=4, ge=1)  # responses to each prompt
    accumulation: int = Field(default=1, ge=1)  # micro-batches a step is split into
    inner_epochs: int = Field(default=1, ge=1)  # passes over what a step has sampled
    minibatches: int = Field(default=1, ge=1)  # updates in such a pass
    clip: float = Field(default=0.2, gt=0, lt=1)  # of the ratio to the policy that sampled
    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0, le=10)  # of sampling, and of the probabilities learnt from
    beta: float = Field(default=0.05, ge=0)  # weight of the KL from the start
    kl_target: float | None = Field(default=None, gt=0)  # nats a response: beta is steered towards it
    kl_horizon: int = Field(default=10_000, ge=1)  # responses, in which it is
    missing_end_reward: float | None = -1.0  # of a response cut off at max_new_tokens; None: its own
    length_penalty: float = Field(default=0.0, ge=0)  # off the reward of a response of max_new_tokens
    watch: GoldSpec | None = None  # stops where what is rewarded is no longer better
    probes: int = Field(default=32, ge=0)  # prompts whose responses are dressed up, to see what the reward makes of it
    max_kl: float = Field(default=25.0, gt=0)  # nats a response: training stops above
    max_length_ratio: float = Field(default=2.0, gt=1)  # to the start's responses to the same prompts: likewise
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of steps
    schedule: Schedule = "constant_with_warmup"
    weight_decay: float = Field(default=0.0, ge=0)
    adam_epsilon: float = Field(default=1e-5, gt=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    checkpoints: int = Field(default=10, ge=1)  # written along the way

    @field_validator("rewards", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        many = value if isinstance(value, list | tuple) else [value]
        return [{"source": each} if isinstance(each, str) else each for each in many]

    @model_validator(mode="after")
    def _whole_parts(self) -> OnlineOptions:
        if not self.rewards:
            raise ValueError("rewards: name at least one source")
        if self.batch_prompts % self.accumulation:
            raise ValueError(
                f"batch_prompts {self.batch_prompts} is not a multiple of accumulation {self.accumulation}"
            )
        if self.sampler and (self.lora is None or self.lora.bits):
            raise ValueError("sampler: the server is given adapters, of a base that it has too: set lora, without bits")
        if self.kl_target is not None and not self.beta:
            raise ValueError("kl_target steers beta, and beta is 0: give it a value to begin with")
        if self.kl_target is None and "kl_horizon" in self.model_fields_set:
            raise ValueError("kl_horizon is how fast kl_target steers beta: set kl_target, or leave it out")
        if self.kl_target is not None and self.kl_target > self.max_kl:
            raise ValueError(
                f"kl_target {self.kl_target:g} lies beyond max_kl {self.max_kl:g}, at which training stops"
            )
        if self.once and (of_several := sorted({"clip", "value_clip"} & self.model_fields_set)):
            raise ValueError(
                f"{of_several[0]} is of a ratio between the updates that one sample makes: with inner_epochs: 1 and minibatches: 1 there is "
                "one update, and nothing to bound. Leave it out"
            )
        if self.accumulation % self.minibatches:
            raise ValueError(f"accumulation {self.accumulation} is not a multiple of minibatches {self.minibatches}")
        check_schedule(self)
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, max_output_tokens=self.max_new_tokens)

    @property
    def once(self) -> bool:
        """Whether a step makes one update, by the policy that sampled: then every ratio is 1."""
        return self.inner_epochs == self.minibatches == 1


class OnlineTrainer(ABC):
    """The networks of a method, and what is done with them. Everything here runs in the model thread."""

    by_group = True  # whether a response's advantage depends on its own prompt's responses alone
    keeps_best = False  # whether one response of each prompt is learnt from, the others only looked at

    def __init__(
        self,
        start: LocalModel,
        options: Any,
        *,
        steps: int,
        work: Path,
        seed: int,
        watch: Watch,
        value_folder: Path | None,
    ) -> None:
        self.start, self.options, self.steps, self.work, self.watch = start, options, steps, work, watch
        self.seed = seed
        self.trained = Trained(start, options, seed=seed)
        self.network = self.trained.network.eval()
        self.reference = None if options.lora else self._frozen()
        self.pad_id = start.tokens.pad_id
        self.share = self.trained.share
        self.caches = start.caches_work(self.network)
        self.sampler = PolicySampler(
            start, self.network, caches=self.caches, sampling=options.sampling, samples=options.samples, seed=seed
        )
        self.open_more(value_folder)
        self.optimizer = torch.optim.AdamW(
            self.parameter_groups(),
            lr=options.learning_rate,
            eps=options.adam_epsilon,
            weight_decay=options.weight_decay,
        )
        updates = steps * options.inner_epochs * options.minibatches
        self.schedule: Any = get_scheduler(options.schedule, self.optimizer, int(options.warmup * updates), updates)
        self.controller = KLController(options.beta, options.kl_target, options.kl_horizon)
        self.step = 0  # finished ones: the policy's version
        self.updated = False  # whether weights have moved since the last finished step
        self.history: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {}  # what the method keeps beside, as JSON
        self._sums: dict[str, float] = defaultdict(float)

    # --- what differs -------------------------------------------------------------------------------------------------

    def open_more(self, value_folder: Path | None) -> None:  # noqa: B027  (most have none)
        """Load further networks."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        return decaying_groups(self.network)

    @abstractmethod
    def prepare(self, parts: Sequence[Rollouts]) -> None:
        """Set the ``advantages`` of a step's micro-batches, all of them or, ``by_group``, of one; their ``old`` is there."""

    @abstractmethod
    def loss(self, logprobs: Tensor, mask: Tensor, rollouts: Rollouts) -> Tensor:
        """The loss of a micro-batch, a sum; 0, and no gradient, from what has no reward."""

    def ratios(self, logratio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss clips, as logarithms, and which of these are there: by token, or of whole responses."""
        return logratio, mask

    def count(self, rollouts: Rollouts) -> float:
        """What such sums are divided by, once added up over an update: responses with a reward."""
        return float(self.known(rollouts).sum())

    # --- a step -------------------------------------------------------------------------------------------------------

    def requests(self, prompts: Sequence[Any], *, once: bool = False) -> list[ChatRequest]:
        """What is asked for a sample of the policy as it is, or to have it ``say`` something."""
        return self.sampler.requests(prompts, *((ALWAYS, 1) if once else (self.step,)))

    def sample(self, prompts: Sequence[Any], replies: Sequence[Reply] | None = None) -> Rollouts:
        """Responses of the policy as it is, and what the reference makes of them; ``replies``: where a server gave them."""
        with self._autocast():
            rollouts = self.sampler.sample(prompts, self.step, replies=replies)
            with torch.no_grad():
                with self.trained.as_before() if self.reference is None else nullcontext():
                    rollouts.reference = self.logprobs(self.reference or self.network, rollouts)[0]
                if not (self.options.once and self.by_group) or self.keeps_best:
                    rollouts.old = self.logprobs(self.network, rollouts)[0]
                self.look(rollouts)
        return rollouts

    def say(self, prompts: Sequence[Any], replies: Sequence[Reply] | None = None) -> Rollouts:
        """One response of the policy as it is to each prompt, by draws that are the same at every step."""
        with self._autocast():
            return self.sampler.sample(prompts, ALWAYS, samples=1, replies=replies)

    def start_length(self, prompts: Sequence[Any]) -> float:
        """Mean tokens of one response of the start to each prompt."""
        network = self.reference or self.network
        sampler = PolicySampler(
            self.start, network, caches=self.caches, sampling=self.options.sampling, samples=1, seed=self.seed
        )
        with self._autocast(), self.trained.as_before() if self.reference is None else nullcontext():
            return _mean(sampler.sample(prompts, ALWAYS).lengths)

    def publish(self, folder: Path) -> None:
        """Write the adapters as they are, for a server to load."""
        self.trained.peft.save_pretrained(str(folder))

    def add_gradient(self, count: float) -> None:  # noqa: B027
        """Add that of what else is learnt by an update, which is divided by ``count`` after it."""

    def look(self, rollouts: Rollouts) -> None:  # noqa: B027
        """What further networks make of what was sampled."""

    def logprobs(self, network: Any, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Log-probabilities and mask by token, at the temperature of sampling."""
        rows = rows_of(rollouts.groups)
        return token_logprobs(network, rows, self.pad_id, share=self.share, temperature=self.options.temperature)

    def mask_of(self, rollouts: Rollouts) -> Tensor:
        lengths = torch.tensor(rollouts.lengths, device=self.network.device)
        return (torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]).long()

    def known(self, rollouts: Rollouts) -> Tensor:
        """Which rows have a reward, of shape (rows,)."""
        return rollouts.totals()[1].flatten().to(self.network.device)

    def known_tokens(self, rollouts: Rollouts) -> float:
        """How many tokens those have."""
        known = self.known(rollouts)
        return float((torch.tensor(rollouts.lengths, device=known.device) * known).sum())

    def learn(self, rollouts: Rollouts) -> None:
        """Add the gradient of one micro-batch, unless a stop is asked for."""
        self.watch.look()
        self.add(rollouts)

    def add(self, rollouts: Rollouts) -> None:
        """Add the gradient of one micro-batch."""
        if self.keeps_best:
            self.prepare([rollouts])
            rollouts = rollouts.best()
        with self._autocast(), ExitStack() as stack:
            for network in self.networks().values():
                stack.enter_context(learning(network, self.options))
            logprobs, mask = self.logprobs(self.network, rollouts)
            first = rollouts.old is None
            if rollouts.old is None:
                rollouts.old = logprobs.detach()
            if rollouts.advantages is None:
                self.prepare([rollouts])
            loss = self.loss(logprobs, mask, rollouts)
            if loss.requires_grad:
                loss.backward()
        self._sums["loss"] += float(loss.detach())
        self._sums["count"] += self.count(rollouts)
        logratio, there = self.ratios((logprobs.detach() - rollouts.old) * mask, mask)
        clipped = logratio.exp().sub(1).abs() > self.options.clip
        self._sums["clipped"] += 0 if first else int((clipped & there.bool()).sum())
        self._sums["learnt"] += int(there.sum())

    def update(self) -> None:
        """One step of the optimiser with the gradients that have added up."""
        own = {name: self._sums.pop(name, 0.0) for name in ("count", "loss")}
        sums = processes.total(own)
        count = max(sums["count"], 1e-12)
        self.add_gradient(count)
        processes.add_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            parameter.grad /= count
        norms = [
            float(torch.nn.utils.clip_grad_norm_(network.parameters(), self.options.max_gradient_norm))
            for network in self.networks().values()  # which share no weights
        ]
        norm = norms[0]
        if not all(map(math.isfinite, norms)):
            found = next(norm for norm in norms if not math.isfinite(norm))
            raise Diverged(f"step {self.step + 1}: the gradient is {found}", self.options.precision)
        if sums["count"]:  # else momentum and decay would move what no reward asks for
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updated = True
        self._sums["norm"] += norm
        self._sums["updates"] += 1
        self._sums["mean loss"] += sums["loss"] / count

    def figures(self, parts: Sequence[Rollouts]) -> dict[str, float]:
        """What the step's responses were like, means over those that have a reward where it is one's."""
        rows = [reward for part in parts for many in part.rewarded for reward in many]
        lengths = [length for part in parts for length in part.lengths]
        found = {
            "step": float(self.step + 1),
            "reward": _mean([reward.total for reward in rows]),
            "length": _mean(lengths),
            "ended": _mean([float(ended) for part in parts for ended in part.ended]),
            "no_reward": _mean([float(reward.total is None) for reward in rows]),
            "beta": self.controller.beta,
            "kl": _mean([float(kl) for part in parts for kl in self.kl(part)]),
        }
        tokens = sum(lengths)
        found["entropy"] = -sum(float(part.old.sum()) for part in parts if part.old is not None) / tokens
        if len(rows[0].parts) > 1:
            parts_of = {name: [reward.parts[name] for reward in rows] for name in rows[0].parts}
            found |= {
                f"reward.{name}": _mean(values)
                for name, values in parts_of.items()
                if any(value is not None for value in values)
            }
        return found

    def departure(self, rollouts: Rollouts) -> tuple[float, float]:
        """Of a sample of the policy as it is: nats a response from the start, and tokens of one, means."""
        with self._autocast(), torch.no_grad():
            if rollouts.old is None:
                rollouts.old = self.logprobs(self.network, rollouts)[0]
            return _mean(self.kl(rollouts).tolist()), _mean(rollouts.lengths)

    def kl(self, rollouts: Rollouts) -> Tensor:
        """log π − log π_ref of every row: an unbiased estimate of its KL, in nats."""
        assert rollouts.old is not None
        assert rollouts.reference is not None
        return (rollouts.old - rollouts.reference).sum(1)

    def shaped(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Rewards of shape (groups, K), with what the options put in their place and then take off; and which there are."""
        options = self.options
        totals, known = rollouts.totals()
        shape = totals.shape
        if options.missing_end_reward is not None:
            totals = totals.where(
                torch.tensor(rollouts.ended).reshape(shape), totals.new_tensor(options.missing_end_reward)
            )
        if options.length_penalty:  # off that too: not to end must not pay
            totals = (
                totals - options.length_penalty * torch.tensor(rollouts.lengths).reshape(shape) / options.max_new_tokens
            )
        return totals.to(self.network.device), known.to(self.network.device)

    def finish(self, figures: dict[str, float], responses: int) -> None:
        """Close a step whose updates are made."""
        sums, self._sums = self._sums, defaultdict(float)
        updates = max(1, sums["updates"])
        figures |= {"loss": sums["mean loss"] / updates, "gradient": sums["norm"] / updates}
        if not self.options.once and not self.keeps_best:
            seen = processes.total({name: sums[name] for name in ("clipped", "learnt")})
            figures["clipped"] = seen["clipped"] / max(1, seen["learnt"])
        self.controller.update(figures["kl"], responses)
        self.step += 1
        self.updated = False
        self.history.append(figures)

    def drop(self) -> None:
        """Forget gradients that have added up."""
        self.optimizer.zero_grad(set_to_none=True)
        self._sums = defaultdict(float)

    # --- state --------------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, Any]:
        """Those that learn, by name."""
        return {"policy": self.network}

    def save(self) -> None:
        """A checkpoint after the last finished step, whole or not there."""
        whole = self.work / f"checkpoint-{self.step}"
        folder = self.work / f".{whole.name}.partial"
        with saving(whole):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            weights = {name: learnt(network) for name, network in self.networks().items()}
            tensors = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), **weights}
            torch.save(tensors, folder / TENSORS)
            state = {
                "step": self.step,
                "beta": self.controller.beta,
                "history": self.history,
                "samples": self.samples,
                "kept": self.kept,
            }
            write_json(folder / STATE, state)
            write_json(folder / COMPLETE, self.step)
            shutil.rmtree(whole, ignore_errors=True)
            folder.rename(whole)

    def load(self, folder: Path | None = None) -> None:
        """Go on from a checkpoint, the last whole one where none is named; from the start where there is none."""
        folder = folder or last_checkpoint(self.work)
        if folder is None:
            return
        tensors = torch.load(folder / TENSORS, map_location=self.network.device, weights_only=True)
        for name, network in self.networks().items():
            take(network, tensors[name])
        known, found = (len(state["param_groups"]) for state in (self.optimizer.state_dict(), tensors["optimizer"]))
        if known != found:
            raise UserError(
                f"{folder}: of an earlier version, whose optimiser had {found} groups of weights, not {known}. Remove it to train anew."
            )
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.schedule.load_state_dict(tensors["schedule"])
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.step, self.controller.beta = state["step"], state["beta"]
        self.history, self.samples, self.kept = state["history"], state["samples"], state["kept"]

    def write(self, out: Path) -> None:
        """The policy as an ordinary model folder."""
        self.trained.save(out)

    def _frozen(self) -> Any:
        start = self.start
        network = load_network(start.folder, start.options, "float32", start.where, adapter=start.adapter).eval()
        return network.requires_grad_(requires_grad=False)

    def _autocast(self) -> Any:
        return self.options.autocast(self.network)


def _mean(values: Sequence[float | None]) -> float:
    """The mean of those that are there; 0 where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
