"""Each principle alone on its own examples: does this judge, reading it, prefer the reply that it should?

Every example is shown in both orders, by the same code, gateway and ledger as labels are made with. What a principle
passes here it passes with this judge; a reply that cannot be read, a refusal or a failed call says nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlaif.catalogue import Catalogue
from rlaif.checking import recipe_of
from rlaif.config import Example, Principle
from rlaif.constitutions.reading import Source, read_source
from rlaif.constitutions.runs import Judges, open_judges
from rlaif.labels.judges import Judge, JudgeLabels
from rlaif.models.gateway import gather_all
from rlaif.pipeline import Watcher
from rlaif.preferences import labeller_opinion, leaning
from rlaif.records import Comparison, Judgement, Message, Prompt, Response
from rlaif.statistics import Figure, cluster_mean, wilson

BATCH = 64  # examples put to the judge at once
Result = Literal["passed", "wrong", "tie", "no label", "unreadable", "refused", "failed", "over budget"]


@dataclass(frozen=True)
class Case:
    """An example of a principle as two replies that are compared; the first one is the better."""

    principle: Principle
    example: Example
    comparison: Comparison

    @property
    def better(self) -> str:
        return self.comparison.responses[0].id

    @property
    def worse(self) -> str:
        return self.comparison.responses[1].id


@dataclass(frozen=True)
class Tried:
    """What a judge made of an example. ``p``: the probability that the better reply is better, both orders averaged; None
    where it was not measured, and ``reason`` says why. ``by_order``: p with the better reply first, and second."""

    case: Case
    result: Result
    p: float | None
    by_order: tuple[float | None, float | None]
    reason: str | None = None


@dataclass(frozen=True)
class Trial:
    """A constitution tried by a judge."""

    source: Source
    labeller: str
    tried: tuple[Tried, ...]
    asked: int  # questions that went to a model
    saved: int  # that the ledger answered

    @property
    def passed(self) -> bool:
        """Whether there was an example, and all of them got the verdict they should."""
        return bool(self.tried) and all(one.result == "passed" for one in self.tried)

    def of(self, principle: Principle) -> list[Tried]:
        return [one for one in self.tried if one.case.principle.id == principle.id]

    def account(self) -> Counter[str]:
        """Examples by result; they add up to the examples there are."""
        return Counter(one.result for one in self.tried)

    def figures(self) -> dict[str, Figure]:
        """Shares of the measured examples that passed, with Wilson's interval; mean p; counts by result."""
        found = _figures("all", self.tried)
        for principle in self.source.principles:
            found |= _figures(f"principles.{principle.id}", self.of(principle))
        for result, count in self.account().items():
            found[f"accounts.examples.{result.replace(' ', '_')}"] = Figure(value=float(count), n=len(self.tried))
        return found

    def lines(self) -> Iterator[str]:
        """For a person: each principle, each of its examples, and how it all adds up."""
        yield f"{self.source.entry.name} (version {self.source.constitution.version}) by {self.labeller}"
        for principle in self.source.principles:
            own = self.of(principle)
            yield (
                f"{principle.id}: {_passed(own)}" if own else f"{principle.id}: no examples, so nothing is known of it"
            )
            for one in own:
                yield f"  {one.result:<12}{_p(one):<46}{one.case.comparison.prompt.excerpt}"
        parts = ", ".join(f"{count} {result}" for result, count in self.account().items())
        yield f"{len(self.tried)} examples: {parts or 'none'}; {self.asked} questions asked, {self.saved} from the ledger"


def _figures(name: str, tried: Sequence[Tried]) -> dict[str, Figure]:
    measured = [one for one in tried if one.p is not None]
    passes = sum(one.result == "passed" for one in measured)
    p = cluster_mean([one.p or 0.0 for one in measured], [one.case.comparison.prompt.id for one in measured])
    return {f"{name}.passed": wilson(passes, len(measured)), f"{name}.p": p}


def _passed(tried: Sequence[Tried]) -> str:
    measured = [one for one in tried if one.p is not None]
    passes = sum(one.result == "passed" for one in measured)
    rest = f"; {len(tried) - len(measured)} not measured" if len(measured) < len(tried) else ""
    if not measured:
        return f"not measured on any of {len(tried)}"
    mean = sum(one.p for one in measured if one.p is not None) / len(measured)
    return f"{passes} of {len(measured)} passed, mean p {mean:.2f}{rest}"


def _p(one: Tried) -> str:
    if one.p is None:
        return one.reason or ""
    first, second = one.by_order
    return f"p {one.p:.2f}  (shown first {first:.2f}, second {second:.2f})"


async def try_constitution(
    name: str, judge: str, settings: Sequence[str] = (), *, folder: Path | None = None, watcher: Watcher | None = None
) -> Trial:
    """Put every example of a constitution to a judge under its own principle alone. Raises UserError for what is not
    there; asks nothing where there are no examples."""
    catalogue = Catalogue(folder or Path())
    source = read_source(name, catalogue, where="constitution test")
    judges = judges_for(name, judge, settings, catalogue, watcher)
    try:
        labels = judges.under(name)
        tried = await try_cases(labels, list(cases_of(source)))
    finally:
        await judges.close()
    return Trial(source, labels.judges[0].labeller, tuple(tried), judges.asked, judges.saved)


def judges_for(name: str, judge: str, settings: Sequence[str], catalogue: Catalogue, watcher: Watcher | None) -> Judges:
    """A judge made ready for the examples of a constitution, by a recipe of their own."""
    data = {
        "labels": {"source": "judges", "options": {"judges": [judge]}},
        "constitution": name,
        "pairs": name,  # its examples are the pairs
    }
    pipeline, entry = recipe_of("constitution test", data, settings)
    return open_judges(
        pipeline, entry, catalogue, catalogue.folder / pipeline.ledger, settings=settings, watcher=watcher
    )


def cases_of(source: Source) -> Iterator[Case]:
    """Every example that has two different replies."""
    for principle in source.principles:
        for example in principle.examples:
            if example.better != example.worse:
                yield Case(principle, example, comparison_of(example))


def comparison_of(example: Example) -> Comparison:
    """An example as a comparison, the better reply first."""
    prompt = Prompt(messages=(Message(role="user", content=example.prompt),))
    said = (Message(role="assistant", content=text) for text in (example.better, example.worse))
    return Comparison(prompt=prompt, responses=tuple(Response(prompt_id=prompt.id, messages=(m,)) for m in said))


async def try_cases(labels: JudgeLabels, cases: Sequence[Case]) -> list[Tried]:
    """Every case by the first judge, under the case's principle, in both orders."""
    (judge, *_) = labels.judges

    async def batches() -> AsyncIterator[list[Case]]:
        for start in range(0, len(cases), BATCH):
            yield list(cases[start : start + BATCH])

    async def work(batch: list[Case]) -> list[Tried]:
        return await gather_all(_try(labels, judge, case) for case in batch)

    found: list[Tried] = []
    async for tried in labels.context.gateway.in_order([judge.model] if judge.model else [], batches(), work):
        found += tried
    return found


async def _try(labels: JudgeLabels, judge: Judge, case: Case) -> Tried:
    orders = (case.comparison.responses, tuple(reversed(case.comparison.responses)))
    judgements = await gather_all(labels.judge(judge, case.comparison, case.principle, order) for order in orders)
    first, second = (_opinion([judgement], case) for judgement in judgements)
    opinion = labeller_opinion(judgements, case.better, case.worse)
    if not isinstance(opinion, float):
        return Tried(case, opinion[0], None, (first, second), opinion[1])
    results: dict[float, Result] = {1.0: "passed", 0.0: "wrong", 0.5: "tie"}
    return Tried(case, results[leaning(opinion)], opinion, (first, second))


def _opinion(judgements: Sequence[Judgement], case: Case) -> float | None:
    said = labeller_opinion(judgements, case.better, case.worse)
    return said if isinstance(said, float) else None
