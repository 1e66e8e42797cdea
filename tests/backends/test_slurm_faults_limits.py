"""Limits of a real Slurm: as many jobs as a user may submit, also when the user's own jobs use that up. What does not fit waits.

Of the list of what other tools get wrong: submit limits (12). No task fails for want of room, and none is sent twice.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.core.desired import Resources
from reconciler.core.observed import Answer
from reconciler.core.record import TaskState
from tests.backends.faults import Login, Loop, login, once, request, succeeded, task
from tests.clusters.cluster import Cluster
from tests.clusters.cluster import until as wait_until

pytestmark = pytest.mark.real("slurm-accounting")

NAMES = ["a", "b", "c", "d"]


def limit(cluster: Cluster, most: int) -> None:
    """How many jobs the user may have submitted; -1: as many as it likes. Waits until it holds."""
    done = cluster.run(["sacctmgr", "-i", "modify", "user", cluster.user, "set", f"MaxSubmitJobs={most}"], "root")
    assert done.returncode == 0, done.stderr
    words = ["scontrol", "-o", "show", "assoc_mgr", f"users={cluster.user}", "flags=assoc"]
    wanted = {str(most)} if most >= 0 else set()
    numbers = re.compile(r"MaxSubmitJobs=(\d+)")
    wait_until(lambda: set(numbers.findall(cluster.run(words, "root").stdout)) == wanted, 20, "slurmctld does not know it")


@pytest.fixture
async def there(slurm_accounting_alone: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    cluster = slurm_accounting_alone
    async with login(cluster, shared_folder) as made:
        try:
            yield made
        finally:
            limit(cluster, -1)


async def through(there: Login, loop: Loop) -> None:
    """To the end, whatever is held let go when it runs, and no time lost with waiting after a refusal."""

    def settled() -> bool:
        there.release(*(name for name, each in loop.record.tasks.items() if each.state is TaskState.RUNNING))
        loop.hurry()
        return loop.ended

    await loop.until(settled, "the end", 60)


@pytest.mark.parametrize("array", ["never", "auto"])
async def test_the_limit_is_known(there: Login, array: str) -> None:
    """With room for two jobs and four tasks, two are sent and two wait, without any refusal; then those."""
    limit(there.cluster, 2)
    loop = Loop.of(await there.backend(array), *(task(name, there.held(name)) for name in NAMES))
    await loop.until(lambda: loop.record.counts.get(TaskState.RUNNING) == 2, "two run")
    await loop.step()
    assert loop.record.counts == {TaskState.RUNNING: 2, TaskState.WAITING: 2}
    await through(there, loop)
    assert (loop.states, there.ran) == (succeeded(*NAMES), once(NAMES))
    assert {each.answer for each in loop.answers} <= {Answer.ACCEPTED, Answer.FENCED}


@pytest.mark.parametrize("array", ["never", "auto"])
async def test_a_limit_that_comes_later(there: Login, array: str) -> None:
    """A limit that nobody knew of is met by a refusal: an array is halved until it fits, the rest waits and says why; all run once."""
    backend = await there.backend(array)
    await backend.look({})  # what the cluster allows is asked for now, and not again for minutes
    limit(there.cluster, 2)
    loop = Loop.of(backend, *(task(name, there.held(name)) for name in NAMES))
    await loop.until(lambda: loop.record.counts.get(TaskState.RUNNING) == 2, "two run")
    waiting = [each for each in loop.record.tasks.values() if each.state is TaskState.WAITING]
    assert (len(waiting), all("AssocMaxSubmitJobLimit" in each.reason for each in waiting)) == (2, True)
    sent = [call.partition("--array=")[2].split(" ")[0] for call in there.wrappers.calls("sbatch")]
    assert (sent[:2], len(sent) <= 6) == ((["0-3", "0-1"] if array == "auto" else ["", ""]), True)
    await through(there, loop)
    assert (loop.states, there.ran) == (succeeded(*NAMES), once(NAMES))
    assert {each.attempt for each in loop.record.tasks.values()} == {1}


async def test_used_up_by_the_users_own_jobs(there: Login) -> None:
    """While the user's own jobs leave no room nothing is sent, none fails, and none of theirs is touched; when they have gone, all run."""
    limit(there.cluster, 2)
    own = [there.cluster.run(["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "sleep 600"]).stdout.strip() for _ in range(2)]
    loop = Loop.of(await there.backend("auto"), *(task(name, there.marked(name)) for name in NAMES))
    for _ in range(5):
        await loop.step()
        loop.hurry()
    assert set(loop.states.values()) == {TaskState.WAITING}
    assert {there.cluster.state_of(each) for each in own} <= {"RUNNING", "PENDING"}
    there.cluster.run(["scancel", *own])
    await through(there, loop)
    assert (loop.states, there.ran) == (succeeded(*NAMES), once(NAMES))


async def test_used_up_while_we_send(there: Login) -> None:
    """When the user's own jobs take the room between our look and our sbatch, the refusal is a limit, not a failure."""
    backend = await there.backend()
    await backend.look({})
    limit(there.cluster, 1)
    there.cluster.run(["sbatch", "-o", "/dev/null", "--wrap", "sleep 600"])
    receipts = await backend.submit([request("a"), request("b"), request("c", resources=Resources(memory_mb=16, partition="nowhere"))])
    assert [each.answer for each in receipts][:2] == [Answer.LIMIT, Answer.LIMIT]
    assert "AssocMaxSubmitJobLimit" in receipts[0].reason
    assert there.jobs() == []
