"""The tables, how they came to be, and how a task record is laid out in its row. Called by writer.py, read.py and retention.py.

`runs` is permanent: identity and outcome of every run there ever was. `specs` (what each task asks) and `tasks` (what is remembered
of it) go with retention, never while their run lives. They are two tables because a spec never changes and a record changes often.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from reconciler.core.desired import Cause
from reconciler.core.observed import Usage
from reconciler.core.record import Aim, TaskRecord, TaskState
from reconciler.errors import LedgerCorrupt, LedgerError, LedgerUnwritable

FILE_NAME = "ledger.sqlite3"
#: "RECL": what file(1) and we tell our files by.
APPLICATION_ID = 0x5245434C

#: Entry n brings a ledger from version n to n + 1. Entries are never changed once released, only added.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE runs (
            id TEXT NOT NULL PRIMARY KEY, workflow TEXT NOT NULL, source TEXT NOT NULL, digest TEXT NOT NULL, occasion TEXT NOT NULL,
            phase TEXT NOT NULL, begun INTEGER NOT NULL, created_at REAL NOT NULL, ended_at REAL,
            cancelled TEXT NOT NULL DEFAULT '', dropped TEXT NOT NULL DEFAULT '', stalled TEXT NOT NULL DEFAULT '',
            core_hours REAL NOT NULL DEFAULT 0, pruned_at REAL, cleaned_at REAL, counts TEXT, backends TEXT NOT NULL,
            body TEXT NOT NULL, canonical BLOB NOT NULL)""",
        "CREATE INDEX runs_by_digest ON runs (workflow, digest)",
        "CREATE INDEX runs_by_age ON runs (created_at)",
        "CREATE INDEX runs_alive ON runs (workflow) WHERE ended_at IS NULL",
        "CREATE INDEX runs_uncleaned ON runs (id) WHERE pruned_at IS NOT NULL AND cleaned_at IS NULL",
        """CREATE TABLE specs (
            run TEXT NOT NULL REFERENCES runs (id), idx INTEGER NOT NULL, id TEXT NOT NULL, generator TEXT NOT NULL, spec TEXT NOT NULL,
            PRIMARY KEY (run, idx)) WITHOUT ROWID""",
        """CREATE TABLE tasks (
            run TEXT NOT NULL REFERENCES runs (id), task TEXT NOT NULL,
            state TEXT NOT NULL, attempt INTEGER NOT NULL, failures INTEGER NOT NULL, losses INTEGER NOT NULL, since REAL NOT NULL,
            reason TEXT NOT NULL, cause TEXT, job_id TEXT NOT NULL, started INTEGER NOT NULL, claimed_at REAL NOT NULL,
            acknowledged_at REAL NOT NULL, started_at REAL NOT NULL, ended_at REAL NOT NULL, exit_code INTEGER,
            absent_since REAL NOT NULL, not_before REAL NOT NULL, aim TEXT, told_at REAL NOT NULL, scheduler REAL NOT NULL,
            refusals INTEGER NOT NULL,
            PRIMARY KEY (run, task)) WITHOUT ROWID""",
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, name TEXT NOT NULL, run TEXT NOT NULL, task TEXT NOT NULL,
            object TEXT NOT NULL, message TEXT NOT NULL)""",
        "CREATE INDEX events_by_run ON events (run) WHERE run <> ''",
        "CREATE INDEX events_by_object ON events (object) WHERE object <> ''",
        """CREATE TABLE objects (
            kind TEXT NOT NULL, name TEXT NOT NULL, source TEXT NOT NULL, file TEXT NOT NULL, line INTEGER NOT NULL,
            commit_id TEXT NOT NULL, revision TEXT NOT NULL, digest TEXT NOT NULL, generation INTEGER NOT NULL,
            body TEXT NOT NULL, status TEXT NOT NULL, updated_at REAL NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID""",
        "CREATE TABLE released (workflow TEXT PRIMARY KEY) WITHOUT ROWID",
    ),
    (  # what a retry that asks for more multiplies by; no older record could
        "ALTER TABLE tasks ADD COLUMN ooms INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN timeouts INTEGER NOT NULL DEFAULT 0",
    ),
    (  # what the attempt `used_attempt` used, as accounting says; it comes after the end, so it is no part of a record
        "ALTER TABLE tasks ADD COLUMN used_attempt INTEGER",
        "ALTER TABLE tasks ADD COLUMN elapsed_s REAL",
        "ALTER TABLE tasks ADD COLUMN cpu_s REAL",
        "ALTER TABLE tasks ADD COLUMN memory_max_mb REAL",
    ),
)
VERSION = len(MIGRATIONS)

RECORD_COLUMNS = TaskRecord._fields  # the tests compare them with the table
USAGE_COLUMNS = ("used_attempt", *(field.name for field in fields(Usage)))

_STATE = {state: state.value for state in TaskState}
_CAUSE: dict[Cause | None, str | None] = {None: None, **{cause: cause.value for cause in Cause}}
_AIM: dict[Aim | None, str | None] = {None: None, **{aim: aim.value for aim in Aim}}
_STATE_OF = {word: state for state, word in _STATE.items()}
_CAUSE_OF = {word: cause for cause, word in _CAUSE.items()}
_AIM_OF = {word: aim for aim, word in _AIM.items()}

#: Primary result codes of SQLite (https://sqlite.org/rescode.html) that a free disk, a writable folder or time can cure,
_CURABLE = frozenset(
    {
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
    }
)  # fmt: skip
#: and those that say the file is not what we wrote: these, and an I/O error that means the file ends too soon.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_DAMAGED_READS = frozenset({sqlite3.SQLITE_IOERR_SHORT_READ})

RecordRow = tuple[str | int | float | None, ...]


def record_row(record: TaskRecord) -> RecordRow:
    """The record as the columns of `tasks` from `state` on."""
    state, attempt, failures, losses, since, reason, cause, *middle, aim, told_at, scheduler, refusals, ooms, timeouts = record
    tail = (_AIM[aim], told_at, scheduler, refusals, ooms, timeouts)
    return (_STATE[state], attempt, failures, losses, since, clean(reason), _CAUSE[cause], *middle, *tail)  # type: ignore[arg-type]  # a plain tuple has no types by position


def record_of(row: Sequence[Any]) -> TaskRecord:
    """The inverse of `record_row`. Raises KeyError for a word that no release of ours wrote."""
    state, attempt, failures, losses, since, reason, cause, job_id, started, *times, aim, told_at, scheduler, refusals, ooms, timeouts = row
    head = (_STATE_OF[state], attempt, failures, losses, since, reason, _CAUSE_OF[cause], job_id, bool(started))
    return TaskRecord._make((*head, *times, _AIM_OF[aim], told_at, scheduler, refusals, ooms, timeouts))


def clean(text: str) -> str:
    """Text that SQLite can store: what a scheduler said may hold bytes that are no text."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def packed(canonical: str) -> bytes:
    """A canonical text as stored: it is kept for ever and holds the same words many times over."""
    return zlib.compress(canonical.encode("utf-8", "surrogatepass"), 1)


def unpacked(stored: bytes) -> str:
    """The inverse of `packed`. Raises ValueError when it is damaged."""
    try:
        return zlib.decompress(stored).decode("utf-8", "surrogatepass")
    except zlib.error as error:
        raise ValueError(f"the canonical text is damaged: {error}") from error


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into this package's errors; `path` names the ledger in them."""
    try:
        yield
    except sqlite3.Error as error:
        raise _error_of(error, path) from error


@contextlib.contextmanager
def believed(path: Path) -> Iterator[None]:
    """Like `translated`, for reading: what no release of ours wrote into a row is damage too."""
    try:
        yield
    except sqlite3.Error as error:
        raise _error_of(error, path) from error
    except (KeyError, ValueError, TypeError) as error:
        raise LedgerCorrupt(f"the ledger {path} holds what was never written to it ({error!r}); run `reconciler recover`") from error


def _error_of(error: sqlite3.Error, path: Path) -> Exception:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None and not isinstance(error, sqlite3.OperationalError):
        return error  # not from SQLite but from how it was called: a bug, shown as it is
    # without a code, the sqlite3 module could not read a text as UTF-8
    if code is None or code & 0xFF in _DAMAGED or code in _DAMAGED_READS:
        return LedgerCorrupt(f"the ledger {path} is damaged ({error}); nothing is guessed: run `reconciler recover`")
    if code & 0xFF in _CURABLE:
        cure = "nothing is submitted until it can: check the disk's space and the folder's mode"
        return LedgerUnwritable(f"the ledger {path} cannot be used ({error}); {cure}")
    return LedgerError(f"the ledger {path} refused ({error}); this is a bug, please report it")
