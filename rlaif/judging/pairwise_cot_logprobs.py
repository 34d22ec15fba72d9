"""Reasons first, then the verdict as probabilities: two questions.

Lee et al. 2023 (RLAIF, 2309.00267) §2.1.2 and App. D: a rationale is decoded, appended to the conversation, and the option
words are scored after it. The reasons inform the verdict and its sureness is still measured; but after a rationale that has
made up its mind p is near 0 or 1 (Bai et al. 2022, 2212.08073, §4.3, clamp it; ``preferences.clamp``).

The rationale stands as the assistant's turn, and the ending asks in a turn of its own, which works with any chat template
and any API that sends log-probabilities.
"""

from __future__ import annotations

from rlaif.judging import Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.aside import read_aside
from rlaif.judging.pairwise_logprobs import PairwiseLogprobs
from rlaif.records import Message


class PairwiseCotLogprobs(PairwiseLogprobs):
    questions = 2

    class Options(PairwiseLogprobs.Options):
        template: str = "compare-two-reasons"
        ending: str = "compare-two-ending"

    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        super().__init__(options, context)
        self.ending = context.template(options.ending, ("rubric", "principle"), ())

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        messages = self.exemplars.fill(self.template, showing.texts())
        reply = await ask(Question(messages=messages, prefill=self.template.prefill))
        rationale = read_aside(reply, self.template.prefill, showing, "rationale")
        if isinstance(rationale, Verdict):
            return rationale
        said = Message(role="assistant", content=rationale)
        ending = self.ending.fill(showing.about())
        scored = await ask(
            Question(messages=(*messages, said, *ending), prefill=self.ending.prefill, options=self.words)
        )
        return self.read(scored.logprobs)
