"""Prompt caching as providers bill it: which beginning of a prompt has been seen before.

Each worker remembers its own, as a provider's machines do.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from rlaif.mock.talk import tokens_in

BLOCK = 512  # characters, 128 tokens: the steps in which OpenAI counts cached tokens
REMEMBERED = 200_000  # prefixes
LIFETIME = 300.0  # seconds since last use


class PrefixCache:
    """``minimum``: tokens below which nothing is cached."""

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum
        self._used: dict[bytes, float] = {}  # prefix -> when last used, in seconds

    def automatic(self, prompt: str, now: float) -> int:
        """Tokens of the longest beginning seen before, in whole blocks (OpenAI: no marks, nothing to pay)."""
        if tokens_in(prompt) < max(self._minimum, tokens_in("x" * BLOCK)):
            return 0
        hasher, cached, going = blake2b(digest_size=8), 0, True
        for end in range(BLOCK, len(prompt) + 1, BLOCK):
            hasher.update(prompt[end - BLOCK : end].encode("utf-8", "surrogatepass"))
            going = self._touch(hasher.digest(), now) and going
            cached = tokens_in(prompt[:end]) if going else cached
        return cached if cached >= self._minimum else 0

    def marked(self, prompt: str, marks: Sequence[int], now: float) -> tuple[int, int]:
        """(read, written) tokens of a prompt whose prefixes up to ``marks`` are to be cached (Anthropic)."""
        read = written = 0
        for end in marks:
            size = tokens_in(prompt[:end])
            if size < self._minimum:
                continue
            seen = self._touch(blake2b(prompt[:end].encode("utf-8", "surrogatepass"), digest_size=9).digest(), now)
            read, written = (size, written) if seen else (read, size)
        return read, max(written - read, 0)

    def _touch(self, prefix: bytes, now: float) -> bool:
        """Whether the prefix is known; it is from now on."""
        if len(self._used) > REMEMBERED:
            self._used.clear()
        then, self._used[prefix] = self._used.get(prefix), now
        return then is not None and now - then < LIFETIME
