"""What a person is told of how a judge reads their principle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rlaif.world.oracle import FAMILIES, attributes, prefers
from rlaif.world.probe import PAIRS, Probe, Reading, probes, readings, unknown_words, verdict_lines


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


def nothing(**more: float) -> list[Reading]:
    return [Reading(family, more.get(family, 0.5), 0.0) for family in FAMILIES]


def test_what_is_said_of_a_clear_an_inverted_and_an_empty_reading() -> None:
    assert verdict_lines("p", "Be polite.", nothing(polite=0.97)) == [
        "p: read as preferring the reply that is more polite (0.97)."
    ]
    assert verdict_lines("p", "Avoid rude replies.", nothing(polite=0.03)) == [
        "p: read as preferring the reply that is ruder (0.97)."
    ]
    (line,) = verdict_lines("p", "Be polite.", nothing())
    assert "makes nothing of" in line
    assert "compare-local" in line


def test_unknown_words_are_named_and_disagreeing_orders_are_warned_of() -> None:
    assert unknown_words("Prefer the laconic reply, and answered politely.") == ["laconic"]
    torn = [Reading(f, 0.9 if f == "short" else 0.5, 0.5 if f == "short" else 0.0) for f in FAMILIES]
    first, _, last = verdict_lines("p", "Prefer the laconic reply.", torn)
    assert first == "p: the practice judge has never read 'laconic'."
    assert last == "p: its two orders disagree on short: do not rely on it there."
