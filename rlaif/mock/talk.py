"""What a request asks and what is answered, in neither provider's words, and the keyed draws behind both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

PIECE = re.compile(r" ?[^\W\d_]{1,8}|\d{1,3}|\s|[^\w\s]|_")
MASK = (1 << 64) - 1
PER_MESSAGE, PER_PROMPT = 4, 3  # tokens that a chat format adds

Finish = Literal["stop", "stop_sequence", "length", "content_filter", "refusal"]


@dataclass(slots=True)
class Question:
    """One request to a model, as both wire formats say it."""

    model: str
    turns: list[tuple[str, str]]  # (role, text), a provider's system prompt as the first turn
    n: int = 1
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None  # None: no log-probabilities wanted
    schema: dict[str, Any] | None = None  # of the JSON that is wanted
    tool: str | None = None  # that has to be called with that JSON
    marks: tuple[int, ...] = ()  # ends of prefixes to be cached, in characters of ``prompt``
    prompt: str = ""  # all of it, where there are marks
    overhead: int = 0  # tokens of the prompt that stand in no turn: tools
    reasoning: bool = False


@dataclass(slots=True)
class Answer:
    """One choice of a reply. ``masses``: the options' probabilities at the piece that is the verdict."""

    text: str
    pieces: tuple[str, ...]
    finish: Finish = "stop"
    stopped_by: str | None = None  # a stop sequence
    verdict: int | None = None  # place of the verdict among the pieces
    masses: tuple[tuple[str, float], ...] = ()
    declined: bool = False  # in the model's own words
    reasoning: int = 0  # tokens spent before the first word


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as a provider bills them; ``prompt`` counts those read from or written to a cache too."""

    prompt: int
    completion: int
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    @property
    def tokens(self) -> tuple[int, int, int, int]:
        return self.prompt, self.cached, self.written, self.completion


class Rejected(Exception):
    """A request that a provider refuses, in its words. ``cause``: what the counters call it, where not the client's fault.

    ``wait``: seconds that the client is told to wait.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        cause: str | None = None,
        wait: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.kind = param, code, kind
        self.cause, self.wait = cause, wait


@lru_cache(maxsize=4096)
def pieces(text: str) -> tuple[str, ...]:
    """The text cut as a tokenizer would: every character stands in exactly one piece."""
    return tuple(PIECE.findall(text))


def tokens_in(text: str) -> int:
    """Tokens of a prompt's text: one for four characters, as English has."""
    return (len(text) + 3) // 4


def prompt_tokens(turns: list[tuple[str, str]]) -> int:
    return PER_PROMPT + sum(PER_MESSAGE + tokens_in(text) for _, text in turns)


def fingerprint(*parts: bytes) -> int:
    """A 64-bit hash of bytes."""
    return int.from_bytes(blake2b(b"\x1f".join(parts), digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """A 64-bit hash of a text."""
    return fingerprint(text.encode("utf-8", "surrogatepass"))


def keyed(part: str, *numbers: int) -> float:
    """A number in (0, 1) that is a pure function of its arguments: what the draw is for, and 64-bit hashes it hangs on."""
    return uniform(mixed(word_hash(part), *numbers))


word_hash = lru_cache(maxsize=4096)(text_hash)  # of the few words that draws are for


def mixed(*numbers: int) -> int:
    """64-bit hashes stirred into one (the finalizer of splitmix64)."""
    value = 0
    for number in numbers:
        value = (value ^ number) + 0x9E3779B97F4A7C15 & MASK
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
        value ^= value >> 31
    return value


def uniform(value: int) -> float:
    """A 64-bit hash as a number in (0, 1)."""
    return ((value >> 11) + 0.5) / (1 << 53)
