"""Tasks as written -> tasks of a run, but for their environment: needs, working folders, resources. Used by resolve.py and generated.py.

What a task asks of its backend is judged here too: which options of a scheduler it may use, and which folders are there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence

from reconciler.core.desired import Resources, Retry, Task
from reconciler.manifest.origin import Scheduling
from reconciler.manifest.schema import RetrySpec, TaskSpec

#: The folder that relative working folders on this backend begin at; "" when there is none.
Bases = Callable[[str], str]


def tasks_of(specs: Sequence[TaskSpec], needs: dict[str, tuple[str, ...]], backend: str, bases: Bases) -> tuple[Task, ...]:
    """The tasks, in the order written. `needs` are theirs with patterns expanded (core/graph.py `expand`); those that name no backend run
    on `backend`."""
    return tuple(_task(spec, needs[spec.id], bases(spec.backend or backend)) for spec in specs)


def refused_options(spec: TaskSpec, scheduling: Scheduling | None) -> Iterator[tuple[int, str]]:
    """(index, message) of each of `scheduler_args` that the task's backend does not allow. One without a scheduler looks at none."""
    if scheduling is None:
        return
    for index, option in enumerate(spec.scheduler_args):
        name = option.partition("=")[0]
        if name not in scheduling.allowed:
            allowed = ", ".join(sorted(scheduling.allowed)) or "none"
            yield index, f"the Backend does not allow the option {name} (allowed: {allowed})"


def asks_for_processes(spec: TaskSpec) -> bool:
    """Whether `spec` counts on a launcher that starts it several times, or on several machines."""
    return spec.ntasks > 1 or (spec.nodes or 1) > 1


def folder_of(declared: str, base: str) -> str:
    """Where a task runs that declares `working_dir: declared`: absolute, `~/…`, or "" for a folder of the job's own.

    `base` is the folder that relative ones begin at, "" when there is none (a git source without a checkout).
    """
    if declared.startswith(("/", "~/")):
        return declared
    if declared in {"", "~", ".", "./"} or not base:
        return base
    # not normalised: with a symlink in the way, `a/../b` is not `b`
    return posixpath.join(base, declared.removeprefix("./"))


def is_homeless(spec: TaskSpec, base: str) -> bool:
    """Whether `spec` asks for a folder relative to one that does not exist."""
    return not base and spec.working_dir not in {"", "~", ".", "./"} and not spec.working_dir.startswith(("/", "~/"))


def _task(spec: TaskSpec, needs: tuple[str, ...], base: str) -> Task:
    return Task(
        id=spec.id,
        command=spec.command,
        name=spec.name,
        needs=needs,
        backend=spec.backend or "",
        working_dir=folder_of(spec.working_dir, base),
        resources=_resources(spec),
        output_file=spec.output_file,
        error_file=spec.error_file,
        generates_source=spec.generates_source,
        when=spec.when,
        allow_failure=spec.allow_failure,
        retry=_retry(spec.retry),
        requeue=spec.requeue,
    )


def _retry(spec: RetrySpec) -> Retry:
    return Retry(spec.limit, frozenset(spec.on), spec.backoff, spec.escalate.memory, spec.escalate.time_limit)


def _resources(spec: TaskSpec) -> Resources:
    return Resources(
        cpus=spec.cpus,
        memory_mb=spec.memory,
        time_limit_s=spec.time_limit,
        partition=spec.partition,
        gres=spec.gres,
        account=spec.account,
        qos=spec.qos,
        constraint=spec.constraint,
        reservation=spec.reservation,
        licenses=spec.licenses,
        nodes=spec.nodes or 0,
        ntasks=spec.ntasks,
        scheduler_args=spec.scheduler_args,
    )
