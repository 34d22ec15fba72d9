"""A judged run seen as the verdicts of one judge on items that people labelled."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from rlaif.constitutions.runs import PEOPLE, JudgedRun, Pair, people_judgements
from rlaif.preferences import opinions_by_order, side, votes
from rlaif.recorded.replay import ORDERS, SIDES, Choice, Item, Reading, Replay, marks_of
from rlaif.records import Comparison, Judgement, Response


async def replay_of(run: JudgedRun, people: str | None = None) -> Replay:
    """The verdicts of the run's judge, and what people say of the same pairs. ``people`` names a file of labels; by default
    the run's own file of pairs. Several judges count as one, by the run's rules."""
    said = await people_judgements(run, people)
    items: list[Item] = []
    readings: dict[str, list[Reading]] = {}
    labellers: dict[str, None] = {}
    for comparison, judgements in run.judged():
        labellers |= {judgement.labeller: None for judgement in judgements}
        for a, b in itertools.combinations(comparison.responses, 2):
            item = item_of(comparison, a, b, said.get(comparison.id, ()))
            items.append(item)
            readings[item.id] = readings_of(judgements, a, b)
    models = tuple(model["name"] for model in run.folder.manifest["models"].values())
    return Replay(" and ".join(labellers), "", items, readings, Counter(), models)


def item_of(comparison: Comparison, a: Response, b: Response, people: Sequence[Judgement]) -> Item:
    """A pair with what people say of it: a is the response that the comparison lists first."""
    single, _ = votes(people, a.id, b.id)
    first, second = sorted((a, b), key=lambda response: response.id)
    label = Pair(comparison, first, second, tuple(people)).label(PEOPLE) if people else None
    p = None if label is None else label.p if first is a else 1 - label.p
    return Item(
        id=f"{comparison.id}/{a.id}/{b.id}",
        prompt=comparison.prompt.id,
        lengths=(len(a.text), len(b.text)),
        label=choice_of(p),
        people={who: choice_of(p) for who, p in single.items()},
        marks=(marks_of(a.text), marks_of(b.text)),
        authors=(a.generator, b.generator),
        category=comparison.prompt.category,
    )


def readings_of(judgements: Sequence[Judgement], a: Response, b: Response) -> list[Reading]:
    """What was said in each order, by any principle: averaged; unreadable where one of them is. Where the order is not
    known, or responses were seen one by one, one reading stands for both."""
    found: dict[bool, list[float | None]] = {}
    for by_order in _complete(judgements, a.id, b.id).values():
        for a_first, p in by_order.items():
            found.setdefault(a_first, []).append(p)
    if found:
        return [
            Reading(ORDERS[not a_first], choice_of(_mean(values)))
            for a_first, values in sorted(found.items(), reverse=True)
        ]
    opinions, _ = votes(judgements, a.id, b.id)
    choice = choice_of(_mean(list(opinions.values())) if opinions else None)
    return [Reading(order, choice, shown=False) for order in ORDERS] if judgements else []


def _complete(judgements: Sequence[Judgement], a: str, b: str) -> Mapping[str, dict[bool, float | None]]:
    """By labeller and order: the opinion, None where it was asked for and there is none."""
    heard = opinions_by_order(judgements, a, b)
    found: dict[str, dict[bool, float | None]] = {}
    for judgement in judgements:
        if judgement.shown and {a, b} <= set(judgement.shown):
            a_first = judgement.shown.index(a) < judgement.shown.index(b)
            found.setdefault(judgement.labeller, {})[a_first] = heard.get(judgement.labeller, {}).get(a_first)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def choice_of(p: float | None) -> Choice | None:
    """The side that a probability of the first response prefers."""
    return SIDES[None if p is None else side(p)]
