"""Policy methods: preferences or rewards to a policy.

A method is a class with an ``Options`` model, built with (options, where). One that writes weights has ``train``, which
blocks, runs in the model thread and writes a Hugging Face folder, or, where it waits for others meanwhile, is a coroutine;
``respond`` answers prompts as the resulting policy does. One that learns from rewards has ``rewards``, the sources it wants.
Name it here or write ``package.module:Class`` under ``policies``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, model_validator

from rlaif.canaries import Claims
from rlaif.component import Options as BaseOptions
from rlaif.records import Message, Preference, Prompt, Response, uniform

if TYPE_CHECKING:
    from rlaif.models import ChatRequest, Reply
    from rlaif.models.local import LocalModel
    from rlaif.training.trainer import Watch

METHODS = {
    "dpo": "rlaif.policy.dpo:DPO",
    "kto": "rlaif.policy.kto:KTO",
    "best-of-n": "rlaif.policy.best_of_n:BestOfN",
    "sft": "rlaif.policy.sft:SFT",
    "raft": "rlaif.policy.raft:RAFT",
    "rloo": "rlaif.policy.rloo:RLOO",
    "grpo": "rlaif.policy.grpo:GRPO",
    "reinforce": "rlaif.policy.reinforce:Reinforce",
    "ppo": "rlaif.policy.ppo:PPO",
}


Items = Sequence[tuple[Prompt, Sequence[Response]]]
Reward = Callable[[Items], Awaitable[list[list[float | None]]]]  # None: the reward model cannot read it
Sample = Callable[[Any, Sequence[Prompt], int], Awaitable[list[list[Response]]]]  # model, prompts, K each
Wins = Callable[[Sequence[Prompt], Sequence[Response], Sequence[Response]], Awaitable[list[float | None]]]


class RewardSpec(BaseOptions):
    """A source of rewards, and how much it counts in their sum."""

    source: str = "reward_model"
    options: dict[str, Any] = Field(default_factory=dict)
    weight: float = 1.0


class GoldSpec(BaseOptions):
    """A judge that is no part of the reward, and how often it looks on."""

    judge: str
    prompts: int = Field(default=64, ge=2)  # held-out ones, at most, that the policy and its start answer
    looks: int = Field(default=5, ge=2)  # along the training
    patience: int = Field(default=1, ge=1)  # looks in a row that say so, before training ends

    @model_validator(mode="after")
    def _can_end(self) -> GoldSpec:
        if self.patience > self.looks:
            raise ValueError(
                f"patience {self.patience} is more than there are looks ({self.looks}): they could never end a training"
            )
        return self


@dataclass(frozen=True)
class Rewarded:
    """What a response is worth, None where a source of rewards failed on it; and the parts that make the sum."""

    total: float | None
    parts: Mapping[str, float | None]


class Served(Protocol):
    """A server that samples from the policy while it is tuned."""

    async def take(self, folder: Path) -> None:
        """Go on with the adapters in a folder."""

    async def release(self) -> None:
        """Forget them."""

    async def answer(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """By the adapters that it has. Raises RlaifError where one was not answered."""


@dataclass(frozen=True)
class PolicyContext:
    """What the road offers a method."""

    start: LocalModel
    prompts: Callable[[], Iterable[Prompt]]
    preferences: Callable[[], Iterable[Preference]]
    is_held_out: Callable[[str], bool]
    ended: Callable[[Preference, Sequence[Message]], bool]
    work: Path
    out: Path
    seed: int
    watch: Watch
    in_worker: Callable[..., Awaitable[Any]]  # runs a function in the model thread
    source_of: Callable[[Preference], str] | None = None  # which part of a blend labelled it: for logs alone
    rewards: Callable[[Items], Awaitable[list[list[Rewarded]]]] | None = None  # of a method that has ``rewards``
    failure_tolerance: float = 1.0  # share of a step's responses that may be without a reward
    kept: Path | None = None  # a folder for what methods of a run may share, by hash
    claims: Claims = field(default_factory=Claims)  # that a reply may make of itself, in the forms of who rewards it
    gold: Wins | None = None  # the judge that looks on, of a method that has ``watch``
    reward_folder: Path | None = None  # of the run's reward model
    served: Served | None = None  # of a method that has ``sampler``
    name: str = ""  # of the policy in its recipe
    measured: Callable[[Prompt], float] = lambda prompt: uniform(
        "evaluation", 0, prompt.id
    )  # the lowest are measured on


@dataclass(frozen=True)
class PolicyReport:
    """What training tells: figures per step, and what became of what there was to learn from; None where a method does not say."""

    history: list[dict[str, float]]
    account: dict[str, Any] | None = None  # unit, in, outcomes and reasons, as accounts.json has them
    samples: list[dict[str, Any]] = field(default_factory=list)  # conversations along the way, for eyes
    looks: list[dict[str, float]] = field(default_factory=list)  # of a judge that looks on, beside the reward
    looked_at: list[str] = field(default_factory=list)  # ids of the prompts that it was shown answers to
    probes: dict[str, Any] = field(default_factory=dict)  # of canaries, by name: what the reward makes of them
    seconds: dict[str, float] = field(default_factory=dict)  # by what they were spent on
    cares: list[str] = field(default_factory=list)  # that must be read wherever the policy is looked at


class PolicyMethod(Protocol):
    """What the road needs of a method. One that draws several answers to each prompt has ``samples``, their number, for
    plans. ``needs_labels`` is true unless it says otherwise."""

    options: Any
    needs_reward: bool
    writes_weights: bool

    def train(self, context: PolicyContext) -> PolicyReport | Awaitable[PolicyReport]:
        """Only called, and only needed, where ``writes_weights`` is true."""

    async def respond(
        self, prompts: Sequence[Prompt], model: Any, sample: Sample, reward: Reward | None
    ) -> list[Response | None]:
        """One response per prompt (None where sampling failed). ``model`` is the tuned one, or the start."""

    def kl_bound(self) -> float | None:
        """An analytic bound on KL(policy || start) in nats per response, where there is one."""


class Tuned:
    """Of a method that writes weights: its policy answers with one sample of the tuned model."""

    needs_reward = False
    writes_weights = True

    async def respond(
        self, prompts: Sequence[Prompt], model: Any, sample: Sample, reward: Reward | None
    ) -> list[Response | None]:
        return [many[0] if many else None for many in await sample(model, prompts, 1)]

    def kl_bound(self) -> float | None:
        return None
