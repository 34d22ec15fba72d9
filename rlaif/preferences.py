"""Judgements to preferences: both orders, votes, ties, margins. One code for people and judges.

Every pair that was compared becomes exactly one row, in the same order whoever labelled; a pair without a label keeps
weight 0. What a rule sets aside is counted, never deleted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlaif.config import PreferencesSection
from rlaif.errors import DataError
from rlaif.records import NO_LABEL, Comparison, Judgement, Preference, Provenance, Record, Response, uniform

NEAR_TIE = 0.05  # |p - 1/2| below which a hard-label export drops a pair, and the side it is on is no opinion
ROUNDING = 1e-9  # differences of p smaller than this are an accident of floating point
Missing = Literal["no label", "unreadable", "refused", "failed", "over budget"]
SEVERITY: tuple[Missing, ...] = ("failed", "over budget", "refused", "unreadable", "no label")


def with_judgements(
    comparisons: Iterable[Comparison], judgements: Iterable[Judgement]
) -> Iterator[tuple[Comparison, list[Judgement]]]:
    """Each comparison with its judgements; both streams are in the order of the comparisons."""
    by_comparison = itertools.groupby(judgements, key=lambda judgement: judgement.comparison_id)
    held = next(by_comparison, None)
    for comparison in comparisons:
        own: list[Judgement] = []
        if held and held[0] == comparison.id:
            own = list(held[1])
            held = next(by_comparison, None)
        yield comparison, own
    if held:
        raise DataError(
            f"judgements: {held[0]} is judged out of order or is not a comparison of this run: a label source gives the "
            "judgements of each comparison together, in the order of the comparisons."
        )


@dataclass(frozen=True)
class Reconcile:
    """A stage from (comparison, judgements) to preferences, with the provenance of each beside it."""

    rules: PreferencesSection

    async def __call__(
        self, batches: AsyncIterator[list[tuple[Comparison, list[Judgement]]]]
    ) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            yield [
                record
                for comparison, judgements in batch
                for pair in itertools.combinations(comparison.responses, 2)
                for record in reconcile(comparison, pair, judgements, self.rules)
            ]


def reconcile(
    comparison: Comparison, pair: tuple[Response, Response], judgements: Sequence[Judgement], rules: PreferencesSection
) -> tuple[Preference, Provenance]:
    """One pair of a comparison: the mean over labellers of each labeller's opinion, or what most of them prefer, then the
    recipe's rules.

    A labeller's opinion is the mean over the orders shown, then over principles by weight. A labeller with any
    judgement missing (one order unreadable, say) has no opinion; whether the others then suffice is
    ``rules.missing_votes``. A calibration of the recipe maps the mean, or weighs the opinions, before the other rules.
    """
    a, b = sorted(pair, key=lambda response: response.id)  # in whichever order the comparison lists them
    opinions, missing = votes(judgements, a.id, b.id)
    assert not isinstance(rules.calibration, str), "a recipe made ready holds what is in the file"
    p = panel_vote(opinions, missing, rules.missing_votes, rules.panel)
    if p is not None and rules.calibration:
        calibration = rules.calibration.map
        p = calibration.of_panel(opinions) if calibration.kind == "panel" else calibration.of(p)
    if p is not None and rules.clamp:
        p = min(max(p, rules.clamp[0]), rules.clamp[1])
    shown = [(j, p_first(j, a.id, b.id)) for j in judgements if j.shown is not None]
    agree = orders_agree(judgements, a.id, b.id)
    outcome, reason, weight = _verdict(p, missing, bool(judgements), agree, rules)
    if weight and missing:
        reason = f"{missing.total()} of {len(opinions) + missing.total()} labellers missing"
    a_wins = p is None or p > 0.5 or (p == 0.5 and uniform("side", comparison.id, a.id, b.id) < 0.5)
    chosen, rejected, q = (a, b, p) if a_wins else (b, a, None if p is None else 1 - p)
    preference = Preference(
        prompt=comparison.prompt.messages,
        chosen=chosen.messages,
        rejected=rejected.messages,
        p=0.5 if q is None else q,
        weight=weight,
        prompt_id=comparison.prompt.id,
        comparison_id=comparison.id,
    )
    provenance = Provenance(
        comparison_id=comparison.id,
        chosen_id=chosen.id,
        rejected_id=rejected.id,
        outcome=outcome,
        reason=reason,
        labellers=tuple(dict.fromkeys(j.labeller for j in judgements)),
        principle_ids=tuple(dict.fromkeys(j.principle_id for j in judgements if j.principle_id)),
        votes=tuple(v if a_wins else 1 - v for v in opinions.values()),
        p_by_order=tuple(v if a_wins else 1 - v for _, v in shown if v is not None),
        orders_agree=agree,
        reply_keys=tuple(key for j in judgements for key in j.reply_keys),
    )
    return preference, provenance


def votes(judgements: Sequence[Judgement], a: str, b: str) -> tuple[dict[str, float], Counter[tuple[Missing, str]]]:
    """Each labeller's probability that ``a`` is better; and outcome and reason of those who have no opinion."""
    by_labeller: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_labeller.setdefault(judgement.labeller, []).append(judgement)
    opinions: dict[str, float] = {}
    missing: Counter[tuple[Missing, str]] = Counter()
    for labeller, own in by_labeller.items():
        opinion = labeller_opinion(own, a, b)
        if isinstance(opinion, float):
            opinions[labeller] = opinion
        else:
            missing[opinion] += 1
    return opinions, missing


def panel_vote(
    opinions: dict[str, float], missing: Counter[Any], policy: str = "unlabelled", rule: str = "mean"
) -> float | None:
    """What several labellers say together: the mean, or 1, 0 or ½ as more than half of all who were asked prefer one, the
    other or neither. None where nobody has an opinion, or where one is missing and ``policy`` says that counts, or no
    majority is there without those who are missing."""
    if not opinions or (missing and policy == "unlabelled"):
        return None
    if rule == "mean":
        return _exact_tie(sum(opinions.values()) / len(opinions))
    asked = len(opinions) + missing.total()
    sides = Counter(side(p) for p in opinions.values())
    for preferred in (1.0, 0.0):
        if 2 * sides[preferred] > asked:
            return preferred
    return None if missing else 0.5


def p_first(judgement: Judgement, a: str, b: str) -> float | None:
    """Probability that ``a`` is better than ``b`` by one judgement; None where it says nothing of the two."""
    if judgement.outcome != "ranked":
        return None
    ranked = judgement.ranked
    if judgement.p is not None and {a, b} <= set(ranked):
        pa, pb = (judgement.p[ranked.index(i)] for i in (a, b))
        if pa + pb > 0:  # else both are surely not the best, and the ranking says which is better
            return pa / (pa + pb)
    rank = {response: group for group, members in enumerate(judgement.ranking) for response in members}
    if a not in rank or b not in rank:
        return None
    return 0.5 if rank[a] == rank[b] else float(rank[a] < rank[b])


def tie_likeliest(judgements: Sequence[Judgement], a: str, b: str) -> bool:
    """Whether those who measured the probability of a tie find it likelier than either reply, on average; False where one
    of them did not measure it. In p a tie counts half for either reply, so that p alone hardly ever says so."""
    ties = firsts = weights = 0.0
    for judgement in judgements:
        p = p_first(judgement, a, b)
        if p is None or judgement.p_tie is None or len(judgement.ranked) != 2:
            return False
        ties += judgement.weight * judgement.p_tie
        firsts += judgement.weight * (p - judgement.p_tie / 2)
        weights += judgement.weight
    return weights > 0 and ties > max(firsts, weights - ties - firsts)


def labeller_opinion(own: Sequence[Judgement], a: str, b: str) -> float | tuple[Missing, str]:
    """One labeller's probability that ``a`` is better, or the outcome and reason for there being none."""
    worst = next((j for outcome in SEVERITY for j in own if j.outcome == outcome), None)
    if worst is not None:
        whole = all(j.outcome != "ranked" for j in own)
        what = worst.reason if whole else f"one order missing ({worst.reason})" if len(own) > 1 else worst.reason
        return worst.outcome, what or ""  # type: ignore[return-value]
    by_principle: dict[str | None, list[Judgement]] = {}
    for judgement in own:
        by_principle.setdefault(judgement.principle_id, []).append(judgement)
    total = weights = 0.0
    for group in by_principle.values():
        values = [p_first(judgement, a, b) for judgement in group]
        if any(value is None for value in values):
            return "unreadable", "a response was not ranked"
        total += group[0].weight * sum(v for v in values if v is not None) / len(values)
        weights += group[0].weight
    return _exact_tie(total / weights)


def side(p: float) -> float:
    """Which of the two a probability prefers: 1 the first, 0 the second, 0.5 neither."""
    return 0.5 if p == 0.5 else float(p > 0.5)


def _exact_tie(p: float) -> float:
    """``p``, and 1/2 where only rounding keeps it from that: 0.7 in one order and 0.3 in the other is a tie."""
    return 0.5 if abs(p - 0.5) < ROUNDING else p


def leaning(p: float) -> float:
    """Which of the two a probability prefers by more than a near-tie: 1 the first, 0 the second, 0.5 neither. Where two
    replies are equally good, the sign of what little a judge's probability is off is no opinion."""
    return 0.5 if abs(p - 0.5) < NEAR_TIE - ROUNDING else float(p > 0.5)


def opinions_by_order(judgements: Sequence[Judgement], a: str, b: str) -> dict[str, dict[bool, float]]:
    """By labeller and by whether ``a`` was shown before ``b``: the probability that ``a`` is better, principles averaged
    by weight. Left out where the order is not known or the labeller has no opinion in it."""
    groups: dict[tuple[str, bool], list[Judgement]] = {}
    for judgement in judgements:
        if judgement.shown and {a, b} <= set(judgement.shown):
            a_first = judgement.shown.index(a) < judgement.shown.index(b)
            groups.setdefault((judgement.labeller, a_first), []).append(judgement)
    found: dict[str, dict[bool, float]] = {}
    for (labeller, a_first), own in groups.items():
        opinion = labeller_opinion(own, a, b)
        if isinstance(opinion, float):
            found.setdefault(labeller, {})[a_first] = opinion
    return found


def by_principle(judgements: Sequence[Judgement], a: str, b: str) -> list[float]:
    """The probability that ``a`` is better to each labeller under each principle, orders averaged; none where neither is
    known."""
    groups: dict[tuple[str, str | None], list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault((judgement.labeller, judgement.principle_id), []).append(judgement)
    found = (labeller_opinion(own, a, b) for own in groups.values())
    return [opinion for opinion in found if isinstance(opinion, float)]


def alike(one: float, other: float) -> bool:
    """Whether two probabilities are one opinion: the same side, or near-ties both."""
    return (one - 0.5) * (other - 0.5) > 0 or leaning(one) == leaning(other) == 0.5


def orders_agree(judgements: Sequence[Judgement], a: str, b: str) -> bool | None:
    """Whether every labeller has one opinion in both orders; None where no one was asked in both."""
    both = [orders for orders in opinions_by_order(judgements, a, b).values() if len(orders) == 2]
    return all(alike(*orders.values()) for orders in both) if both else None


def _verdict(
    p: float | None,
    missing: Counter[tuple[Missing, str]],
    asked: bool,
    agree: bool | None,
    rules: PreferencesSection,
) -> tuple[Any, str | None, float]:
    """Outcome, reason and weight."""
    if p is None:
        if not asked:
            return NO_LABEL, NO_LABEL, 0.0
        outcome, reason = min(missing, key=lambda item: (SEVERITY.index(item[0]), item[1]))
        return outcome, reason, 0.0
    if rules.consistent_orders_only and agree is False:
        return "filtered", "the two orders disagree", 0.0
    if abs(2 * p - 1) < rules.minimum_margin - ROUNDING:
        return "filtered", f"margin below {rules.minimum_margin:g}", 0.0
    return ("tie" if p == 0.5 else "labelled"), None, 1.0


def hard_labels(preferences: Iterable[Preference], near_tie: float = NEAR_TIE) -> Iterator[Preference | str]:
    """Rows fit for trainers without probabilities; for each row left out, the reason."""
    for row in preferences:
        if row.weight == 0:
            yield "no label, or set aside"
        elif row.p == 0.5:
            yield "tie"
        elif row.p - 0.5 < near_tie:
            yield "near-tie"
        else:
            yield row
