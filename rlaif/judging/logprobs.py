"""What next-token probabilities say of offered words, and when they say nothing.

An API lists only the likeliest tokens. A word that is not among them counts as 0; each of its tokens may have as much as
the least likely of those listed, and together no more than these leave of 1. Where that could move a share by more than
``UNLISTED`` the reply is unreadable: hardly ever with 20 tokens listed, more often with 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlaif.judging import Verdict
from rlaif.judging.reading import option_masses, word_of

Logprobs = Sequence[tuple[str, float]]  # candidates for the next token, each with its natural log-probability

UNLISTED = 0.05  # by which a share may be off because a word is not among the tokens that were listed
VARIANTS = 2  # tokens of a word that may have any mass to speak of: "A" and " A"
ABOVE_ONE = 1e-3  # logarithm by which rounding may lift a probability above 1


def shares_of(logprobs: Logprobs, words: Sequence[str], minimum_mass: float) -> tuple[list[float], float] | Verdict:
    """Each word's share of their mass together, and that mass; or a verdict that says why there is none."""
    if fault := fault_of(logprobs):
        return Verdict(reason=fault)
    masses = option_masses(logprobs, words)
    mass = mass_of(masses, logprobs, words, minimum_mass)
    return mass if isinstance(mass, Verdict) else ([each / mass for each in masses], min(mass, 1.0))


def fault_of(logprobs: Logprobs) -> str | None:
    """Why log-probabilities say nothing, if that is so."""
    if not logprobs:
        return "the provider sent no log-probabilities"
    if not all(value <= ABOVE_ONE for _, value in logprobs):  # nor is NaN
        return "a log-probability is not a number of at most 0"
    return None


def mass_of(masses: Sequence[float], logprobs: Logprobs, words: Sequence[str], minimum_mass: float) -> float | Verdict:
    """The masses together; or a verdict: below ``minimum_mass`` the model was not choosing between the words, and words
    that are not listed may have too much of it."""
    mass = math.fsum(masses)
    if mass < minimum_mass or mass <= 0:
        return Verdict(option_mass=min(mass, 1.0), reason=f"option mass below {minimum_mass:g}")
    listed = {word_of(text) for text, _ in logprobs}
    missing = sum(word.strip() not in listed for word in words)
    unknown = unlisted_mass(logprobs, missing) if missing else 0.0
    if unknown > UNLISTED * (mass + unknown):
        return Verdict(option_mass=min(mass, 1.0), reason="an option is not among the likeliest tokens listed")
    return mass


def unlisted_mass(logprobs: Logprobs, words: int = 1) -> float:
    """The most that so many words outside the list can have together. The least likely but one bounds each: the token
    that was drawn is listed too, however unlikely it was."""
    listed = sorted(math.exp(value) for _, value in logprobs)
    return min(VARIANTS * words * listed[:2][-1], max(0.0, 1.0 - sum(listed)))
