"""What the arms of a study labelled: with whom they agree, people among themselves, what a label took."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rlaif.ledger import spent
from rlaif.preferences import side, votes
from rlaif.recorded.card import agreement_card, people_agreement, people_card, rules_card
from rlaif.recorded.replay import SIDES, Choice, Item, Reading, Replay
from rlaif.records import Comparison, Judgement
from rlaif.statistics import Figure, cluster_mean, mcnemar
from rlaif.store import RunFolder
from rlaif.study.recipe import Arm
from rlaif.training.batching import pair_id, side_digest

THOUSAND = 1000
CLEAR = {"a", "b"}  # labels that prefer one response


@dataclass(frozen=True)
class Labels:
    """The labels of a run by pair, "a" where the response that comes first by its digest is preferred; None where there is none."""

    choices: dict[str, Choice | None]
    prompts: dict[str, str]


def labels_of(folder: Path) -> Labels:
    found = Labels({}, {})
    for row in RunFolder(folder).read("preferences"):
        name = pair_id(row.comparison_id, row.chosen, row.rejected)
        first = row.p if side_digest(row.chosen) < side_digest(row.rejected) else 1 - row.p
        found.choices[name] = None if row.weight == 0 else SIDES[side(first)]
        found.prompts[name] = row.prompt_id
    return found


@dataclass(frozen=True)
class Pair:
    """A pair with what each of a run's labellers says, "a" being the response that its comparison lists first."""

    item: Item
    turned: bool  # whether ``Labels`` call that one "b"

    def named(self, choice: Choice) -> Choice:
        """A choice of ``Labels`` by the comparison's order."""
        other: dict[Choice, Choice] = {"a": "b", "b": "a", "tie": "tie"}
        return other[choice] if self.turned else choice


def pairs_of(folder: Path) -> dict[str, Pair]:
    """Every pair of a run, by name."""
    run = RunFolder(folder)
    said: dict[str, list[Judgement]] = {}
    for judgement in run.read("judgements"):
        said.setdefault(judgement.comparison_id, []).append(judgement)
    return {
        pair.item.id: pair
        for comparison in run.read("comparisons")
        for pair in _pairs(comparison, said.get(comparison.id, []))
    }


def _pairs(comparison: Comparison, judgements: list[Judgement]) -> Iterable[Pair]:
    for a, b in itertools.combinations(comparison.responses, 2):
        if a.messages == b.messages:
            continue
        opinions, _ = votes(judgements, a.id, b.id)
        item = Item(
            id=pair_id(comparison.id, a.messages, b.messages),
            prompt=comparison.prompt.id,
            lengths=(len(a.text), len(b.text)),
            label=None,
            people={who: SIDES[side(p)] for who, p in opinions.items() if is_person(who)},
            category=comparison.prompt.category,
        )
        yield Pair(item, turned=side_digest(a.messages) > side_digest(b.messages))


@dataclass(frozen=True)
class Sides:
    """The same pairs under two labels each."""

    items: list[Item]  # with the label that is held against
    ours: dict[str, Choice | None]

    @property
    def replay(self) -> Replay:
        readings = {key: [Reading(None, said, shown=False)] for key, said in self.ours.items()}
        return Replay("", "", self.items, readings, Counter())


def beside(ours: Mapping[int, Labels], theirs: Mapping[int, Labels], pairs: Mapping[int, Mapping[str, Pair]]) -> Sides:
    """``ours`` against ``theirs``, by seed. Pairs that either left without a label are left out: arms are compared on what both
    have, and what is missing is said apart. Where every seed says the same of the same pairs, one stands for all."""
    seeds = list(ours)
    first = seeds[0]
    if all((ours[s], theirs[s], pairs[s]) == (ours[first], theirs[first], pairs[first]) for s in seeds):
        seeds = [first]
    sides = Sides([], {})
    for seed in seeds:
        for key, said in ours[seed].choices.items():
            other, pair = theirs[seed].choices.get(key), pairs[seed].get(key)
            if said and other and pair:
                item = replace(pair.item, id=f"{seed} {key}", label=pair.named(other))
                sides.items.append(item)
                sides.ours[item.id] = pair.named(said)
    return sides


def of_labels(sides: Sides) -> dict[str, Figure]:
    """Agreement with the labels that are held against, with ties and without, and kappa; rules that read nothing beside it, on the pairs
    that both prefer one response of."""
    card, clear = agreement_card(sides.replay), [item for item in sides.items if sides.ours[item.id] in CLEAR]
    names = {
        "agreement": "agreement.judge",
        "agreement_with_ties": "agreement_with_ties.judge",
        "kappa": "kappa.label",
        "kappa_without_ties": "kappa.label_without_ties",
    }
    rules = {f"agreement.{rule}": figure for rule, figure in rules_card(clear).items()}
    found = {name: card[there] for name, there in names.items()} | rules
    return {name: figure for name, figure in found.items() if figure.value is not None}


def beside_people(sides: Sides) -> tuple[dict[str, Figure], list[str]]:
    """Labels and the people of the arm that is held against: accuracy behind people's mistakes, whether the labels may stand in for a
    person; and what cannot be said."""
    card, unsaid = people_card(sides.replay)
    names = {"accuracy.noise_corrected": "noise_corrected"}
    told = {name: figure for name, figure in card.items() if not name.startswith(("people.", "agreement."))}
    return {names.get(name, name): figure for name, figure in told.items()}, unsaid


def share_people(ours: Path, theirs: Path) -> bool:
    """Whether people of one name label in both runs: such labels may agree with a person for no merit of theirs, turned round or
    blended though they are."""
    one, other = (
        {judgement.labeller for judgement in RunFolder(folder).read("judgements") if is_person(judgement.labeller)}
        for folder in (ours, theirs)
    )
    return not one.isdisjoint(other)


def is_person(labeller: str) -> bool:
    return labeller.startswith("human:")


def missing(labels: Mapping[int, Labels]) -> Figure:
    """The share of pairs without a label."""
    seeds = list(labels.values())
    rows = [
        (said is None, own.prompts[key])
        for own in (seeds[:1] if all(each == seeds[0] for each in seeds) else seeds)
        for key, said in own.choices.items()
    ]
    return cluster_mean([float(none) for none, _ in rows], [prompt for _, prompt in rows])


def by_prompt(ours: Labels, truth: Labels, also: Labels | None = None) -> dict[str, float]:
    """For each prompt how many of its pairs are labelled as the truth is, of those where both prefer one response; ``also``: and this
    one does, so that what is compared is compared on the same pairs."""
    right: dict[str, list[float]] = {}
    for key, said in ours.choices.items():
        others = [truth.choices.get(key), *([also.choices.get(key)] if also else [])]
        if {said, *others} <= CLEAR:
            right.setdefault(ours.prompts[key], []).append(float(said == others[0]))
    return _means(right)


def between_people(pairs: Mapping[str, Pair]) -> dict[str, float]:
    """For each prompt how far one person agrees with another, on pairs that two or more prefer a response of."""
    found: dict[str, list[float]] = {}
    for pair in pairs.values():
        if len(people := _clear(pair)) > 1:
            found.setdefault(pair.item.prompt, []).append(_alike(people))
    return _means(found)


def _clear(pair: Pair) -> list[Choice]:
    """What people say of a pair who prefer one response."""
    return [choice for choice in pair.item.people.values() if choice in CLEAR]


def _alike(people: Sequence[Choice]) -> float:
    return fmean(one == other for one, other in itertools.combinations(people, 2))


def with_one_person(ours: Labels, pairs: Mapping[str, Pair]) -> tuple[dict[str, float], dict[str, float]]:
    """For each prompt how far the labels agree with one person, and how far another person does: on pairs that the labels, and two
    people or more, prefer a response of."""
    own: dict[str, list[float]] = {}
    between: dict[str, list[float]] = {}
    for key, said in ours.choices.items():
        people = _clear(pairs[key]) if key in pairs else []
        if said in CLEAR and len(people) > 1:
            named = pairs[key].named(said)
            own.setdefault(ours.prompts[key], []).append(fmean(named == choice for choice in people))
            between.setdefault(ours.prompts[key], []).append(_alike(people))
    return _means(own), _means(between)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: fmean(each) for name, each in values.items()}


def mcnemar_p(ours: Mapping[int, Labels], theirs: Mapping[int, Labels], truth: Mapping[int, Labels]) -> Figure:
    """p value of both being right equally often, on pairs that all three prefer one response of, each once, of the first seed that has
    it. Pairs of one prompt count as independent in it, and it stands uncorrected: the difference beside it is neither."""
    by_pair: dict[str, tuple[bool, bool]] = {}
    for seed, own in truth.items():
        for key, true in own.choices.items():
            if {true, one := ours[seed].choices.get(key), other := theirs[seed].choices.get(key)} <= CLEAR:
                by_pair.setdefault(key, (one == true, other == true))
    right = by_pair.values()
    p = mcnemar(sum(one and not other for one, other in right), sum(other and not one for one, other in right))
    return Figure(value=p, n=len(right))


def taken(arm: Arm, folders: Iterable[Path]) -> dict[str, Figure]:
    """Money and seconds for 1,000 labels, as the study says; else as the replies behind them had them, whichever arm asked first, where
    every label has its replies: what nobody knows of some labels is not spread over them."""
    labels, usd, seconds, known, priced = 0, 0.0, 0.0, True, True
    for folder in folders:
        run = RunFolder(folder)
        labels += sum(row.weight > 0 for row in run.read("preferences"))
        keys: set[str] = set()
        for judgement in run.read("judgements"):
            known = known and bool(judgement.reply_keys)
            keys.update(judgement.reply_keys)
        ledger = folder / run.manifest["ledger"]
        if known and keys and ledger.is_file():
            replies = spent(ledger, keys)
            known, priced = replies.found == replies.asked, priced and replies.priced == replies.found
            usd, seconds = usd + replies.cost_usd, seconds + replies.seconds
        else:
            known = False
    each: dict[str, float | None] = {"usd": arm.usd_per_label, "seconds": arm.seconds_per_label}
    if known and labels:
        measured = {"seconds": seconds / labels} | ({"usd": usd / labels} if priced else {})
        each = {name: measured.get(name) if value is None else value for name, value in each.items()}
    return {
        f"{name}_per_1000": Figure(value=THOUSAND * value, n=labels)
        for name, value in each.items()
        if value is not None
    }


def people_of(pairs: Iterable[Mapping[str, Pair]]) -> dict[str, Figure]:
    """How far the people of an arm agree with each other: of every pair of its seeds, where what they said of one is one opinion,
    however many seeds read it."""
    card, _ = people_card(Replay("", "", _opinions(pairs), {}, Counter()))
    return {name: figure for name, figure in card.items() if name.startswith("people.")}


def agreement_of_people(pairs: Iterable[Mapping[str, Pair]]) -> Figure:
    """Of that how often two of them who both prefer one response prefer the same."""
    return people_agreement(_opinions(pairs))


def _opinions(pairs: Iterable[Mapping[str, Pair]]) -> list[Item]:
    items = {(each.item.id, tuple(each.item.people.items())): each.item for own in pairs for each in own.values()}
    return list(items.values())
