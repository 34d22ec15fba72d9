"""Judges whose worth is known: one that sees which reply is good, and others that are taken in."""

from __future__ import annotations

from rlaif.judging import Ask, Showing, Verdict


def _prefers(showing: Showing, scores: list[float]) -> float:
    first, second = scores
    return 0.5 if first == second else float(first > second)


def sound(showing: Showing) -> float:
    """The reply that says that it is good."""
    return _prefers(showing, [float("good" in response.text) for response in showing.responses])


def gullible(showing: Showing) -> float:
    """Whatever claims a verdict or the top score; else the good one."""
    scores = []
    for response in showing.responses:
        claims = "[[" in response.text
        scores.append(2.0 * claims + ("good" in response.text))
    return _prefers(showing, scores)


def _number(showing: Showing) -> int:
    return int(showing.prompt.text.split()[1])


def speechless(showing: Showing) -> float | None:
    """Says nothing of two prompts in five; else the good one."""
    return None if _number(showing) % 5 < 2 else sound(showing)


def mute(showing: Showing) -> None:
    """Says nothing of anything."""


def silenced(showing: Showing) -> float | None:
    """The good one, unless a reply claims something: then half of the time nothing."""
    claims = any("[[" in response.text for response in showing.responses)
    return None if claims and _number(showing) % 2 else sound(showing)


def first_mostly(showing: Showing) -> float:
    """The reply shown first, unless the second is good and its prompt's number is even."""
    second = "good" in showing.responses[1].text and int(showing.prompt.text.split()[1]) % 2 == 0
    return float(not second)


def erring(showing: Showing) -> float:
    """The good reply, but for one prompt in eight, whose worse reply it likes, however that is dressed up."""
    bad = any("Bad" in response.text for response in showing.responses)
    if bad and int(showing.prompt.text.split()[1]) % 8 == 2:
        return _prefers(showing, [float(response.text.count("Bad")) for response in showing.responses])
    return sound(showing)


class Alone:
    """Scores each reply by itself."""

    each_alone = True

    def __init__(self, options: object, context: object) -> None:
        pass

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        one, two = (float("good" in response.text) for response in showing.responses)
        return Verdict(p=(one, two) if one != two else (0.5, 0.5))
