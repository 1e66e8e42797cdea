"""A real Slurm over a longer time: what ended jobs used, what is cleaned away and what is left, what `recover` finds, requeued jobs, and a
daemon that sits on the login node itself."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.backends.accounts import Rhythm
from reconciler.backends.base import FENCED_EXIT, CancelRequest, JobRequest, Trace
from reconciler.backends.cluster import ClusterBackend, ClusterPlace
from reconciler.backends.far_marks import claim_line
from reconciler.backends.marks import Owner
from reconciler.backends.slurm import Slurm
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import Cause, Resources
from reconciler.core.observed import Answer, Expected, JobFact, JobState, Snapshot, Usage
from reconciler.errors import Unreachable
from reconciler.hosts.base import Host
from reconciler.hosts.local import LocalHost
from tests.backends.conformance import Conformance
from tests.backends.faults import DEADLINE_S, RUN, SMALL, Login, job, login, request, until
from tests.backends.test_slurm import OnSlurm
from tests.backends.test_slurm import work as work
from tests.clusters.cluster import Cluster

HOLD = ("--hold",)
HELD = replace(SMALL, scheduler_args=HOLD)


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


async def look(backend: ClusterBackend, *jobs: str) -> Snapshot:
    now = utc_now()
    return await backend.look({each: Expected(each, "", now) for each in jobs})


async def looks_until(backend: ClusterBackend, true: Callable[[Snapshot], bool], *jobs: str) -> Snapshot:
    """Look until a snapshot is as wanted."""
    deadline = monotonic() + DEADLINE_S
    while True:
        snapshot = await look(backend, *jobs)
        if true(snapshot):
            return snapshot
        assert monotonic() < deadline, snapshot


async def seen(backend: ClusterBackend, name: str, state: JobState, restarts: int = 0) -> JobFact:
    """The fact of a task's first job once it is in `state`."""

    def is_so(snapshot: Snapshot) -> bool:
        fact = snapshot.facts.get(job(name))
        return fact is not None and (fact.state, fact.restarts) == (state, restarts)

    return (await looks_until(backend, is_so, job(name))).facts[job(name)]


async def sent(backend: ClusterBackend, *jobs: JobRequest) -> dict[str, str]:
    """The ids by job; all were accepted."""
    receipts = await backend.submit(jobs)
    assert {receipt.answer for receipt in receipts} == {Answer.ACCEPTED}, [receipt.reason for receipt in receipts]
    return {receipt.job: receipt.job_id for receipt in receipts}


async def end_all(backend: ClusterBackend, names: Sequence[str]) -> None:
    """Wait for the end of these jobs, and forget them, as a controller does: some at each look."""
    left = list(names)
    deadline = monotonic() + 2 * DEADLINE_S
    while left:
        facts = (await look(backend, *left)).facts
        if over := [each for each in left if each in facts and facts[each].state is JobState.ENDED]:
            await backend.forget(over)
            left = [each for each in left if each not in over]
        assert monotonic() < deadline, left


# What ended jobs used


@pytest.mark.real("slurm-accounting")
async def test_usage_is_collected_in_batches(slurm_accounting: Cluster, shared_folder: Path) -> None:
    """What ended jobs used is told once for each, of elements of arrays too, and the accounting of 200 of them is asked a few times."""
    async with login(slurm_accounting, shared_folder) as there:
        backend = await there.backend("auto")
        await look(backend)
        names = [f"t{number}" for number in range(200)]
        busy = request("busy", "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done", requeue=True)  # so it is no element of the array
        ids = await sent(backend, *(request(name) for name in names), busy)
        assert len({each.split("_")[0] for each in ids.values()}) == 2
        await looks_until(backend, lambda each: len(each.facts) == len(ids) and all(map(_over, each.facts.values())), *ids)
        await backend.forget([*ids])
        told: Counter[str] = Counter()
        usage: dict[str, Usage] = {}

        def all_told(snapshot: Snapshot) -> bool:
            told.update(snapshot.usage.keys())
            usage.update(snapshot.usage)
            return usage.keys() == ids.keys()

        await looks_until(backend, all_told)
        assert set(told.values()) == {1}
        assert len(there.wrappers.calls("sacct")) <= 3
        used = usage[busy.job]
        assert used.elapsed_s is not None and 0 <= used.elapsed_s < 60
        assert used.cpu_s is not None and 0 < used.cpu_s < 60
        assert {each.elapsed_s is not None and each.cpu_s is not None for each in usage.values()} == {True}
        asked = there.wrappers.calls("sacct")
        for _ in range(3):
            assert (await look(backend)).usage == {}
        assert there.wrappers.calls("sacct") == asked


@pytest.mark.real("slurm")
async def test_without_accounting_none_is_asked(there: Login) -> None:
    """Without slurmdbd sacct is never run: not for what was used, and not for why a job ended."""
    backend = await there.backend()
    await sent(backend, request("good"), request("bad", "exit 3"))
    await end_all(backend, [job("good"), job("bad")])
    began = monotonic()
    snapshot = await looks_until(backend, lambda _: monotonic() > began + 2)
    assert (snapshot.usage, snapshot.about["accounting"]) == ({}, "no")
    assert there.wrappers.calls("sacct", "sacctmgr") == []


@pytest.mark.real("slurm-accounting")
async def test_usage_while_the_database_is_down(slurm_accounting_alone: Cluster, shared_folder: Path) -> None:
    """While slurmdbd is down jobs run, end and are told as ever, `check` says what is wrong, and what they used is told when it is back."""
    async with login(slurm_accounting_alone, shared_folder) as there:
        backend = await there.backend(rhythm=Rhythm(first_s=0.5, between_s=1.0, silent_max_s=1.0))
        await look(backend)
        slurm_accounting_alone.control("term", "slurmdbd")
        await sent(backend, request("a"), request("b", "exit 3"))
        facts = (await looks_until(backend, lambda each: _ended(each, "a", "b"), job("a"), job("b"))).facts
        assert [(facts[job(name)].exit_code, facts[job(name)].cause) for name in "ab"] == [(0, None), (3, Cause.EXIT)]
        await backend.forget([job("a"), job("b")])
        await looks_until(backend, lambda _: len(there.wrappers.calls("sacct")) >= 2)
        told = {each.name: each for each in await backend.check()}
        assert [name for name, each in told.items() if not each.ok] == ["accounting"]
        assert "the accounting (slurmdbd) does not answer" in told["accounting"].message
        slurm_accounting_alone.control("start", "slurmdbd")
        usage: dict[str, Usage] = {}
        await looks_until(backend, lambda each: not usage.update(each.usage) and usage.keys() == {job("a"), job("b")})


def _ended(snapshot: Snapshot, *names: str) -> bool:
    return all(job(name) in snapshot.facts and snapshot.facts[job(name)].state is JobState.ENDED for name in names)


# The spool


def in_run(run: str, name: str, command: str = "true", resources: Resources = SMALL) -> JobRequest:
    return replace(request(name, command, resources=resources), job=f"{run}.{name}.1", run=run)


OVER, ARRAY, ALIVE, QUEUED = ("a" * 12, "b" * 12, "c" * 12, "d" * 12)


@pytest.mark.real("slurm")
async def test_ended_runs_are_cleaned_away(there: Login) -> None:
    """Cleaning removes folders, arrays and mail of runs that are over and of no others: not where a job runs, nor where elements of an
    array wait; then it is said that nothing is left, also of runs of which nothing ever was."""
    backend = await there.backend("auto", scheduler_args=HOLD)
    await look(backend)
    ended = [in_run(OVER, "single"), *(in_run(ARRAY, f"t{number}") for number in range(3))]
    ids = await sent(backend, *ended)
    names = [each.job for each in ended]
    await looks_until(backend, lambda each: len(each.facts) == 4 and all(map(_over, each.facts.values())), *names)
    await gone_from_queue(there, *ids.values())
    alive = await sent(backend, in_run(ALIVE, "a", there.held("a")))
    await sent(backend, in_run(QUEUED, "a", resources=HELD), in_run(QUEUED, "b", resources=HELD))
    await until(lambda: there.ran["a"] == 1, "it runs")
    before = sorted(each.name for each in (there.root / "runs").iterdir())
    assert sorted(await backend.clean([OVER, ARRAY, ALIVE, QUEUED, "e" * 12])) == [OVER, ARRAY, "e" * 12]
    assert (before, sorted(each.name for each in (there.root / "runs").iterdir())) == ([OVER, ARRAY, ALIVE, QUEUED],) * 2
    assert {run: [each.name for each in (there.root / "runs" / run).iterdir()] for run in (OVER, ARRAY)} == {
        OVER: ["closed"], ARRAY: ["closed"],
    }  # fmt: skip
    assert len(list((there.root / "runs" / QUEUED).iterdir())) == 3
    assert [each.name for each in (there.root / "exits").iterdir()] == []
    there.release("a")
    await looks_until(backend, lambda each: f"{ALIVE}.a.1" in each.facts and _over(each.facts[f"{ALIVE}.a.1"]), f"{ALIVE}.a.1")
    await gone_from_queue(there, *alive.values())
    assert await backend.clean([ALIVE]) == [ALIVE]
    assert [each.name for each in (there.root / "runs" / ALIVE).iterdir()] == ["closed"]


async def gone_from_queue(there: Login, *ids: str) -> None:
    """Slurm lets go of a job some moments after it has ended."""
    await until(lambda: not {row[0] for row in there.jobs()} & set(ids), "they are gone from the queue")


def _over(fact: JobFact) -> bool:
    return fact.state is JobState.ENDED


@pytest.mark.real("slurm")
@pytest.mark.parametrize("array", ["never", "auto"])
async def test_a_late_job_of_a_cleaned_run(there: Login, array: str) -> None:
    """A job that turns up when its run was cleaned away leaves with the reserved code, did nothing and left nothing; nor can any more of
    that run be sent."""
    backend = await there.backend(array)
    await look(backend)
    names = [job("a"), job("b")]
    ids = await sent(backend, request("a", there.marked("a")), request("b", there.marked("b")))
    await end_all(backend, names)
    scripts = [path for path in (there.root / "runs" / RUN).glob("*/script") if array == "never" or path.parent.name.startswith("+")]
    copies = []
    for number, path in enumerate(sorted(scripts)):
        copies.append(there.work / f"script.{number}")
        shutil.copy(path, copies[-1])
        copies[-1].chmod(0o644)
    await gone_from_queue(there, *ids.values())
    assert await backend.clean([RUN]) == [RUN]
    index = ["--array=0"] if array == "auto" else []
    for copy in copies:
        words = ["sbatch", "-W", *index, "--chdir=/", "--output=/dev/null", "--mem=16", str(copy)]
        assert there.cluster.run(words).returncode == FENCED_EXIT
    assert [each.name for each in (there.root / "runs" / RUN).iterdir()] == ["closed"]
    [receipt] = await backend.submit([request("c", there.marked("c"))])
    assert (receipt.answer, "cleaned away" in receipt.reason) == (Answer.REFUSED, True)
    assert there.ran == Counter({"a": 1, "b": 1})


@pytest.mark.real("slurm")
async def test_the_size_of_a_spool_is_told(there: Login) -> None:
    """How much the spool holds is in what is told of a backend."""
    backend = await there.backend()
    await sent(backend, request("a", "head -c 3000000 /dev/zero"))
    await until((there.folder("a") / "exit").exists, "it has ended")
    told = await looks_until(await there.backend(), lambda each: "spool_bytes" in each.about)
    assert 3_000_000 <= int(told.about["spool_bytes"]) < 4_000_000


@pytest.mark.real("slurm")
async def test_mail_that_nobody_expects(there: Login) -> None:
    """Mail that nobody expects in two looks is taken away, so that looks do not read it for ever; who asks by name is told all the same,
    at once. Files of others are left alone."""
    backend = await there.backend()
    ids = await sent(backend, request("a", "exit 3"), request("b", "exit 4"))
    exits = there.root / "exits"
    await until(lambda: len(list(exits.iterdir())) == 2, "both have ended")
    (exits / "notes of somebody").write_text("hello\n")
    await look(backend, job("a"))
    assert len(list(exits.iterdir())) == 3
    await look(backend, job("a"))
    assert sorted(each.name for each in exits.iterdir()) == [job("a"), "notes of somebody"]
    fact = await seen(backend, "b", JobState.ENDED)
    assert (fact.exit_code, fact.job_id) == (4, ids[job("b")])
    after = await there.backend()
    await look(after)
    await look(after)
    assert [each.name for each in exits.iterdir()] == ["notes of somebody"]
    facts = (await looks_until(after, lambda each: _ended(each, "a", "b"), job("a"), job("b"))).facts
    assert [facts[job(name)].exit_code for name in "ab"] == [3, 4]


# What recover finds


@pytest.mark.real("slurm")
async def test_traces(there: Login) -> None:
    """A spool tells of each job whether a submission took its name and what became of it: running, waiting, ended well and badly, fenced,
    vanished, in doubt, refused, never sent; garbage is passed over; it needs no ownership."""
    backend = await there.backend("auto", scheduler_args=HOLD)
    await look(backend)
    waits = [request(name, resources=HELD) for name in ("w0", "w1")]
    running = request("runs", there.held("runs"))
    ids = await sent(backend, running, *waits, request("good"), request("bad", "exit 3"))
    [refused] = await backend.submit([request("refused", resources=Resources(partition="none"))])
    assert refused.answer is Answer.REFUSED
    await backend.cancel([CancelRequest(job("fenced"), "", False)])
    lines = {"vanished": ["sent 1 end", "id 1 999999 end"], "doubt": ["sent 1 end"], "claimed": []}
    for name, said in lines.items():
        there.folder(name).mkdir(parents=True)
        (there.folder(name) / "claim.1").write_text("\n".join([claim_line(Owner("ledger-1", 1), "step", "", 0), *said, ""]))
    (there.folder("vanished") / "start.0").write_text("start 1 job 999999 0 12.5 end\n")
    there.folder("empty").mkdir()
    (there.root / "runs" / RUN / "what is this.1").mkdir()
    (there.root / "runs" / "x.y").write_text("garbage")
    (there.folder("doubt") / "exit").write_text("garbage \xff")
    shutil.rmtree(there.folder("empty"))
    there.folder("empty").mkdir()
    await looks_until(backend, lambda each: _ended(each, "good", "bad"), job("good"), job("bad"))
    await until(lambda: there.ran["runs"] == 1, "it runs")

    stranger = await _stranger(there)
    found = {each.job.split(".")[1]: each for each in await stranger.traces()}
    assert {name: _told(each) for name, each in found.items()} == {
        "runs": (True, JobState.RUNNING, ids[running.job], True),
        "w0": (True, JobState.QUEUED, ids[job("w0")], False),
        "w1": (True, JobState.QUEUED, ids[job("w1")], False),
        "good": (True, JobState.ENDED, ids[job("good")], True),
        "bad": (True, JobState.ENDED, ids[job("bad")], True),
        "fenced": (False, JobState.FENCED, "", False),
        "vanished": (True, JobState.UNKNOWN, "999999", True),
        "doubt": (True, None, "", False),
        "claimed": (True, None, "", False),
        "refused": (False, None, "", False),
        "empty": (False, None, "", False),
    }
    assert [fact.exit_code for name in ("good", "bad") if (fact := found[name].fact)] == [0, 3]
    there.release("runs")


async def _stranger(there: Login, host: Host | None = None) -> ClusterBackend:
    """A backend of nobody, which has taken nothing, as a verb makes it."""
    place = ClusterPlace(str(there.spool), there.instance)
    return there.keep(ClusterBackend("hpc", host or there.host(), Slurm(), place, Owner("nobody", 0), lambda: None))


def _told(trace: Trace) -> tuple[bool, JobState | None, str, bool]:
    fact = trace.fact
    return (trace.claimed, fact.state, fact.job_id, fact.started) if fact else (trace.claimed, None, "", False)


@pytest.mark.real("slurm")
async def test_traces_of_what_cannot_be_asked(there: Login) -> None:
    """No traces is not the answer of a cluster that cannot be reached, nor of one whose queue cannot be read; a spool that nobody has
    taken holds nothing."""
    stranger = await _stranger(there)
    assert (await stranger.traces(), await stranger.owner_there()) == ([], None)
    backend = await there.backend()
    assert await stranger.owner_there() == Owner("ledger-1", 1)
    await sent(backend, request("a"))
    there.wrappers.fault("squeue", "exit 1")
    with pytest.raises(Unreachable, match="asked for its queue: the command ended with code 1"):
        await stranger.traces()
    there.wrappers.heal()
    there.door.close()
    with pytest.raises(Unreachable, match="nothing listens there"):
        await (await _stranger(there)).traces()


# Requeued jobs


@pytest.fixture
async def again(there: Login) -> tuple[ClusterBackend, str]:
    """A job that may be requeued and runs; its command waits for `go` only the first time."""
    backend = await there.backend()
    command = there.held("a", f"[ ! -e {there.work}/linger ] || sleep 1000")
    ids = await sent(backend, request("a", command, requeue=True))
    await seen(backend, "a", JobState.RUNNING)
    await until(lambda: there.ran["a"] == 1, "it runs")
    return backend, ids[job("a")]


@pytest.mark.real("slurm")
async def test_a_requeued_job_runs_again(there: Login, again: tuple[ClusterBackend, str]) -> None:
    """A job with `requeue: true` that is put back waits and runs again under its name and id, with a start record of its own; its end is
    that of the second."""
    backend, job_id = again
    there.scontrol("requeue", job_id)
    waits = await seen(backend, "a", JobState.QUEUED, restarts=0)
    assert (waits.job_id, waits.started) == (job_id, True)
    assert "a pause of about two minutes after it was put back" in waits.reason
    assert (await backend.submit([request("a", requeue=True)]))[0].answer is Answer.ACCEPTED
    await until(lambda: bool(there.start_now(job_id)) or there.ran["a"] == 2, "it runs again")
    second = await seen(backend, "a", JobState.RUNNING, restarts=1)
    assert (second.job_id, second.started) == (job_id, True)
    there.release("a")
    fact = await seen(backend, "a", JobState.ENDED, restarts=1)
    assert (fact.exit_code, fact.cause, fact.job_id) == (0, None, job_id)
    starts = [(there.folder("a") / f"start.{count}").read_text().split()[:5] for count in (0, 1)]
    assert starts == [["start", "1", "job", job_id, "0"], ["start", "1", "job", job_id, "1"]]


@pytest.mark.real("slurm")
async def test_what_may_not_be_requeued(there: Login) -> None:
    """Without `requeue: true` Slurm refuses to put a job back, and it goes on."""
    backend = await there.backend()
    ids = await sent(backend, request("a", there.held("a")))
    await until(lambda: there.ran["a"] == 1, "it runs")
    done = there.cluster.run(["scontrol", "requeue", ids[job("a")]])
    assert (done.returncode, "disabled" in done.stderr) == (1, True)
    there.release("a")
    assert (await seen(backend, "a", JobState.ENDED)).exit_code == 0
    assert there.ran["a"] == 1


@pytest.mark.real("slurm")
@pytest.mark.parametrize("deaf", [False, True])
async def test_a_requeued_job_that_is_cancelled(there: Login, again: tuple[ClusterBackend, str], deaf: bool) -> None:
    """A job that waits after it was put back and is cancelled never runs again, even if Slurm does not take the cancellation."""
    backend, job_id = again
    there.scontrol("requeue", job_id)
    await seen(backend, "a", JobState.QUEUED)
    if deaf:
        there.wrappers.fault("scancel", "exit 0")
    [receipt] = await backend.cancel([CancelRequest(job("a"), job_id, True)])
    assert receipt.answer is Answer.ENDING
    if deaf:
        await until(lambda: bool(there.start_now(job_id)) or (there.folder("a") / "fenced").exists(), "it has come and gone")
    fact = (await looks_until(backend, lambda each: _ended(each, "a"), job("a"))).facts[job("a")]
    assert (fact.cause, fact.reason) == (Cause.CANCELLED, "ended on request")
    assert there.ran["a"] == 1


@pytest.mark.real("slurm")
async def test_a_job_that_is_requeued_after_its_end(there: Login, again: tuple[ClusterBackend, str]) -> None:
    """A job that is put back after it wrote its exit record leaves when it comes again; its end stays what it was, and nobody calls it
    alive."""
    backend, job_id = again
    there.release("a")
    before = await seen(backend, "a", JobState.ENDED)
    await until(lambda: there.cluster.run(["scontrol", "requeue", job_id], "root").returncode == 0, "Slurm puts it back")
    assert await seen(backend, "a", JobState.ENDED) == before
    await until(lambda: bool(there.start_now(job_id)) or (there.folder("a") / "fenced").exists(), "it has come and gone")
    after = await there.backend()
    fact = await seen(after, "a", JobState.ENDED)
    assert (fact.exit_code, fact.cause, fact.restarts) == (0, None, 0)
    assert (await look(after)).unexpected == ()
    assert there.ran["a"] == 1


# A daemon on the login node


class OnTheLoginNode(OnSlurm):
    """As OnSlurm, with programs of this machine, by whoever runs the tests."""

    def host(self) -> Host:
        return LocalHost()

    @property
    def home(self) -> str:
        return str(Path.home())


@pytest.mark.real("slurm")
class TestOnTheLoginNode:
    """What every backend owes the core, the main part of it, without ssh (`host: local`)."""

    test_a_job_runs_and_its_end_is_told = Conformance.test_a_job_runs_and_its_end_is_told
    test_a_name_is_sent_twice = Conformance.test_a_name_is_sent_twice
    test_a_running_job_is_cancelled = Conformance.test_a_running_job_is_cancelled
    test_a_restart_finds_running_jobs = Conformance.test_a_restart_finds_running_jobs
    test_an_environment_is_literal = Conformance.test_an_environment_is_literal

    @pytest.fixture
    async def far(self, slurm: Cluster, work: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OnTheLoginNode]:
        monkeypatch.setenv("SLURM_CONF", str(slurm.slurm_conf))
        far = OnTheLoginNode(slurm, work, "auto")
        await far.relay.open()
        yield far
        await far.end()

