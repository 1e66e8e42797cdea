"""A real Slurm for people: its queue, what it has, why a job waits, what `check` says when all is well and when something is not."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.backends.base import Check, FileRequest, Inspector
from reconciler.backends.cluster import ClusterBackend
from reconciler.backends.front import Front
from reconciler.backends.slurm import Slurm
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import Resources
from reconciler.core.observed import Answer, Expected, JobState, Snapshot
from reconciler.errors import Unreachable
from reconciler.hosts.base import Host, Outcome
from tests.backends.faults import DEADLINE_S, Login, job, login, request, until
from tests.clusters.cluster import Cluster

ALLOWED = ("--begin", "--dependency", "--hold")
HELD = Resources(memory_mb=16, scheduler_args=("--hold",))
ALONE = Resources(scheduler_args=("--hold",))
GOOD = [
    "host", "clock", "spool", "commands", "scheduler", "accounting", "limits", "version", "arrays", "memory", "partition limits",
    "settings", "comment", "partitions",
]  # fmt: skip


@pytest.fixture
async def there(slurm: Cluster, shared_folder: Path) -> AsyncIterator[Login]:
    async with login(slurm, shared_folder) as made:
        yield made


@dataclass(frozen=True)
class Otherwise:
    """A host on which this shell text goes before every program."""

    host: Host
    before: str

    @property
    def where(self) -> str:
        return self.host.where

    async def run(self, program: str, timeout_s: float) -> Outcome:
        return await self.host.run(f"{self.before}\n{program}", timeout_s)

    async def close(self) -> None:
        await self.host.close()


@asynccontextmanager
async def front(there: Login, host: Host | None = None, before: str = "", spool: str = "") -> AsyncIterator[Inspector]:
    """The cluster for people, as a verb has it: it owns nothing. `before` goes before every program."""
    reached = Otherwise(host or there.host(), before)
    try:
        yield Front(reached, Slurm(), spool or str(there.spool), there.instance)
    finally:
        await reached.close()


async def checked(there: Login, before: str = "", spool: str = "") -> dict[str, Check]:
    """What `check` says, by name, where `before` goes before every program."""
    async with front(there, before=before, spool=spool) as people:
        found = await people.check()
    told = {each.name: each for each in found}
    assert len(told) == len(found)
    return told


def wrong(told: dict[str, Check]) -> list[str]:
    return [name for name, each in told.items() if not each.ok]


async def look(backend: ClusterBackend, *names: str) -> Snapshot:
    now = utc_now()
    return await backend.look({job(name): Expected(job(name), "", now) for name in names})


async def sent(backend: ClusterBackend, *jobs: object) -> dict[str, str]:
    """The ids by task; all were accepted. A look before it tells the backend how large an array may be."""
    await look(backend)
    receipts = await backend.submit(jobs)  # type: ignore[arg-type]
    assert {receipt.answer for receipt in receipts} == {Answer.ACCEPTED}, [receipt.reason for receipt in receipts]
    return {receipt.job.split(".")[1]: receipt.job_id for receipt in receipts}


def submit(there: Login, name: str, user: str, *options: str) -> str:
    """Somebody's own job, held; its id."""
    words = ["sbatch", "--parsable", "--hold", "--chdir=/", "--output=/dev/null", "--mem=16", f"--job-name={name}", *options, "--wrap=true"]
    done = there.cluster.run(words, user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The queue


@pytest.mark.real("slurm")
async def test_the_queue_shows_whose_each_job_is(there: Login) -> None:
    """Our jobs go by our names, elements of arrays too; the user's own jobs and other users' are shown as they are, also one that another
    user gave a name of ours; none of these is ever touched."""
    backend = await there.backend("auto", scheduler_args=ALLOWED)
    ids = await sent(backend, *(request(name, resources=HELD) for name in "abc"), request("single", resources=ALONE))
    other = there.cluster.other_user
    strangers = {
        submit(there, "my own", there.cluster.user): "my own",
        submit(there, there.namer.single(job("single")), other): there.namer.single(job("single")),
    }
    array = submit(there, "theirs", other, "--array=3-5")
    strangers |= {f"{array}_{index}": "theirs" for index in (3, 4, 5)}
    try:
        rows = {row.job_id: row for row in await backend.queue()}
        assert {ids[name]: (job(name), True) for name in ("a", "b", "c", "single")} == {
            job_id: (row.name, True) for job_id, row in rows.items() if row.ours
        }
        assert {job_id: rows[job_id].name for job_id in strangers} == strangers
        assert {rows[job_id].user for job_id in strangers} == {there.cluster.user, other}
        assert rows[ids["a"]].state == "PENDING" and "`scontrol release` lets it go" in rows[ids["a"]].reason
        deadline = monotonic() + DEADLINE_S
        while sorted((await look(backend)).unexpected) != sorted(job(name) for name in ("a", "b", "c", "single")):
            assert monotonic() < deadline
        await backend.check()
        left = {each.id for each in there.cluster.jobs()}
        assert strangers.keys() | set(ids.values()) <= left
    finally:
        there.cluster.run(["scancel", *{each.split("_")[0] for each in strangers}], "root")


@pytest.mark.real("slurm")
async def test_the_queue_of_a_scheduler_that_does_not_answer(there: Login) -> None:
    """An unreachable queue is no empty one: it raises, in words."""
    there.wrappers.fault("squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1')
    async with front(there) as people:
        for attempt in (people.queue(), people.explain([job("a")])):
            with pytest.raises(Unreachable, match="slurmctld is not running, or cannot be reached"):
                await attempt


@pytest.mark.real("slurm")
async def test_capacity_is_remembered(there: Login) -> None:
    """Partitions, limits and free processors, as the cluster has them; asked again within two minutes they cost the scheduler nothing."""
    backend = await there.backend()
    found = await backend.capacity()
    assert found.slots == 256 and found.free is not None and 0 <= found.free <= 256
    assert [line.split(":")[0] for line in found.partitions] == ["main (default)", "short"]
    assert found.limits == ("elements of one array: 1001", "jobs that the scheduler holds, of everybody: 20000")
    before, counted = there.wrappers.calls(), backend.calls.total
    assert await backend.capacity() is found
    assert (there.wrappers.calls(), backend.calls.total) == (before, counted)


# Why a job waits


@pytest.fixture
def looks_ahead(slurm_alone: Cluster) -> Iterator[Cluster]:
    """A Slurm that estimates starts every second; by itself it does every 30, and finishes the 30 before it takes in that it need not."""
    before = slurm_alone.slurm_conf.read_text()
    slurm_alone.slurm_conf.write_text(before.replace("\nSchedulerParameters=", "\nSchedulerParameters=bf_interval=1,"))
    slurm_alone.control("term")
    slurm_alone.control("start")
    yield slurm_alone
    slurm_alone.slurm_conf.write_text(before)
    slurm_alone.run(["scontrol", "reconfigure"], "root")


@pytest.mark.real("slurm")
async def test_why_a_job_waits(looks_ahead: Cluster, shared_folder: Path) -> None:
    """Each kind of waiting is told in words, by looks and by `explain`, with the start that Slurm estimates where it does; what never
    starts by itself says so, and the cure."""
    async with login(looks_ahead, shared_folder) as there:
        backend = await there.backend(scheduler_args=ALLOWED)
        whole = Resources(nodes=4, cpus=64, memory_mb=16, time_limit_s=600)
        await sent(backend, request("full", there.held("full"), resources=whole))
        await until(lambda: there.ran["full"] == 1, "it runs")
        arguments = {
            "begin": ("--begin=now+3600",), "held": ("--hold",), "locked": ("--hold",), "resources": (), "priority": (),
        }  # fmt: skip
        asked = {name: Resources(memory_mb=16, time_limit_s=60, scheduler_args=words) for name, words in arguments.items()}
        asked["long"] = Resources(memory_mb=16, partition="short", time_limit_s=1200)
        ids = await sent(backend, *(request(name, resources=each) for name, each in asked.items()))
        after = Resources(memory_mb=16, scheduler_args=(f"--dependency=afterok:{ids['resources']}",))
        ids |= await sent(backend, request("after", resources=after))
        there.scontrol("hold", ids["locked"])  # by root: an administrator's
        names = [*ids]

        deadline = monotonic() + DEADLINE_S
        while True:
            told = await backend.explain([job(name) for name in names])
            facts = (await look(backend, *names, "full")).facts
            waiting = [job(name) for name in names]
            both = all(each in facts and each in told for each in waiting)  # a peek shows nothing new of the queue
            same = both and all(facts[each].reason == told[each].reason for each in waiting)
            if same and told[job("resources")].estimated_start and told[job("priority")].estimated_start:
                break
            assert monotonic() < deadline, (facts, told)
        assert {facts[job(name)].state for name in names} == {JobState.QUEUED}
        assert {name: told[job(name)].reason for name in names} == {
            "resources": "waits for free processors, memory or nodes (Slurm: Resources)",
            "priority": "waits for jobs of higher priority (Slurm: Priority)",
            "begin": "waits until Slurm may start it: its begin time, or a pause of about two minutes after it was put back into the queue "
            "(Slurm: BeginTime)",
            "after": "waits for another job that it depends on (Slurm: Dependency)",
            "held": "will not start by itself: its owner holds it (Slurm: JobHeldUser); `scontrol release` lets it go, `scancel` ends it",
            "locked": "will not start by itself: an administrator holds it (Slurm: JobHeldAdmin); ask the people who run the cluster; "
            "`scancel` ends it",
            "long": "will not start by itself: its time limit is above that of its partition (Slurm: PartitionTimeLimit); ask for a "
            "shorter `time_limit`, or another `partition`",
        }
        full_ends = (facts[job("full")].started_at or 0.0) + 600
        estimates = {name: told[job(name)].estimated_start for name in names}
        for name in ("resources", "priority"):
            assert estimates[name] == pytest.approx(full_ends, abs=5)
        assert estimates["begin"] == pytest.approx(utc_now() + 3600, abs=30)
        assert {name for name, at in estimates.items() if at is None} == {"after", "held", "locked", "long"}


@pytest.mark.real("slurm")
async def test_why_of_what_does_not_wait(there: Login) -> None:
    """A job that runs says that it does; of one that is not in the queue nothing is said."""
    backend = await there.backend()
    await sent(backend, request("a", there.held("a")))
    await until(lambda: there.ran["a"] == 1, "it runs")
    told = await backend.explain([job("a"), job("b"), "garbage"])
    assert {name: (each.reason, each.estimated_start) for name, each in told.items()} == {job("a"): ("RUNNING", None)}


@pytest.mark.real("slurm")
async def test_an_estimate_is_on_our_clock(there: Login) -> None:
    """When the cluster's clock is an hour ahead, the start that it estimates is told on ours."""
    begin = Resources(memory_mb=16, scheduler_args=("--begin=now+7200",))
    await sent(await there.backend(scheduler_args=ALLOWED), request("a", resources=begin))
    async with front(there, before="date() { /bin/date -d '3600 seconds' \"$@\"; }") as people:
        told = await people.explain([job("a")])
    assert told[job("a")].estimated_start == pytest.approx(utc_now() + 3600, abs=30)


@pytest.mark.real("slurm")
async def test_files_are_read_without_a_daemon(there: Login) -> None:
    """`read` owns nothing: any range of a job's output, whatever a profile prints first; what is not there has no data."""
    backend = await there.backend()
    await sent(backend, request("a", "echo 0123456789"))
    await until((there.folder("a") / "exit").exists, "it has ended")
    async with front(there, before="echo Welcome; echo file 5; printf 'no end of line'") as people:
        read = [
            await people.read(FileRequest(job("a"), path, offset=offset, bytes_max=most))
            for path, offset, most in (("out", 0, 100), ("out", 3, 4), ("out", -4, 100), ("out", 99, 5), ("none", 0, 5))
        ]
    assert [(each.data, each.size) for each in read] == [
        (b"0123456789\n", 11), (b"3456", 11), (b"789\n", 11), (b"", 11), (None, 0),
    ]  # fmt: skip


# check


@pytest.mark.real("slurm")
async def test_check_when_all_is_well(there: Login) -> None:
    """Everything is tried and said, with no job submitted: who and where, clock, spool with its room, commands and where they are, version,
    limits, what jobs may count on, partitions."""
    before = len(there.cluster.jobs(ended=True))
    told = await checked(there)
    assert ([*told], wrong(told)) == (GOOD, [])
    assert told["host"].message.startswith(f"{there.cluster.user}@127.0.0.1:{there.door.port}: {there.cluster.user} on ")
    assert "login shell /bin/bash" in told["host"].message
    assert told["clock"].message == "the same as here"
    assert told["spool"].message.startswith(f"{there.root} belongs to nobody yet; free: ")
    assert told["commands"].message == f"sbatch, squeue, scancel, scontrol, sinfo, sacct, sacctmgr in {there.wrappers.folder}"
    assert told["scheduler"].message == f"Slurm {there.cluster.version} answers"
    assert told["accounting"].message.startswith("none: everything works")
    assert told["limits"].message == "elements of an array: 1001, jobs of everybody: 20000"
    assert told["memory"].message == "ended jobs are remembered for 300 s (MinJobAge)"
    assert "not known while no job of ours is in the queue" in told["comment"].message
    assert told["partitions"].message.startswith("main (default): up; nodes 4; processors 256, idle ")
    assert there.wrappers.calls("sbatch", "scancel") == []
    assert len(there.cluster.jobs(ended=True)) >= before
    assert not there.root.exists()


@pytest.mark.real("slurm-accounting")
async def test_check_with_accounting(slurm_accounting: Cluster, shared_folder: Path) -> None:
    """A database that answers is said, and whether it keeps comments; one that does not is a fault that hurts nothing else."""
    async with login(slurm_accounting, shared_folder) as there:
        told = await checked(there)
        assert ([*told], wrong(told)) == (GOOD, [])
        assert told["accounting"].message == "elapsed time, memory and processor time of ended jobs are collected"
        assert "kept by the accounting" in told["comment"].message
        there.wrappers.fault("sacct", 'echo "sacct: error: Problem talking to the database: Connection refused" >&2; exit 1')
        told = await checked(there)
        assert ([*told], wrong(told)) == (GOOD, ["accounting"])
        assert "the accounting (slurmdbd) does not answer" in told["accounting"].message
        assert "jobs run all the same" in told["accounting"].message


@pytest.mark.real("slurm")
async def test_check_of_comments(there: Login) -> None:
    """Live jobs of ours show whether the comment that we gave them is visible; one that somebody replaced is counted."""
    backend = await there.backend("auto", scheduler_args=ALLOWED)
    ids = await sent(backend, *(request(name, resources=HELD) for name in "ab"), request("c", resources=ALONE))
    submit(there, "my own", there.cluster.user, "--comment=mine")
    assert (await checked(there))["comment"].message == "visible on every job of ours in the queue (2)"  # an array that waits is one row
    there.scontrol("update", f"jobid={ids['c']}", "comment=bought by the site")
    told = (await checked(there))["comment"]
    assert told.ok and told.message.startswith("not visible on 1 of 2 jobs of ours in the queue: something on this cluster replaces it")
    assert "nothing depends on it" in told.message
    there.cluster.run(["scancel", "--name=my own"])


@pytest.mark.real("slurm")
async def test_check_where_a_command_is_missing(there: Login) -> None:
    """A PATH without Slurm's commands is said with what is missing, the PATH, and the cure; nothing is asked that needs them."""
    folder = there.work / "bin"
    folder.mkdir()
    for path in (each for place in ("/bin", "/usr/bin") for each in Path(place).iterdir()):
        if path.name not in ("squeue", "sacct", "scancel") and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    told = await checked(there, f"PATH={folder}")
    assert ([*told], wrong(told)) == (["host", "clock", "spool", "commands"], ["commands"])
    assert told["commands"].message.startswith(f"squeue, scancel not found on PATH ({folder}): ")
    assert "`login_shell: true`" in told["commands"].message
    (folder / "squeue").symlink_to(there.wrappers.folder / "squeue")
    (folder / "scancel").symlink_to("/usr/bin/scancel")
    told = await checked(there, f"PATH={folder}")
    assert (wrong(told), told["commands"].message) == (
        [], f"sbatch, squeue, scancel, scontrol, sinfo, sacctmgr in {folder}; without sacct",
    )  # fmt: skip


@pytest.mark.real("slurm")
@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("SlurmctldPort", "1", "slurmctld is not running, or cannot be reached"),
        ("AuthInfo", "socket=/nonexistent", "munge"),
    ],
)
async def test_check_while_slurm_is_down(there: Login, setting: str, value: str, words: str) -> None:
    """With slurmctld or munge down, what needs no scheduler is told as ever, and which of the two it is."""
    lines = there.cluster.slurm_conf.read_text().splitlines()
    broken = there.work / "slurm.conf"
    broken.write_text("\n".join(f"{setting}={value}" if line.startswith(f"{setting}=") else line for line in lines) + "\n")
    told = await checked(there, f"export SLURM_CONF={broken}")
    assert ([*told], wrong(told)) == (["host", "clock", "spool", "commands", "scheduler"], ["scheduler"])
    assert words in told["scheduler"].message


@pytest.mark.real("slurm")
async def test_check_of_a_spool(there: Login) -> None:
    """A spool that cannot be written is said with the cure; so are a quota, another owner, what it holds and the file system."""
    told = await checked(there, spool="/etc/reconciler")
    assert wrong(told) == ["spool"]
    assert told["spool"].message.startswith(f"/etc/reconciler/{there.instance} cannot be written: ")
    assert "give the Backend another `spool`" in told["spool"].message
    await there.backend()
    tools = there.work / "tools"
    tools.mkdir()
    (tools / "quota").write_text("#!/bin/sh\nprintf 'Disk quotas for user x (uid 1):\\n  Filesystem  space quota\\n  /home  9M* 10M\\n'\n")
    (tools / "stat").write_text("#!/bin/sh\necho tmpfs\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    told = await checked(there, f"PATH={tools}:$PATH")
    assert wrong(told) == []
    assert told["spool"].message.startswith(f"{there.root} belongs to ledger ledger-1; holds 0 MB; free: ")
    assert "quota: /home 9M* 10M; on tmpfs, which other machines see only if it is exported to them" in " ".join(
        told["spool"].message.split()
    )


@pytest.mark.real("slurm")
@pytest.mark.parametrize(
    ("shift", "ok", "words"),
    [
        (10, True, "10 s ahead of this machine's; times are shifted by that"),
        (-3600, False, "3600 s behind this machine's; times are shifted by that; let both follow a time server"),
    ],
)
async def test_check_of_a_clock(there: Login, shift: int, ok: bool, words: str) -> None:
    """A clock that is off is said with by how much; by more than half a minute it is to be mended."""
    told = await checked(there, f"date() {{ /bin/date -d '{shift} seconds' \"$@\"; }}")
    assert told["clock"].ok is ok and told["clock"].message.startswith(words)
    assert [name for name in wrong(told) if name != "clock"] == []
    told = await checked(there, "date() { echo what; }")
    assert told["clock"] == Check("clock", False, "its clock cannot be read (`date +%s`)")


@pytest.mark.real("slurm")
async def test_check_of_a_host_that_is_not_there(there: Login) -> None:
    """Without a connection there is one thing to say, in words."""
    there.door.close()
    told = await checked(there)
    assert ([*told], wrong(told)) == (["host"], ["host"])
    assert "127.0.0.1" in told["host"].message and "nothing listens there" in told["host"].message


# Other logins


@dataclass(frozen=True)
class Somebody:
    """A user of this machine for one test. `home` is theirs."""

    name: str
    home: Path


@pytest.fixture
def somebody(request: pytest.FixtureRequest, shared_folder: Path) -> Iterator[Somebody]:
    """A user whose login shell is the test's parameter."""
    shell = shutil.which(request.param, path="/bin:/usr/bin")
    name, home = f"rec{secrets.token_hex(4)}", shared_folder / "home"
    home.mkdir()
    words = ["useradd", "--password=*", "--no-create-home", f"--home-dir={home}", f"--shell={shell}", name]
    subprocess.run(words, check=True, capture_output=True)
    shutil.chown(home, name, name)
    yield Somebody(name, home)
    subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


async def run_once(there: Login, host: Host, folder: Path) -> None:
    """A job of whoever logs in through `host` runs and its end is told."""
    backend = await there.backend(host=host)
    await sent(backend, request("a", f"id -un >{folder}/who; exit 3", requeue=True))
    deadline = monotonic() + DEADLINE_S
    while True:
        fact = (await look(backend, "a")).facts.get(job("a"))
        if fact is not None and fact.state is JobState.ENDED:
            break
        assert monotonic() < deadline, fact
    assert fact.exit_code == 3


PROFILES = {".cshrc": "echo Welcome to csh; setenv NOISE 'a b'", ".config/fish/config.fish": "echo Welcome to fish; set -x NOISE 'a b'"}


def shells(*names: str) -> pytest.MarkDecorator:
    marked = [pytest.param(name, marks=[pytest.mark.real(name)] if name != "bash" else []) for name in names]
    return pytest.mark.parametrize("somebody", marked, indirect=True)


@pytest.mark.real("slurm")
@shells("csh", "fish")
async def test_another_login_shell(slurm: Cluster, shared_folder: Path, somebody: Somebody) -> None:
    """A user whose login shell is csh or fish, with a profile that prints, runs jobs like any other; `check` says what is printed."""
    (somebody.home / ".config/fish").mkdir(parents=True)
    for path, text in PROFILES.items():
        (somebody.home / path).write_text(f"{text}\n")
    async with login(slurm, shared_folder, f"AllowUsers={somebody.name}") as there:
        await run_once(there, there.host(somebody.name), somebody.home)
        assert (somebody.home / "who").read_text() == f"{somebody.name}\n"
        async with front(there, there.host(somebody.name)) as people:
            told = {each.name: each for each in await people.check()}
        assert wrong(told) == [] and told["profile"].message.startswith("prints 1 line before every program ('Welcome to ")


@pytest.mark.real("slurm")
@shells("bash")
async def test_a_login_shell_is_read_when_asked_for(slurm: Cluster, shared_folder: Path, somebody: Somebody) -> None:
    """With `login_shell` a profile that sets PATH is read, and what it prints is not taken for an answer."""
    async with login(slurm, shared_folder, f"AllowUsers={somebody.name}") as there:
        tools = there.work / "tools"
        tools.mkdir()
        (tools / "squeue").write_text(f'#!/bin/sh\necho called >>{tools}/calls\nexec /usr/bin/squeue "$@"\n')
        (tools / "squeue").chmod(0o755)
        (tools / "calls").touch()
        os.chmod(tools / "calls", 0o666)
        noise = "printf 'm0:begin\\nNo newline at the end'; echo warning >&2"
        (somebody.home / ".bash_profile").write_text(f"{noise}\nexport PATH={tools}:$PATH SBATCH_HOLD=1\n")
        await run_once(there, there.host(somebody.name), somebody.home)
        assert (tools / "calls").read_text() == ""
        (somebody.home / "who").unlink()
        there.instance = f"{there.instance}x"
        await run_once(there, there.host(somebody.name, login_shell=True), somebody.home)
        assert (tools / "calls").read_text() != ""

