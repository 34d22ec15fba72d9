"""Read a verdict from a raw reply. Pure functions: a better reader can be run over old replies.

What cannot be read stays unreadable; nothing here guesses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

THINK = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
THOUGHT = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)  # where the template opened the mark
QUOTED = re.compile(r'(?<!\w)"(?=\S)[^"]*"|“[^”]*”|«[^»]*»|^[ \t]*>.*$', re.MULTILINE)
MAY_QUOTE = re.compile(r'["“«>]')
SENTENCE = re.compile(r"\n|(?<=[.!?])\s+")
MARKUP = re.compile(r"\*+|`+|__|^[ \t]*#+", re.MULTILINE)
MAY_MARK_UP = re.compile(r"[*`_#]")
KEYWORD = r"(?:verdict|answer|choice|winner|preferred(?: reply| response)?|better(?: one| reply| response)?)"
NOUN = r"(?:response|reply|option|output|assistant)"
LEAD = r"(?:so|thus|hence|my|the|final|overall)"
OPENING = rf"\s*(?i:{NOUN}\s+)?[\[(\"']*"
CLOSING = r"[^\w\n?+#]*"  # brackets, full stops, emoji; not "B?", "C++" or "C#"


def two_words(words: tuple[str, str]) -> tuple[str, str]:
    """The words of two choices. Raises ValueError where they are not two."""
    if words[0].strip() == words[1].strip() or not all(word.strip() for word in words):
        raise ValueError("the two choices must be different words")
    return words


def option_masses(logprobs: Iterable[tuple[str, float]], options: Sequence[str]) -> list[float]:
    """Probability of each option as the next token, summed over token variants ("A", " A", "▁A").

    Case counts: "a" may open a sentence ("a longer reply would …"), and stays outside the option mass.
    """
    masses = [0.0] * len(options)
    for text, logprob in logprobs:
        word = word_of(text)
        for i, option in enumerate(options):
            if word == option.strip():
                masses[i] += math.exp(logprob)
    return masses


def word_of(token: str) -> str:
    """A token's text without the space that may open it, however its tokenizer writes one."""
    return token.replace("▁", " ").replace("Ġ", " ").strip()


def read_choice(text: str, options: Sequence[str], tie: str | None = None) -> int | None:
    """Index of the option a reply settles on; ``len(options)`` for the tie word; None where it does not settle.

    Reasoning between think marks, and what is quoted from the replies, are set aside. A verdict in brackets, ``[[A]]``,
    counts before anything else, the last one if there are several (models correct themselves); one that was not
    offered, or two in its sentence, settle nothing. Else a line that is only "Verdict: A" or its like, or a last line
    that ends so. Else a reply that is nothing but the option. Words elsewhere are not verdicts.
    """
    forms = _forms(tuple(options), tie)
    body = own_words(text)
    for sentence in reversed(SENTENCE.split(body)) if "[[" in body else ():
        if verdicts := forms.bracketed.findall(sentence):
            return _index(forms.words, verdicts[0]) if len(set(verdicts)) == 1 else None
    lines = body.splitlines()
    found = [match for line in lines if (match := forms.line.fullmatch(line))]
    if lines and (match := forms.end.search(lines[-1])):
        found.append(match)
    if found:
        return _index(forms.words, found[-1].group(1) or found[-1].group(2))
    alone = forms.alone.fullmatch(body)
    return _index(forms.words, alone.group(1)) if alone else None


def own_words(text: str) -> str:
    """A reply without its thinking, its markup and what it quotes."""
    body = THOUGHT.sub("", THINK.sub("", text)) if "<" in text else text
    body = MARKUP.sub("", body) if MAY_MARK_UP.search(body) else body
    return (QUOTED.sub(_unquoted, body) if MAY_QUOTE.search(body) else body).strip()


class Forms(NamedTuple):
    """How a verdict between these words may be written."""

    words: tuple[str, ...]
    bracketed: re.Pattern[str]
    line: re.Pattern[str]
    end: re.Pattern[str]
    alone: re.Pattern[str]


@lru_cache(maxsize=64)
def _forms(options: tuple[str, ...], tie: str | None) -> Forms:
    words = (*options, *([tie] if tie else []))
    longest_first = sorted(words, key=len, reverse=True)
    either = "|".join(re.escape(word) for word in longest_first)
    # after "is" a lower-case letter may be a word of the sentence: "the better reply is a ..."
    exact = "|".join(re.escape(word) if len(word) == 1 else f"(?i:{re.escape(word)})" for word in longest_first)
    stated = (
        rf"\b(?i:{KEYWORD})[\"']?\s*(?:(?i:is){OPENING}({exact})|(?i:is)?\s*[:：=-]+{OPENING}((?i:{either}))){CLOSING}"
    )
    return Forms(
        words,
        re.compile(rf"(?<!not )(?<![\"'])\[\[\s*(?:(?i:{NOUN})\s+)?({either}|\w+)\s*\]\]"),
        re.compile(rf"\W*(?:(?i:{LEAD})\W+)*{stated}"),
        re.compile(rf"{stated}$"),
        re.compile(rf"{OPENING}((?i:{either})){CLOSING}"),
    )


def _unquoted(match: re.Match[str]) -> str:
    """Nothing for quoted prose; one quoted word stays, such as the key or the value of a JSON verdict."""
    inside = match.group().strip('"“”«»')
    return f'"{inside}"' if re.fullmatch(r"[\[(]*\w+[\])]*", inside) else ""


def _index(words: Sequence[str], found: str) -> int | None:
    exact = [i for i, word in enumerate(words) if word == found]
    loose = [i for i, word in enumerate(words) if word.lower() == found.lower()]
    return (exact or loose)[0] if len(loose) == 1 or exact else None
