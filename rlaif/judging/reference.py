"""A reference solution beside the two replies: the judge's own, written first, or one that the prompt brings.

Zheng et al. 2023 (MT-bench, 2306.05685) §3.4: with a reference the judge fails on 3 of 20 mathematics questions, by
default on 14. The judge's own solution depends on the conversation alone, so that it is asked for once for all orders and
all pairs of a prompt.
"""

from __future__ import annotations

from rlaif.judging import ABOUT_PLACEHOLDERS, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.aside import read_aside
from rlaif.judging.pairwise_text import PairwiseText


class ReferenceGuided(PairwiseText):
    prose = form = "compare-two-reference"
    beside = ("reference",)

    class Options(PairwiseText.Options):
        solve: str = "solve"  # the template that asks for the judge's own solution
        metadata: str | None = None  # the column of the prompt that holds a reference: then none is asked for

    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        super().__init__(options, context)
        self.solve = None if options.metadata else context.template(options.solve, ABOUT_PLACEHOLDERS, ("prompt",))
        self.questions = 2 if self.solve else 1

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        reference = await self._reference(showing, ask)
        if isinstance(reference, Verdict):
            return reference
        return self.read(await ask(self.question(showing, reference=reference)))

    async def _reference(self, showing: Showing, ask: Ask) -> str | Verdict:
        if self.solve is None:
            value = showing.prompt.metadata.get(self.options.metadata or "")
            return Verdict(reason=f'the prompt has no "{self.options.metadata}"') if value in (None, "") else str(value)
        reply = await ask(Question(messages=self.solve.fill(showing.about()), prefill=self.solve.prefill))
        return read_aside(reply, self.solve.prefill, showing, "solution")
