"""A judge that a table or a function speaks for: baselines, tests, documentation, verdicts recorded elsewhere.

``function`` is called with a Showing and returns the probability that the first shown response is better, or None for
no opinion. ``table`` is a file of labelled pairs in any form ``rlaif label`` reads; a comparison is looked up in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import model_validator

from rlaif.component import Options as BaseOptions
from rlaif.component import code_hash, load, users_code
from rlaif.judging import Ask, ProtocolContext, Showing, Verdict
from rlaif.pairs import read_pairs
from rlaif.records import uniform
from rlaif.rows import need_source, source_hash

FUNCTIONS = {
    "first": "rlaif.judging.scripted:first",
    "longest": "rlaif.judging.scripted:longest",
    "random": "rlaif.judging.scripted:random",
}


class Scripted:
    class Options(BaseOptions):
        function: str | None = None
        table: str | None = None

        @model_validator(mode="after")
        def _one(self) -> Scripted.Options:
            if (self.function is None) == (self.table is None):
                raise ValueError("set exactly one of function and table")
            return self

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        if options.function:
            self._opinion: Callable[[Showing], Any] = load(options.function, FUNCTIONS, "function", context.where)
            self.source = code_hash(self._opinion)  # part of the label stage's signature
        else:
            assert options.table
            need_source(options.table, f"{context.where}: options.table")
            self.source = source_hash(options.table)
            self.inputs = {options.table: self.source}
            self._opinion = _table(options.table)

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        with users_code(self._opinion, f"judging replies to {showing.prompt.excerpt}"):
            p = self._opinion(showing)
            if p is None:
                return Verdict(reason="no opinion on this comparison")
            return Verdict(p=(float(p), 1.0 - float(p)), probabilistic=p not in (0, 0.5, 1))


def first(showing: Showing) -> float:
    """Always the response shown first: a position bias of 1, which averaging both orders cancels."""
    return 1.0


def longest(showing: Showing) -> float:
    """The longer response in characters; equal lengths tie."""
    a, b = (len(response.text) for response in showing.responses)
    return 0.5 if a == b else float(a > b)


def random(showing: Showing) -> float:
    """One of the two by a draw keyed by the pair, the same in both orders."""
    ids = sorted(response.id for response in showing.responses)
    winner = ids[0] if uniform("random judge", ids) < 0.5 else ids[1]
    return float(showing.responses[0].id == winner)


def _table(source: str) -> Callable[[Showing], float | None]:
    opinions: dict[tuple[str, str], list[float]] = {}
    for pair in read_pairs(source):
        if isinstance(pair.comparison, str):
            continue
        # the votes speak of the row's first response, which the comparison may hold second
        a, b = (r.text for r in sorted(pair.comparison.responses, key=lambda r: r.id != pair.first))
        for vote in pair.votes:
            if vote.p is not None:
                key = pair.comparison.prompt.id
                opinions.setdefault((f"{key}\n{a}", b), []).append(vote.p)
                opinions.setdefault((f"{key}\n{b}", a), []).append(1.0 - vote.p)

    def opinion(showing: Showing) -> float | None:
        a, b = (response.text for response in showing.responses)
        votes = opinions.get((f"{showing.prompt.id}\n{a}", b))
        return sum(votes) / len(votes) if votes else None

    return opinion
