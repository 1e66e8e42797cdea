"""What one batch system must say of itself so that cluster.py can run jobs on it: its commands as text, its answers as data. Pure.

cluster.py owns the spool, the claims, the connection and the facts; a dialect (slurm.py, pbs.py) owns the words. It never runs anything:
it writes shell text for one program on the far side, and reads what that printed. Every value in such a text is quoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.backends.base import Capacity, Check, JobRequest, QueueRow
from reconciler.core.desired import Cause
from reconciler.core.observed import Answer, JobState, Usage


@dataclass(frozen=True, slots=True)
class Row:
    """One job as the scheduler has it. Times are seconds since 1970 on the *scheduler's* clock, None when unknown.

    `job_id` is what a person would write: `12`, or `7_3` for element 3 of array 7; stable for the job's life. `name` is the
    scheduler's job name (of an array: the array's), `index` the element's index, None when it is no element. `state` is ours, `word`
    the scheduler's own. `cause` only with ENDED: None is a success by the scheduler's word. `reason` is for a person; "" when there
    is nothing to say. `exit_code`, `signal` as the scheduler says, None where its word is not to be trusted.
    """

    job_id: str
    name: str
    state: JobState
    word: str
    index: int | None = None
    cause: Cause | None = None
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    submitted_at: float | None = None
    started_at: float | None = None  # of a waiting job: when it is estimated to start
    ended_at: float | None = None
    partition: str = ""
    user: str = ""
    restarts: int | None = None
    usage: Usage | None = None
    node: str | None = None  # the first of those it was put on, "" when it never was; None: it was not told


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a job of one partition may ask for at most; None: as much as it likes."""

    time_limit_s: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """What a cluster is and allows, as it said when asked. None and "": it did not say."""

    version: str = ""
    started_at: float | None = None  # when the scheduler started, seconds since 1970 on its clock
    accounting: bool = False
    array_max: int | None = None  # most elements of one array
    jobs_max: int | None = None  # most jobs that the scheduler holds, of everybody
    submit_max: int | None = None  # most jobs that this user may have submitted
    remembered_s: float | None = None  # how long the scheduler remembers an ended job
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)  # by partition; "" is the scheduler's default one
    notes: Mapping[str, str] = field(default_factory=dict)  # other settings worth showing, for `check`


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of the submit command. `script` and `output` are absolute paths of the far side, literally; `indexes` is shell text of the
    elements ("" for a single job), each of which writes to `<output>.<index>`; `name` and `comment` are ours; `asked` is what
    `Dialect.asked` gave."""

    name: str
    comment: str
    folder: str
    script: str
    output: str
    asked: tuple[str, ...]
    indexes: str = ""


class Dialect(Protocol):
    """One batch system. `mark` is a random word of this call: every line of an answer that counts begins with it, so that no user's
    text (a job name with a newline) can make one up."""

    title: str  # the system's name for people: `Slurm`
    programs: tuple[str, ...]  # the commands without which nothing works
    extras: tuple[str, ...]  # those without which less is known
    prologue: str  # shell text, first in every program: what makes its answers machine-readable
    identify: str  # shell text that sets `me` to `job <job_id> <restart count>` inside a job, without a fork
    accept: str  # shell text: given `out` (all that the submit command printed) sets `id` to the job's id, or to "" when it names none
    element: str  # shell text of the job id of an array's element: `${id}_$index` for Slurm
    index: str  # shell text of the element's index inside an array's job: `$SLURM_ARRAY_TASK_ID`
    #: What the submit command says, as a piece of its text, and what that proves. First match counts; nothing matches: UNKNOWN.
    answers: Sequence[tuple[str, Answer]]

    def trouble(self, request: JobRequest) -> str:
        """Why this request can never be submitted here, in words for a person; "" when it can."""
        ...

    def capped(self, request: JobRequest, site: Site) -> JobRequest:
        """`request`, asking for no more than its partition allows where a retry made it ask for more than it declared."""
        ...

    def asked(self, request: JobRequest) -> tuple[str, ...]:
        """The options of the submit command for what the request asks, unquoted. Requests with equal options may share an array."""
        ...

    def submit(self, submission: Submission) -> str:
        """The submit command as shell text, every value quoted but `indexes`."""
        ...

    def cancel(self, ids: Sequence[str]) -> str:
        """The command that ends these jobs, waiting or running. An id may be a shell word."""
        ...

    def queue(self, mark: str) -> str:
        """The command that prints every live job of this user, one line each; it fails (code ≠ 0) when the scheduler cannot be asked."""
        ...

    def jobs(self, mark: str, ids: Sequence[str]) -> str:
        """The command that prints these jobs from the scheduler's short memory, also ended ones; unknown ids are left out."""
        ...

    def accounts(self, mark: str, ids: Sequence[str]) -> str:
        """The command that prints these jobs from the accounting; "" when this system has none."""
        ...

    def everybody(self, mark: str) -> str:
        """The command that prints the live jobs of all users."""
        ...

    def site(self, mark: str) -> str:
        """The commands that tell what `Site` holds."""
        ...

    def capacity(self, mark: str) -> str:
        """The commands that tell partitions, limits and free processors."""
        ...

    def comments(self, mark: str) -> str:
        """The command that prints the comments of this user's live jobs, for `check`; "" when this system has none."""
        ...

    def read_comments(self, mark: str, text: str) -> list[tuple[str, str]]:
        """What `comments` printed: name and comment of each job."""
        ...

    def remarks(self, site: Site) -> Sequence[Check]:
        """What of this cluster's settings an operator should know: what it means, and the cure where there is one."""
        ...

    def read_rows(self, mark: str, text: str) -> list[Row]:
        """What `queue`, `jobs` or `everybody` printed. Lines without `mark`, and lines that do not parse, are left out."""
        ...

    def read_accounts(self, mark: str, text: str) -> list[Row]:
        """What `accounts` printed, one row a job, steps folded in (`usage`)."""
        ...

    def read_site(self, mark: str, text: str) -> Site: ...

    def read_capacity(self, mark: str, text: str) -> Capacity: ...

    def queue_rows(self, rows: Sequence[Row]) -> Sequence[QueueRow]:
        """Rows for people, as they are."""
        ...

    def unreachable(self, command: str, code: int, error: str) -> str:
        """Why a command of ours failed, in words for a person: the scheduler does not answer, the program is not there, … `command` as
        it was run, "" when several were."""
        ...
