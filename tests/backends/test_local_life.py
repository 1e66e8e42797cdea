"""How local jobs live and end: limits, restarts of the machine, pids that come back, children left behind, hostile records."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.backends.base import CancelRequest, FileRequest
from reconciler.backends.local import LocalBackend, Tuning
from reconciler.backends.marks import Owner
from reconciler.backends.process import age_s, stat_of
from reconciler.backends.script import Layout, identify_process, job_script
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import Cause, Resources
from reconciler.core.observed import Answer, Expected, JobState
from reconciler.errors import NotOwner, Unreachable
from reconciler.mounts import mounted_type
from tests.backends.conformance import RUN, answers, end, look, name, request, seen, send, started, until
from tests.backends.test_local import Here


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    far = Here(tmp_path)
    yield far
    await far.end()


def limit(seconds: int) -> Resources:
    return Resources(time_limit_s=seconds)


async def lives(pid: str) -> bool:
    stat = stat_of(int(pid))
    return stat is not None and not stat.dead


async def test_an_end_is_noticed_at_once(here: Here) -> None:
    """The end of a job is told by `changed`, long before anything is polled."""
    here.tuning = Tuning(poll_s=1000.0)
    backend = await here.open()
    await send(backend, request(f"until [ -e {here.work}/go ]; do sleep 0.01; done"))
    await started(backend, name())
    before = here.changes
    (here.work / "go").touch()
    await until(lambda: here.changes > before)
    assert (await look(backend, name())).facts[name()].state is JobState.ENDED


async def test_the_time_limit_is_enforced(here: Here) -> None:
    """At its time limit a job is told to end; how it ended is told as a time-out, also when it ended well, and after a restart."""
    backend = await here.open()
    await send(backend, request("sleep 1000", task="a", resources=limit(1)))
    await send(backend, request("trap 'exit 0' TERM; while :; do sleep 0.01; done", task="b", resources=limit(1)))
    begin = monotonic()
    a, b = [await seen(backend, name(task), JobState.ENDED) for task in "ab"]
    assert monotonic() - begin >= 0.8
    assert (a.cause, a.signal) == (Cause.TIMEOUT, signal.SIGTERM)
    assert (b.cause, b.exit_code) == (Cause.TIMEOUT, 0)
    await here.abandon(backend)
    assert await seen(await here.open(epoch=2), name("a"), JobState.ENDED) == a


async def test_a_deaf_job_is_killed_after_its_limit(here: Here) -> None:
    """A job that ignores the end of its time is killed a grace later, with everything it started."""
    backend = await here.open()
    await send(backend, request(f"trap '' TERM; echo $$ > {here.work}/pid; sleep 1000", resources=limit(1)))
    fact = await seen(backend, name(), JobState.ENDED)
    assert (fact.cause, fact.exit_code) == (Cause.TIMEOUT, None)
    assert not await lives((here.work / "pid").read_text())


async def test_the_time_limit_holds_after_a_restart(here: Here) -> None:
    """A new daemon goes on counting from the job's own start."""
    old = await here.open()
    await send(old, request("sleep 1000", resources=limit(2)))
    fact = await started(old, name())
    await here.abandon(old)
    new = await here.open(epoch=2)
    ended = await seen(new, name(), JobState.ENDED)
    assert ended.cause is Cause.TIMEOUT
    assert ended.ended_at is not None and fact.started_at is not None
    assert 1.5 <= ended.ended_at - fact.started_at <= 4


async def test_a_limit_that_passed_while_nobody_watched(here: Here) -> None:
    """A job that is over its limit when a daemon starts is ended at once."""
    old = await here.open()
    await send(old, request("sleep 1000", resources=limit(3)))
    fact = await started(old, name())
    await here.abandon(old)
    stat = stat_of(int(fact.job_id))
    assert stat is not None
    while age_s(stat.ticks) < 3:
        await asyncio.sleep(0.05)
    assert await lives(fact.job_id)
    begin = monotonic()
    assert (await seen(await here.open(epoch=2), name(), JobState.ENDED)).cause is Cause.TIMEOUT
    assert monotonic() - begin < 2.5


async def test_a_cancel_goes_on_after_a_restart(here: Here) -> None:
    """A deaf job that an old daemon told to end is killed by the new one, counting from when it was told."""
    old = await here.open()
    await send(old, request(f"trap '' TERM; touch {here.work}/up; while :; do sleep 0.02; done"))
    await until((here.work / "up").exists)
    assert (await end(old, name(), kill=True)).answer is Answer.ENDING
    await here.abandon(old)
    new = await here.open(epoch=2)
    assert (await seen(new, name(), JobState.ENDED)).cause is Cause.CANCELLED


async def test_a_restart_of_the_machine_is_lost(here: Here) -> None:
    """A start record of another boot, without an exit record, is lost; with one, the exit record says how it ended."""
    old = await here.open()
    await send(old, request("sleep 1000", task="a"), request("true", task="b"))
    process = (await started(old, name("a"))).job_id
    await seen(old, name("b"), JobState.ENDED)
    await here.abandon(old)
    for task in "ab":
        record = here.folder(name(task)) / "start.0"
        words = record.read_text().split()
        words[3] = "00000000-0000-0000-0000-000000000000"
        record.write_text(" ".join(words) + "\n")
    new = await here.open(epoch=2)
    lost = await seen(new, name("a"), JobState.ENDED)
    assert (lost.cause, lost.exit_code, lost.started) == (Cause.LOST, None, True)
    assert "restarted" in lost.reason
    assert (await seen(new, name("b"), JobState.ENDED)).cause is None
    assert (await end(new, name("a"), kill=True)).answer is Answer.ENDED
    assert await lives(process)
    os.killpg(int(process), signal.SIGKILL)


async def test_a_claim_of_another_boot_is_lost(here: Here) -> None:
    """A name that was claimed before the machine restarted counts as started: after a power cut a missing start proves nothing."""
    backend = await here.open()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    (folder / "claim").write_text("#!/bin/sh\n# claim 1 ledger-1 1 00000000-0000-0000-0000-000000000000 60 end\n")
    fact = await seen(backend, name(), JobState.ENDED)
    assert (fact.cause, fact.started) == (Cause.LOST, True)


async def test_an_intent_from_before_the_boot_is_lost(here: Here) -> None:
    """An intent that is older than this boot, and of which the spool knows nothing, is lost and not absent."""
    backend = await here.open()
    facts = (await backend.look({name(): Expected(name(), "", 1.0)})).facts
    assert facts[name()].cause is Cause.LOST
    assert (await look(backend, name("other"))).facts.get(name("other")) is None


async def test_a_pid_that_came_back(here: Here) -> None:
    """A process with the pid of the start record but another start is not ours: the job has ended, and the stranger is not touched."""
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        backend = await here.open()
        await send(backend, request("sleep 1000"))
        pid = (await started(backend, name())).job_id
        await here.abandon(backend)
        os.killpg(int(pid), signal.SIGKILL)
        stat = stat_of(stranger.pid)
        assert stat is not None
        record = here.folder(name()) / "start.0"
        words = record.read_text().split()
        words[5:7] = [str(stranger.pid), str(stat.ticks - 1)]
        record.write_text(" ".join(words) + "\n")
        new = await here.open(epoch=2)
        assert (await seen(new, name(), JobState.ENDED)).cause is Cause.LOST
        assert (await end(new, name(), kill=True)).answer is Answer.ENDED
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_group_number_that_came_back(here: Here) -> None:
    """A stranger's group with the number of ours, whose leader is gone too, is neither seen as the job nor killed."""
    script = "import os, sys, time\npid = os.fork()\nif pid == 0:\n    time.sleep(1000)\nprint(pid, flush=True)"
    stranger = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert stranger.stdout is not None
    child = stranger.stdout.readline().strip()
    stranger.wait()
    stranger.stdout.close()
    try:
        backend = await here.open()
        folder = here.folder(name())
        folder.mkdir(parents=True)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
        (folder / "start.0").write_text(f"start 1 process {boot} {namespace} {stranger.pid} 1 end\n")
        assert (await seen(backend, name(), JobState.ENDED)).cause is Cause.LOST
        assert (await end(backend, name(), kill=True)).answer is Answer.ENDED
        assert await lives(child)
    finally:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("restart", [False, True])
async def test_children_left_behind(here: Here, restart: bool) -> None:
    """While a process that the command left behind runs, the job has not ended, and says why; then its exit record counts."""
    backend = await here.open()
    await send(backend, request(f"(until [ -e {here.work}/go ]; do sleep 0.02; done) & exit 0"))
    await until((here.folder(name()) / "exit").exists)
    if restart:
        await here.abandon(backend)
        backend = await here.open(epoch=2)

    async def left() -> bool:
        return "left behind" in (await seen(backend, name(), JobState.RUNNING)).reason

    deadline = monotonic() + 10
    while not await left():
        assert monotonic() < deadline
        await asyncio.sleep(0.01)
    first, second = await look(backend, name()), await look(backend, name())
    assert first.facts[name()] is second.facts[name()]
    (here.work / "go").touch()
    fact = await seen(backend, name(), JobState.ENDED)
    assert (fact.exit_code, fact.cause) == (0, None)


async def test_children_left_behind_are_cancelled(here: Here) -> None:
    """A cancel ends what a command left behind, too."""
    backend = await here.open()
    await send(backend, request(f"sleep 1000 & echo $! > {here.work}/pid; exit 3"))
    await until((here.folder(name()) / "exit").exists)
    await asyncio.to_thread(lambda: None)
    assert (await end(backend, name(), kill=True)).answer is Answer.ENDING
    fact = await seen(backend, name(), JobState.ENDED)
    assert (fact.cause, fact.exit_code) == (Cause.CANCELLED, 3)
    assert not await lives((here.work / "pid").read_text())


async def test_a_wrapper_that_was_killed_before_it_started(here: Here) -> None:
    """A wrapper that dies before it takes its start leaves a doubt, and no verdict: the name is absent, and can be revoked."""
    backend = await here.open()
    folder = here.folder(name())
    await send(backend, request("true", task="other"))  # makes the run's folder
    (folder / "start.0").mkdir(parents=True)  # nothing can take it now, as if it had died in between
    await send(backend, request(f"touch {here.work}/ran"))
    await until(lambda: not backend._watch.lives(name()))
    (folder / "start.0").rmdir()
    snapshot = await look(backend, name())
    assert (snapshot.complete, snapshot.facts.get(name())) == (True, None)
    assert (await end(backend, name(), kill=False)).answer is Answer.FENCED
    assert not (here.work / "ran").exists()


async def test_a_start_that_was_cut_short(here: Here) -> None:
    """A wrapper that was killed while it wrote its start record is lost: it may have been a disk that was full."""
    backend = await here.open()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    (folder / "start.0").write_text("start 1 pro")
    fact = await seen(backend, name(), JobState.ENDED)
    assert (fact.cause, fact.started) == (Cause.LOST, True)


async def test_a_start_that_is_being_written(here: Here) -> None:
    """While a process of the job lives, a start record that is not complete yet is no end."""
    backend = await here.open()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    (folder / "start.0").write_text("")
    wrapper = subprocess.Popen(["sleep", "1000"], env={"RECONCILER_JOB_DIR": str(folder)})
    try:
        assert (await seen(backend, name(), JobState.RUNNING)).started is True
        assert (await end(backend, name(), kill=False)).answer is Answer.STARTED
    finally:
        wrapper.kill()
        wrapper.wait()
    assert (await seen(backend, name(), JobState.ENDED)).cause is Cause.LOST


async def test_zombies_are_dead(here: Here) -> None:
    """A job whose processes have ended has ended, also when their parent never takes notice."""
    backend = await here.open()
    code = "import subprocess, sys, time\nsubprocess.Popen(sys.argv[1:], start_new_session=True)\ntime.sleep(1000)"
    await send(backend, request("true", task="other"))
    folder = here.folder(name())
    (folder / "work").mkdir(parents=True)
    request_ = request("sleep 1000")
    layout = Layout(str(folder), str(here.spool / "exits"), identify_process(os.stat("/proc/self/ns/pid").st_ino))
    (folder / "script").write_text(job_script(request_, layout))
    environment = {**os.environ, "RECONCILER_JOB_DIR": str(folder)}
    parent = subprocess.Popen([sys.executable, "-c", code, "/bin/sh", str(folder / "script")], env=environment)
    try:
        fact = await started(backend, name())
        os.killpg(int(fact.job_id), signal.SIGKILL)
        assert (await seen(backend, name(), JobState.ENDED)).cause is Cause.LOST
        stat = stat_of(int(fact.job_id))
        assert stat is not None and stat.state == "Z"
        await here.abandon(backend)
        assert (await seen(await here.open(epoch=2), name(), JobState.ENDED)).cause is Cause.LOST
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize("record", ["start.0", "exit"])
@pytest.mark.parametrize("content", [b"\xff\xfe\0garbage end", b"x" * 100_000, b"start 1 process a 1 1 1 end"])
async def test_garbage_is_unknown(here: Here, record: str, content: bytes) -> None:
    """A record that nobody can understand is no verdict; its text is shown, clipped; a cancel settles it when nothing lives."""
    backend = await here.open()
    await send(backend, request("true"))
    await seen(backend, name(), JobState.ENDED)
    await here.abandon(backend)
    if record == "exit":
        (here.folder(name()) / "exit").write_bytes(content)
    else:
        (here.folder(name()) / "exit").unlink()
        (here.folder(name()) / "start.0").write_bytes(content)
    new = await here.open(epoch=2)
    fact = await seen(new, name(), JobState.UNKNOWN)
    assert 0 < len(fact.reason) < 500 and fact.exit_code is None
    assert (await look(new, name())).facts[name()] is fact
    assert (await end(new, name(), kill=False)).answer is Answer.UNKNOWN
    assert (await end(new, name(), kill=True)).answer is Answer.ENDED


@pytest.mark.parametrize("make", ["link", "pipe", "folder"])
async def test_records_that_are_no_files(here: Here, make: str) -> None:
    """A link, a pipe or a folder in the place of a record neither blocks nor misleads a look."""
    backend = await here.open()
    path = here.spool / "exits" / name()
    if make == "link":
        path.symlink_to("/etc/passwd")
    elif make == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    (folder / "start.0").write_text("start 1 process b 1 22 33 end\n")
    fact = (await look(backend, name())).facts[name()]
    assert fact.exit_code is None and fact.state in {JobState.UNKNOWN, JobState.ENDED}


async def test_the_environment_is_clean(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job sees who and where it is, the language, and nothing else of the daemon's: no keys, no agent, no cloud."""
    for secret in ("SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PYTHONPATH", "LD_PRELOAD_X", "VIRTUAL_ENV", "BASH_ENV"):
        monkeypatch.setenv(secret, "secret")
    monkeypatch.setenv("LC_TIME", "C")
    backend = await here.open()
    await send(backend, request(f"env -0 > {here.work}/env", env=(("OWN", "1"),)))
    await seen(backend, name(), JobState.ENDED)
    names = {entry.partition("=")[0] for entry in (here.work / "env").read_text().split("\0") if entry}
    allowed = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LC_TIME", "LC_ALL", "LC_CTYPE", "OLDPWD"}
    assert names - allowed == {"OWN", "RECONCILER_JOB_DIR", "PWD", "SHLVL", "_"}
    assert "LC_TIME" in names


async def test_signals_and_files_are_those_of_a_fresh_process(here: Here) -> None:
    """A job ignores no signal that its daemon ignores, has no file of it open, and no terminal."""
    lock = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(lock, True)  # as if whoever started the daemon had left it open
    backend = await here.open()
    command = f"grep SigIgn /proc/self/status > {here.work}/signals; ls /proc/self/fd > {here.work}/files; readlink /proc/self/fd/0"
    await send(backend, request(command))
    await seen(backend, name(), JobState.ENDED)
    os.close(lock)
    ignored = int((here.work / "signals").read_text().split()[1], 16)
    assert ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGHUP - 1)) == 0
    assert len((here.work / "files").read_text().split()) <= 4  # in, out, err, and the folder that ls reads
    assert (await backend.fetch(FileRequest(name(), "out"))).data == b"/dev/null\n"


async def test_a_job_has_the_daemons_own_limit_of_files(here: Here) -> None:
    """A daemon that allows itself more open files does not allow them to its jobs, where select() would break."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    backend = await here.open()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        await send(backend, request("ulimit -S -n", task="a"))
        await seen(backend, name("a"), JobState.ENDED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await backend.fetch(FileRequest(name("a"), "out"))).data == f"{soft}\n".encode()


async def test_a_spool_that_cannot_be_written(here: Here) -> None:
    """A daemon that cannot make its spool hears why, and from where."""
    here.spool.write_text("a file, not a folder")
    with pytest.raises(Unreachable, match="spool"):
        await here.open()


async def test_a_spool_on_a_network_file_system(here: Here) -> None:
    """A spool that could keep everybody waiting is refused, in words, before anything is made; the check says the same."""
    mounts = f"21 1 259:1 / / rw - ext4 /dev/root rw\n30 21 0:40 / {here.spool.parent} rw - nfs4 server:/x rw\n"
    here.tuning = Tuning(file_system=lambda path: mounted_type(mounts, str(path)))
    with pytest.raises(Unreachable, match=r"network file system \(nfs4\)"):
        await here.open()
    assert not here.spool.exists()
    [check, _] = await LocalBackend("here", here.spool, Owner("nobody", 0), here.changed, here.tuning).check()
    assert (check.ok, "nfs4" in check.message) == (False, True)


async def test_modes(here: Here) -> None:
    """Nobody else can read the spool; files that the command makes follow the daemon's umask."""
    backend = await here.open()
    await send(backend, request("touch made; mkdir folder"))
    await seen(backend, name(), JobState.ENDED)
    spooled = [path for path in here.spool.rglob("*") if path.name not in {"made", "folder"}]
    wrong = [path for path in [here.spool, *spooled] if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)]
    assert wrong == []
    umask = os.umask(0o77)
    os.umask(umask)
    assert (here.folder(name()) / "work" / "made").stat().st_mode & 0o777 == 0o666 & ~umask


async def test_output_files_of_the_tasks_own(here: Here) -> None:
    """Output goes where the task says; `out` and `err` are read from there, and what is missing for it refuses the job."""
    backend = await here.open()
    job = request("echo hello; echo oops >&2", working_dir=str(here.work), output_file="o.log", error_file=str(here.work / "e.log"))
    await send(backend, job)
    await seen(backend, job.job, JobState.ENDED)
    assert [(await backend.fetch(FileRequest(job.job, path))).data for path in ("out", "err")] == [b"hello\n", b"oops\n"]
    assert (here.work / "o.log").read_text() == "hello\n"
    missing = request("true", task="b", working_dir=str(here.work), output_file="logs/o.log")
    [receipt] = await send(backend, missing)
    assert receipt.answer is Answer.REFUSED and "logs" in receipt.reason


async def test_more_jobs_than_pidfds(here: Here) -> None:
    """Jobs beyond the files that may be open are polled; their ends are told as well."""
    here.tuning = Tuning(poll_s=0.05, pidfds_max=1)
    backend = await here.open()
    jobs = [request(f"until [ -e {here.work}/go ]; do sleep 0.02; done", task=f"t{number}") for number in range(3)]
    files = len(os.listdir("/proc/self/fd"))
    await send(backend, *jobs)
    assert len(os.listdir("/proc/self/fd")) <= files + 1
    for job in jobs:
        await started(backend, job.job)
    before = here.changes
    (here.work / "go").touch()
    await until(lambda: here.changes >= before + 3)
    facts = (await look(backend, *(job.job for job in jobs))).facts
    assert {fact.exit_code for fact in facts.values()} == {0}


async def test_a_run_that_was_cleaned_away(here: Here) -> None:
    """After retention nothing of a run is left but the word that it is over, which a submission, a twin and a cancel honour."""
    backend = await here.open()
    job = request(f"echo ran >> {here.work}/ran")
    await send(backend, job)
    await seen(backend, job.job, JobState.ENDED)
    await backend.clean([RUN, "ffffffffffff", "..", "../.."])
    assert not list(here.work.parent.rglob("closed"))[1:]
    assert [path.name for path in (here.spool / "runs" / RUN).iterdir()] == ["closed"]
    assert list((here.spool / "exits").iterdir()) == []
    again = request(f"echo ran >> {here.work}/ran", attempt=2)
    assert answers(await send(backend, job, again)) == [Answer.REFUSED] * 2
    assert (await end(backend, again.job, kill=True)).answer is Answer.FENCED
    assert (here.work / "ran").read_text() == "ran\n"


async def test_a_run_with_a_living_job_is_not_cleaned(here: Here) -> None:
    """Retention never touches a run of which a job lives, also when it was found only now."""
    old = await here.open()
    await send(old, request("sleep 1000"))
    await started(old, name())
    await here.abandon(old)
    new = await here.open(epoch=2)
    await new.clean([RUN])
    assert (await look(new, name())).facts[name()].state is JobState.RUNNING
    await new.clean([RUN])
    assert (here.folder(name()) / "start.0").exists()


async def test_traces_of_everything(here: Here) -> None:
    """For recovery: every name that the spool knows, what became of it, and whose spool it is; without owning it."""
    backend = await here.open(epoch=3)
    await send(backend, request("true", task="a"), request("sleep 1000", task="b"))
    await end(backend, name("c"), kill=False)
    await seen(backend, name("a"), JobState.ENDED)
    await started(backend, name("b"))
    stranger = LocalBackend("here", here.spool, backend._owner, here.changed)
    found = {trace.job: (trace.claimed, trace.fact.state if trace.fact else None) for trace in stranger.traces()}
    assert found == {
        name("a"): (True, JobState.ENDED), name("b"): (True, JobState.RUNNING), name("c"): (False, JobState.FENCED),
    }  # fmt: skip
    assert stranger.owner_there() == backend._owner
    empty = LocalBackend("here", here.spool.parent / "none", backend._owner, here.changed)
    assert (empty.traces(), empty.owner_there()) == ([], None)
    assert not (here.spool.parent / "none").exists()


async def test_a_spool_that_was_removed(here: Here) -> None:
    """When somebody removes the spool of a running daemon, it does nothing there until it is started again."""
    backend = await here.open()
    (here.spool / "owner").unlink()
    for attempt in (look(backend), backend.submit([request("true")]), backend.cancel([CancelRequest(name(), "", True)])):
        with pytest.raises(NotOwner, match="removed"):
            await attempt
    assert not here.folder(name()).exists()


async def test_an_owner_that_cannot_be_read(here: Here) -> None:
    """An owner file of unknown words is not overwritten."""
    await here.open()
    (here.spool / "owner").write_text("somebody\n")
    with pytest.raises(NotOwner, match="cannot be understood"):
        await here.open(epoch=2)


async def test_what_people_are_shown(here: Here) -> None:
    """The queue, the slots and the checks, in plain data; also from a program that does not own the spool."""
    here.tuning = Tuning(slots=3)
    backend = await here.open()
    await send(backend, request("sleep 1000"))
    fact = await started(backend, name())
    stranger = LocalBackend("here", here.spool, Owner("nobody", 0), here.changed)
    for each in (backend, stranger):
        assert [(row.name, row.job_id, row.state, row.ours) for row in await each.queue()] == [(name(), fact.job_id, "running", True)]
        assert [(check.name, check.ok) for check in await each.check()] == [("spool", True), ("shell", os.access("/bin/bash", os.X_OK))]
    capacity = await backend.capacity()
    assert (capacity.slots, capacity.free, (await look(backend, name())).room) == (3, 2, 2)
    assert await backend.explain([name()]) == {}
    (here.work / "file").touch()
    nowhere = LocalBackend("here", here.work / "file" / "spool", Owner("nobody", 0), here.changed)
    assert {check.name: check.ok for check in await nowhere.check()}["spool"] is False


async def test_memory_follows_what_is_expected(here: Here) -> None:
    """What is over and expected by nobody is kept by the spool alone; who expects it again has it read by name."""
    backend = await here.open()
    await send(backend, request("exit 3"))
    fact = await seen(backend, name(), JobState.ENDED)
    await backend.forget([name()])
    assert (here.folder(name()) / "exit").exists()
    await look(backend)
    assert (await look(backend)).facts == {}
    assert (await seen(backend, name(), JobState.ENDED)) == fact


async def test_a_clock_that_is_set_back(here: Here) -> None:
    """Limits are kept by the kernel's own count: a wall clock that jumps ends nothing."""
    here.tuning = Tuning(now=lambda: utc_now() + 1e6)
    backend = await here.open()
    await send(backend, request(f"until [ -e {here.work}/go ]; do sleep 0.02; done", resources=limit(1000)))
    await started(backend, name())
    await here.abandon(backend)
    here.tuning = Tuning(now=lambda: utc_now() - 1e6)
    new = await here.open(epoch=2)
    assert (await seen(new, name(), JobState.RUNNING)).reason == ""
    (here.work / "go").touch()
    assert (await seen(new, name(), JobState.ENDED)).exit_code == 0


async def test_a_claim_that_cannot_be_finished_is_given_back(here: Here) -> None:
    """When the claim is made and the script has no place, the name is proven unsent; once there is a place, it runs once."""
    backend = await here.open()
    job = request(f"echo ran >> {here.work}/ran")
    (here.folder(job.job) / "script").mkdir(parents=True)  # nothing can be renamed to it
    assert answers(await send(backend, job)) == [Answer.TRANSIENT]
    assert sorted(path.name for path in here.folder(job.job).iterdir()) == ["script"]
    (here.folder(job.job) / "script").rmdir()
    assert answers(await send(backend, job)) == [Answer.ACCEPTED]
    assert (await seen(backend, job.job, JobState.ENDED)).exit_code == 0
    assert (here.work / "ran").read_text() == "ran\n"


async def test_a_claim_that_nobody_started_is_in_doubt(here: Here) -> None:
    """A name that was claimed, and nothing shows that it was started, is not called sent: a doubt, which a revocation settles."""
    backend = await here.open()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (folder / "claim").write_text(f"#!/bin/sh\n# claim 1 ledger-1 1 {boot} 60 end\n")
    [receipt] = await send(backend, request(f"touch {here.work}/ran"))
    assert receipt.answer is Answer.UNKNOWN and "nothing shows" in receipt.reason
    assert (await end(backend, name(), kill=False)).answer is Answer.FENCED
    assert not (here.work / "ran").exists()


async def test_a_claim_whose_wrapper_is_about_to_start_was_sent(here: Here) -> None:
    """A name that was claimed, and of which a process lives that has not taken its start yet, was sent."""
    backend = await here.open()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    (folder / "claim").write_text("#!/bin/sh\n")
    wrapper = subprocess.Popen(["sleep", "1000"], env={"RECONCILER_JOB_DIR": str(folder)})
    try:
        assert answers(await send(backend, request("true"))) == [Answer.ACCEPTED]
    finally:
        wrapper.kill()
        wrapper.wait()


async def test_a_submission_that_was_killed_before_its_claim(here: Here) -> None:
    """Half a script without a claim, as kill -9 leaves it, is no submission: the name is sent, and runs the whole of what is asked."""
    backend = await here.open()
    folder = here.folder(name())
    folder.mkdir(parents=True)
    (folder / "script").write_text("#!/bin/sh\n# claim 1 led")
    assert answers(await send(backend, request(f"echo ran >> {here.work}/ran"))) == [Answer.ACCEPTED]
    assert (await seen(backend, name(), JobState.ENDED)).exit_code == 0
    assert (here.work / "ran").read_text() == "ran\n"
    assert (folder / "script").samefile(folder / "claim")
