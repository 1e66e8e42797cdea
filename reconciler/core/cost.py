"""What an attempt of a task asks for, and core-hours of a run: the most it may use, known before it starts, and what it used, known after.

Called by jobrequest.py (what is asked for now), core/trigger.py (the guard `limits.core_hours_per_run`), core/summary.py and the
`plan` verb. One core-hour is one CPU reserved for one hour, whether it works or not: that is what clusters and clouds charge.
Prices come later and multiply this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from reconciler.core.desired import Cause, Resources, Task
from reconciler.core.record import RunRecord, TaskRecord

_HOUR_S = 3600.0
#: No escalation goes beyond these, whatever its factor: about a pebibyte, and ten years. What a partition allows is the backend's to know.
MEMORY_MB_MAX = 10**9
TIME_LIMIT_S_MAX = 10 * 366 * 86400


def asked(task: Task, ooms: int, timeouts: int) -> Resources:
    """What an attempt of `task` asks for after so many failures at its memory and its time limit: as declared, times each factor for
    each failure of its own cause. Rounded up; never less than declared."""
    declared, retry = task.resources, task.retry
    memory_mb = _raised(declared.memory_mb, retry.memory_factor, ooms, MEMORY_MB_MAX)
    time_limit_s = _raised(declared.time_limit_s, retry.time_factor, timeouts, TIME_LIMIT_S_MAX)
    if (memory_mb, time_limit_s) == (declared.memory_mb, declared.time_limit_s):
        return declared
    return replace(declared, memory_mb=memory_mb, time_limit_s=time_limit_s)


def more_asked(task: Task, record: TaskRecord) -> str:
    """What the next attempt asks for beyond what is declared, for the end of a sentence; "" when nothing."""
    now = asked(task, record.ooms, record.timeouts)
    memory = f"{now.memory_mb}M of memory" if now.memory_mb != task.resources.memory_mb else ""
    time_limit = f"a time limit of {now.time_limit_s}s" if now.time_limit_s != task.resources.time_limit_s else ""
    both = " and ".join(part for part in (memory, time_limit) if part)
    return f", with {both}" if both else ""


def _raised(declared: int, factor: float, times: int, most: int) -> int:
    if not times or factor <= 1.0:
        return declared
    # rounded first: 1000 * 1.1 is a hair above 1100, and is not 1101
    return max(declared, math.ceil(min(float(most), round(declared * factor**times, 6))))


def cores(task: Task) -> int:
    """CPUs that one attempt of `task` reserves: `cpus` for each of its processes (`ntasks`), and at least one a node."""
    asked = task.resources
    return max(asked.cpus * asked.ntasks, asked.nodes)


def core_hours_at_most(tasks: Iterable[Task], retries: bool = False) -> float:
    """What `tasks` use if each runs into its time limit once; with `retries`, as often as its retry budget allows, each time with
    what it asks for then."""
    return sum(cores(task) * _seconds_at_most(task, retries) for task in tasks) / _HOUR_S


def core_hours_used(record: RunRecord, now: float) -> float:
    """What the latest attempts of a run have used up to `now`. Earlier attempts are not counted: their times are not kept."""
    return sum(cores(record.known[task_id]) * _seconds(task, now) for task_id, task in record.tasks.items()) / _HOUR_S


def _seconds_at_most(task: Task, retries: bool) -> int:
    if not retries:
        return task.resources.time_limit_s
    grows = task.retry.time_factor > 1.0 and Cause.TIMEOUT in task.retry.on
    if not grows:
        return task.resources.time_limit_s * (1 + task.retry.limit)
    return sum(asked(task, 0, timeouts).time_limit_s for timeouts in range(1 + task.retry.limit))


def _seconds(task: TaskRecord, now: float) -> float:
    """How long the latest attempt has run; 0 when it never started, or when the clocks disagree."""
    if not task.started_at:
        return 0.0
    return max(0.0, (task.ended_at or now) - task.started_at)
