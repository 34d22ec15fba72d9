"""The figures of a recorded judge, and how a person reads them.

Shares are in [0, 1]. "With ties" a tie is an opinion like the others; "without", rows with a tie on either side are left
out. A verdict that could not be read is never agreement. A judge scored one response at a time has a choice in each
order (``replay._scored``) and no first-shown rate.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from rlaif.recorded.contests import circles, contest_names, contests
from rlaif.recorded.meters import FEATURES, biases, no_outside_view, own_family, self_preference
from rlaif.recorded.replay import ORDERS, Choice, Item, Reading, Replay
from rlaif.records import uniform
from rlaif.statistics import (
    Figure,
    alt_test,
    cluster_mean,
    cohen_kappa,
    fleiss_kappa,
    human_ceiling,
    krippendorff_alpha,
    mcnemar,
    noise_corrected,
    paired_difference,
    percent_agreement,
    resampled,
    share,
)

Card = dict[str, Figure]
Pairs = list[list[float]]  # for each item: how many pairs agree, how many there are
SCALE = ("b", "tie", "a")  # -1, 0, +1
EPSILONS = {"experts": 0.2, "skilled": 0.15, "crowd": 0.1}  # what a person's greater cost is worth, in the alt-test
NONE = Figure(value=None, n=0)
FEW = 30  # items


def _longest(item: Item) -> Choice:
    a, b = item.lengths
    return "tie" if a == b else "a" if a > b else "b"


def _coin(item: Item) -> Choice:
    return "a" if uniform("coin", item.id) < 0.5 else "b"


def _first(item: Item) -> Choice:
    return "a"


RULES: dict[str, Callable[[Item], Choice]] = {"longest": _longest, "random": _coin, "first": _first}  # baselines


def card_of(replay: Replay, second: Replay | None = None) -> tuple[Card, list[str]]:
    """Every figure by name, and lines on what could not be said, or not surely, and why. ``second``: a judge of another
    family of models on the same items, beside whom the judge's favour for its own is seen."""
    card = {
        **_counts(replay),
        **_accuracy(replay),
        **_habits(replay),
        **agreement_card(replay),
        **biases(replay),
        **circles(replay),
        **contests(replay),
        **_categories(replay),
    }
    people, unsaid = people_card(replay)
    if second:
        card |= self_preference(replay, second)
        unsaid += [line] if (line := no_outside_view(replay, second)) else []
        if card["self_preference"].value is None:
            unsaid.append("No self_preference: no pair has one reply of the judge's own family and one of another.")
    if len(replay.items) < FEW:
        unsaid.append(f"Careful: {len(replay.items)} items are few; intervals by resampling are too narrow.")
    return card | people, unsaid


def _count(value: int, n: int) -> Figure:
    return Figure(value=float(value), n=n)


def _counts(replay: Replay) -> Card:
    """What there is, and what is missing."""
    n = len(replay.items)
    card = {
        "items": _count(n, n),
        "items.no_label": _count(sum(item.label is None for item in replay.items), n),
    }
    for order in ORDERS:
        card[f"missing.{order}"] = _count(sum(order not in replay.choices(item) for item in replay.items), n)
    for why, count in replay.left_out.items():
        card[f"left_out.{why.replace(' ', '_')}"] = _count(count, count)
    return card


def _accuracy(replay: Replay) -> Card:
    """Right in each order, on average, in both; the same choice in both orders."""
    labelled = [item for item in replay.items if item.label is not None]
    card = {}
    for order in ORDERS:
        there = [item for item in labelled if order in replay.choices(item)]
        right = [float(replay.choices(item)[order] == item.label) for item in there]
        card[f"accuracy.{order}"] = cluster_mean(right, _prompts(there))
    both = [item for item in labelled if set(replay.choices(item)) == set(ORDERS)]
    right_ab, right_ba = (
        np.array([float(replay.choices(item)[order] == item.label) for item in both]) for order in ORDERS
    )
    card["accuracy.avg"] = _mean_of_orders(replay, labelled)
    card["accuracy.both"] = cluster_mean(right_ab * right_ba, _prompts(both))
    card["accuracy.ab_minus_ba"] = paired_difference(right_ab, right_ba, _prompts(both))
    if both:
        p = mcnemar(int((right_ab > right_ba).sum()), int((right_ba > right_ab).sum()))
        card["accuracy.ab_minus_ba.p"] = Figure(value=p, n=len(both))
    twice = [item for item in replay.items if set(replay.choices(item)) == set(ORDERS)]
    ab, ba = ([replay.choices(item)[order] for item in twice] for order in ORDERS)
    card["swap_agreement"] = percent_agreement(ab, ba, _prompts(twice))
    card["kappa.ab_ba"] = cohen_kappa([c == "a" for c in ab], [c == "a" for c in ba], _prompts(twice))
    return card


def _mean_of_orders(replay: Replay, labelled: Sequence[Item]) -> Figure:
    """Mean of the accuracies in the two orders; none where an order is missing altogether."""
    rows = np.zeros((len(labelled), 4))
    for i, item in enumerate(labelled):
        for order, choice in replay.choices(item).items():
            at = 2 * ORDERS.index(order)
            rows[i, at : at + 2] = choice == item.label, 1
    if len(rows) and np.all(rows[:, 1::2]):
        return cluster_mean(rows[:, 0::2].mean(axis=1), _prompts(labelled))
    return resampled(
        lambda sums: (sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]) / 2,
        rows,
        _prompts(labelled),
        n=int(np.any(rows[:, 1::2], axis=1).sum()),
    )


def _habits(replay: Replay) -> Card:
    """How often nothing could be read, the first shown was preferred, and the longer. The last two mix habit and truth."""
    every = [(item, reading) for item in replay.items for reading in replay.readings.get(item.id, ())]
    readable = [(item, reading) for item, reading in every if reading.choice]
    first = [(item, reading) for item, reading in readable if reading.shown and reading.order]
    unequal = [(item, reading) for item, reading in readable if item.lengths[0] != item.lengths[1]]
    return {
        "unreadable": _share(every, lambda item, reading: float(reading.choice is None)),
        "first_rate": _share(first, lambda item, reading: _side(reading.choice, str(reading.order)[0])),
        "longer_rate": _share(unequal, lambda item, reading: _side(reading.choice, _longest(item))),
    }


def _share(rows: Sequence[tuple[Item, Reading]], value: Callable[[Item, Reading], float]) -> Figure:
    return cluster_mean([value(*row) for row in rows], [item.prompt for item, _ in rows])


def _side(choice: Choice | None, side: str) -> float:
    """1 where the choice is that side, ½ for a tie."""
    return 0.5 if choice == "tie" else float(choice == side)


def agreement_card(replay: Replay) -> Card:
    """The judge's verdicts, in whatever order, against the labels; beside them rules that read nothing."""
    rows = [(item, reading) for item in replay.items if item.label for reading in replay.readings.get(item.id, ())]
    said, labels = [reading.choice for _, reading in rows], [item.label for item, _ in rows]
    prompts = [item.prompt for item, _ in rows]
    card = {
        "kappa.label": cohen_kappa(said, labels, prompts),
        "kappa.label_without_ties": cohen_kappa(said, labels, prompts, without="tie"),
        "agreement.judge": percent_agreement(said, labels, prompts, without="tie"),
        "agreement_with_ties.judge": percent_agreement(said, labels, prompts),
    }
    items = [item for item in replay.items if item.label]
    card |= {f"agreement.{name}": figure for name, figure in rules_card(items).items()}
    for name, rule in RULES.items():
        card[f"agreement_with_ties.{name}"] = percent_agreement(
            [rule(item) for item in items], [item.label for item in items], _prompts(items)
        )
    decided = [(item, reading) for item, reading in rows if "tie" not in (item.label, reading.choice)]
    card["agreement.judge_minus_longest"] = paired_difference(
        [float(reading.choice == item.label) for item, reading in decided],
        [_side(_longest(item), str(item.label)) for item, _ in decided],
        [item.prompt for item, _ in decided],
    )
    return card


def rules_card(items: Sequence[Item]) -> Card:
    """How often each rule that reads nothing agrees with the labels that are no ties."""
    clear = [item for item in items if item.label in ("a", "b")]
    return {
        name: cluster_mean([_side(rule(item), str(item.label)) for item in clear], _prompts(clear))
        for name, rule in RULES.items()
    }


def _categories(replay: Replay) -> Card:
    """Agreement without ties by category of prompt, where there are several."""
    rows: dict[str, list[tuple[float, str]]] = {}
    for item in replay.items:
        for reading in replay.readings.get(item.id, ()) if item.category and item.label in ("a", "b") else ():
            if reading.choice != "tie":
                rows.setdefault(item.category or "", []).append((float(reading.choice == item.label), item.prompt))
    return {
        f"categories.{name}.agreement": cluster_mean([right for right, _ in found], [prompt for _, prompt in found])
        for name, found in rows.items()
        if len(rows) > 1
    }


def _prompts(items: Sequence[Item]) -> list[str]:
    return [item.prompt for item in items]


# --- people -----------------------------------------------------------------------------------------------------------


def people_card(replay: Replay) -> tuple[Card, list[str]]:
    """Where items have labels of several people: how far they agree, and the judge among them."""
    items = [item for item in replay.items if sum(choice is not None for choice in item.people.values()) >= 2]
    if not items:
        return {}, ["No item has labels of two people: how far people agree cannot be said."]
    given = [[choice for choice in item.people.values() if choice] for item in items]
    prompts = _prompts(items)
    usual = Counter(map(len, given)).most_common(1)[0][0]
    full = [i for i, labels in enumerate(given) if len(labels) == usual]
    card = {
        "people.fleiss": fleiss_kappa([given[i] for i in full], [prompts[i] for i in full]),
        "people.krippendorff": krippendorff_alpha(given, prompts, order=SCALE),
        "people.krippendorff_nominal": krippendorff_alpha(given, prompts),
        "people.agreement_with_ties": _between(given, prompts, ties=True),
        "people.agreement": people_agreement(items),
    }
    unsaid = []
    judged, _ = _judge_with_people(replay, items)
    card["agreement.judge_with_people"] = _ratio(judged, prompts)
    labelled = [item for item in replay.items if any(item.people.values())]  # of the judge one person tells too
    try:
        card |= _ceiling(card["people.agreement"], *_judge_with_people(replay, labelled), _prompts(labelled))
    except ValueError as error:
        unsaid.append(f"No human ceiling: {error}.")
    try:
        card |= _alt_test(replay)
    except ValueError as error:
        unsaid.append(f"No alternative annotator test: {error}.")
    return card, unsaid


def people_agreement(items: Sequence[Item]) -> Figure:
    """How often two people who both prefer one response of an item prefer the same."""
    return _between(
        [[choice for choice in item.people.values() if choice] for item in items], _prompts(items), ties=False
    )


def _ceiling(agreement: Figure, judged: Pairs, agreeing: Pairs, prompts: Sequence[str]) -> Card:
    """Raises ValueError where people's labels leave none."""
    if agreement.value is None:
        raise ValueError("no item has labels of two people that are no ties")
    return {
        "people.ceiling": human_ceiling(agreement),
        "accuracy.noise_corrected": noise_corrected(judged, agreeing, prompts),
    }


def _pairs(labels: Sequence[Choice], *, ties: bool) -> list[float]:
    """For every two people of an item, whether they say the same."""
    kept = [choice for choice in labels if ties or choice != "tie"]
    return [float(one == other) for one, other in itertools.combinations(kept, 2)]


def _between(given: Sequence[Sequence[Choice]], prompts: Sequence[str], *, ties: bool) -> Figure:
    found = [
        (value, prompt) for labels, prompt in zip(given, prompts, strict=True) for value in _pairs(labels, ties=ties)
    ]
    return cluster_mean([value for value, _ in found], [prompt for _, prompt in found])


def _judge_with_people(replay: Replay, items: Sequence[Item]) -> tuple[Pairs, Pairs]:
    """(agreeing, all) pairs of each item without ties: of a verdict with one person's label, and of two people."""
    judged, between = [], []
    for item in items:
        people = [choice for choice in item.people.values() if choice and choice != "tie"]
        said = [reading.choice for reading in replay.readings.get(item.id, ()) if reading.choice != "tie"]
        same = [float(choice == label) for choice in said for label in people]
        judged.append([sum(same), float(len(same))])
        pairs = _pairs(people, ties=False)
        between.append([sum(pairs), float(len(pairs))])
    return judged, between


def _ratio(pairs: Pairs, prompts: Sequence[str]) -> Figure:
    return resampled(lambda sums: sums[..., 0] / sums[..., 1], pairs, prompts, n=int(sum(pair[1] for pair in pairs)))


def _alt_test(replay: Replay) -> Card:
    """May the judge stand in for a person? One verdict per item: that of both orders, a tie where they differ."""
    items = [item for item in replay.items if item.people and replay.readings.get(item.id)]
    names = list(dict.fromkeys(name for item in items for name in item.people))
    people = [[item.people.get(name) for item in items] for name in names]
    card = {}
    for who, epsilon in EPSILONS.items():
        test = alt_test([_verdict(replay, item) for item in items], people, _prompts(items), epsilon=epsilon)
        card[f"alt_test.omega.{who}"] = Figure(value=test.omega, n=len(test.p))
        card["alt_test.rho"] = test.rho
    return card


def _verdict(replay: Replay, item: Item) -> Choice | None:
    """One verdict of all readings: None where one is unreadable, a tie where they differ."""
    said = {reading.choice for reading in replay.readings[item.id]}
    if None in said:
        return None
    return said.pop() if len(said) == 1 else "tie"


# --- in words ---------------------------------------------------------------------------------------------------------


def lines_of(replay: Replay, card: Card) -> list[str]:
    """A few lines for a person."""
    showings = sum(map(len, replay.readings.values()))
    missing = "".join(
        f"; order {order} missing for {card[f'missing.{order}'].value:,.0f}"
        for order in ORDERS
        if card[f"missing.{order}"].value
    )
    left_out = "".join(f"; {count:,} rows left out: {why}" for why, count in replay.left_out.items())
    lines = [
        f"{replay.judge} {replay.method}".rstrip()
        + f": {showings:,} verdicts on {len(replay.items):,} items, {share(card['unreadable'])} unreadable"
        + missing
        + left_out
    ]
    lines += _said(
        card,
        {
            "right": "accuracy.avg",
            "with a first": "accuracy.ab",
            "with b first": "accuracy.ba",
            "in both orders": "accuracy.both",
        },
    )
    lines += _said(card, {"both orders agree": "swap_agreement", "kappa between orders": "kappa.ab_ba"})
    lines += _said(
        card,
        {
            "agrees with the labels, ties left out": "agreement.judge",
            "ties counted": "agreement_with_ties.judge",
            "kappa": "kappa.label",
        },
    )
    lines += _said(
        card, {f"rule “{name}” agrees" if name != "random" else "a coin": f"agreement.{name}" for name in RULES}
    )
    lines += _said(card, {"first shown preferred": "first_rate", "longer preferred": "longer_rate"})
    if pulled := {
        f"by {each.name.replace('_', ' ')}": f"bias.{each.name}"
        for each in (*FEATURES, own_family(()))
        if f"bias.{each.name}" in card
    }:
        lines += [f"pulled {line}" for line in _said(card, pulled)]
    if "self_preference" in card:
        rates = {"second judge": "self_preference.second", "difference": "self_preference"}
        lines += _said(card, {"prefers its own family's reply in": "self_preference.judge", **rates})
    lines += _said(card, {"prefers three replies in a circle": "cycles"})
    for one, other, name in contest_names(card):
        beside = {"at equal length": f"{name}.length_controlled", "people": f"{name}.people"}
        lines += _said(card, {f"prefers {one} to {other} in": name, **beside})
    lines += _said(
        card,
        {
            "two people agree, ties left out": "people.agreement",
            "ties counted": "people.agreement_with_ties",
            "Fleiss' kappa": "people.fleiss",
            "Krippendorff's alpha": "people.krippendorff",
        },
    )
    lines += _said(
        card,
        {
            "best possible agreement with one person": "people.ceiling",
            "the judge's": "agreement.judge_with_people",
            "its accuracy without people's noise": "accuracy.noise_corrected",
        },
    )
    if "alt_test.rho" in card:
        omegas = ", ".join(f"{card[f'alt_test.omega.{who}'].value:.2f} for {who}" for who in EPSILONS)
        lines.append(f"alternative annotator test: omega {omegas}; rho {number(card['alt_test.rho'])}")
    return lines


def _said(card: Card, names: dict[str, str]) -> list[str]:
    """One line of the figures that have a value."""
    parts = []
    for words, name in names.items():
        figure = card.get(name, NONE)
        if figure.value is not None:
            scale = number if "kappa" in name or "fleiss" in name or "krippendorff" in name else share
            parts.append(f"{words} {scale(figure)}")
    return [", ".join(parts)] if parts else []


def number(figure: Figure) -> str:
    """``0.82 (0.70 to 0.91)``."""
    bounds = "" if figure.low is None or figure.high is None else f" ({figure.low:.2f} to {figure.high:.2f})"
    return f"{figure.value:.2f}{bounds}"
