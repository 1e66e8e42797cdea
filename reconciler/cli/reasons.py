"""The chain that blocks an object, from what the ledger holds. For `why`; core/summary.py has the words for tasks.

Of a backend counts what the daemon last said; only why a job is pending there is asked of itself. When no daemon runs, that is said.
"""

from __future__ import annotations

from collections.abc import Callable

from reconciler.cli.lookup import find_objects, find_run, find_stored, find_task, split, try_run
from reconciler.cli.output import no_such
from reconciler.cli.read import condition, conditions
from reconciler.clock import utc_now
from reconciler.core.draft import remember
from reconciler.core.names import job_name
from reconciler.core.observed import BackendView
from reconciler.core.record import FINAL, RunRecord, TaskState
from reconciler.core.summary import GOES_ON, Surroundings, blocking, run_conditions
from reconciler.core.summary import why as chain_of
from reconciler.ledger.read import LedgerReader
from reconciler.ledger.rows import ObjectRow, RunRow

#: What `Backend.spec.absence_grace` is when the stored document does not tell.
_GRACE_S = 30.0
_NO_DAEMON = "no daemon is running on this folder, so nothing moves; `reconciler run` starts one"


#: Asks a backend why a job of it is pending: (backend, job name, what it said last) -> sentences.
Explain = Callable[[str, str, str], list[str]]


def reasons(reader: LedgerReader, word: str, task: str | None, explain: Explain) -> list[str]:
    """One sentence each, from `word` itself down to what happens next."""
    if task is not None:
        return _of_run(reader, find_run(reader, word), task, explain)
    kind, name = split(word)
    objects = find_objects(reader, word)
    run = try_run(reader, word)
    if not objects and run is None:
        known = [row.name for row in reader.objects()] + [row.id for row in reader.runs(500)]
        no_such(kind.lower() or "object", name, known)
    lines = [line for row in objects for line in _of_object(row)]
    if run is not None:
        return lines + _of_run(reader, run, None, explain)
    return lines + ([] if reader.daemon() else [_NO_DAEMON])


def _of_object(row: ObjectRow) -> list[str]:
    said = [each for each in conditions(row) if each.get("type") != "Succeeded"]
    if not said:
        return [f"{row.kind}/{row.name}: nothing was said of it yet"]
    # Reconciling and Stalled repeat Ready in the same words
    unique = {str(each.get("message")): each for each in reversed(said)}
    return [f"{row.kind}/{row.name}: {each.get('reason')}: {message}" for message, each in reversed(unique.items())]


def _of_run(reader: LedgerReader, row: RunRow, task: str | None, explain: Explain) -> list[str]:
    head = f"run {row.id} of {row.workflow or '(unknown)'} is {row.phase}"
    stored = find_stored(reader, row.id)
    record = remember(stored.run, stored.records, stored.cancelled, stored.dropped)
    around = Surroundings(_views(reader), {}, _suspended(reader, row))
    about = find_task(stored, task) if task is not None else _first_open(record)
    if task is None:
        succeeded = next(each for each in run_conditions(stored.run, record, around.suspended) if each.type == "Succeeded")
        head = f"{head}: {succeeded.message}"
    lines = [head]
    if about:
        lines += chain_of(stored.run, record, about, around, utc_now())
        last = blocking(record, about)
        pending = record.tasks[last]
        if pending.state is TaskState.QUEUED:
            lines += explain(stored.run.backend_of(record.known[last]), job_name(row.id, last, pending.attempt), pending.reason)
    return lines + ([_NO_DAEMON] if row.ended_at is None and not reader.daemon() else [])


def _first_open(record: RunRecord) -> str:
    """The task to tell about: one under way, else the first that waits; "" when the run has ended."""
    left = [task_id for task_id, task in record.tasks.items() if task.state not in FINAL]
    return next((task_id for task_id in left if record.tasks[task_id].state is not TaskState.WAITING), left[0] if left else "")


def _views(reader: LedgerReader) -> dict[str, BackendView]:
    return {row.name: _view(row) for row in reader.objects("Backend")}


def _view(row: ObjectRow) -> BackendView:
    ready = condition(row, "Ready")
    body = row.body if isinstance(row.body, dict) else {}
    grace = body.get("absence_grace_s")
    return BackendView(
        began_at=row.updated_at or None,
        reachable=ready.get("reason") not in ("Unreachable", "NotOwner"),
        complete=ready.get("reason") != "PartlySeen",
        absence_grace_s=float(grace) if isinstance(grace, int | float) else _GRACE_S,
        reason=str(ready.get("message", "")).removesuffix(GOES_ON),
        accepts=ready.get("reason") not in ("Draining", "Suspended"),
    )


def _suspended(reader: LedgerReader, row: RunRow) -> str:
    """What holds a run back, in words: its workflow's suspension, or its source's; "" when nothing does."""
    for kind, name in (("Workflow", row.workflow), ("Source", row.source)):
        found = reader.object(kind, name) if name else None
        ready = condition(found, "Ready") if found else {}
        if ready.get("reason") == "Suspended":
            return f"{kind} {name} is suspended: {ready.get('message')}"
    return ""
