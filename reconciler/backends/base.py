"""The two interfaces of a backend, and what whoever implements one owes the core. Called by controller.py only.

**What a backend owes.** One suite, tests/backends/conformance.py, checks it on every backend.

* One batched look, never one call a job. Order of a look: the live queue first, the mailbox of exit records after, then a read
  *by name* of the start and exit records of what is about to be called absent. Positive facts count always, also when part of
  the system is down; set `complete` only when absence in this look means absence.
* Unreachable is not empty: `look` raises `Unreachable` when nothing could be asked, and never returns an empty snapshot for it.
* A job name is the idempotency key. Submitting a name that was sent before returns ACCEPTED with its id and starts nothing.
* The claim of a name, its start record and its revocation are *exclusive creations* on the far side, read back after failure.
  They outlive `forget`. A job whose start was taken by another or revoked leaves at once with FENCED_EXIT and does no work.
* A proven refusal is durable and consumed by the next submit of that name. A time-out proves nothing: UNKNOWN.
* Every far-side step first checks `<spool>/<instance>/owner`: another ledger, or a newer epoch, raises `NotOwner`.
* Identity is name + instance + user + start time, never an id alone. Jobs of another instance, user or tool are never touched.
* No verdicts and no retries: a backend reports facts; core/plan.py decides.
* Any exception other than `Unreachable` and `NotOwner` is a bug; the controller treats it as UNKNOWN for every job named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.core.desired import Resources
from reconciler.core.observed import Expected, JobFact, Receipt, Snapshot

#: The code with which a job leaves that could not take its own start. Reserved: a command that ends with it is reported as such.
FENCED_EXIT = 121


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One attempt to be sent, with everything resolved. Nothing in it is ever put into a shell string unquoted.

    `working_dir` "" means a folder `work` in the job's own folder, where `out` and `err` are when their files are "".
    `env` is exported literally, in order; `init` is shell text that runs before `command`, in the same shell.
    `declared` is what the task asks for as written, when `resources` ask for more because earlier attempts ran out of it; None when
    they are the same. A backend that knows a limit (of a partition) asks for no more than that, and never for less than declared.
    `requeue`: the scheduler may start the job again by itself, under the same name.
    """

    job: str
    run: str
    task: str
    command: str
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    init: str = ""
    resources: Resources = field(default_factory=Resources)
    declared: Resources | None = None
    output_file: str = ""
    error_file: str = ""
    image: str = ""
    login_shell: bool = False
    requeue: bool = False


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """One job to be revoked and, if `kill`, ended when it has started."""

    job: str
    job_id: str  # "" when never acknowledged
    kill: bool


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A range of one file of a job. `path`: `out`, `err`, or a path absolute, `~/…`, or relative to the job's working directory."""

    job: str
    path: str
    working_dir: str = ""
    offset: int = 0  # negative: counted from the end
    bytes_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class FileRange:
    """What was read. `size` is the whole file's, in bytes; None for `data` means that there is no such file (yet)."""

    data: bytes | None
    size: int = 0
    problem: str = ""  # why it could not be read, in words


class Backend(Protocol):
    """Where jobs run, for decisions."""

    async def look(self, expected: Mapping[str, Expected]) -> Snapshot:
        """Everything of ours, in one batched look. `expected` maps job names to what we believe alive."""
        ...

    async def submit(self, jobs: Sequence[JobRequest]) -> Sequence[Receipt]:
        """Send many at once; one receipt each (ACCEPTED, REFUSED, LIMIT, TRANSIENT, UNKNOWN), in any order."""
        ...

    async def cancel(self, jobs: Sequence[CancelRequest]) -> Sequence[Receipt]:
        """Revoke, and end what started if `kill`; one receipt each (FENCED, ENDED, ENDING, STARTED, UNKNOWN)."""
        ...

    async def fetch(self, request: FileRequest) -> FileRange:
        """Read a range of one file on the far side."""
        ...

    async def forget(self, jobs: Sequence[str]) -> None:
        """Empty the mailbox of these jobs: their verdicts are saved. Claims, start records and fences stay."""
        ...


class Cleaner(Protocol):
    """The same place, when it keeps files that retention may remove. A backend without any need not be one."""

    async def clean(self, runs: Sequence[str]) -> Sequence[str]:
        """Remove what is kept of these runs, which are over; none of their jobs will ever start again.

        Those of which nothing is kept any more, also when nothing ever was. One with a living job is left alone. Raises NotOwner
        and Unreachable, and then none counts.
        """
        ...


@dataclass(frozen=True, slots=True)
class Trace:
    """What the spool holds about one job name, for `recover`. `fact` None: claimed at most, and nothing of it lives."""

    job: str
    claimed: bool
    fact: JobFact | None


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One job of anybody on the backend, for people."""

    job_id: str
    name: str
    user: str
    state: str
    reason: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the backend has, for people. None: unknown. `partitions` holds one line of text each."""

    slots: int | None = None
    free: int | None = None
    partitions: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job does not run yet. `estimated_start` is seconds since 1970 UTC, None when the backend has no idea."""

    reason: str
    estimated_start: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried on the backend: does it work, and in which words."""

    name: str
    ok: bool
    message: str


class Inspector(Protocol):
    """The same place, for people and not for decisions."""

    async def queue(self) -> Sequence[QueueRow]: ...

    async def capacity(self) -> Capacity: ...

    async def explain(self, jobs: Sequence[str]) -> Mapping[str, Explanation]: ...

    async def read(self, request: FileRequest) -> FileRange: ...

    async def check(self) -> Sequence[Check]: ...
