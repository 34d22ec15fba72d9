"""Label sources: comparisons to judgements. People and judges give the same records; nothing after asks which.

A source is a class with an ``Options`` model, built with (options, context). Name it here or write
``package.module:Class`` in a pipeline's ``labels.source``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rlaif.catalogue import Catalogue
from rlaif.component import Place, construct, load, parse_options, users_code
from rlaif.models.gateway import Gateway
from rlaif.records import Comparison, Judgement

SOURCES = {
    "judges": "rlaif.labels.judges:JudgeLabels",
    "human": "rlaif.labels.human:HumanLabels",
    "blend": "rlaif.labels.mixed:Blend",
    "noisy": "rlaif.labels.mixed:Noisy",
    "recorded": "rlaif.recorded.labels:RecordedLabels",
}


@dataclass(frozen=True)
class LabelContext:
    """What a pipeline offers a label source."""

    where: Place  # of the recipe
    catalogue: Catalogue
    gateway: Gateway
    models: Mapping[str, Any]  # by role, opened
    constitution: str | None
    pairs: str | None  # the pipeline's file of comparisons
    split: str
    limit: int | None  # of the rows that the comparisons come from
    secret: bytes
    seed: int
    size: int = 2  # responses of a comparison, at most
    notice: Callable[[str], None] = lambda line: None  # what a person should read while the labels are made
    within: tuple[str, ...] = ()  # classes of the sources that this one is a part of, from outside


class LabelSource(Protocol):
    """What the road needs of a label source.

    One that reads files of its own may keep ``inputs``, the hash of each by its name, for the manifest.
    One whose judgements take several requests each, or none, may say by ``requests_per_comparison()`` how many there are
    at most for each comparison: progress counts requests.
    One may have ``caveats``: sentences that must be read wherever its labels are looked at.
    One may have ``check(comparisons)`` too: called before the labels of another source or file are replaced, to
    refuse with a DataError what is not fit for these comparisons.
    """

    def signature(self) -> Any:
        """JSON-able: everything the labels depend on besides the comparisons."""

    def per_comparison(self) -> int | None:
        """How many judgements each comparison gets, where that is fixed."""

    def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]: ...


def open_source(name: str, options: Mapping[str, Any], context: LabelContext, where: Place) -> LabelSource:
    """The label source of this name or ``package.module:Class``, by the options that stand at ``where``. Raises ConfigError."""
    kind = load(name, SOURCES, "label source", where.at("source"))
    opened: LabelSource = construct(
        kind, "(options, context)", parse_options(kind, options, where.at("options")), context
    )
    return opened


def requests_per_comparison(source: LabelSource) -> int:
    """Requests for each comparison, at most, where that is fixed and there are any; else 1."""
    asked = getattr(source, "requests_per_comparison", source.per_comparison)() or source.per_comparison()
    return int(asked or 1)


def caveats(source: LabelSource | None) -> tuple[str, ...]:
    """What must be said wherever the source's labels are looked at."""
    return tuple(getattr(source, "caveats", ()))


async def labelled(source: LabelSource, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
    """``source.label(batches)``; what a user's own source raises becomes one line."""
    with users_code(source, "labelling comparisons"):
        async for judgements in source.label(batches):
            yield judgements
