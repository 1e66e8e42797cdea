"""How often a scheduler is asked: soon while things move, rarely while nothing does. Pure; called by cluster.py.

Two kinds of look. A *full* one asks the scheduler; its interval grows from `floor_s` with the time since anything changed, up to
`ceiling_s`, and never leaves the scheduler less than nine tenths of the time to others when its answers are slow. A *peek* reads the
mailbox, and sees the end of a job soon: in proportion to how long it took. It costs the scheduler nothing while jobs end well; of those
that did not, it asks why, many at once and no more often than the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A change that came t seconds after the one before is seen within a tenth of t: nobody who waited that long minds.
_SHARE = 0.1
PEEK_MIN_S = 0.15
PEEK_MAX_S = 10.0
#: An answer that took t seconds is asked for again after ten times t at the earliest.
_SLOWNESS = 10.0


@dataclass
class Pace:
    """When to look next, all in seconds of one clock."""

    floor_s: float
    ceiling_s: float
    changed_at: float = 0.0
    full_at: float = 0.0  # when the next full look is due; 0.0: now

    def changed(self, now: float) -> None:
        """Something moved: it is worth looking soon."""
        self.changed_at = now
        self.full_at = min(self.full_at, now + self.floor_s) if self.full_at else 0.0

    def due(self, now: float) -> bool:
        """Whether a full look is due."""
        return now >= self.full_at

    def looked(self, now: float, took_s: float, doubtful: bool) -> None:
        """A full look has ended that took so long. `doubtful`: an absence is being waited out."""
        quiet_s = 0.0 if doubtful else now - self.changed_at
        interval_s = max(self.floor_s, min(self.ceiling_s, _SHARE * quiet_s))
        self.full_at = now + max(interval_s, _SLOWNESS * took_s)

    def again_s(self, now: float, live: bool) -> float:
        """How long until the next look of either kind. `live`: there are jobs whose end could be seen."""
        until_full_s = max(0.0, self.full_at - now)
        if not live:
            return until_full_s
        return min(until_full_s, max(PEEK_MIN_S, min(PEEK_MAX_S, _SHARE * (now - self.changed_at))))


class Calls:
    """How many commands of the scheduler were run in the last hour, to the minute."""

    def __init__(self) -> None:
        self._minutes: dict[int, int] = {}
        self.total = 0

    def add(self, now: float, count: int = 1) -> None:
        """So many were run."""
        minute = int(now // 60)
        self._minutes[minute] = self._minutes.get(minute, 0) + count
        self.total += count
        for old in [each for each in self._minutes if each <= minute - 60]:
            del self._minutes[old]

    def last_hour(self, now: float) -> int:
        """Since an hour ago."""
        return sum(count for minute, count in self._minutes.items() if minute > now // 60 - 60)
