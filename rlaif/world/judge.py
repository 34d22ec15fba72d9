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
from rlaif.world.chat import Attributes
from rlaif.world.lessons import Pair
from rlaif.world.probe import Probe, readings, verdict_lines
from rlaif.world.showing import comparison_of

Show = Callable[[Comparison, Principle | None, tuple[Response, ...]], Coroutine[Any, Any, Judgement]]


class PracticeJudge(PairwiseLogprobs):
    """A small network: what it makes of each principle is said before its labels are used."""

    async def rehearse(self, principles: Sequence[Principle], show: Show) -> list[str]:
        """Unknown words, and the verdicts on pairs that differ in one thing, as lines for a person."""
        lines = []
        for principle in principles:
            found = await readings(functools.partial(_verdicts, principle, show))
            lines += verdict_lines(principle.id, principle.text, found)
        return lines


async def _verdicts(principle: Principle, show: Show, probes: Sequence[tuple[Probe, bool]]) -> list[float]:
    """P(first shown) of each probe; one that cannot be read counts as undecided."""
    nothing = Attributes("other")
    asked = []
    for probe, more_first in probes:
        texts = (probe.more, probe.less) if more_first else (probe.less, probe.more)
        asked.append(comparison_of(Pair(probe.question, texts, (nothing, nothing))))
    judgements = await gather_all(show(c, principle, c.responses) for c in asked)
    found = [p_first(j, *(r.id for r in c.responses)) for c, j in zip(asked, judgements, strict=True)]
    return [0.5 if p is None else p for p in found]
