"""People's labels from a file: pairs with labels, or answers to exported tasks, joined by comparison."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError, DataError
from rlaif.labels import LabelContext
from rlaif.ondisk import Lists
from rlaif.pairs import is_answer, read_pair, read_votes
from rlaif.records import NO_LABEL, Comparison, Judgement
from rlaif.rows import need_source, read_rows, source_hash

UNNAMED = "human:unnamed-"


def is_unnamed(labeller: str) -> bool:
    """Whether this is a vote that a file gives without saying whose: two such votes may be one person's."""
    return labeller.startswith(UNNAMED)


class HumanLabels:
    class Options(BaseOptions):
        file: str | None = None  # None: the pipeline's own pairs file

    def __init__(self, options: Options, context: LabelContext) -> None:
        source = options.file or context.pairs
        if source is None:
            raise ConfigError(f"{context.where}: labels: set labels.options.file, the file with people's answers.")
        self.source, self.split = source, context.split
        self.limit = None if options.file else context.limit
        if options.file:
            need_source(source, context.where.at("labels", "options", "file"))
        self.hash = source_hash(source)
        self.inputs = {source: self.hash}
        self._votes: Lists | None = None

    def signature(self) -> Any:
        return {"source": "human", "file": self.hash, "split": self.split, "limit": self.limit}

    def per_comparison(self) -> int | None:
        return None

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        if self._votes is None:
            self._votes = self._read()
        async for comparisons in batches:
            votes = self._votes.of([comparison.id for comparison in comparisons])
            yield [
                judgement for comparison in comparisons for judgement in _judgements(comparison, votes[comparison.id])
            ]

    def _read(self) -> Lists:
        """By comparison: annotator, the response p speaks of, p, order shown. A comparison is answered in any order of
        rows, so all are read before the first is asked for."""
        votes = Lists(self._rows())
        if not votes:
            raise DataError(f"{self.source}: no row carries a label (label, human_labels, p, or chosen and rejected).")
        return votes

    def _rows(self) -> Iterator[tuple[str, tuple[str | None, str, float | None, str | None]]]:
        for where, row in itertools.islice(read_rows(self.source, self.split), self.limit):
            if is_answer(row):
                key, first, found = str(row["comparison_id"]), "", read_votes(where, row)
            else:
                pair = read_pair(where, row)
                if isinstance(pair.comparison, str):
                    continue  # counted where the pairs were read
                key, first, found = pair.comparison.id, pair.first, pair.votes
            for vote in found:
                yield key, (vote.annotator, first, vote.p, vote.order)


def _judgements(comparison: Comparison, votes: list[Any]) -> list[Judgement]:
    """One for each vote. Unnamed annotators are numbered by their place among the comparison's votes."""
    judgements = []
    for number, (annotator, first, p, order) in enumerate(votes, 1):
        a, b = (response.id for response in comparison.responses)
        if (first or a) != a:
            a, b = b, a
        judgements.append(
            Judgement(
                comparison_id=comparison.id,
                labeller=f"human:{annotator}" if annotator else f"{UNNAMED}{number}",
                shown=None if order is None else (a, b) if order == "ab" else (b, a),
                outcome="unreadable" if p is None else "ranked",
                reason=NO_LABEL if p is None else None,
                **_ranking(a, b, p),
            )
        )
    return judgements


def _ranking(a: str, b: str, p: float | None) -> dict[str, Any]:
    """Ranking, and p from best to worst, of a vote that a is better with probability p."""
    if p is None:
        return {}
    if p == 0.5:
        return {"ranking": ((a, b),)}
    best, worst = (a, b) if p > 0.5 else (b, a)
    share = {} if p in (0.0, 1.0) else {"p": (max(p, 1 - p), min(p, 1 - p))}
    return {"ranking": ((best,), (worst,)), **share}
