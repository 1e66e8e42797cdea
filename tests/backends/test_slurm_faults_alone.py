"""Slurm itself breaks: its daemons are stopped and killed, its nodes fail. Each test has a cluster to itself.

Here are, of the list of what other tools get wrong, on the real daemons: a submission that times out and is accepted (1), a scheduler that
does not answer (5), an accounting that is down while the queue works, and the reverse (8), a node that fails (16), and ids that are given
out twice (25).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.core.desired import Cause, Retry
from reconciler.core.observed import Answer
from reconciler.core.record import TaskState
from tests.backends.faults import Login, Loop, login, once, succeeded, task, until
from tests.clusters.cluster import Cluster
from tests.clusters.cluster import until as wait_until


@pytest.fixture
async def alone(slurm_alone: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm_alone, shared_folder) as made:
        yield made


@pytest.fixture
async def accounted(slurm_accounting_alone: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm_accounting_alone, shared_folder) as made:
        yield made


def fresh_state(cluster: Cluster) -> None:
    """Wait until slurmctld has just written its queue: what comes in the next seconds is not in it."""
    queue = cluster.state / "spool" / "slurmctld" / "job_state"
    before = queue.stat().st_mtime_ns
    cluster.run(["sbatch", "--hold", "-o", "/dev/null", "-J", "filler", "--wrap", "true"])
    wait_until(lambda: queue.stat().st_mtime_ns != before, 20, "slurmctld did not write its queue")


@pytest.mark.real("slurm")
async def test_stopped_while_it_is_asked(alone: Login) -> None:
    """A slurmctld that stands still for longer than sbatch waits: the submission is in doubt, nothing that runs changes its state, and when
    it goes on the job that it makes then is adopted."""
    loop = Loop.of(await alone.backend(), task("a", alone.held("a")), task("b", alone.marked("b"), needs=("a",)))
    await loop.until(lambda: loop["a"].started, "a runs")
    alone.release("a")
    alone.wrappers.fault("sbatch", f': >{alone.work}/sending; until [ -e {alone.work}/stopped ]; do sleep 0.02; done; real "$@"')
    stepping = asyncio.ensure_future(loop.until(lambda: bool(loop.said("TaskSubmitting").count("b") and loop.answers[-1:]), "b is sent"))
    await asyncio.to_thread(wait_until, (alone.work / "sending").exists, 20, "sbatch has begun")
    alone.cluster.control("stop")
    (alone.work / "stopped").touch()
    await stepping
    answer = next(each for each in loop.answers if ".b." in each.job)
    assert answer.answer is Answer.UNKNOWN
    assert "Socket timed out" in answer.reason
    looking = asyncio.ensure_future(loop.step())  # squeue waits for ten seconds, too
    await asyncio.wait([looking], timeout=1)
    alone.cluster.control("cont")
    await looking
    alone.wrappers.heal()
    await loop.to_end()
    assert (loop.states, alone.ran, loop["b"].attempt) == (succeeded("a", "b"), once(["a", "b"]), 1)


@pytest.mark.real("slurm")
async def test_forgotten_by_a_killed_slurmctld(alone: Login) -> None:
    """Jobs that a killed slurmctld had acknowledged and forgot, and whose ids are other jobs' by now: what never started is sent again
    once, and it is said; what had started is no success and is not sent again. The others' jobs are left alone."""
    loop = Loop.of(await alone.backend(), task("waits", alone.marked("waits")), task("runs", alone.held("runs")), grace_s=1.0)
    alone.wrappers.fault("sbatch", 'case "$*" in *waits*) real --hold "$@" ;; *) real "$@" ;; esac')
    await loop.backend.look({})
    fresh_state(alone.cluster)
    await loop.until(lambda: loop["runs"].started and bool(loop["waits"].job_id), "one waits, one runs")
    ids = [loop["waits"].job_id, loop["runs"].job_id]
    alone.cluster.control("kill")
    alone.cluster.control("start")
    assert not set(ids) & {row[0] for row in alone.jobs(ended=True)}, "slurmctld had saved them in time"
    alone.wrappers.heal()
    theirs = [alone.cluster.run("sbatch --parsable -o /dev/null -J theirs --wrap 'sleep 600'").stdout.strip() for _ in range(3)]
    assert set(ids) <= set(theirs)
    await loop.until(lambda: loop["waits"].state is TaskState.SUCCEEDED, "what never started is done")
    await loop.until(lambda: "another name (theirs)" in loop["runs"].reason or loop.ended, "it is said of what had")
    assert {alone.cluster.state_of(each) for each in theirs} == {"RUNNING"}
    alone.cluster.run(["scancel", *theirs])  # while a job has that id, it might be ours by another name
    await loop.to_end()
    assert (loop["waits"].attempt, loop["waits"].failures, loop.said("SubmissionLost")) == (2, 0, ["waits"])
    assert (loop["runs"].state in {TaskState.LOST, TaskState.FAILED}, loop["runs"].attempt) == (True, 1)
    assert alone.ran == once(["waits", "runs"])


@pytest.mark.real("slurm")
async def test_a_node_fails(alone: Login) -> None:
    """A node that goes down ends its job with that cause: sent again only when `retry.on` says so, and it is said what may overlap."""
    again = Retry(limit=1, on=frozenset({Cause.NODE_FAIL}))
    second = f"[ $(wc -l <{alone.work}/ran/again) -gt 1 ] || sleep 600"
    loop = Loop.of(await alone.backend(), task("a", alone.held("a")), task("again", alone.marked("again", second), retry=again))
    await loop.until(lambda: loop["a"].started and loop["again"].started, "both run")
    nodes = {alone.cluster.run(["squeue", "-h", "-j", each.job_id, "-o", "%N"]).stdout.strip() for each in loop.record.tasks.values()}
    alone.scontrol("update", f"NodeName={','.join(nodes)}", "State=DOWN", "Reason=test")
    await loop.until(lambda: loop["a"].state is TaskState.FAILED, "the end of a")
    alone.cluster.run(["scontrol", "update", f"NodeName={','.join(nodes)}", "State=RESUME"], "root")  # if it has not come back by itself
    await loop.to_end()
    assert (loop["a"].cause, loop["again"].state, loop["again"].failures) == (Cause.NODE_FAIL, TaskState.SUCCEEDED, 1)
    assert alone.ran == once(["a", "again"]) + once(["again"])
    assert "node failed" in loop["a"].reason
    assert any("may still run" in each.message for each in loop.events if each.task == "again")


@pytest.mark.real("slurm-accounting")
async def test_the_accounting_is_down(accounted: Login) -> None:
    """Without slurmdbd everything goes on: jobs are sent, seen, ended and told apart; whoever cancelled is still told by the queue."""
    loop = Loop.of(await accounted.backend("auto"), *(task(name, accounted.held(name)) for name in ("a", "b", "c")))
    await loop.until(lambda: all(each.started for each in loop.record.tasks.values()), "all run")
    accounted.cluster.control("kill", "slurmdbd")
    accounted.release("a")
    accounted.cluster.run(["scancel", loop["c"].job_id], "root")
    await loop.until(lambda: loop["c"].state is TaskState.CANCELLED and loop["a"].state is TaskState.SUCCEEDED, "two ends")
    assert (loop.problem, loop["b"].state) == ("", TaskState.RUNNING)
    accounted.release("b")
    await loop.to_end()
    more = Loop.of(await accounted.backend(), task("a", accounted.marked("more")))
    assert (accounted.ran, loop.states["b"], more.states["a"]) == (once(["a", "b", "c"]), TaskState.SUCCEEDED, TaskState.WAITING)


@pytest.mark.real("slurm-accounting")
async def test_only_the_accounting_is_up(slurm_accounting: Cluster, shared_folder: Path) -> None:
    """While slurmctld is down and slurmdbd answers, no task changes its state by what the accounting says, but by its own exit record."""
    async with login(slurm_accounting, shared_folder) as there:
        loop = Loop.of(await there.backend(), task("a", there.held("a")), task("b", there.held("b")))
        await loop.until(lambda: all(each.started for each in loop.record.tasks.values()), "both run")
        for program in ("squeue", "scontrol", "sbatch"):
            there.wrappers.fault(program, 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1')
        there.release("a")
        await loop.until(lambda: bool(loop.problem) and loop["a"].state is TaskState.SUCCEEDED, "a has ended, and it is said what is down")
        assert (loop["b"].state, "slurmctld" in loop.problem) == (TaskState.RUNNING, True)
        there.wrappers.heal()
        there.release("b")
        await loop.to_end()
        assert (loop.states, there.ran) == (succeeded("a", "b"), once(["a", "b"]))


@pytest.mark.real("slurm-accounting")
async def test_who_cancelled_is_told(slurm_accounting: Cluster, shared_folder: Path) -> None:
    """With accounting it is said by whom a job was cancelled, while slurmctld still remembers it and when it does not."""
    async with login(slurm_accounting, shared_folder) as there:
        loop = Loop.of(await there.backend(), *(task(name, there.held(name)) for name in ("a", "b", "c")))
        await loop.until(lambda: all(each.started for each in loop.record.tasks.values()), "all run")
        ids = [each.job_id for each in loop.record.tasks.values()]
        words = ["sacct", "-n", "-X", "-P", "-o", "State,Partition", "-j", ",".join(ids)]
        await until(lambda: there.cluster.run(words).stdout.count("RUNNING|main") == 3, "the accounting knows them")  # every five seconds
        there.wrappers.fault("squeue", f'real "$@" | grep -v "|{ids[2]} *|"; :')  # slurmctld has forgotten the last one
        there.cluster.run(["scancel", ids[0], ids[2]], "root")
        there.cluster.run(["scancel", ids[1]])
        await until(lambda: there.cluster.run(words).stdout.count("CANCELLED by") == 3, "the accounting knows their ends")
        await loop.to_end()
        assert {each.cause for each in loop.record.tasks.values()} == {Cause.CANCELLED}
        assert ("root" in loop["a"].reason, "owner" in loop["b"].reason, "root" in loop["c"].reason) == (True, True, True)
