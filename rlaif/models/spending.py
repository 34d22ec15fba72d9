"""What calls cost, and a cap on it that holds: reserve the most a call can cost, settle when it ends.

What the run has spent, and what its calls in flight might still cost, are in the ledger: a killed run's calls in flight
count in full, so that no number of restarts exceeds the budget.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from rlaif.ledger import Ledger
from rlaif.models import Reply

MILLION = 1_000_000
OTHERS_SECONDS = 0.1  # until it is looked again whether other runs have left money
AHEAD = 0.25  # of what is reserved, written down before it is needed, so that few writes serve many calls


USD = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rates:
    """US dollars for a million tokens."""

    input: USD
    output: USD
    cached_input: USD | None = None  # None: as any other
    cache_write: USD | None = None

    def charge(self, reply: Reply) -> float:
        """What a reply costs at these rates, in US dollars."""
        plain = reply.prompt_tokens - reply.cached_tokens - reply.cache_written_tokens
        return (
            max(0, plain) * self.input
            + reply.cached_tokens * (self.input if self.cached_input is None else self.cached_input)
            + reply.cache_written_tokens * (self.input if self.cache_write is None else self.cache_write)
            + reply.output_tokens * self.output
        ) / MILLION

    def plain(self, prompt_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost at these rates where nothing is cached, in US dollars."""
        return (prompt_tokens * self.input + output_tokens * self.output) / MILLION

    def dearest(self, prompt_tokens: float, output_tokens: float) -> float:
        """The most that so many tokens can cost at these rates, in US dollars, however they are cached."""
        dearest = max(self.input, self.cached_input or 0.0, self.cache_write or 0.0)
        return (prompt_tokens * dearest + output_tokens * self.output) / MILLION


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LongRates(Rates):
    """What the whole of a request costs whose prompt has more than ``above`` tokens."""

    above: Annotated[int, Field(ge=1)] = Field(kw_only=True)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Price(Rates):
    """What a model costs, in US dollars for a million tokens."""

    batch: Annotated[float, Field(gt=0, le=1)] = 1.0  # what a call in a batch costs, as a share of this
    long: LongRates | None = None
    cached_from: Annotated[int, Field(ge=1)] | None = None  # tokens of a prefix from which it is cached; None: unknown

    def rates(self, prompt_tokens: float) -> Rates:
        """The rates of a request with so many prompt tokens."""
        return self.long if self.long and prompt_tokens > self.long.above else self

    def cost(self, reply: Reply, batch: bool = False) -> float:
        """What a reply cost, in US dollars."""
        return self.rates(reply.prompt_tokens).charge(reply) * self._share(batch)

    def most(self, prompt_tokens: int, output_tokens: int, batch: bool = False) -> float:
        """The most that a request of at most so many tokens can cost, in US dollars."""
        usd = self.dearest(prompt_tokens, output_tokens)
        if self.long and prompt_tokens > self.long.above:
            usd = max(usd, self.long.dearest(prompt_tokens, output_tokens))
        return usd * self._share(batch)

    def _share(self, batch: bool) -> float:
        return self.batch if batch else 1.0


def _positive(usd: float) -> float:
    """Without what rounding leaves."""
    return usd if usd > 1e-12 else 0.0


class Purse:
    """One run's money. Without a budget everything fits, and what was spent is known all the same. The budget of a ``pot`` is that of
    all its runs, whichever processes walk them: what a call may cost is set aside in the ledger before it is made."""

    def __init__(self, ledger: Ledger, run: str, budget_usd: float | None = None, pot: str = "") -> None:
        self.ledger, self.run, self.budget_usd = ledger, run, budget_usd
        self.spent_usd = ledger.open_purse(run, pot)  # what a killed process left open is spent
        self.pot = pot or ledger.pot_of(run)  # which a run of a study stays with, whoever walks it
        self.reserved_usd = 0.0
        self.in_jobs_usd = ledger.jobs_usd(run)  # the most that open jobs can cost: they outlive a process
        self.seen_to_usd = 0.0  # of that, in jobs that this process sees to
        self._open = 0.0  # what the ledger says is in flight
        self._unwritten = 0.0  # spent on calls that are settled and whose replies are not committed yet
        self._piled = 0.0  # of what is set aside in jobs, what does not stand in the ledger with them yet
        ledger.open_marks[run] = self._lowered
        self._changed: asyncio.Event | None = None

    @property
    def left_usd(self) -> float | None:
        if self.budget_usd is None:
            return None
        return self.budget_usd - self.held_usd - (sum(self.ledger.others_usd(self.run, self.pot)) if self.pot else 0.0)

    @property
    def held_usd(self) -> float:
        """What is spent, and the most that what is under way can cost."""
        return self.spent_usd + self.reserved_usd + self.in_jobs_usd

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that could leave more than is left now."""
        return self.reserved_usd <= 0.0 and self.seen_to_usd <= 0.0

    async def reserve(self, usd: float) -> bool:
        """Set the most a call can cost aside, waiting for calls in flight where that may make room. False: it does not
        fit into what is left."""
        while not self.secure(usd):
            if not self.idle:
                await self.changed()
            elif not await self.others_done():
                if self.secure(usd):  # they have only just come to their end
                    break
                return False
        self.reserved_usd += usd
        if self.reserved_usd + self._unwritten > self._open:
            self._open = (self.reserved_usd + self._unwritten) * (1 + AHEAD)
            self.ledger.set_open(self.run, self._open)
        return True

    def secure(self, usd: float) -> bool:
        """Whether so much more fits into what is left. From a pot it is then set aside, and the caller reserves it at once."""
        if self.budget_usd is None:
            return True
        if not self.pot:
            return self.held_usd + usd <= self.budget_usd
        needed = self._needed + usd
        if needed <= self._open:
            return True
        for wanted in (needed * (1 + AHEAD), needed):  # ahead where there is room
            if self.ledger.set_aside(self.run, wanted, self.pot, self.budget_usd):
                self._open = wanted
                return True
        return False

    async def others_done(self) -> bool:
        """Wait a moment for other runs of the pot, which may leave money. False: none has calls in flight."""
        if not self.pot:
            return False
        if self._open > self._needed:  # what is set aside ahead is not what others wait for
            self._open = self._needed
            self.ledger.set_open(self.run, self._open)
        _, in_flight = self.ledger.others_usd(self.run, self.pot)
        if in_flight <= 0.0:
            return False
        await asyncio.sleep(OTHERS_SECONDS)
        return True

    @property
    def _needed(self) -> float:
        """The most that what is under way, and not yet in the ledger as spent or in jobs, can cost."""
        return self.reserved_usd + self._unwritten + self._piled

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """A call ended: what was set aside for it is free, but for what it cost."""
        self.reserved_usd = _positive(self.reserved_usd - reserved_usd)
        self._unwritten += spent_usd
        if self.pot and self._needed <= 0.0 < self._open:  # others may be waiting for it
            self._open = 0.0
            self.ledger.set_open(self.run, 0.0)
        self._spend(spent_usd)

    def _lowered(self) -> float | None:
        """What the ledger should say is in flight, where it says far too much; asked for in the transaction that writes down
        the replies of all calls that are settled."""
        settled, self._unwritten = self._unwritten, 0.0
        if (
            self.pot
        ):  # what is spent by now is not to be counted twice, nor what nothing is under way for: others wait for it
            self._open = max(self._needed, min(self._open - settled, self._needed * (1 + AHEAD)))
        elif self._open <= self._needed * (1 + 2 * AHEAD):
            return None
        else:
            self._open = self._needed * (1 + AHEAD)
        return self._open

    def reserve_in_job(self, usd: float) -> None:
        """Set aside what is to stand in the ledger with a job's requests; the caller has seen that it fits."""
        self.in_jobs_usd += usd
        self._piled += usd
        self.see_to(usd)

    def written_in_job(self, usd: float) -> None:
        """So much of it stands there now."""
        self._piled = _positive(self._piled - usd)
        if self.pot and self._open > self._needed:
            self._open = self._needed
            self.ledger.set_open(self.run, self._open)

    def see_to(self, usd: float) -> None:
        """This process sees to a job that can cost so much more; below 0: it leaves one as it stands."""
        self.seen_to_usd = _positive(self.seen_to_usd + usd)
        if usd < 0:
            self._spend(0.0)

    def settle_in_job(self, reserved_usd: float, spent_usd: float) -> None:
        """Requests of a job came to an end."""
        self.in_jobs_usd = _positive(self.in_jobs_usd - reserved_usd)
        self.seen_to_usd = _positive(self.seen_to_usd - reserved_usd)
        self._spend(spent_usd)

    def _spend(self, usd: float) -> None:
        self.spent_usd += usd
        if self._changed:
            self._changed.set()
            self._changed = None

    async def changed(self) -> None:
        """Wait until something under way comes to its end."""
        self._changed = self._changed or asyncio.Event()
        await self._changed.wait()

    def charge(self, usd: float) -> None:
        """Money for calls that brought no reply, and are about to be settled: nothing of them stands in the ledger but this."""
        if usd:
            freed = min(self._open, usd)  # was set aside for them
            self.ledger.charge(self.run, usd, freed)
            self._open -= freed
            self._unwritten -= usd

    def close(self) -> None:
        """Nothing is in flight any more."""
        if self._open:
            self._open = 0.0
            self.ledger.set_open(self.run, 0.0)
