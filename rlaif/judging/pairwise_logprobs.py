"""Two replies side by side; the verdict is the probability of the option words as the next token.

No text is generated. Bai et al. 2022 (Constitutional AI, 2212.08073) §4.1 and Lee et al. 2023 (RLAIF, 2309.00267)
§2.1: p = P(A) / (P(A) + P(B)). Option mass P(A) + P(B) is kept; below ``minimum_mass`` the model was not choosing
between the options and the reply is unreadable.

Where a word for a tie is offered, P(tie) is its share of the mass of all three, and p counts half of it for either reply.

An API lists only the likeliest tokens. An option that is not among them counts as 0; each of its tokens may have as
much as the least likely of those listed, and together no more than these leave of 1. Where that could move p by more
than ``UNLISTED`` the reply is unreadable: hardly ever with 20 tokens listed, more often with 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from rlaif.component import Options as BaseOptions
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import Exemplars
from rlaif.judging.reading import need_third_word, option_masses, two_words, word_of

UNLISTED = 0.05  # by which p may be off because an option is not among the tokens that were listed
VARIANTS = 2  # tokens of an option that may have any mass to speak of: "A" and " A"
ABOVE_ONE = 1e-3  # logarithm by which rounding may lift a probability above 1


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
        self.template = context.template(options.template, PAIR_PLACEHOLDERS, PAIR_REQUIRED)
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, PAIR_REQUIRED)

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        messages = self.exemplars.fill(self.template, showing.texts())
        reply = await ask(Question(messages=messages, prefill=self.template.prefill, options=self.words))
        return self.read(reply.logprobs)

    def read(self, logprobs: Sequence[tuple[str, float]]) -> Verdict:
        """The verdict of the first token's candidates, each with its natural log-probability."""
        if not logprobs:
            return Verdict(reason="the provider sent no log-probabilities")
        if not all(value <= ABOVE_ONE for _, value in logprobs):  # nor is NaN
            return Verdict(reason="a log-probability is not a number of at most 0")
        first, second, *tied = option_masses(logprobs, self.words)
        mass = first + second + sum(tied)
        if mass < self.options.minimum_mass or mass <= 0:
            return Verdict(option_mass=min(mass, 1.0), reason=f"option mass below {self.options.minimum_mass:g}")
        listed = {word_of(text) for text, _ in logprobs}
        missing = sum(word.strip() not in listed for word in self.words)
        unknown = unlisted_mass(logprobs, missing) if missing else 0.0
        if unknown > UNLISTED * (mass + unknown):
            return Verdict(option_mass=min(mass, 1.0), reason="an option is not among the likeliest tokens listed")
        tie = sum(tied)
        p = ((first + tie / 2) / mass, (second + tie / 2) / mass)
        p_tie = tie / mass if tied else None
        return Verdict(p=p, p_tie=p_tie, probabilistic=True, option_mass=min(mass, 1.0))


def unlisted_mass(logprobs: Sequence[tuple[str, float]], options: int = 1) -> float:
    """The most that so many options outside the list can have together. The least likely but one bounds each: the token
    that was drawn is listed too, however unlikely it was."""
    listed = sorted(math.exp(value) for _, value in logprobs)
    return min(VARIANTS * options * listed[:2][-1], max(0.0, 1.0 - sum(listed)))
