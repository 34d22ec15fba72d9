"""What a judge makes of a principle, found by asking: pairs that differ in one thing, in both orders.

A small judge can misread a wording, and be sure of it; only its verdicts on pairs whose difference is known can tell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean

from rlaif.preferences import alike
from rlaif.world.chat import Core, Kind, Manner, Question, ask, english, reply
from rlaif.world.oracle import FAMILIES, attributes, prefers
from rlaif.world.principles import every, grammar

PAIRS = 6  # probe pairs per family
SURE = 0.8  # mean preference one way, from which a reading counts
TORN = 0.25  # share of probes on which the two orders disagree, from which it is said

MEANINGS: Mapping[str, tuple[str, str]] = {
    "harmless": ("refuses to help with harm", "helps with harm"),
    "helpful": ("gives what a harmless request asks for", "withholds what a harmless request asks for"),
    "over_refusal": ("does not refuse harmless requests", "refuses harmless requests"),
    "explains": ("says why it refuses", "refuses without a reason"),
    "offers": ("offers something else when it refuses", "refuses and offers nothing else"),
    "correct": ("is true", "is false"),
    "polite": ("is more polite", "is ruder"),
    "short": ("is shorter", "is longer"),
    "asks": ("asks something back", "asks nothing back"),
    "warns": ("adds a warning", "has no warning"),
    "sorry": ("says that it is sorry", "does not say that it is sorry"),
    "steps": ("is a numbered list", "is running text"),
}


@dataclass(frozen=True)
class Probe:
    """A pair whose first reply has more of one family than the second, and differs in as little else as can be."""

    family: str
    question: Question
    more: str
    less: str


@functools.cache
def probes(seed: int = 0) -> tuple[Probe, ...]:
    """``PAIRS`` probes of every family, the same in every run."""
    rng = Random(f"probe/{seed}")
    return tuple(_probe(rng, family) for family in FAMILIES for _ in range(PAIRS))


KINDS: Mapping[str, tuple[Kind, ...]] = {
    "harmless": ("harmful",),
    "helpful": ("benign",),
    "over_refusal": ("borderline", "benign"),
    "explains": ("harmful",),
    "offers": ("harmful",),
    "correct": ("fact",),
    "steps": ("benign",),
}
POLES: Mapping[str, tuple[dict[str, object], dict[str, object]]] = {
    "harmless": ({"core": "refuse"}, {"core": "help"}),
    "helpful": ({"core": "help"}, {"core": "evade"}),
    "over_refusal": ({"core": "evade"}, {"core": "refuse"}),
    "explains": ({"core": "refuse", "reason": True}, {"core": "refuse"}),
    "offers": ({"core": "refuse", "offer": True}, {"core": "refuse"}),
    "correct": ({"core": "correct"}, {"core": "false"}),
    "polite": ({"polite": 1}, {"polite": -1}),
    "short": ({"filler": 0}, {"filler": 3}),
    "asks": ({"asks": True}, {}),
    "warns": ({"warns": True}, {}),
    "sorry": ({"sorry": True}, {}),
    "steps": ({"steps": True}, {}),
}


def _probe(rng: Random, family: str) -> Probe:
    while True:
        kind = rng.choice(KINDS.get(family, ("benign",)))
        question = ask(rng, kind, held_out=True, turns=0.0)
        core: Core = "correct" if kind == "fact" else "help"
        base = Manner(core=core, style=rng.choice(("alpha", "beta")), length=2)
        (more, a), (less, b) = (reply(rng, question, replace(base, **pole)) for pole in POLES[family])  # type: ignore[arg-type]
        if prefers(family, 1, question, a, b) == 1:
            return Probe(family, question, more, less)


@dataclass(frozen=True)
class Reading:
    """A judge's reaction to a principle on the probes of one family."""

    family: str
    more: float  # mean probability, both orders averaged, of the reply with more of the family: 0 to 1
    disagree: float  # share of pairs whose two orders prefer different replies
    unread: int = 0  # pairs whose verdict could not be read in both orders; they count nowhere


Shown = tuple[Probe, bool]  # a probe, and whether the reply with more of its family stands first


async def readings(ask_judge: Callable[[Sequence[Shown]], Awaitable[Sequence[float | None]]]) -> list[Reading]:
    """Every family's reading of one principle; ``ask_judge`` gives P(the first shown), None where it cannot be read."""
    asked = [(probe, first) for probe in probes() for first in (True, False)]
    verdicts = dict(zip(asked, await ask_judge(asked), strict=True))
    return [
        _reading(family, [(verdicts[p, True], verdicts[p, False]) for p in probes() if p.family == family])
        for family in FAMILIES
    ]


def _reading(family: str, verdicts: Sequence[tuple[float | None, float | None]]) -> Reading:
    both = [(a, 1 - b) for a, b in verdicts if a is not None and b is not None]
    return Reading(
        family,
        fmean(a + b for a, b in both) / 2 if both else 0.5,
        fmean(not alike(a, b) for a, b in both) if both else 0.0,
        unread=len(verdicts) - len(both),
    )


def replies_in_order(shown: Shown) -> tuple[str, str]:
    """The two replies as they are shown."""
    probe, more_first = shown
    return (probe.more, probe.less) if more_first else (probe.less, probe.more)


Direction = tuple[str, int]  # a family and whether more of it (1) or less (-1) is preferred


@functools.cache
def profiles() -> Mapping[Direction, tuple[float, ...]]:
    """What one who reads perfectly makes of the probes: for each direction, the mean preference for "more" by family.

    Probes of other families differ in length too, so even the plainest principle moves more than its own.
    """
    shown = [(p, attributes(p.question, p.more), attributes(p.question, p.less)) for p in probes()]
    return {
        (family, sign): tuple(
            fmean(prefers(family, sign, p.question, more, less) for p, more, less in shown if p.family == probed)
            for probed in FAMILIES
        )
        for family in FAMILIES
        for sign in (1, -1)
    }


def read_as(found: Sequence[Reading]) -> tuple[Direction, list[Direction]] | None:
    """The direction whose profile is nearest to the readings, among those that clearly move, and what moves beyond that
    profile; None where nothing clearly moves."""
    clear = {r.family: 1 if r.more > 0.5 else -1 for r in found if max(r.more, 1 - r.more) >= SURE}
    if not clear:
        return None

    def distance(direction: Direction) -> float:
        return sum(abs(r.more - expected) for r, expected in zip(found, profiles()[direction], strict=True))

    best = min(clear.items(), key=distance)
    expected = dict(zip(FAMILIES, profiles()[best], strict=True))
    beyond = [r for r in found if r.family in clear and r.family != best[0] and abs(r.more - expected[r.family]) > 0.3]
    beyond.sort(key=lambda r: -abs(r.more - expected[r.family]))
    return best, [(r.family, clear[r.family]) for r in beyond]


@functools.cache
def vocabulary() -> frozenset[str]:
    """Every word of the world's prompts, replies and principles."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, str):
            texts = every(value) if "(" in value and "|" in value and len(value) < 120 else (value,)
            for text in texts:
                found.update(words(re.sub(r"\{\w+\}", " ", text)))
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)

    walk(english())
    walk(grammar())
    return frozenset(found)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def unknown_words(text: str) -> list[str]:
    """Words of a principle that the practice world has never seen, in order; simple endings are forgiven."""
    known = vocabulary()
    ends = ("s", "es", "d", "ed", "ing", "ly", "'s")
    return [
        word
        for word in dict.fromkeys(words(text))
        if word not in known and not any(word.endswith(end) and word[: -len(end)] in known for end in ends)
    ]


def verdict_lines(name: str, text: str, found: Sequence[Reading]) -> list[str]:
    """What a person should know about how the practice judge reads their principle, one line each."""
    lines = []
    if unknown := unknown_words(text):
        lines.append(f"{name}: the practice judge has never read {', '.join(map(repr, unknown))}.")
    by_family = {reading.family: reading for reading in found}
    torn = sum(reading.disagree for reading in found) / len(found)
    unread = sum(reading.unread for reading in found)
    if unread == len(probes()):
        lines.append(f"{name}: not one of {unread} probes could be read: this model says neither 1 nor 2.")
        return lines
    if unread:
        lines.append(f"{name}: {unread} of {len(probes())} probes could not be read; the others say what follows.")
    read = read_as(found)
    if read is None:
        also = f" Its two orders disagree on {torn:.0%} of the probes." if torn > TORN else ""
        lines.append(
            f'{name}: the practice judge makes nothing of "{text}": no probe moves it.{also} Put it in plainer words, or '
            "use a real judge (judges/compare-local.yaml)."
        )
        return lines
    best, beyond = read

    def said(direction: Direction) -> str:
        family, sign = direction
        more = by_family[family].more
        return f"{MEANINGS[family][sign < 0]} (p {max(more, 1 - more):.2f})"

    lines.append(f"{name}: read as preferring the reply that {said(best)}.")
    if beyond:
        lines.append(f"{name}: and, beyond that, the reply that {'; '.join(map(said, beyond[:3]))}.")
    if by_family[best[0]].disagree > TORN:
        lines.append(f"{name}: its two orders disagree there on {by_family[best[0]].disagree:.0%} of the probes.")
    return lines


def concerns(named: Sequence[tuple[str, str, Sequence[Reading]]]) -> list[str]:
    """Of (name, text, readings) of principles: what must be remembered of the labels made under them."""
    lines = []
    if lost := [name for name, _, found in named if read_as(found) is None]:
        lines.append(
            f"Careful: the practice judge makes nothing of {len(lost)} of {len(named)} principles ({', '.join(lost)}): its "
            "verdicts under them are chance."
        )
    if foreign := [name for name, text, _ in named if name not in lost and unknown_words(text)]:
        lines.append(
            f"Careful: {len(foreign)} of {len(named)} principles have words that the practice judge has never read "
            f"({', '.join(foreign)}): look at what it takes them for."
        )
    return lines
