"""Findings about a constitution: what is wrong or missing, where, and what would do.

The rules read words, not meanings: where they find nothing, nothing is proved. A *severe* finding makes a principle
useless or makes two work against each other; the others are advice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rlaif.catalogue import Catalogue
from rlaif.config import Principle
from rlaif.constitutions.reading import Source, read_source
from rlaif.constitutions.runs import Judges
from rlaif.constitutions.trying import Case, cases_of, judges_for, try_cases
from rlaif.constitutions.wording import (
    about_user,
    compares,
    joined,
    meaning,
    names_reply,
    only_vague,
    same_text,
    sentences,
)
from rlaif.pipeline import Watcher
from rlaif.statistics import wilson

SMALL = 0.02  # share of the whole weight below which a principle hardly counts
CLEAR = 0.1  # |p - 1/2| from which a verdict is a clear one
LENGTHS = 3  # examples from which it is said that the better reply is always the shorter, or the longer
LONG = 60  # words of a principle from which it is called long


@dataclass(frozen=True)
class Finding:
    """Something to mend. ``principle`` is None where it is about the whole file."""

    place: str
    principle: str | None
    severe: bool
    what: str
    remedy: str

    def __str__(self) -> str:
        about = f" {self.principle}:" if self.principle else ""
        return f"{self.place}:{about} {'' if self.severe else 'advice: '}{self.what}. {self.remedy}."


class Numbered(NamedTuple):
    number: int
    principle: Principle


def lint(source: Source, against: Source | None = None) -> list[Finding]:
    """What the words, the examples and the weights of a constitution give to say; ``against``: an earlier version of it."""
    rows = [Numbered(*pair) for pair in enumerate(source.principles)]
    found = [finding for row in rows for finding in _alone(source, row)]
    for one, two in itertools.combinations(rows, 2):
        found += _two(source, one, two)
    found += _weights(source)
    if against:
        found += _version(source, against)
    return sorted(found, key=lambda f: (not f.severe, _line(f)))


def lint_file(name: str, against: str | None = None, folder: Path | None = None) -> list[Finding]:
    """The same of a name or a path. Raises ConfigError for a file that is no constitution."""
    catalogue = Catalogue(folder or Path())
    source = read_source(name, catalogue, where="constitution lint")
    return lint(source, read_source(against, catalogue, where="--against") if against else None)


def summary(findings: Sequence[Finding]) -> str:
    """How many of them there are."""
    severe = sum(finding.severe for finding in findings)
    return f"{severe} severe, {len(findings) - severe} advice" if findings else "nothing found by the rules"


def _line(finding: Finding) -> int:
    digits = finding.place.rpartition(":")[2]
    return int(digits) if digits.isdigit() else 0


# --- one principle ----------------------------------------------------------------------------------------------------


def _alone(source: Source, row: Numbered) -> Iterator[Finding]:
    for severe, what, remedy in itertools.chain(
        _of_wording(row.principle.text), _of_facts(row.principle), _of_examples(row.principle)
    ):
        yield Finding(source.place(row.number), row.principle.id, severe, what, remedy)


Said = Iterator[tuple[bool, str, str]]  # severe, what, remedy


def _of_wording(text: str) -> Said:
    if vague := only_vague(text):
        named = ", ".join(f'"{word}"' for word in dict.fromkeys(vague))
        yield True, f"asks for no more than {named}", "Say by what a judge would know it"
    if about_user(text):
        yield True, "speaks of the person who asks, not of a reply", "Say what a reply to such a person should do"
    elif not compares(text) and not names_reply(text):
        yield False, "names neither a reply nor a preference", 'Begin, for instance, with "Choose the reply that"'
    elif not compares(text):
        yield False, "does not say which of two replies to prefer", 'Begin, for instance, with "Choose the reply that"'
    if len(parts := sentences(text)) > 1:
        yield False, f"is {len(parts)} sentences long", "Make a principle of each that asks for something of its own"
    elif word := joined(text):
        yield (
            False,
            f'joins things by "{word}": of two replies each may have one of them',
            "Make it two principles, or say which comes first",
        )
    if len(text.split()) > LONG:
        yield False, f"is {len(text.split())} words long", "A judge is shown all of it each time: shorten it"


def _of_facts(principle: Principle) -> Said:
    if not principle.examples:
        yield (
            False,
            "has no examples",
            "Add a prompt with a better and a worse reply: `rlaif constitution test` tries them",
        )
    if not principle.category:
        yield False, "has no category", "Add one, such as honesty: reports group by it"
    if not principle.provenance:
        yield False, "has no provenance", "Say who wrote it or where it is from"


def _of_examples(principle: Principle) -> Said:
    for number, example in enumerate(principle.examples, 1):
        if example.better.strip() == example.worse.strip():
            yield (
                True,
                f"example {number}: the better and the worse reply are the same",
                "Let them differ in what the principle is about",
            )
    differences = [len(example.better) - len(example.worse) for example in principle.examples]
    for sign, word in ((-1, "shorter"), (1, "longer")):
        if len(differences) >= LENGTHS and all(sign * d > 0 for d in differences):
            yield (
                False,
                f"the better reply is the {word} one in all {len(differences)} examples",
                "A judge that looks at nothing but length passes them: add one the other way round",
            )


# --- two principles ---------------------------------------------------------------------------------------------------


def _two(source: Source, one: Numbered, two: Numbered) -> Iterator[Finding]:
    def found(severe: bool, what: str, remedy: str) -> Finding:
        return Finding(source.place(two.number), two.principle.id, severe, what, remedy)

    other = f'"{one.principle.id}" (line {source.lines[one.number]})'
    first, second = meaning(one.principle.text), meaning(two.principle.text)
    if same_text(one.principle.text, two.principle.text):
        yield found(True, f"says the same as {other}", "Drop one, and add its weight to the other")
    elif (agreement := first.agreement(second)) < 0:
        yield found(True, f"asks for the opposite of {other}, by its words", "Drop one, or say when each applies")
    elif agreement > 0:
        yield found(False, f"says nearly the same as {other}", "Join them, or say what tells them apart")
    if shared := _opposite_examples(one.principle, two.principle):
        yield found(
            True, f'takes the other side of {other} in the same example ("{_brief(shared)}")', "Say when each applies"
        )


def _opposite_examples(one: Principle, two: Principle) -> str | None:
    """The prompt of an example that both have, with the replies the other way round."""
    pairs = {(e.prompt, e.better, e.worse) for e in one.examples if e.better != e.worse}
    return next((e.prompt for e in two.examples if (e.prompt, e.worse, e.better) in pairs), None)


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 50 else f"{line[:49]}…"


# --- the whole --------------------------------------------------------------------------------------------------------


def _weights(source: Source) -> Iterator[Finding]:
    principles = source.principles
    whole = sum(principle.weight for principle in principles)
    for number, principle in enumerate(principles):
        share = principle.weight / whole
        if share < SMALL and principle.weight < min(1.0, whole / len(principles)):
            yield Finding(
                source.place(number),
                principle.id,
                False,
                f"has {share:.1%} of the whole weight: averaged, it decides only where the others nearly cancel; drawn, it "
                f"is asked for {share:.1%} of comparisons",
                "Give it more weight, or leave it out",
            )
        elif len(principles) > 1 and share > 0.5:
            yield Finding(
                source.place(number),
                principle.id,
                False,
                f"outweighs all others together ({share:.0%}): where verdicts are yes or no, averaged, they never overrule it",
                "If that is meant, all is well; else lower its weight",
            )


def _version(source: Source, against: Source) -> Iterator[Finding]:
    """A version stands for the texts: it is another where they are."""
    now, before = ({p.id: p.text for p in each.principles} for each in (source, against))
    changed = [name for name in dict.fromkeys([*before, *now]) if now.get(name) != before.get(name)]
    version = source.constitution.version
    if changed and version == against.constitution.version:
        named = ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
        yield Finding(
            source.place(),
            None,
            True,
            f'version is "{version}", as in {against.place()}, though the texts differ ({named})',
            "Give it another version",
        )


# --- with a judge -----------------------------------------------------------------------------------------------------

Verdicts = dict[tuple[str, str], float]  # principle id and comparison id to P(the first reply is better)


async def lint_with_judge(
    name: str, judge: str, settings: Sequence[str] = (), *, folder: Path | None = None, watcher: Watcher | None = None
) -> list[Finding]:
    """Principles whose verdicts oppose each other: every principle on the examples of all, by this judge."""
    catalogue = Catalogue(folder or Path())
    source = read_source(name, catalogue, where="constitution lint")
    judges: Judges = judges_for(name, judge, settings, catalogue, watcher)
    try:
        said = await _verdicts(source, judges, name)
    finally:
        await judges.close()
    rows = [Numbered(*pair) for pair in enumerate(source.principles)]
    pairs = itertools.combinations(rows, 2)
    return [finding for one, two in pairs if (finding := _opposed(source, one, two, said, judge)) is not None]


async def _verdicts(source: Source, judges: Judges, name: str) -> Verdicts:
    examples = {case.comparison.id: case for case in cases_of(source)}.values()
    cases = [Case(p, case.example, case.comparison) for p in source.principles for case in examples]
    tried = await try_cases(judges.under(name), cases)
    return {(one.case.principle.id, one.case.comparison.id): one.p for one in tried if one.p is not None}


def _opposed(source: Source, one: Numbered, two: Numbered, said: Verdicts, judge: str) -> Finding | None:
    """Whether two principles prefer different replies on most of the examples that both have a clear verdict on."""

    def clear(row: Numbered) -> Callable[[str], float]:
        return lambda key: p - 0.5 if abs((p := said.get((row.principle.id, key), 0.5)) - 0.5) >= CLEAR else 0.0

    a, b = clear(one), clear(two)
    products = [a(key) * b(key) for key in dict.fromkeys(key for _, key in said)]
    both = [product for product in products if product != 0]
    against = sum(product < 0 for product in both)
    share = wilson(against, len(both))
    if share.low is None or share.low <= 0.5:
        return None
    return Finding(
        source.place(two.number),
        two.principle.id,
        False,
        f'read by {judge}, it prefers the other reply than "{one.principle.id}" on {against} of the {len(both)} examples on '
        "which both are clear",
        "Where that is not meant, say when each applies",
    )
