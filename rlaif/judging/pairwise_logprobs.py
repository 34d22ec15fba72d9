"""Two replies side by side; the verdict is the probability of the option words as the next token.

No text is generated. Bai et al. 2022 (Constitutional AI, 2212.08073) §4.1 and Lee et al. 2023 (RLAIF, 2309.00267)
§2.1: p = P(A) / (P(A) + P(B)). Option mass P(A) + P(B) is kept; below ``minimum_mass`` the model was not choosing
between the options and the reply is unreadable.

Where a word for a tie is offered, P(tie) is its share of the mass of all three, and p counts half of it for either reply.
Of an API that lists only the likeliest tokens: ``rlaif.judging.logprobs``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from rlaif.component import Options as BaseOptions
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import Exemplars
from rlaif.judging.logprobs import shares_of
from rlaif.judging.reading import need_third_word, two_words


class PairwiseLogprobs:
    class Options(BaseOptions):
        template: str = "compare-two-local"
        choices: tuple[str, str] = ("A", "B")
        tie: str | None = None
        exemplars: str | None = None
        minimum_mass: float = Field(default=0.5, ge=0, le=1)

        _two_words = field_validator("choices")(two_words)

        @model_validator(mode="after")
        def _third_word(self) -> PairwiseLogprobs.Options:
            need_third_word(self.tie, self.choices)
            return self

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        self.words = (*options.choices, *([options.tie] if options.tie else []))
        self.boasts = tuple(f"[[{word}]]" for word in options.choices)
        self.template = context.template(options.template, PAIR_PLACEHOLDERS, PAIR_REQUIRED)
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, PAIR_REQUIRED)

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        messages = self.exemplars.fill(self.template, showing.texts())
        reply = await ask(Question(messages=messages, prefill=self.template.prefill, options=self.words))
        return self.read(reply.logprobs)

    def read(self, logprobs: Sequence[tuple[str, float]]) -> Verdict:
        """The verdict of the first token's candidates, each with its natural log-probability."""
        found = shares_of(logprobs, self.words, self.options.minimum_mass)
        if isinstance(found, Verdict):
            return found
        (first, second, *tied), mass = found
        tie = sum(tied)
        p_tie = tie if tied else None
        return Verdict(p=(first + tie / 2, second + tie / 2), p_tie=p_tie, probabilistic=True, option_mass=mass)
