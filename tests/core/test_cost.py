"""Core-hours: the most a run may use, and what it has used."""

from __future__ import annotations

import pytest

from reconciler.core import cost
from reconciler.core.desired import Place, Resources, Retry, Run, Task
from reconciler.core.plan import remember
from reconciler.core.record import TaskRecord, TaskState

PLACE = Place("", "w.yaml", 1)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(), 1),
        (Resources(cpus=4), 4),
        (Resources(cpus=4, ntasks=8), 32),
        (Resources(nodes=3), 3),
        (Resources(cpus=2, ntasks=6, nodes=3), 12),
    ],
)
def test_cores_of_a_task(resources: Resources, expected: int) -> None:
    """Cores are CPUs for each process, and no fewer than nodes."""
    assert cost.cores(Task("t", "true", resources=resources)) == expected


def test_the_most_a_run_may_use_is_cores_times_time_limits() -> None:
    """Before it starts, every task counts with its whole time limit, once, or as often as it may be tried."""
    tasks = [
        Task("a", "true", resources=Resources(cpus=4, time_limit_s=1800)),
        Task("b", "true", resources=Resources(time_limit_s=7200), retry=Retry(limit=2)),
    ]
    assert cost.core_hours_at_most(tasks) == 4.0
    assert cost.core_hours_at_most(tasks, retries=True) == 8.0
    assert cost.core_hours_at_most([]) == 0.0


def test_what_a_run_has_used_follows_from_its_records() -> None:
    """Ended tasks count from start to end, running ones up to now, others not at all; a clock that went back gives no credit."""
    two = Resources(cpus=2)
    run = Run("r", "w", "d", "", "", "local", tuple(Task(name, "true", resources=two) for name in "abcd"), PLACE, 0.0)
    records = {
        "a": TaskRecord(TaskState.SUCCEEDED, started_at=1000.0, ended_at=4600.0),
        "b": TaskRecord(TaskState.RUNNING, started_at=6400.0),
        "c": TaskRecord(TaskState.WAITING),
        "d": TaskRecord(TaskState.FAILED, started_at=5000.0, ended_at=4000.0),
    }
    assert cost.core_hours_used(remember(run, records), now=8200.0) == 3.0
