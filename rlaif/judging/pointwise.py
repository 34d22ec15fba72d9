"""Each reply is scored by itself on a scale of whole numbers, as a whole or by several named aspects.

The number is read from generated text, from a JSON object by a schema, or it is the mean over the log-probabilities of
the scores (``rlaif.judging.expected``). Several aspects are asked for in one call or, with ``split`` and always by
log-probabilities, in a call each; the score is their plain mean (Cui et al. 2023, UltraFeedback, 2310.01377, ask for four
aspects and for an overall score beside them; the mean says what it is made of). From scores to a verdict:
``rlaif.judging.scoring``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rlaif.errors import ConfigError
from rlaif.judging import ALONE_PLACEHOLDERS, ALONE_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import Exemplars
from rlaif.judging.expected import DIGITS, first_words, read_expected, shared_digits
from rlaif.judging.reading import cut_off, read_number, read_numbers
from rlaif.judging.scoring import EachAlone, Scored, ScoringOptions, ask_all
from rlaif.judging.structured import numbers_schema, read_fields
from rlaif.models import Reply
from rlaif.models.gateway import gather_all
from rlaif.records import Response

WHOLE = "score"  # what the number of a reply as a whole is called
TEMPLATES = {"text": "score-text", "structured": "score-form", "logprobs": "score-local"}


class Pointwise(EachAlone):
    class Options(ScoringOptions):
        template: str | None = None  # None: one that fits how the score is read
        scale: tuple[int, int] = (1, 10)  # lowest and highest
        aspects: dict[str, str] = Field(default_factory=dict)  # name -> what it means; none: the reply as a whole
        read: Literal["text", "structured", "logprobs"] = "text"
        split: bool = False  # each aspect in a call of its own
        by_digits: bool = False  # of log-probabilities: a score of two digits is two tokens
        minimum_mass: float = Field(default=0.5, ge=0, le=1)  # of log-probabilities
        exemplars: str | None = None

        @field_validator("scale")
        @classmethod
        def _upward(cls, value: tuple[int, int]) -> tuple[int, int]:
            if not 0 <= value[0] < value[1] <= 99:
                raise ValueError("the scale is [lowest, highest], whole numbers from 0 to 99")
            return value

        @model_validator(mode="after")
        def _sound(self) -> Pointwise.Options:
            if self.read != "logprobs" and {"by_digits", "minimum_mass"} & self.model_fields_set:
                raise ValueError('"by_digits" and "minimum_mass" are of log-probabilities: they need read: logprobs')
            if self.split and not self.aspects:
                raise ValueError('"split" asks aspect by aspect: set aspects')
            if WHOLE in self.aspects:
                raise ValueError(f'"{WHOLE}" is the mean of the aspects: give the aspect another name')
            return self

    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        low, high = options.scale
        self.scores = tuple(range(low, high + 1))
        self.highest = high
        self.scale = low, high
        alone = options.split or options.read == "logprobs"
        names = tuple(options.aspects) or (WHOLE,)
        self.calls: tuple[tuple[str, ...], ...] = tuple((name,) for name in names) if alone else (names,)
        default = "score-aspects" if options.read == "text" and len(self.calls[0]) > 1 else TEMPLATES[options.read]
        name = options.template or default
        self.template = context.template(
            name,
            (*ALONE_PLACEHOLDERS, "aspects", "low", "high"),
            (*ALONE_REQUIRED, *(("aspects",) if options.aspects else ())),
        )
        self.boasts = (f"[RESULT] {high}" if self.template.asks_for("[RESULT]") else f"[[{high}]]",)
        if options.read == "structured" and self.template.prefill:
            raise ConfigError(
                f'{context.where}: template "{name}" opens the reply (=== assistant), and a structured reply is JSON '
                "from its first character: leave that section out, or set options.read to text."
            )
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, ("prompt", "response"))
        self.questions = 2 * len(self.calls) * (1 + len(self._following))

    @property
    def _following(self) -> tuple[str, ...]:
        return shared_digits(self.scores) if self.options.by_digits else ()

    async def score(self, showing: Showing, response: Response, ask: Ask) -> Scored | Verdict:
        read = await gather_all(self._numbers(showing, response, names, ask) for names in self.calls)
        found: dict[str, float] = {}
        masses: list[float] = []
        for each in read:
            if isinstance(each, Verdict):
                return each
            numbers, mass = each
            found |= numbers
            masses += [] if mass is None else [mass]
        mean = sum(found.values()) / len(found)
        return Scored(mean, found if self.options.aspects else {}, min(masses, default=None))

    async def _numbers(
        self, showing: Showing, response: Response, names: tuple[str, ...], ask: Ask
    ) -> tuple[Mapping[str, float], float | None] | Verdict:
        """The numbers that one call gives, and the mass of the scores; or why they cannot be read."""
        if self.options.read == "logprobs":
            expected = await self._expected(self._question(showing, response, names), ask)
            return expected if isinstance(expected, Verdict) else ({names[0]: expected[0]}, expected[1])
        found = self.read(await ask(self._question(showing, response, names)), names)
        return found if isinstance(found, Verdict) else (found, None)

    async def _expected(self, question: Question, ask: Ask) -> tuple[float, float] | Verdict:
        options, following = self.options, self._following
        words = first_words(self.scores, by_digits=options.by_digits)
        questions = [question.model_copy(update={"options": words})]
        for digit in following:
            questions.append(question.model_copy(update={"prefill": question.prefill + digit, "options": DIGITS}))
        first, *rest = [reply.logprobs for reply in await ask_all(ask, questions)]
        return read_expected(self.scores, first, dict(zip(following, rest, strict=True)), options.minimum_mass)

    def _question(self, showing: Showing, response: Response, names: tuple[str, ...]) -> Question:
        low, high = self.options.scale
        described = [(name, self.options.aspects[name]) for name in names if name in self.options.aspects]
        values = {
            **showing.about(),
            "response": response.text,
            "low": str(low),
            "high": str(high),
            "aspects": "\n".join(f"- {name}: {text}" for name, text in described),
        }
        schema = numbers_schema(names, self.scores) if self.options.read == "structured" else ""
        return Question(
            messages=self.exemplars.fill(self.template, values), prefill=self.template.prefill, json_schema=schema
        )

    def read(self, reply: Reply, names: tuple[str, ...]) -> Mapping[str, float] | Verdict:
        """The numbers of one reply in text or JSON, or why there are none."""
        cut = cut_off(reply)
        if not reply.text.strip():
            return Verdict(reason=f"empty reply{cut}")
        low, high = self.options.scale
        if self.options.read == "structured":
            try:
                return read_fields(reply.text, names, self.scores)
            except ValueError as error:
                return Verdict(reason=f"{error}{cut}")
        if cut:
            return Verdict(reason=f"the reply does not end{cut}")
        text = self.template.prefill + reply.text
        found = read_numbers(text, names, low, high) if len(names) > 1 else self._one(text, names[0])
        return found if found else Verdict(reason="no score in the reply")

    def _one(self, text: str, name: str) -> dict[str, float] | None:
        value = read_number(text, *self.options.scale)
        return None if value is None else {name: value}
