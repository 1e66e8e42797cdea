"""Where documents come from, and what the operator lets them do. Used by resolve.py and assemble.py."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.desired import BackendSpec, Place, Suspend, Trigger
from reconciler.core.env import Layer
from reconciler.core.trigger import Gate, Limits
from reconciler.errors import Problem
from reconciler.manifest import schema

LOCAL = "local"
#: The defaults of rules 7 and 8.
RUNS_PER_COMMIT = 100
DELETE_SHARE = 0.5
DELETE_MIN = 3


@dataclass(frozen=True, slots=True)
class DeleteGuard:
    """A tree that removes more than `share` of a source's objects, and at least `least`, removes nothing until it is approved."""

    share: float = DELETE_SHARE
    least: int = DELETE_MIN


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A Source, as the daemon needs it to make one and assemble.py needs it to judge what it brings.

    `url` "" means a folder, at `path` (absolute or `~/…`). Of `branch`, `tag`, `commit` exactly one is given for git. `deploy_key`
    and `known_hosts` are absolute or `~/…`, "" when not given. `interval_s` None: the Settings' source_interval.
    `backend` "": none named. `limits` None: the Settings'.
    """

    name: str
    place: Place
    url: str = field(default="", repr=False)  # may hold credentials: see fields.redact_url
    branch: str = ""
    tag: str = ""
    commit: str = ""
    deploy_key: str = ""
    known_hosts: str = ""
    interval_s: float | None = None
    timeout_s: float = 60.0
    path: str = ""
    include: tuple[str, ...] = schema.DEFAULT_INCLUDE
    backend: str = ""
    kinds: frozenset[str] = frozenset({"Workflow", "Stack", "Run"})
    backends: frozenset[str] = frozenset()
    triggers: frozenset[Trigger] = frozenset({Trigger.MANUAL})
    trigger_paths: tuple[str, ...] = ()
    workdir: str = ""
    suspend: Suspend | None = None
    approve: str = ""
    limits: schema.LimitsSpec = field(default_factory=schema.LimitsSpec)

    @property
    def is_git(self) -> bool:
        """Whether it is a git repository and not a folder."""
        return bool(self.url)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What of a backend with a batch system decides how tasks are read: the names of the scheduler's options that tasks may use, and
    whether it is another machine, which does not have the folders of this one."""

    allowed: frozenset[str] = frozenset()
    is_far: bool = False


@dataclass(frozen=True, slots=True)
class DeclaredBackend(BackendSpec):
    """A BackendSpec with its document's environment rules. What `options` holds is said in options.py.

    `scheduling` None: no batch system, jobs are processes of this machine.
    """

    layer: Layer = field(default_factory=lambda: Layer("backend"))
    scheduling: Scheduling | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backends there are. `broken`: declared, but not usable, and why. `schedulings`: of those with a batch system."""

    known: frozenset[str]
    broken: Mapping[str, Problem] = field(default_factory=dict)
    schedulings: Mapping[str, Scheduling] = field(default_factory=dict)

    def is_far(self, backend: str) -> bool:
        """Whether this backend is another machine."""
        return backend in self.schedulings and self.schedulings[backend].is_far

    @property
    def default(self) -> str:
        """The one used where nobody names one: the only one, else `local`; "" when that is not clear."""
        if len(self.known) + len(self.broken) == 1:
            return next(iter(self.known | set(self.broken)))
        return LOCAL if LOCAL in self.known else ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What documents of one tree inherit from where they are. `source` "" is the operator's own folder.

    `root` is the folder that the files are in, "" when there is none. `backend` is used where a document names none ("": it must);
    `allowed` None: any backend. `git_url` (without credentials) and `git_branch` are "" outside git.
    """

    source: str = ""
    revision: str = ""
    commit: str = ""
    root: str = ""
    workdir: str = ""
    backend: str = ""
    allowed: frozenset[str] | None = None
    triggers: frozenset[Trigger] = frozenset({Trigger.MANUAL})
    trigger_paths: tuple[str, ...] = ()
    git_url: str = ""
    git_branch: str = ""

    def qualified(self, name: str) -> str:
        """The name of an object of this origin, as everybody else knows it."""
        return f"{self.source}/{name}" if self.source else name

    def place(self, place: Place) -> Place:
        """`place` with the commit and revision of this tree."""
        return Place(self.source, place.file, place.line, self.commit, self.revision)

    def base(self, file: str) -> str:
        """The folder that relative working folders of `file`'s tasks begin at; "" when there is none."""
        workdir = self.workdir or ("repo" if file.startswith(".hut/") else "file")
        if not self.root or workdir == "repo":
            return self.root
        return posixpath.join(self.root, posixpath.dirname(file)).rstrip("/") or "/"

    @property
    def env_seed(self) -> tuple[tuple[str, str], ...]:
        """SCRIPTHUT_GIT_*, as far as known."""
        named = (("SCRIPTHUT_GIT_REPO", self.git_url), ("SCRIPTHUT_GIT_BRANCH", self.git_branch), ("SCRIPTHUT_GIT_SHA", self.commit))
        return tuple((name, value) for name, value in named if value)


def limits_of(spec: schema.LimitsSpec, default: Limits | None = None) -> Limits:
    """Limits as written, with what they leave out from `default` (None: the defaults of the format)."""
    base = default or Limits(RUNS_PER_COMMIT, None)
    return Limits(
        runs_per_commit=base.runs_per_commit if spec.runs_per_commit is None else spec.runs_per_commit,
        core_hours_per_run=base.core_hours_per_run if spec.core_hours_per_run is None else spec.core_hours_per_run,
    )


def guard_of(spec: schema.LimitsSpec, default: DeleteGuard | None = None) -> DeleteGuard:
    """The deletion guard as written, with what it leaves out from `default` (None: the defaults of the format)."""
    base = default or DeleteGuard()
    written = spec.delete_guard
    return DeleteGuard(base.share if written.share is None else written.share, base.least if written.min is None else written.min)


def gate_of(source: SourceSpec, default: Limits) -> Gate:
    """What a Source says about all that comes from it (core/trigger.py)."""
    return Gate(source.suspend, source.approve, limits_of(source.limits, default))


def suspension(spec: schema.SuspendSpec | None) -> Suspend | None:
    """`suspend` as written, for the core."""
    return None if spec is None else Suspend(spec.reason, spec.by, spec.until)


def beside(path: str, root: str, file: str) -> str:
    """`path` as written in `file` below `root`: absolute or `~/…` as it is, else from the file's own folder. "" stays "".

    Raises ValueError when it is relative and there is no folder (the file is in a git repository).
    """
    if not path or path.startswith(("/", "~/")) or path == "~":
        return path
    if not root:
        raise ValueError(f"{path!r} must be absolute: this file is in a git repository, beside which there is nothing")
    return posixpath.normpath(posixpath.join(root, posixpath.dirname(file), path))


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it. Both absolute and normal; "" is nowhere."""
    return bool(path) and (path == folder or path.startswith(folder.rstrip("/") + "/"))
