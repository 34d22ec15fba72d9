"""Which step of a worked solution is the first wrong one.

The steps are the reply's paragraphs or lines, numbered from 1; the judge names the first wrong step, or -1 where all are
right (the task of ProcessBench: Zheng et al. 2024, 2412.06559). Steps before it are right, it is wrong, those after it are
not judged. The score of a reply is the share of its steps before the first wrong one, 1 where none is wrong; which step it
is and how many there are stay in the judgement as ``first_wrong`` and ``steps``.
"""

from __future__ import annotations

import re
from typing import Literal

from rlaif.judging import ABOUT_PLACEHOLDERS, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import Exemplars, Row
from rlaif.judging.reading import STEP, cut_off, read_number
from rlaif.judging.scoring import EachAlone, Scored, ScoringOptions
from rlaif.models import Reply
from rlaif.records import Response

NONE_WRONG = -1
BETWEEN = {"lines": re.compile(r"\n+"), "paragraphs": re.compile(r"\n[ \t]*\n+")}


class FirstWrongStep(EachAlone):
    questions = 2
    scale = (0, 1)
    boasts = ("[[-1]]",)  # no step is wrong

    class Options(ScoringOptions):
        template: str = "first-wrong-step"
        steps: Literal["lines", "paragraphs"] = "lines"  # blank lines are no steps
        exemplars: str | None = None

    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        self.template = context.template(options.template, (*ABOUT_PLACEHOLDERS, "steps"), ("prompt", "steps", "fence"))
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, ("prompt", "response"))

    async def score(self, showing: Showing, response: Response, ask: Ask) -> Scored | Verdict:
        steps = steps_of(response.text, self.options.steps)
        if not steps:
            return Verdict(reason="a reply without steps")

        def numbered(row: Row) -> dict[str, str]:
            found = enumerate(steps_of(row["response"], self.options.steps), 1)
            return {**row, "steps": "\n".join(f"<<{showing.fence} step {number}>>\n{step}" for number, step in found)}

        asked = numbered({**showing.about(), "response": response.text})
        messages = self.exemplars.fill(self.template, asked, numbered)
        first = self.read(await ask(Question(messages=messages, prefill=self.template.prefill)), len(steps))
        if isinstance(first, Verdict):
            return first
        right = len(steps) if first == NONE_WRONG else first - 1
        return Scored(right / len(steps), {"first_wrong": first, "steps": len(steps)})

    def read(self, reply: Reply, steps: int) -> int | Verdict:
        """The number of the first wrong step, -1 where there is none; or why it cannot be read."""
        if cut := cut_off(reply):
            return Verdict(reason=f"the reply does not end{cut}")
        found = read_number(self.template.prefill + reply.text, NONE_WRONG, steps, STEP)
        if found is None or found == 0 or found != int(found):
            return Verdict(reason="no step in the reply" if reply.text.strip() else "empty reply")
        return int(found)


def steps_of(text: str, by: Literal["lines", "paragraphs"]) -> list[str]:
    """The steps of a solution, without blank ones."""
    return [step.strip() for step in BETWEEN[by].split(text) if step.strip()]
