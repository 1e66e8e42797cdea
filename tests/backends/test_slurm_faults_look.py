"""A scheduler that does not answer, or lies: a real Slurm whose commands are behind wrappers. No state changes by what is not known.

Here are, of the list of what other tools get wrong: commands that fail or hang (5), empty and short lists (6), jobs that are forgotten
before they are looked at (7), words nobody knows (9), jobs that wait for ever (14), and a scheduler that answers slowly (20).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.clock import monotonic
from reconciler.core.desired import Cause, Resources, Retry
from reconciler.core.observed import JobState
from reconciler.core.record import TaskState
from tests.backends.faults import Login, Loop, job, login, once, succeeded, task, until
from tests.clusters.cluster import Cluster

pytestmark = pytest.mark.real("slurm")

RUNNING = TaskState.RUNNING
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
#: The queue is empty, and the command is content; what is asked by id is answered.
EMPTY_QUEUE = 'case "$*" in *"-t all"*) real "$@" ;; esac'


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


async def running(there: Login, *names: str, array: str = "never") -> Loop:
    """A loop whose tasks run, each until it is released."""
    loop = Loop.of(await there.backend(array), *(task(name, there.held(name)) for name in names))
    await loop.until(lambda: all(each.state is RUNNING and each.started for each in loop.record.tasks.values()), "all run")
    return loop


async def looks(there: Login, loop: Loop, count: int = 8) -> None:
    """Cycles until the queue was asked so often more: more graces than an absence needs."""

    def asked() -> int:
        return sum(" --me " in call for call in there.wrappers.calls("squeue"))

    wanted = asked() + count
    await loop.until(lambda: asked() >= wanted, "many looks")


async def step_for(loop: Loop, seconds: float, most: int = 30) -> None:
    """Cycles for so long."""
    end = monotonic() + seconds
    while monotonic() < end and (most := most - 1) >= 0:
        await loop.step()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "fault",
    [
        f'echo "{DOWN}" >&2; exit 1',
        'real "$@" | head -n 1; exit 1',
        "echo '%%% what?'; exit 3",
    ],
)
async def test_the_scheduler_cannot_be_asked(there: Login, fault: str) -> None:
    """While Slurm's commands fail no task changes its state but by its own exit record, and it is said why; then all is as before."""
    loop = await running(there, "a", "b", array="auto")
    for program in ("squeue", "sacct", "scontrol", "sbatch"):
        there.wrappers.fault(program, fault)
    there.release("a")
    await loop.until(lambda: bool(loop.problem) and loop["a"].state is TaskState.SUCCEEDED, "the end of a, by its exit record")
    await step_for(loop, 1.0)
    assert (loop["b"].state, loop.problem != "") == (RUNNING, True)
    there.wrappers.heal()
    there.release("b")
    await loop.to_end()
    assert (loop.states, there.ran, loop.problem) == (succeeded("a", "b"), once(["a", "b"]), "")


async def test_the_scheduler_hangs(there: Login) -> None:
    """While squeue hangs nothing changes; when it answers again, the ends of the meantime are seen."""
    loop = await running(there, "a", "b")
    there.wrappers.fault("squeue", f'until [ -e {there.work}/answer ]; do sleep 0.05; done; real "$@"')
    asked = len(there.wrappers.calls("squeue"))
    await loop.backend.cancel([])  # whoever acts wants to look soon
    looking = asyncio.ensure_future(loop.until(lambda: len(there.wrappers.calls("squeue")) > asked, "the end of a look that hung"))
    await until(lambda: len(there.wrappers.calls("squeue")) > asked, "it hangs")
    there.release("a", "b")
    await until((there.folder("b") / "exit").exists, "both have ended")
    assert loop.states == {"a": RUNNING, "b": RUNNING}
    (there.work / "answer").touch()
    await looking
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded("a", "b"), once(["a", "b"]))


@pytest.mark.parametrize(
    ("fault", "array"),
    [("exit 0", "never"), ('real "$@" | head -n 1', "auto"), ('real "$@" | cut -c 1-60', "never"), ("echo; echo 'Nice day'", "auto")],
)
async def test_one_poll_lies(there: Login, fault: str, array: str) -> None:
    """One answer that is empty, short, cut or of other things, given as if all were well, changes no state; nor does the next."""
    loop = await running(there, "a", "b", "c", array=array)
    there.wrappers.fault("squeue", fault, times=2)
    events = len(loop.events)
    await loop.until(lambda: not list(there.wrappers.folder.glob("squeue.turn.*")), "two lies")
    await loop.until(lambda: all(not each.absent_since for each in loop.record.tasks.values()), "all are seen again")
    assert (loop.states, len(loop.events)) == (dict.fromkeys("abc", RUNNING), events)
    there.release("a", "b", "c")
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded("a", "b", "c"), once(["a", "b", "c"]))


async def test_the_queue_lies_for_long(there: Login) -> None:
    """An empty queue alone, however often and for many graces, is no verdict while the scheduler's memory has the jobs."""
    loop = await running(there, "a", "b")
    there.wrappers.fault("squeue", EMPTY_QUEUE)
    await looks(there, loop)
    assert loop.states == {"a": RUNNING, "b": RUNNING}
    there.release("a", "b")
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded("a", "b"), once(["a", "b"]))


async def test_the_queue_lies_while_jobs_wait(there: Login) -> None:
    """The same with jobs that have not started: they are not sent again, and run once when they start."""
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    loop = Loop.of(await there.backend(), task("a", there.marked("a")))
    await loop.until(lambda: loop["a"].state is TaskState.QUEUED, "it waits")
    there.wrappers.fault("squeue", EMPTY_QUEUE)
    await looks(there, loop)
    assert (loop["a"].state, loop["a"].attempt) == (TaskState.QUEUED, 1)
    there.wrappers.heal()
    there.scontrol("release", there.jobs()[0][0])
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded("a"), once(["a"]))


async def test_forgotten_before_the_first_look(there: Login) -> None:
    """A job that Slurm forgets before anybody looks is what its exit record says; one that left none is lost, and never done."""
    there.wrappers.fault("squeue", "exit 0")  # it has never heard of any job
    tasks = [
        task("well", there.marked("well")),
        task("ill", there.marked("ill", "exit 3")),
        task("gone", there.marked("gone", "kill -KILL $PPID $$")),
    ]
    loop = Loop.of(await there.backend(), *tasks)
    await loop.to_end()
    assert loop.states == {"well": TaskState.SUCCEEDED, "ill": TaskState.FAILED, "gone": TaskState.LOST}
    assert (loop["ill"].exit_code, loop["ill"].cause, loop["gone"].exit_code) == (3, Cause.EXIT, None)
    assert (there.ran, loop["gone"].started) == (once(["well", "ill", "gone"]), True)


async def test_lost_is_retried_only_by_policy(there: Login) -> None:
    """A job that vanished is sent again only when `retry.on` says lost, and then once; it is said that two may overlap."""
    there.wrappers.fault("squeue", "exit 0")
    again = Retry(limit=1, on=frozenset({Cause.LOST}))
    gone = f"[ $(wc -l <{there.work}/ran/a) -gt 1 ] || kill -KILL $PPID $$"
    tasks = [task("a", there.marked("a", gone), retry=again), task("b", there.marked("b", "kill -KILL $PPID $$"))]
    loop = Loop.of(await there.backend(), *tasks)
    await loop.to_end()
    assert loop.states == {"a": TaskState.SUCCEEDED, "b": TaskState.LOST}
    assert (there.ran["a"], there.ran["b"], loop["a"].failures) == (2, 1, 1)
    assert any("the old process may still run" in each.message for each in loop.events if each.task == "a")


@pytest.mark.parametrize("word", ["FROBNICATING", "RUNNING,MIGRATING", "REVOKED"])
async def test_a_word_that_nobody_knows(there: Login, word: str) -> None:
    """A state that Slurm did not have when this was written is no verdict: the task stays as it is, and the word is shown."""
    loop = await running(there, "a")
    there.wrappers.fault("squeue", f'real "$@" | sed "s/|RUNNING/|{word}/"')
    await loop.until(lambda: word in loop["a"].reason or "federation" in loop["a"].reason, "the word")
    await looks(there, loop)
    assert loop["a"].state is RUNNING
    assert loop.snapshot is not None and loop.snapshot.facts[job("a")].state is JobState.UNKNOWN
    there.wrappers.heal()
    there.release("a")
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded("a"), once(["a"]))


async def test_what_never_starts_is_said(there: Login) -> None:
    """A job that will wait for ever says so within a poll or two, and why; it can be cancelled, and is then gone from the queue."""
    there.wrappers.fault("sbatch", 'case "$*" in *held*) real --hold "$@" ;; *) real "$@" ;; esac')
    failed = there.cluster.run(["sbatch", "--parsable", "-o", "/dev/null", f"--chdir={there.work}", "--wrap", "exit 1"]).stdout.strip()
    tasks = [
        task("long", there.marked("long"), resources=Resources(memory_mb=16, partition="short", time_limit_s=7200)),
        task("wide", there.marked("wide"), resources=Resources(memory_mb=16, nodes=99)),
        task("held", there.marked("held")),
        task("after", there.marked("after"), resources=Resources(memory_mb=16, scheduler_args=(f"--dependency=afterok:{failed}",))),
    ]
    loop = Loop.of(await there.backend(scheduler_args=("--dependency",)), *tasks)
    never = "will not start by itself"
    await loop.until(lambda: all(each.reason.startswith(never) for each in loop.record.tasks.values()), "all say so")
    words = {name: each.reason for name, each in loop.record.tasks.items()}
    codes = {  # until Slurm has looked at a job twice, the first two may be said in general
        "long": {"PartitionTimeLimit", "PartitionConfig"},
        "wide": {"PartitionNodeLimit", "PartitionConfig"},
        "held": {"JobHeldUser"},
        "after": {"DependencyNeverSatisfied"},
    }
    assert {name: any(code in words[name] for code in each) for name, each in codes.items()} == dict.fromkeys(codes, True), words
    loop.cancelled = "enough"
    await loop.to_end()
    assert (set(loop.states.values()), there.ran, there.jobs()) == ({TaskState.CANCELLED}, once([]), [])


async def test_a_slow_scheduler_is_left_alone(there: Login) -> None:
    """When an answer takes half a second, the next question waits five; meanwhile the mailbox is read. Quick again, it is asked again."""
    loop = await running(there, "a", "b")
    there.wrappers.fault("squeue", f'sleep 0.5; real "$@"; : >{there.work}/answered')
    await loop.until((there.work / "answered").exists, "an answer")
    asked = len(there.wrappers.calls("squeue"))
    there.release("a")
    await loop.until(lambda: loop["a"].state is TaskState.SUCCEEDED, "its exit record needs no scheduler", 4.0)
    await step_for(loop, 2.0)
    assert len(there.wrappers.calls("squeue")) - asked <= 1
    there.wrappers.heal()
    await loop.until(lambda: len(there.wrappers.calls("squeue")) - asked >= 4, "it is asked again")
    there.release("b")
    await loop.to_end()
    assert there.ran == once(["a", "b"])
