"""What a judge makes of whole models: who wins, raw and at equal length, beside what people say; and preferences in a circle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rlaif.recorded.replay import WORTH, Replay
from rlaif.statistics import Figure, cluster_mean, length_controlled, paired_difference, win_rate
from rlaif.statistics.ranking import cycles

FEW = 30  # pairs of two models, below which nothing is said of them
Edges = set[tuple[str, str]]


@dataclass
class _Contest:
    judge: list[float] = field(default_factory=list)
    people: list[float | None] = field(default_factory=list)
    longer_by: list[float] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


def contests(replay: Replay) -> dict[str, Figure]:
    """For every two models with ``FEW`` judged pairs, ``models.ONE.over.OTHER``: how often the judge prefers ONE, in
    [0, 1], a tie or two orders that differ counting one half; ``….length_controlled``, the same at equal length
    (``statistics.length_controlled``); ``….people``, how often people do; ``….judge_minus_people``, on pairs with a label."""
    card = {}
    for (one, other), found in _contests(replay).items():
        if len(found.judge) < FEW:
            continue
        name = f"models.{one}.over.{other}"
        card[name] = win_rate(found.judge, found.prompts)
        card[f"{name}.length_controlled"] = length_controlled(found.judge, found.longer_by, found.prompts)
        rows = [i for i, label in enumerate(found.people) if label is not None]
        people, prompts = [found.people[i] or 0.0 for i in rows], [found.prompts[i] for i in rows]
        card[f"{name}.people"] = win_rate(people, prompts)
        card[f"{name}.judge_minus_people"] = paired_difference([found.judge[i] for i in rows], people, prompts)
    return card


def _contests(replay: Replay) -> dict[tuple[str, str], _Contest]:
    found: dict[tuple[str, str], _Contest] = {}
    for item in replay.items:
        (a, b), p = item.authors, replay.opinion(item)
        if a is None or b is None or a == b or p is None:
            continue
        label = None if item.label is None else WORTH[item.label]
        longer = float(item.lengths[0] - item.lengths[1])
        turned = a > b  # by name, so that a pair counts alike whichever stands first
        contest = found.setdefault((b, a) if turned else (a, b), _Contest())
        contest.judge.append(1 - p if turned else p)
        contest.people.append(label if label is None or not turned else 1 - label)
        contest.longer_by.append(-longer if turned else longer)
        contest.prompts.append(item.prompt)
    return found


def circles(replay: Replay) -> dict[str, Figure]:
    """``cycles``: of three replies to a prompt, each two of them compared and none a tie, how often a beats b, b beats c
    and c beats a. Nothing where no prompt has three such."""
    shares, prompts = [], []
    for prompt, better in _edges(replay):
        place = {text: i for i, text in enumerate(sorted({text for edge in better for text in edge}))}
        circular, triples = cycles([(place[one], place[other]) for one, other in better], len(place))
        shares += [1.0] * circular + [0.0] * (triples - circular)
        prompts += [prompt] * triples
    return {"cycles": cluster_mean(shares, prompts)} if shares else {}


def _edges(replay: Replay) -> Iterator[tuple[str, Edges]]:
    """By prompt: (better, worse) of the replies that the judge prefers one of."""
    found: dict[str, Edges] = {}
    for item in replay.items:
        p = replay.opinion(item)
        one, other = item.texts
        if p not in (None, 0.5) and one != other:
            found.setdefault(item.prompt, set()).add((one, other) if (p or 0) > 0.5 else (other, one))
    yield from found.items()


def contest_names(card: dict[str, Figure]) -> Iterator[tuple[str, str, str]]:
    """Two models, and the name of their contest, for each that the card has."""
    for name in card:
        if name.startswith("models.") and f"{name}.length_controlled" in card:
            one, _, other = name.removeprefix("models.").partition(".over.")
            yield one, other, name
