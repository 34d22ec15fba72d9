"""Two replies side by side; the verdict is read from generated text, with a word for a tie where one is offered.

With ``structured`` the text is a JSON object by a schema, for models behind an API that can be held to one; else it
is prose that states its verdict.
"""

from __future__ import annotations

import re

from pydantic import field_validator, model_validator

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import Exemplars
from rlaif.judging.reading import cut_off, need_third_word, read_choice, two_words
from rlaif.judging.structured import read_verdict, verdict_schema
from rlaif.models import Reply

ENDS_IN_BRACKETS = re.compile(r"\]\]\W*\Z")


class PairwiseText:
    prose, form = "compare-two", "compare-two-form"  # the templates where none is named
    beside: tuple[str, ...] = ()  # placeholders that a subclass fills beside those of a pair

    class Options(BaseOptions):
        template: str | None = None  # None: the protocol's own, another for a structured reply
        choices: tuple[str, str] = ("A", "B")
        tie: str | None = "C"
        structured: bool = False
        reasoning: bool = True  # of a structured reply: a few sentences before the verdict
        exemplars: str | None = None

        _two_words = field_validator("choices")(two_words)

        @model_validator(mode="after")
        def _sound(self) -> PairwiseText.Options:
            need_third_word(self.tie, self.choices)
            if not self.structured and "reasoning" in self.model_fields_set:
                raise ValueError('"reasoning" is a key of a structured reply: it needs structured: true')
            return self

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        name = options.template or (self.form if options.structured else self.prose)
        self.template = context.template(name, (*PAIR_PLACEHOLDERS, *self.beside), (*PAIR_REQUIRED, *self.beside))
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, (*PAIR_REQUIRED, *self.beside))
        self.words = (*options.choices, *([options.tie] if options.tie else []))
        self.boasts = tuple(self._form().format(word=word) for word in options.choices)
        self.schema = verdict_schema(self.words, reasoning=options.reasoning) if options.structured else ""
        if self.schema and self.template.prefill:
            raise ConfigError(
                f'{context.where}: template "{name}" opens the reply (=== assistant), and a structured reply is JSON '
                "from its first character: leave that section out, or set options.structured to false."
            )

    def _form(self) -> str:
        """How a verdict is written."""
        if self.options.structured:
            return '{{"verdict": "{word}"}}'
        return "[RESULT] {word}" if self.template.asks_for("[RESULT]") else "[[{word}]]"

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        return self.read(await ask(self.question(showing)))

    def question(self, showing: Showing, sample_index: int = 0, **beside: str) -> Question:
        """The question; ``beside`` fills the placeholders that a subclass has beside those of a pair."""
        return Question(
            messages=self.exemplars.fill(self.template, {**showing.texts(), **beside}),
            prefill=self.template.prefill,
            sample_index=sample_index,
            json_schema=self.schema,
        )

    def read(self, reply: Reply) -> Verdict:
        """The verdict of one reply: 1, 0 or a tie, or why there is none."""
        cut = cut_off(reply)
        if not reply.text.strip():
            return Verdict(reason=f"empty reply{cut}")
        if self.schema:
            try:
                choice: int | None = read_verdict(reply.text, self.words, reasoning=self.options.reasoning)
            except ValueError as error:
                return Verdict(reason=f"{error}{cut}")
        else:
            choice = read_choice(self.template.prefill + reply.text, self.options.choices, self.options.tie)
        if choice is None:
            return Verdict(reason=f"no verdict in the reply{cut}")
        if cut and not self.schema and not ENDS_IN_BRACKETS.search(reply.text):
            return Verdict(reason=f"the reply goes on after its verdict{cut}")  # and might have taken it back
        p_tie = float(choice == 2) if self.options.tie else None
        return Verdict(p=((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))[choice], p_tie=p_tie)
