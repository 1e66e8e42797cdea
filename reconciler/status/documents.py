"""Records -> the documents of status files. Called by writer.py for runs, and by whoever reports on other objects. Pure.

What `reconciler recover` needs of a run is in its document in clear: identity, digest, occasion, and a row for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.clock import rfc3339
from reconciler.core.desired import Run, Task
from reconciler.core.draft import remember
from reconciler.core.names import job_name
from reconciler.core.observed import BackendView, Usage
from reconciler.core.record import RunRecord, TaskRecord
from reconciler.core.summary import Condition, Truth, carry, run_conditions, run_summary, usage_row
from reconciler.ledger.rows import StoredRun

API_VERSION = "scripthut/v1"
#: Keys whose entries are one line each, wherever they stand.
ROWS = frozenset({"conditions", "tasks", "history"})

#: Where a job's log is, for people: (backend, job name) -> path, or "" when nobody knows.
LogOf = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it is reported. `suspended` and `backends` are what core/summary.py words its conditions with. `usage`: by task id."""

    run: Run
    record: RunRecord
    suspended: str = ""
    backends: Mapping[str, BackendView] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)


def view_of(stored: StoredRun) -> RunView | None:
    """A stored run as it is reported; None when its tasks are no longer kept, so that nothing could be said of them."""
    if not stored.records and stored.ended_at is not None:
        return None
    return RunView(stored.run, remember(stored.run, stored.records, stored.cancelled, stored.dropped))


def object_document(kind: str, name: str, status: Mapping[str, object]) -> dict[str, object]:
    """The envelope of every status file but a run's."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "status": dict(status)}


def condition_rows(conditions: Iterable[Condition]) -> list[dict[str, object]]:
    """Conditions as they are written; a time that is not known is left out."""
    return [_without_blanks(_condition(each), keep=("status", "reason", "message")) for each in conditions]


def _condition(each: Condition) -> dict[str, object]:
    return {
        "type": each.type,
        "status": each.status.value,
        "reason": each.reason,
        "message": each.message,
        "observed_generation": each.observed_generation,
        "last_transition_time": _time(each.last_transition_time),
    }


def run_document(
    instance: str, view: RunView, now: float, before: Iterable[Condition] = (), log_of: LogOf | None = None
) -> tuple[dict[str, object], tuple[Condition, ...]]:
    """A run's document, and its conditions, to be given as `before` the next time so that their times are kept."""
    run, record = view.run, view.record
    summary = run_summary(record, now)
    # without a memory of our own: it was accepted when it was made, and its success is decided when it ends
    known = tuple(before) or (_since(run, "Ready", Truth.TRUE), _since(run, "Succeeded", Truth.UNKNOWN))
    conditions = carry(known, run_conditions(run, record, view.suspended, view.backends), summary.ended_at or now)
    status = {
        "phase": summary.phase.value,
        "begun": record.begun,
        "started_at": _time(summary.started_at),
        "ended_at": _time(summary.ended_at),
        "cancelled": record.cancelled,
        "dropped": record.dropped,
        "core_hours": round(summary.core_hours, 4),
        "counts": {state.value: count for state, count in summary.tasks.items()},
        "conditions": condition_rows(conditions),
        "tasks": {
            name: {**_row(run, record.known[name], task, log_of), **usage_row(view.usage.get(name))} for name, task in record.tasks.items()
        },
    }
    document: dict[str, object] = {
        "apiVersion": API_VERSION,
        "kind": "Run",
        "metadata": {"name": run.id, "instance": instance},
        "spec": _spec(run),
        "status": _without_blanks(status, keep=("begun", "counts", "conditions", "tasks", "core_hours")),
    }
    return document, conditions


def _spec(run: Run) -> dict[str, object]:
    """What the run is of. Identity (workflow, digest, occasion) is always there; the rest when there is something to say."""
    place = run.place
    spec = {
        "workflow": run.workflow,
        "digest": run.digest,
        "occasion": run.occasion,
        "backend": run.backend,
        "source": place.source,
        "file": place.file,
        "line": place.line,
        "commit": place.commit,
        "revision": place.revision,
        "created_at": rfc3339(run.created_at),
        "rerun": run.rerun,
        "title": run.title,
        "labels": dict(run.labels),
        "parameters": dict(run.parameters),
    }
    return _without_blanks(spec, keep=("workflow", "digest", "occasion"))


def _row(run: Run, task: Task, record: TaskRecord, log_of: LogOf | None) -> dict[str, object]:
    """One task in one line: state and attempt, and whatever else there is."""
    row: dict[str, object] = {"state": record.state.value, "attempt": record.attempt}
    if record.job_id:
        row["job"] = record.job_id
    if record.exit_code is not None:
        row["exit_code"] = record.exit_code
    if record.cause is not None:
        row["cause"] = record.cause.value
    for key, at in (("submitted_at", record.claimed_at), ("started_at", record.started_at), ("ended_at", record.ended_at)):
        if at:
            row[key] = rfc3339(at)
    if record.reason:
        row["reason"] = record.reason
    if record.claimed_at:
        backend = run.backend_of(task)
        if task.backend:
            row["backend"] = backend
        log = task.output_file or (log_of(backend, job_name(run.id, task.id, record.attempt)) if log_of else "")
        if log:
            row["log"] = log
    return row


def _since(run: Run, kind: str, status: Truth) -> Condition:
    return Condition(kind, status, "", "", run.digest, run.created_at)


def _time(at: float) -> str:
    return rfc3339(at) if at else ""


def _without_blanks(values: Mapping[str, object], keep: tuple[str, ...]) -> dict[str, object]:
    """The entries that say something, and those in `keep`."""
    return {key: value for key, value in values.items() if value or key in keep}
