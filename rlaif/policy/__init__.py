"""Policy methods: preferences or rewards to a policy.

A method is a class with an ``Options`` model, built with (options, where). One that writes weights has ``train``, which
blocks, runs in the model thread and writes a Hugging Face folder; ``respond`` answers prompts as the resulting policy
does. Name it here or write ``package.module:Class`` under ``policies``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlaif.records import Message, Preference, Prompt, Response

if TYPE_CHECKING:
    from rlaif.models.local import LocalModel
    from rlaif.training.trainer import Watch

METHODS = {
    "dpo": "rlaif.policy.dpo:DPO",
    "kto": "rlaif.policy.kto:KTO",
    "best-of-n": "rlaif.policy.best_of_n:BestOfN",
}


def policy_name(method: str) -> str:
    """What a policy is called in the run folder, the accounts and the figures: "mine:Tuned" is "mine.Tuned"."""
    return method.replace(":", ".").replace("/", "-")


Reward = Callable[[Sequence[tuple[Prompt, Sequence[Response]]]], Awaitable[list[list[float]]]]
Sample = Callable[[Any, Sequence[Prompt], int], Awaitable[list[list[Response]]]]  # model, prompts, K each


@dataclass(frozen=True)
class PolicyContext:
    """What the road offers a method."""

    start: LocalModel
    preferences: Callable[[], Iterable[Preference]]
    is_held_out: Callable[[str], bool]
    ended: Callable[[Preference, Sequence[Message]], bool]
    work: Path
    out: Path
    seed: int
    watch: Watch


@dataclass(frozen=True)
class PolicyReport:
    """What training tells: figures per step, and what became of the pairs; None where a method does not say."""

    history: list[dict[str, float]]
    pairs: int | None = None  # trained on
    too_long: int | None = None
    held_out_pairs: int | None = None
    no_label: int | None = None  # of weight 0: nothing to learn from


class PolicyMethod(Protocol):
    """What the road needs of a method. One that draws several answers to each prompt has ``samples``, their number, for
    plans."""

    options: Any
    needs_reward: bool
    writes_weights: bool

    def train(self, context: PolicyContext) -> PolicyReport:
        """Only called, and only needed, where ``writes_weights`` is true."""

    async def respond(
        self, prompts: Sequence[Prompt], model: Any, sample: Sample, reward: Reward | None
    ) -> list[Response | None]:
        """One response per prompt (None where sampling failed). ``model`` is the tuned one, or the start."""

    def kl_bound(self) -> float | None:
        """An analytic bound on KL(policy || start) in nats per response, where there is one."""
