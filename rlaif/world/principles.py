"""A grammar of principles: many ways to say what a family of them prefers.

A wording is a frame around a phrase. The phrase says what a reply does, is or has, at one pole of a family; the frame
prefers it or turns it down; a negator turns a phrase round once more. The sign of the whole is the product of the three,
so no frame, verb or phrase alone gives it away. A tenth of the frames and of the phrases is held out of training.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

from rlaif.records import uniform

CHOICE = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"\{(\w+)\}")
KINDS_OF_PHRASE = ("does", "is", "has")
STIFF = (
    re.compile(  # frames that no negated phrase fits into: they negate or compare themselves, or end on "is not doing"
        r"\b(?:not|never|no|nobody|nothing|anything|everything|without|few|rarely|minus|more|less|least|as|off|away)\b"
        r"|n't|fail|avoids|\{o|(?:is|lies in)\)? (?:\([^{]*(?:\{s\}\|)?)?\{ing\}|\|\{ing\}|how far"
    )
)
NO = re.compile(r"\b(no|not|nothing|none|never|without|nobody|neither|zero|lacks?|nowhere|hardly)\b")
NEGATES = re.compile(  # frames that negate the plain form, so that no phrase that says "no" fits into them
    r"\b(?:not|never|no|fails?|forgets?|neglects?|nothing)\b[^{]*\{b\}|n't[^{]*\{b\}|(?:without|\|stays clear of\)) \{ing\}|not \{(?:ing|o_b|oa)\}|that does not$|\bnever \{s\}"
)
GRADES = re.compile(r"\b(?:more|less|least|most|as|how)\b[^{]*\{a\}")  # frames that a comparative does not fit into
COMPARATIVES = {"shorter", "briefer", "longer", "wordier", "lengthier", "kinder", "friendlier", "politer", "ruder"}
COMPARATIVES |= {"meaner", "unkinder"}


@dataclass(frozen=True)
class Wording:
    """A principle of the world: its text, its family, and whether it prefers the family's ``more`` (1) or ``less``."""

    text: str
    family: str
    sign: int
    negated: bool  # some part of it negates
    frame: str = ""
    phrase: str = ""  # in its plain form
    pole: int = 0  # of the phrase alone: 1 where it says what "more" says; 0 where nobody drew it


@functools.cache
def grammar() -> dict[str, Any]:
    text = importlib.resources.files("rlaif.world").joinpath("principles.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@functools.cache
def kept_apart(part: str) -> bool:
    return bool(part) and uniform("held-out wording", part) < 0.1


Part = str | tuple[Any, ...]


@functools.cache
def _parsed(text: str) -> tuple[Part, ...]:
    """``text`` in parts: what stands fast, and for each ``(a|b)`` the parts of every choice."""
    parts: list[Part] = []
    depth, start = 0, 0
    for i, letter in enumerate(text):
        if letter == "(":
            if depth == 0:
                parts.append(text[start:i])
                start, options = i + 1, []
            depth += 1
        elif letter == "|" and depth == 1:
            options.append(text[start:i])
            start = i + 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                parts.append(tuple(_parsed(option) for option in [*options, text[start:i]]))
                start = i + 1
    return tuple(part for part in [*parts, text[start:]] if part)


def _chosen_of(rng: Random, parts: tuple[Part, ...]) -> str:
    """A text with one of each ``(a|b)`` chosen; choices may stand within choices."""
    return "".join(
        part if isinstance(part, str) else _chosen_of(rng, part[int(rng.random() * len(part))]) for part in parts
    )


# --- forms of a phrase ------------------------------------------------------------------------------------------------

IRREGULAR_S = {"have": "has", "be": "is", "do": "does", "go": "goes", "forgo": "forgoes"}
DOUBLED = {"stop", "get", "put", "skip", "omit", "drop", "let", "cut", "run", "permit", "split", "rob", "beg"}
DOUBLED |= {"forget", "win", "hit", "fit", "sum", "shun", "shut", "slam", "swap", "plan", "snap", "spin", "drag", "set"}
DOUBLED |= {"begin", "admit", "fulfil", "refer", "regret"}
ITS = re.compile(r"\bits\b|\bitself\b")
ADVERBS = {"not", "never", "just", "only"}  # that a phrase may begin with
IRREGULAR_ING = {
    "be": "being",
    "lie": "lying",
    "see": "seeing",
    "agree": "agreeing",
    "err": "erring",
    "panic": "panicking",
}


def third(verb: str) -> str:
    """gives, denies, addresses."""
    if verb in IRREGULAR_S:
        return IRREGULAR_S[verb]
    if verb.endswith(("s", "x", "z", "ch", "sh")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def gerund(verb: str) -> str:
    """giving, denying, stopping."""
    if verb in IRREGULAR_ING:
        return IRREGULAR_ING[verb]
    if verb in DOUBLED:
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") else verb) + "ing"


@dataclass(frozen=True)
class Phrase:
    """What a reply does, is or has, in the forms that frames ask for."""

    kind: str
    text: str  # "give a reason"; "polite"; "a warning"

    @property
    def b(self) -> str:
        return {"does": "", "is": "be ", "has": "have "}[self.kind] + self.text

    def inflected(self, form: Any) -> str:
        """Every verb of the phrase in a form: also the second one of "refuse and stop"."""
        verb, _, rest = self.b.partition(" ")
        adverb = ""
        if self.kind == "does" and verb in ADVERBS:
            if verb == "not" and form is third:
                return f"does {self.b}"
            adverb, (verb, _, rest) = f"{verb} ", rest.partition(" ")
        second = re.match(r"(and|but) (\w+)\b", rest)
        if second and second.group(2) not in ("nothing", "no"):
            rest = f"{second.group(1)} {form(second.group(2))}{rest[second.end() :]}"
        return f"{adverb}{form(verb)} {rest}".strip()

    @property
    def s(self) -> str:
        return self.inflected(third)

    @property
    def ing(self) -> str:
        return self.inflected(gerund)

    @property
    def pl(self) -> str:
        """What several replies do: they give, they are, they explain themselves."""
        text = ITS.sub(lambda its: "their" if its.group() == "its" else "themselves", self.b)
        if text.startswith("be "):
            return f"are{text[2:]}"
        return f"do {text}" if text.startswith("not ") else text

    def forms(self) -> dict[str, str]:
        found = {"b": self.b, "s": self.s, "ing": self.ing, "pl": self.pl}
        if self.kind == "has":
            found["n"] = self.text
        if self.kind == "is" and " " not in self.text:
            found["a"] = self.text
        return found

    def negated(self, rng: Random) -> dict[str, str]:
        """The forms of its opposite. Only for phrases that do not say "no" themselves."""
        plain, negators = _forms(self), grammar()["negators"]
        fill = lambda key: _filled(rng.choice(negators[key]), plain)  # noqa: E731
        s = (
            rng.choice(negators["is_s"]).replace("{x}", self.text)
            if self.kind == "is" and rng.random() < 0.7
            else fill("s")
        )
        return {"s": s, "b": fill("b"), "ing": fill("ing"), "pl": _filled("do not {b}", plain)}


@functools.cache
def _forms(phrase: Phrase) -> dict[str, str]:
    return phrase.forms()


def _filled(text: str, values: dict[str, str]) -> str:
    return SLOT.sub(lambda match: values[match.group(1)], text)


@functools.cache
def every(text: str) -> tuple[str, ...]:
    """All the texts that ``(a|b)`` stands for."""
    found = CHOICE.search(text)
    if not found:
        return (" ".join(text.split()),)
    options = found.group(1).split("|")
    found_all = (one for o in options for one in every(text[: found.start()] + o + text[found.end() :]))
    return tuple(dict.fromkeys(found_all))


@functools.cache
def phrases(family: str, pole: str, kind: str, under: bool = False) -> tuple[tuple[Phrase, ...], ...]:
    """Every phrase of a family, a pole and a kind; those of one line of the grammar together."""
    section = grammar()["phrases"][family]
    lines = (section.get("under", {}) if under else section).get(pole, {}).get(kind, [])
    return tuple(tuple(Phrase(kind, text) for text in sorted(set(every(line)))) for line in lines)


@functools.cache
def kinds_with(family: str, pole: str, kinds: tuple[str, ...], held_out: bool, under: bool) -> tuple[str, ...]:
    """The kinds of which there is a phrase; under a clause a kind stands once for each of its lines."""
    lines = [(kind, line) for kind in kinds for line in phrases(family, pole, kind, under)]
    found = [kind for kind, line in lines if any(kept_apart(phrase.b) == held_out for phrase in line)]
    return tuple(found if under else dict.fromkeys(found))


def draw_phrase(
    rng: Random, family: str, pole: str, kinds: tuple[str, ...], held_out: bool, under: bool = False
) -> Phrase | None:
    """A line by chance, then a phrase of it: short lines are not drowned by long ones. None where none is held out."""
    there = kinds_with(family, pole, kinds, held_out, under)
    while there:
        phrase = rng.choice(rng.choice(phrases(family, pole, rng.choice(there), under)))
        if kept_apart(phrase.b) == held_out:  # its plain form: the same words may stand under two kinds
            return phrase
    return None


# --- wordings ---------------------------------------------------------------------------------------------------------

SIGNS = {"for": 1, "against": -1, "for_twice": 1, "for_other": 1}
POLES = {1: "more", -1: "less"}
UNDER = 0.3  # the share of wordings, in families that have such phrases, that mean their family only under a clause
OFTEN = {"for_twice": 2}  # how often such a frame is drawn, beside 5 for every other: people rarely negate twice


@functools.cache
def frames() -> tuple[tuple[str, str], ...]:
    """(kind of frame, frame) of the whole grammar, the shared words filled in."""
    found = []
    for kind, many in grammar()["frames"].items():
        for frame in many:
            for _ in range(3):  # words stand within words
                for name, value in grammar()["words"].items():
                    frame = frame.replace("{" + name + "}", value)
            found.append((kind, frame))
    return tuple(found)


@functools.cache
def frames_of(kinds: frozenset[str], held_out: bool) -> tuple[tuple[str, str], ...]:
    """The frames to draw from, each as often as its kind is to be drawn."""
    found = [(kind, frame) for kind, frame in frames() if kind in kinds and kept_apart(frame) == held_out]
    return tuple(one for one in found for _ in range(OFTEN.get(_base(one[0]), 5)))


def _base(kind: str) -> str:
    """The kind of a frame without the form that it asks for."""
    return kind.removesuffix("_n").removesuffix("_a")


def _slot(kind: str) -> str:
    """The form that a kind of frame asks for: a noun, an adjective or any."""
    return kind[len(_base(kind)) + 1 :]


@functools.cache
def _kinds(negation: bool) -> frozenset[str]:
    plain = {"for", "for_n", "for_a", "for_other", "for_other_n", "for_other_a"}
    return frozenset({kind for kind, _ in frames()} - plain if negation else plain)


def draw(
    rng: Random,
    family: str,
    *,
    negation: float,
    sign: int | None = None,
    new_frame: bool = False,
    new_phrase: bool = False,
) -> Wording:
    """A wording of a family. ``negation`` is the share of frames that negate, and half that of negated phrases.

    ``sign`` asks for one of the two; ``new_frame`` and ``new_phrase`` take what is held out of training.
    """
    while True:
        kind, frame = rng.choice(frames_of(_kinds(rng.random() < negation), new_frame))
        word = _worded(rng, family, kind, frame, rng.random() < negation / 2, new_phrase)
        if word is not None and sign in (None, word.sign):
            return word


ELLIPSES = ("one that does", "one that does not")
DO_BE = re.compile(
    r"\b(?:does (it|the \w+)|does( not(?: even| at all)?| anything but|n't)|((?:that|they) do) not) be\b"
)


def _being(found: re.Match[str]) -> str:
    """What "does not be", "does it be" and "that do not be" ought to be."""
    asked, negated, many = found.groups()
    return f"is {asked}" if asked else f"is{negated}" if negated else f"{many[:-3]} are not"


@dataclass(frozen=True)
class Traits:
    """What a frame does not go with."""

    stiff: bool
    negates: bool
    grades: bool
    noun_first: bool  # "no warning makes a reply better" would say something else


@functools.cache
def traits_of(frame: str) -> Traits:
    return Traits(
        bool(STIFF.search(frame)),
        bool(NEGATES.search(frame)),
        bool(GRADES.search(frame)),
        frame.startswith(("{n}", "{on}")) or bool(re.search(r"is \{n\}|not \{on\}|\bwithout\b", frame)),
    )


@functools.cache
def says_no(phrase: str) -> bool:
    return bool(NO.search(phrase))


@dataclass(frozen=True)
class Drawn:
    """The phrases of a wording."""

    phrase: Phrase
    other: Phrase | None  # of the other pole, where a frame compares the two
    under: bool  # they mean their family only under a clause


def _drawn(rng: Random, family: str, kind: str, frame: str, pole: int, held_out: bool) -> Drawn | None:
    """Phrases for a frame; None where there are none in the form that it asks for."""
    kinds = {"n": ("has",), "a": ("is",)}.get(_slot(kind), KINDS_OF_PHRASE)
    under = rng.random() < UNDER and _has_under(family, kinds, held_out) and not frame.endswith("?")
    phrase = draw_phrase(rng, family, POLES[pole], kinds, held_out, under)
    if phrase is None:
        return None
    two = _base(kind) == "for_other"
    other = draw_phrase(rng, family, POLES[-pole], kinds, held_out, under) if two else None
    return None if two and other is None else Drawn(phrase, other, under)


def _worded(rng: Random, family: str, kind: str, frame: str, turn: bool, new_phrase: bool) -> Wording | None:
    """A wording in this frame, or None where what was drawn does not go together."""
    base, slot, pole = _base(kind), _slot(kind), rng.choice((1, -1))
    drawn = _drawn(rng, family, kind, frame, pole, new_phrase)
    if drawn is None:
        return None
    turned = turn and base in ("for", "against") and not slot and not says_no(drawn.phrase.text)
    values = _values(rng, drawn, base, slot, traits_of(frame), turned)
    if values is None:
        return None
    text = _mended(_filled(_chosen_of(rng, _parsed(frame)), values), drawn.phrase)
    if drawn.under and _says_it(drawn.phrase) and TWO_ITS.search(text):
        return None
    text = _finished(rng, _with_when(rng, _when(rng, family, drawn), text))
    sign = SIGNS[base] * pole * (-1 if turned else 1)
    negated = turned or base in ("against", "for_twice")
    return Wording(text, family, sign, negated, frame, drawn.phrase.b, pole)


def _values(rng: Random, drawn: Drawn, base: str, slot: str, traits: Traits, turned: bool) -> dict[str, str] | None:
    """What the slots of a frame are filled with; None where the phrases do not fit into it."""
    values = drawn.phrase.negated(rng) if turned else _forms(drawn.phrase)
    if (slot and slot not in values) or not _goes_with(rng, drawn.phrase, base, slot, traits, turned):
        return None
    if drawn.other is None:
        return values
    others = _other_forms(drawn.other, slot, traits)
    return None if others is None else values | others


@functools.cache
def _has_under(family: str, kinds: tuple[str, ...], held_out: bool) -> bool:
    """Whether a family has, at both poles, phrases that stand under a clause only."""
    return all(kinds_with(family, pole, kinds, held_out, True) for pole in POLES.values())


def _goes_with(rng: Random, phrase: Phrase, base: str, slot: str, traits: Traits, turned: bool) -> bool:
    """Whether a phrase can stand in a frame. What cannot be read is out; three negations are hard to read, so that most
    of those are out too."""
    if (turned and traits.stiff) or (traits.grades and phrase.text in COMPARATIVES):
        return False
    return not says_no(phrase.text) or not (
        traits.negates
        or (slot == "n" and (base not in ("for", "for_other") or traits.noun_first))
        or (base == "for_twice" and rng.random() < 0.8)
        or (base == "against" and traits.stiff and rng.random() < 0.5)
    )


def _other_forms(other: Phrase, slot: str, traits: Traits) -> dict[str, str] | None:
    """The forms of the phrase that a frame prefers the first one to; None where it does not fit."""
    if says_no(other.text) and (traits.negates or traits.noun_first):
        return None
    theirs = _forms(other)
    if slot and slot not in theirs:
        return None
    found = {"o": other.s} | {f"o_{form}": theirs[form] for form in ("b", "ing", "pl")}
    return found | {f"o{form}": theirs[form] for form in ("n", "a") if form in theirs}


def _mended(text: str, phrase: Phrase) -> str:
    """The text of a filled frame with single spaces, and without "does not be" and its like."""
    text = " ".join(text.split())
    if " be " in text:
        text = DO_BE.sub(_being, text)
    if phrase.kind == "is" and text.endswith(ELLIPSES):
        text = text.replace("one that does", "one that is")
    return text


TWO_ITS = re.compile(r"\b(?:if|when|whenever|where|because|once|does|is) it\b")  # "if it helps with it" is hard to read


@functools.cache
def _says_it(phrase: Phrase) -> bool:
    return bool(re.search(r"\bit\b", phrase.text))


@functools.cache
def whens(family: str, said: bool) -> tuple[str, ...]:
    """The clauses that say when a family applies; ``said``: those that also say what "it" is, where there are such."""
    section = grammar()["phrases"][family]
    those = section.get("when_it", [])
    return tuple(those if said and those else section["when"] + those)


def _when(rng: Random, family: str, drawn: Drawn) -> str:
    """A clause of when a family applies: always for phrases that need one, and for a third of the others."""
    if not drawn.under and rng.random() > 0.35:
        return ""
    said = drawn.under and (_says_it(drawn.phrase) or (drawn.other is not None and _says_it(drawn.other)))
    clauses = whens(family, said)
    return _chosen_of(rng, _parsed(rng.choice(clauses))) if clauses else ""


BEFORE = ("asked", "given", "faced")  # clauses that can only stand before what they are about


def _with_when(rng: Random, when: str, text: str) -> str:
    """The text with a clause before or after it. None goes with a text that ends in a question."""
    if not when or text.endswith("?"):
        return text
    before = "?" in text or when.startswith(BEFORE) or rng.random() < 0.6
    return f"{when}, {text}" if before else f"{text} {when}"


A_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou]|honest)(?!use|one|usu)")


def _finished(rng: Random, text: str) -> str:
    if rng.random() < 0.9:
        text = text[0].upper() + text[1:]
    text = A_VOWEL.sub(r"\1n ", text)
    return text if text.endswith("?") or rng.random() < 0.1 else text + "."


# --- wordings nobody drew ---------------------------------------------------------------------------------------------


def plain_text(text: str) -> str:
    """A wording as a judge reads it: without regard to capitals and the full stop."""
    return " ".join(text.lower().split()).rstrip(".")


def held_out_wordings() -> Iterator[Wording]:
    """Wordings written from the definitions of the families alone, without sight of this grammar."""
    text = importlib.resources.files("rlaif.world").joinpath("held_out_wordings.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        row = json.loads(line)
        yield Wording(row["text"], row["family"], row["sign"], row["kind"] == "negated")
