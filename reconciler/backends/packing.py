"""Which jobs are sent together: the names that people see in the scheduler, and the arrays that jobs are packed into. Pure.

A job's name there is `<task>.<attempt>-<run>-<tag>`, so that a person who reads the queue knows what it is; the tag is a hash of the
whole of it with the instance and its spool, so that no other instance, tool or person has the same by chance. An array's name is
`<first task>+<how many more>-<run>-<tag>`, its tag a hash of its members' names and of the step that sends it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.backends.base import JobRequest
from reconciler.core.names import RUN_ID_LENGTH, job_name, parse_job_name

_SINGLE = re.compile(rf"(.+)\.([1-9][0-9]{{0,8}})-([0-9a-f]{{{RUN_ID_LENGTH}}})-([0-9a-f]{{8}})")
_ARRAY = re.compile(rf".+\+[0-9]{{1,9}}-([0-9a-f]{{{RUN_ID_LENGTH}}})-([0-9a-f]{{16}})")
#: Of a task's id, this much is in the name of an array. Slurm's accounting keeps 255 characters of a name.
_TASK_SHOWN = 100


@dataclass(frozen=True, slots=True)
class ArrayName:
    """An array of ours, by its name in the scheduler: its run, and its folder in that run's."""

    run: str
    folder: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that are sent by one call of the submit command. `array` None: a single job."""

    jobs: tuple[JobRequest, ...]
    asked: tuple[str, ...]
    name: str
    array: ArrayName | None


@dataclass(frozen=True, slots=True)
class Namer:
    """The names of one instance's jobs in the scheduler. `place` tells instances apart: its name and spool."""

    place: str

    def single(self, job: str) -> str:
        """The scheduler's name of a job."""
        parts = parse_job_name(job)
        if parts is None:
            raise ValueError(f"{job!r} is not a job name")
        return f"{parts.task}.{parts.attempt}-{parts.run}-{self._tag(job, 8)}"

    def array(self, jobs: Sequence[JobRequest], step: str) -> tuple[str, ArrayName]:
        """The scheduler's name of an array of these jobs of one run, and where it is kept."""
        run = jobs[0].run
        tag = self._tag("\0".join((step, *(job.job for job in jobs))), 16)
        return f"{jobs[0].task[:_TASK_SHOWN]}+{len(jobs) - 1}-{run}-{tag}", ArrayName(run, f"+{tag}")

    def job_of(self, name: str) -> str:
        """The job whose name in the scheduler this is; "" when it is none of this instance."""
        match = _SINGLE.fullmatch(name)
        if match is None:
            return ""
        job = job_name(match[3], match[1], int(match[2]))
        return job if parse_job_name(job) is not None and self._tag(job, 8) == match[4] else ""

    def _tag(self, text: str, length: int) -> str:
        return hashlib.sha256(f"{self.place}\0{text}".encode()).hexdigest()[:length]


def array_of(name: str) -> ArrayName | None:
    """Which array has this name in the scheduler, if any of ours does: whether it is of this instance shows in its spool."""
    match = _ARRAY.fullmatch(name)
    return ArrayName(match[1], f"+{match[2]}") if match else None


def comment_of(instance: str) -> str:
    """What the comment of every job of an instance begins with."""
    return f"reconciler {instance} "


def batches(
    jobs: Sequence[JobRequest], asked: Mapping[str, tuple[str, ...]], namer: Namer, step: str, most: Callable[[tuple[str, ...]], int]
) -> list[Batch]:
    """`jobs` in the order given, those of one run that ask for the same packed into arrays.

    `asked` holds, by job, the options that the submit command gets for it; `most` says of such options how many elements an array of
    them may have (1: no array).
    """
    groups: dict[tuple[str, tuple[str, ...]], list[JobRequest]] = {}
    for job in jobs:
        groups.setdefault((job.run, asked[job.job]), []).append(job)
    found = []
    for (_, options), group in groups.items():
        size = max(1, most(options))
        found += [_batch(tuple(group[first : first + size]), options, namer, step) for first in range(0, len(group), size)]
    return found


def _batch(jobs: tuple[JobRequest, ...], asked: tuple[str, ...], namer: Namer, step: str) -> Batch:
    if len(jobs) == 1:
        return Batch(jobs, asked, namer.single(jobs[0].job), None)
    name, array = namer.array(jobs, step)
    return Batch(jobs, asked, name, array)


