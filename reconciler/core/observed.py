"""What was seen. Unknown is a value: a backend that cannot be asked says nothing, which is not the same as an empty queue.

A *fact* is positive: it always counts, also when part of the system is down. *Absence* counts only in a complete look, and
only after a second complete look that began a grace later (core/plan.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.desired import Cause, Task


class JobState(StrEnum):
    """What a backend can say of one job name."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"  # proven: an exit record, the scheduler's word for exactly this job, or an empty process group
    FENCED = "fenced"  # its start was revoked, or taken by a twin: under this name no work is being done or will be
    UNKNOWN = "unknown"  # something is there, in words we do not know: no verdict, but not absent either


@dataclass(frozen=True, slots=True)
class JobFact:
    """One job as a backend saw it.

    `exit_code` is the code of the exit record, or of the scheduler's success of exactly the job in the start record; None when
    neither exists. An ENDED job with `exit_code` 0 and no `cause` succeeded; anything else that ENDED did not, and `cause`
    says why (LOST: proven ended, no exit record). `started`: a start record of this name exists. Times are None when unknown.
    """

    state: JobState
    job_id: str = ""
    started: bool = False
    exit_code: int | None = None
    signal: int | None = None
    cause: Cause | None = None
    reason: str = ""  # the scheduler's words, or ours; for people
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What an ended job used, as the scheduler's accounting says. None: it does not say."""

    elapsed_s: float | None = None
    cpu_s: float | None = None
    memory_max_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one look at one backend showed. `began_at` is when the question was asked, not when it was answered.

    `facts` maps job names to what was seen. A backend should hand out the *same* JobFact object while nothing changed about a
    job, and names in the order in which they were expected: the controller goes through 100,000 of them by identity and order.
    `complete`: a name that was expected and is not in `facts` was absent when the look began.
    `unexpected`: names of this instance that nobody expected (a twin, a job of an older ledger).
    `room`: how many more jobs the backend says it would take now; None when it has no opinion.
    `scheduler_started_at`: when the scheduler last (re)started, None when unknown or meaningless. `forgotten`: names whose job id is
    another job's by now: a restarted scheduler provably forgot them. `again_s`: look again after this many seconds, None when the
    backend has no opinion. `problem`: why part of the system cannot be asked now, "" when all can: facts count all the same, and the
    backend is not reachable. `usage`: of ended jobs, told once, some time after their end. `about`: what a person should know of the
    backend (calls an hour, versions, sizes), as plain values by their names in the status file.
    """

    backend: str
    began_at: float
    facts: Mapping[str, JobFact] = field(default_factory=dict)
    complete: bool = True
    unexpected: tuple[str, ...] = ()
    room: int | None = None
    scheduler_started_at: float | None = None
    forgotten: frozenset[str] = frozenset()
    again_s: float | None = None
    problem: str = ""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    about: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """A job that we believe alive, named to the backend so that it needs no memory of its own."""

    job: str
    job_id: str  # "" when never acknowledged
    claimed_at: float  # when its intent was saved


class Answer(StrEnum):
    """What a backend answered to a Submit, for one job."""

    ACCEPTED = "accepted"  # the scheduler has it, under `job_id`; also when it already had it from before
    REFUSED = "refused"  # proven and for good: trying again as it is cannot help
    LIMIT = "limit"  # proven: not taken now, for want of room; wait
    TRANSIENT = "transient"  # proven: not sent; try again soon
    UNKNOWN = "unknown"  # perhaps: time-out, killed, garbled. The next look settles it
    # and to a Cancel:
    FENCED = "fenced"  # revoked before it started; it never will
    ENDED = "ended"  # proven ended
    ENDING = "ending"  # told to end; not ended yet
    STARTED = "started"  # only revocation was asked for, and it had started: left alone


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came back from one action on one job. No receipt at all is the same as UNKNOWN."""

    job: str
    answer: Answer
    at: float
    job_id: str = ""
    reason: str = ""  # the scheduler's words


@dataclass(frozen=True, slots=True)
class Generated:
    """What a generator's file said: `tasks` to append, or why it cannot be used (`error`, which names the file)."""

    tasks: tuple[Task, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class BackendView:
    """What a plan must know of one backend. `began_at` None: never seen yet."""

    began_at: float | None
    reachable: bool  # the newest look came back, and the far side is ours
    complete: bool
    absence_grace_s: float
    reason: str = ""  # why not reachable, in words
    accepts: bool = True  # False: draining or suspended, nothing new is submitted
    scheduler_started_at: float | None = None
    strays: tuple[str, ...] = ()  # jobs of ours there that nobody expects
    forgotten: frozenset[str] = frozenset()  # jobs that the scheduler provably forgot (Snapshot)
    later: str = ""  # a change of its document that cannot count yet, in words


@dataclass(frozen=True, slots=True)
class News:
    """What is new for one run since it was last planned.

    `facts` holds at least every fact of this run that changed since the last plan; more does no harm. `absent` holds every
    expected job name of this run that the newest *complete* look did not show.
    """

    backends: Mapping[str, BackendView]
    facts: Mapping[str, JobFact] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    receipts: tuple[Receipt, ...] = ()
    generated: Mapping[str, Generated] = field(default_factory=dict)  # by job name
    suspended: str = ""  # "": not suspended; else by what, in words
    cancelled: str = ""  # "": not cancelled; else why. Once saved in the record it cannot be taken back
    dropped: str = ""  # "": no; else why what waits is dropped while what runs finishes
