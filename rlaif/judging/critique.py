"""A critique of each reply by itself, then a verdict on both with the critiques at hand.

A critique is asked for without the other reply in sight, so that it depends on no order and, like a score, is asked once
for all comparisons the reply stands in. Both orders differ by the verdict alone.
"""

from __future__ import annotations

from rlaif.judging import ALONE_PLACEHOLDERS, ALONE_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.aside import read_aside
from rlaif.judging.pairwise_text import PairwiseText
from rlaif.models.gateway import gather_all
from rlaif.records import Response


class CritiqueThenVerdict(PairwiseText):
    questions = 3
    prose = form = "compare-two-critiques"
    beside = ("critique_1", "critique_2")

    class Options(PairwiseText.Options):
        critique: str = "critique-one"  # the template that asks for a critique of one reply

    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        super().__init__(options, context)
        self.critique = context.template(options.critique, ALONE_PLACEHOLDERS, ALONE_REQUIRED)

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        found = await gather_all(self._critique(showing, response, ask) for response in showing.responses)
        for unread in (each for each in found if isinstance(each, Verdict)):
            return unread
        first, second = (str(each) for each in found)
        return self.read(await ask(self.question(showing, critique_1=first, critique_2=second)))

    async def _critique(self, showing: Showing, response: Response, ask: Ask) -> str | Verdict:
        values = {**showing.about(), "response": response.text}
        reply = await ask(Question(messages=self.critique.fill(values), prefill=self.critique.prefill))
        return read_aside(reply, self.critique.prefill, showing, "critique")
