"""What can be known of a principle from its words alone: a reading by lists of words, which claims no more than that.

A principle is cut into the condition under which it applies ("when a request is harmful, …") and what it asks for. Of
that, the frame ("choose the reply that") falls away, and of each pair of opposites ("short", "long") both words become the
first. Every part of a sentence, from "and" to "and", has a sign: the second of two opposites turns it, so do negations and
"less", and "over" or "than" for what follows. Two principles with the same condition and the same words ask for the
same where all signs are equal, and for opposite replies where none is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

ALIKE = 0.75  # share of the words of two principles that both have, from which they are called alike

OPPOSITES = (
    "short long; shorter longer; brief lengthy; briefer lengthier; polite rude; "
    "politer ruder; polite impolite; kind unkind; kinder meaner; friendly hostile; friendly unfriendly; honest dishonest; "
    "true false; correct incorrect; accurate inaccurate; helpful unhelpful; harmful harmless; safe unsafe; safe dangerous; "
    "formal informal; simple complex; simple complicated; plain ornate; clear unclear; cautious bold; confident unsure; "
    "neutral partisan; warm cold; calm agitated; ethical unethical; legal illegal; relevant irrelevant; specific vague; "
    "respectful disrespectful; fair unfair; direct evasive; modest boastful; refuse comply"
)
ROOTS = {other: (word, -1) for pair in OPPOSITES.split("; ") for word, other in (pair.split(),)}
SAME = {
    "shorter": "short", "longer": "long", "briefer": "brief", "lengthier": "lengthy", "politer": "polite",
    "ruder": "rude", "kinder": "kind", "friendlier": "friendly", "safer": "safe", "clearer": "clear",
    "concise": "short", "verbose": "long", "wordy": "long", "simpler": "simple", "plainer": "plain", "calmer": "calm", "warmer": "warm", "fewer": "few", "words": "word",
}  # fmt: skip
TURNS = {
    "not",
    "never",
    "no",
    "without",
    "less",
    "least",
    "fewer",
    "avoid",
    "avoids",
    "avoiding",
    "neither",
    "cannot",
    "lacks",
    "few",
}
WIDE = {"without", "avoid", "avoids", "avoiding", "neither", "lacks"}
OVER = {"over", "than", "instead"}  # what follows is what is not wanted
BOUNDS = {"and", "but", "while", ",", ";"}
TURNED_DOWN = {"reject", "penalise", "penalize", "disprefer", "punish"}  # verbs that turn down what they name
FRAME_WORDS = (
    "a an the of to in on at is are be it its this that which who than as and or for with by from one ones two both "
    "between more most reply replies response responses answer answers output outputs assistant's assistant choose prefer "
    "select pick favour favor better best please should would does do has have did s t always reject penalise penalize "
    "disprefer punish rank higher use using give contain include"
)
FRAME = frozenset(FRAME_WORDS.split())
COMPARES = re.compile(
    r"\b(choose|prefer\w*|select|pick|over the|mark down|rate higher|favou?rs?|rather|better|best|more|most|less|least|fewer|fewest|which of|between|"
    r"than|as \w+ as possible|reject|penali[sz]e|rank|higher|lower|\w{3,}er reply|would have to)\b",
    re.IGNORECASE,
)
NAMES_REPLY = re.compile(
    r"\b(repl(y|ies)|responses?|answers?|outputs?|completions?|assistant|assistant's|model|ai|the one)\b", re.IGNORECASE
)
ABOUT_USER = re.compile(
    r"^\W*(the |every |each |a )?(user|users|person|people|human|humans|customer|customers|client|clients|reader|asker)"
    r"('s)?\b.{0,40}?\b(should|must|may|ought|needs?|has to|have to|is|are|wants?|will|can)\b",
    re.IGNORECASE,
)
VAGUE_WORDS = (
    "good better best nice great fine okay ok appropriate appropriately proper properly suitable ideal excellent "
    "reasonable reasonably quality high high-quality right adequate acceptable desirable satisfying satisfactory optimal "
    "superior strong well overall decent sensible worthy valuable"
)
VAGUE = frozenset(VAGUE_WORDS.split())
CONDITION = re.compile(r"^\W*((?:when|if|where|on|of|for|unless|in)\b[^,]{3,80}),\s*(.+)$", re.IGNORECASE | re.DOTALL)
JOINS = re.compile(r"(?<!between)(?:,? and |,? as well as |,? but also |,? while |; )", re.IGNORECASE)
WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\d_]+(?:[-'][^\W\d_]+)*")
SENTENCE = re.compile(r"(?<=[.!?])[\"”')]*\s+(?=[A-Z\"“(])")


@dataclass(frozen=True)
class Meaning:
    """A principle's words: those of its condition, and those of what it asks for, with their signs, 1 or -1."""

    condition: Mapping[str, int]
    asks: Mapping[str, int]

    def agreement(self, other: Meaning) -> int:
        """1 where both ask for the same, -1 where for opposite replies, under the same condition; 0 where neither is so."""
        if not self.asks or _overlap(self.asks.keys(), other.asks.keys()) < ALIKE:
            return 0
        if self.condition != other.condition and (
            _overlap(self.condition.keys(), other.condition.keys()) < ALIKE
            or _signs(self.condition, other.condition) != {1}
        ):
            return 0
        signs = _signs(self.asks, other.asks)
        return signs.pop() if len(signs) == 1 else 0


def meaning(text: str) -> Meaning:
    found = CONDITION.match(text)
    condition, rest = (found.group(1), found.group(2)) if found else ("", text)
    return Meaning(_read(condition), _read(rest))


def _read(text: str) -> dict[str, int]:
    """The words that carry the meaning, each with the sign of its part of the sentence."""
    found: dict[str, int] = {}
    part: set[str] = set()
    outer = sign = 1
    wide = False  # a negation that goes on after "and"
    for word in re.findall(rf"{WORD.pattern}|[,;]", text.lower().replace("’", "'")):
        root, turn = ROOTS.get(plain := SAME.get(word, _stem(word)), (plain, 1))
        if word in OVER or word in BOUNDS:
            found |= dict.fromkeys(part, sign)
            part.clear()
            outer, wide = (-outer, False) if word in OVER else (outer, wide)
            sign = -outer if wide else outer
        elif word in TURNED_DOWN:
            outer, sign = -outer, -sign
        elif word in TURNS or word.endswith("n't"):
            sign, wide = -sign, wide or word in WIDE
        elif root not in FRAME:
            sign *= turn
            part.add(root)
    return found | dict.fromkeys(part, sign)


def _stem(word: str) -> str:
    """A noun or a verb without the s of its ending."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return f"{word[:-3]}y" if word.endswith("ies") else word[:-1]


def _signs(one: Mapping[str, int], other: Mapping[str, int]) -> set[int]:
    """1 for a word of both that has one sign in both, -1 for one that has two."""
    return {one[word] * other[word] for word in one.keys() & other.keys()}


def words(text: str) -> list[str]:
    """Words in lower case, of any script; where a script does not part its words, its signs one by one."""
    return WORD.findall(text.lower().replace("’", "'"))


def _overlap(one: Set[str], other: Set[str]) -> float:
    """Words in both, as a share of words in either."""
    return len(one & other) / len(one | other) if one | other else 0.0


def same_text(one: str, other: str) -> bool:
    """Equal but for case, white space and punctuation."""
    return words(one) == words(other)


def only_vague(text: str) -> list[str]:
    """The vague words of a principle that has no other; empty where something else is asked for."""
    asked = [word for word in words(text) if word in VAGUE or (word not in FRAME and word not in TURNS)]
    vague = [word for word in asked if word in VAGUE]
    others = [word for word in asked if word not in VAGUE]
    return vague if vague and not others else []


def compares(text: str) -> bool:
    return bool(COMPARES.search(text))


def names_reply(text: str) -> bool:
    return bool(NAMES_REPLY.search(text))


def about_user(text: str) -> bool:
    """Whether its subject is the person who asks, and no reply is spoken of."""
    return bool(ABOUT_USER.match(text)) and not names_reply(text)


def sentences(text: str) -> list[str]:
    return [part.strip() for part in SENTENCE.split(text.strip()) if part.strip()]


def joined(text: str) -> str | None:
    """The words by which a principle asks for two things in one sentence; None where it does not seem to."""
    found = CONDITION.match(text)
    rest = found.group(2) if found else text
    join = JOINS.search(rest)
    return join.group(0).strip(" ,;") or ";" if join else None
