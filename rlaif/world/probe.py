"""What a judge makes of a principle, found by asking: pairs that differ in one thing, in both orders.

A small judge can misread a wording, and be sure of it; only its verdicts on pairs whose difference is known can tell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from rlaif.world.chat import Core, Kind, Manner, Question, ask, english, reply
from rlaif.world.oracle import FAMILIES, prefers
from rlaif.world.principles import every, grammar

PAIRS = 6  # probe pairs per family
SURE = 0.8  # of the probes one way, from which a reading counts

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


async def readings(ask_judge: Callable[[Sequence[tuple[Probe, bool]]], Awaitable[Sequence[float]]]) -> list[Reading]:
    """Every family's reading of one principle; ``ask_judge`` gives P(the first shown) for (probe, "more" shown first)."""
    asked = [(probe, first) for probe in probes() for first in (True, False)]
    verdicts = dict(zip(asked, await ask_judge(asked), strict=True))
    found = []
    for family in FAMILIES:
        both = [(verdicts[p, True], 1 - verdicts[p, False]) for p in probes() if p.family == family]
        found.append(
            Reading(
                family,
                sum(a + b for a, b in both) / (2 * len(both)),
                sum((a > 0.5) != (b > 0.5) for a, b in both) / len(both),
            )
        )
    return found


@functools.cache
def vocabulary() -> frozenset[str]:
    """Every word of the world's prompts, replies and principles."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, str):
            texts = every(value) if "(" in value and "|" in value and len(value) < 120 else (value,)
            for text in texts:
                found.update(words(text))
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
    strong = sorted((r for r in found if max(r.more, 1 - r.more) >= SURE), key=lambda r: -abs(r.more - 0.5))
    if strong:
        said = "; ".join(f"{MEANINGS[r.family][r.more < 0.5]} ({max(r.more, 1 - r.more):.2f})" for r in strong[:3])
        lines.append(f"{name}: read as preferring the reply that {said}.")
    else:
        lines.append(
            f'{name}: the practice judge makes nothing of "{text}": no probe moves it. Put it in plainer words, or use a '
            "real judge (judges/compare-local.yaml)."
        )
    torn = [r for r in strong or found if r.disagree > 0.25]
    if torn:
        lines.append(
            f"{name}: its two orders disagree on {', '.join(r.family for r in torn)}: do not rely on it there."
        )
    return lines
