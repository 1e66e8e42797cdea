"""Questions to a ledger. `LedgerReader` is for the command line, the web and status files; the functions serve writer.py too.

A reader works beside a running daemon, without one, and in a folder it may not write in. It never waits for the daemon and never
makes it wait.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler.core.codec import load
from reconciler.core.desired import Run, Task
from reconciler.core.observed import Usage
from reconciler.core.record import Event, Phase, RunHead, TaskRecord
from reconciler.errors import LedgerCorrupt, LedgerError
from reconciler.ledger.folder import Holder, holder
from reconciler.ledger.rows import Identity, ObjectRow, RunRow, StoredEvent, StoredRun
from reconciler.ledger.schema import (
    APPLICATION_ID,
    FILE_NAME,
    MIGRATIONS,
    RECORD_COLUMNS,
    USAGE_COLUMNS,
    VERSION,
    believed,
    record_of,
    unpacked,
)

_RECORD = ", ".join(f"t.{column}" for column in RECORD_COLUMNS)
_TASKS = (
    f"SELECT s.spec, s.id, s.generator, {_RECORD} FROM specs s JOIN tasks t ON t.run = s.run AND t.task = s.id"
    " WHERE s.run = ? ORDER BY s.idx"
)
_RUN = "SELECT body, canonical, phase, begun, cancelled, dropped, stalled, ended_at, core_hours FROM runs WHERE "
_HEAD = (
    "SELECT id, workflow, digest, occasion, phase, begun, ended_at IS NOT NULL, created_at, cancelled, dropped, backends FROM runs WHERE "
)
#: Runs that a Run document asked for are few, and each satisfies its document for ever, whatever digest it had.
_OF_WORKFLOW = (
    "id IN (SELECT id FROM runs WHERE workflow = ? AND ended_at IS NULL UNION SELECT id FROM runs WHERE workflow = ? AND digest = ?"
    " UNION SELECT id FROM runs WHERE workflow = ? AND occasion LIKE 'run:%')"
)
_ROW = (
    "SELECT id, workflow, source, digest, occasion, phase, begun, created_at, ended_at, cancelled, dropped, stalled, core_hours,"
    " pruned_at IS NOT NULL, coalesce(counts, (SELECT json_group_object(state, n) FROM"
    " (SELECT state, count(*) AS n FROM tasks WHERE run = runs.id GROUP BY state))) FROM runs "
)
_OBJECT = "SELECT kind, name, source, file, line, commit_id, revision, digest, generation, body, status, updated_at FROM objects "
_EVENT = "SELECT seq, at, name, run, task, message, object FROM events "
_USAGE = f"SELECT task, {', '.join(USAGE_COLUMNS[1:])} FROM tasks WHERE run = ? AND used_attempt = attempt"
_BUSY_TIMEOUT_S = 5.0


def identity(db: sqlite3.Connection) -> Identity:
    """What tells this ledger from another."""
    meta: dict[str, str] = dict(db.execute("SELECT key, value FROM meta").fetchall())
    fresh = db.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None
    return Identity(meta["ledger"], int(meta["epoch"]), meta["instance"], fresh)


def stored_runs(db: sqlite3.Connection, where: str, *parameters: str) -> Iterator[StoredRun]:
    """The runs that match, with all their tasks, one after the other."""
    for row in db.execute(_RUN + where, parameters).fetchall():
        body, canonical, phase, begun, cancelled, dropped, stalled, ended_at, core_hours = row
        bare = load(Run, json.loads(body))
        tasks: list[Task] = []
        records: dict[str, TaskRecord] = {}
        generators: dict[str, str] = {}
        for spec, task_id, generator, *record in db.execute(_TASKS, (bare.id,)):
            tasks.append(load(Task, json.loads(spec)))
            records[task_id] = record_of(record)
            if generator:
                generators[task_id] = generator
        run = replace(bare, tasks=tuple(tasks), canonical=unpacked(canonical))
        yield StoredRun(run, records, Phase(phase), bool(begun), cancelled, dropped, stalled, ended_at, core_hours, generators)


def heads(db: sqlite3.Connection, where: str, *parameters: str) -> tuple[RunHead, ...]:
    """The heads of the runs that match, oldest first."""
    found = []
    for row in db.execute(f"{_HEAD}{where} ORDER BY created_at, rowid", parameters):
        run, workflow, digest, occasion, phase, begun, ended, created_at, cancelled, dropped, backends = row
        names = frozenset(json.loads(backends))
        found.append(
            RunHead(run, workflow, digest, occasion, Phase(phase), bool(begun), bool(ended), created_at, cancelled, dropped, names)
        )
    return tuple(found)


def heads_of(db: sqlite3.Connection, workflow: str, digest: str | None) -> tuple[RunHead, ...]:
    """What core/trigger.py must know of one workflow; see `Ledger.heads`."""
    return heads(db, _OF_WORKFLOW, workflow, workflow, digest or "", workflow)


def objects(db: sqlite3.Connection, where: str = "", *parameters: str) -> Iterator[ObjectRow]:
    """The objects that match, by kind and name."""
    for row in db.execute(f"{_OBJECT}{where} ORDER BY kind, name", parameters):
        *head, body, status, updated_at = row
        yield ObjectRow._make((*head, json.loads(body), json.loads(status), updated_at))


class LedgerReader:
    """The ledger of a state folder, read-only. One with no ledger yet reads as an empty one. Usable from several threads."""

    def __init__(self, state_dir: Path) -> None:
        """Raises LedgerCorrupt when the file is no ledger, LedgerError when it cannot be read or a newer release wrote it."""
        self._path = state_dir / FILE_NAME
        self._folder = state_dir
        self.exists = self._path.exists() and self._path.stat().st_size > 0
        with believed(self._path):
            try:
                self._db = _connected(self._path) if self.exists else _empty()
            except _Unmade:
                self.exists, self._db = False, _empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def identity(self) -> Identity | None:
        """What tells this ledger from another; None when there is no ledger yet."""
        with believed(self._path):
            return identity(self._db) if self.exists else None

    def daemon(self) -> Holder | None:
        """Who holds the state folder now (pid, host, since when); None when no daemon runs."""
        return holder(self._folder)

    def recovered_at(self) -> float | None:
        """When a recovery wrote this ledger, None when none did, or when everything was released since."""
        with believed(self._path):
            row = self._db.execute("SELECT value FROM meta WHERE key = 'recovered_at'").fetchone()
            return None if row is None else float(row[0])

    def runs(self, limit: int = 50, offset: int = 0, *, workflow: str = "", phase: Phase | None = None) -> list[RunRow]:
        """The newest runs first. `workflow` "" and `phase` None: any."""
        where, parameters = "WHERE 1", []
        for column, wanted in (("workflow", workflow), ("phase", phase.value if phase else "")):
            if wanted:
                where += f" AND {column} = ?"
                parameters.append(wanted)
        return self._rows(f"{where} ORDER BY created_at DESC, rowid DESC LIMIT ? OFFSET ?", *parameters, limit, offset)

    def live(self) -> list[RunRow]:
        """Every run that has not ended, oldest first."""
        return self._rows("WHERE ended_at IS NULL ORDER BY created_at, rowid")

    def heads(self, workflow: str, digest: str | None) -> tuple[RunHead, ...]:
        """As `Ledger.heads`."""
        with believed(self._path):
            return heads_of(self._db, workflow, digest)

    def ended(self) -> list[tuple[str, float]]:
        """(id, when it ended) of every run that has ended and whose tasks are still kept: what StatusWriter.expect_run is told."""
        with believed(self._path):
            return self._db.execute("SELECT id, ended_at FROM runs WHERE ended_at IS NOT NULL AND pruned_at IS NULL").fetchall()

    def run(self, prefix: str) -> RunRow | None:
        """The run with this id, or the only one whose id starts so; None when there is none. Raises LedgerError when there are several."""
        # ids are hex, so the next prefix is the same with a character behind all hex digits appended
        found = self._rows("WHERE id >= ? AND id < ? ORDER BY id LIMIT 6", prefix, prefix + "g") if prefix else []
        if len(found) > 1:
            names = ", ".join(row.id for row in found[:5]) + (", …" if len(found) > 5 else "")
            raise LedgerError(f"{prefix!r} is the start of several runs: {names}")
        return found[0] if found else None

    def row(self, run: str) -> RunRow | None:
        """The run with exactly this id; None when there is none."""
        return next(iter(self._rows("WHERE id = ?", run)), None)

    def newest_run(self, workflow: str) -> RunRow | None:
        """The workflow's newest run, None when it never had one."""
        found = self.runs(1, workflow=workflow)
        return found[0] if found else None

    def stored(self, run: str) -> StoredRun | None:
        """A run with all its tasks in memory; None when no run has exactly this id."""
        with believed(self._path):
            return next(stored_runs(self._db, "id = ?", run), None)

    def tasks(self, run: str) -> Iterator[tuple[Task, TaskRecord]]:
        """A run's tasks in order, one at a time, as they were when the first was asked for."""
        # its own connection: while one question is half answered, a connection sees no newer saves
        with believed(self._path), contextlib.ExitStack() as stack:
            db = stack.enter_context(contextlib.closing(_connected(self._path))) if self.exists else self._db
            for spec, _, _, *record in db.execute(_TASKS, (run,)):
                yield load(Task, json.loads(spec)), record_of(record)

    def usage(self, run: str) -> dict[str, Usage]:
        """What the newest attempts of a run's tasks used, by task id; only of those of which that is known."""
        with believed(self._path):
            return {task: Usage(*measured) for task, *measured in self._db.execute(_USAGE, (run,))}

    def events(self, *, run: str = "", subject: str = "", after: int | None = None, limit: int = 1000) -> list[StoredEvent]:
        """At most `limit` events, oldest first: those with `seq` above `after`, or the newest ones when it is None.

        `run` is a whole id, `subject` an object as `Kind/name`; "" is any.
        """
        where, parameters = "WHERE seq > ?", [after or 0]
        for column, wanted in (("run", run), ("object", subject)):
            if wanted:
                where += f" AND {column} = ? AND {column} <> ''"  # the second lets SQLite use the partial index
                parameters.append(wanted)  # type: ignore[arg-type]  # numbers and words are both parameters
        order = "DESC" if after is None else "ASC"
        with believed(self._path):
            rows = self._db.execute(f"{_EVENT}{where} ORDER BY seq {order} LIMIT ?", (*parameters, limit)).fetchall()
        found = [StoredEvent(seq, Event(*event)) for seq, *event in rows]
        return found[::-1] if after is None else found

    def objects(self, kind: str = "") -> list[ObjectRow]:
        """The objects of a kind, or all, by kind and name."""
        with believed(self._path):
            return list(objects(self._db, "WHERE kind = ?", kind) if kind else objects(self._db))

    def object(self, kind: str, name: str) -> ObjectRow | None:
        """One object by its qualified name."""
        with believed(self._path):
            return next(objects(self._db, "WHERE kind = ? AND name = ?", kind, name), None)

    def _rows(self, where: str, *parameters: str | int) -> list[RunRow]:
        with believed(self._path):
            return [_run_row(row) for row in self._db.execute(_ROW + where, parameters)]


def _run_row(row: Sequence[Any]) -> RunRow:
    run, workflow, source, digest, occasion, phase, begun, *rest, pruned, counts = row
    return RunRow._make((run, workflow, source, digest, occasion, Phase(phase), bool(begun), *rest, bool(pruned), json.loads(counts)))


class _Unmade(Exception):
    """The file has no table yet: a daemon is making it at this moment."""


def _connected(path: Path) -> sqlite3.Connection:
    """A read-only connection; where SQLite may not make its shared memory, one that takes the file as it is."""
    try:
        db = _tried(path, "mode=ro")
    except sqlite3.OperationalError:
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise  # what is in the log would be missing
        db = _tried(path, "immutable=1")
    return db


def _tried(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                raise _Unmade
            raise LedgerCorrupt(f"{path} is not a ledger of this program; it was left as it is")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            cure = "use that release" if version > VERSION else "start the daemon once"
            raise LedgerError(f"the ledger {path} was written by another release (version {version}, not {VERSION}); {cure}")
    except BaseException:  # whatever it is, what was opened is closed, and it is raised on
        db.close()
        raise
    return db


def _empty() -> sqlite3.Connection:
    """What a ledger looks like in which nothing was ever saved."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for statement in (part for migration in MIGRATIONS for part in migration):
        db.execute(statement)
    return db
