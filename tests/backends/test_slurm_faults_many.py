"""Many tasks on a real Slurm: packed right, none twice, and the scheduler asked rarely, also when all fail at once.

Of the list of what other tools get wrong: arrays above the largest size (11), calls of the scheduler (19), and 10,000 tasks (25).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.backends.packing import Namer, batches
from reconciler.core.desired import Cause, Resources
from reconciler.core.record import TaskState
from tests.backends.faults import RUN, Login, Loop, login, once, request, task
from tests.clusters.cluster import Cluster


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


def test_ten_thousand_and_one() -> None:
    """10,001 equal tasks and arrays of at most 1,001 elements: ten arrays, every task in exactly one, none with another's name."""
    jobs = [request(f"t{number}") for number in range(10_001)]
    found = batches(jobs, {each.job: ("--mem=16M",) for each in jobs}, Namer("here"), "step", lambda _: 1001)
    assert [len(batch.jobs) for batch in found] == [1001] * 9 + [992]
    assert [each.job for batch in found for each in batch.jobs] == [each.job for each in jobs]
    assert len({batch.name for batch in found}) == len(found)


def test_one_left_over_is_no_array() -> None:
    """What is left over when arrays are full, or asks for something else, goes alone under its own name."""
    jobs = [request(f"t{number}") for number in range(5)]
    asked = {each.job: ("--mem=16M",) if each.task != "t1" else ("--mem=32M",) for each in jobs}
    found = batches(jobs, asked, Namer("here"), "step", lambda _: 3)
    assert [[each.task for each in batch.jobs] for batch in found] == [["t0", "t2", "t3"], ["t4"], ["t1"]]
    assert [batch.array is None for batch in found] == [False, True, True]
    assert [Namer("here").job_of(batch.name) for batch in found[1:]] == [f"{RUN}.t4.1", f"{RUN}.t1.1"]


@pytest.mark.real("slurm")
async def test_more_than_the_largest_array(there: Login) -> None:
    """1,200 tasks, of which one program sends 500 at most: three calls of sbatch, and each task is one element of the right index."""
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    names = [f"t{number}" for number in range(1200)]
    loop = Loop.of(await there.backend("auto"), *(task(name) for name in names), most=2000)
    await loop.until(lambda: loop.record.counts.get(TaskState.QUEUED) == len(names), "all wait", 60)
    calls = there.wrappers.calls("sbatch")
    sizes = [call.partition("--array=")[2].split(" ")[0] for call in calls]
    assert sizes == ["0-499", "0-499", "0-199"]
    ids = [each.job_id for each in loop.record.tasks.values()]
    assert set(ids) == {row[0] for row in there.jobs()}
    assert len(set(ids)) == len(names)
    for name in ("t0", "t999", "t1199"):
        array_id, _, index = loop[name].job_id.partition("_")
        folder = next(each for each in (there.root / "runs" / RUN).glob("+*") if array_id in (each / "state").read_text())
        assert (folder / index).read_text() == f"{RUN}.{name}.1\n"
    loop.cancelled = "enough"
    await loop.to_end(60)
    assert (set(loop.states.values()), there.jobs()) == ({TaskState.CANCELLED}, [])


@pytest.mark.real("slurm")
async def test_calls_of_the_scheduler(there: Login) -> None:
    """200 tasks from the first look to the last end cost at most 0.1 commands each, and 200 that fail at most 5 more."""
    count = 200
    calls = {}
    for word, command in (("well", "true"), ("ill", "exit 3")):
        names = [f"{word}{number}" for number in range(count)]
        backend = await there.backend("auto", poll=(2.0, 60.0))  # as a Backend document has it that says nothing
        loop = Loop.of(backend, *(task(name, there.marked(name, command)) for name in names))
        before = len(there.wrappers.calls())
        await loop.to_end(60)
        calls[word] = len(there.wrappers.calls()) - before
        assert {each.cause for each in loop.record.tasks.values()} == ({None} if word == "well" else {Cause.EXIT})
        assert Counter({name: there.ran[name] for name in names}) == once(names)
    assert (calls["well"] <= 0.1 * count, calls["ill"] <= calls["well"] + 5) == (True, True), calls


@pytest.mark.real("slurm")
async def test_different_tasks_are_sent_in_one_round_trip(there: Login) -> None:
    """60 tasks of which no two ask the same: an sbatch each, all in one program."""
    names = [f"t{number}" for number in range(60)]
    backend = await there.backend("auto")
    await backend.look({})
    sessions = (there.work / "door.log").read_text().count("Starting session")
    receipts = await backend.submit([request(name, resources=Resources(memory_mb=16 + number)) for number, name in enumerate(names)])
    assert (len({each.job_id for each in receipts}), len(there.wrappers.calls("sbatch"))) == (60, 60)
    assert (there.work / "door.log").read_text().count("Starting session") - sessions <= 1
