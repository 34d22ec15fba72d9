"""How fast to call: pure bookkeeping of limits, refusals and outages. Nothing here waits or knows a network.

Every method takes ``now``, seconds of one monotonic clock, so that a test can let a minute pass.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from statistics import fmean

from pydantic import Field

from rlaif.component import Options
from rlaif.models import Headroom

LONGEST_RETRY_AFTER = 300.0  # seconds that a provider may ask to wait
MAYBE_BILLED = ("lost", "garbled")  # faults of attempts that brought no reply and may have been billed
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # before something is tried again, at most, where the provider names no time
SMOOTH_SECONDS = 1.0  # a limit of our own is spent in steps of this much, not a minute at once


def delay_before(tries: int, retry_after: float | None) -> float:
    """Seconds until something that failed ``tries`` times is tried again: what the provider asks for, else full jitter
    (Brooker 2015)."""
    if retry_after is not None:
        return min(LONGEST_RETRY_AFTER, retry_after) + random.uniform(0.0, 0.1)
    return random.uniform(0.0, min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** max(0, tries - 1)))


class Pace(Options):
    """How a model behind an API may be called."""

    max_in_flight: int = Field(default=256, ge=1, le=65_536)
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # of prompt, and reply at most
    timeout_seconds: float = Field(default=120.0, gt=0, allow_inf_nan=False)  # of one attempt, to the last byte
    attempts: int = Field(default=6, ge=1)  # of one call, before it counts as failed
    patience_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)  # without an answer, before giving up


class InJobs(Options):
    """Requests go through the provider's batch API: at half the price, within a day."""

    poll_seconds: float = Field(default=15.0, gt=0, le=3600)  # until the first look at a job; later ones are rarer
    lines: int | None = Field(default=None, ge=1)  # requests in a job at most; None: as many as the provider takes


class Bucket:
    """Requests, or tokens, that may be sent: fills continuously; what is taken beyond its level is owed and waited for.

    Without a limit nothing waits. Headers set it: what the provider says is left, less what it has not counted yet.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.own = per_minute  # the user's limit: headers may lower it, never raise it
        self.rate = 0.0  # a second; 0: no limit
        self.room = self.level = 0.0
        self.updated = 0.0
        self.outstanding = 0.0  # taken, and not yet answered
        if per_minute:
            self._limit(per_minute / 60, SMOOTH_SECONDS * per_minute / 60)
            self.level = self.room

    def _limit(self, rate: float, room: float) -> None:
        self.rate, self.room = rate, max(room, 1.0)

    def take(self, cost: float, now: float) -> float:
        """Take ``cost``; seconds to wait before it may be sent."""
        self.outstanding += cost
        if not self.rate:
            return 0.0
        self._fill(now)
        self.level -= min(cost, max(self.room, 60 * self.rate))  # what is larger than a minute's limit would never fit
        return max(0.0, -self.level / self.rate)

    def ended(self, cost: float) -> None:
        """What was taken is now counted by the provider, or was never sent."""
        self.outstanding = max(0.0, self.outstanding - cost)

    def told(self, limit: int | None, left: int | None, reset: float | None, now: float) -> None:
        """What a header said when it answered: the limit a minute, what is left, seconds until all of it is back."""
        if not limit or left is None:
            return
        rate = limit / 60
        room = left + (reset or 0.0) * rate
        if self.own and self.own / 60 <= rate:
            return
        self._fill(now)
        self._limit(rate, room)
        self.level = min(self.room, left - self.outstanding)
        self.updated = now

    def _fill(self, now: float) -> None:
        self.level = min(self.room, self.level + max(0.0, now - self.updated) * self.rate)
        self.updated = now


FIRST = 16  # calls in flight until the first has ended
MUCH = 0.25  # share of refusals, above what falls evenly on all, that shows a limit
NEARLY = 0.6  # of the refusals before: as many
FADING = 0.1  # of what a cohort had refused less than usual, by which the usual share falls
ALIKE = 3  # times that fewer calls must bring the same refusals, before those count as noise
GROWTH, MOST_GROWTH = 0.005, 0.1  # of a found rate after each cohort, more the longer none had too many refused
USED = 0.8  # of a found rate, which calls must be sent at before it grows
FEW = 16.0  # answered calls by which a rate is found, at least
UNSURE = 1.0  # over their number: growth that makes up for a poor estimate
SEARCHING = ((64, 0.02), (16, 10.0))  # calls of a cohort, in so many seconds at least
HOLDING = ((256, 0.5), (128, 2.0), (16, 10.0))  # likewise, under a rate that was found
LITTLE = 0.01  # share that a found rate may have refused before it is lowered


@dataclass(slots=True)
class Cohort:
    """Calls that were sent one after the other. Refusals are quicker than answers: only a whole cohort has a share."""

    start: float
    sent: int = 0
    ended: int = 0
    refused: int = 0
    seconds: float | None = None  # from its first call to the next cohort's


class Finder:
    """Finds a rate that a provider allows and does not name, from the calls it refuses.

    Refusals that fall evenly on calls are noise: each delays its own call and nothing else. A large share of them means
    a limit, and what was answered meanwhile is what it allows. If holding back to that changes nothing, it was noise.
    """

    def __init__(self) -> None:
        self.rate: float | None = None  # calls a second; None: no limit found
        self.floor = 0.0  # share of refusals that does not depend on the rate
        self._alike = False  # whether fewer calls have so far meant as many refusals
        self._latency = 0.0  # seconds that an answer takes, as a running mean
        self._growth = GROWTH
        self._calm = 0  # cohorts in a row, without too many refusals
        self._shares: list[float] = []  # of refusals, since the rate was first lowered
        self._original: float | None = None  # the rate before that
        self._cohort: Cohort | None = None
        self._next = self._changed = 0.0  # when the next call may go; when the rate was set

    def wait(self, now: float) -> float:
        """Seconds until the next call may be sent."""
        if self.rate is None:
            return 0.0
        start = max(self._next, now)
        self._next = start + 1 / self.rate
        return start - now

    def sent(self, now: float) -> Cohort:
        """A call is sent now; hand what is returned back when it ends."""
        cohort = self._cohort
        if cohort is None or self._full(cohort, now):
            if cohort is not None:
                cohort.seconds = now - cohort.start
            cohort = self._cohort = Cohort(now)
        cohort.sent += 1
        return cohort

    def _full(self, cohort: Cohort, now: float) -> bool:
        """Whether its share will say something; it lasts as long as an answer takes, for those come in bursts."""
        seconds = now - cohort.start
        searching = self.rate is None or (self._alike and self._shares[-1] > MUCH)
        enough = SEARCHING if searching else HOLDING
        return seconds >= self._latency and any(cohort.sent >= calls and seconds >= least for calls, least in enough)

    def pause(self, refused: bool) -> float:
        """Seconds that a place in flight stays empty after a call: refusals are quick, and must not make for more calls than
        answers would."""
        cohort = self._cohort
        crowded = refused and cohort and cohort.sent >= FIRST and cohort.refused > MUCH * cohort.sent
        return self._latency if crowded else 0.0

    def ended(self, cohort: Cohort, refused: bool, now: float, seconds: float) -> None:
        """A call of ``cohort`` was refused for its rate, or came to another end, ``seconds`` after it was sent."""
        if not refused:
            self._latency += (seconds - self._latency) * (0.05 if self._latency else 1.0)
        cohort.ended += 1
        cohort.refused += refused
        if cohort.seconds and cohort.ended == cohort.sent and cohort.start >= self._changed:
            self._judge(cohort.refused / cohort.sent, cohort.sent / cohort.seconds, cohort.sent, now)

    def _judge(self, share: float, rate: float, calls: int, now: float) -> None:
        """A cohort of ``calls``, sent at ``rate`` a second, had this share refused."""
        usual = max(self.floor, 1 / calls)
        chance = 2 * math.sqrt(usual * (1 - usual) / calls)
        answered = calls * (1 - share)
        if self._alike and share > NEARLY * fmean(self._shares):
            self._shares += [share] if answered >= FEW else []
            if len(self._shares) > ALIKE:  # ever fewer calls, and as many of them refused
                self.floor, self.rate, self._alike = fmean(self._shares), self._original, False
            else:
                self._set(rate / calls, answered, now)
        elif share > self.floor + (MUCH if self.rate is None else LITTLE + chance):
            self._shares, self._original, self._alike = [share], self.rate, True
            self._set(rate / calls / (1 - self.floor), answered, now)
        else:
            self._alike = False
            self.floor = min(self.floor, self.floor + FADING * (share - self.floor))
            if self.rate and rate > USED * self.rate:
                self._calm += 1
                self.rate *= 1 + min(MOST_GROWTH, self._growth * self._calm)

    def _set(self, per_call: float, answered: float, now: float) -> None:
        """Hold to the rate at which so many calls were answered; what fewer than FEW would tell is mostly chance."""
        answered = max(FEW, answered)
        self._next = self._changed = max(now, self._next)  # until then go those that wait already
        self.rate, self._cohort, self._calm = max(per_call * answered, 0.1), None, 0
        self._growth = max(GROWTH, UNSURE / answered)


WINDOW = 64  # ends of calls over which overload is counted


class Concurrency:
    """How many calls may be in flight: a few until the first has ended, then up to ``most``, fewer while the server says
    that it is overloaded."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(most, FIRST)
        self._begun = False
        self._count = self._overloaded = 0

    def ended(self, overloaded: bool) -> None:
        """A call came to an end; whether that was for too much load."""
        if not self._begun:
            self._begun, self.limit = True, self.most
        self._count += 1
        self._overloaded += overloaded
        if self._count < min(WINDOW, max(8, self.limit)):
            return
        share = self._overloaded / self._count
        if share > 0.5:
            self.limit = max(1, self.limit // 2)
        elif share < 0.1:
            self.limit = min(self.most, self.limit + max(1, self.limit // 4))
        self._count = self._overloaded = 0


TRIP = 10  # failures in a row, with no success between them, that mean an outage
LONG_PAUSE, LONGEST_PAUSE = 4.0, 30.0


class Breaker:
    """Pauses all calls in an outage; one is made after each pause, to see whether it is over."""

    def __init__(self, patience_seconds: float) -> None:
        self.patience = patience_seconds
        self.open_since: float | None = None
        self.pause = 0.5  # seconds before the next call
        self.why = ""  # how the last call failed
        self._in_row = 0
        self._first = 0.0  # when the row began

    @property
    def open(self) -> bool:
        return self.open_since is not None

    @property
    def long(self) -> bool:
        """Whether the outage has lasted long enough to be told of."""
        return self.open and self.pause >= LONG_PAUSE

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        self.open_since, self.pause, self._in_row = None, 0.5, 0

    def failed(self, now: float, why: str = "") -> None:
        """A call met an outage: no connection, no answer, an overloaded server, or a page that is no answer."""
        self.why = why
        self._first = self._first if self._in_row else now
        self._in_row += 1
        if self.open_since is None and self._in_row >= TRIP:
            self.open_since = self._first

    def lengthen(self) -> None:
        """The call after a pause failed too."""
        self.pause = min(LONGEST_PAUSE, 2 * self.pause)

    def gone(self, now: float) -> bool:
        """Whether the outage has lasted longer than anyone would wait."""
        return self.open_since is not None and now - self.open_since >= self.patience


@dataclass
class Gate:
    """All that decides when a route may take another call."""

    pace: Pace
    share: float = 1.0  # of the model's calls in flight
    requests: Bucket = field(init=False)
    tokens: Bucket = field(init=False)
    finder: Finder = field(default_factory=Finder)
    concurrency: Concurrency = field(init=False)
    breaker: Breaker = field(init=False)
    _refused_since: float | None = None

    def __post_init__(self) -> None:
        requests, tokens = self.pace.requests_per_minute, self.pace.tokens_per_minute
        self.requests = Bucket(requests and requests * self.share)
        self.tokens = Bucket(tokens and tokens * self.share)
        self.concurrency = Concurrency(max(1, round(self.pace.max_in_flight * self.share)))
        self.breaker = Breaker(self.pace.patience_seconds)

    def answered(self) -> None:
        """A call got its reply."""
        self._refused_since = None

    def refused_for(self, now: float) -> float:
        """A call was refused for its rate: seconds for which all others were too."""
        self._refused_since = now if self._refused_since is None else self._refused_since
        return now - self._refused_since

    def take(self, tokens: float, now: float) -> float:
        """Count a call that is about to be made; seconds to wait before it may be sent."""
        return max(self.requests.take(1.0, now), self.tokens.take(tokens, now), self.finder.wait(now))

    def ended(self, tokens: float, headroom: Headroom | None, now: float) -> None:
        """A call that was taken came to an end; ``headroom`` is what its answer said."""
        self.requests.ended(1.0)
        self.tokens.ended(tokens)
        if headroom:
            self.requests.told(headroom.requests_limit, headroom.requests_left, headroom.requests_reset, now)
            self.tokens.told(headroom.tokens_limit, headroom.tokens_left, headroom.tokens_reset, now)
