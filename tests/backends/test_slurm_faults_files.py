"""What goes wrong with files on a real Slurm: records that come late or not at all, a spool that is removed, taken or full.

Of the list of what other tools get wrong: records on a network file system (18), an old attempt that starts late (23; late twins of
submissions are in test_slurm_faults_submit.py), and one connection for all, which may break (22).
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.backends.base import FENCED_EXIT, CancelRequest
from reconciler.backends.judgement import Patience
from reconciler.core.desired import Cause
from reconciler.core.observed import Answer
from reconciler.core.record import TaskState
from reconciler.errors import NotOwner, ReconcilerError
from tests.backends.faults import RUN, Login, Loop, job, login, once, request, succeeded, task, until
from tests.clusters.cluster import Cluster

pytestmark = pytest.mark.real("slurm")


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


def records(there: Login, name: str) -> list[Path]:
    """Where a job's exit record is, and its copy in the mailbox."""
    return [there.folder(name) / "exit", there.root / "exits" / job(name)]


@pytest.mark.parametrize("meanwhile", ["nothing", "empty", "half"])
async def test_an_exit_record_that_is_seen_late(there: Login, meanwhile: str) -> None:
    """An exit record that another machine shows late, empty or in part at first, is waited for: success and failure are as it says."""
    backend = await there.backend(patience=Patience(60.0, 60.0, 60.0))
    loop = Loop.of(backend, task("well", there.held("well")), task("ill", there.held("ill", "exit 3")))
    await loop.until(lambda: loop["well"].started and loop["ill"].started, "both run")
    there.release("well", "ill")
    kept = {}
    for path in (*records(there, "well"), *records(there, "ill")):
        await until(path.exists, "a record")
        await until(lambda path=path: path.read_text().endswith("end\n"), "a whole record")  # type: ignore[misc]
        kept[path] = path.read_text()
        match meanwhile:
            case "nothing":
                path.unlink()
            case "empty":
                path.write_text("")
            case _:
                path.write_text(kept[path][:12])
    await until(lambda: not there.jobs(), "Slurm says that they have ended")
    asked = len(there.wrappers.calls("squeue"))
    await loop.until(lambda: len(there.wrappers.calls("squeue")) > asked + 3, "some looks")
    assert set(loop.states.values()) == {TaskState.RUNNING}
    for path, text in kept.items():
        path.write_text(text)
    await loop.to_end()
    assert loop.states == {"well": TaskState.SUCCEEDED, "ill": TaskState.FAILED}
    assert (loop["ill"].exit_code, loop["ill"].cause, there.ran) == (3, Cause.EXIT, once(["well", "ill"]))


async def test_an_exit_record_that_never_comes(there: Login) -> None:
    """Without any record a success is believed only of Slurm, and only of exactly the job that took the start; a failure is lost."""
    loop = Loop.of(await there.backend(), task("well", there.held("well")), task("ill", there.held("ill", "exit 3")))
    await loop.until(lambda: loop["well"].started and loop["ill"].started, "both run")
    there.release("well", "ill")
    for path in (*records(there, "well"), *records(there, "ill")):
        await until(path.exists, "a record")
        path.unlink()
    await loop.to_end()
    assert loop.states == {"well": TaskState.SUCCEEDED, "ill": TaskState.LOST}
    assert ("Slurm" in loop["well"].reason or "scheduler" in loop["well"].reason, loop["ill"].exit_code) == (True, None)


async def test_the_spool_is_removed(there: Login) -> None:
    """When somebody removes the spool nothing more is sent and none is called done; a job that starts then leaves and does nothing."""
    there.wrappers.fault("sbatch", 'case "$*" in *late*) real --hold "$@" ;; *) real "$@" ;; esac')
    backend = await there.backend()
    loop = Loop.of(backend, task("runs", there.held("runs")), task("late", there.marked("late")))
    await loop.until(lambda: loop["runs"].started and bool(loop["late"].job_id), "one runs, one waits")
    shutil.rmtree(there.root)
    with pytest.raises(ReconcilerError):
        await backend.look({})
    with pytest.raises(ReconcilerError):
        await backend.submit([request("more", there.marked("more"))])
    with pytest.raises(ReconcilerError):
        await backend.cancel([CancelRequest(job("late"), loop["late"].job_id, True)])
    there.scontrol("release", loop["late"].job_id)
    there.release("runs")
    await until(lambda: not there.jobs(), "both jobs have gone")
    assert (there.ran, there.root.exists()) == (once(["runs"]), False)
    words = ["scontrol", "-o", "show", "job", loop["late"].job_id]
    assert "JobState=FAILED" in there.cluster.run(words).stdout


async def test_the_spool_is_another_daemons(there: Login) -> None:
    """A newer daemon of the same ledger takes the spool: the older one does nothing there any more, and its jobs go on."""
    old = await there.backend()
    loop = Loop.of(old, task("a", there.held("a")))
    await loop.until(lambda: loop["a"].started, "it runs")
    new = await there.backend()
    for act in (old.look({}), old.submit([request("b")]), old.cancel([CancelRequest(job("a"), "", True)]), old.forget([job("a")])):
        with pytest.raises(NotOwner):
            await act
    after = loop.after(new)
    there.release("a")
    await after.to_end()
    assert (after.states, there.ran) == (succeeded("a"), once(["a"]))


async def test_a_full_spool(there: Login) -> None:
    """On a full disk nothing is sent, and it says so; once there is room again, what waits is sent and runs once."""
    there.spool.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0777", "tmpfs", str(there.spool)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("not on this machine: mount")
    try:
        backend = await there.backend("auto")
        filler = there.spool / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        loop = Loop.of(backend, *(task(name, f"{there.marked(name)} # {'x' * 20_000}") for name in ("a", "b")))
        await loop.until(lambda: bool(loop.answers), "an answer")
        assert {each.answer for each in loop.answers} <= {Answer.TRANSIENT, Answer.UNKNOWN}
        for _ in range(8):
            await loop.step()
            await asyncio.sleep(0.2)
        assert there.jobs() == []
        filler.unlink()
        for _ in range(3):
            loop.hurry()
            await loop.step()
        await loop.to_end()
        assert (loop.states, there.ran) == (succeeded("a", "b"), once(["a", "b"]))
    finally:
        await until(lambda: not there.jobs(), "no job uses it")
        assert subprocess.run(["umount", "-l", str(there.spool)], capture_output=True).returncode == 0


async def test_an_old_attempt_starts_late(there: Login) -> None:
    """An attempt that was given up while it waited starts after its successor: it leaves with the reserved code before it does anything."""
    there.wrappers.fault("sbatch", 'real --hold "$@"', times=1)
    backend = await there.backend()
    [receipt] = await backend.submit([request("a", there.marked("a"))])
    there.wrappers.fault("scancel", "exit 1")  # it cannot be taken out of the queue, either
    [gone] = await backend.cancel([CancelRequest(job("a"), receipt.job_id, kill=False)])
    assert gone.answer is Answer.FENCED
    assert (await backend.submit([request("a", there.held("a"), attempt=2)]))[0].answer is Answer.ACCEPTED
    await until(lambda: there.ran == once(["a"]), "the second attempt runs")
    there.scontrol("release", receipt.job_id)
    await until(lambda: there.cluster.state_of(receipt.job_id) == "FAILED", "the first has come and gone")
    code = there.cluster.run(["scontrol", "-o", "show", "job", receipt.job_id]).stdout
    assert (f"ExitCode={FENCED_EXIT}:0" in code, there.ran) == (True, once(["a"]))
    there.release("a")


async def test_one_connection_for_all(there: Login) -> None:
    """Any number of submissions, looks and cancels at the same time go through one connection; when it breaks, one other."""
    backend = await there.backend()
    names = [f"t{number}" for number in range(12)]
    await asyncio.gather(*(backend.submit([request(name, there.marked(name))]) for name in names), *(backend.look({}) for _ in range(6)))
    await asyncio.gather(*(backend.cancel([CancelRequest(job(name), "", kill=False)]) for name in names))

    def logins() -> int:
        return (there.work / "door.log").read_text(errors="replace").count("Accepted publickey")

    assert logins() == 1
    there.door.cut()
    await asyncio.gather(*(backend.look({}) for _ in range(6)), return_exceptions=True)
    await backend.look({})
    assert logins() == 2
    assert all((there.root / "runs" / RUN / job(name)).is_dir() for name in names)
