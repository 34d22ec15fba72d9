"""What the arms of a study labelled: with whom they agree, people among themselves, what a label took.

A pair counts once in each arm, however many seeds give it the same label.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rlaif.ledger import spent
from rlaif.preferences import side, votes
from rlaif.recorded.card import agreement_card, people_card
from rlaif.recorded.replay import SIDES, Choice, Item, Reading, Replay
from rlaif.records import Comparison, Judgement
from rlaif.statistics import Figure, cluster_mean, percent_agreement
from rlaif.store import RunFolder
from rlaif.study.recipe import Arm
from rlaif.training.batching import pair_id, side_digest

THOUSAND = 1000


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


def items_of(folder: Path) -> dict[str, Item]:
    """Every pair of a run with what each of its labellers says, as ``Labels`` name the two responses."""
    run = RunFolder(folder)
    said: dict[str, list[Judgement]] = {}
    for judgement in run.read("judgements"):
        said.setdefault(judgement.comparison_id, []).append(judgement)
    return {
        item.id: item
        for comparison in run.read("comparisons")
        for item in _items(comparison, said.get(comparison.id, []))
    }


def _items(comparison: Comparison, judgements: list[Judgement]) -> Iterable[Item]:
    for pair in itertools.combinations(comparison.responses, 2):
        a, b = sorted(pair, key=lambda response: side_digest(response.messages))
        if a.messages == b.messages:
            continue
        opinions, _ = votes(judgements, a.id, b.id)
        yield Item(
            id=pair_id(comparison.id, a.messages, b.messages),
            prompt=comparison.prompt.id,
            lengths=(len(a.text), len(b.text)),
            label=None,
            people={who: SIDES[side(p)] for who, p in opinions.items()},
            category=comparison.prompt.category,
        )


@dataclass(frozen=True)
class Sides:
    """The same pairs under two labels each, once for all seeds that say the same."""

    items: list[Item]  # with the label that is held against
    ours: dict[str, Choice | None]

    @property
    def replay(self) -> Replay:
        return Replay(
            "", "", self.items, {key: [Reading(None, said, shown=False)] for key, said in self.ours.items()}, Counter()
        )


def beside(ours: Mapping[int, Labels], theirs: Mapping[int, Labels], items: Mapping[int, Mapping[str, Item]]) -> Sides:
    """``ours`` against ``theirs``, by seed. Pairs that either left without a label are left out: arms are compared on what both
    have, and what is missing is said apart."""
    found: dict[tuple[str, Choice, Choice], Item] = {}
    for seed, own in ours.items():
        for key, said in own.choices.items():
            other = theirs[seed].choices.get(key)
            if said and other and key in items[seed]:
                found[key, said, other] = replace(items[seed][key], id=f"{key} {said} {other}", label=other)
    return Sides(list(found.values()), {item.id: said for (_, said, _), item in found.items()})


def of_labels(sides: Sides) -> dict[str, Figure]:
    """Agreement with the labels that are held against, with ties and without, and kappa; rules that read nothing beside it."""
    card = agreement_card(sides.replay)
    names = {
        "agreement": "agreement.judge",
        "agreement_with_ties": "agreement_with_ties.judge",
        "kappa": "kappa.label",
        "kappa_without_ties": "kappa.label_without_ties",
    }
    names |= {f"agreement.{rule}": f"agreement.{rule}" for rule in ("longest", "random", "first")}
    return {name: card[there] for name, there in names.items() if card[there].value is not None}


def of_people(sides: Sides) -> tuple[dict[str, Figure], list[str]]:
    """How far the people of the arm that is held against agree with each other, and the labels with each of them: agreement
    with one person, accuracy behind people's mistakes, whether the labels may stand in for a person; and what cannot be said."""
    card, unsaid = people_card(sides.replay)
    names = {"agreement.judge_with_people": "agreement_with_one", "accuracy.noise_corrected": "noise_corrected"}
    return {names.get(name, name): figure for name, figure in card.items()}, unsaid


def missing(labels: Mapping[int, Labels]) -> Figure:
    """The share of pairs without a label."""
    rows = {
        (prompt, key, said)
        for own in labels.values()
        for key, said in own.choices.items()
        for prompt in [own.prompts[key]]
    }
    return cluster_mean([float(said is None) for _, _, said in rows], [prompt for prompt, _, _ in rows])


def by_prompt(ours: Labels, theirs: Labels) -> dict[str, float]:
    """For each prompt how many of its pairs are labelled as ``theirs`` says, of those where both prefer one response."""
    right: dict[str, list[float]] = {}
    for key, said in ours.choices.items():
        other = theirs.choices.get(key)
        if said in ("a", "b") and other in ("a", "b"):
            right.setdefault(ours.prompts[key], []).append(float(said == other))
    return {prompt: sum(values) / len(values) for prompt, values in right.items()}


def taken(arm: Arm, folders: Iterable[Path]) -> dict[str, Figure]:
    """Money and seconds for 1,000 labels: as the replies behind them had them, whichever arm asked first; else as the study says."""
    labels, usd, seconds, found, priced = 0, 0.0, 0.0, 0, 0
    for folder in folders:
        run = RunFolder(folder)
        labels += sum(row.weight > 0 for row in run.read("preferences"))
        keys = [key for judgement in run.read("judgements") for key in judgement.reply_keys]
        ledger = folder / run.manifest["ledger"]
        if keys and ledger.is_file():
            replies = spent(ledger, keys)
            usd, seconds = usd + replies.cost_usd, seconds + replies.seconds
            found, priced = found + replies.found, priced + replies.priced
    each = (
        {
            "usd_per_1000": arm.usd_per_label if arm.usd_per_label is not None else usd / labels if priced else None,
            "seconds_per_1000": arm.seconds_per_label
            if arm.seconds_per_label is not None
            else seconds / labels
            if found
            else None,
        }
        if labels
        else {}
    )
    return {name: Figure(value=THOUSAND * value, n=labels) for name, value in each.items() if value is not None}


def people_agree(folder: Path) -> Figure:
    """How often two people of a run say the same of a pair that both find a difference in."""
    pairs = [
        (one, other, item.prompt)
        for item in items_of(folder).values()
        for one, other in itertools.combinations([said for said in item.people.values() if said in ("a", "b")], 2)
    ]
    ones, others, prompts = ([row[i] for row in pairs] for i in range(3))
    return percent_agreement(ones, others, prompts)
