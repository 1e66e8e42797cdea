"""Ends that are not the command's own, on a real Slurm: each is told apart, says by whose doing, and is tried again only as its task says.

Here are, of the list of what other tools get wrong: jobs that somebody cancels (9), arrays whose elements end differently (10), jobs that
are put back into the queue (15), and memory (17). Nodes that fail (16) are in test_slurm_faults_alone.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.desired import Cause, Retry
from reconciler.core.record import TaskState
from tests.backends.faults import SMALL, Login, Loop, job, login, once, succeeded, task, until
from tests.clusters.cluster import Cluster

pytestmark = pytest.mark.real("slurm")


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


async def test_only_the_failed_elements_are_sent_again(there: Login) -> None:
    """Of an array with every kind of end only the failed elements run again, as the tasks that they are; the others stay as they ended."""
    names = [f"t{number}" for number in range(8)]
    fails = {"t1", "t4", "t6"}
    first = {name: f"[ $(wc -l <{there.work}/ran/{name}) -gt 1 ] || exit 7" if name in fails else "true" for name in names}
    loop = Loop.of(await there.backend("auto"), *(task(name, there.marked(name, first[name]), retry=Retry(limit=1)) for name in names))
    await loop.to_end()
    assert loop.states == succeeded(*names)
    assert there.ran == Counter({name: 2 if name in fails else 1 for name in names})
    assert {name for name in names if loop[name].attempt == 2} == fails
    assert "--array=0-7 " in there.wrappers.calls("sbatch")[0]
    assert len(there.wrappers.calls("sbatch")) <= 1 + len(fails)  # how the failures are packed depends on when each is seen


async def test_elements_wait_run_and_have_ended(there: Login) -> None:
    """While of one array some elements have ended well, some ill, some run, and some wait, each task is in its own state."""
    ended = {"well": there.marked("well"), "ill": there.marked("ill", "exit 3")}
    commands = {**ended, "runs": there.held("runs"), "waits": there.held("waits")}
    one_at_a_time = 'n=$#; while [ $n -gt 0 ]; do [ "$1" != -- ] || set -- "$@" --array=0-3%1; set -- "$@" "$1"; shift; n=$((n - 1)); done'
    there.wrappers.fault("sbatch", f'{one_at_a_time}; real "$@"')
    loop = Loop.of(await there.backend("auto"), *(task(name, command) for name, command in commands.items()))
    await loop.until(lambda: loop["runs"].state is TaskState.RUNNING and loop["ill"].state is TaskState.FAILED, "two have ended")
    assert (loop["well"].state, loop["waits"].state) == (TaskState.SUCCEEDED, TaskState.QUEUED)
    assert "JobArrayTaskLimit" in loop["waits"].reason
    assert len({each.job_id.split("_")[0] for each in loop.record.tasks.values()}) == 1
    there.release("runs", "waits")
    await loop.to_end()
    assert there.ran == once(list(commands))


@pytest.mark.parametrize(("who", "array"), [("root", "auto"), ("rechpc", "never")])
async def test_cancelled_behind_our_back(there: Login, who: str, array: str) -> None:
    """A job that somebody cancels is cancelled, waiting or running, and is not sent again whatever `retry` says; the others go on."""
    names = ["runs", "waits", "other"]
    loop = Loop.of(
        await there.backend(array),
        *(task(name, there.held(name), retry=Retry(limit=3)) for name in names),
    )
    if array == "never":
        there.wrappers.fault("sbatch", 'case "$*" in *waits*) real --hold "$@" ;; *) real "$@" ;; esac')
    await loop.until(lambda: loop["runs"].started and loop["other"].started and bool(loop["waits"].job_id), "they run and wait")
    there.cluster.run(["scancel", loop["runs"].job_id, loop["waits"].job_id], who)
    await loop.until(lambda: loop["runs"].state is TaskState.CANCELLED is loop["waits"].state, "both are cancelled")
    assert (loop["other"].state, loop["runs"].cause, loop["waits"].cause) == (TaskState.RUNNING, Cause.CANCELLED, Cause.CANCELLED)
    there.release("other")
    await loop.to_end()
    assert there.ran == once(["runs", "other"] if array == "never" else names)


async def test_cancelled_while_nobody_looked(there: Login) -> None:
    """A waiting job that its user cancels while no daemon runs is cancelled as long as Slurm remembers that, and is not sent again."""
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    loop = Loop.of(await there.backend(), task("a", there.marked("a")), task("b", there.marked("b")))
    await loop.until(lambda: bool(loop["a"].job_id and loop["b"].job_id), "both wait")
    there.cluster.run(["scancel", loop["a"].job_id])
    there.wrappers.heal()
    there.scontrol("release", loop["b"].job_id)
    after = loop.after(await there.backend())
    await after.to_end()
    assert (after["a"].state, after["a"].cause, after["b"].state) == (TaskState.CANCELLED, Cause.CANCELLED, TaskState.SUCCEEDED)
    assert there.ran == once(["b"])


async def test_cancelled_and_forgotten(there: Login) -> None:
    """One that was acknowledged, never started and is nowhere is lost: only `retry` sends it again, and it can never start."""
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    again = Retry(limit=1, on=frozenset({Cause.LOST}))
    loop = Loop.of(await there.backend(), task("a", there.marked("a")), task("b", there.marked("b"), retry=again))
    await loop.until(lambda: bool(loop["a"].job_id and loop["b"].job_id), "both wait")
    there.cluster.run(["scancel", loop["a"].job_id, loop["b"].job_id])
    forgotten = f"{loop['a'].job_id}|{loop['b'].job_id}"
    there.wrappers.heal()
    there.wrappers.fault("squeue", f"real \"$@\" | grep -Ev '[|]?m[0-9a-f]*[|]({forgotten}) *[|]'; :")
    after = loop.after(await there.backend())
    await after.to_end()
    assert (after["a"].state, after["a"].cause, after["b"].state) == (TaskState.LOST, Cause.LOST, TaskState.SUCCEEDED)
    assert (there.ran, after["b"].attempt) == (once(["b"]), 2)
    assert "revoked" in (there.folder("a") / "start.0").read_text()


async def test_held_released_suspended_resumed(there: Login) -> None:
    """A job that is held, let go, suspended and resumed by others is the same job all along, and says what it waits for."""
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    loop = Loop.of(await there.backend(), task("a", there.held("a")))
    await loop.until(lambda: "JobHeldUser" in loop["a"].reason, "its user holds it")
    there.scontrol("release", loop["a"].job_id)
    await loop.until(lambda: loop["a"].started, "it runs")
    there.scontrol("suspend", loop["a"].job_id)
    await loop.until(lambda: "suspended" in loop["a"].reason, "it is suspended")
    assert loop["a"].state is TaskState.RUNNING
    there.scontrol("resume", loop["a"].job_id)
    there.release("a")
    await loop.to_end()
    assert (loop.states, there.ran, loop["a"].attempt) == (succeeded("a"), once(["a"]), 1)


async def test_held_by_an_administrator(there: Login) -> None:
    """A waiting job that an administrator holds says that, and what can be done."""
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    loop = Loop.of(await there.backend(), task("a"))
    await loop.until(lambda: bool(loop["a"].job_id), "it waits")
    there.scontrol("release", loop["a"].job_id)
    there.scontrol("hold", loop["a"].job_id)
    await loop.until(lambda: "JobHeldAdmin" in loop["a"].reason or loop.ended, "it is held")
    if not loop.ended:
        assert loop["a"].reason.startswith("will not start by itself")


async def test_put_back_and_may_restart(there: Login) -> None:
    """A job with `requeue: true` that is put back into the queue starts again as the same attempt, and its second end is what counts."""
    second = f"[ $(wc -l <{there.work}/ran/a) -gt 1 ] || exec sleep 600"
    loop = Loop.of(await there.backend(), task("a", there.marked("a", second), requeue=True))
    await loop.until(lambda: loop["a"].started, "it runs")
    there.scontrol("requeue", loop["a"].job_id)

    def over() -> bool:
        there.start_now(loop["a"].job_id)
        return loop.ended

    await loop.until(over, "the end")
    assert (loop.states, loop["a"].attempt, loop["a"].failures, there.ran["a"]) == (succeeded("a"), 1, 0, 2)


async def test_put_back_and_must_not_restart(there: Login) -> None:
    """A job without `requeue: true` cannot be put back; when an administrator does it all the same, its second start does no work."""
    loop = Loop.of(await there.backend(), task("a", there.marked("a", "exec sleep 600")))
    await loop.until(lambda: loop["a"].started, "it runs")
    job_id = loop["a"].job_id
    assert there.cluster.run(["scontrol", "requeue", job_id], "root").returncode != 0
    await loop.step()
    assert loop["a"].state is TaskState.RUNNING
    there.scontrol("update", f"JobId={job_id}", "Requeue=1")
    there.scontrol("requeue", job_id)

    def over() -> bool:
        there.start_now(job_id)
        told = there.cluster.run(["scontrol", "-o", "show", "job", job_id]).stdout
        return "Restarts=1 " in told and "JobState=FAILED" in told

    await until(over, "its second start has left")
    await loop.to_end()
    assert (loop["a"].state in {TaskState.FAILED, TaskState.LOST}, there.ran) == (True, once(["a"]))


async def test_memory(there: Login) -> None:
    """A job that Slurm ends for its memory is tried again with more memory, the same time, and no more than its partition has."""
    grow = "python3 -c 'import time; x = bytearray(300_000_000); time.sleep(600)'"
    hungry = f"[ $(wc -l <{there.work}/ran/a) -gt 1 ] || {grow}"
    retry = Retry(limit=1, memory_factor=4.0, time_factor=2.0)
    loop = Loop.of(await there.backend(), task("a", there.marked("a", hungry), retry=retry, resources=replace(SMALL, memory_mb=64)))
    await loop.to_end(60)
    asked = [[word for word in call.split() if word.startswith(("--mem=", "--time="))] for call in there.wrappers.calls("sbatch")]
    assert (loop.states, asked) == (succeeded("a"), [["--mem=64M", "--time=60"], ["--mem=256M", "--time=60"]])
    assert (loop["a"].ooms, loop["a"].timeouts, there.ran["a"]) == (1, 0, 2)


async def test_a_waiting_job_that_is_renamed(there: Login) -> None:
    """A waiting job that its user gives another name while no daemon runs is nobody's: it does no work, and its task is done once."""
    there.wrappers.fault("sbatch", 'real --hold "$@"', times=1)
    loop = Loop.of(await there.backend(), task("a", there.marked("a")))
    await loop.until(lambda: bool(loop["a"].job_id), "it waits")
    renamed = loop["a"].job_id
    there.scontrol("update", f"JobId={renamed}", "JobName=mine")
    after = loop.after(await there.backend())
    await after.to_end()
    assert (after.states, there.ran, after["a"].attempt) == (succeeded("a"), once(["a"]), 2)
    there.scontrol("release", renamed)
    await until(lambda: renamed not in {row[0] for row in there.jobs()}, "the renamed one has come and gone")
    assert there.ran == once(["a"])


async def test_a_running_job_that_is_renamed(there: Login) -> None:
    """A running job that its user gives another name cannot be told from another one with its id: that is said, it is not called lost
    for many graces, and its own exit record is its end."""
    loop = Loop.of(await there.backend(), task("a", there.held("a"), retry=Retry(limit=3)))
    await loop.until(lambda: loop["a"].started, "it runs")
    there.scontrol("update", f"JobId={loop['a'].job_id}", "JobName=mine")
    await loop.until(lambda: "another name (mine)" in loop["a"].reason, "it is said")
    asked = len(there.wrappers.calls("squeue"))
    await loop.until(lambda: len(there.wrappers.calls("squeue")) > asked + 5, "more looks")
    assert loop["a"].state is TaskState.RUNNING
    there.release("a")
    await loop.to_end()
    assert (loop.states, loop["a"].attempt, there.ran) == (succeeded("a"), 1, once(["a"]))


async def test_somebody_elses_job_of_the_same_name(there: Login) -> None:
    """A job of another user with the very name of ours is not adopted, not believed, and not cancelled."""
    theirs = there.namer.single(job("a"))
    words = ["sbatch", "--parsable", "--hold", "-o", "/dev/null", "-J", theirs, "--wrap", "exit 9"]
    done = there.cluster.run(words, there.cluster.other_user)
    job_id = done.stdout.strip()
    loop = Loop.of(await there.backend(), task("a", there.held("a")))
    await loop.until(lambda: loop["a"].started, "ours runs")
    assert loop["a"].job_id != job_id
    loop.cancelled = "enough"
    await loop.to_end()
    assert (loop["a"].state, there.cluster.state_of(job_id)) == (TaskState.CANCELLED, "PENDING")
    there.cluster.run(["scancel", job_id], "root")
