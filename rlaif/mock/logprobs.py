"""Log-probabilities as a real tokenizer has them: an option's mass is split over "A", " A" and "a"."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from rlaif.mock.talk import Answer, keyed

AS_IS, SPACED, LOWERED = 0.90, 0.08, 0.02  # how an option's mass is split
REST = 0.001  # of the mass at a verdict that falls to words that are no option
OTHER_WORDS = (("The", 0.6), ("I", 0.3), ("Both", 0.1))
UNLIKELY = -9999.0


def token_logprobs(answer: Answer, top: int) -> list[dict[str, Any]]:
    """One entry for each piece of the answer, each with its ``top`` likeliest tokens."""
    entries = []
    for place, piece in enumerate(answer.pieces):
        if place == answer.verdict:
            entries.append(_entry(piece, _candidates(answer.masses, piece), top))
        else:
            entries.append(_entry(piece, {piece: 0.6 + 0.4 * keyed(piece, place)}, top))
    return entries


def _candidates(masses: tuple[tuple[str, float], ...], piece: str) -> dict[str, float]:
    """Token -> probability where a verdict stands: options in their variants, and a few words that are none."""
    found: dict[str, float] = {}
    as_is, spaced = (SPACED, AS_IS) if piece.startswith(" ") else (AS_IS, SPACED)  # after a word a space comes first
    offered = sum(mass for _, mass in masses)
    rest = max(REST, 1 - offered)
    for word, mass in masses:
        share = mass * (1 - rest) / offered if offered else 0.0
        for token, part in ((word, as_is), (f" {word}", spaced), (word.lower(), LOWERED)):
            found[token] = found.get(token, 0.0) + share * part
    others = OTHER_WORDS if any(piece == token for token in found) else ((piece, 0.9), *OTHER_WORDS)
    scale = rest / sum(part for _, part in others)
    for token, part in others:
        found[token] = found.get(token, 0.0) + scale * part
    return found


def _entry(piece: str, candidates: dict[str, float], top: int) -> dict[str, Any]:
    likeliest = sorted(candidates.items(), key=lambda item: -item[1])[:top]
    return {**_token(piece, candidates[piece]), "top_logprobs": [_token(token, p) for token, p in likeliest]}


def _token(token: str, p: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(p) if p > 0 else UNLIKELY, "bytes": _bytes(token)}


@lru_cache(maxsize=4096)
def _bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "surrogatepass"))
