"""Which principle decided each label of a run, and what each principle is like: dead, dominant, in line with people.

Where principles are averaged, the label is the sign of the sum of their margins: a principle's share of the weight
times 2p - 1, both orders and all judges averaged. A principle *alone decides* a label where the label would be another,
or none, had nobody been asked by it. Several may. The label is credited to the one of them with the largest margin
for it; where none alone decides, to the one with the largest margin for it at all. Equals share the credit, so that
credits add up to the labels that prefer one reply; a tie is credited to nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.constitutions.runs import JudgedRun, Label, Pair, People, open_run, people_of
from rlaif.preferences import NEAR_TIE, ROUNDING, leaning, orders_agree, p_first
from rlaif.records import Judgement
from rlaif.statistics import Figure, Means, share
from rlaif.store import writing

DOMINANT = 0.5  # share of the labels from which, with the whole interval above it, a principle is called dominant
FEW = 20  # pairs below which nothing is said of a principle's being dead or dominant


@dataclass(frozen=True)
class Decision:
    """Why a label is what it is. ``margins``, by tag: how much each principle speaks for the preferred reply, in [-1, 1];
    negative where it speaks against it. For a tie they are for the pair's first reply."""

    pair: Pair
    label: Label
    margins: dict[str, float]
    alone: tuple[str, ...]  # principles without which it would not be this label
    decided_by: tuple[str, ...]  # empty for a tie


def decide(run: JudgedRun, pair: Pair) -> Decision | None:
    """What decided the label of a pair; None where it has none."""
    label = pair.label(run.rules)
    if label is None:
        return None
    sign = -1.0 if label.side == 0.0 else 1.0
    shares = pair.shares()
    margins = {}
    for tag in pair.tags:
        p = pair.opinion(tag)
        margins[tag] = 0.0 if p in (None, 0.5) else sign * shares[tag] * (2 * p - 1)
    if label.side == 0.5:
        return Decision(pair, label, margins, (), ())
    alone = tuple(tag for tag in pair.tags if _other(pair.label(run.rules, without=tag), label))
    best = max(margins[tag] for tag in alone or pair.tags)
    decided = tuple(tag for tag in alone or pair.tags if margins[tag] >= best - ROUNDING)
    return Decision(pair, label, margins, alone, decided)


def _other(now: Label | None, before: Label) -> bool:
    return now is None or now.side != before.side


def decisions(run: JudgedRun) -> Iterator[Decision]:
    """In the order of the run's preferences; pairs without a label are left out."""
    return (found for pair in run.pairs() if (found := decide(run, pair)) is not None)


@dataclass(frozen=True)
class Attribution:
    """The figures of a run's principles: ``principles.ID.NAME``, and ``labels.NAME`` of the whole.

    ``decides``: credit per label that prefers one reply; ``alone``: share of these labels that would be another or none
    without it; ``near_half``: mean of |p - 1/2| over pairs that it has an opinion on; ``with_label``: share of labels that
    it is for, a near-tie of its own counting one half; ``people``: the same of people's labels; ``first_rate``: the first shown
    preferred; ``orders_agree``; ``unreadable``: of its showings.
    """

    run: JudgedRun
    figures: dict[str, Figure]
    outcomes: dict[str, Counter[str]]  # by tag: its showings by outcome
    sure: frozenset[str]  # tags that were anywhere further from one half than a near-tie
    people: int  # pairs that people labelled, too

    def of(self, tag: str, name: str) -> Figure:
        return self.figures.get(f"principles.{self.run.names.get(tag, tag)}.{name}", Figure(value=None, n=0))

    def dead(self) -> list[str]:
        """Principles that decide nothing and never leave one half by more than a near-tie, on enough pairs to say so."""
        return [
            tag
            for tag in self.tags
            if tag not in self.sure and self.of(tag, "near_half").n >= FEW and not self.of(tag, "decides").value
        ]

    def silent(self) -> list[str]:
        """Principles that no pair was shown under, or of which no showing could be read."""
        return [tag for tag in self.tags if not self.of(tag, "near_half").n]

    def dominant(self) -> list[str]:
        """Principles, of several, that decide more than half of the labels, by the whole interval."""
        if len(self.tags) < 2:
            return []
        return [
            tag
            for tag in self.tags
            if (low := self.of(tag, "decides").low) is not None and low > DOMINANT and self.of(tag, "decides").n >= FEW
        ]

    @property
    def tags(self) -> list[str]:
        return list(self.outcomes)

    def lines(self) -> Iterator[str]:
        """For a person."""
        names = self.run.names
        labels = self.figures["labels.decided"]
        yield (
            f"{self.run.folder.path}: {labels.n:,} labels, of which {labels.value or 0:,.0f} prefer a reply; "
            f"{self.run.mode} principles"
        )
        yield f"{'':<20}{'decides':<26}{'alone':<26}{'|p - 1/2|':<11}{'with label':<12}{'people':<9}{'first':<7}{'unread':<7}"
        for tag in self.tags:
            yield (
                f"{names.get(tag, tag):<20}{share(self.of(tag, 'decides')):<26}{share(self.of(tag, 'alone')):<26}"
                f"{number(self.of(tag, 'near_half')):<11}{percent(self.of(tag, 'with_label')):<12}"
                f"{percent(self.of(tag, 'people')):<9}{percent(self.of(tag, 'first_rate')):<7}"
                f"{percent(self.of(tag, 'unreadable')):<7}"
            )
        yield from self._findings()

    def _findings(self) -> Iterator[str]:
        names = self.run.names
        for tag in self.silent():
            yield f"{names.get(tag, tag)}: not one verdict under it: nothing is known of it."
        for tag in self.dead():
            n = self.of(tag, "near_half").n
            yield f"{names.get(tag, tag)}: dead: it decides no label, and stays within {NEAR_TIE:g} of one half on all of {n:,} pairs."
        for tag in self.dominant():
            yield f"{names.get(tag, tag)}: dominant: it decides {share(self.of(tag, 'decides'))} of the labels."
        if not self.people:
            yield "No pair has a label of a person: how far principles agree with people cannot be said (--people)."


def percent(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.0%}"


def number(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.3f}"


async def attribute(path: Path, people: str | None = None, to: Path | None = None) -> Attribution:
    """Which principle decided what in a run; with ``to``, a row for every label there. Raises UserError."""
    run = open_run(path)
    said = await people_of(run, people)
    found = attribution_of(run, said)
    if to:
        write_rows(to, (_row(run, decision) for decision in decisions(run)))
    return found


def attribution_of(run: JudgedRun, people: People) -> Attribution:
    means = Means()
    outcomes: dict[str, Counter[str]] = {principle.tag: Counter() for principle in run.principles}
    sure: set[str] = set()
    labels = preferring = both = 0
    for comparison, judgements in run.judged():
        for judgement in judgements:
            if judgement.principle_id:
                outcomes.setdefault(judgement.principle_id, Counter())[judgement.outcome] += 1
                _add_showing(means, run, judgement, comparison.prompt.id)
    for pair in run.pairs():
        human = people.get(pair.key)
        both += human is not None
        sure |= _add_pair(means, run, pair, human)
        decision = decide(run, pair)
        if decision is not None:
            labels += 1
            preferring += bool(decision.decided_by)
            _add_decision(means, run, decision, list(outcomes))
    figures = means.figures() | {"labels.decided": Figure(value=float(preferring), n=labels)}
    return Attribution(run, figures, outcomes, frozenset(sure), both)


def _add_showing(means: Means, run: JudgedRun, judgement: Judgement, prompt: str) -> None:
    name = f"principles.{run.names.get(judgement.principle_id or '', judgement.principle_id)}"
    means.add(f"{name}.unreadable", float(judgement.outcome == "unreadable"), prompt)
    if judgement.shown and len(judgement.shown) == 2:
        p = p_first(judgement, *judgement.shown)
        if p is not None:
            means.add(f"{name}.first_rate", leaning(p), prompt)


def _add_pair(means: Means, run: JudgedRun, pair: Pair, human: Label | None) -> set[str]:
    """What a pair says of each principle by itself; the principles that are clearly off one half on it."""
    sure = set()
    for tag in pair.tags:
        name = f"principles.{run.names.get(tag, tag)}"
        p = pair.opinion(tag)
        if p is None:
            continue
        means.add(f"{name}.near_half", abs(p - 0.5), pair.prompt)
        if abs(p - 0.5) >= NEAR_TIE:
            sure.add(tag)
        if human is not None and human.side != 0.5:
            means.add(f"{name}.people", agrees(leaning(p), human.side), pair.prompt)
        own = [judgement for judgement in pair.judgements if judgement.principle_id == tag]
        if (same := orders_agree(own, pair.a.id, pair.b.id)) is not None:
            means.add(f"{name}.orders_agree", float(same), pair.prompt)
    return sure


def agrees(said: float, other: float) -> float:
    """1 where both prefer the same reply, 0 where not, one half where ``said`` is a tie."""
    return 0.5 if said == 0.5 else float(said == other)


def _add_decision(means: Means, run: JudgedRun, decision: Decision, tags: list[str]) -> None:
    if not decision.decided_by:
        return
    for tag in tags:
        name = f"principles.{run.names.get(tag, tag)}"
        credit = (tag in decision.decided_by) / len(decision.decided_by)
        means.add(f"{name}.decides", credit, decision.pair.prompt)
        means.add(f"{name}.alone", float(tag in decision.alone), decision.pair.prompt)
        p = decision.pair.opinion(tag) if tag in decision.pair.tags else None
        if p is not None:
            means.add(f"{name}.with_label", agrees(leaning(p), decision.label.side), decision.pair.prompt)


def _row(run: JudgedRun, decision: Decision) -> dict[str, Any]:
    """A label as a row: what was preferred, by how much, and who decided it."""
    pair, label = decision.pair, decision.label
    chosen, rejected = (pair.a, pair.b) if label.p >= 0.5 else (pair.b, pair.a)
    names = run.names
    return {
        "comparison_id": pair.comparison.id,
        "prompt": pair.comparison.prompt.text,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "p": max(label.p, 1 - label.p),
        "tie": label.side == 0.5,
        "decided_by": [names.get(tag, tag) for tag in decision.decided_by],
        "alone": [names.get(tag, tag) for tag in decision.alone],
        "margins": {names.get(tag, tag): round(margin, 6) for tag, margin in decision.margins.items()},
    }


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON Lines."""
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
