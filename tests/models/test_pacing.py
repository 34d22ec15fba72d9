"""How fast to call, against a simulated server and a clock that the test moves."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.models import Headroom
from rlaif.models.pacing import Breaker, Bucket, Concurrency, Gate, Pace

Server = Callable[[float], tuple[bool, Headroom | None]]  # time of arrival -> refused, what its headers say


@dataclass
class Seen:
    """What a simulated run came to."""

    calls: int
    refused: int
    seconds: float

    @property
    def rate(self) -> float:
        return (self.calls - self.refused) / self.seconds

    @property
    def refused_share(self) -> float:
        return self.refused / self.calls


def simulate(server: Server, seconds: float, pace: Pace, *, latency: float = 0.05, start: float = 0.0) -> Seen:
    """A gate before a server, workers always busy; refusals come back after half the latency. Seen from ``start`` on."""
    gate = Gate(pace)
    seen = Seen(0, 0, seconds - start)
    now, order, busy = 0.0, 0, 0
    events: list[tuple[float, int, str, Any]] = []

    def plan(at: float, what: str, about: Any) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (at, order, what, about))

    while now < seconds:
        while busy < gate.concurrency.limit:
            busy += 1
            plan(now + gate.take(100.0, now), "sent", None)
        now, _, what, about = heapq.heappop(events)
        if what == "free":
            busy -= 1
            continue
        if what == "sent":
            refused, headroom = server(now)
            cohort = gate.finder.sent(now)
            plan(now + (latency / 2 if refused else latency), "ended", (cohort, refused, headroom, now))
            continue
        cohort, refused, headroom, sent = about
        seen.calls += now >= start
        seen.refused += refused and now >= start
        gate.ended(100.0, headroom, now)
        gate.finder.ended(cohort, refused, now, now - sent)
        plan(now + gate.finder.pause(refused), "free", None)
        gate.concurrency.ended(overloaded=False)
    return seen


def limited(per_second: float, room: float, *, headers: bool) -> Server:
    """A bucket that fills continuously and starts full."""
    level, then = room, 0.0

    def serve(now: float) -> tuple[bool, Headroom | None]:
        nonlocal level, then
        level, then = min(room, level + (now - then) * per_second), now
        refused = level < 1
        level -= 0 if refused else 1
        said = Headroom(int(per_second * 60), int(level), (room - level) / per_second) if headers else None
        return refused, said

    return serve


def careless(share: float, seed: int = 0) -> Server:
    """Refuses this share of calls, whatever their rate."""
    rng = Random(seed)
    return lambda now: (rng.random() < share, None)


@pytest.mark.parametrize("per_second", [20, 400, 2500])
def test_a_limit_that_headers_name_is_used_and_hardly_ever_hit(per_second: float) -> None:
    """256 in flight at 50 ms offer twice the largest of these limits, or more. At first the whole room may be used."""
    seen = simulate(limited(per_second, per_second, headers=True), 20, Pace())
    allowed = per_second * 21 / 20
    assert 0.9 * per_second < seen.rate <= allowed + 1
    assert seen.refused_share < 0.02


@pytest.mark.parametrize(
    ("per_second", "noise", "latency"),
    [(50, 0.0, 0.05), (400, 0.0, 0.05), (2500, 0.0, 0.05), (400, 0.05, 0.05), (2500, 0.05, 0.05), (50, 0.0, 2.0)],
)
def test_a_limit_that_nothing_names_is_found(per_second: float, noise: float, latency: float) -> None:
    """Refusals that fall evenly on calls, besides, do not keep it from being found, nor drive the rate down; nor does an
    answer that takes long, so that calls come in bursts."""
    bucket, evenly = limited(per_second, per_second, headers=False), careless(noise)
    server: Server = lambda now: said if (said := evenly(now))[0] else bucket(now)  # noqa: E731
    seen = simulate(server, 90, Pace(), latency=latency, start=30)
    assert seen.rate > 0.9 * per_second
    assert seen.refused_share < noise + 0.05


def test_of_ten_thousand_calls_few_are_refused_before_a_limit_is_found() -> None:
    """At half of what is offered."""
    pace = Pace(max_in_flight=64)
    offered = simulate(careless(0.0), 10, pace).rate
    seen = simulate(limited(offered / 2, offered / 2, headers=False), 20_000 / offered, pace)
    assert seen.calls > 9_000
    assert seen.refused_share < 0.03
    assert seen.rate > 0.9 * offered / 2


def test_a_limit_that_is_raised_is_found_again() -> None:
    low, high = (limited(per_second, per_second, headers=False) for per_second in (200, 600))
    seen = simulate(lambda now: low(now) if now < 30 else high(now), 120, Pace(), start=90)
    assert seen.rate > 0.9 * 600


def test_refusals_that_end_are_not_taken_for_usual_for_ever() -> None:
    """Afterwards a limit shows itself in a share of refusals that was usual before."""
    evenly, bucket = careless(0.3), limited(400, 400, headers=False)
    seen = simulate(lambda now: evenly(now) if now < 20 else bucket(now), 120, Pace(), start=60)
    assert seen.rate > 0.9 * 400
    assert seen.refused_share < 0.1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_refusals_that_fall_evenly_slow_nothing_down(share: float) -> None:
    free = simulate(careless(0.0), 20, Pace())
    seen = simulate(careless(share), 20, Pace())
    assert seen.rate > 0.9 * free.rate * (1 - share)


def test_an_own_limit_is_kept_where_headers_would_allow_more() -> None:
    seen = simulate(limited(1000, 1000, headers=True), 20, Pace(requests_per_minute=6000))
    assert seen.rate == pytest.approx(100, rel=0.08)  # a second's worth at once, and those in flight at the end
    assert seen.refused == 0


def test_an_own_limit_of_tokens_is_kept() -> None:
    seen = simulate(careless(0.0), 20, Pace(tokens_per_minute=600_000))  # 100 calls of 100 tokens a second
    assert seen.rate == pytest.approx(100, rel=0.08)


@given(st.floats(1, 5000), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 50)), min_size=1, max_size=60))
def test_no_stretch_of_time_sees_more_than_a_bucket_allows(rate: float, steps: list[tuple[float, float]]) -> None:
    """Whatever is taken and when, by calls of whatever size: what is sent by any moment is at most the room and what flowed
    in since the start."""
    bucket = Bucket(rate * 60)
    now, sent = 0.0, []
    for pause, cost in steps:
        now += pause
        sent.append((now + bucket.take(cost, now), min(cost, 60 * rate)))
    for moment, _ in sent:
        total = sum(cost for at, cost in sent if at <= moment)
        assert total <= bucket.room + rate * moment + 1e-6 * (1 + total)


def test_calls_larger_than_a_second_of_a_limit_of_tokens_are_kept_to_it() -> None:
    bucket, waited = Bucket(30_000), 0.0
    for _ in range(60):
        waited = max(waited, bucket.take(4_512.0, 0.0))
    assert waited == pytest.approx((60 * 4_512 - 500) / 500)  # 500 at once, and 500 a second


def test_a_header_that_says_nothing_is_left_asks_for_a_wait_of_its_rate() -> None:
    bucket = Bucket(None)
    assert bucket.take(1, 0.0) == 0.0
    bucket.ended(1)
    bucket.told(600, 0, 60.0, 10.0)  # ten a second, none left
    assert bucket.take(1, 10.0) == pytest.approx(0.1)
    assert bucket.take(1, 10.0) == pytest.approx(0.2)
    assert bucket.take(1, 10.5) == 0.0  # five have flowed in, two were owed


def test_what_is_in_flight_counts_as_not_yet_seen_by_the_provider() -> None:
    bucket = Bucket(None)
    for _ in range(5):
        bucket.take(1, 0.0)
    bucket.ended(1)
    bucket.told(60, 6, 10.0, 0.0)  # six left by its count; four of ours may not be in it
    assert [bucket.take(1, 0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(1.0)]


def test_concurrency_falls_while_the_server_is_overloaded_and_comes_back() -> None:
    concurrency = Concurrency(256)
    for _ in range(64):
        concurrency.ended(True)
    assert concurrency.limit == 128
    for _ in range(64 * 8):
        concurrency.ended(True)
    assert concurrency.limit == 1
    for _ in range(64 * 40):
        concurrency.ended(False)
    assert concurrency.limit == 256


def test_concurrency_does_not_fall_for_a_few_errors() -> None:
    concurrency, rng = Concurrency(256), Random(1)
    for _ in range(5000):
        concurrency.ended(rng.random() < 0.1)
    assert concurrency.limit == 256


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(patience_seconds=60)
    for turn in range(9):
        breaker.failed(turn)
    breaker.succeeded()
    for turn in range(9):
        breaker.failed(10 + turn)
    assert not breaker.open
    breaker.failed(19)
    assert breaker.open
    assert not breaker.gone(69)
    assert breaker.gone(70)  # sixty seconds after the first of the row
    breaker.succeeded()
    assert not breaker.open


def test_pauses_of_an_outage_grow_to_half_a_minute() -> None:
    breaker = Breaker(60)
    pauses = []
    for _ in range(8):
        pauses.append(breaker.pause)
        breaker.lengthen()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
