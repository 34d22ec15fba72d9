"""All replies of a list side by side in one question, ranked from best to worst.

Cheap, one question for K replies, and sensitive to the order they stand in: the list is shown in an order and its reverse,
so that every reply stands before every other once and after it once, and in ``shuffles`` such pairs of orders. The label
of two replies is the mean over these showings of 1 where the first is ranked higher, 0 where lower, one half where they tie.
"""

from __future__ import annotations

from string import ascii_uppercase

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError
from rlaif.judging import ABOUT_PLACEHOLDERS, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import RESPONSES, Exemplars, Row
from rlaif.judging.reading import cut_off, read_ranking
from rlaif.judging.structured import VERDICT, ranking_schema, read_text
from rlaif.models import Reply

MOST = len(ascii_uppercase)


class Listwise:
    boasts = ("[[A > B]]", "[[B > A]]")

    class Options(BaseOptions):
        template: str = "rank-list"
        ties: bool = True
        structured: bool = False  # reasons and ranking in a JSON object, by a schema
        exemplars: str | None = None

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        self.template = context.template(
            options.template, (*ABOUT_PLACEHOLDERS, "responses"), ("prompt", "responses", "fence")
        )
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, ("prompt", RESPONSES))
        if options.structured and self.template.prefill:
            raise ConfigError(f'{context.where}: template "{options.template}" opens the reply, and it is to be JSON.')

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        if len(showing.responses) > MOST:
            return Verdict(reason=f"more than {MOST} replies")
        labels = ascii_uppercase[: len(showing.responses)]

        def listed(row: Row) -> dict[str, str]:
            shown = (f"<<{showing.fence} reply {ascii_uppercase[i]}>>\n{text}" for i, text in enumerate(row[RESPONSES]))
            return {**row, RESPONSES: "\n".join(shown)}

        asked = listed({**showing.about(), RESPONSES: [response.text for response in showing.responses]})
        question = Question(
            messages=self.exemplars.fill(self.template, asked, listed),
            prefill=self.template.prefill,
            json_schema=ranking_schema() if self.options.structured else "",
        )
        return self.read(await ask(question), labels)

    def read(self, reply: Reply, labels: str) -> Verdict:
        """The ranking of one reply, or why there is none."""
        cut = cut_off(reply)
        if not reply.text.strip():
            return Verdict(reason=f"empty reply{cut}")
        text = self.template.prefill + reply.text
        if self.options.structured:
            try:
                text = read_text(reply.text, VERDICT)
            except ValueError as error:
                return Verdict(reason=f"{error}{cut}")
        elif cut:
            return Verdict(reason=f"the reply does not end{cut}")
        found = read_ranking(text, tuple(labels), ties=self.options.ties)
        return Verdict(ranking=found) if found else Verdict(reason="no ranking of all replies in the reply")
