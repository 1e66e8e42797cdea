"""Runs, records and batches for the tests of the ledger, and what hypothesis may put in them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from reconciler.core.desired import Cause, Place, Resources, Run, Task
from reconciler.core.record import Aim, Phase, TaskRecord, TaskState
from reconciler.ledger import Batch, NewRun, RunChange, TaskChange

PLACE = Place("lab", ".hut/a.yaml", 3, "0" * 40, "main@sha1:" + "0" * 40)
#: Text as hostile as a scheduler's can be, of what SQLite and JSON store unchanged.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.floats(min_value=0, max_value=4e9, allow_nan=False)


def sample_run(run_id: str = "0" * 12, tasks: int = 2, *, workflow: str = "lab/a", digest: str = "sha256:1", occasion: str = "") -> Run:
    """A run of `tasks` tasks, `t0`, `t1`, … of which each needs the one before."""
    made = tuple(Task(f"t{n}", f"make {n}", needs=(f"t{n - 1}",) if n else (), resources=Resources(cpus=n + 1)) for n in range(tasks))
    return Run(run_id, workflow, digest, "v1 canonical ✓", occasion, "local", made, PLACE, 100.0)


def new(run: Run, record: TaskRecord | None = None) -> Batch:
    """A batch that makes `run`, all its tasks at `record`."""
    return Batch(new_runs=(NewRun(run, {task.id: record or TaskRecord() for task in run.tasks}),))


def changed(run: str, task: str, record: TaskRecord) -> Batch:
    """A batch that changes one task."""
    return Batch(tasks=(TaskChange(run, task, record),))


def ended(run: str, at: float, phase: Phase = Phase.SUCCEEDED) -> Batch:
    """A batch that ends a run."""
    return Batch(runs=(RunChange(run, phase, True, ended_at=at, core_hours=1.5),))


RECORDS = st.builds(
    TaskRecord,
    state=st.sampled_from(TaskState),
    attempt=st.integers(1, 99),
    failures=st.integers(0, 9),
    losses=st.integers(0, 9),
    since=TIMES,
    reason=TEXT,
    cause=st.none() | st.sampled_from(Cause),
    job_id=TEXT,
    started=st.booleans(),
    claimed_at=TIMES,
    acknowledged_at=TIMES,
    started_at=TIMES,
    ended_at=TIMES,
    exit_code=st.none() | st.integers(-256, 256),
    absent_since=TIMES,
    not_before=TIMES,
    aim=st.none() | st.sampled_from(Aim),
    told_at=TIMES,
    scheduler=TIMES,
    refusals=st.integers(0, 9),
    ooms=st.integers(0, 9),
    timeouts=st.integers(0, 9),
)
TASKS = st.builds(Task, id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True), command=TEXT, init=TEXT, name=TEXT)


@st.composite
def new_runs(draw: st.DrawFn) -> NewRun:
    """A new run with any tasks and any records."""
    tasks = draw(st.lists(TASKS, max_size=4, unique_by=lambda task: task.id))
    run = replace(
        sample_run(draw(st.from_regex(r"[0-9a-f]{12}", fullmatch=True)), 0, workflow=draw(TEXT), digest=draw(TEXT), occasion=draw(TEXT)),
        tasks=tuple(tasks),
        canonical=draw(TEXT),
        title=draw(TEXT),
        created_at=draw(TIMES),
        max_concurrent=draw(st.none() | st.integers(1, 9)),
    )
    return NewRun(run, {task.id: draw(RECORDS) for task in tasks})
