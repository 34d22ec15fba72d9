"""A list of propositions about a reply, each true or false of it, added up with explicit weights.

Mu et al. 2024 (Rule Based Rewards, 2411.01111): R = Σ w_i φ_i over binary propositions that a model grades. Gunjal et al.
2025 (Rubrics as Rewards, 2507.17746), explicit aggregation: items are essential, important, optional or pitfalls, and the
score is Σ w_j c_j / Σ w_j. Here both: a weight below 0 is of a fault, which counts where it is *not* there, so that

    score = Σ_j |w_j| · g_j / Σ_j |w_j|,  g_j = c_j where w_j > 0, 1 - c_j where w_j < 0,

from 0, everything wrong, to 1, everything right. c_j is 0 or 1 as a word says, or, read by log-probabilities and one
question an item, P(yes) / (P(yes) + P(no)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from rlaif.component import parse_model
from rlaif.config import Checklist
from rlaif.judging import ALONE_PLACEHOLDERS, ALONE_REQUIRED, Ask, ProtocolContext, Question, Showing, Verdict
from rlaif.judging.exemplars import Exemplars
from rlaif.judging.logprobs import shares_of
from rlaif.judging.reading import cut_off, read_words, two_words
from rlaif.judging.scoring import EachAlone, Scored, ScoringOptions, ask_all
from rlaif.judging.structured import read_fields, words_schema
from rlaif.models import Reply
from rlaif.records import Response

TEMPLATES = {"text": "check-items", "structured": "check-items-form", "logprobs": "check-item-local"}
Truths = Mapping[str, float]  # by item, from 0 to 1


class Propositions(EachAlone):
    class Options(ScoringOptions):
        items: str  # a file of propositions in prompts/rubrics
        template: str | None = None  # None: one that fits how the answers are read
        read: Literal["text", "structured", "logprobs"] = "text"
        words: tuple[str, str] = ("yes", "no")
        minimum_mass: float = Field(default=0.5, ge=0, le=1)  # of log-probabilities
        exemplars: str | None = None  # by log-probabilities each about one ``item``

        _two_words = field_validator("words")(two_words)

    scale = (0, 1)
    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        self.options = options
        entry = context.entry("checklist", options.items)
        self.items = parse_model(Checklist, entry.yaml(), str(entry.path)).items
        yes, no = options.words
        self.boasts = ("\n".join(f"{item.id}: {yes if item.value > 0 else no}" for item in self.items),)
        needed = "item" if options.read == "logprobs" else "items"
        self.template = context.template(
            options.template or TEMPLATES[options.read],
            (*ALONE_PLACEHOLDERS, needed),
            (*ALONE_REQUIRED, needed),
        )
        columns = ("prompt", "response", *(("item",) if needed == "item" else ()))
        self.exemplars = Exemplars.read(options.exemplars, context, self.template, columns)
        self.questions = 2 * (len(self.items) if options.read == "logprobs" else 1)

    async def score(self, showing: Showing, response: Response, ask: Ask) -> Scored | Verdict:
        values = {**showing.about(), "response": response.text}
        found = await (self._each(values, ask) if self.options.read == "logprobs" else self._all(values, ask))
        if isinstance(found, Verdict):
            return found
        truths, mass = found
        good = sum(abs(i.value) * (truths[i.id] if i.value > 0 else 1 - truths[i.id]) for i in self.items)
        return Scored(good / sum(abs(item.value) for item in self.items), truths, mass)

    async def _all(self, values: Mapping[str, str], ask: Ask) -> tuple[Truths, float | None] | Verdict:
        """All items in one question."""
        items = "\n".join(f"{item.id}: {item.text}" for item in self.items)
        names = [item.id for item in self.items]
        schema = words_schema(names, self.options.words) if self.options.read == "structured" else ""
        messages = self.exemplars.fill(self.template, {**values, "items": items})
        found = self.read(await ask(Question(messages=messages, prefill=self.template.prefill, json_schema=schema)))
        return found if isinstance(found, Verdict) else (found, None)

    def read(self, reply: Reply) -> Truths | Verdict:
        """Every item's truth by one reply, or why there is none."""
        cut = cut_off(reply)
        if not reply.text.strip():
            return Verdict(reason=f"empty reply{cut}")
        names, words = [item.id for item in self.items], self.options.words
        if self.options.read == "structured":
            try:
                said = read_fields(reply.text, names, words)
            except ValueError as error:
                return Verdict(reason=f"{error}{cut}")
            return {name: float(word == words[0]) for name, word in said.items()}
        if cut:
            return Verdict(reason=f"the reply does not end{cut}")
        places = read_words(self.template.prefill + reply.text, names, words)
        if places is None:
            return Verdict(reason="not every item is answered in the reply")
        return {name: float(place == 0) for name, place in places.items()}

    async def _each(self, values: Mapping[str, str], ask: Ask) -> tuple[Truths, float | None] | Verdict:
        """One question an item, answered by probabilities."""
        questions = [
            Question(
                messages=self.exemplars.fill(self.template, {**values, "item": item.text}),
                prefill=self.template.prefill,
                options=self.options.words,
            )
            for item in self.items
        ]
        replies = await ask_all(ask, questions)
        truths: dict[str, float] = {}
        masses: list[float] = []
        for item, reply in zip(self.items, replies, strict=True):
            found = self._truth(reply)
            if isinstance(found, Verdict):
                return found
            truths[item.id], mass = found
            masses.append(mass)
        return truths, min(masses)

    def _truth(self, reply: Reply) -> tuple[float, float] | Verdict:
        """(P(yes) / (P(yes) + P(no)), their mass) or why it cannot be said."""
        found = shares_of(reply.logprobs, self.options.words, self.options.minimum_mass)
        return found if isinstance(found, Verdict) else (found[0][0], found[1])
