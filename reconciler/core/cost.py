"""Core-hours of a run: the most it may use, known before it starts, and what it used, known after.

Called by core/trigger.py (the guard `limits.core_hours_per_run`), core/summary.py and the `plan` verb. One core-hour is one
CPU reserved for one hour, whether it works or not: that is what clusters and clouds charge. Prices come later and multiply this.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.core.desired import Task
from reconciler.core.record import RunRecord, TaskRecord

_HOUR_S = 3600.0


def cores(task: Task) -> int:
    """CPUs that one attempt of `task` reserves: `cpus` for each of its processes (`ntasks`), and at least one a node."""
    asked = task.resources
    return max(asked.cpus * asked.ntasks, asked.nodes)


def core_hours_at_most(tasks: Iterable[Task], retries: bool = False) -> float:
    """What `tasks` use if each runs into its time limit once; with `retries`, as often as its retry budget allows."""
    return sum(cores(task) * task.resources.time_limit_s * (1 + task.retry.limit * retries) for task in tasks) / _HOUR_S


def core_hours_used(record: RunRecord, now: float) -> float:
    """What the latest attempts of a run have used up to `now`. Earlier attempts are not counted: their times are not kept."""
    return sum(cores(record.known[task_id]) * _seconds(task, now) for task_id, task in record.tasks.items()) / _HOUR_S


def _seconds(task: TaskRecord, now: float) -> float:
    """How long the latest attempt has run; 0 when it never started, or when the clocks disagree."""
    if not task.started_at:
        return 0.0
    return max(0.0, (task.ended_at or now) - task.started_at)
