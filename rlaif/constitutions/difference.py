"""One constitution in place of another: which labels of a run become others, asking only what was not asked before.

Both are put to the run's judges by the road's own code and through its ledger. A principle that both have asks the same
questions, whose replies are there; where principles are drawn, the rendezvous hash draws most comparisons the same one.
A model is asked only what is new. The run's own judgements are taken where the first constitution is the run's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.checking import kept_files
from rlaif.constitutions.ablation import change
from rlaif.constitutions.attribution import write_rows
from rlaif.constitutions.reading import Source, read_source
from rlaif.constitutions.runs import (
    JudgedRun,
    Judges,
    KeptButConstitutions,
    Label,
    Pair,
    open_judges,
    open_run,
    pairs_of,
)
from rlaif.labels.judges import JudgeLabels
from rlaif.pipeline import Watcher
from rlaif.records import Comparison, Judgement, Response
from rlaif.reread import ledger_of_run
from rlaif.statistics import Figure, cluster_mean, share

SHOWN = 3  # flips that are printed in full
WIDTH = 300  # characters of a reply that are printed


@dataclass(frozen=True)
class Flip:
    """A label that became another. ``before`` and ``after`` are of the same two responses."""

    pair: Pair
    before: Label
    after: Label
    opinions: tuple[dict[str, float], dict[str, float]]  # under each constitution, by principle id: P(a is better)

    @property
    def row(self) -> dict[str, Any]:
        a, b = self.pair.a, self.pair.b
        return {
            "comparison_id": self.pair.comparison.id,
            "prompt": self.pair.comparison.prompt.text,
            "response_a": a.text,
            "response_b": b.text,
            "p_before": self.before.p,
            "p_after": self.after.p,
            "principles_before": self.opinions[0],
            "principles_after": self.opinions[1],
        }

    def lines(self) -> Iterator[str]:
        """Both replies, who prefers which, and the principles behind it; p is of the reply above it."""
        yield f"{self.pair.comparison.prompt.excerpt}"
        yield from _reply("a", self.pair.a)
        yield from _reply("b", self.pair.b)
        for name, label, said in (("before", self.before, self.opinions[0]), ("after", self.after, self.opinions[1])):
            preferred = {1.0: "a", 0.0: "b", 0.5: "neither"}[label.side]
            parts = ", ".join(f"{principle} {p:.2f}" for principle, p in said.items())
            yield f"  {name}: {preferred}, P(a is better) = {label.p:.2f}  ({parts})"


def _reply(name: str, response: Response) -> Iterator[str]:
    text = " ".join(response.text.split())
    yield f"  {name}: {text if len(text) <= WIDTH else text[: WIDTH - 1] + '…'}"


@dataclass(frozen=True)
class Difference:
    """What it comes to. ``share``: of the pairs labelled under both, those whose label is another."""

    before: Source
    after: Source
    changes: Counter[str]
    share: Figure
    flips: tuple[Flip, ...]  # labels that are another, the surest first
    asked: int  # questions that went to a model
    saved: int  # that the ledger answered
    taken: int  # judgements of the run that stand for the first constitution

    def figures(self) -> dict[str, Figure]:
        total = self.changes.total()
        found = {"labels.share_flipped": self.share}
        for what, count in self.changes.items():
            found[f"accounts.labels.{what.replace(' ', '_')}"] = Figure(value=float(count), n=total)
        questions = self.asked + self.saved
        found["questions.asked"] = Figure(value=float(self.asked), n=questions)
        found["questions.from_ledger"] = Figure(value=float(self.saved), n=questions)
        return found

    def lines(self, shown: int = SHOWN) -> Iterator[str]:
        """For a person; ``shown`` flips in full."""
        yield f"{self.before.place()} -> {self.after.place()}: {_principles_changed(self.before, self.after)}"
        parts = ", ".join(f"{count:,} {what}" for what, count in self.changes.most_common())
        yield f"{self.changes.total():,} pairs: {parts}"
        yield f"labels that become others: {share(self.share)} of the {self.share.n:,} pairs labelled under both"
        yield f"questions: {self.asked:,} asked, {self.saved:,} answered from the ledger; {self.taken:,} judgements taken from the run"
        for flip in self.flips[:shown]:
            yield ""
            yield from flip.lines()
        if len(self.flips) > shown > 0:
            yield ""
            yield f"{len(self.flips) - shown:,} more: --rows FILE writes them all"


def _principles_changed(before: Source, after: Source) -> str:
    now, then = ({p.id: p for p in source.principles} for source in (after, before))
    parts = {
        "added": [name for name in now if name not in then],
        "left out": [name for name in then if name not in now],
        "reworded": [name for name in now if name in then and now[name].text != then[name].text],
        "reweighted": [name for name in now if name in then and now[name].weight != then[name].weight],
    }
    return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names) or "the same principles"


async def diff(
    before: str,
    after: str,
    path: Path,
    *,
    settings: Sequence[str] = (),
    rows: Path | None = None,
    watcher: Watcher | None = None,
) -> Difference:
    """The run's pairs labelled under two constitutions. Raises UserError for what is not there, before anything is asked."""
    run = open_run(path, settings)
    catalogue = KeptButConstitutions(kept=kept_files(path))
    sources = [read_source(name, catalogue, where="constitution diff") for name in (before, after)]
    ledger = ledger_of_run(path, run.pipeline, settings)
    judges = open_judges(
        run.pipeline, run.entry, catalogue, ledger, settings=settings, watcher=watcher, run=run.folder.id
    )
    try:
        found = await _compare(run, judges, (before, after), sources)
    finally:
        await judges.close()
    if rows:
        write_rows(rows, (flip.row for flip in found.flips))
    return found


async def _compare(run: JudgedRun, judges: Judges, names: tuple[str, str], sources: Sequence[Source]) -> Difference:
    own = [(p.tag, p.weight) for p in run.principles] == [(p.tag, p.weight) for p in sources[0].principles]
    first = None if own else judges.under(names[0])
    second = judges.under(names[1])
    size = max(1, run.pipeline.shard_rows // (second.per_comparison() or 1))
    then = _own_judgements(run, size) if first is None else _labelled(first, run, size)
    changes: Counter[str] = Counter()
    flips: list[Flip] = []
    compared: list[tuple[float, str]] = []
    taken = 0
    async for batch in _together(then, _labelled(second, run, size)):
        for comparison, old, new in batch:
            taken += len(old) if own else 0
            for one, two in zip(pairs_of(comparison, old), pairs_of(comparison, new), strict=True):
                a, b = one.label(run.rules), two.label(run.rules)
                changes[change(a, b)] += 1
                if a is None or b is None:
                    continue
                compared.append((float(a.side != b.side), one.prompt))
                if a.side != b.side:
                    flips.append(Flip(one, a, b, (_opinions(one), _opinions(two))))
    flips.sort(key=lambda flip: -abs(flip.after.p - flip.before.p))
    whole = cluster_mean([value for value, _ in compared], [prompt for _, prompt in compared])
    return Difference(sources[0], sources[1], changes, whole, tuple(flips), judges.asked, judges.saved, taken)


Judged = list[tuple[Comparison, list[Judgement]]]


async def _own_judgements(run: JudgedRun, size: int) -> AsyncIterator[Judged]:
    batch: Judged = []
    for comparison, judgements in run.judged():
        batch.append((comparison, judgements))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def _labelled(labels: JudgeLabels, run: JudgedRun, size: int) -> AsyncIterator[Judged]:
    """Every comparison with what the judges say of it."""
    waiting: list[list[Comparison]] = []

    async def batches() -> AsyncIterator[list[Comparison]]:
        async for batch in run.folder.batches("comparisons", size):
            waiting.append(batch)
            yield batch

    async for judgements in labels.label(batches()):
        said: dict[str, list[Judgement]] = {}
        for judgement in judgements:
            said.setdefault(judgement.comparison_id, []).append(judgement)
        yield [(comparison, said.get(comparison.id, [])) for comparison in waiting.pop(0)]


async def _together(
    one: AsyncIterator[Judged], two: AsyncIterator[Judged]
) -> AsyncIterator[list[tuple[Comparison, list[Judgement], list[Judgement]]]]:
    """The same comparisons with the judgements of both."""
    async for batch in two:
        other = await anext(one)
        yield [(comparison, old, new) for (comparison, new), (_, old) in zip(batch, other, strict=True)]


def _opinions(pair: Pair) -> dict[str, float]:
    said = ((tag.partition("@")[0], pair.opinion(tag)) for tag in pair.tags)
    return {name: p for name, p in said if p is not None}
