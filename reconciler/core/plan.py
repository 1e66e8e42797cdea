"""Learn, then decide: what one run needs next, within the room it was given.

    plan(run, record, news, room, now) -> Plan

Called by controller.py, and by nobody else. Pure: the same arguments give the same plan, and planning again on its own result
submits nothing new. The caller saves `Plan.record` durably before it carries out `Plan.actions`.

What comes next follows from the record alone: whatever is in CANCELLING is told to the backend until it is proven; a generator
that ended well has its file read; what is ready is sent while there is room. Reading and revoking are repeated, because they are
idempotent; a submission never is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.actions import Action, Cancel, Fetch, Submit
from reconciler.core.desired import Cause, Run, Task
from reconciler.core.draft import NEVER, Draft, after_restart, awaits_tasks, new_record, remember
from reconciler.core.evidence import learn
from reconciler.core.names import job_name
from reconciler.core.observed import BackendView, News
from reconciler.core.record import LIVE, Aim, Event, RunRecord, TaskRecord, TaskState

__all__ = ["Plan", "after_restart", "new_record", "plan", "remember"]

#: A Cancel or a Fetch whose answer did not settle the matter is told again after this long. Seconds, by judgement.
TELL_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to remember and what to do. `changed` names tasks whose record differs from before (appended ones included).

    `wake_at`: plan again no later than this, None when only news can move the run on. `look_at`: by backend, look again no
    later than this, because an absence is being waited out.
    """

    record: RunRecord
    changed: tuple[str, ...] = ()
    appended: tuple[Task, ...] = ()
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    wake_at: float | None = None
    look_at: Mapping[str, float] = field(default_factory=dict)


def plan(run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float) -> Plan:
    """Decide the next step of one run. `room` is how many more jobs it may have now, by backend."""
    draft = Draft(run, record, now)
    learn(draft, news)
    _close(draft, news)
    actions: list[Action] = []
    wakes: list[float] = []
    looks: dict[str, float] = {}
    for task_id in sorted(draft.watched):
        _pursue(draft, task_id, news.backends, actions, wakes, looks)
    if not (draft.closed or news.suspended):
        _submit(draft, news.backends, room, actions)
    if draft.ready and max(draft.ready.values()) > now:
        wakes += [min((at for at in draft.ready.values() if now < at < NEVER), default=NEVER)]
    return Plan(
        record=draft.record(),
        changed=tuple(draft.changed),
        appended=tuple(draft.appended),
        actions=(*draft.forgets, *actions),
        events=tuple(draft.events),
        wake_at=min((at for at in wakes if at < NEVER), default=None),
        look_at=looks,
    )


def _close(draft: Draft, news: News) -> None:
    """A run that is cancelled ends everything; one that is dropped starts nothing more. Neither can be taken back."""
    if news.cancelled and not draft.cancelled:
        draft.cancelled = news.cancelled
        draft.note("RunCancelled", "", news.cancelled)
        for task_id, record in list(draft.tasks.items()):
            if record.state in LIVE:
                _end(draft, task_id, record)
    if news.dropped and not draft.dropped:
        draft.dropped = news.dropped
        draft.note("RunDropped", "", news.dropped)
    if draft.closed and draft.counts.get(TaskState.WAITING):  # also what was appended after the wish had been withdrawn
        why = draft.cancelled or draft.dropped
        for task_id in list(draft.tasks):
            record = draft.tasks[task_id]  # read now: the end of one task may already have skipped another
            if record.state is TaskState.WAITING:
                ended = record.to(TaskState.CANCELLED, draft.now, why, cause=Cause.CANCELLED, ended_at=draft.now)
                draft.put(task_id, ended)


def _end(draft: Draft, task_id: str, record: TaskRecord) -> None:
    """Aim a live task at CANCELLED."""
    if awaits_tasks(record, draft.known[task_id]):  # its job has ended; only its file was still to be read
        draft.put(task_id, record.to(TaskState.CANCELLED, draft.now, draft.cancelled, cause=Cause.CANCELLED))
    elif record.state is TaskState.CANCELLING:
        draft.put(task_id, record._replace(aim=Aim.CANCELLED, reason=draft.cancelled, told_at=0.0))
    else:
        draft.put(task_id, record.to(TaskState.CANCELLING, draft.now, draft.cancelled, aim=Aim.CANCELLED))


def _pursue(
    draft: Draft, task_id: str, backends: Mapping[str, BackendView], actions: list[Action], wakes: list[float], looks: dict[str, float]
) -> None:
    """Do what is due for a watched task: wait an absence out, tell its backend to cancel, or read its file."""
    record, task = draft.tasks[task_id], draft.known[task_id]
    backend = draft.run.backend_of(task)
    view = backends.get(backend)
    if view is None or not view.reachable:
        return  # nothing can be told or seen; the look that reaches it again brings us back
    if record.absent_since:
        due = record.absent_since + view.absence_grace_s
        looks[backend] = min(due, looks.get(backend, due))
    if record.state is not TaskState.CANCELLING and not awaits_tasks(record, task):
        return
    if record.told_at and draft.now < record.told_at + TELL_AGAIN_S:
        wakes.append(record.told_at + TELL_AGAIN_S)
        return
    draft.put(task_id, record._replace(told_at=draft.now))
    wakes.append(draft.now + TELL_AGAIN_S)
    job = job_name(draft.run.id, task_id, record.attempt)
    if record.state is TaskState.CANCELLING:
        kill = record.aim is Aim.CANCELLED
        actions.append(Cancel(backend, draft.run.id, task_id, job, record.job_id, kill, record.reason))
    else:
        actions.append(Fetch(backend, draft.run.id, task_id, job, task.generates_source))


def _submit(draft: Draft, backends: Mapping[str, BackendView], room: Mapping[str, int], actions: list[Action]) -> None:
    """Send what is ready, in order, while there is room on a backend that can be seen."""
    left = {name: more for name, more in room.items() if more > 0 and _takes(backends.get(name))}
    for task_id, not_before in list(draft.ready.items()):
        if not left:
            return
        backend = draft.run.backend_of(draft.known[task_id])
        if backend not in left or not_before > draft.now:
            continue
        record = draft.tasks[task_id]
        draft.put(task_id, record.sent(draft.now))
        actions.append(Submit(backend, draft.run.id, task_id, job_name(draft.run.id, task_id, record.attempt)))
        left[backend] -= 1
        if not left[backend]:
            del left[backend]


def _takes(view: BackendView | None) -> bool:
    return view is not None and view.reachable and view.accepts
