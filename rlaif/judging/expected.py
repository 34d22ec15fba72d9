"""The distribution over scores that a model's next-token probabilities give, and its mean.

Liu et al. 2023 (G-Eval, 2303.16634) §2.3: score = Σ s·P(s), finer than the likeliest score and with fewer ties. Lee et
al. 2023 (RLAIF, 2309.00267) §2.2.2 take it as a reward. P is over the scores offered, divided by their mass together.

A score of two digits may be one token or two. As a sequence, P("10") = P("1")·P("0" after "1"), and what is left of
P("1") is P("1" and no digit): one question more for each first digit that two scores share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlaif.judging import Verdict
from rlaif.judging.logprobs import UNLISTED, Logprobs, fault_of, mass_of
from rlaif.judging.reading import option_masses, word_of

DIGITS = tuple("0123456789")


def shared_digits(scores: Sequence[int]) -> tuple[str, ...]:
    """First digits after which another may follow: of these the digits that come next have to be asked for."""
    return tuple(sorted({str(score)[0] for score in scores if score > 9}))


def first_words(scores: Sequence[int], *, by_digits: bool) -> tuple[str, ...]:
    """The words to offer as the next token: the scores, or their first digits."""
    return tuple(dict.fromkeys(str(score)[0] if by_digits else str(score) for score in scores))


def masses_of(scores: Sequence[int], first: Logprobs, following: Mapping[str, Logprobs]) -> list[float]:
    """Probability of each score as the next words; ``following`` are the candidates after each shared first digit.

    A score of two digits that some tokenizer writes as one token is counted where that token is listed.
    """
    whole = option_masses(first, [str(score) for score in scores])
    digit = dict(zip(DIGITS, option_masses(first, DIGITS), strict=True))
    found = []
    for score, mass in zip(scores, whole, strict=True):
        text = str(score)
        if text in following:
            mass *= max(0.0, 1.0 - sum(option_masses(following[text], DIGITS)))
        elif len(text) == 2 and text[0] in following:
            mass += digit[text[0]] * option_masses(following[text[0]], (text[1],))[0]
        found.append(mass)
    return found


def read_expected(
    scores: Sequence[int], first: Logprobs, following: Mapping[str, Logprobs], minimum_mass: float
) -> tuple[float, float] | Verdict:
    """(mean score, mass of the scores), or why there is none: too little mass, or scores that were not listed and could
    move the mean by more than ``UNLISTED`` of the scale."""
    for logprobs in (first, *following.values()):
        if fault := fault_of(logprobs):
            return Verdict(reason=fault)
    masses = masses_of(scores, first, following)
    if not following and (split := _may_be_split(scores, first, masses)):
        return Verdict(reason=split)
    mass = mass_of(masses, first, first_words(scores, by_digits=bool(following)), minimum_mass)
    if isinstance(mass, Verdict):
        return mass
    mean = math.fsum(score * each for score, each in zip(scores, masses, strict=True)) / mass
    return mean, min(mass, 1.0)


def _may_be_split(scores: Sequence[int], first: Logprobs, masses: Sequence[float]) -> str:
    """Why "1" may be the beginning of "10", if it may: it is likely, and no number of two digits is listed as a token."""
    if any(len(word) > 1 and word.isdecimal() for word in (word_of(text) for text, _ in first)):
        return ""
    for digit in shared_digits(scores):
        if option_masses(first, (digit,))[0] > UNLISTED * math.fsum(masses):
            longer = next(score for score in scores if score > 9 and str(score)[0] == digit)
            return f'"{longer}" may be two tokens, the first of them "{digit}": set by_digits, or a scale of one digit'
    return ""
