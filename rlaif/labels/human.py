"""People's labels from a file: pairs with labels, or answers to exported tasks, joined by comparison."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError, DataError
from rlaif.labels import LabelContext
from rlaif.ondisk import Lists
from rlaif.pairs import is_answer, read_pair, read_votes
from rlaif.records import NO_LABEL, Comparison, Judgement, digest
from rlaif.rows import need_source, read_rows, source_hash

UNNAMED = "human:unnamed-"


def is_unnamed(labeller: str) -> bool:
    """Whether this is a vote that a file gives without saying whose: two such votes may be one person's."""
    return labeller.startswith(UNNAMED)


class HumanLabels:
    class Options(BaseOptions):
        file: str | tuple[str, ...] | None = None  # one file or several; None: the pipeline's own pairs file

    def __init__(self, options: Options, context: LabelContext) -> None:
        named = options.file or context.pairs
        if named is None:
            raise ConfigError(f"{context.where}: labels: set labels.options.file, the file with people's answers.")
        self.sources = (named,) if isinstance(named, str) else named
        self.own = not options.file  # the comparisons were read from the same rows
        self.split, self.limit = context.split, context.limit
        if not self.own:
            for source in self.sources:
                need_source(source, context.where.at("labels", "options", "file"))
        self.hashes = [source_hash(source) for source in self.sources]
        self.inputs = dict(zip(self.sources, self.hashes, strict=True))
        self._votes: Lists | None = None

    def signature(self) -> Any:
        limit = self.limit if self.own else None
        return {"source": "human", "files": self.hashes, "split": self.split, "limit": limit}

    def per_comparison(self) -> int | None:
        return None

    def check(self, comparisons: Iterable[Comparison]) -> None:
        """Raises DataError where the rows are not labels of these comparisons."""
        shown = (
            (comparison.id, [_words(response.text) for response in comparison.responses]) for comparison in comparisons
        )
        self._votes = self._read(None if self.own else Lists(shown))

    def _read(self, run: Lists | None) -> Lists:
        """All rows, for a comparison is answered in any order of them; checked against those of the run, if given."""
        found: Counter[str] = Counter()
        votes = Lists(self._rows(run, found))
        if not found["labels"]:
            wrong = "no row carries a label (label, human_labels, p, or chosen and rejected)"
            wrong = "no row is of a comparison of this run" if found["not of the run"] else wrong
            raise DataError(f"{', '.join(self.sources)}: {wrong}.")
        return votes

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        if self._votes is None:  # what is gone on with was checked when it was begun
            self._votes = self._read(None)
        async for comparisons in batches:
            votes = self._votes.of([comparison.id for comparison in comparisons])
            yield [
                judgement for comparison in comparisons for judgement in _judgements(comparison, votes[comparison.id])
            ]

    def _rows(
        self, run: Lists | None, found: Counter[str]
    ) -> Iterator[tuple[str, tuple[str | None, str, float | None, str | None]]]:
        """By comparison: labeller, the response p speaks of, p, order shown. Counts what was found."""
        rows = itertools.chain.from_iterable(read_rows(source, self.split) for source in self.sources)
        for where, row in itertools.islice(rows, self.limit if self.own else None):
            if is_answer(row):
                key, first, votes = str(row["comparison_id"]), "", read_votes(where, row)
            else:
                pair = read_pair(where, row)
                if isinstance(pair.comparison, str):
                    continue  # counted where the pairs were read
                key, first, votes = pair.comparison.id, pair.first, pair.votes
            if run is not None and not self._is_of(run, where, row, key):
                found["not of the run"] += 1
                continue
            for vote in votes:
                found["labels"] += vote.p is not None
                yield key, (vote.labeller, first, vote.p, vote.order)

    def _is_of(self, run: Lists, where: str, row: Mapping[str, Any], key: str) -> bool:
        """Whether a row is of a comparison of the run; if not, only a run of the first rows may pass over it."""
        replies = next(iter(run.of([key])[key]), None)
        if replies is None:
            if self.limit is not None:
                return False
            what = f"comparison_id {row['comparison_id']!r}" if is_answer(row) else "its pair"
            raise DataError(
                f"{where}: {what} is not a comparison of this run. Name the run that the tasks were exported from, or "
                "leave the row out."
            )
        for name, said in zip(("reply_a", "reply_b"), replies, strict=False):
            if isinstance(row.get(name), str) and _words(row[name]) != said:
                raise DataError(
                    f"{where}: {name} is not what the run's comparison {key} shows there: a label of another text. Put "
                    "back the text that was exported, or leave the column out."
                )
        return True


def _words(text: str) -> str:
    """What two texts share that differ at most in white space, which spreadsheets change."""
    return digest(text.split())


def _judgements(comparison: Comparison, votes: list[Any]) -> list[Judgement]:
    """One for each vote. Unnamed annotators are numbered by their place among the comparison's votes."""
    judgements = []
    for number, (labeller, first, p, order) in enumerate(votes, 1):
        a, b = (response.id for response in comparison.responses)
        if (first or a) != a:
            a, b = b, a
        judgements.append(
            Judgement(
                comparison_id=comparison.id,
                labeller=labeller or f"{UNNAMED}{number}",
                shown=None if order is None else (a, b) if order == "ab" else (b, a),
                outcome=NO_LABEL if p is None else "ranked",
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
