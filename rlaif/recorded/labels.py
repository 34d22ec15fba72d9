"""Recorded verdicts as a label source: what a judge once said of the pairs of a file stands in for asking it.

    pairs: items.jsonl
    labels: {source: recorded, options: {file: verdicts.jsonl, judge: gpt-4, method: pairwise}}

Both files are as `rlaif certify recorded` reads them (docs/certify.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError, DataError
from rlaif.labels import LabelContext
from rlaif.pairs import read_pair
from rlaif.recorded.readers import find_reader
from rlaif.recorded.replay import Choice, Reading, replay
from rlaif.records import NO_LABEL, Comparison, Judgement
from rlaif.rows import need_source, read_rows, source_hash


@dataclass(frozen=True)
class _Said:
    """What was recorded of a comparison. ``a``: the response that the item calls so."""

    a: str
    readings: tuple[Reading, ...]

    def called(self, a: str) -> tuple[Reading, ...]:
        """The readings where the other response is called a, if it is the other."""
        return self.readings if a == self.a else tuple(_turned(reading) for reading in self.readings)


def _turned(reading: Reading) -> Reading:
    order = None if reading.order is None else reading.order[::-1]
    sides: dict[Choice | None, Choice | None] = {"a": "b", "b": "a"}
    return replace(reading, order=order, choice=sides.get(reading.choice, reading.choice))


class RecordedLabels:
    class Options(BaseOptions):
        file: str  # of verdicts
        judge: str | None = None  # which one, where the file holds several
        method: str | None = None
        items: str | None = None  # what the verdicts are of; None: the recipe's own pairs
        reader: str | None = None  # reads raw replies anew; None: the recorded choice counts

    def __init__(self, options: Options, context: LabelContext) -> None:
        where = context.where
        items = options.items or context.pairs
        if items is None:
            raise ConfigError(
                f"{where}: labels: recorded verdicts are of pairs: set pairs to the file of items, or labels.options.items."
            )
        need_source(options.file, where.at("labels", "options", "file"))
        need_source(items, where.at("labels", "options", "items"))
        self.options, self.items, self.split, self.limit = options, items, context.split, context.limit
        self.inputs = {name: source_hash(name) for name in (options.file, items)}
        self.reader = find_reader(options.reader) if options.reader else None
        self._said: dict[str, _Said] | None = None
        self._labeller = ""

    def signature(self) -> Any:
        asked = self.options.model_dump(exclude={"file", "items"})
        return {"source": "recorded", "files": list(self.inputs.values()), "asked": asked}

    def per_comparison(self) -> int | None:
        return None

    def _read(self) -> dict[str, _Said]:
        options = self.options
        found = replay(self.items, options.file, judge=options.judge, method=options.method, reader=self.reader)
        self._labeller = f"judge:{' '.join((found.judge, found.method)).strip()} (recorded)"
        said: dict[str, _Said] = {}
        for where, row in read_rows(self.items, self.split):
            pair = read_pair(where, row)
            if isinstance(pair.comparison, str):
                continue  # counted where the pairs were read
            a = pair.first
            readings = tuple(found.readings.get(str(row["id"]), ()))
            before = said.get(pair.comparison.id)  # of a row with the same pair
            said[pair.comparison.id] = _Said(a, (*(before.called(a) if before else ()), *readings))
        if not any(each.readings for each in said.values()):
            raise DataError(
                f"{options.file}: no verdict of {self._labeller} is of a pair of {self.items} that can be judged."
            )
        return said

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        if self._said is None:
            self._said = self._read()
        async for comparisons in batches:
            yield [judgement for comparison in comparisons for judgement in self._judgements(comparison)]

    def _judgements(self, comparison: Comparison) -> Iterator[Judgement]:
        assert self._said is not None
        said = self._said.get(comparison.id)
        if said is None:
            return
        a, b = sorted((response.id for response in comparison.responses), key=lambda each: each != said.a)
        for reading in said.readings:
            order = None if reading.order is None or not reading.shown else (a, b) if reading.order == "ab" else (b, a)
            known = {"a": ((a,), (b,)), "b": ((b,), (a,)), "tie": ((a, b),)}.get(str(reading.choice))
            yield Judgement(
                comparison_id=comparison.id,
                labeller=self._labeller,
                shown=order,
                outcome="ranked" if known else "unreadable",
                ranking=known or (),
                reason=None if known else NO_LABEL,
            )
