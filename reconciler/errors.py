"""Every error this package raises on purpose, in one tree.

    ReconcilerError
    ├── IllegalMove            a bug in the core: a task was moved along an edge the table does not have
    ├── GraphError             the dependencies of a workflow make no sense (unknown id, cycle)
    ├── EnvError               the environment rules of a task make no sense (unknown group, cycle, bad name)
    ├── ManifestError          one or more problems in manifests; each names file, line, column, and the cure
    │   └── SettingsError      the Settings are unusable: the daemon cannot start (exit 2)
    ├── SourceError
    │   ├── SourceUnreachable  could not be asked: says nothing about what it holds; tried again by itself
    │   └── SourceRefused      a person must act: wrong key, unknown host, no such branch, refused entry
    ├── BackendError
    │   ├── Unreachable        could not be asked: says nothing about any job; tried again by itself
    │   └── NotOwner           the far side belongs to another ledger or a newer daemon: nothing may be done there
    └── LedgerError
        ├── LedgerBusy         another daemon holds the state folder: names its pid and host
        ├── LedgerUnwritable   disk full or read-only: nothing is submitted until it is writable again
        ├── LedgerCorrupt      the file is damaged: nothing is guessed; `reconciler recover` is the cure
        └── StateLost          traces of this instance exist, but the ledger is empty or older than they are

A message says what happened, to which object, and what to do. Errors of other packages are translated at the one module
that imports that package, and keep their cause.
"""

from __future__ import annotations

from dataclasses import dataclass


class ReconcilerError(Exception):
    """Base of everything raised on purpose; `str()` is one sentence for a person."""


class IllegalMove(ReconcilerError):
    """A bug in the core: it tried to move a task along an edge that the table of legal moves does not have."""


class GraphError(ReconcilerError):
    """The dependencies of a workflow make no sense. `task` is the id where it shows, for the line number."""

    def __init__(self, task: str, message: str) -> None:
        super().__init__(message)
        self.task = task


class EnvError(ReconcilerError):
    """The environment rules of a task make no sense. The message names the layer and the group."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in one place of a manifest. `line` and `column` count from 1; 0 means the whole file.

    `subject` is the object it belongs to, as `Kind/name`, or "" when the document has no readable name.
    `cure` is what to do, or "" when `message` says it already.
    """

    file: str
    line: int
    column: int
    subject: str
    message: str
    cure: str = ""

    def __str__(self) -> str:
        subject = f"{self.subject}: " if self.subject else ""
        cure = f" ({self.cure})" if self.cure else ""
        return f"{self.file}:{self.line}:{self.column}: {subject}{self.message}{cure}"


class ManifestError(ReconcilerError):
    """One or more problems in manifests, all of them at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SettingsError(ManifestError):
    """The Settings are unusable: the daemon cannot start."""


class SourceError(ReconcilerError):
    """Something about a source of manifests."""


class SourceUnreachable(SourceError):
    """The source could not be asked. Says nothing about what it holds; tried again with back-off."""


class SourceRefused(SourceError):
    """The source answered, and a person must act: wrong key, unknown host key, no such branch."""


class BackendError(ReconcilerError):
    """Something about a backend."""


class Unreachable(BackendError):
    """The backend could not be asked. Says nothing about any job."""


class NotOwner(BackendError):
    """The far side belongs to another ledger, or to a newer daemon of this one: nothing may be done there."""


class LedgerError(ReconcilerError):
    """Something about the durable memory."""


class LedgerBusy(LedgerError):
    """Another daemon holds the state folder. The message names its pid and host."""


class LedgerUnwritable(LedgerError):
    """The ledger cannot be written now (disk full, read-only). Nothing may be submitted until it can."""


class LedgerCorrupt(LedgerError):
    """The ledger's file is damaged, or is not a ledger."""


class StateLost(LedgerError):
    """Traces of this instance exist, but the ledger is empty or older than they are."""
