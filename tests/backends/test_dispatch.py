"""How much is sent by one program."""

from __future__ import annotations

import pytest

from reconciler.backends.dispatch import CALLS_AT_FIRST, CALLS_MAX, CALLS_MIN, calls_next


@pytest.mark.parametrize(
    ("limit", "calls", "took_s", "expected"),
    [
        pytest.param(100, 100, 1.0, 300, id="a full one was quick"),
        pytest.param(100, 7, 0.1, 100, id="a few say little"),
        pytest.param(100, 100, 15.0, 100, id="neither quick nor slow"),
        pytest.param(300, 300, 60.0, 150, id="slow"),
        pytest.param(100, 1, 60.0, 50, id="slow with a few"),
    ],
)
def test_programs_grow_and_shrink(limit: int, calls: int, took_s: float, expected: int) -> None:
    """A quick scheduler gets more calls in one program, a slow one fewer."""
    assert calls_next(limit, calls, took_s) == expected


def test_programs_stay_within_bounds() -> None:
    """However quick or slow a scheduler is, a program is neither huge nor empty."""
    low = high = CALLS_AT_FIRST
    for _ in range(20):
        low, high = calls_next(low, low, 1000.0), calls_next(high, high, 0.001)
    assert (low, high) == (CALLS_MIN, CALLS_MAX)
