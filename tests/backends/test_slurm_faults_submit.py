"""Submissions that go wrong, on a real Slurm whose sbatch is behind a wrapper: exactly one job of each task runs, or it is said why not.

Here are, of the list of what other tools get wrong: an answer that is lost or is not what it seems (1-4), refusals for good (13), and
what a script or a path may hold. Limits are in test_slurm_faults_limits.py, arrays and many tasks in test_slurm_faults_many.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.backends import cluster as cluster_module
from reconciler.core.desired import Cause, Resources
from reconciler.core.observed import Answer
from reconciler.core.record import TaskState
from tests.backends.faults import SMALL, Login, Loop, job, login, once, request, succeeded, task, until
from tests.clusters.cluster import Cluster

pytestmark = pytest.mark.real("slurm")

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
#: What sbatch does that is no plain answer, as a wrapper, and what the receipt says.
STRANGE = [
    pytest.param(f'real "$@" >/dev/null; echo "{TIMED_OUT}" >&2; exit 1', Answer.UNKNOWN, id="timed out, accepted"),
    pytest.param('real "$@" >/dev/null; exit 0', Answer.UNKNOWN, id="said nothing, accepted"),
    pytest.param('real "$@" >/dev/null; kill -KILL $$', Answer.UNKNOWN, id="killed, accepted"),
    pytest.param('real "$@" >/dev/null; echo "sbatch: error: Zero Bytes were transmitted" >&2; exit 1', Answer.UNKNOWN, id="zero"),
    pytest.param('id=$(real "$@"); echo "$id"; echo 99999999', Answer.UNKNOWN, id="two numbers"),
    pytest.param('id=$(real "$@"); echo "{\\"job\\": $id}"; exit 0', Answer.UNKNOWN, id="no number alone"),
    pytest.param(
        'echo "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying" >&2; real "$@"', Answer.ACCEPTED, id="noise"
    ),
    pytest.param(
        'id=$(real "$@"); echo "*** 3 jobs of yours wait ***"; echo; echo "Submitted batch job $id"; echo "Have a nice day"',
        Answer.ACCEPTED,
        id="convoluted",
    ),
    pytest.param('id=$(real "$@"); echo "$id;faults"; echo "charged to: 1234" >&2', Answer.ACCEPTED, id="with its cluster"),
    pytest.param(f'echo "{TIMED_OUT}" >&2; exit 1', Answer.UNKNOWN, id="timed out, not accepted"),
    pytest.param('real "$@" >/dev/null; real "$@"', Answer.ACCEPTED, id="twice"),
    pytest.param("kill -KILL $$", Answer.UNKNOWN, id="killed, not accepted"),
    pytest.param("exit 0", Answer.UNKNOWN, id="said nothing, not accepted"),
    pytest.param(
        'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2; exit 1',
        Answer.TRANSIENT,
        id="nobody there",
    ),
]


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


@pytest.mark.parametrize(("fault", "answer"), STRANGE)
async def test_a_strange_answer(there: Login, fault: str, answer: Answer) -> None:
    """Whatever sbatch makes of its first answer, one job of each task runs; what was accepted is adopted as the same attempt. Three of
    the tasks are an array, and one asks for something else."""
    names = ["a", "b", "c", "alone"]
    asked = {"alone": replace(SMALL, memory_mb=17)}
    loop = Loop.of(await there.backend("auto"), *(task(name, there.marked(name), resources=asked.get(name, SMALL)) for name in names))
    there.wrappers.fault("sbatch", fault, times=1)
    await loop.until(lambda: bool(loop.answers), "an answer")
    assert loop.answers[0].answer is answer
    loop.hurry()
    await loop.until(lambda: loop.ended or any(each.refusals for each in loop.record.tasks.values()), "the end, or a refusal")
    loop.hurry()
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded(*names), once(names))
    accepted = "real" in fault
    assert (loop["a"].attempt, loop["a"].losses) == ((1, 0) if accepted or answer is Answer.TRANSIENT else (2, 1))


async def test_adopted_within_one_poll(there: Login) -> None:
    """A job whose submission seemed to time out is known by its id after the next full look, while it still waits."""
    loop = Loop.of(await there.backend(), task("a", there.marked("a")))
    there.wrappers.fault("sbatch", f'real --hold "$@" >/dev/null; echo "{TIMED_OUT}" >&2; exit 1', times=1)
    await loop.until(lambda: bool(loop.answers), "an answer")
    polls = len(there.wrappers.calls("squeue"))
    await loop.until(lambda: loop["a"].state is TaskState.QUEUED, "seen")
    assert len(there.wrappers.calls("squeue")) - polls <= 2
    [(job_id, _, _)] = there.jobs()
    assert (loop["a"].job_id, loop["a"].attempt) == (job_id, 1)
    there.scontrol("release", job_id)
    await loop.to_end()
    assert there.ran == once(["a"])


async def test_our_own_time_out(there: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """An sbatch that is slower than we wait is in doubt; the job that it has made is adopted as the same attempt."""
    monkeypatch.setattr(cluster_module, "SUBMIT_TIMEOUT_S", 0.6)  # four minutes, of which a test has none
    loop = Loop.of(await there.backend(), task("a", there.marked("a")))
    there.wrappers.fault("sbatch", 'real "$@"; sleep 2', times=1)
    await loop.until(lambda: bool(loop.answers), "an answer")
    assert loop.answers[0].answer is Answer.UNKNOWN
    await loop.to_end()
    assert (loop.states, there.ran, loop["a"].attempt) == (succeeded("a"), once(["a"]), 1)


async def test_a_late_twin(there: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """An sbatch that we gave up on makes its job when the next attempt has long ended: that job leaves at once, and changes nothing."""
    monkeypatch.setattr(cluster_module, "SUBMIT_TIMEOUT_S", 0.6)
    loop = Loop.of(await there.backend(), task("a", there.marked("a")))
    there.wrappers.fault("sbatch", f'until [ -e {there.work}/later ]; do sleep 0.05; done; real "$@"', times=1)
    await loop.to_end()
    assert (loop.states, there.ran, loop["a"].attempt, loop["a"].failures) == (succeeded("a"), once(["a"]), 2, 0)
    (there.work / "later").touch()
    late = there.namer.single(job("a", 1))
    await until(lambda: [row[2] for row in there.jobs(ended=True) if row[1] == late] == ["FAILED"], "the late twin has come and gone")
    await loop.look()
    assert (there.ran, (there.folder("a") / "fenced").exists(), (there.folder("a") / "out").exists()) == (once(["a"]), True, False)


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.45])
async def test_killed_around_sbatch(there: Login, seconds: float) -> None:
    """A daemon that ends at any moment around its sbatch leaves one job for each task: the next one looks before it sends."""
    names = ["a", "b", "c"]
    loop = Loop.of(await there.backend(), *(task(name, there.marked(name)) for name in names))
    there.wrappers.fault("sbatch", 'sleep 0.15; real "$@"; code=$?; sleep 0.15; exit $code')
    await loop.backend.look({})
    going = asyncio.ensure_future(loop.step())
    await asyncio.wait([going], timeout=seconds)
    going.cancel()  # as the end of its process: what goes on over there goes on
    await asyncio.gather(going, return_exceptions=True)
    await loop.backend.close()
    saved = loop.after(await there.backend())
    await saved.to_end()
    assert (saved.states, there.ran) == (succeeded(*names), once(names))


REFUSED = [
    ("partition", Resources(memory_mb=16, partition="nowhere"), "invalid partition"),
    ("constraint", Resources(memory_mb=16, constraint="golden"), "Invalid feature specification"),
    ("gres", Resources(memory_mb=16, gres="unicorn:1"), "generic resource"),
    ("reservation", Resources(memory_mb=16, reservation="theirs"), "reservation"),
]


@pytest.mark.parametrize("array", ["never", "auto"])
async def test_refused_for_good(there: Login, array: str) -> None:
    """What Slurm will never take fails that task alone, with Slurm's words and without another try; the others run."""
    bad = [task(name, there.marked(name), resources=asked) for name, asked, _ in REFUSED]
    loop = Loop.of(await there.backend(array), *bad, task("fine", there.marked("fine")), task("too", there.marked("too")))
    await loop.to_end()
    for name, _, words in REFUSED:
        assert (loop[name].state, loop[name].cause) == (TaskState.FAILED, Cause.REFUSED)
        assert words.lower() in loop[name].reason.lower()
    assert (there.ran, loop["fine"].state) == (once(["fine", "too"]), TaskState.SUCCEEDED)
    assert len(there.wrappers.calls("sbatch")) == len(REFUSED) + (2 if array == "never" else 1)


async def test_a_script_above_every_limit_of_a_command_line(there: Login) -> None:
    """A command of 300 KB, more than one argument of a program may have, arrives whole."""
    text = "x" * 300_000
    loop = Loop.of(await there.backend(), task("a", f"cat >{there.work}/text <<'END'\n{text}\nEND\n{there.marked('a')}"))
    await loop.to_end()
    assert (loop.states, there.ran) == (succeeded("a"), once(["a"]))
    assert (there.work / "text").read_text() == f"{text}\n"


@pytest.fixture
def strange_folder(shared_folder: Path) -> Iterator[Path]:
    """A folder whose name Slurm would take apart."""
    folder = shared_folder / "100%j %A %% it's"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder


@pytest.mark.parametrize("array", ["never", "auto"])
async def test_a_per_cent_in_paths(slurm: Cluster, shared_folder: Path, strange_folder: Path, array: str) -> None:
    """A spool, a working directory and output files with `%j` in their names are these very names."""
    async with login(slurm, shared_folder) as there:
        there.spool = strange_folder / "spool"
        files = {"output_file": f"{strange_folder}/%x.%j.out", "error_file": f"{strange_folder}/50%.err"}
        one = task("a", "pwd; echo err >&2", working_dir=str(strange_folder), **files)
        two = task("b", "echo b", working_dir=str(strange_folder))
        loop = Loop.of(await there.backend(array), one, two)
        await loop.to_end()
        assert loop.states == succeeded("a", "b")
        assert (strange_folder / "%x.%j.out").read_text() == f"{strange_folder}\n"
        assert (strange_folder / "50%.err").read_text() == "err\n"
        assert sorted(each.name for each in strange_folder.iterdir()) == ["%x.%j.out", "50%.err", "spool"]
        assert (there.folder("b") / "out").read_text() == "b\n"


async def test_a_folder_that_is_not_there(there: Login) -> None:
    """Slurm would run a job without its folder elsewhere, and call it a success: it is refused before it is sent, by name."""
    missing = there.work / "gone"
    loop = Loop.of(
        await there.backend(),
        task("dir", there.marked("dir"), working_dir=str(missing)),
        task("out", there.marked("out"), output_file=f"{missing}/out"),
        task("fine", there.marked("fine")),
    )
    await loop.to_end()
    assert there.ran == once(["fine"])
    for name in ("dir", "out"):
        assert (loop[name].state, loop[name].cause) == (TaskState.FAILED, Cause.REFUSED)
        assert str(missing) in loop[name].reason


async def test_a_folder_that_goes_while_the_job_waits(there: Login) -> None:
    """A folder that was there at submission and is gone when the job starts fails the task, and nothing of it runs."""
    folder = there.work / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    backend = await there.backend()
    loop = Loop.of(
        backend,
        task("dir", there.marked("dir"), working_dir=str(folder)),
        task("out", there.marked("out"), output_file=f"{folder}/out", resources=replace(SMALL, cpus=2)),
    )
    there.wrappers.fault("sbatch", 'real --hold "$@"')
    await loop.until(lambda: loop.record.counts.get(TaskState.QUEUED) == 2, "both wait")
    folder.rmdir()
    there.scontrol("release", *(row[0] for row in there.jobs()))
    await loop.to_end()
    assert there.ran == once([])
    assert [each.state for each in loop.record.tasks.values()] == [TaskState.FAILED, TaskState.FAILED]


async def test_a_request_is_refused_before_anything_is_asked(there: Login) -> None:
    """What can never be sent is refused without a call of Slurm's commands."""
    backend = await there.backend()
    [receipt] = await backend.submit([request("a", "true\0")])
    assert (receipt.answer, there.wrappers.calls("sbatch")) == (Answer.REFUSED, [])
