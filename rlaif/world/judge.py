"""The practice world's judge: option log-probabilities, after a look at how it reads the principles it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rlaif.config import Principle
from rlaif.judging.pairwise_logprobs import PairwiseLogprobs
from rlaif.models.gateway import gather_all
from rlaif.preferences import p_first
from rlaif.records import Comparison, Judgement, Response
from rlaif.world.probe import Shown, concerns, readings, replies_in_order, verdict_lines
from rlaif.world.showing import comparison_of

Show = Callable[[Comparison, Principle | None, tuple[Response, ...]], Coroutine[Any, Any, Judgement]]


class PracticeJudge(PairwiseLogprobs):
    """A small network: what it makes of each principle is said before its labels are used."""

    async def rehearse(self, principles: Sequence[Principle], show: Show) -> list[str]:
        """Unknown words, and the verdicts on pairs that differ in one thing, as lines for a person."""
        named = []
        for principle in principles:
            found = await readings(functools.partial(_verdicts, principle, show))
            named.append((principle.id, principle.text, found))
        return [*(line for each in named for line in verdict_lines(*each)), *concerns(named)]


async def _verdicts(principle: Principle, show: Show, shown: Sequence[Shown]) -> list[float | None]:
    """P(first shown) of each probe; None where the verdict could not be read."""
    asked = [comparison_of(probe.question, replies_in_order((probe, first))) for probe, first in shown]
    judgements = await gather_all(show(c, principle, c.responses) for c in asked)
    return [p_first(j, *(r.id for r in c.responses)) for c, j in zip(asked, judgements, strict=True)]
