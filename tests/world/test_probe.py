"""What a person is told of how a judge reads their principle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rlaif.world.oracle import FAMILIES, attributes, prefers
from rlaif.world.probe import (
    MEANINGS,
    PAIRS,
    Probe,
    Reading,
    Shown,
    concerns,
    probes,
    profiles,
    readings,
    unknown_words,
    verdict_lines,
)


def test_every_probe_differs_in_its_family_as_the_oracle_sees_it() -> None:
    assert len(probes()) == PAIRS * len(FAMILIES)
    for probe in probes():
        one, two = (attributes(probe.question, text) for text in (probe.more, probe.less))
        assert prefers(probe.family, 1, probe.question, one, two) == 1.0


def read_by(judge: object, text: str = "x") -> list[Reading]:
    async def ask(asked: Sequence[tuple[Probe, bool]]) -> list[float]:
        return [judge(*((p.more, p.less) if first else (p.less, p.more))) for p, first in asked]  # type: ignore[operator]

    return asyncio.run(readings(ask))


def by_family(found: list[Reading]) -> dict[str, Reading]:
    return {reading.family: reading for reading in found}


def test_a_judge_that_likes_short_replies_is_read_as_that() -> None:
    found = by_family(read_by(lambda one, two: float(len(one) < len(two))))
    assert (found["short"].more, found["short"].disagree) == (1.0, 0.0)
    assert found["warns"].more == 0.0  # a warning is longer


def test_a_judge_of_position_alone_moves_nothing_and_its_orders_disagree() -> None:
    for reading in read_by(lambda one, two: 1.0):
        assert (reading.more, reading.disagree) == (0.5, 1.0)


def reading_of(family: str, sign: int, **more: float) -> list[Reading]:
    """Readings of one who reads a direction perfectly, but for what ``more`` says."""
    return [Reading(f, more.get(f, p), 0.0) for f, p in zip(FAMILIES, profiles()[family, sign], strict=True)]


def nothing(**more: float) -> list[Reading]:
    return [Reading(family, more.get(family, 0.5), 0.0) for family in FAMILIES]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_who_reads_a_direction_perfectly_is_said_to_read_it_and_nothing_else(family: str, sign: int) -> None:
    (line,) = verdict_lines("p", "Prefer the reply.", reading_of(family, sign))
    assert line == f"p: read as preferring the reply that {MEANINGS[family][sign < 0]} (p 1.00)."


def test_what_goes_beyond_the_best_match_is_named() -> None:
    first, second = verdict_lines("p", "Prefer the reply.", reading_of("warns", 1, polite=0.98))
    assert "adds a warning (p 1.00)" in first
    assert second == "p: and, beyond that, the reply that is more polite (p 0.98)."


def test_what_is_said_of_an_unsure_an_inverted_and_an_empty_reading() -> None:
    assert verdict_lines("p", "Avoid rude replies.", nothing(polite=0.03)) == [
        "p: read as preferring the reply that is ruder (p 0.97)."
    ]
    (line,) = verdict_lines("p", "Be polite.", nothing(polite=0.7))
    assert "makes nothing of" in line
    assert "compare-local" in line
    assert "orders" not in line


def test_unknown_words_are_named_and_disagreeing_orders_are_warned_of() -> None:
    assert unknown_words("Prefer the laconic reply, and answered politely.") == ["laconic"]
    assert unknown_words("nn oa pl") == ["nn", "oa", "pl"]  # blanks of the grammar are no words
    torn = [Reading(r.family, r.more, 0.5 if r.family == "short" else 0.0) for r in reading_of("short", 1)]
    first, _, last = verdict_lines("p", "Prefer the laconic reply.", torn)
    assert first == "p: the practice judge has never read 'laconic'."
    assert last == "p: its two orders disagree there on 50% of the probes."
    (line,) = verdict_lines("p", "Prefer the reply.", [Reading(f, 0.5, 1.0) for f in FAMILIES])
    assert "Its two orders disagree on 100% of the probes." in line


def test_what_cannot_be_read_and_what_was_never_read_is_said_of_the_whole_constitution() -> None:
    lost, found = [Reading(f, 0.5, 0.0) for f in FAMILIES], reading_of("short", 1)
    named = [
        ("a", "Be brief.", lost),
        ("b", "Prefer the laconic reply.", found),
        ("c", "Prefer the shorter reply.", found),
    ]
    first, second = concerns(named)
    assert first.startswith("Careful: the practice judge makes nothing of 1 of 3 principles (a)")
    assert second.startswith("Careful: 1 of 3 principles have words that the practice judge has never read (b)")
    assert concerns(named[2:]) == []


def test_probes_that_cannot_be_read_count_nowhere_and_are_said() -> None:
    async def ask(asked: Sequence[Shown]) -> list[float | None]:
        return [None if i < 4 else float(more_first) for i, (_, more_first) in enumerate(asked)]

    found = by_family(asyncio.run(readings(ask)))
    assert (found["harmless"].unread, found["harmless"].more) == (2, 1.0)
    nothing_read = [Reading(f, 0.5, 0.0, unread=PAIRS) for f in FAMILIES]
    assert verdict_lines("p", "Prefer the reply.", nothing_read) == [
        "p: not one of 72 probes could be read: this model says neither 1 nor 2."
    ]
    assert "2 of 72 probes could not be read" in verdict_lines("p", "Prefer the reply.", list(found.values()))[0]
