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
    "best-of-n": "rlaif.policy.best_of_n:BestOfN",
}

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
    """What training tells: figures per step, pairs used, pairs left out as too long."""

    history: list[dict[str, float]]
    pairs: int = 0
    too_long: int = 0
    held_out_pairs: int = 0


class PolicyMethod(Protocol):
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
