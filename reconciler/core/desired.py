"""What is asked for, resolved and frozen. Nothing here changes once made; what exists is valid.

Made by manifest/resolve.py from documents; read by the whole core. Times are seconds since 1970 UTC, durations seconds, memory
mebibytes; a None or "" is explained where it is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Cause(StrEnum):
    """Why a job did not succeed. The words of `retry.on`, and three that no retry can name."""

    EXIT = "exit"  # the command ended with another code than 0, or by a signal of its own
    TIMEOUT = "timeout"  # the time limit was enforced
    OOM = "oom"  # the memory limit was enforced
    NODE_FAIL = "node_fail"
    PREEMPTED = "preempted"
    LOST = "lost"  # it started and left no evidence of how it ended
    REFUSED = "refused"  # the scheduler will never take it as it is
    CANCELLED = "cancelled"  # somebody ended it: us, the user, an administrator
    GENERATED = "generated"  # it ran, but the tasks it generated cannot be used


RETRYABLE = frozenset({Cause.EXIT, Cause.TIMEOUT, Cause.OOM, Cause.NODE_FAIL, Cause.PREEMPTED, Cause.LOST})


class When(StrEnum):
    """Which ends of its needs let a task start. All its needs must be final in any case."""

    SUCCESS = "success"  # all succeeded
    FAILURE = "failure"  # at least one did not
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, for what, and how soon a task is tried again. `limit` counts tries beyond the first.

    NODE_FAIL and LOST are not in the default: the old process may still run where nobody can see it. Each OOM multiplies the memory that
    the next try asks for by `memory_factor`, each TIMEOUT the time limit by `time_factor` (core/cost.py `asked`); nothing else does.
    """

    limit: int = 0
    on: frozenset[Cause] = frozenset({Cause.EXIT, Cause.TIMEOUT, Cause.OOM, Cause.PREEMPTED})
    backoff_s: float = 0.0  # before the first retry; doubled for each further one, up to an hour
    memory_factor: float = 1.0
    time_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What a task asks of a scheduler. "", () and no `nodes` (0) mean: not asked, the scheduler's own default holds.

    `cpus` are for each of `ntasks` processes; `memory_mb` is that of one machine. `scheduler_args` are options of the submit command as
    written, `--name` or `--name=value`, whose names the backend allows.
    """

    cpus: int = 1
    memory_mb: int = 4096
    time_limit_s: int = 3600
    partition: str = ""
    gres: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    licenses: str = ""
    nodes: int = 0
    ntasks: int = 1
    scheduler_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One command of a run. `needs` are ids of tasks of the same run, wildcards expanded, in the order written."""

    id: str
    command: str
    name: str = ""
    needs: tuple[str, ...] = ()
    backend: str = ""  # "": the run's
    working_dir: str = ""  # absolute or `~/…`; "": the job's own folder
    resources: Resources = field(default_factory=Resources)
    env: tuple[tuple[str, str], ...] = ()  # resolved values in order; exported literally
    init: str = ""  # shell text run before the command, from environment rules
    output_file: str = ""  # "": the job's own folder
    error_file: str = ""
    image: str = ""
    generates_source: str = ""  # "": generates nothing; else a path, relative to working_dir
    when: When = When.SUCCESS
    allow_failure: bool = False
    retry: Retry = field(default_factory=Retry)
    requeue: bool = False  # the scheduler may start it again by itself after a failure of its machine or a preemption


class Concurrency(StrEnum):
    """What happens to a new digest while a run of the same workflow is alive."""

    QUEUE = "queue"  # waits; the newest waiting wins
    ALLOW = "allow"
    REPLACE = "replace"  # cancels the one that runs


class OnDelete(StrEnum):
    """What happens to live runs of a workflow whose document is gone."""

    FINISH = "finish"  # what runs finishes, what waits is dropped
    CANCEL = "cancel"
    ORPHAN = "orphan"  # goes on as if nothing had happened


class Trigger(StrEnum):
    """What makes a workflow owe a run."""

    CHANGE = "change"
    PATHS = "paths"
    COMMIT = "commit"
    STACK = "stack"
    SCHEDULE = "schedule"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document was written. `line` counts from 1. `commit` is "" outside git."""

    source: str  # "": the operator's own folder
    file: str
    line: int
    commit: str = ""
    revision: str = ""  # `main@sha1:<40 hex>` in git, `sha256:<hex>` of the content in a plain folder

    def __str__(self) -> str:
        prefix = f"{self.source}:" if self.source else ""
        return f"{prefix}{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Suspend:
    """Nothing new is started while this holds. `until` None: until somebody removes it."""

    reason: str = ""
    by: str = ""
    until: float | None = None

    def holds(self, now: float) -> bool:
        """Whether it is in force at `now`."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Revision:
    """A workflow as one commit declares it: what would run, and when."""

    name: str  # qualified: `diamond`, or `<source>/<name>`, or `<source>/<path of a task-list file>`
    place: Place
    digest: str  # `sha256:…` of `canonical`
    canonical: str
    tasks: tuple[Task, ...]
    backend: str
    triggers: frozenset[Trigger] = frozenset({Trigger.CHANGE})
    rerun: str = ""  # the token of the document (also inside the digest)
    approve: str = ""  # a digest or a commit that a person has approved
    concurrency: Concurrency = Concurrency.QUEUE
    on_delete: OnDelete = OnDelete.FINISH
    max_concurrent: int | None = None  # None: only the backend's
    suspend: Suspend | None = None
    title: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    env_seed: tuple[tuple[str, str], ...] = ()  # SCRIPTHUT_* known from the source: repo, branch, sha


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a workflow at one digest. Immutable once made; generated tasks are appended, never changed."""

    id: str
    workflow: str  # qualified name of the Workflow
    digest: str
    canonical: str
    occasion: str  # "" for change and paths; else the commit, the stack hash, the tick or the Run document's name
    backend: str
    tasks: tuple[Task, ...]
    place: Place
    created_at: float
    rerun: str = ""
    max_concurrent: int | None = None
    on_delete: OnDelete = OnDelete.FINISH
    title: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    def backend_of(self, task: Task) -> str:
        """The name of the backend where `task` runs."""
        return task.backend or self.backend


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A Run document: a new run of a workflow, or a change of one that exists."""

    name: str  # qualified name of the document
    place: Place
    run: str = ""  # id of an existing run; "" when a new one is asked for
    state: str = ""  # "cancelled", or "": nothing to change
    workflow: str = ""
    revision: str = ""  # "": the current one
    backend: str = ""  # "": the workflow's
    parameters: tuple[tuple[str, str], ...] = ()
    suspend: Suspend | None = None
    approve: str = ""


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A place where jobs run, as the core needs to know it. Its other fields are the backend's own (`options`)."""

    name: str
    type: str
    place: Place
    max_concurrent: int
    absence_grace_s: float
    draining: bool = False
    suspend: Suspend | None = None
    options: Mapping[str, object] = field(default_factory=dict)
