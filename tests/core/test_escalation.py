"""A retry asks for more of what ran out, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.cost import MEMORY_MB_MAX, TIME_LIMIT_S_MAX, asked, core_hours_at_most
from reconciler.core.desired import RETRYABLE, Cause, Place, Resources, Retry, Run, Task
from reconciler.core.names import job_name
from reconciler.core.observed import BackendView, JobFact, JobState, News
from reconciler.core.plan import plan, remember
from reconciler.core.record import RunRecord, TaskRecord, TaskState
from reconciler.jobrequest import job_request

ID = "0123456789ab"
DECLARED = Resources(cpus=2, memory_mb=1000, time_limit_s=60, partition="long", scheduler_args=("--exclusive",))
TASK = Task("t", "true", resources=DECLARED, retry=Retry(9, RETRYABLE, memory_factor=1.5, time_factor=2.0), requeue=True)
RUN = Run(ID, "w", "sha256:0", "", "", "hpc", (TASK,), Place("", "w.yaml", 1), 0.0)


def failed(record: RunRecord, *causes: Cause) -> RunRecord:
    """The record after the task was sent and ended so, time after time."""
    views = {"hpc": BackendView(0.0, True, True, 0.0)}
    for step, cause in enumerate(causes):
        now = 100.0 * (step + 1)
        record = plan(RUN, record, News(views), {"hpc": 1}, now).record
        job = job_name(ID, "t", record.tasks["t"].attempt)
        ended = JobFact(JobState.ENDED, "7", started=True, cause=cause, started_at=now)
        record = plan(RUN, record, News(views, {job: ended}), {}, now + 1.0).record
    return record


def resources(record: TaskRecord, task: Task = TASK) -> Resources:
    return job_request(RUN, task, record, False).resources


@pytest.mark.parametrize(
    ("causes", "memory_mb", "time_limit_s"),
    [
        ((), 1000, 60),
        *(((cause,), 1000, 60) for cause in sorted(RETRYABLE - {Cause.OOM, Cause.TIMEOUT})),
        ((Cause.OOM,), 1500, 60),
        ((Cause.TIMEOUT,), 1000, 120),
        ((Cause.OOM, Cause.OOM, Cause.OOM), 3375, 60),
        ((Cause.TIMEOUT, Cause.PREEMPTED, Cause.OOM, Cause.EXIT, Cause.TIMEOUT), 1500, 240),
    ],
)
def test_each_cause_raises_its_own(causes: tuple[Cause, ...], memory_mb: int, time_limit_s: int) -> None:
    """Memory is multiplied for each OOM and the time limit for each TIMEOUT; any other failure spends the budget and raises nothing."""
    record = failed(remember(RUN, {"t": TaskRecord()}), *causes).tasks["t"]
    assert (record.state, record.attempt, record.failures) == (TaskState.WAITING, len(causes) + 1, len(causes))
    assert resources(record) == replace(DECLARED, memory_mb=memory_mb, time_limit_s=time_limit_s)


def test_it_is_remembered_while_it_is_sent() -> None:
    """What the count says does not get lost between a failure and the next job."""
    record = failed(remember(RUN, {"t": TaskRecord()}), Cause.OOM, Cause.TIMEOUT).tasks["t"]
    assert (record.ooms, record.timeouts) == (1, 1)
    assert (record.sent(500.0).ooms, record.sent(500.0).timeouts) == (1, 1)


def test_the_reason_says_how_much() -> None:
    """Who asks why a task waits is told what the next try asks for."""
    once = failed(remember(RUN, {"t": TaskRecord()}), Cause.OOM).tasks["t"]
    assert once.reason == "ended without an exit record; trying again (1 of 9), with 1500M of memory"
    twice = failed(remember(RUN, {"t": TaskRecord()}), Cause.OOM, Cause.TIMEOUT).tasks["t"]
    assert twice.reason.endswith("trying again (2 of 9), with 1500M of memory and a time limit of 120s")


def test_a_backend_sees_what_was_declared() -> None:
    """A request that asks for more says what was declared, so that a backend can give less than it asks and never less than that."""
    plain, more = TaskRecord(), TaskRecord(attempt=2, failures=1, ooms=1)
    assert job_request(RUN, TASK, plain, False).declared is None
    assert job_request(RUN, TASK, more, False).declared == DECLARED
    assert job_request(RUN, replace(TASK, retry=Retry(9)), more, False).declared is None


def test_a_request_is_of_its_attempt() -> None:
    """Name, seed and what the task says of itself are those of the attempt that is sent."""
    request = job_request(RUN, TASK, TaskRecord(attempt=3), True)
    assert request.job == job_name(ID, "t", 3)
    assert dict(request.env)["SCRIPTHUT_ATTEMPT"] == "3"
    assert (request.requeue, request.login_shell) == (True, True)


@pytest.mark.parametrize(
    ("declared", "factor", "times", "expected"),
    [
        (1000, 1.1, 1, 1100),  # not 1101, although 1000 * 1.1 is a hair above
        (1001, 1.1, 1, 1102),
        (1, 1.5, 1, 2),
        (4096, 2.0, 3, 32768),
        (4096, 1.0, 50, 4096),
        (4096, 10.0, 101, MEMORY_MB_MAX),
        (MEMORY_MB_MAX + 5, 2.0, 1, MEMORY_MB_MAX + 5),  # whoever declares more gets what is declared
    ],
)
def test_how_it_is_rounded_and_bounded(declared: int, factor: float, times: int, expected: int) -> None:
    """What is asked for is rounded up, stays within what can be meant, and is never less than declared."""
    task = Task("t", "true", resources=Resources(memory_mb=declared), retry=Retry(memory_factor=factor))
    assert asked(task, times, 0).memory_mb == expected


def test_time_is_bounded_too() -> None:
    """Ten years are the longest limit."""
    task = Task("t", "true", retry=Retry(time_factor=10.0))
    assert asked(task, 0, 101).time_limit_s == TIME_LIMIT_S_MAX


def test_the_most_a_run_may_use_counts_what_its_retries_ask_for() -> None:
    """With retries, each try counts with its own time limit, where a timeout is tried again."""
    hour = Resources(time_limit_s=3600)
    task = Task("t", "true", resources=hour, retry=Retry(2, time_factor=2.0, memory_factor=5.0))
    assert core_hours_at_most([task]) == 1.0
    assert core_hours_at_most([task], retries=True) == 1.0 + 2.0 + 4.0
    assert core_hours_at_most([replace(task, retry=replace(task.retry, on=frozenset({Cause.OOM})))], retries=True) == 3.0
