"""How often a scheduler is asked, and how its calls are counted."""

from __future__ import annotations

from reconciler.backends.pace import PEEK_MAX_S, PEEK_MIN_S, Calls, Pace


def test_the_first_look_is_full() -> None:
    """Nothing is known before the scheduler was asked once."""
    assert Pace(2.0, 60.0).due(1000.0)


def test_soon_while_things_move_and_rarely_later() -> None:
    """The interval is the floor right after a change, a tenth of the time since then, and at last the ceiling."""
    pace = Pace(2.0, 60.0)
    pace.changed(1000.0)
    found = []
    for at in (1000.0, 1030.0, 1300.0, 5000.0):
        pace.looked(at, 0.05, doubtful=False)
        found.append(pace.full_at - at)
    assert found == [2.0, 3.0, 30.0, 60.0]


def test_a_change_is_looked_into_no_sooner_than_the_floor() -> None:
    """A change brings the next full look forward, but never nearer than the floor."""
    pace = Pace(2.0, 60.0, changed_at=0.0)
    pace.looked(5000.0, 0.05, doubtful=False)
    pace.changed(5001.0)
    assert (pace.due(5002.9), pace.due(5003.0)) == (False, True)
    pace.changed(5002.5)
    assert pace.full_at == 5003.0


def test_a_doubt_is_looked_into_at_the_floor() -> None:
    """While an absence is waited out the scheduler is asked at the floor, however quiet it is."""
    pace = Pace(2.0, 60.0, changed_at=0.0)
    pace.looked(5000.0, 0.05, doubtful=True)
    assert pace.full_at == 5002.0


def test_a_slow_scheduler_is_asked_less() -> None:
    """An answer that took t seconds is asked for again no sooner than after ten times t, also beyond the ceiling."""
    pace = Pace(2.0, 60.0, changed_at=5000.0)
    pace.looked(5000.0, 9.0, doubtful=True)
    assert pace.full_at == 5090.0


def test_peeks_follow_what_happened_last() -> None:
    """A mailbox is read in proportion to the time since anything happened, within bounds; without jobs it is not read at all."""
    pace = Pace(2.0, 600.0, changed_at=1000.0, full_at=10_000.0)
    assert [round(pace.again_s(at, live=True), 3) for at in (1000.0, 1010.0, 3000.0)] == [PEEK_MIN_S, 1.0, PEEK_MAX_S]
    assert pace.again_s(3000.0, live=False) == 7000.0
    assert pace.again_s(9999.5, live=True) == 0.5


def test_calls_of_the_last_hour() -> None:
    """Calls count for an hour, to the minute."""
    calls = Calls()
    for at in (0.0, 30.0, 3000.0):
        calls.add(at, 2)
    assert [calls.last_hour(at) for at in (3000.0, 3570.0, 3630.0, 9000.0)] == [6, 6, 2, 0]
    assert calls.total == 6
