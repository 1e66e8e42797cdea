"""What may be forgotten: tasks, specs and events of runs that ended long ago. Called by writer.py, inside its transaction.

A run's own row stays for ever, whatever the settings say: it is what keeps a digest from being run a second time.
"""

from __future__ import annotations

import sqlite3

DAY_S = 86_400.0
#: Runs and events of one call: some 20 ms for runs of 1,000 tasks and 100 ms for events, so that a save is not kept waiting longer.
RUNS_MAX, EVENTS_MAX = 5, 20_000

_COUNTS = "(SELECT json_group_object(state, n) FROM (SELECT state, count(*) AS n FROM tasks WHERE run = runs.id GROUP BY state))"


def prune_runs(db: sqlite3.Connection, now: float, keep_days: float) -> tuple[str, ...]:
    """Forget the tasks of at most `RUNS_MAX` runs that ended more than `keep_days` ago, oldest first; their counts stay."""
    rows = db.execute(
        "SELECT id FROM runs WHERE ended_at < ? AND pruned_at IS NULL ORDER BY ended_at LIMIT ?", (now - keep_days * DAY_S, RUNS_MAX)
    ).fetchall()
    for run in rows:
        db.execute(f"UPDATE runs SET counts = {_COUNTS}, pruned_at = ? WHERE id = ?", (now, *run))
        db.execute("DELETE FROM tasks WHERE run = ?", run)
        db.execute("DELETE FROM specs WHERE run = ?", run)
    return tuple(run for (run,) in rows)


def prune_events(db: sqlite3.Connection, now: float, keep_days: float) -> None:
    """Forget the oldest events, at most `EVENTS_MAX`, that are older than `keep_days` and are not of a live run."""
    db.execute(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE at < ?"
        " AND run NOT IN (SELECT id FROM runs WHERE ended_at IS NULL) ORDER BY seq LIMIT ?)",
        (now - keep_days * DAY_S, EVENTS_MAX),
    )
