"""A canary for hosted models that change under their name: some of what a judge answered before is asked again.

Replies of another day are used again from the ledger, beside new ones. If the model behind the name has changed meanwhile,
the labels of a run mix two judges. So, at the start of a run, a few comparisons whose replies are at least half a day old
are asked again, once a day at most, and the verdicts compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlaif.errors import CallError, CallFailed
from rlaif.judging import Question, Showing, Verdict
from rlaif.ledger import Ledger
from rlaif.models import ChatRequest, Reply, request_key
from rlaif.models.gateway import Gateway

OLD_SECONDS = 12 * 3600.0
DAY = 86_400
LEAST = 4  # comparisons with an old reply, below which nothing is said
CHANGED = 0.25  # share of verdicts that are others now, above which it is said; two or more
MOVED = 0.1  # likewise, by which p of the other verdicts is off on average
NOT_OLD = "no old reply"

Asked = tuple[Showing, Callable[[Question], ChatRequest]]


@dataclass(frozen=True)
class Drift:
    """The verdicts on the same questions, before and now."""

    model: str
    since: float  # Unix time of the oldest reply
    before: list[Verdict]
    now: list[Verdict]

    @property
    def changed(self) -> int:
        """Verdicts that prefer another response, or that can be read only before or only now."""
        return sum(_order(one) != _order(other) for one, other in zip(self.before, self.now, strict=True))

    @property
    def moved(self) -> float:
        """By how much p is another, on average over the verdicts that are the same."""
        pairs = zip(self.before, self.now, strict=True)
        both = [(one.p[0], other.p[0]) for one, other in pairs if one.p and other.p and _order(one) == _order(other)]
        return fmean(abs(a - b) for a, b in both) if both else 0.0

    def line(self) -> str | None:
        """A line for a person where the model seems to have changed."""
        n = len(self.before)
        if n < LEAST or not ((self.changed >= 2 and self.changed > CHANGED * n) or self.moved > MOVED):
            return None
        day = time.strftime("%Y-%m-%d", time.gmtime(self.since))
        return (
            f"Careful: {self.model} answers otherwise than on {day}, when replies in the ledger were made: of {n} questions "
            f"asked again, {self.changed} verdicts are others now, and p of the rest is off by {self.moved:.2f} on average. Labels from "
            "those replies and new ones are of two judges; a ledger of its own (--set ledger=FILE) asks everything anew."
        )


def _order(verdict: Verdict) -> tuple[tuple[int, ...], ...]:
    """Who is better than whom; nothing where that cannot be read."""
    return verdict.groups(len(verdict.p)) if verdict.p else verdict.ranking


async def drift(
    protocol: Any, model: Any, gateway: Gateway, asked: Iterable[Asked], context: dict[str, Any], probes: int
) -> Drift | None:
    """Ask again the first ``probes`` of ``asked`` that have old replies, all at once; None where nothing has."""
    epoch = int(time.time() // DAY)
    since: list[float] = []
    before: list[Verdict] = []
    old: list[Asked] = []
    for showing, request in asked:
        if len(old) == probes:
            break
        dates: list[float] = []

        async def stored(question: Question, request: Any = request, dates: list[float] = dates) -> Reply:
            return _old_reply(gateway.ledger, request_key(request(question), model.identity), dates)

        try:
            before.append(await protocol.judge(showing, stored))
        except CallError:
            continue  # never asked, or not long ago
        old.append((showing, request))
        since += dates

    async def anew(showing: Showing, request: Callable[[Question], ChatRequest]) -> Verdict | None:
        async def again(question: Question) -> Reply:
            _, reply = await gateway.ask(model, request(question).model_copy(update={"probe_epoch": epoch}), context)
            return reply

        try:
            verdict: Verdict = await protocol.judge(showing, again)
        except CallError:
            return None  # it cannot be asked now, which the run itself will say
        return verdict

    verdicts = await gateway.gather([model], [anew(*each) for each in old])
    kept = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    if not kept:
        return None
    now = [verdict for verdict in verdicts if verdict is not None]
    return Drift(model.identity.name, min(since), [before[i] for i in kept], now)


def _old_reply(ledger: Ledger, key: str, dates: list[float]) -> Reply:
    """A reply that is old enough to be doubted. Raises CallFailed where there is none."""
    entry = ledger.get([key]).get(key)
    if entry is None or entry.created > time.time() - OLD_SECONDS or entry.reply.finish_reason == "refused":
        raise CallFailed(NOT_OLD)
    dates.append(entry.created)
    return entry.reply
