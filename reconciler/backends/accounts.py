"""Which ended jobs the accounting has still to be asked about, and what it said. No I/O; called by cluster.py.

Accounting is written some time after a job ended: it is asked for many jobs at once, not at once, and not for ever. What is still owed
when the daemon stops is not asked for again: nothing is decided from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.backends.dialect import Row
from reconciler.core.observed import JobState, Usage

#: After the end of a job before it is asked about first, and between two questions.
_FIRST_S, _BETWEEN_S = 5.0, 15.0
#: Jobs of one question at most, and how often a job is asked about.
_AT_ONCE, _TRIES = 500, 4


@dataclass
class _Debt:
    job_id: str
    due_at: float
    tries: int = 0


class Accounts:
    """What is owed."""

    def __init__(self) -> None:
        self._owed: dict[str, _Debt] = {}
        self._asked_at = 0.0

    def owe(self, job: str, job_id: str, now: float) -> None:
        """This job has ended."""
        self._owed[job] = _Debt(job_id, now + _FIRST_S)

    def due(self, now: float) -> Mapping[str, str]:
        """Jobs to ask about now, with their ids; {} when it is too soon."""
        if now < self._asked_at + _BETWEEN_S:
            return {}
        found = {job: debt.job_id for job, debt in self._owed.items() if debt.due_at <= now}
        return dict(list(found.items())[:_AT_ONCE])

    def learn(self, asked: Mapping[str, str], rows: Mapping[str, Row], now: float) -> Mapping[str, Usage]:
        """What was said about `asked`; `rows` by job id."""
        self._asked_at = now
        found = {}
        for job, job_id in asked.items():
            row, debt = rows.get(job_id), self._owed[job]
            if row is not None and row.state is JobState.ENDED and row.usage is not None:
                found[job] = row.usage
                del self._owed[job]
                continue
            debt.tries += 1
            debt.due_at = now + _BETWEEN_S * 2.0**debt.tries
            if debt.tries >= _TRIES:
                del self._owed[job]
        return found
