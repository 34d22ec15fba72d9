"""A judge that is no part of the reward looks on: whether what the reward likes more is better (Gao et al. 2022, 2210.10760)."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.evaluate import Arm, contests, read_wins
from rlaif.labels import LabelContext
from rlaif.labels.judges import JudgeLabels
from rlaif.policy import GoldSpec
from rlaif.records import Prompt, Response


class Gold:
    """Wins of what a policy says over what its start says, by a judge."""

    def __init__(self, spec: GoldSpec, context: LabelContext) -> None:
        asked = JudgeLabels.Options(judges=(spec.judge,), principles="average", drift_probes=0)
        self.labels = JudgeLabels(asked, context)

    async def __call__(
        self, prompts: Sequence[Prompt], ours: Sequence[Response], theirs: Sequence[Response]
    ) -> list[float | None]:
        """For each prompt 1 where ours is better in both orders, 0 where theirs is, else one half; None where the judge has no
        opinion."""
        arm, start = Arm("policy", list(ours)), Arm("start", list(theirs))
        asked = contests(list(prompts), start, arm)
        judgements = await self.labels.judge_all([comparison for comparison in asked if comparison])
        read_wins(arm, start, asked, judgements)
        return arm.wins

    def signature(self) -> object:
        return self.labels.signature()
