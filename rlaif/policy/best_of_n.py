"""Best of n: sample n responses from the start and keep the one the reward model likes most. No weights change.

The baseline every tuned policy has to beat. KL to the start is at most log n − (n − 1)/n (Gao et al. 2022, 2210.10760;
an upper bound, Beirami et al. 2024, 2401.01879).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from rlaif.component import Options as BaseOptions
from rlaif.policy import Reward, Sample
from rlaif.records import Prompt, Response


class BestOfN:
    class Options(BaseOptions):
        n: int = Field(default=8, ge=2)

    needs_reward = True
    writes_weights = False

    def __init__(self, options: Options, where: str) -> None:
        self.options, self.samples = options, options.n

    async def respond(
        self, prompts: Sequence[Prompt], model: Any, sample: Sample, reward: Reward | None
    ) -> list[Response | None]:
        assert reward is not None
        sampled = await sample(model, prompts, self.samples)
        rewards = await reward(list(zip(prompts, sampled, strict=True)))
        best = []
        for many, values in zip(sampled, rewards, strict=True):
            known = [(value, -i) for i, value in enumerate(values) if value is not None]  # the first of equal ones
            best.append(many[-max(known)[1]] if known else None)
        return best

    def kl_bound(self) -> float | None:
        return math.log(self.samples) - (self.samples - 1) / self.samples
