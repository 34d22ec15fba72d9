"""Read a verdict from a raw reply. Pure functions: a better reader can be run over old replies.

What cannot be read stays unreadable; nothing here guesses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

THINK = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)


def option_masses(logprobs: Iterable[tuple[str, float]], options: Sequence[str]) -> list[float]:
    """Probability of each option as the next token, summed over token variants ("A", " A", "▁A")."""
    masses = [0.0] * len(options)
    for text, logprob in logprobs:
        word = text.replace("▁", " ").replace("Ġ", " ").strip()
        for i, option in enumerate(options):
            if word == option:
                masses[i] += math.exp(logprob)
    return masses


def read_choice(text: str, options: Sequence[str], tie: str | None = None) -> int | None:
    """Index of the option a reply settles on; ``len(options)`` for the tie word; None where it does not settle.

    Reasoning between think marks is set aside. A verdict in brackets, ``[[A]]``, counts before anything else, the last
    one if there are several (models correct themselves). Else "verdict: A" and its like on the last line that has one,
    else a reply that is nothing but the option. Words elsewhere are not verdicts.
    """
    words = [*options, *([tie] if tie else [])]
    body = THINK.sub("", text).strip()
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    bracketed = re.findall(rf"\[\[\s*({either})\s*\]\]", body)
    if bracketed:
        return words.index(bracketed[-1])
    plain = re.sub(r"[*_`#>]", "", body)
    stated = re.findall(
        rf"(?:verdict|answer|choice|winner|preferred|better(?: one| response| reply)?)\s*(?:is|:|=|-)+\s*"
        rf"(?:response|reply|option|assistant|output)?\s*[\[(\"']*({either})[\])\"'.]*\s*$",
        plain,
        re.IGNORECASE | re.MULTILINE,
    )
    if stated:
        return _index(words, stated[-1])
    alone = re.fullmatch(
        rf"(?:response|reply|option|output)?\s*[\[(\"']*({either})[\])\"'.:]*", plain.strip(), re.IGNORECASE
    )
    return _index(words, alone.group(1)) if alone else None


def _index(words: Sequence[str], found: str) -> int | None:
    exact = [i for i, word in enumerate(words) if word == found]
    loose = [i for i, word in enumerate(words) if word.lower() == found.lower()]
    return (exact or loose)[0] if len(loose) == 1 or exact else None
