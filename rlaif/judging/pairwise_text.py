"""Two replies side by side; the verdict is read from generated text, with a word for a tie where one is offered."""

from __future__ import annotations

from rlaif.component import Options as BaseOptions
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.reading import read_choice


class PairwiseText:
    class Options(BaseOptions):
        template: str = "compare-two"
        choices: tuple[str, str] = ("A", "B")
        tie: str | None = "C"

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        self.template = context.template(options.template, PAIR_PLACEHOLDERS, PAIR_REQUIRED)

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        reply = await ask(Question(messages=self.template.fill(showing.texts()), prefill=self.template.prefill))
        if not reply.text.strip():
            return Verdict(reason="empty reply")
        choice = read_choice(self.template.prefill + reply.text, self.options.choices, self.options.tie)
        if choice is None:
            cut = " (cut off at its length limit)" if reply.finish_reason == "length" else ""
            return Verdict(reason=f"no verdict in the reply{cut}")
        if choice == 2:
            return Verdict(p=(0.5, 0.5))
        return Verdict(p=(1.0, 0.0) if choice == 0 else (0.0, 1.0))
