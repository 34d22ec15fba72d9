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
KINDS_OF_PHRASE = ("does", "is", "has")
STIFF = re.compile(r"not|never|\b(?:more|less|least)\b|fail|\{o\}")  # frames that no negated phrase fits into
NO = re.compile(r"\b(no|not|nothing|none|never|without|nobody)\b")


@dataclass(frozen=True)
class Wording:
    """A principle of the world: its text, its family, and whether it prefers the family's ``more`` (1) or ``less``."""

    text: str
    family: str
    sign: int
    negated: bool  # some part of it negates
    frame: str = ""
    phrase: str = ""
    pole: int = 0  # of the phrase alone: 1 where it says what "more" says; 0 where nobody drew it

    @property
    def held_out(self) -> tuple[bool, bool]:
        """Whether its frame, and whether its phrase, is one that no training sees."""
        return kept_apart(self.frame), kept_apart(self.phrase)


@functools.cache
def grammar() -> dict[str, Any]:
    text = importlib.resources.files("rlaif.world").joinpath("principles.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@functools.cache
def kept_apart(part: str) -> bool:
    return bool(part) and uniform("held-out wording", part) < 0.1


def chosen(rng: Random, text: str) -> str:
    """``text`` with one of each ``(a|b)`` chosen; choices may stand within choices."""
    while found := CHOICE.search(text):
        text = text[: found.start()] + rng.choice(found.group(1).split("|")) + text[found.end() :]
    return " ".join(text.split())


# --- forms of a phrase ------------------------------------------------------------------------------------------------

IRREGULAR_S = {"have": "has", "be": "is", "do": "does", "go": "goes"}
DOUBLED = {"stop", "get", "put", "skip", "omit", "drop", "let", "cut", "run", "permit", "split", "rob", "beg", "err"}
DOUBLED |= {"forget", "win", "end"} - {"end", "err"}
IRREGULAR_ING = {"be": "being", "lie": "lying", "see": "seeing", "agree": "agreeing", "err": "erring"}


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
    if verb in DOUBLED and verb != "err":
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
        second = re.match(r"and (\w+)\b", rest)
        if second and second.group(1) not in ("nothing", "no"):
            rest = f"and {form(second.group(1))}{rest[second.end() :]}"
        return f"{form(verb)} {rest}".strip()

    @property
    def s(self) -> str:
        return self.inflected(third)

    @property
    def ing(self) -> str:
        return self.inflected(gerund)

    @property
    def pl(self) -> str:
        """What several replies do: they give, they are."""
        return f"are {self.text}" if self.kind == "is" else self.b

    def forms(self) -> dict[str, str]:
        found = {"b": self.b, "s": self.s, "ing": self.ing, "pl": self.pl}
        if self.kind == "has":
            found["n"] = self.text
        if self.kind == "is" and " " not in self.text:
            found["a"] = self.text
        return found

    def negated(self, rng: Random) -> dict[str, str]:
        """The forms of its opposite. Only for phrases that do not say "no" themselves."""
        plain, negators = self.forms(), grammar()["negators"]
        fill = lambda key: _filled(rng.choice(negators[key]), plain)  # noqa: E731
        s = (
            rng.choice(negators["is_s"]).replace("{x}", self.text)
            if self.kind == "is" and rng.random() < 0.7
            else fill("s")
        )
        return {"s": s, "b": fill("b"), "ing": fill("ing"), "pl": _filled("do not {b}", plain)}


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], text)


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
def phrases(family: str, pole: str, kind: str) -> tuple[tuple[Phrase, ...], ...]:
    """Every phrase of a family, a pole and a kind; those of one line of the grammar together."""
    lines = grammar()["phrases"][family][pole][kind]
    return tuple(tuple(Phrase(kind, text) for text in sorted(set(every(line)))) for line in lines)


def draw_phrase(rng: Random, family: str, pole: str, kinds: tuple[str, ...], held_out: bool) -> Phrase | None:
    """A line by chance, then a phrase of it: short lines are not drowned by long ones. None where none is held out."""
    for _ in range(200):
        phrase = rng.choice(rng.choice(phrases(family, pole, rng.choice(kinds))))
        if kept_apart(phrase.text) == held_out:
            return phrase
    return None


# --- wordings ---------------------------------------------------------------------------------------------------------

SIGNS = {"for": 1, "against": -1, "for_twice": 1, "for_other": 1}
POLES = {1: "more", -1: "less"}


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
    return tuple((kind, frame) for kind, frame in frames() if kind in kinds and kept_apart(frame) == held_out)


@functools.cache
def _kinds(negation: bool) -> frozenset[str]:
    plain = {"for", "for_n", "for_a", "for_other"}
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


def _worded(rng: Random, family: str, kind: str, frame: str, turn: bool, new_phrase: bool) -> Wording | None:
    base, _, slot = kind.rpartition("_") if kind.endswith(("_n", "_a")) else (kind, "", "")
    pole = rng.choice((1, -1))
    kinds = {"n": ("has",), "a": ("is",)}.get(slot, KINDS_OF_PHRASE)
    phrase = draw_phrase(rng, family, POLES[pole], kinds, new_phrase)
    if phrase is None:
        return None
    values = phrase.forms()
    turned = turn and base in ("for", "against") and not slot and not NO.search(phrase.text)
    if turned:
        values = phrase.negated(rng)
    if (slot and slot not in values) or (NO.search(phrase.text) and base != "for" and slot == "n"):
        return None
    if (turned and STIFF.search(frame)) or ("not {b}" in frame and NO.search(phrase.text)):
        return None
    if "{o}" in frame:
        other = draw_phrase(rng, family, POLES[-pole], KINDS_OF_PHRASE, new_phrase)
        if other is None:
            return None
        values["o"] = other.s
    text = _filled(chosen(rng, frame), values)
    sign = SIGNS[base] * pole * (-1 if turned else 1)
    whens = grammar()["phrases"][family]["when"]
    if whens and rng.random() < 0.35 and not text.endswith("?"):
        when = chosen(rng, rng.choice(whens))
        text = f"{when}, {text}" if rng.random() < 0.6 else f"{text} {when}"
    return Wording(_finished(rng, text), family, sign, turned or base != "for", frame, phrase.text, pole)


def _finished(rng: Random, text: str) -> str:
    if rng.random() < 0.9:
        text = text[0].upper() + text[1:]
    text = re.sub(r"\b([Aa]) (?=[aeiou])(?!use|one|usu)", r"\1n ", text)
    return text if text.endswith("?") or rng.random() < 0.1 else text + "."


# --- wordings nobody drew ---------------------------------------------------------------------------------------------


def held_out_wordings() -> Iterator[Wording]:
    """Wordings written from the definitions of the families alone, without sight of this grammar."""
    text = importlib.resources.files("rlaif.world").joinpath("held_out_wordings.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        row = json.loads(line)
        yield Wording(row["text"], row["family"], row["sign"], row["kind"] == "negated")
