"""What a cycle wants to remember, as one batch for the ledger. Pure; called by controller.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reconciler.core.cost import core_hours_used
from reconciler.core.record import Event
from reconciler.core.summary import phase_of
from reconciler.fleet import Step
from reconciler.ledger.rows import Appended, Batch, NewRun, ObjectRow, RunChange, TaskChange, UsageChange


class ObjectChanges(NamedTuple):
    """What changed about objects of the desired state: rows to write, (kind, name) of those that nobody asks for any more, events
    about them, and workflows that a person has let go again after a recovery."""

    objects: tuple[ObjectRow, ...] = ()
    gone: tuple[tuple[str, str], ...] = ()
    events: tuple[Event, ...] = ()
    released: tuple[str, ...] = ()


def batch_of(steps: Sequence[Step], about: ObjectChanges, used: Sequence[UsageChange] = ()) -> Batch:
    """Everything that `steps` change, what changed about the desired state, and what finished jobs used."""
    new, appended, tasks, runs = [], [], [], []
    for step in steps:
        if step.before is None:
            new.append(NewRun(step.run, step.record.tasks))
        else:
            fresh = {task.id for task in step.appended}
            if step.appended:
                records = {task_id: step.record.tasks[task_id] for task_id in fresh}
                appended.append(Appended(step.run.id, _generator(step), step.appended, records))
            tasks += [TaskChange(step.run.id, task_id, step.record.tasks[task_id]) for task_id in step.changed if task_id not in fresh]
        runs.append(_change(step))
    events = (*about.events, *(event for step in steps for event in step.events))
    changed = (tuple(new), tuple(appended), tuple(tasks), tuple(runs))
    return Batch(*changed, events, about.objects, about.gone, about.released, tuple(used))


def _generator(step: Step) -> str:
    """Which task appended: the one that says so in its record. Two in one cycle are told as the first; the tasks are right."""
    for task_id in step.changed:
        if step.record.known[task_id].generates_source and step.record.tasks[task_id].reason.startswith("generated "):
            return task_id
    return ""


def _change(step: Step) -> RunChange:
    record = step.record
    ended_at = None
    if record.ended:
        ended_at = max((task.ended_at or task.since for task in record.tasks.values()), default=step.run.created_at)
    return RunChange(
        run=step.run.id,
        phase=phase_of(record),
        begun=record.begun,
        cancelled=record.cancelled,
        dropped=record.dropped,
        stalled=record.stalled,
        ended_at=ended_at,
        core_hours=core_hours_used(record, ended_at) if ended_at is not None else 0.0,
    )
