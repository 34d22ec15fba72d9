"""Simulated people who label comparisons of the practice world, with planted faults of known size.

As a label source: ``labels: {source: "rlaif.world.annotators:Annotators", options: {noise: 0.25}}``. Every draw is keyed
by annotator and comparison, so a label depends on nothing else in the run.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from rlaif.component import Options as BaseOptions
from rlaif.labels import LabelContext
from rlaif.records import Comparison, Judgement, uniform
from rlaif.world.chat import Attributes, Question
from rlaif.world.oracle import FAMILIES, attributes, prefers, read

VALUES = {"harmless": 3.0, "helpful": 2.0, "over_refusal": 1.0, "correct": 1.0, "explains": 0.5, "offers": 0.5}


def opinion(values: Mapping[str, float], question: Question, first: Attributes, second: Attributes) -> float:
    """Whether the first reply is better by these weights of families: 1, 0, or 0.5 where they balance."""
    total = sum(weight * (prefers(family, 1, question, first, second) - 0.5) for family, weight in values.items())
    return 0.5 if abs(total) < 1e-9 else float(total > 0)


def manner_of(reply: Attributes) -> str:
    """The three manners of the planted cycle: a list, a question back, or neither."""
    return "list" if reply.steps else "asking" if reply.asks else "plain"


BEATS = {("list", "plain"), ("asking", "list"), ("plain", "asking")}  # each beats one and loses to one: no best manner


MANNERS = ("polite", "short", "asks", "warns", "sorry", "steps")  # what tastes are about: all that VALUES leaves open
TASTES = tuple((family, sign) for family in MANNERS for sign in (1, -1))

_read_once = functools.lru_cache(64)(attributes)  # several people judge a pair in turn


class Annotators:
    """People with biases, tastes, values and noise. A label is made in this order:

    1. With the probability of each bias it is what the bias says: the reply shown first (``position``; negative: the
       second), the longer one (``length``; negative: the shorter), the list (``lists``; negative: the other), the one of
       the annotators' own family of authors (``own_style``, towards ``style``), or the winner of a cycle among three
       manners in which none is best (``cycle``). Never two biases at once.
    2. Else, or where that bias does not apply to the pair, with probability ``disagreement`` a taste of the person's own
       decides: one manner and a sign, such as polite and -1 for somebody who likes the rude. It is the same in all of a
       person's labels, and no two of the first 12 people share one.
    3. Else, or where the two replies are alike to that taste, the values that all share decide. Where they balance, the
       label is a tie.
    4. With probability ``noise`` the label is turned round, whatever decided it. Ties stay ties.

    A single bias of size b > 0 moves its rate from r to b + (1 - b) r, one of size -b to (1 - b) r, where r is the rate
    without biases on the same pairs and ties count one half; noise e then makes it e + (1 - 2e) times that. Under
    disagreement d, two people's votes differ on a share 2 d (1 - d) A + d² D of pairs, a tie being an opinion like the
    others: A is the share of votes that differ from the values when d is 1, D that of pairs of votes that differ from
    each other then. On random pairs A is about 0.3 and D about 0.4, depending on the tastes drawn.
    """

    caveats = ("The people are simulated, in a practice world.",)

    class Options(BaseOptions):
        values: dict[str, float] = VALUES
        people: int = Field(default=5, ge=1)
        votes: int = Field(default=1, ge=1)  # people asked about each comparison
        overlap: float = Field(default=0.0, ge=0, le=1)  # share of comparisons about which one more is asked
        noise: float = Field(default=0.0, ge=0, le=1)
        position: float = Field(default=0.0, ge=-1, le=1)
        length: float = Field(default=0.0, ge=-1, le=1)
        lists: float = Field(default=0.0, ge=-1, le=1)
        own_style: float = Field(default=0.0, ge=0, le=1)
        style: str = Field(default="alpha", pattern="^(alpha|beta)$")
        cycle: float = Field(default=0.0, ge=0, le=1)
        disagreement: float = Field(default=0.0, ge=0, le=1)

        @model_validator(mode="after")
        def _possible(self) -> Annotators.Options:
            biases = [self.position, self.length, self.lists, self.own_style, self.cycle]
            if sum(map(abs, biases)) > 1:
                raise ValueError(
                    "the probabilities of position, length, lists, own_style and cycle add up to more than 1"
                )
            if self.votes + (self.overlap > 0) > self.people:
                more = ", and one more by overlap" if self.overlap else ""
                raise ValueError(f"votes is {self.votes}{more}, but there are only {self.people} people")
            if unknown := set(self.values) - set(FAMILIES):
                raise ValueError(f"values: {sorted(unknown)[0]} is no family; there are {', '.join(FAMILIES)}")
            return self

    def __init__(self, options: Options, context: LabelContext) -> None:
        self._begin(options, context.seed)

    @classmethod
    def of(cls, options: Options, seed: int) -> Annotators:
        """The same people outside a pipeline."""
        people = cls.__new__(cls)
        people._begin(options, seed)
        return people

    def _begin(self, options: Options, seed: int) -> None:
        self.options, self.seed = options, seed
        self._tastes = sorted(TASTES, key=lambda taste: uniform("taste", seed, *taste))

    def signature(self) -> Any:
        return {"source": "practice annotators", "options": self.options.model_dump(), "seed": self.seed}

    def per_comparison(self) -> int | None:
        return None if 0 < self.options.overlap < 1 else self.options.votes + round(self.options.overlap)

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        async for comparisons in batches:
            yield [self.judge(who, c) for c in comparisons for who in self.asked(c)]

    def asked(self, comparison: Comparison) -> list[int]:
        """The people who see a comparison: the first ``votes`` in an order of its own, or one more."""
        more = uniform("overlap", self.seed, comparison.id) < self.options.overlap
        people = range(self.options.people)
        order = sorted(people, key=lambda who: uniform("asked", self.seed, comparison.id, who))
        return order[: self.options.votes + more]

    def judge(self, who: int, comparison: Comparison) -> Judgement:
        """What one person says of a comparison, in the order drawn for them."""
        replies = comparison.responses
        if uniform("order", self.seed, comparison.id, who) < 0.5:
            replies = replies[::-1]
        ids = tuple(response.id for response in replies)
        labeller = f"human:practice-{who + 1}"
        question = read(comparison.prompt.messages)
        if question is None or len(replies) != 2:
            reason = "not a pair of replies to a question of the practice world"
            return Judgement(
                comparison_id=comparison.id, labeller=labeller, shown=ids, outcome="unreadable", reason=reason
            )
        seen = [_read_once(question, response.text) for response in replies]
        p = self.verdict(who, comparison.id, question, seen[0], seen[1])
        ranking = (ids,) if p == 0.5 else ((ids[0],), (ids[1],)) if p > 0.5 else ((ids[1],), (ids[0],))
        return Judgement(comparison_id=comparison.id, labeller=labeller, shown=ids, outcome="ranked", ranking=ranking)

    def verdict(self, who: int, comparison_id: str, question: Question, first: Attributes, second: Attributes) -> float:
        """1 for the reply shown first, 0 for the second, 0.5 for a tie."""
        p = self._decided(who, comparison_id, question, first, second)
        return 1 - p if uniform("noise", self.seed, comparison_id, who) < self.options.noise else p

    def _decided(
        self, who: int, comparison_id: str, question: Question, first: Attributes, second: Attributes
    ) -> float:
        """The verdict before noise."""
        draw = uniform("bias", self.seed, comparison_id, who)
        for size, says in self._biases(first, second):
            if draw < abs(size):
                if says is not None:
                    return float(says == (size > 0))
                break  # this bias has nothing to say here
            draw -= abs(size)
        if uniform("disagreement", self.seed, comparison_id, who) < self.options.disagreement:
            family, sign = self.taste(who)
            if (p := prefers(family, sign, question, first, second)) != 0.5:
                return p
        return opinion(self.options.values, question, first, second)

    def taste(self, who: int) -> tuple[str, int]:
        """A person's own family and sign: their place in an order of all tastes that the seed draws."""
        return self._tastes[who % len(self._tastes)]

    def _biases(self, first: Attributes, second: Attributes) -> list[tuple[float, bool | None]]:
        """(size, whether a positive bias is for the first reply; None where it does not apply)."""
        of, manners = self.options, (manner_of(first), manner_of(second))
        own = [reply.style == of.style for reply in (first, second)]
        return [
            (of.position, True),
            (of.length, None if first.words == second.words else first.words > second.words),
            (of.lists, None if first.steps == second.steps else first.steps),
            (of.own_style, None if own[0] == own[1] else own[0]),
            (of.cycle, None if manners[0] == manners[1] else manners in BEATS),
        ]
