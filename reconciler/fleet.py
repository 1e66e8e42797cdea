"""The live runs in memory, and what follows from them: who wants room, which jobs exist, what a save must hold.

Kept by controller.py. Finished runs are not here: the ledger has them, and their heads tell trigger.py that a digest is
satisfied. It decides nothing; it applies plans that have been saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest

from reconciler.core.actions import Action
from reconciler.core.desired import Revision, Run, Task
from reconciler.core.names import job_name
from reconciler.core.observed import Expected
from reconciler.core.plan import Plan
from reconciler.core.record import LIVE, Event, RunHead, RunRecord, TaskRecord
from reconciler.core.room import Demand, left_of
from reconciler.core.summary import phase_of


@dataclass(slots=True)
class LiveRun:
    """One run that has not ended. `wake_at`: plan it no later than this; None: only news moves it."""

    run: Run
    record: RunRecord
    wake_at: float | None = 0.0
    suspended: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What one cycle wants of one run: several plans in a row, as one change. Saved whole or not at all."""

    run: Run
    before: RunRecord | None  # None: the run is new
    record: RunRecord
    changed: frozenset[str] = frozenset()
    appended: tuple[Task, ...] = ()
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    wake_at: float | None = None
    look_at: Mapping[str, float] | None = None

    def then(self, planned: Plan) -> Step:
        """This step, followed by one more plan of the same run."""
        run = replace(self.run, tasks=self.run.tasks + planned.appended) if planned.appended else self.run
        return Step(
            run=run,
            before=self.before,
            record=planned.record,
            changed=self.changed.union(planned.changed) if planned.changed else self.changed,
            appended=self.appended + planned.appended,
            actions=self.actions + planned.actions,
            events=self.events + planned.events,
            wake_at=planned.wake_at,
            look_at={**(self.look_at or {}), **planned.look_at},
        )

    @property
    def alters(self) -> bool:
        """Whether there is anything to save."""
        before = self.before
        return before is None or bool(
            self.changed
            or self.events
            or self.record.cancelled != before.cancelled
            or self.record.dropped != before.dropped
            or self.record.stalled != before.stalled
        )


class Fleet:
    """All live runs, oldest first."""

    def __init__(self) -> None:
        self.runs: dict[str, LiveRun] = {}

    def __iter__(self) -> Iterator[LiveRun]:
        return iter(self.runs.values())

    def live_by_backend(self) -> dict[str, int]:
        """How many jobs of ours may exist, by backend."""
        total: dict[str, int] = {}
        for live in self.runs.values():
            for backend, count in live.record.live.items():
                total[backend] = total.get(backend, 0) + count
        return total

    def expected_of(self, live: LiveRun) -> Iterator[tuple[str, Expected, str]]:
        """(backend, what is expected, job name) of every job of a run that may exist."""
        for task_id, record in live.record.tasks.items():
            if record.state in LIVE:
                job = job_name(live.run.id, task_id, record.attempt)
                yield live.run.backend_of(live.record.known[task_id]), expectation(job, record), job

    def apply(self, step: Step) -> list[tuple[str, str, Expected]]:
        """Take over a step that was saved. Returns (backend, job, Expected) of jobs of it that may exist now."""
        run = step.run
        come: list[tuple[str, str, Expected]] = []
        for task_id in step.changed:
            record = step.record.tasks[task_id]
            if record.state in LIVE:
                job = job_name(run.id, task_id, record.attempt)
                come.append((run.backend_of(step.record.known[task_id]), job, expectation(job, record)))
        if step.record.ended:
            self.runs.pop(run.id, None)
        else:
            live = self.runs.setdefault(run.id, LiveRun(run, step.record))
            live.run, live.record, live.wake_at = run, step.record, step.wake_at
        return come


def first_in_line(wanting: list[tuple[Run, RunRecord]], room: int) -> list[tuple[Run, RunRecord]]:
    """Of many runs that want room those that can get some, so that a thousand that wait cost little: as fairness goes by live jobs, no
    more than `room` of them can, and those with the fewest come first."""
    if len(wanting) <= 2 * room + 16:
        return wanting
    chosen = nsmallest(room, range(len(wanting)), key=lambda index: (sum(wanting[index][1].live.values()), index))
    return [wanting[index] for index in sorted(chosen)]


def limits_of(runs: Sequence[tuple[Run, RunRecord]], revisions: Mapping[str, Revision]) -> dict[str, int]:
    """What each workflow's own `max_concurrent` still allows. The current document's number holds, also for older runs."""
    limits = {run.workflow: run.max_concurrent for run, _ in runs}
    limits.update({name: revisions[name].max_concurrent for name in limits if name in revisions})
    return left_of(limits, ((run.workflow, sum(record.live.values())) for run, record in runs))


def expectation(job: str, record: TaskRecord) -> Expected:
    """What a backend is told of a job that we believe alive."""
    return Expected(job, record.job_id, record.claimed_at)


def demands(run: Run, record: RunRecord, now: float, free: Mapping[str, int]) -> Iterable[Demand]:
    """What one run would like on each backend. No more than is free there is counted, so a long list costs little."""
    wants: dict[str, int] = {}
    unmet = {backend for backend, more in free.items() if more > 0}
    for task_id, at in record.ready.items():
        if not unmet:
            break
        backend = run.backend_of(record.known[task_id])
        if at <= now and backend in unmet:
            wants[backend] = wants.get(backend, 0) + 1
            if wants[backend] >= free[backend]:
                unmet.discard(backend)
    for backend, count in wants.items():
        yield Demand(run.id, backend, count, record.live.get(backend, 0), run.workflow)


def head_of(run: Run, record: RunRecord) -> RunHead:
    """What trigger.py must know of a run."""
    return RunHead(
        id=run.id,
        workflow=run.workflow,
        digest=run.digest,
        occasion=run.occasion,
        phase=phase_of(record),
        begun=record.begun,
        ended=record.ended,
        created_at=run.created_at,
        cancelled=record.cancelled,
        dropped=record.dropped,
    )
