"""What can still be read of a ledger that is damaged or merely old. Called by recovery.py; changes nothing.

SQLite reads a damaged file until it meets the damage. So the runs are read from the front and from the back, and each on its own.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.core.desired import Place, Run
from reconciler.core.record import Phase
from reconciler.ledger import read
from reconciler.ledger.rows import Identity, StoredRun
from reconciler.ledger.schema import APPLICATION_ID
from reconciler.ledger.statusfile import nameless

RUN_ID = re.compile("[0-9a-f]{12}")
#: What reading a damaged file raises: SQLite's errors, and what rows that make no sense do to whoever decodes them.
_TROUBLE = (sqlite3.Error, KeyError, ValueError, TypeError, OverflowError, AssertionError)
_BARE = "SELECT id, workflow, source, digest, occasion, phase, begun, created_at, ended_at, cancelled, dropped FROM runs WHERE id = ?"


@dataclass(frozen=True, slots=True)
class Salvaged:
    """`identity` None: not even that could be read. A run may have lost its tasks."""

    identity: Identity | None = None
    runs: tuple[StoredRun, ...] = ()
    problems: tuple[str, ...] = ()


def salvage(path: Path) -> Salvaged:
    """Everything that can be read of the file. Never raises for damage; no file is an empty answer."""
    if not path.is_file() or not path.stat().st_size:
        return Salvaged()
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        try:
            if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                return Salvaged(problems=("old ledger: it is not a ledger of this program",))
        except sqlite3.Error as error:
            return Salvaged(problems=(f"old ledger: nothing of it can be read ({error})",))
        problems: list[str] = []
        identity: Identity | None = None
        with contextlib.suppress(*_TROUBLE):  # a ledger without a readable identity may still hold runs
            identity = read.identity(db)
        runs = [stored for run in _ids(db, problems) if (stored := _run(db, run, problems)) is not None]
    return Salvaged(identity, tuple(runs), tuple(problems))


def _ids(db: sqlite3.Connection, problems: list[str]) -> list[str]:
    """From the front, from the back, and from the index, which is another copy of them on other pages."""
    found: dict[str, None] = {}
    for which in ("NOT INDEXED ORDER BY rowid", "NOT INDEXED ORDER BY rowid DESC", "INDEXED BY sqlite_autoindex_runs_1"):
        try:
            for (run,) in db.execute(f"SELECT id FROM runs {which}"):
                found.setdefault(str(run))
        except _TROUBLE as error:
            problems.append(f"old ledger: some runs cannot be read ({error})")
        else:
            break
    return [run for run in found if RUN_ID.fullmatch(run)]


def _run(db: sqlite3.Connection, run: str, problems: list[str]) -> StoredRun | None:
    try:
        return next(read.stored_runs(db, "id = ?", run), None)
    except _TROUBLE as error:
        problems.append(f"old ledger: not all of run {run} can be read ({error})")
    try:
        row = db.execute(_BARE, (run,)).fetchone()
        return None if row is None else _bare(row)
    except _TROUBLE:
        return StoredRun(nameless(run), {}, Phase.WAITING, True)


def _bare(row: Sequence[Any]) -> StoredRun:
    """A run without its tasks."""
    run, workflow, source, digest, occasion, phase, begun, created_at, ended_at, cancelled, dropped = row
    bare = Run(run, workflow, digest, "", occasion, "", (), Place(source, "", 0), float(created_at))
    return StoredRun(bare, {}, Phase(phase), bool(begun), cancelled, dropped, ended_at=None if ended_at is None else float(ended_at))
