"""Which ended jobs the accounting has still to be asked about, and what it said. No I/O; called by cluster.py.

Accounting is written some time after a job ended: it is asked for many jobs at once, not at once, and not for ever. While it does not
answer nothing is given up: it is asked ever more rarely. What is still owed when the daemon stops is not asked for again: nothing is
decided from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.backends.dialect import Row
from reconciler.core.observed import JobState, Usage

#: Jobs of one question at most, and in how many answers a job may be missing.
_AT_ONCE, _TRIES = 500, 4
#: More are not remembered: the oldest are let go, and what they used is not known.
_OWED_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Rhythm:
    """In seconds: after the end of a job before it is asked about first, between two questions, and that when there is no answer."""

    first_s: float = 5.0
    between_s: float = 15.0
    silent_max_s: float = 600.0


@dataclass
class _Debt:
    job_id: str
    due_at: float
    tries: int = 0


class Accounts:
    """What is owed, and what was learned and not told yet."""

    def __init__(self, rhythm: Rhythm | None = None) -> None:
        self._rhythm = rhythm or Rhythm()
        self._owed: dict[str, _Debt] = {}
        self._learned: dict[str, Usage] = {}
        self._ask_at = 0.0
        self._silences = 0

    def owe(self, job: str, job_id: str, now: float) -> None:
        """This job has ended."""
        self._owed[job] = _Debt(job_id, now + self._rhythm.first_s)
        while len(self._owed) > _OWED_MAX:
            del self._owed[next(iter(self._owed))]

    def due(self, now: float) -> Mapping[str, str]:
        """Jobs to ask about now, with their ids; {} when it is too soon."""
        if now < self._ask_at:
            return {}
        found = {job: debt.job_id for job, debt in self._owed.items() if debt.due_at <= now}
        return dict(list(found.items())[:_AT_ONCE])

    def silent(self, now: float) -> None:
        """The accounting did not answer: it is asked again later, and no job loses a try."""
        wait_s = self._rhythm.between_s * 2.0 ** min(self._silences, 20)
        self._ask_at = now + min(wait_s, self._rhythm.silent_max_s)
        self._silences += 1

    def learn(self, asked: Mapping[str, str], rows: Mapping[str, Row], now: float) -> None:
        """What was said about `asked`; `rows` by job id."""
        self._silences = 0
        self._ask_at = now + self._rhythm.between_s
        for job, job_id in asked.items():
            row, debt = rows.get(job_id), self._owed.get(job)
            if debt is None:
                continue
            if row is not None and row.state is JobState.ENDED and row.usage is not None:
                self._learned[job] = row.usage
                del self._owed[job]
                continue
            debt.tries += 1
            debt.due_at = now + self._rhythm.between_s * 2.0**debt.tries
            if debt.tries >= _TRIES:
                del self._owed[job]

    def taken(self) -> Mapping[str, Usage]:
        """What was learned since this was last called, to be told once."""
        learned, self._learned = self._learned, {}
        return learned
