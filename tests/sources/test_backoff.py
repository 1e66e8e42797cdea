"""How long is waited after a failure, and when a source is looked at again."""

from __future__ import annotations

import asyncio
import threading

import pytest

from reconciler.clock import monotonic
from reconciler.sources.backoff import Backoff
from reconciler.sources.timetable import Timetable


def test_it_doubles_up_to_a_cap() -> None:
    """Each failure in a row waits twice as long as the one before, up to the cap."""
    backoff = Backoff(lambda: 1.0, first_s=1, cap_s=20)
    assert [backoff.failed() for _ in range(7)] == [1, 2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize(("random", "expected"), [(0.0, [0.5, 1, 2]), (0.5, [0.75, 1.5, 3])])
def test_jitter_is_between_half_and_all_of_a_step(random: float, expected: list[float]) -> None:
    """The wait is between half of the step and all of it."""
    backoff = Backoff(lambda: random, first_s=1)
    assert [backoff.failed() for _ in range(3)] == expected


def test_success_forgets() -> None:
    """After a success the next failure waits a short time again."""
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.failed()
    backoff.succeeded()
    assert (backoff.failures, backoff.failed()) == (0, 1.0)


def test_a_year_of_failures_overflows_nothing() -> None:
    """However many failures there were, the wait is the cap: fifteen minutes."""
    backoff = Backoff(lambda: 1.0)
    assert [backoff.failed() for _ in range(5000)][-1] == 900


async def next_look(times: Timetable, deadline_s: float = 5) -> float:
    """Seconds until the next look is due."""
    began = monotonic()
    async with asyncio.timeout(deadline_s):
        async for _ in times.changes():
            break
    return monotonic() - began


async def test_a_look_is_due_at_once_then_after_the_interval() -> None:
    """The first look is due at once, the next after an interval, give or take a tenth."""
    times = Timetable(0.2)
    assert await next_look(times) < 0.1
    times.looked()
    assert 0.17 <= await next_look(times) < 1


async def test_a_failure_is_tried_again_when_the_back_off_ends() -> None:
    """After a failure the back-off decides, not the interval; a ring ends it."""
    times = Timetable(3600, Backoff(lambda: 1.0, first_s=0.2))
    await next_look(times)
    times.failed()
    assert (times.failures, 0.19 <= await next_look(times) < 1) == (1, True)
    times.looked()
    assert times.failures == 0
    times.ring()
    assert await next_look(times) < 0.1


async def test_a_ring_from_another_thread_wakes_a_waiting_listener() -> None:
    """A ring is heard while the listener sleeps, and many rings are one look."""
    times = Timetable(3600)
    await next_look(times)
    times.looked()
    waiting = asyncio.create_task(next_look(times))
    await asyncio.sleep(0)  # it waits now
    thread = threading.Thread(target=lambda: [times.ring() for _ in range(100)])
    thread.start()
    assert await waiting < 5
    thread.join()
    times.ring()
    await next_look(times)
    with pytest.raises(TimeoutError):
        await next_look(times, deadline_s=0.1)


async def test_close_ends_a_waiting_listener() -> None:
    """A listener that waits when the source is closed ends; a ring after that, even without a loop, is nothing."""
    times = Timetable(3600)
    looks = 0

    async def listen() -> None:
        nonlocal looks
        async for _ in times.changes():
            looks += 1

    waiting = asyncio.create_task(listen())
    await asyncio.sleep(0)
    times.close()
    times.close()
    await asyncio.wait_for(waiting, 5)
    times.ring()
    assert looks == 1
