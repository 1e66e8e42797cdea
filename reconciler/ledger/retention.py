"""What may be forgotten: tasks, specs and events of runs that ended long ago. Called by writer.py, inside its transaction.

A run's own row stays for ever, whatever the settings say: it is what keeps a digest from being run a second time. It also remembers
whether the backends have forgotten the run, too: one that could not be reached, or a stop in between, must not leave folders for ever.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

DAY_S = 86_400.0
#: Runs and events of one call: some 20 ms for runs of 1,000 tasks and 100 ms for events, so that a save is not kept waiting longer.
RUNS_MAX, EVENTS_MAX = 5, 20_000

_COUNTS = "(SELECT json_group_object(state, n) FROM (SELECT state, count(*) AS n FROM tasks WHERE run = runs.id GROUP BY state))"


def prune_runs(db: sqlite3.Connection, now: float, keep_days: float) -> bool:
    """Forget the tasks of at most `RUNS_MAX` runs that ended more than `keep_days` ago, oldest first; their counts stay.

    Whether there may be more of them.
    """
    rows = db.execute(
        "SELECT id FROM runs WHERE ended_at < ? AND pruned_at IS NULL ORDER BY ended_at LIMIT ?", (now - keep_days * DAY_S, RUNS_MAX)
    ).fetchall()
    for run in rows:
        db.execute(f"UPDATE runs SET counts = {_COUNTS}, pruned_at = ? WHERE id = ?", (now, *run))
        db.execute("DELETE FROM tasks WHERE run = ?", run)
        db.execute("DELETE FROM specs WHERE run = ?", run)
    return len(rows) == RUNS_MAX


def prune_events(db: sqlite3.Connection, now: float, keep_days: float) -> bool:
    """Forget the oldest events, at most `EVENTS_MAX`, that are older than `keep_days` and are not of a live run.

    Whether there may be more of them.
    """
    cursor = db.execute(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE at < ?"
        " AND run NOT IN (SELECT id FROM runs WHERE ended_at IS NULL) ORDER BY seq LIMIT ?)",
        (now - keep_days * DAY_S, EVENTS_MAX),
    )
    return cursor.rowcount == EVENTS_MAX


def uncleaned_runs(db: sqlite3.Connection) -> dict[str, frozenset[str]]:
    """The runs whose tasks were forgotten here, and perhaps not there: on the backends that each of them names."""
    rows = db.execute("SELECT id, backends FROM runs WHERE pruned_at IS NOT NULL AND cleaned_at IS NULL").fetchall()
    return {run: frozenset(json.loads(backends)) for run, backends in rows}


def mark_cleaned(db: sqlite3.Connection, runs: Iterable[str], now: float) -> None:
    """No backend keeps anything of these runs any more."""
    db.executemany("UPDATE runs SET cleaned_at = ? WHERE id = ? AND pruned_at IS NOT NULL", [(now, run) for run in runs])
