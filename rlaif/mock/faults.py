"""What can go wrong with a reply, by name, and which attempt it happens to.

A fault is written ``NAME=RATE`` (that share of attempts, each by a draw keyed by the seed, the request's content and how
often it was asked before) or ``NAME=first:K`` (the first K attempts of every request). At most one fault befalls an
attempt, and which one depends on nothing else: neither on the order of requests nor on how many are in flight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rlaif.errors import did_you_mean


@dataclass(frozen=True, slots=True)
class Fault:
    """``spoils``: the reply was written by the model (and is billed), yet nobody can use what arrives."""

    name: str
    effect: str
    status: int = 200
    spoils: bool = False


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("429", "refused: too many requests, with Retry-After", 429),
        Fault("429-bare", "refused: too many requests, no Retry-After", 429),
        Fault("500", "internal error", 500),
        Fault("502", "a proxy's error page", 502),
        Fault("503", "service unavailable", 503),
        Fault("529", "overloaded", 529),
        Fault("reset", "connection reset before the first byte", spoils=True),
        Fault("reset-mid", "connection reset in the middle of the body", spoils=True),
        Fault("truncated", "JSON that stops half way", spoils=True),
        Fault("malformed", "a body that is not JSON", spoils=True),
        Fault("content-type", "the right JSON called text/plain", spoils=True),
        Fault("html", "an HTML page with status 200", spoils=True),
        Fault("slow", "nothing is sent for --fault-seconds"),
        Fault("drip", "the body drips in over --fault-seconds"),
        Fault("huge", "a reply of 10 MB"),
        Fault("empty", "a reply without text"),
        Fault("length", "cut off half way: finish reason length, or stop reason max_tokens"),
        Fault("content-filter", "withheld: finish reason content_filter, or stop reason refusal"),
        Fault("refusal", "the model declines in its own words"),
        Fault("neither", "a judge that settles on no option"),
        Fault("no-logprobs", "log-probabilities asked for and left out"),
        Fault("clock", "the Date header is hours off, either way"),
        Fault("batch-failed", "a line of a batch fails with status 500"),
        Fault("batch-expired", "a line of a batch is not reached in time"),
    )
}
LINES_ONLY = ("batch-failed", "batch-expired")
IN_CALLS = frozenset(FAULTS).difference(LINES_ONLY)
IN_REQUESTS = IN_CALLS.difference(  # what can befall a request that calls no model: files, batches, counting
    ("huge", "empty", "length", "content-filter", "refusal", "neither", "no-logprobs")
)
IN_BATCHES = frozenset(  # what can befall a line of a batch; the provider itself sees to the rest
    (*LINES_ONLY, "empty", "length", "content-filter", "refusal", "neither", "no-logprobs", "huge")
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which fault an attempt meets, if any."""

    first: tuple[tuple[int, Fault], ...]  # up to which attempt
    shares: tuple[tuple[float, Fault], ...]  # cumulative, in the order of FAULTS

    def drawn(self, attempt: int, u: float) -> Fault | None:
        """The fault of the ``attempt``-th attempt (from 1) of a request; ``u`` is its draw, uniform in [0, 1)."""
        for last, fault in self.first:
            if attempt <= last:
                return fault
        for share, fault in self.shares:
            if u < share:
                return fault
        return None

    def only(self, names: Iterable[str]) -> Plan:
        """The plan of these faults alone, at their own rates."""
        kept = set(names)
        starts = [0.0, *(end for end, _ in self.shares)]
        rates = [(end - start, fault) for start, (end, fault) in zip(starts, self.shares, strict=False)]
        return Plan(
            tuple(item for item in self.first if item[1].name in kept),
            tuple(_cumulative([item for item in rates if item[1].name in kept])),
        )


def parse_faults(texts: Iterable[str]) -> Plan:
    """``NAME=RATE`` and ``NAME=first:K`` as a plan. Raises ValueError with one line that says what would do."""
    first: dict[str, int] = {}
    rates: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in FAULTS:
            known = did_you_mean(name, FAULTS) or f" Known: {', '.join(FAULTS)}."
            raise ValueError(f'unknown fault "{name}".{known}')
        if not equals:
            raise ValueError(f'fault "{text}" has no rate: write {name}=0.05, or {name}=first:2.')
        if name in rates or name in first:
            raise ValueError(f'fault "{name}" is given twice.')
        if value.startswith("first:"):
            first[name] = _attempts(text, value.removeprefix("first:"))
        else:
            rates[name] = _rate(text, value)
    if sum(rates.values()) > 1 + 1e-9:
        raise ValueError(f"the rates of the faults add up to {sum(rates.values()):g}: at most 1, one fault an attempt.")
    return Plan(
        tuple((first[name], FAULTS[name]) for name in FAULTS if name in first),
        tuple(_cumulative([(rates[name], FAULTS[name]) for name in FAULTS if name in rates])),
    )


def _cumulative(rates: list[tuple[float, Fault]]) -> Iterable[tuple[float, Fault]]:
    end = 0.0
    for rate, fault in rates:
        end += rate
        yield end, fault


def _attempts(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f'fault "{text}": after "first:" stands how many attempts fail, for instance first:2.')
    return int(value)


def _rate(text: str, value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise ValueError(f'fault "{text}": a rate is a number from 0 to 1, or first:K.')
    return rate
