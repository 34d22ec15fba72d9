"""Labels made of other sources' labels: a blend of several, and one with labels turned round at a known rate.

    labels:
      source: blend
      options:
        parts:
          - {source: human, share: 0.25}
          - {source: judges, options: {judges: [compare-local]}, share: 0.75}

    labels: {source: noisy, options: {of: {source: judges, options: {judges: [compare-local]}}, rate: 0.25}}

Every draw is keyed by prompt or comparison, and by how many of its kind a source lies in, so that a label depends on nothing else in the
run, and of two such sources one in the other each draws for itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from rlaif.component import Options as BaseOptions
from rlaif.component import code_hash
from rlaif.labels import LabelContext, LabelSource, caveats, labelled, open_source, requests_per_comparison
from rlaif.records import Comparison, Judgement, Preference, uniform


class Part(BaseOptions):
    """A label source within another."""

    source: str
    options: dict[str, Any] = Field(default_factory=dict)


class Weighted(Part):
    share: float = Field(gt=0)  # of the comparisons, in proportion to the other parts'


class _Mixed:
    """What a source made of others tells of them."""

    parts: Sequence[LabelSource]

    def __init__(self, parts: Iterable[tuple[Part, tuple[str | int, ...]]], context: LabelContext) -> None:
        self.seed = context.seed
        kind = type(self).__name__
        self.drawn_by = (context.seed, *(["within"] * context.within.count(kind)))
        inner = replace(context, within=(*context.within, kind))
        self.parts = [
            open_source(part.source, part.options, inner, context.where.at("labels", "options", *key))
            for part, key in parts
        ]

    def _signature(self) -> list[Any]:
        return [[part.signature(), code_hash(part)] for part in self.parts]

    @property
    def inputs(self) -> Mapping[str, str]:
        return {name: sha for part in self.parts for name, sha in getattr(part, "inputs", {}).items()}

    @property
    def caveats(self) -> list[str]:
        return list(dict.fromkeys(line for part in self.parts for line in caveats(part)))

    def check(self, comparisons: Iterable[Comparison]) -> None:
        """Raises DataError where a part's labels are not of these comparisons."""
        checks = [part.check for part in self.parts if hasattr(part, "check")]
        for check, own in zip(checks, itertools.tee(comparisons, len(checks)), strict=True):
            check(own)


class Blend(_Mixed):
    """Each comparison is labelled by one of several sources: all of a prompt's by the same, or each by a draw of its own.

    The same draw decides for every blend of a seed: with larger shares of one source, the comparisons that it had with smaller
    ones stay its own, where the parts are named in the same order.
    """

    class Options(BaseOptions):
        parts: tuple[Weighted, ...] = Field(min_length=2)
        by: Literal["prompt", "comparison"] = "prompt"

    def __init__(self, options: Options, context: LabelContext) -> None:
        super().__init__(((part, ("parts", n)) for n, part in enumerate(options.parts)), context)
        whole = sum(part.share for part in options.parts)
        self.ends = [end / whole for end in itertools.accumulate(part.share for part in options.parts)]
        self.options = options

    def signature(self) -> Any:
        shares = [part.share for part in self.options.parts]
        return {
            "source": "blend",
            "parts": self._signature(),
            "shares": shares,
            "by": self.options.by,
            "seed": self.seed,
        }

    def per_comparison(self) -> int | None:
        counts = {part.per_comparison() for part in self.parts}
        return counts.pop() if len(counts) == 1 else None

    def requests_per_comparison(self) -> int:
        return max(map(requests_per_comparison, self.parts))

    @property
    def names(self) -> list[str]:
        """Of each part its source, numbered where several have the same."""
        sources = [part.source for part in self.options.parts]
        return [
            source if sources.count(source) == 1 else f"{source} {sources[:n].count(source) + 1}"
            for n, source in enumerate(sources)
        ]

    def part_of(self, prompt_id: str, comparison_id: str) -> int:
        """Which of the parts labels a comparison."""
        item = prompt_id if self.options.by == "prompt" else comparison_id
        draw = uniform("blend", *self.drawn_by, item)
        return next(n for n, end in enumerate(self.ends) if draw < end or n == len(self.ends) - 1)

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        dealt = _Dealt(batches, len(self.parts), self.part_of)
        streams = [labelled(part, dealt.to(n)) for n, part in enumerate(self.parts)]
        async for batch in dealt.whole():
            found = [judgement for stream in streams for judgement in await anext(stream)]
            place = {comparison.id: n for n, comparison in enumerate(batch)}
            yield sorted(found, key=lambda judgement: place[judgement.comparison_id])


class _Dealt:
    """Batches dealt to several readers, each of which may be ahead of the others: what they have not taken yet is kept."""

    def __init__(
        self, batches: AsyncIterator[list[Comparison]], readers: int, reader_of: Callable[[str, str], int]
    ) -> None:
        self._batches, self._reader_of = aiter(batches), reader_of
        self._kept: list[deque[list[Comparison]]] = [deque() for _ in range(readers + 1)]
        self._ended = False
        self._dealing = asyncio.Lock()

    def whole(self) -> AsyncIterator[list[Comparison]]:
        return self.to(len(self._kept) - 1)

    async def to(self, reader: int) -> AsyncIterator[list[Comparison]]:
        kept = self._kept[reader]
        while True:
            async with self._dealing:
                if not kept and not self._ended:
                    await self._deal()
            if not kept:
                return
            yield kept.popleft()

    async def _deal(self) -> None:
        batch = await anext(self._batches, None)
        if batch is None:
            self._ended = True
            return
        *parts, whole = self._kept
        whole.append(batch)
        for n, part in enumerate(parts):
            part.append(
                [comparison for comparison in batch if self._reader_of(comparison.prompt.id, comparison.id) == n]
            )


class Noisy(_Mixed):
    """A source's labels, each turned round with probability ``rate``: all that is said of a comparison, or nothing of it, whoever
    says it. Ties stay, and so does how sure a label is."""

    class Options(BaseOptions):
        of: Part
        rate: float = Field(ge=0, le=0.5)

    def __init__(self, options: Options, context: LabelContext) -> None:
        super().__init__([(options.of, ("of",))], context)
        self.options = options
        (self.part,) = self.parts

    def signature(self) -> Any:
        return {"source": "noisy", "of": self._signature(), "rate": self.options.rate, "seed": self.seed}

    @property
    def caveats(self) -> list[str]:
        return [*super().caveats, f"Labels were turned round at random, {self.options.rate:.0%} of them."]

    def per_comparison(self) -> int | None:
        return self.part.per_comparison()

    def requests_per_comparison(self) -> int:
        return requests_per_comparison(self.part)

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        async for judgements in labelled(self.part, batches):
            first: dict[str, str] = {}  # who labels a comparison, of several the first: one draw for all they say of it
            for judgement in judgements:
                first.setdefault(judgement.comparison_id, judgement.labeller)
            turned = {
                name for name, who in first.items() if uniform("noise", *self.drawn_by, who, name) < self.options.rate
            }
            yield [self._turned(each) if each.comparison_id in turned else each for each in judgements]

    def _turned(self, judgement: Judgement) -> Judgement:
        if len(judgement.ranking) < 2:
            return judgement
        return judgement.model_copy(update={"ranking": judgement.ranking[::-1], "scores": ()})


def source_of(labels: LabelSource | None) -> Callable[[Preference], str] | None:
    """Which part of a blend labelled a preference; None of labels that are no blend."""
    if isinstance(labels, Noisy):
        return source_of(labels.part)
    if not isinstance(labels, Blend):
        return None
    names = labels.names
    return lambda row: names[labels.part_of(row.prompt_id, row.comparison_id)]
