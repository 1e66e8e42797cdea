"""Tasks made ready: those of a new run, and those that a generator wrote. What takes long is done on a thread, not on the loop.

Part of controller.py. Resolving the environment of 10,000 tasks takes a second, and so may a generator's megabyte of JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from reconciler.aside import aside
from reconciler.clock import rfc3339
from reconciler.core.desired import Run, Task
from reconciler.core.names import RUN_ID_LENGTH, parse_job_name
from reconciler.core.observed import Generated
from reconciler.core.record import TaskState
from reconciler.core.trigger import Owed, run_of
from reconciler.fleet import Fleet, LiveRun, Step
from reconciler.log import EventName
from reconciler.manifest.assemble import Desired
from reconciler.manifest.environment import DeclaredRevision, make_tasks
from reconciler.manifest.generated import generated_tasks
from reconciler.outlook import GENERATED_BYTES_MAX, Fetched

log = structlog.get_logger(__name__)

#: Up to so many tasks are made ready at once, on the loop: about 10 ms. More take a thread, and one more cycle.
AT_ONCE_MAX = 200


class Workshop:
    """Runs and generated tasks in the making. `wake` is called when something is ready."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._making: set[str] = set()
        self._made: dict[str, Run | Exception] = {}
        self._read: dict[str, tuple[int, Generated]] = {}  # by job: how many tasks its run had when the file was judged
        self._fetched: dict[str, Fetched] = {}  # by job: to judge again should the run have grown meanwhile

    @property
    def busy(self) -> bool:
        """Something is in the making, or was judged and not saved yet."""
        return bool(self._tasks or self._read)

    def run(self, debt: Owed, desired: Desired, now: float) -> Run | None:
        """The run that is owed, its environment resolved; None when it is not ready yet. Raises what went wrong in making it."""
        if debt.run_id in self._made:
            made = self._made.pop(debt.run_id)
            if isinstance(made, Exception):
                raise made
            return replace(made, created_at=now)
        if len(debt.revision.tasks) <= AT_ONCE_MAX:
            return _make(debt, desired, now)
        if debt.run_id not in self._making:
            self._making.add(debt.run_id)
            self._spawn(self._make(debt, desired, now))
        return None

    def keep(self, owed: Sequence[Owed]) -> None:
        """Only these runs are still owed: what was made ready for another is out of date when its digest comes back."""
        wanted = {debt.run_id for debt in owed}
        self._made = {run_id: made for run_id, made in self._made.items() if run_id in wanted}

    def take(self, fetched: Sequence[Fetched], fleet: Fleet, desired: Desired) -> None:
        """Judge what generators wrote, in the background."""
        for each in fetched:
            if live := _live(each.job, fleet):
                self._spawn(self._judge(each, live, desired))
        for job, (count, _) in list(self._read.items()):
            live = _live(job, fleet)
            if live is None:
                self._forget(job)
            elif len(live.run.tasks) != count:  # another generator was quicker: names and needs may mean something else now
                del self._read[job]
                self._spawn(self._judge(self._fetched[job], live, desired))

    def generated(self, fleet: Fleet) -> dict[str, dict[str, Generated]]:
        """What was judged and still holds: at most one for each run, by run and job. Kept until `used`."""
        found: dict[str, dict[str, Generated]] = {}
        for job, (count, generated) in self._read.items():
            live = _live(job, fleet)
            if live is not None and live.run.id not in found and len(live.run.tasks) == count:
                found[live.run.id] = {job: generated}
        return found

    def used(self, steps: Mapping[str, Step]) -> None:
        """These steps are saved: what they appended is not needed any more."""
        for job in list(self._read):
            step = steps.get(job[:RUN_ID_LENGTH])
            name = parse_job_name(job)
            if step is not None and name is not None and step.record.tasks[name.task].state is not TaskState.RUNNING:
                self._forget(job)

    def _forget(self, job: str) -> None:
        self._read.pop(job, None)
        self._fetched.pop(job, None)

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]  # a coroutine of ours
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, debt: Owed, desired: Desired, now: float) -> None:
        try:
            self._made[debt.run_id] = await aside(_make, debt, desired, now)
        except Exception as error:  # one workflow's fault must not stop the others; raised where its run is made
            self._made[debt.run_id] = error
        self._making.discard(debt.run_id)
        self._done()

    async def _judge(self, fetched: Fetched, live: LiveRun, desired: Desired) -> None:
        count = len(live.run.tasks)
        name = parse_job_name(fetched.job)
        assert name is not None  # _live has parsed it
        task = live.record.known[name.task]
        try:
            generated = await aside(_judged, fetched, live.run, task, desired)
        except Exception as error:  # one generator's file must not stop the others
            log.exception(EventName.OBJECT_FAILED, kind="Run", name=live.run.id, task=task.id)
            generated = Generated(error=f"{fetched.path}: {type(error).__name__}: {error}")
        self._read[fetched.job] = (count, generated)
        self._fetched[fetched.job] = fetched
        self._done()

    def _done(self) -> None:
        """The task that calls this is over but for this: whoever is woken must not find it busy."""
        if task := asyncio.current_task():
            self._tasks.discard(task)
        self._wake()


def _live(job: str, fleet: Fleet) -> LiveRun | None:
    return fleet.runs.get(job[:RUN_ID_LENGTH])


def _make(debt: Owed, desired: Desired, now: float) -> Run:
    run = run_of(debt, now)
    assert isinstance(debt.revision, DeclaredRevision)  # all that assemble.py hands out are
    seed = (("SCRIPTHUT_RUN_ID", run.id), ("SCRIPTHUT_CREATED_AT", rfc3339(now)))
    return replace(run, tasks=make_tasks(debt.revision, desired.around, run.backend, run.parameters, seed))


def _judged(fetched: Fetched, run: Run, task: Task, desired: Desired) -> Generated:
    file = fetched.file
    if file.data is None:
        return Generated(error=f"{fetched.path}: {file.problem or 'there is no such file'}")
    if file.size > GENERATED_BYTES_MAX:
        return Generated(error=f"{fetched.path}: {file.size} bytes, more than {GENERATED_BYTES_MAX}")
    return generated_tasks(file.data, fetched.path, run, task, desired)
