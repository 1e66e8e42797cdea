"""The only writer of durable state: one transaction for each plan, durable when `save` returns.

Called by controller.py on one thread. Built on SQLite's promises: WAL with `synchronous=FULL` syncs the log at each commit, a
transaction is there whole or not at all after kill -9, a full disk or a power cut.

After a failed save nothing was saved, and the next one works as soon as the cause is gone. One corner needs care: a commit whose
*sync* failed may turn up again when the file is opened anew. So after a reopening, what the failed batch had added is removed first;
what it had only changed is written again by the plan that follows.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import NoReturn, Self

from reconciler.core.codec import Json, dump
from reconciler.core.desired import Task
from reconciler.core.names import run_id
from reconciler.core.record import RunHead, TaskRecord
from reconciler.errors import LedgerCorrupt, LedgerError, LedgerUnwritable, StateLost
from reconciler.ledger import read, retention
from reconciler.ledger.folder import Lock, prepare
from reconciler.ledger.rows import Appended, Batch, Identity, NewRun, ObjectRow, RunChange, StoredRun, TaskChange
from reconciler.ledger.schema import (
    APPLICATION_ID,
    FILE_NAME,
    MIGRATIONS,
    RECORD_COLUMNS,
    USAGE_COLUMNS,
    VERSION,
    believed,
    clean,
    packed,
    record_row,
    translated,
)

#: Up to this size the whole file is checked at each start (0.1 s on the machine this was written on); beyond, only what is permanent.
CHECKED_WHOLE_BYTES = 64_000_000
#: A reader that stays open keeps the log from being cut; when it is gone the log shrinks to this.
_LOG_BYTES_MAX = 64_000_000
_BUSY_TIMEOUT_S = 5.0
#: How many predecessors of a nameless run are tried; each is a run of one digest that never started.
_PREDECESSORS_TRIED = 100

_COLUMNS = ", ".join(RECORD_COLUMNS)
_MARKS = ", ".join("?" for _ in RECORD_COLUMNS)
_INSERT_RUN = (
    "INSERT INTO runs (id, workflow, source, digest, occasion, phase, begun, created_at, backends, body, canonical)"
    " VALUES (?, ?, ?, ?, ?, 'Waiting', ?, ?, ?, ?, ?)"
)
_INSERT_SPEC = "INSERT INTO specs (run, idx, id, generator, spec) VALUES (?, ?, ?, ?, ?)"
_INSERT_TASK = f"INSERT INTO tasks (run, task, {_COLUMNS}) VALUES (?, ?, {_MARKS})"
_UPDATE_TASK = f"UPDATE tasks SET {', '.join(f'{column} = ?' for column in RECORD_COLUMNS)} WHERE run = ? AND task = ?"
_UPDATE_USAGE = f"UPDATE tasks SET {', '.join(f'{column} = ?' for column in USAGE_COLUMNS)} WHERE run = ? AND task = ? AND attempt = ?"
_UPDATE_RUN = """UPDATE runs SET phase = ?, begun = max(begun, ?), cancelled = CASE cancelled WHEN '' THEN ? ELSE cancelled END,
    dropped = CASE dropped WHEN '' THEN ? ELSE dropped END, stalled = ?, ended_at = coalesce(ended_at, ?), core_hours = ?
    WHERE id = ? AND (ended_at IS NULL OR phase = ?)"""
_INSERT_EVENT = "INSERT INTO events (at, name, run, task, message, object) VALUES (?, ?, ?, ?, ?, ?)"
_UPSERT_OBJECT = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_text: Callable[[Json | list[str]], str] = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Ledger:
    """The durable memory of one instance, held by this process. Not for several threads at a time."""

    def __init__(self, path: Path, lock: Lock, db: sqlite3.Connection, mine: Identity) -> None:
        """Use `Ledger.open`."""
        self._path, self._lock, self._db = path, lock, db
        self.id, self.epoch, self.instance, self.fresh = mine
        self._file = _file_id(path)
        self._failed: Batch | None = None
        self._closed = False
        with believed(path):
            self._nameless = {row[0] for row in db.execute("SELECT id FROM runs WHERE workflow = ''")}

    @classmethod
    def open(cls, state_dir: Path, instance: str) -> Self:
        """Take the state folder, make the ledger if there is none, and raise its epoch.

        Raises LedgerBusy (another daemon), LedgerUnwritable, LedgerCorrupt, StateLost (refused before, see `refuse`), or LedgerError
        when the folder cannot be trusted or the ledger belongs to another instance or a newer release.
        """
        prepare(state_dir)
        lock = Lock(state_dir)
        path = state_dir / FILE_NAME
        try:
            _create_file(path)
            with translated(path):
                db = connected(path)
                try:
                    return cls(path, lock, db, _taken(db, path, instance))
                except BaseException:  # whatever it is, what was opened is closed, and it is raised on
                    db.close()
                    raise
        except BaseException:  # whatever it is, what was opened is closed, and it is raised on
            lock.release()
            raise

    @property
    def identity(self) -> Identity:
        """What tells this ledger from another; see traces.check_traces."""
        return Identity(self.id, self.epoch, self.instance, self.fresh)

    @property
    def nameless(self) -> frozenset[str]:
        """Ids of runs of which a recovery found only the id. A run that is owed under such an id has been made before."""
        return frozenset(self._nameless)

    def recovered_at(self) -> float | None:
        """When a recovery wrote this ledger. Until everything is released (Batch.released), workflows not released are suspended."""
        found = self._meta("recovered_at")
        return None if found is None else float(found)

    def released(self) -> frozenset[str]:
        """Workflows that a person has resumed after the recovery."""
        with believed(self._path):
            return frozenset(row[0] for row in self._db.execute("SELECT workflow FROM released"))

    def live_runs(self) -> list[StoredRun]:
        """Every run that has not ended, with its tasks, oldest first."""
        with believed(self._path):
            return list(read.stored_runs(self._db, "ended_at IS NULL ORDER BY created_at, rowid"))

    def heads(self, workflow: str, digest: str | None) -> tuple[RunHead, ...]:
        """Of a workflow: all live runs, all of `digest` (None: none of those), and all that a Run document asked for, oldest first."""
        if digest is not None:
            self._name(workflow, digest)
        with believed(self._path):
            return read.heads_of(self._db, workflow, digest)

    def heads_of_all(self, digests: Mapping[str, str | None]) -> dict[str, tuple[RunHead, ...]]:
        """`heads` of many workflows, by name, each with its digest."""
        return {name: self.heads(name, digest) for name, digest in digests.items()}

    def objects(self) -> list[ObjectRow]:
        """Every object as it was last accepted, by kind and name."""
        with believed(self._path):
            return list(read.objects(self._db))

    def save(self, batch: Batch) -> None:
        """Save everything or nothing, durably. An empty batch writes only after a failure, to find out whether it has passed.

        Raises LedgerUnwritable (try again later), LedgerCorrupt, or LedgerError for what must never be saved: a run that exists, with
        the same or another identity, a change of an unknown task or run, another end of a run that ended.
        """
        if not batch and self._failed is None:
            return
        with self._transaction(batch) as db:
            _write(db, batch)
            if not batch:
                db.execute("UPDATE meta SET value = value WHERE key = 'epoch'")
        if batch.new_runs:
            self.fresh = False

    def prune(self, now: float, keep_runs_days: float | None, keep_events_days: float | None) -> bool:
        """Forget tasks of a few runs that ended long ago, and some old events; None keeps for ever. Whether there may be more to forget.

        A run's identity and outcome stay for ever. Call it again while it says so: each call is kept short, because a save may wait.
        """
        with self._transaction(Batch()) as db:
            more_runs = keep_runs_days is not None and retention.prune_runs(db, now, keep_runs_days)
            more_events = keep_events_days is not None and retention.prune_events(db, now, keep_events_days)
        return more_runs or more_events

    def uncleaned(self) -> dict[str, frozenset[str]]:
        """Ids of the runs that were pruned, each with the names of its backends, until `cleaned` says that those have forgotten it."""
        with believed(self._path):
            return retention.uncleaned_runs(self._db)

    def cleaned(self, runs: Iterable[str], now: float) -> None:
        """None of their backends keeps anything of these runs any more. Raises as `save` does."""
        with self._transaction(Batch()) as db:
            retention.mark_cleaned(db, runs, now)

    def refuse(self, reason: str) -> NoReturn:
        """Remember that this ledger must not be used (StateLost), so that no number of restarts makes it the newest. Always raises."""
        with self._transaction(Batch()) as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('refused', ?)", (clean(reason),))
        raise StateLost(reason)

    def close(self) -> None:
        """Write the log into the file and free the folder. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with suppress(sqlite3.Error):  # everything is durable already; what fails here is only tidying up
            self._db.close()
        self._lock.release()

    def _meta(self, key: str) -> str | None:
        with believed(self._path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _transaction(self, batch: Batch) -> Iterator[sqlite3.Connection]:
        """`batch` is what to take back should a failed commit turn up again."""
        if _file_id(self._path) != self._file:  # SQLite would go on writing into the file that has lost its name
            raise LedgerUnwritable(f"the ledger {self._path} was moved, deleted or replaced while in use; put it back")
        with translated(self._path):
            self._begin()
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:  # rolled back whatever it is, and raised on
                self._roll_back()
                if isinstance(error, sqlite3.Error):
                    self._failed = batch
                raise
            self._failed = None

    def _begin(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            if self._failed is None:
                self._failed = Batch()
                raise
            self._reopen(self._failed)
            self._db.execute("BEGIN IMMEDIATE")

    def _roll_back(self) -> None:
        """SQLite has rolled back by itself after most errors."""
        if self._db.in_transaction:
            with suppress(sqlite3.Error):  # what made us roll back is being raised; the next BEGIN finds out what this left
                self._db.execute("ROLLBACK")

    def _reopen(self, failed: Batch) -> None:
        """Open the same file anew."""
        with suppress(sqlite3.Error):  # it is broken; that is why we are here
            self._db.close()
        self._db = connected(self._path)
        self._db.execute("BEGIN IMMEDIATE")
        _take_back(self._db, failed)
        self._db.execute("COMMIT")

    def _name(self, workflow: str, digest: str) -> None:
        """Give a nameless run its identity back when its id is that of a run of this workflow and digest."""
        for predecessors in range(_PREDECESSORS_TRIED if self._nameless else 0):
            candidate = run_id(self.instance, "Workflow", workflow, digest, "", predecessors)
            if candidate not in self._nameless:
                continue
            # while it cannot be written nothing can be made either; the next question asks again
            with suppress(LedgerUnwritable), self._transaction(Batch()) as db:
                db.execute("UPDATE runs SET workflow = ?, digest = ? WHERE id = ? AND workflow = ''", (workflow, digest, candidate))
                self._nameless.discard(candidate)


def write_whole(path: Path, mine: Identity, batches: Iterable[Batch], recovered_at: float) -> None:
    """Write a new ledger file, durably, for recovery.py to put in place. What was there under that name is replaced.

    Raises LedgerUnwritable; then there is no such file.
    """
    _discard(path)
    _create_file(path)
    try:
        with translated(path), closing(connected(path)) as db:
            _migrate(db, path, mine.instance)
            db.execute("BEGIN IMMEDIATE")
            meta = {"ledger": mine.id, "epoch": str(mine.epoch), "recovered_at": repr(recovered_at)}
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
            for batch in batches:
                _write(db, batch)
            db.execute("COMMIT")
    except BaseException:  # whatever it is, what was opened is closed, and it is raised on
        _discard(path)
        raise


def _discard(path: Path) -> None:
    try:
        for suffix in ("", "-journal", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise LedgerUnwritable(f"{path} is in the way and cannot be removed: {error.strerror}") from error


def _create_file(path: Path) -> None:
    """Make an empty ledger file with mode 0600 if there is none; SQLite gives its other files the same mode."""
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size and (not path.exists() or not path.stat().st_size):
        raise LedgerCorrupt(f"the ledger {path} is gone, but its log {log.name} is there; restore it, or run `reconciler recover`")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # a power cut must not take the new file's name away
        finally:
            os.close(folder)
    except OSError as error:
        raise LedgerUnwritable(f"the ledger {path} cannot be opened for writing: {error.strerror}") from error


def _file_id(path: Path) -> tuple[int, int]:
    """Device and inode of the file; (0, 0) when there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def connected(path: Path) -> sqlite3.Connection:
    """A connection for writing to an existing file. Raises sqlite3.Error."""
    uri = f"{path.resolve().as_uri()}?mode=rw"
    db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("synchronous = FULL", "foreign_keys = ON", f"journal_size_limit = {_LOG_BYTES_MAX}"):
            db.execute(f"PRAGMA {pragma}")
    except BaseException:  # whatever it is, what was opened is closed, and it is raised on
        db.close()
        raise
    return db


def _taken(db: sqlite3.Connection, path: Path, instance: str) -> Identity:
    """Check that the file is a sound ledger of `instance`, made now if the file is empty, and raise its epoch."""
    empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LedgerCorrupt(f"{path} is not a ledger of this program; it was left as it is")
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise LedgerError(f"the file system under {path} cannot keep a write-ahead log; use a local disk")
    _migrate(db, path, instance)
    if not empty:
        _check(db, path)
    with believed(path):
        found = read.identity(db)
        refused = db.execute("SELECT value FROM meta WHERE key = 'refused'").fetchone()
    if refused is not None:
        raise StateLost(str(refused[0]))
    if found.instance != instance:
        raise LedgerError(f"the ledger {path} belongs to the instance {found.instance!r}, not {instance!r}; give each its own state_dir")
    db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(found.epoch + 1),))
    return found._replace(epoch=found.epoch + 1)


def _migrate(db: sqlite3.Connection, path: Path, instance: str) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise LedgerError(f"the ledger {path} was written by a newer release (version {version}, not {VERSION}); use that release")
    if version == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    for statement in (part for migration in MIGRATIONS[version:] for part in migration):
        db.execute(statement)
    if version == 0:
        made = (("ledger", secrets.token_hex(16)), ("epoch", "0"), ("instance", instance))
        db.executemany("INSERT INTO meta VALUES (?, ?)", made)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Find damage before anything is decided. Rows of live runs are read whole at start-up anyway, so a large file is checked in part."""
    whole = path.stat().st_size <= CHECKED_WHOLE_BYTES
    for pragma in ["quick_check(1)"] if whole else [f"quick_check({table})" for table in ("meta", "runs", "objects", "released")]:
        said = db.execute(f"PRAGMA {pragma}").fetchone()[0]
        if said != "ok":
            raise LedgerCorrupt(f"the ledger {path} is damaged ({said}); nothing is guessed: run `reconciler recover`")


def _write(db: sqlite3.Connection, batch: Batch) -> None:
    for new in batch.new_runs:
        _write_run(db, new)
    for more in batch.appended:
        _write_appended(db, more)
    if batch.tasks:
        rows = [(*record_row(record), run, task) for run, task, record in batch.tasks]
        changed = db.executemany(_UPDATE_TASK, rows).rowcount
        if changed != len(rows):
            raise LedgerError(f"{len(rows) - changed} of {len(rows)} changed tasks are not in the ledger: {_missing(db, batch.tasks)}")
    for change in batch.runs:
        _write_change(db, change)
    used = [(attempt, *map(_measured, astuple(usage)), run, task, attempt) for run, task, attempt, usage in batch.usage]
    db.executemany(_UPDATE_USAGE, used)  # what is not there any more is not missed
    db.executemany(
        _INSERT_EVENT, [(at, name, run, task, clean(text), clean(subject)) for at, name, run, task, text, subject in batch.events]
    )
    db.executemany(_UPSERT_OBJECT, [(*row[:9], _text(row.body), _text(row.status), row.updated_at) for row in batch.objects])
    db.executemany("DELETE FROM objects WHERE kind = ? AND name = ?", batch.gone)
    db.executemany("INSERT OR IGNORE INTO released VALUES (?)", [(name,) for name in batch.released])
    if "*" in batch.released:
        db.execute("DELETE FROM meta WHERE key = 'recovered_at'")


def _measured(value: float | None) -> float | None:
    """What a scheduler measured; None when that is no quantity."""
    return value if value is not None and 0 <= value < math.inf else None


def _write_run(db: sqlite3.Connection, new: NewRun) -> None:
    run, records = new
    there = db.execute("SELECT workflow, digest, occasion FROM runs WHERE id = ?", (run.id,)).fetchone()
    if there is not None:
        same = there == (run.workflow, run.digest, run.occasion)
        kept = "it was made before" if same else f"it is kept as {there[0] or 'a recovered run'} {there[1]} {there[2]!r}"
        raise LedgerError(f"run {run.id} of {run.workflow} ({run.digest}, occasion {run.occasion!r}) is not made again: {kept}")
    body = dump(replace(run, tasks=(), canonical=""))
    backends = _text(sorted({run.backend_of(task) for task in run.tasks} or {run.backend}))
    begun = any(record.claimed_at for record in records.values())
    identity = (run.id, run.workflow, run.place.source, run.digest, run.occasion)
    db.execute(_INSERT_RUN, (*identity, begun, run.created_at, backends, _text(body), packed(run.canonical)))
    _write_tasks(db, run.id, ((index, "", task) for index, task in enumerate(run.tasks)), records)


def _write_tasks(db: sqlite3.Connection, run: str, tasks: Iterable[tuple[int, str, Task]], records: Mapping[str, TaskRecord]) -> None:
    specs = [(run, index, task.id, generator, _text(dump(task))) for index, generator, task in tasks]
    db.executemany(_INSERT_SPEC, specs)
    db.executemany(_INSERT_TASK, [(run, spec[2], *record_row(records[spec[2]])) for spec in specs])


def _write_appended(db: sqlite3.Connection, more: Appended) -> None:
    row = db.execute(
        "SELECT max(idx) + 1, (SELECT backends FROM runs WHERE id = ?) FROM specs WHERE run = ?", (more.run, more.run)
    ).fetchone()
    if row[1] is None:
        raise LedgerError(f"tasks were added to run {more.run}, which is not in the ledger")
    _write_tasks(db, more.run, ((index, more.generator, task) for index, task in enumerate(more.tasks, row[0] or 0)), more.records)
    backends = {*json.loads(row[1]), *(task.backend for task in more.tasks if task.backend)}
    db.execute("UPDATE runs SET backends = ? WHERE id = ?", (_text(sorted(backends)), more.run))


def _write_change(db: sqlite3.Connection, change: RunChange) -> None:
    run, phase, begun, cancelled, dropped, stalled, ended_at, core_hours = change
    words = (clean(cancelled), clean(dropped), clean(stalled))
    cursor = db.execute(_UPDATE_RUN, (phase.value, begun, *words, ended_at, core_hours, run, phase.value))
    if cursor.rowcount != 1:
        there = db.execute("SELECT phase FROM runs WHERE id = ?", (run,)).fetchone()
        raise LedgerError(f"run {run} cannot become {phase}: " + (f"it ended as {there[0]}" if there else "it is not in the ledger"))


def _missing(db: sqlite3.Connection, changes: tuple[TaskChange, ...]) -> str:
    """The first changed task that is not in the ledger, for the message."""
    for run, task, _ in changes:
        if db.execute("SELECT 1 FROM tasks WHERE run = ? AND task = ?", (run, task)).fetchone() is None:
            return f"{run}.{task}"
    return "one is there twice"


def _take_back(db: sqlite3.Connection, failed: Batch) -> None:
    """Remove what the failed batch had added, should its commit have turned up again."""
    for more in failed.appended:
        names = [(more.run, task.id) for task in more.tasks]
        db.executemany("DELETE FROM tasks WHERE run = ? AND task = ?", names)
        db.executemany("DELETE FROM specs WHERE run = ? AND id = ?", names)
    for new in failed.new_runs:
        for statement in ("DELETE FROM tasks WHERE run = ?", "DELETE FROM specs WHERE run = ?", "DELETE FROM runs WHERE id = ?"):
            db.execute(statement, (new.run.id,))
