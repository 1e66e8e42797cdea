"""How long to wait after a failure: twice as long each time, up to a cap, with jitter. Called by timetable.py.

Jitter keeps twenty sources of one server from asking it in the same second after it was away.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 1.0
CAP_S = 900.0


class Backoff:
    """A count of failures in a row. `random` returns a number in [0, 1), and is passed in so that a test can say which."""

    def __init__(self, random: Callable[[], float], *, first_s: float = FIRST_S, cap_s: float = CAP_S) -> None:
        self._random = random
        self._first_s = first_s
        self._cap_s = cap_s
        self.failures = 0

    def failed(self) -> float:
        """Counts a failure; seconds to wait before the next try, between half of the full step and all of it."""
        # 2**64 is far above any cap; the bound only keeps the number small in a year of failures.
        step_s = min(self._cap_s, self._first_s * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return step_s * (0.5 + self._random() / 2)

    def succeeded(self) -> None:
        """Forgets the failures: the next one waits a short time again."""
        self.failures = 0
