"""Asking the second order only where the first leaves doubt: nearly half the price, for a judge whose habit is known.

Off unless a recipe asks for it. A judge prefers what stands first by some amount in logits; that offset is measured in a
run that asked both orders, and taken off. Where the corrected p is far from 1/2 the second order rarely changes which
reply is preferred, and is left out. One comparison in ten is asked in both orders all the same, drawn by content: where
the second order changes more than one in twenty of the labels that the first alone would have given, all the others get
theirs too. Each batch of comparisons decides by its own audit, so that a resumed run decides as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from rlaif.catalogue import Entry
from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError
from rlaif.records import Comparison, Judgement, uniform
from rlaif.store import RunFolder

AUDITED = 0.1  # share of comparisons asked in both orders whatever the first says
LEAST_AUDITED = 20  # of a batch, where it has as many
MOST_CHANGED = 0.05  # share of the audited labels that the second order may change
LEAST_MEASURED = 100  # comparisons in both orders that an offset rests on
SURE = 1e-6  # a p nearer to 0 or 1 than this counts as this


class SecondOrder(BaseOptions):
    """When the second order is asked for."""

    measured_in: str  # a run folder in which the same judge was asked in both orders
    margin: float = Field(default=0.3, gt=0, lt=0.5)  # |p - 1/2| from which the first order is enough


@dataclass(frozen=True)
class Offset:
    """By how much a judge prefers what it is shown first: mean logit of that over both orders, on ``n`` comparisons."""

    logit: float
    n: int

    def corrected(self, judgement: Judgement) -> Judgement:
        """The judgement with the habit taken off its p."""
        first = p_of_first(judgement)
        if first is None or judgement.shown is None:
            return judgement
        p = 1 / (1 + math.exp(self.logit - _logit(first)))
        one, two = judgement.shown
        ranking = ((one, two),) if p == 0.5 else ((one,), (two,)) if p > 0.5 else ((two,), (one,))
        return judgement.model_copy(update={"ranking": ranking, "p": (max(p, 1 - p), min(p, 1 - p))})


def p_of_first(judgement: Judgement) -> float | None:
    """P(shown first is better) of a pair's judgement that measured one."""
    if judgement.p is None or judgement.shown is None or len(judgement.shown) != 2:
        return None
    return dict(zip(judgement.ranked, judgement.p, strict=True))[judgement.shown[0]]


def _logit(p: float) -> float:
    p = min(max(p, SURE), 1 - SURE)
    return math.log(p / (1 - p))


ASKED = ("rubric", "template", "constitution")  # kinds of files that change what a judge is asked


def measured_offset(folder: str, labeller: str, model: str, where: str, used: Iterable[Entry]) -> Offset:
    """The offset of a judge in a run that asked it in both orders. ``used``: the files behind what is asked now. Raises
    ConfigError where it was asked something else there, or where the offset rests on too little."""
    path = Path(folder)
    if not (path / "manifest.json").is_file():
        raise ConfigError(f"{where}: second_order.measured_in: {folder} is not a run folder.")
    run = RunFolder(path)
    models = {facts["sha256"] for facts in run.manifest["models"].values()}
    if model and model not in models:
        raise ConfigError(f"{where}: second_order.measured_in: {folder} was judged by another model: measure this one.")
    asked = {file["sha256"] for file in run.manifest["files"]}
    for entry in used:
        if entry.kind in ASKED and entry.sha256 not in asked:
            raise ConfigError(
                f'{where}: second_order.measured_in: {folder} was not judged by this {entry.kind} "{entry.name}": measure '
                "the judge with it."
            )
    logits: dict[tuple[str, str | None], list[float]] = {}
    for judgement in run.read("judgements"):
        first = p_of_first(judgement)
        if judgement.labeller == labeller and first is not None:
            logits.setdefault((judgement.comparison_id, judgement.principle_id), []).append(_logit(first))
    both = [sum(pair) / 2 for pair in logits.values() if len(pair) == 2]
    if len(both) < LEAST_MEASURED:
        raise ConfigError(
            f"{where}: second_order.measured_in: {folder} holds {len(both)} comparisons that {labeller} judged in both "
            f"orders with probabilities: at least {LEAST_MEASURED} are needed to know its habit. Run a pilot with both "
            "orders first."
        )
    return Offset(sum(both) / len(both), len(both))


def audited(comparisons: Sequence[Comparison]) -> set[str]:
    """The ids of those asked in both orders whatever the first says: a tenth, drawn by content."""
    number = max(math.ceil(AUDITED * len(comparisons)), min(LEAST_AUDITED, len(comparisons)))
    return {c.id for c in sorted(comparisons, key=lambda c: uniform("audit", c.id))[:number]}


@dataclass(frozen=True)
class First:
    """A first order as it was judged, and as it counts alone."""

    judgement: Judgement
    alone: Judgement
    audited: bool

    def settles(self, margin: float) -> bool:
        """Whether it is enough: it failed, so that no second order would make a label, or it is sure."""
        if self.judgement.outcome != "ranked":
            return True
        p = p_of_first(self.alone)
        return p is not None and abs(p - 0.5) >= margin


def changed(firsts: Sequence[First], seconds: Sequence[Judgement], margin: float) -> tuple[int, int]:
    """(labels that the second order changed, labels that the first alone would have given), among the audited."""
    found = [_changes(first, second) for first, second in zip(firsts, seconds, strict=True) if first.settles(margin)]
    known = [change for change in found if change is not None]
    return sum(known), len(known)


def _changes(first: First, second: Judgement) -> bool | None:
    """Whether the mean of both orders prefers another reply than the first alone; None where it cannot be said."""
    alone, one, two = p_of_first(first.alone), p_of_first(first.judgement), p_of_first(second)
    if alone is None or one is None or two is None:
        return None
    return (alone - 0.5) * ((one + 1 - two) / 2 - 0.5) <= 0


def in_shown_order(comparison: Comparison, one: Judgement, two: Judgement) -> Iterator[Judgement]:
    """Two orders as they are written down: the comparison's own first."""
    own = tuple(response.id for response in comparison.responses)
    yield from (one, two) if one.shown == own else (two, one)
