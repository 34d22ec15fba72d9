"""Two replies side by side; the verdict is the probability of the option words as the next token.

No text is generated. Bai et al. 2022 (Constitutional AI, 2212.08073) §4.1 and Lee et al. 2023 (RLAIF, 2309.00267)
§2.1: p = P(A) / (P(A) + P(B)). Option mass P(A) + P(B) is kept; below ``minimum_mass`` the model was not choosing
between the options and the reply is unreadable.
"""

from __future__ import annotations

import math

from pydantic import Field, field_validator

from rlaif.component import Options as BaseOptions
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.reading import option_masses


class PairwiseLogprobs:
    class Options(BaseOptions):
        template: str = "compare-two-local"
        choices: tuple[str, str] = ("A", "B")
        minimum_mass: float = Field(default=0.5, ge=0, le=1)

        @field_validator("choices")
        @classmethod
        def _differ(cls, value: tuple[str, str]) -> tuple[str, str]:
            if value[0].strip() == value[1].strip() or not all(word.strip() for word in value):
                raise ValueError("the two choices must be different words")
            return value

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        self.template = context.template(options.template, PAIR_PLACEHOLDERS, PAIR_REQUIRED)

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        reply = await ask(
            Question(
                messages=self.template.fill(showing.texts()),
                prefill=self.template.prefill,
                options=self.options.choices,
            )
        )
        if not reply.logprobs:
            return Verdict(reason="no log-probabilities in the reply")
        first, second = option_masses(reply.logprobs, self.options.choices)
        mass = first + second
        if math.isnan(mass):
            return Verdict(reason="a log-probability is not a number")
        if mass < self.options.minimum_mass or mass <= 0:
            return Verdict(option_mass=min(mass, 1.0), reason=f"option mass below {self.options.minimum_mass:g}")
        return Verdict(p=(first / mass, second / mass), probabilistic=True, option_mass=min(mass, 1.0))
