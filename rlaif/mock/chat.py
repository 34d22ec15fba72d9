"""The chat mind: short replies of keyed variety, for rehearsing a policy that is sampled."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlaif.mock.talk import mixed

WORD = re.compile(r"\b[^\W\d_A-Z]{4,}\b")
OPENINGS = ("Good question.", "In short:", "Let me think.", "Sure.", "Here is what I know.", "Briefly,")
BODIES = (
    "The main thing about {word} is that it depends on what you need.",
    "Most people who ask about {word} want a first step, so start small.",
    "I would look at {word} from two sides before I decide.",
    "There is no single answer about {word}, but some answers are better than others.",
    "With {word} it helps to know what has been tried already.",
    "Nobody can be sure about {word}; a good guess names its reasons.",
)
ENDINGS = ("I hope that helps.", "Ask again if something is unclear.", "That is all there is to it.", "")
MOST_SENTENCES = 5


def chat(prompt: str, key: int) -> str:
    """A reply to ``prompt``; another key (a 64-bit hash) writes another one, of another length."""
    words = WORD.findall(prompt[-400:]) or ["this"]
    sentences = 1 + mixed(key) % MOST_SENTENCES

    def pick(place: int, among: Sequence[str]) -> str:
        return among[mixed(key, place) % len(among)]

    body = [pick(2 * i, BODIES).format(word=pick(2 * i + 1, words)) for i in range(1, sentences + 1)]
    return " ".join(filter(None, [pick(0, OPENINGS), *body, pick(1, ENDINGS)]))
