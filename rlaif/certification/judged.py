"""A judged run seen as the verdicts of one judge on items that people labelled."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from rlaif.config import PreferencesSection
from rlaif.constitutions.runs import JudgedRun, Pair, people_judgements
from rlaif.pairs import authors_of
from rlaif.preferences import panel_vote, side, tie_likeliest, votes
from rlaif.recorded.replay import ORDERS, SIDES, Choice, Item, Reading, Replay, marks_of
from rlaif.records import Comparison, Judgement, Response

NO_MODEL = ("",)  # a judge that asks none is of no family


async def replay_of(run: JudgedRun, people: str | None, models: Sequence[str]) -> Replay:
    """The verdicts of the run's judge, and what people say of the same pairs. ``people`` names a file of labels; by default
    the run's own file of pairs. Several judges count as one, by the run's rules. ``models``: those that they ask."""
    said = await people_judgements(run, people)
    items: list[Item] = []
    readings: dict[str, list[Reading]] = {}
    labellers: dict[str, None] = {}
    for comparison, judgements in run.judged():
        labellers |= {judgement.labeller: None for judgement in judgements}
        for a, b in itertools.combinations(comparison.responses, 2):
            item = item_of(comparison, a, b, said.get(comparison.id, ()))
            items.append(item)
            readings[item.id] = readings_of(judgements, a, b, run.rules)
    return Replay(" and ".join(labellers), "", items, readings, Counter(), tuple(models) or NO_MODEL)


def item_of(comparison: Comparison, a: Response, b: Response, people: Sequence[Judgement]) -> Item:
    """A pair with what people say of it: a is the response that the comparison lists first."""
    single, _ = votes(people, a.id, b.id)
    first, second = sorted((a, b), key=lambda response: response.id)
    label = Pair(comparison, first, second, tuple(people)).people_label() if people else None
    p = None if label is None else label.side if first is a else 1 - label.side
    return Item(
        id=f"{comparison.id}/{a.id}/{b.id}",
        prompt=comparison.prompt.id,
        lengths=(len(a.text), len(b.text)),
        label=choice_of(p),
        people={who: choice_of(p) for who, p in single.items()},
        marks=(marks_of(a.text), marks_of(b.text)),
        authors=authors_of(comparison) if len(comparison.responses) == 2 else (a.generator, b.generator),
        category=comparison.prompt.category,
        texts=(a.id, b.id),
    )


def readings_of(judgements: Sequence[Judgement], a: Response, b: Response, rules: PreferencesSection) -> list[Reading]:
    """What all judges together said in each order, by the run's rules; principles averaged. Where no order is known, or
    responses were seen one by one, one reading without an order."""
    asked: dict[bool, dict[str, list[Judgement]]] = {}
    for judgement in judgements:
        if judgement.shown and {a.id, b.id} <= set(judgement.shown):
            a_first = judgement.shown.index(a.id) < judgement.shown.index(b.id)
            asked.setdefault(a_first, {}).setdefault(judgement.labeller, []).append(judgement)
    found = [
        Reading(ORDERS[not a_first], _together([each for own in asked[a_first].values() for each in own], a, b, rules))
        for a_first in sorted(asked, reverse=True)
    ]
    return found or ([Reading(None, _together(judgements, a, b, rules), shown=False)] if judgements else [])


def _together(judgements: Sequence[Judgement], a: Response, b: Response, rules: PreferencesSection) -> Choice | None:
    opinions, missing = votes(judgements, a.id, b.id)
    if tie_likeliest(judgements, a.id, b.id):
        return "tie"
    return choice_of(panel_vote(opinions, missing, rules.missing_votes, rules.panel))


def choice_of(p: float | None) -> Choice | None:
    """The side that a probability of the first response prefers."""
    return SIDES[None if p is None else side(p)]
