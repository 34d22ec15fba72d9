"""What protocols have in common that score every response by itself: from scores to a verdict, in one place.

A response's score does not depend on what it is compared with, nor on an order: it is asked once, and where the response
stands in several comparisons the ledger answers. Scores are kept in the judgement. Which response is better follows from
them by one of two rules, stated in the judge's options:

- by comparison: the higher score wins; scores no further apart than ``tolerance`` tie. Among more than two a chain of
  such neighbours is one group.
- with ``logistic``, a number s: P(1 is better than 2) = σ((score 1 - score 2) / s), a Bradley-Terry model whose strengths
  are the scores in units of s; of more than two responses the i-th is best with exp(score i / s) / Σ exp(score / s).

One response that cannot be scored leaves the comparison without a verdict.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, model_validator

from rlaif.component import Options as BaseOptions
from rlaif.judging import Ask, Question, Showing, Verdict
from rlaif.models import Reply
from rlaif.models.gateway import gather_all
from rlaif.records import Response, Score

ROUNDING = 1e-9  # difference of scores that is an accident of floating point


class ScoringOptions(BaseOptions):
    tolerance: float = Field(default=0.0, ge=0)  # scores no further apart tie
    logistic: float | None = Field(default=None, gt=0)  # the difference at which the better one wins with 73%

    @model_validator(mode="after")
    def _one_link(self) -> ScoringOptions:
        if self.logistic is not None and self.tolerance:
            raise ValueError('"tolerance" is of the comparison of scores: with "logistic" leave it out')
        return self


@dataclass(frozen=True)
class Scored:
    """One response's score, higher is better, and the measures it is made of by name."""

    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    mass: float | None = None  # the least probability that the offered words had together, where it was measured


class EachAlone(ABC):
    """A protocol that scores every response by itself: a subclass says how by ``score``."""

    each_alone = True
    options: Any

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        found = await gather_all(self.score(showing, response, ask) for response in showing.responses)
        for unread in (each for each in found if isinstance(each, Verdict)):
            return unread
        return verdict_of([each for each in found if isinstance(each, Scored)], self.options)

    @abstractmethod
    async def score(self, showing: Showing, response: Response, ask: Ask) -> Scored | Verdict:
        """The response's score, or a verdict that says why there is none."""


async def ask_all(ask: Ask, questions: Iterable[Question]) -> list[Reply]:
    """The replies to questions that are asked together."""

    async def one(question: Question) -> Reply:
        return await ask(question)

    return await gather_all(one(question) for question in questions)


def verdict_of(found: Sequence[Scored], options: ScoringOptions) -> Verdict:
    """The verdict that scores give, by the options' rule."""
    totals = [each.score for each in found]
    names = ["score", *found[0].parts]
    columns = [totals, *([each.parts[name] for each in found] for name in found[0].parts)]
    masses = [each.mass for each in found if each.mass is not None]
    said: dict[str, Any] = {
        "scores": tuple(Score(name=n, values=tuple(values)) for n, values in zip(names, columns, strict=True)),
        "option_mass": min(masses) if masses else None,
    }
    if options.logistic is None:
        return Verdict(ranking=groups_of(totals, options.tolerance), **said)
    return Verdict(p=softmax([total / options.logistic for total in totals]), probabilistic=True, **said)


def groups_of(scores: Sequence[float], tolerance: float = 0.0) -> tuple[tuple[int, ...], ...]:
    """Places by score, the highest first; neighbours no further apart than ``tolerance`` share a group."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    groups: list[list[int]] = [[order[0]]]
    for before, place in itertools.pairwise(order):
        if scores[before] - scores[place] <= tolerance + ROUNDING:
            groups[-1].append(place)
        else:
            groups.append([place])
    return tuple(tuple(sorted(group)) for group in groups)


def softmax(values: Sequence[float]) -> tuple[float, ...]:
    """exp(value) / Σ exp(value)."""
    highest = max(values)
    weights = [math.exp(value - highest) for value in values]
    return tuple(weight / sum(weights) for weight in weights)
