"""What every backend owes the core (reconciler/backends/base.py), as one suite. Real processes only.

A backend's test module gives it a `Far`: how to open that backend, and how to reach the other side behind its back.

    class TestLocal(Conformance):
        @pytest.fixture
        async def far(self, tmp_path): ...
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends.base import FENCED_EXIT, Backend, CancelRequest, FileRequest, JobRequest
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import Cause, Resources
from reconciler.core.names import job_name
from reconciler.core.observed import Answer, Expected, JobFact, JobState, Receipt, Snapshot
from reconciler.errors import NotOwner, Unreachable

RUN = "0123456789ab"
DEADLINE_S = 20.0


class Far(ABC):
    """The far side of one backend under test. `work` is a folder that jobs and test both see; `changes` counts calls of `changed`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.changes = 0

    @property
    def home(self) -> str:
        """The home folder of whoever runs jobs."""
        return os.path.expanduser("~")

    def changed(self) -> None:
        self.changes += 1

    @abstractmethod
    async def open(self, ledger: str = "ledger-1", epoch: int = 1) -> Backend:
        """A backend as a new daemon would make it: it owns the spool. Raises NotOwner."""

    @abstractmethod
    async def abandon(self, backend: Backend) -> None:
        """The daemon of that backend is gone; its jobs are not."""

    @abstractmethod
    async def destroy(self, job: str, fact: JobFact) -> None:
        """End all processes of a running job so that it leaves no exit record."""

    @abstractmethod
    async def send_twin(self, job: str) -> int:
        """Run the script of `job` once more, as a scheduler might; its exit code."""

    @abstractmethod
    async def cut(self) -> None:
        """From now on nothing on the far side can be asked."""

    @abstractmethod
    async def mend(self) -> None:
        """As before `cut`."""


def name(task: str = "t", attempt: int = 1) -> str:
    return job_name(RUN, task, attempt)


def request(command: str, task: str = "t", attempt: int = 1, **fields: Any) -> JobRequest:
    return JobRequest(job=name(task, attempt), run=RUN, task=task, command=command, **fields)


def expect(*jobs: str) -> dict[str, Expected]:
    now = utc_now()
    return {job: Expected(job, "", now) for job in jobs}


async def look(backend: Backend, *jobs: str) -> Snapshot:
    return await backend.look(expect(*jobs))


async def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait for `condition`, with a deadline."""
    deadline = monotonic() + DEADLINE_S
    while not condition():
        assert monotonic() < deadline, f"{what} did not come true in {DEADLINE_S:.0f} s"
        await asyncio.sleep(0.01)


async def seen(backend: Backend, job: str, state: JobState) -> JobFact:
    """The fact of `job` once it is in `state`."""
    deadline = monotonic() + DEADLINE_S
    while True:
        fact = (await look(backend, job)).facts.get(job)
        if fact is not None and fact.state is state:
            return fact
        assert monotonic() < deadline, f"{job} is {fact}, not {state}"
        await asyncio.sleep(0.01)


async def started(backend: Backend, job: str) -> JobFact:
    """The fact of `job` once it runs and its start record is seen."""
    deadline = monotonic() + DEADLINE_S
    while True:
        fact = (await look(backend, job)).facts.get(job)
        if fact is not None and fact.state is JobState.RUNNING and fact.started:
            return fact
        assert monotonic() < deadline, f"{job} is {fact}"
        await asyncio.sleep(0.01)


async def send(backend: Backend, *jobs: JobRequest) -> list[Receipt]:
    """The receipts, in the order of `jobs`."""
    receipts = {receipt.job: receipt for receipt in await backend.submit(jobs)}
    return [receipts[job.job] for job in jobs]


async def end(backend: Backend, job: str, kill: bool) -> Receipt:
    [receipt] = await backend.cancel([CancelRequest(job, "", kill)])
    return receipt


def answers(receipts: Iterable[Receipt]) -> list[Answer]:
    return [receipt.answer for receipt in receipts]


class Conformance:
    """The suite. Subclasses are named Test… and have a fixture `far`."""

    async def test_a_job_runs_and_its_end_is_told(self, far: Far) -> None:
        """A job that is sent runs once, and a look shows how it ended, when, and that it had started."""
        backend, before = await far.open(), utc_now()
        [receipt] = await send(backend, request(f"echo ran >> {far.work}/ran"))
        assert receipt.answer is Answer.ACCEPTED
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.exit_code, fact.cause, fact.started, fact.job_id) == (0, None, True, receipt.job_id)
        assert fact.started_at is not None and fact.ended_at is not None
        assert before - 1 <= fact.started_at <= fact.ended_at <= utc_now() + 1
        assert (far.work / "ran").read_text() == "ran\n"

    async def test_a_name_is_sent_twice(self, far: Far) -> None:
        """Sending a name again says ACCEPTED with the same id, and starts nothing: while it runs, after its end, after `forget`."""
        backend = await far.open()
        job = request(f"echo ran >> {far.work}/ran; until [ -e {far.work}/go ]; do sleep 0.02; done")
        [first] = await send(backend, job)
        await started(backend, job.job)
        [again] = await send(backend, job)
        (far.work / "go").touch()
        await seen(backend, job.job, JobState.ENDED)
        [ended] = await send(backend, job)
        await backend.forget([job.job])
        [forgotten] = await send(backend, job)
        assert answers([first, again, ended, forgotten]) == [Answer.ACCEPTED] * 4
        assert {receipt.job_id for receipt in (first, again, ended, forgotten)} == {first.job_id}
        assert (far.work / "ran").read_text() == "ran\n"

    async def test_two_submits_at_the_same_time(self, far: Far) -> None:
        """Of many submits of one name at the same time, one starts the job."""
        backend = await far.open()
        jobs = [request(f"echo {number} >> {far.work}/ran", task=f"t{number}") for number in range(12)]
        rounds = await asyncio.gather(*(backend.submit(jobs) for _ in range(4)))
        assert {receipt.answer for receipts in rounds for receipt in receipts} == {Answer.ACCEPTED}
        for job in jobs:
            await seen(backend, job.job, JobState.ENDED)
        assert sorted((far.work / "ran").read_text().split(), key=int) == [str(number) for number in range(12)]

    @pytest.mark.parametrize("code", [1, 3, FENCED_EXIT, 255])
    async def test_an_exit_code_is_told(self, far: Far, code: int) -> None:
        """A command's exit code is told as it is, also the reserved one."""
        backend = await far.open()
        await send(backend, request(f"exit {code}"))
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.exit_code, fact.cause, fact.started) == (code, Cause.EXIT, True)

    async def test_files_of_the_command_are_no_records(self, far: Far) -> None:
        """A task without a working directory may write files called like our records: it ends by its own exit code."""
        backend = await far.open()
        await send(backend, request("for name in exit out err start.0 fenced claim; do echo 'exit 1 0 command end' > $name; done; exit 3"))
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.exit_code, fact.cause) == (3, Cause.EXIT)

    async def test_a_signal_is_told(self, far: Far) -> None:
        """A command that a signal ends is told with the signal."""
        backend = await far.open()
        await send(backend, request("kill -USR1 $$"))
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.signal, fact.exit_code, fact.cause) == (10, 138, Cause.EXIT)

    async def test_one_refusal_leaves_the_others_alone(self, far: Far) -> None:
        """A job with an unknown working directory is refused by name, in words; the others run; once the cure is there it is accepted."""
        backend, folder = await far.open(), far.work / "later"
        bad = request(f"echo ran >> {far.work}/bad", task="bad", working_dir=str(folder))
        receipts = await send(backend, request("true", task="a"), bad, request("true", task="b"))
        assert answers(receipts) == [Answer.ACCEPTED, Answer.REFUSED, Answer.ACCEPTED]
        assert str(folder) in receipts[1].reason
        for task in ("a", "b"):
            assert (await seen(backend, name(task), JobState.ENDED)).exit_code == 0
        folder.mkdir()
        assert answers(await send(backend, bad)) == [Answer.ACCEPTED]
        assert (await seen(backend, bad.job, JobState.ENDED)).exit_code == 0
        assert (far.work / "bad").read_text() == "ran\n"

    async def test_a_working_directory_is_where_the_command_runs(self, far: Far) -> None:
        """The command runs in the task's working directory, whatever characters its name has."""
        backend, folder = await far.open(), far.work / 'it\'s a $(touch x) "folder"'
        folder.mkdir()
        await send(backend, request("pwd > here", working_dir=str(folder)))
        assert (await seen(backend, name(), JobState.ENDED)).exit_code == 0
        assert (folder / "here").read_text() == f"{folder}\n"
        assert sorted(path.name for path in folder.iterdir()) == ["here"]

    async def test_what_was_never_sent_is_absent(self, far: Far) -> None:
        """A name that was never sent is absent in a complete look."""
        backend = await far.open()
        snapshot = await look(backend, name())
        assert (snapshot.facts, snapshot.complete, snapshot.unexpected) == ({}, True, ())

    async def test_a_revoked_name_never_runs(self, far: Far) -> None:
        """A cancel before the submission arrives fences the name: it is told, and a late submission does no work."""
        backend = await far.open()
        assert (await end(backend, name(), kill=False)).answer is Answer.FENCED
        assert (await seen(backend, name(), JobState.FENCED)).started is False
        await send(backend, request(f"echo ran >> {far.work}/ran"))
        assert (await seen(backend, name(), JobState.FENCED)).started is False
        assert (await end(backend, name(), kill=True)).answer is Answer.FENCED
        assert not (far.work / "ran").exists()

    async def test_a_cancel_races_a_start(self, far: Far) -> None:
        """Of a revocation and a start at the same time one wins, and both sides say the same."""
        backend = await far.open()
        jobs = [request(f"echo ran >> {far.work}/ran.{number}", task=f"t{number}") for number in range(20)]
        receipts, again = [], []
        for job in jobs:
            await backend.submit([job])
            receipts.append(await end(backend, job.job, kill=False))
            again.append(await end(backend, job.job, kill=False))
        assert [receipt.answer is Answer.FENCED for receipt in again] == [receipt.answer is Answer.FENCED for receipt in receipts]
        for job, receipt in zip(jobs, receipts, strict=True):
            state = JobState.FENCED if receipt.answer is Answer.FENCED else JobState.ENDED
            await seen(backend, job.job, state)
            assert (far.work / f"ran.{job.task[1:]}").exists() == (state is JobState.ENDED)

    async def test_a_started_job_is_left_alone(self, far: Far) -> None:
        """A cancel without `kill` of a job that has started says STARTED and changes nothing."""
        backend = await far.open()
        await send(backend, request(f"until [ -e {far.work}/go ]; do sleep 0.02; done; echo on > {far.work}/on"))
        await started(backend, name())
        assert (await end(backend, name(), kill=False)).answer is Answer.STARTED
        (far.work / "go").touch()
        assert (await seen(backend, name(), JobState.ENDED)).exit_code == 0
        assert (far.work / "on").exists()

    async def test_a_running_job_is_cancelled(self, far: Far) -> None:
        """A cancel with `kill` says ENDING until the job has ended, then ENDED; the job is told to have been cancelled."""
        backend = await far.open()
        await send(backend, request("sleep 1000"))
        await started(backend, name())
        assert (await end(backend, name(), kill=True)).answer in {Answer.ENDING, Answer.ENDED}
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.cause, fact.started) == (Cause.CANCELLED, True)
        assert (await end(backend, name(), kill=True)).answer is Answer.ENDED
        assert (await end(backend, name(), kill=False)).answer is Answer.ENDED

    async def test_a_deaf_job_is_killed(self, far: Far) -> None:
        """A job that ignores TERM is killed after the grace, and asked only once."""
        backend = await far.open()
        await send(backend, request(f"trap 'echo term >> {far.work}/terms' TERM; touch {far.work}/up; while :; do sleep 0.02; done"))
        await until((far.work / "up").exists)
        for _ in range(3):
            assert (await end(backend, name(), kill=True)).answer is Answer.ENDING
        fact = await seen(backend, name(), JobState.ENDED)
        assert fact.cause is Cause.CANCELLED
        assert (far.work / "terms").read_text() == "term\n"

    async def test_a_job_that_ended_well_before_its_cancel(self, far: Far) -> None:
        """A cancel that comes after a success does not change it."""
        backend = await far.open()
        await send(backend, request("true"))
        await seen(backend, name(), JobState.ENDED)
        assert (await end(backend, name(), kill=True)).answer is Answer.ENDED
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.exit_code, fact.cause) == (0, None)

    async def test_a_late_twin_is_fenced(self, far: Far) -> None:
        """The same script started once more leaves at once with the reserved code, does no work, and changes no fact."""
        backend = await far.open()
        await send(backend, request(f"echo ran >> {far.work}/ran; until [ -e {far.work}/go ]; do sleep 0.02; done"))
        await started(backend, name())
        assert await far.send_twin(name()) == FENCED_EXIT
        assert (await seen(backend, name(), JobState.RUNNING)).started is True
        (far.work / "go").touch()
        ended = await seen(backend, name(), JobState.ENDED)
        assert await far.send_twin(name()) == FENCED_EXIT
        assert await seen(backend, name(), JobState.ENDED) == ended
        assert (far.work / "ran").read_text() == "ran\n"

    async def test_a_job_that_leaves_no_exit_record_is_lost(self, far: Far) -> None:
        """A job that was ended with -9 behind our back has ended, is lost, and is no success."""
        backend = await far.open()
        await send(backend, request("sleep 1000"))
        await far.destroy(name(), await started(backend, name()))
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.cause, fact.exit_code, fact.started) == (Cause.LOST, None, True)

    async def test_forget_keeps_the_fences(self, far: Far) -> None:
        """After `forget` a name still cannot run again, and its end can still be read by name; forgetting twice is no error."""
        backend = await far.open()
        await send(backend, request(f"echo ran >> {far.work}/ran; exit 3"))
        before = await seen(backend, name(), JobState.ENDED)
        await backend.forget([name(), name("unknown"), "garbage/../name"])
        await backend.forget([name()])
        await look(backend)
        assert await seen(backend, name(), JobState.ENDED) == before
        assert await far.send_twin(name()) == FENCED_EXIT
        assert (far.work / "ran").read_text() == "ran\n"

    async def test_another_ledger_is_refused(self, far: Far) -> None:
        """A spool that one ledger owns is refused to another, in words that name both; the first goes on."""
        backend = await far.open("ledger-1")
        with pytest.raises(NotOwner, match=r"ledger-1.*ledger-2"):
            await far.open("ledger-2", epoch=99)
        assert answers(await send(backend, request("true"))) == [Answer.ACCEPTED]

    async def test_a_newer_daemon_takes_over(self, far: Far) -> None:
        """Once a newer daemon of the ledger has the spool, the older one can do nothing there, nor take it back."""
        old = await far.open(epoch=1)
        new = await far.open(epoch=2)
        for attempt in (old.look({}), old.submit([request("true")]), old.cancel([CancelRequest(name(), "", True)]), old.forget([name()])):
            with pytest.raises(NotOwner, match="newer"):
                await attempt
        with pytest.raises(NotOwner, match="newer"):
            await far.open(epoch=1)
        assert (await look(new, name())).facts == {}

    async def test_a_restart_finds_running_jobs(self, far: Far) -> None:
        """Jobs outlive their daemon; the next one finds them by name, tells their end and can cancel them."""
        old = await far.open(epoch=1)
        waiting = f"until [ -e {far.work}/go ]; do sleep 0.02; done; exit 4"
        await send(old, request(waiting, task="a"), request("sleep 1000", task="b"), request("exit 5", task="c"))
        first = await started(old, name("a"))
        await started(old, name("b"))
        await seen(old, name("c"), JobState.ENDED)
        await far.abandon(old)
        new = await far.open(epoch=2)
        facts = (await look(new, name("a"), name("b"), name("c"))).facts
        assert {job: fact.state for job, fact in facts.items()} == {
            name("a"): JobState.RUNNING, name("b"): JobState.RUNNING, name("c"): JobState.ENDED,
        }  # fmt: skip
        assert (facts[name("a")].job_id, facts[name("a")].started_at) == (first.job_id, first.started_at)
        assert facts[name("c")].exit_code == 5
        (far.work / "go").touch()
        assert (await seen(new, name("a"), JobState.ENDED)).exit_code == 4
        assert (await end(new, name("b"), kill=True)).answer is Answer.ENDING
        assert (await seen(new, name("b"), JobState.ENDED)).cause is Cause.CANCELLED

    async def test_a_restart_forgets_no_refusal_to_start(self, far: Far) -> None:
        """A new daemon that sends a name of the old one starts nothing."""
        old = await far.open(epoch=1)
        job = request(f"echo ran >> {far.work}/ran")
        await send(old, job)
        await seen(old, job.job, JobState.ENDED)
        await far.abandon(old)
        new = await far.open(epoch=2)
        assert answers(await send(new, job)) == [Answer.ACCEPTED]
        assert (await seen(new, job.job, JobState.ENDED)).exit_code == 0
        assert (far.work / "ran").read_text() == "ran\n"

    async def test_live_jobs_that_nobody_expects_are_named(self, far: Far) -> None:
        """A first look of a new daemon names live jobs of this instance that its ledger does not know, and leaves them alone."""
        old = await far.open(epoch=1)
        await send(old, request(f"until [ -e {far.work}/go ]; do sleep 0.02; done", task="stray"), request("sleep 1000", task="known"))
        for task in ("stray", "known"):
            await started(old, name(task))
        await far.abandon(old)
        new = await far.open(epoch=2)
        snapshot = await look(new, name("known"))
        assert snapshot.unexpected == (name("stray"),)
        assert snapshot.facts[name("stray")].state is JobState.RUNNING
        (far.work / "go").touch()
        await seen(new, name("stray"), JobState.ENDED)
        assert (await look(new, name("known"))).unexpected == ()
        await end(new, name("known"), kill=True)
        await seen(new, name("known"), JobState.ENDED)

    async def test_unreachable_is_not_empty(self, far: Far) -> None:
        """While the far side cannot be asked a look raises Unreachable; afterwards everything is there as before."""
        backend = await far.open()
        await send(backend, request(f"until [ -e {far.work}/go ]; do sleep 0.02; done"))
        await started(backend, name())
        await far.cut()
        try:
            with pytest.raises(Unreachable):
                await look(backend, name())
        finally:
            await far.mend()
        assert (await look(backend, name())).facts[name()].state is JobState.RUNNING
        (far.work / "go").touch()
        assert (await seen(backend, name(), JobState.ENDED)).exit_code == 0

    async def test_nothing_new_is_the_same_object(self, far: Far) -> None:
        """While nothing changes about a job, looks hand out the same fact object: running, ended, fenced."""
        backend = await far.open()
        await send(backend, request("sleep 1000", task="a"), request("true", task="b"))
        await end(backend, name("c"), kill=False)
        await started(backend, name("a"))
        await seen(backend, name("b"), JobState.ENDED)
        await seen(backend, name("c"), JobState.FENCED)
        jobs = [name(task) for task in "abc"]
        before, after = await look(backend, *jobs), await look(backend, *jobs)
        assert [before.facts[job] is after.facts[job] for job in jobs] == [True] * 3
        assert before.facts is not after.facts
        await end(backend, name("a"), kill=True)
        await seen(backend, name("a"), JobState.ENDED)
        assert before.facts[name("a")].state is JobState.RUNNING

    async def test_an_environment_is_literal(self, far: Far) -> None:
        """Values reach the command as they are; nothing in them executes; `${NAME}` means the far side's value; exports win over init."""
        backend = await far.open()
        env = (
            ("ODD", "a'b\"c $HOME `id` $(touch x)\n\\ *"),
            ("UNDER_HOME", "${HOME}/x"),
            ("UNSET", "[${NO_SUCH_NAME}]"),
            ("WINS", "export"),
        )
        command = f'printf "%s\\0" "$ODD" "$UNDER_HOME" "$UNSET" "$WINS" "$FROM_INIT" > {far.work}/values'
        await send(backend, request(command, env=env, init="export FROM_INIT=yes WINS=init"))
        assert (await seen(backend, name(), JobState.ENDED)).exit_code == 0
        values = (far.work / "values").read_text().split("\0")[:-1]
        assert values == [env[0][1], f"{far.home}/x", "[]", "export", "yes"]

    async def test_a_failing_part_of_a_pipe_fails_the_command(self, far: Far) -> None:
        """As in ScriptHut: `pipefail` is on, `errexit` is off."""
        backend = await far.open()
        await send(backend, request("false; true", task="a"), request("false | true", task="b"))
        assert (await seen(backend, name("a"), JobState.ENDED)).exit_code == 0
        assert (await seen(backend, name("b"), JobState.ENDED)).exit_code == 1

    async def test_a_command_that_bash_cannot_parse(self, far: Far) -> None:
        """A command with a syntax error ends with an exit record like any other that failed."""
        backend = await far.open()
        await send(backend, request("if true; then echo '"))
        fact = await seen(backend, name(), JobState.ENDED)
        assert (fact.exit_code, fact.cause) == (2, Cause.EXIT)

    async def test_output_is_read_by_range(self, far: Far) -> None:
        """Standard output and error, and files of the task, are read whole or in part; a file that is not there has no data."""
        backend = await far.open()
        (far.work / "data").write_text("0123456789")
        await send(backend, request("echo out; echo err >&2", working_dir=str(far.work)))
        await seen(backend, name(), JobState.ENDED)

        async def read(path: str, **fields: Any) -> tuple[bytes | None, int]:
            answer = await backend.fetch(FileRequest(name(), path, working_dir=str(far.work), **fields))
            return answer.data, answer.size

        assert await read("out") == (b"out\n", 4)
        assert await read("err") == (b"err\n", 4)
        assert await read("data", offset=2, bytes_max=3) == (b"234", 10)
        assert await read(str(far.work / "data"), offset=-4) == (b"6789", 10)
        assert await read("data", offset=99) == (b"", 10)
        assert await read("none") == (None, 0)

    async def test_what_is_no_plain_file_is_not_opened(self, far: Far) -> None:
        """A pipe, a device or a folder is a problem in words, at once."""
        backend = await far.open()
        os.mkfifo(far.work / "pipe")
        for path in (str(far.work / "pipe"), "/dev/zero", str(far.work), "\0"):
            answer = await backend.fetch(FileRequest(name(), path))
            assert answer.data is None and answer.problem != ""

    async def test_names_that_are_no_job_names(self, far: Far) -> None:
        """A name that is no job name touches no file: it is refused, unknown, or a problem."""
        backend = await far.open()
        for odd in ("../../etc/passwd", "x", "", f"{RUN}.t.1/../../x", "0" * 300):
            [receipt] = await backend.submit([JobRequest(job=odd, run=RUN, task="t", command="true")])
            assert receipt.answer is Answer.REFUSED
            assert (await end(backend, odd, kill=True)).answer is Answer.UNKNOWN
            assert (await backend.fetch(FileRequest(odd, "out"))).problem != ""

    async def test_many_at_once(self, far: Far) -> None:
        """A batch of a hundred comes back with one receipt each, and every job runs once."""
        backend = await far.open()
        jobs = [request(f"echo {number} >> {far.work}/ran", task=f"t{number}") for number in range(100)]
        assert answers(await send(backend, *jobs)) == [Answer.ACCEPTED] * 100
        deadline = monotonic() + DEADLINE_S
        while True:
            facts = (await look(backend, *(job.job for job in jobs))).facts
            if all(facts[job.job].state is JobState.ENDED for job in jobs):
                break
            assert monotonic() < deadline
            await asyncio.sleep(0.05)
        assert {fact.exit_code for fact in facts.values()} == {0}
        assert sorted(map(int, (far.work / "ran").read_text().split())) == list(range(100))

    async def test_resources_are_plain_data(self, far: Far) -> None:
        """A job with resources of its own is accepted where they make sense."""
        backend = await far.open()
        assert answers(await send(backend, request("true", resources=Resources(cpus=1, memory_mb=64, time_limit_s=60)))) == [
            Answer.ACCEPTED
        ]
        assert (await seen(backend, name(), JobState.ENDED)).exit_code == 0
