"""Each principle left out in turn, from the run's own judgements: which labels become others, and does it matter?

Leaving a principle out is giving it the weight 0. Where principles are averaged, all that the others said is there, so
that nobody has to be asked. Where one is drawn for each comparison, what another would have said is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.config import Component
from rlaif.constitutions.attribution import agrees
from rlaif.constitutions.reading import read_source
from rlaif.constitutions.runs import JudgedRun, Label, Pair, People, open_run, people_of
from rlaif.errors import UserError
from rlaif.evaluate import Metric, open_metrics
from rlaif.records import Prompt, Response
from rlaif.statistics import Figure, cluster_mean, paired_difference, share

MEASURES = "people"  # the name of the agreement with people's labels, beside the names of metrics


def change(before: Label | None, after: Label | None) -> str:
    """What became of a label: *same*, *flipped* (the other reply is preferred), *to a tie*, *from a tie*, *lost*, *gained*
    or *none* (neither has one)."""
    if before is None or after is None:
        return "none" if before is after else "lost" if after is None else "gained"
    if before.side == after.side:
        return "same"
    return "to a tie" if after.side == 0.5 else "from a tie" if before.side == 0.5 else "flipped"


@dataclass(frozen=True)
class LeftOut:
    """A run's labels without one principle. ``flips``: share of the pairs labelled with it and without it whose label is
    another. ``measures``, by name: agreement with, without, and the difference (without minus with), on pairs labelled
    both ways; people's labels under ``people``, and for each number of a metric the share of pairs in which the reply
    with more of it is preferred, a tie counting one half."""

    principle: str
    changes: Counter[str]
    flips: Figure
    measures: dict[str, tuple[Figure, Figure, Figure]]

    def figures(self) -> dict[str, Figure]:
        name = f"without.{self.principle}"
        found = {f"{name}.flips": self.flips}
        for measure, values in self.measures.items():
            found |= {
                f"{name}.{measure}.{part}": figure
                for part, figure in zip(("with", "without", "difference"), values, strict=True)
            }
        total = self.changes.total()
        return found | {
            f"accounts.{name}.{what.replace(' ', '_')}": Figure(value=float(count), n=total)
            for what, count in self.changes.items()
        }


@dataclass(frozen=True)
class Ablation:
    run: JudgedRun
    left_out: tuple[LeftOut, ...]  # most flips first

    def figures(self) -> dict[str, Figure]:
        return {name: figure for each in self.left_out for name, figure in each.figures().items()}

    def lines(self) -> Iterator[str]:
        """For a person: one line for each principle, and which of them matters."""
        for each in self.left_out:
            rest = ", ".join(f"{count} {what}" for what, count in each.changes.items() if what != "same")
            yield f"without {each.principle}: {share(each.flips)} of {each.flips.n:,} labels become others; {rest or 'all the same'}"
            for measure, (before, after, difference) in each.measures.items():
                yield f"  {_called(measure)}: {share(before)} with it, {share(after)} without: {_signed(difference)}"
        yield self.verdict()

    def verdict(self) -> str:
        """The principle that matters, as far as the intervals let it be said."""
        first = self.left_out[0]
        if not first.flips.value:
            return "No principle matters by itself: without any one of them every label stays what it is."
        told = f"{first.principle} matters most: without it {share(first.flips)} of the labels become others"
        if len(self.left_out) == 1:
            return f"{told}."
        second = self.left_out[1]
        apart = (first.flips.low or 0.0) > (second.flips.high or 1.0)
        rest = f"next is {second.principle} with {share(second.flips)}"
        return f"{told}; {rest}." if apart else f"{told}; {rest}, and the intervals do not tell the two apart."


def _called(measure: str) -> str:
    return "agrees with people" if measure == MEASURES else f"prefers more {measure}"


def _signed(figure: Figure) -> str:
    if figure.value is None:
        return "no pair to tell by"
    interval = "" if figure.low is None else f" ({figure.low:+.1%} to {figure.high:+.1%})"
    return f"{figure.value:+.1%}{interval}, n = {figure.n:,}"


async def ablate(name: str, path: Path, *, people: str | None = None, metrics: Sequence[str] = ()) -> Ablation:
    """The run's labels without each principle of its constitution, which ``name`` has to be. Raises UserError."""
    run = open_run(path)
    _need_own(name, run)
    if run.mode == "draw":
        raise UserError(
            f"{path}: one principle was drawn for each comparison, and what the others would say was not asked. Label with "
            "--set labels.options.principles=average, or ask for what changes: rlaif constitution diff, with a copy of the "
            "constitution that lacks one principle."
        )
    opened = open_metrics([Component(name=metric) for metric in metrics], "--metric")
    return ablation_of(run, await people_of(run, people), opened)


def _need_own(name: str, run: JudgedRun) -> None:
    """Raises UserError where the run was judged under another constitution."""
    tags = {principle.tag for principle in read_source(name, where="constitution ablate").principles}
    judged = {principle.tag for principle in run.principles}
    if tags != judged:
        others = sorted({tag.partition("@")[0] for tag in tags ^ judged})
        raise UserError(
            f"{run.folder.path}: it was judged under other principles than those of {name} ({', '.join(others[:4])} differ): "
            f"name its own constitution ({run.pipeline.constitution}), whose copy is under config/constitutions."
        )


def ablation_of(run: JudgedRun, people: People, metrics: Sequence[Metric] = ()) -> Ablation:
    """``metrics`` score both replies of every pair."""
    pairs = list(_measured(run, people, metrics))
    tags = [principle.tag for principle in run.principles]
    found = [_left_out(run, tag, pairs) for tag in tags] if len(tags) > 1 else []
    if not found:
        raise UserError(f"{run.folder.path}: its constitution has one principle: without it there is no label.")
    return Ablation(run, tuple(sorted(found, key=lambda each: -(each.flips.value or 0.0))))


@dataclass(frozen=True)
class Measured:
    """A pair, its label, and by measure which reply that is for: 1 the first, 0 the second."""

    pair: Pair
    label: Label | None
    truths: Mapping[str, float]


def _measured(run: JudgedRun, people: People, metrics: Sequence[Metric]) -> Iterator[Measured]:
    for pair in run.pairs():
        truths = dict(_scores(metrics, pair.comparison.prompt, pair.a, pair.b))
        human = people.get(pair.key)
        if human is not None and human.side != 0.5:
            truths[MEASURES] = human.side
        yield Measured(pair, pair.label(run.rules), truths)


def _scores(metrics: Sequence[Metric], prompt: Prompt, a: Response, b: Response) -> Iterator[tuple[str, float]]:
    """For every number of a metric on which two replies differ, which of them has more."""
    for metric in metrics:
        one, two = (_named(metric, metric.score(prompt, response)) for response in (a, b))
        for name in one:
            if name in two and one[name] != two[name]:
                yield name, float(one[name] > two[name])


def _named(metric: Metric, score: float | Mapping[str, float] | None) -> dict[str, float]:
    many = score if isinstance(score, Mapping) else {"": score}
    return {".".join(filter(None, (metric.name, name))): value for name, value in many.items() if value is not None}


def _left_out(run: JudgedRun, tag: str, pairs: Sequence[Measured]) -> LeftOut:
    after = [row.pair.label(run.rules, without=tag) for row in pairs]
    changes = Counter(change(row.label, label) for row, label in zip(pairs, after, strict=True))
    both = [(row, row.label, label) for row, label in zip(pairs, after, strict=True) if row.label and label]
    flips = cluster_mean([float(a.side != b.side) for _, a, b in both], [row.pair.prompt for row, _, _ in both])
    names = dict.fromkeys(name for row in pairs for name in row.truths)
    measures = {name: _measure(name, both) for name in names}
    return LeftOut(run.names.get(tag, tag), changes, flips, measures)


def _measure(name: str, both: Sequence[tuple[Measured, Label, Label]]) -> tuple[Figure, Figure, Figure]:
    rows = [(row.truths[name], a.side, b.side, row.pair.prompt) for row, a, b in both if name in row.truths]
    prompts = [prompt for *_, prompt in rows]
    with_it = [agrees(a, truth) for truth, a, _, _ in rows]
    without = [agrees(b, truth) for truth, _, b, _ in rows]
    return cluster_mean(with_it, prompts), cluster_mean(without, prompts), paired_difference(without, with_it, prompts)
