"""What we remember of a task and of a run, and the only legal ways a task may change.

The theory. A task waits until its needs are final and there is room; then its *intent* is saved (SUBMITTING) and only then is
it sent. What comes back, or is seen, moves it on. Three rules keep every promise of exactly-once:

* WAITING never carries a doubt: attempt n+1 waits only after attempt n left an exit record, was proven ended, was proven not
  sent, or had its start revoked. So a job name that was in doubt is never sent again; it is revoked first, and the revocation
  is itself a state: CANCELLING with an *aim*.
* CANCELLING ends only by what the backend proves: fenced before it started, or ended. The aim says what then: CANCELLED (a
  person or a policy wanted it), LOST (the job is nowhere, and only `retry` may send it again), AGAIN (the submission never
  started: a new attempt, no budget spent).
* Final records never change. Evidence that appears after the end is told in an event, and changes nothing.

`attempt` names a submission, `failures` spend the budget of `retry`, `losses` count submissions that never started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from reconciler.core.desired import Cause, Task
from reconciler.errors import IllegalMove


class TaskState(StrEnum):
    WAITING = "waiting"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    LOST = "lost"


class Aim(StrEnum):
    """What a task in CANCELLING becomes once the backend has proven that the job cannot do any more work."""

    CANCELLED = "cancelled"
    LOST = "lost"
    AGAIN = "again"


FINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED, TaskState.LOST})
#: States in which a job may exist on the backend: what counts against the room.
LIVE = frozenset({TaskState.SUBMITTING, TaskState.QUEUED, TaskState.RUNNING, TaskState.CANCELLING})

_ENDS = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.LOST})

#: Back to WAITING is a retry and always comes with a new attempt, except from SUBMITTING (proven not sent: the same name again).
MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    # straight to queued or later: a job that an older ledger had sent, adopted
    TaskState.WAITING: frozenset({TaskState.SUBMITTING, TaskState.QUEUED, TaskState.RUNNING, TaskState.SKIPPED}) | _ENDS,
    TaskState.SUBMITTING: frozenset({TaskState.WAITING, TaskState.QUEUED, TaskState.RUNNING, TaskState.CANCELLING}) | _ENDS,
    TaskState.QUEUED: frozenset({TaskState.WAITING, TaskState.RUNNING, TaskState.CANCELLING}) | _ENDS,
    # back to queued: the scheduler requeued the job
    TaskState.RUNNING: frozenset({TaskState.WAITING, TaskState.QUEUED, TaskState.CANCELLING}) | _ENDS,
    # back to queued or running: only revocation was wanted, and the job turned out to be there after all
    TaskState.CANCELLING: frozenset({TaskState.WAITING, TaskState.QUEUED, TaskState.RUNNING}) | _ENDS,
    **{state: frozenset() for state in FINAL},
}


class TaskRecord(NamedTuple):
    """What we remember of one task. A NamedTuple, because a plan makes 10,000 of them and a frozen dataclass costs three times.

    Times are seconds since 1970 UTC; 0.0 means "not yet". `since` is when `state` was entered. `absent_since` is when the first
    complete look *began* that did not show the job (0.0: shown, or not looked for). `not_before` holds a retry back.
    `told_at` is when the far side was last told what we want of it (Cancel, Fetch); 0.0: not in this state.
    `scheduler` is when the scheduler that acknowledged the job had started (0.0: unknown). `refusals` counts how often in a row it
    was proven not sent, for want of room or for a trouble that passes: each waits longer than the one before. `ooms` and `timeouts`
    are those of `failures` that ended at the memory or the time limit: what `retry.escalate` multiplies by.
    """

    state: TaskState = TaskState.WAITING
    attempt: int = 1
    failures: int = 0
    losses: int = 0
    since: float = 0.0
    reason: str = ""
    cause: Cause | None = None
    job_id: str = ""
    started: bool = False
    claimed_at: float = 0.0
    acknowledged_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    exit_code: int | None = None
    absent_since: float = 0.0
    not_before: float = 0.0
    aim: Aim | None = None
    told_at: float = 0.0
    scheduler: float = 0.0
    refusals: int = 0
    ooms: int = 0
    timeouts: int = 0

    def to(self, state: TaskState, now: float, reason: str = "", **changes: object) -> TaskRecord:
        """The record after a move to `state`. Raises IllegalMove when the table does not have that edge.

        Staying in a state is no move: it changes only what `changes` name, and `reason` when one is given.
        """
        if state is self.state:
            return self._replace(**({"reason": reason} if reason else {}), **changes)  # type: ignore[arg-type]  # names checked by the tests
        if state not in MOVES[self.state]:
            raise IllegalMove(f"{self.state} -> {state} ({reason or 'no reason'})")
        return self._replace(state=state, since=now, reason=reason, absent_since=0.0, told_at=0.0, **changes)  # type: ignore[arg-type]  # as above

    def sent(self, now: float) -> TaskRecord:
        """`to(SUBMITTING)` with the intent's time, spelled for speed: a plan does this 10,000 times, and `_replace` takes 4 µs."""
        if self.state is not TaskState.WAITING:
            raise IllegalMove(f"{self.state} -> submitting")
        # state, attempt, failures, losses, since, reason, cause, job_id, started, claimed_at
        sent = TaskRecord(TaskState.SUBMITTING, self.attempt, self.failures, self.losses, now, "", None, "", False, now)
        if self.refusals or self.failures:
            return sent._replace(refusals=self.refusals, ooms=self.ooms, timeouts=self.timeouts)
        return sent


class Phase(StrEnum):
    """Where a run as a whole is. The words of the status files."""

    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class Shape:
    """What follows from a run's tasks alone, computed once (core/graph.py): by task id."""

    dependents: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What we remember of one run. Only `tasks`, `cancelled` and `dropped` are stored; the rest follows from them and the run
    (core/plan.py `remember`), and is carried so that the cost of a plan grows with what changed.

    `known`: the run's tasks by id. `needs_left`: of waiting tasks, how many needs are not final yet, where that is not 0.
    `ready`: waiting tasks whose needs are met, with the time before which they may not be sent. `watched`: live tasks that
    something is due for (cancelling, a file to fetch, absent). `live`: jobs that may exist, by backend. `counts`: tasks by
    state. `cancelled`, `dropped`: "" or why; once set they stay. `stalled`: "" or why only a person can move it on.
    """

    tasks: Mapping[str, TaskRecord]
    known: Mapping[str, Task]
    shape: Shape
    needs_left: Mapping[str, int]
    ready: Mapping[str, float]
    watched: frozenset[str]
    live: Mapping[str, int]
    counts: Mapping[TaskState, int]
    cancelled: str = ""
    dropped: str = ""
    stalled: str = ""

    @property
    def ended(self) -> bool:
        """Every task is final."""
        return all(not count or state in FINAL for state, count in self.counts.items())

    @property
    def begun(self) -> bool:
        """A first intent was saved, once: only such a run satisfies its digest."""
        return any(record.claimed_at for record in self.tasks.values())


class Event(NamedTuple):
    """One thing that happened, for `events` and the logs. `name` is CamelCase and promised (log.py lists them).

    `object` is what it is about when that is no run: `Kind/name`. Else "".
    """

    at: float
    name: str
    run: str
    task: str = ""
    message: str = ""
    object: str = ""


@dataclass(frozen=True, slots=True)
class RunHead:
    """What trigger.py must know of a run that exists: enough to tell whether a digest is satisfied."""

    id: str
    workflow: str
    digest: str
    occasion: str
    phase: Phase
    begun: bool
    ended: bool
    created_at: float
    cancelled: str = ""
    dropped: str = ""
    backends: frozenset[str] = field(default_factory=frozenset)
