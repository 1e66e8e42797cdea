"""The working copy of one run's record while it is planned: the one place where a task's record is replaced.

core/plan.py makes a draft, core/evidence.py folds what was seen into it, core/plan.py decides on it. It copies what it will
change once, so the record it was made from stays as it was. Everything that follows from the tasks (needs left, ready, watched,
live, counts) is kept up here, so that the cost of a plan grows with what changed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler.core.actions import Forget
from reconciler.core.desired import Run, Task, When
from reconciler.core.graph import extend_shape, shape
from reconciler.core.names import job_name
from reconciler.core.record import FINAL, LIVE, Event, RunRecord, TaskRecord, TaskState

#: Submissions in a row that never started, for one task, before only a person can help. Ten with back-off span half an hour.
LOSSES_MAX = 10

#: The promised name of the event that says a task entered a state.
EVENT_OF: Mapping[TaskState, str] = {
    TaskState.WAITING: "TaskWaiting",
    TaskState.SUBMITTING: "TaskSubmitting",
    TaskState.QUEUED: "TaskQueued",
    TaskState.RUNNING: "TaskRunning",
    TaskState.CANCELLING: "TaskCancelling",
    TaskState.SUCCEEDED: "TaskSucceeded",
    TaskState.FAILED: "TaskFailed",
    TaskState.CANCELLED: "TaskCancelled",
    TaskState.SKIPPED: "TaskSkipped",
    TaskState.LOST: "TaskLost",
}

#: `ready` holds this for a waiting task that only a person can move on.
NEVER = math.inf
#: Why a task with `when: failure` was skipped: nothing is wrong, so it does not spoil the run.
NOT_CALLED_FOR = "nothing that it waits for failed"

_WORD = {
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "was cancelled",
    TaskState.SKIPPED: "was skipped",
    TaskState.LOST: "was lost",
}


class Draft:
    """One run's record, being changed. Not kept: `record()` freezes it."""

    def __init__(self, run: Run, record: RunRecord, now: float) -> None:
        self.run = run
        self.now = now
        self.tasks: dict[str, TaskRecord] = dict(record.tasks)
        self.changed: dict[str, None] = {}
        self.appended: list[Task] = []
        self.events: list[Event] = []
        self.forgets: list[Forget] = []
        self.known = record.known
        self.shape = record.shape
        self.needs_left = dict(record.needs_left)
        self.ready = dict(record.ready)
        self.watched = set(record.watched)
        self.live = dict(record.live)
        self.counts = dict(record.counts)
        self.cancelled = record.cancelled
        self.dropped = record.dropped
        self.stuck = bool(record.stalled)
        self._unsettled: deque[str] = deque()

    @property
    def closed(self) -> bool:
        """Nothing more may start in this run."""
        return bool(self.cancelled or self.dropped)

    def put(self, task_id: str, new: TaskRecord) -> None:
        """Replace the record of a task, and keep up all that follows from it."""
        old = self.tasks[task_id]
        if new == old:
            return
        self.tasks[task_id] = new
        self.changed[task_id] = None
        if is_watched(new, self.known[task_id]):
            self.watched.add(task_id)
        else:
            self.watched.discard(task_id)
        if old.state in LIVE and (new.state not in LIVE or new.attempt != old.attempt):
            job = job_name(self.run.id, task_id, old.attempt)
            self.forgets.append(Forget(self.run.backend_of(self.known[task_id]), self.run.id, task_id, job))
        if new.state is old.state:
            if task_id in self.ready:
                self._wait(task_id, new)
            return
        self._count(task_id, old.state, new.state)
        self.events.append(Event(self.now, EVENT_OF[new.state], self.run.id, task_id, new.reason))
        if old.state is TaskState.WAITING:
            self.ready.pop(task_id, None)
            self.needs_left.pop(task_id, None)
        elif new.state is TaskState.WAITING:
            self._admit(self.known[task_id])  # its needs are asked again: an adopted job may have run before they were final
        if new.state in FINAL:
            self._settle(task_id)

    def append(self, tasks: Sequence[Task]) -> None:
        """Add generated tasks. Their needs are ids of this run, checked by whoever read them."""
        known = dict(self.known)
        known.update((task.id, task) for task in tasks)
        self.known = known
        self.shape = extend_shape(self.shape, tasks)
        self.appended.extend(tasks)
        for task in tasks:
            self.tasks[task.id] = TaskRecord(since=self.now)
            self.changed[task.id] = None
            self.counts[TaskState.WAITING] = self.counts.get(TaskState.WAITING, 0) + 1
        for task in tasks:
            self._admit(task)

    def note(self, name: str, task_id: str, message: str) -> None:
        """Say that something happened that is no change of state."""
        self.events.append(Event(self.now, name, self.run.id, task_id, message))

    def record(self) -> RunRecord:
        """The draft, frozen."""
        return RunRecord(
            tasks=self.tasks,
            known=self.known,
            shape=self.shape,
            needs_left=self.needs_left,
            ready=self.ready,
            watched=frozenset(self.watched),
            live={backend: count for backend, count in self.live.items() if count},
            counts={state: count for state, count in self.counts.items() if count},
            cancelled=self.cancelled,
            dropped=self.dropped,
            stalled=_stalled(self.ready, self.tasks) if self.stuck else "",
        )

    def _count(self, task_id: str, old: TaskState, new: TaskState) -> None:
        self.counts[old] -= 1
        self.counts[new] = self.counts.get(new, 0) + 1
        step = (new in LIVE) - (old in LIVE)
        if step:
            backend = self.run.backend_of(self.known[task_id])
            self.live[backend] = self.live.get(backend, 0) + step

    def _wait(self, task_id: str, record: TaskRecord) -> None:
        self.ready[task_id] = ready_at(record)
        self.stuck = self.stuck or self.ready[task_id] == NEVER

    def _admit(self, task: Task) -> None:
        """Count the needs of a task that waits from now on, or skip it at once when one of them has already spoiled it."""
        ends = [self.tasks[need].state in FINAL for need in task.needs]
        spoiled = any(end and not self._is_fine(need) for need, end in zip(task.needs, ends, strict=True))
        if spoiled and task.when is When.SUCCESS:
            self._skip(task.id, "a task it needs did not succeed")
        elif left := ends.count(False):
            self.needs_left[task.id] = left
        else:
            self._release(task.id)

    def _settle(self, ended: str) -> None:
        """Tell the dependents of a task that it is final. `put` of a skipped one comes back here, so: one level, then a list."""
        self._unsettled.append(ended)
        if len(self._unsettled) > 1:
            return  # the loop below, further up the stack, gets to it
        while self._unsettled:
            need = self._unsettled[0]
            fine = self._is_fine(need)
            for dependent in self.shape.dependents.get(need, ()):
                if self.tasks[dependent].state is TaskState.WAITING and dependent in self.needs_left:
                    self._count_down(dependent, need, fine)
            self._unsettled.popleft()

    def _count_down(self, task_id: str, need: str, fine: bool) -> None:
        if not fine and self.known[task_id].when is When.SUCCESS:
            self._skip(task_id, f"{need} {_WORD.get(self.tasks[need].state, 'did not succeed')}")
        elif self.needs_left[task_id] == 1:
            del self.needs_left[task_id]
            self._release(task_id)
        else:
            self.needs_left[task_id] -= 1

    def _release(self, task_id: str) -> None:
        """All needs of a waiting task are final, and none forbids it."""
        task = self.known[task_id]
        if task.when is When.FAILURE and all(self._is_fine(need) for need in task.needs):
            self._skip(task_id, NOT_CALLED_FOR)
        else:
            self._wait(task_id, self.tasks[task_id])

    def _skip(self, task_id: str, why: str) -> None:
        self.put(task_id, self.tasks[task_id].to(TaskState.SKIPPED, self.now, why, ended_at=self.now))

    def _is_fine(self, task_id: str) -> bool:
        return is_fine(self.known[task_id], self.tasks[task_id])


def remember(run: Run, tasks: Mapping[str, TaskRecord], cancelled: str = "", dropped: str = "") -> RunRecord:
    """The record of a run from what is stored of it: `tasks` holds a record for every task of `run`."""
    known = {task.id: task for task in run.tasks}
    needs_left: dict[str, int] = {}
    ready: dict[str, float] = {}
    watched: set[str] = set()
    live: dict[str, int] = {}
    counts: dict[TaskState, int] = {}
    for task_id, task in known.items():
        record = tasks[task_id]
        counts[record.state] = counts.get(record.state, 0) + 1
        if record.state in LIVE:
            backend = run.backend_of(task)
            live[backend] = live.get(backend, 0) + 1
            if is_watched(record, task):
                watched.add(task_id)
        elif record.state is TaskState.WAITING:
            if left := sum(tasks[need].state not in FINAL for need in task.needs):
                needs_left[task_id] = left
            else:
                ready[task_id] = ready_at(record)
    return RunRecord(
        tasks=tasks,
        known=known,
        shape=shape(run.tasks),
        needs_left=needs_left,
        ready=ready,
        watched=frozenset(watched),
        live=live,
        counts=counts,
        cancelled=cancelled,
        dropped=dropped,
        stalled=_stalled(ready, tasks),
    )


def new_record(run: Run, now: float) -> RunRecord:
    """The record of a run that has just been made. A task that nothing can call for (`when: failure` without needs) is skipped."""
    empty = replace(run, tasks=())
    draft = Draft(empty, remember(empty, {}), now)
    draft.append(run.tasks)
    return draft.record()


def after_restart(tasks: Mapping[str, TaskRecord]) -> dict[str, TaskRecord]:
    """Stored records as a new daemon should take them: whatever the old one had under way towards a backend died with it, so
    a Cancel or a Fetch that was told is told again at once. Both are idempotent; a Submit is not, and is not told again."""
    return {task_id: record._replace(told_at=0.0) if record.told_at else record for task_id, record in tasks.items()}


def is_fine(task: Task, record: TaskRecord) -> bool:
    """Whether a final task lets those go on that need it to have succeeded."""
    return record.state is TaskState.SUCCEEDED or (task.allow_failure and record.state in (TaskState.FAILED, TaskState.LOST))


def is_watched(record: TaskRecord, task: Task) -> bool:
    """Whether something is due for a live task that no new fact may announce."""
    if record.state is TaskState.CANCELLING:
        return True
    return record.state in LIVE and (record.absent_since > 0.0 or awaits_tasks(record, task))


def awaits_tasks(record: TaskRecord, task: Task) -> bool:
    """Whether this is a generator that ended well, and whose file has not been read yet."""
    return bool(task.generates_source) and record.state is TaskState.RUNNING and record.exit_code == 0


def ready_at(record: TaskRecord) -> float:
    """When a waiting task whose needs are met may be sent; NEVER when it has been lost too often for a machine to decide."""
    return NEVER if record.losses >= LOSSES_MAX else record.not_before


def _stalled(ready: Mapping[str, float], tasks: Mapping[str, TaskRecord]) -> str:
    stuck = [task_id for task_id, at in ready.items() if at == NEVER]
    if not stuck:
        return ""
    first = min(stuck)
    more = f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""
    return f"{first}{more}: {LOSSES_MAX} submissions never started ({tasks[first].reason}); look at the backend, then cancel and rerun"
