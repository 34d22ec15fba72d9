"""Every meter on judges whose faults are planted, many times over: what its interval covers, how wide it is beside one that
knows the truth, how often it raises a false alarm, and how often it finds an effect.

    python -m tests.world.meters_study [SEEDS]

The judge is a simulated annotator of the practice world with one bias of known size, who slips in 5% of verdicts. Three
simulated people, wrong in 10% each, label the same pairs; the truth is what all of their values say.
"""

from __future__ import annotations

import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from rlaif.accounts import add_circles
from rlaif.recorded.meters import FEATURES, own_family, pull_of
from rlaif.recorded.replay import SIDES, Item, Reading, Replay
from rlaif.records import Comparison
from rlaif.statistics import Figure, Means, length_controlled, percent_agreement, wilson
from rlaif.world.annotators import VALUES, Annotators, manner_of, opinion
from rlaif.world.chat import Attributes, Manner, Question, ask, reply
from rlaif.world.lessons import draw_pair
from rlaif.world.oracle import attributes
from rlaif.world.showing import comparison_of

POOL, PAIRS = 1_600, 400  # pairs that differ in a feature: of all seeds, of one
SLIPS, PEOPLE, WRONG = 0.05, 3, 0.10
DIFFER: dict[str, Callable[[Attributes, Attributes], bool]] = {
    "position": lambda a, b: True,
    "length": lambda a, b: a.words != b.words,
    "lists": lambda a, b: a.steps != b.steps,
    "own_family": lambda a, b: a.style != b.style,
}


@dataclass(frozen=True)
class Known:
    """A pair with what is known of it."""

    comparison: Comparison
    question: Question
    replies: tuple[Attributes, Attributes]
    truth: float


@functools.cache
def pool(feature: str) -> list[Known]:
    rng = Random("meters")
    found: dict[str, Known] = {}
    while len(found) < POOL:
        pair = draw_pair(rng, held_out=False)
        a, b = (attributes(pair.question, text) for text in pair.texts)
        if DIFFER[feature](a, b):
            comparison = comparison_of(pair.question, pair.texts)
            found[comparison.id] = Known(comparison, pair.question, (a, b), opinion(VALUES, pair.question, a, b))
    return list(found.values())


def judged(feature: str, seed: int, truth: bool = False, **bias: float) -> Replay:
    """A judge with this bias on pairs of this seed, in both orders, with slips of their own; people's labels beside it, or
    the truth."""
    judge = Annotators.of(Annotators.Options(noise=SLIPS, **bias), seed)
    people = Annotators.of(Annotators.Options(noise=WRONG, people=PEOPLE), seed + 1_000_000)
    items, readings = [], {}
    for number, pair in enumerate(Random(f"meters/{seed}").choices(pool(feature), k=PAIRS)):
        a, b = pair.replies
        name = f"{pair.comparison.id}/{number}"
        votes = {str(who): people.verdict(who, name, pair.question, a, b) for who in range(PEOPLE)}
        items.append(
            Item(
                name,
                name,
                (a.words, b.words),
                SIDES[pair.truth] if truth else SIDES[np.sign(sum(votes.values()) - PEOPLE / 2) / 2 + 0.5],
                {} if truth else {who: SIDES[vote] for who, vote in votes.items()},
                (int(a.steps), int(b.steps)),
                (a.style, b.style),
            )
        )
        readings[name] = [
            Reading("ab", SIDES[judge.verdict(0, name, pair.question, a, b)]),
            Reading("ba", SIDES[1 - judge.verdict(1, name, pair.question, b, a)]),
        ]
    return Replay("simulated", "", items, readings, Counter(), ("alpha",))


@dataclass(frozen=True)
class Result:
    """Of many seeds: share of intervals that cover the planted value, mean width over the oracle's, share that leave 0 out."""

    covers: float
    width: float
    found: float

    def __str__(self) -> str:
        return f"covers {self.covers:6.1%}, width {self.width:5.2f} x, leaves out none {self.found:6.1%}"


def repeated(seeds: int, meter: Callable[[int, bool], Figure], planted: float, none: float = 0.0) -> Result:
    """``meter(seed, oracle)`` over seeds, against the planted value; ``none`` is the value of no effect."""
    own = [meter(seed, False) for seed in range(seeds)]
    oracle = [meter(seed, True) for seed in range(seeds)]
    return Result(
        float(np.mean([f.low <= planted <= f.high for f in own])),  # type: ignore[operator]
        float(np.mean([f.high - f.low for f in own]) / np.mean([f.high - f.low for f in oracle])),  # type: ignore[operator]
        float(np.mean([not f.low <= none <= f.high for f in own])),  # type: ignore[operator]
    )


def agreement(size: float) -> float:
    """How often both orders agree, of a judge that goes by position with probability ``size``, if it slips as ours do: on
    pairs with a better reply, and on those without, where only two ties agree."""
    first, second = 1 - SLIPS, SLIPS + (1 - 2 * SLIPS) * (1 - size)  # right, where the better stands first or second
    clear = first * second + (1 - first) * (1 - second)
    ties = [known.truth == 0.5 for known in pool("position")]
    return float(np.mean([(1 - size) ** 2 if tie else clear for tie in ties]))


def consistency(size: float) -> Callable[[int, bool], Figure]:
    """``swap_agreement``; who knows the planted value has an interval of as many pairs at it."""

    def meter(seed: int, oracle: bool) -> Figure:
        found = judged("position", seed, position=size)
        ab, ba = ([found.choices(item)[order] for item in found.items] for order in ("ab", "ba"))
        counted = percent_agreement(ab, ba, [item.prompt for item in found.items])
        return wilson(agreement(size) * counted.n, counted.n) if oracle else counted

    return meter


# --- circles ----------------------------------------------------------------------------------------------------------

TRIPLES = 400
MANNERS = (replace(Manner("help"), steps=True), replace(Manner("help"), asks=True), Manner("help"))
WINS = ((0, 2), (1, 0), (2, 1))  # places in MANNERS: list beats plain, asking beats list, plain beats asking


@functools.cache
def triples() -> list[tuple[Question, tuple[Attributes, ...], tuple[float, ...]]]:
    """Three replies in the three manners to each question, better and worse ones, and the truth of the pairs in WINS."""
    rng = Random("triples")
    found = []
    while len(found) < TRIPLES:
        question = ask(rng, "benign", held_out=False)
        manners = [replace(each, polite=rng.choice((-1, 0, 1)), warns=rng.random() < 0.3) for each in MANNERS]
        replies = tuple(attributes(question, reply(rng, question, each)[0]) for each in manners)
        if [manner_of(each) for each in replies] == ["list", "asking", "plain"]:
            truth = tuple(opinion(TASTE, question, replies[i], replies[j]) for i, j in WINS)
            found.append((question, replies, truth))
    return found


TASTE = {"polite": 2.0, "warns": 1.0}  # values that order the three transitively, and leave few ties


def circular(size: float) -> float:
    """The share of circles among triples whose three verdicts are no ties, for this probability of going by the circle."""
    of_all = clear = 0.0
    for _, _, truth in triples():
        ahead = [SLIPS + (1 - 2 * SLIPS) * (size + (1 - size) * t) for t in truth]  # the winner of the circle preferred
        known = [size if t == 0.5 else 1.0 for t in truth]
        for i, t in enumerate(truth):
            if t == 0.5:
                ahead[i] = 1 - SLIPS
        clear += float(np.prod(known))
        of_all += float(np.prod(known)) * float(np.prod(ahead) + np.prod([1 - p for p in ahead]))
    return of_all / clear


def transitivity(size: float) -> Callable[[int, bool], Figure]:
    """``judgements.cycles``; one that knows the rate, the interval of as many triples at it."""

    def meter(seed: int, oracle: bool) -> Figure:
        judge = Annotators.of(Annotators.Options(noise=SLIPS, cycle=size, values=TASTE), seed)
        means = Means()
        for number, (question, replies, _) in enumerate(Random(f"circles/{seed}").choices(triples(), k=TRIPLES)):
            labels = []
            for i, j in WINS:
                p = judge.verdict(0, f"{number}/{i}/{j}", question, replies[i], replies[j])
                if p != 0.5:
                    labels.append((str(i), str(j)) if p > 0.5 else (str(j), str(i)))
            add_circles(means, labels, str(number))
        found = means.figures()["judgements.cycles"]
        return wilson(circular(size) * found.n, found.n) if oracle else found

    return meter


# --- length in win rates ----------------------------------------------------------------------------------------------

CONTESTS = 400


def at_equal_length(theta: float, phi: float) -> Callable[[int, bool], Figure]:
    """The length-controlled win rate of a judge that goes by a quality theta and by length, with weight phi; one that knows
    phi fits theta alone."""

    def meter(seed: int, oracle: bool) -> Figure:
        rng = np.random.default_rng(seed)
        longer = rng.normal(40, 100, CONTESTS)
        x = np.tanh(longer / longer.std(ddof=1))
        p = (rng.random(CONTESTS) < 1 / (1 + np.exp(-theta - phi * x))).astype(float)
        if not oracle:
            return length_controlled(p, longer, range(CONTESTS))
        known = 0.0
        for _ in range(50):
            q = 1 / (1 + np.exp(-known - phi * x))
            known += float(np.clip((p - q).sum() / (q * (1 - q)).sum(), -1, 1))
        reach = 1.96 / math.sqrt(float((q * (1 - q)).sum()))
        low, value, high = (1 / (1 + math.exp(-known + each)) for each in (reach, 0.0, -reach))
        return Figure(value=value, low=low, high=high, n=CONTESTS)

    return meter


# --- all of them ------------------------------------------------------------------------------------------------------

OPTIONS = {"position": "position", "length": "length", "lists": "lists", "own_family": "own_style"}
EFFECTS = {"position": 0.15, "length": 0.2, "lists": 0.2, "own_family": 0.2}  # that each is to find, above 0 or below


def bias(name: str, size: float) -> Callable[[int, bool], Figure]:
    feature = next(each for each in (*FEATURES, own_family(("alpha",))) if each.name == name)
    return lambda seed, oracle: pull_of(judged(name, seed, oracle, **{OPTIONS[name]: size}), feature).pull


def studies() -> Iterator[tuple[str, Callable[[int, bool], Figure], float, float, bool]]:
    """(name, meter, planted value, value of no effect, whether an effect was planted)."""
    for name, effect in EFFECTS.items():
        for size in (0.0, effect, *((-effect,) if name != "own_family" else ())):
            yield f"bias.{name} {size:+.2f}", bias(name, size), (1 - 2 * SLIPS) * size, 0.0, size != 0
    for size in (0.0, 0.15):
        yield f"swap_agreement, position {size:.2f}", consistency(size), agreement(size), agreement(0.0), size > 0
    for size in (0.0, 0.3):
        yield f"cycles {size:.2f}", transitivity(size), circular(size), circular(0.0), size > 0
    for theta in (0.0, 0.35):
        win = 1 / (1 + math.exp(-theta))
        yield f"length_controlled {win:.3f}", at_equal_length(theta, 1.0), win, 0.5, theta > 0


def main(seeds: int) -> None:
    for name, meter, planted, none, _ in studies():
        print(f"{name:<32}{planted:+.3f}  {repeated(seeds, meter, planted, none)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
