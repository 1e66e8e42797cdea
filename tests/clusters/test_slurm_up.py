"""What slurm.sh brings up is a real Slurm with a real sshd, and tests can have it to themselves, break it and mend it."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clusters.cluster import Cluster, is_alive, until

BOTH = [
    pytest.param("slurm", marks=pytest.mark.real("slurm")),
    pytest.param("slurm_accounting", marks=pytest.mark.real("slurm-accounting")),
]
DAEMONS = ["munged", "sshd", "slurmctld", "slurmd:n1", "slurmd:n2", "slurmd:n3", "slurmd:n4"]


@pytest.fixture(params=BOTH)
def either(request: pytest.FixtureRequest) -> Cluster:
    """Each of the two in turn."""
    found: Cluster = request.getfixturevalue(request.param)
    return found


def _submit(cluster: Cluster, words: str, user: str | None = None) -> str:
    done = cluster.run(f"sbatch --parsable -o /dev/null {words}", user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _ended(cluster: Cluster, job: str) -> str:
    until(lambda: cluster.state_of(job) not in {"PENDING", "RUNNING", "COMPLETING"}, 30, f"job {job} did not end")
    return cluster.state_of(job)


def _script(*words: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("slurm.sh")
    return subprocess.run([str(script), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def _listeners() -> Iterator[tuple[str, int]]:
    """Address (as the kernel writes it) and port of every listening socket."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = row.split()
            if state == "0A":
                address, port = local.split(":")
                yield address, int(port, 16)


def test_a_job_runs_without_ssh(either: Cluster, shared_folder: Path) -> None:
    """A job submitted on the login node runs as its user, in the folder that the user chose."""
    done = either.run(f"cd {shared_folder} && sbatch --parsable -o out --wrap 'id -un; pwd'", either.other_user)
    assert done.returncode == 0, done.stderr
    assert _ended(either, done.stdout.strip()) == "COMPLETED"
    assert (shared_folder / "out").read_text() == f"{either.other_user}\n{shared_folder}\n"


def test_a_job_runs_over_ssh(either: Cluster, shared_folder: Path) -> None:
    """A job whose script comes over ssh's standard input runs as the main user, on one of the nodes."""
    done = either.ssh(f"sbatch --parsable -o {shared_folder}/out", stdin="#!/bin/sh\nid -un\necho $SLURM_CLUSTER_NAME\n")
    assert done.returncode == 0, done.stderr
    assert _ended(either, done.stdout.strip()) == "COMPLETED"
    assert (shared_folder / "out").read_text() == f"{either.user}\n{either.name.replace('-', '')}\n"


@pytest.mark.real("slurm", "slurm-accounting")
def test_sacct(slurm: Cluster, slurm_accounting: Cluster) -> None:
    """sacct knows an ended job where there is accounting, and says that there is none where there is none."""
    job = _submit(slurm_accounting, "--wrap true")
    words = ["sacct", "-n", "-X", "-P", "-j", job, "-o", "User,State"]
    until(lambda: slurm_accounting.run(words).stdout == "rechpc|COMPLETED\n", 30, "sacct does not know the job")
    refused = slurm.run(words)
    assert (refused.returncode, refused.stderr.strip()) == (1, "Slurm accounting storage is disabled")


@pytest.mark.real("slurm", "slurm-accounting")
def test_two_at_once(slurm: Cluster, slurm_accounting: Cluster) -> None:
    """The two clusters know nothing of each other's jobs."""
    _submit(slurm, "-J here --wrap true")
    _submit(slurm_accounting, "-J there --wrap true")
    names = [{job.name for job in cluster.jobs(ended=True)} & {"here", "there"} for cluster in (slurm, slurm_accounting)]
    assert names == [{"here"}, {"there"}]


def test_only_loopback(either: Cluster) -> None:
    """Nothing of a cluster listens on an address that another machine could reach."""
    ours = [address for address, port in _listeners() if either.port <= port < either.port + 20]
    assert len(ours) >= 6  # sshd, slurmctld, four slurmd
    assert [address for address in ours if not address.endswith("7F")] == []  # 127.x.y.z in the kernel's byte order


def test_up_again(either: Cluster) -> None:
    """`up` where everything runs changes nothing, and is quick."""
    mode = [] if either.mode == "plain" else [f"--{either.mode}"]
    before = [either.pid(daemon) for daemon in DAEMONS], either.slurm_conf.stat().st_mtime_ns
    began = time.monotonic()
    done = _script("up", "--name", either.name, *mode)
    assert (done.returncode, done.stdout) == (0, f"{either.state}/cluster.json\n"), done.stderr
    assert ([either.pid(daemon) for daemon in DAEMONS], either.slurm_conf.stat().st_mtime_ns) == before
    assert time.monotonic() - began < 10


@pytest.mark.real("slurm")
def test_slurmctld_is_killed(slurm_alone: Cluster) -> None:
    """A killed slurmctld answers nobody; started again it knows its jobs, those that ran on meanwhile too."""
    running = _submit(slurm_alone, "--wrap 'sleep 600'")
    until(lambda: slurm_alone.state_of(running) == "RUNNING", 30, "the job did not start")
    name = f"kept-{time.time_ns()}"
    waiting = _submit(slurm_alone, f"-J {name} --hold --wrap true")
    # the queue is written every few seconds; after kill -9 only what was written is known
    queue = slurm_alone.state / "spool" / "slurmctld" / "job_state"
    until(lambda: name.encode() in queue.read_bytes(), 30, "slurmctld did not write its queue")
    slurm_alone.control("kill")
    assert slurm_alone.run(["scontrol", "ping"]).returncode == 1
    slurm_alone.control("start")
    until(lambda: slurm_alone.state_of(running) == "RUNNING", 30, "the job is not known any more")
    assert {job.id: job.state for job in slurm_alone.jobs()} == {running: "RUNNING", waiting: "PENDING"}


@pytest.mark.real("slurm")
def test_a_stopped_daemon_goes_on(slurm_alone: Cluster) -> None:
    """A stopped slurmctld keeps its clients waiting; mending lets it go on as the same process."""
    pid = slurm_alone.pid("slurmctld")
    slurm_alone.control("stop")
    with pytest.raises(subprocess.TimeoutExpired):
        slurm_alone.run(["timeout", "60", "squeue"], timeout_s=1)
    slurm_alone.mend()
    assert slurm_alone.run(["squeue", "-h"]).returncode == 0
    assert slurm_alone.pid("slurmctld") == pid


@pytest.mark.real("slurm-accounting")
@pytest.mark.parametrize("daemon", ["munged", "sshd", "slurmdbd", "slurmd:n1"])
def test_each_daemon_can_be_killed_and_started(slurm_accounting_alone: Cluster, daemon: str) -> None:
    """What was killed is another process once it was started again, and the cluster is well."""
    cluster = slurm_accounting_alone
    pid = cluster.pid(daemon)
    cluster.control("kill", daemon)
    assert not is_alive(pid)
    cluster.mend()
    assert cluster.pid(daemon) != pid
    assert cluster.ssh("sacctmgr -n list cluster format=cluster && squeue -h").returncode == 0


@pytest.mark.real("slurm")
def test_sessions_are_cut(slurm_alone: Cluster) -> None:
    """Cutting sshd ends the sessions that are open, and only those: the next one is taken."""
    words = ["ssh", "-F", str(slurm_alone.ssh_config), slurm_alone.name, "echo in; sleep 600"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as session:
        assert session.stdout is not None and session.stdout.readline() == "in\n"
        slurm_alone.control("cut", "sshd")
        assert session.wait(20) == 255
    assert slurm_alone.ssh("echo in").stdout == "in\n"


@pytest.mark.real("slurm-accounting")
def test_limits_are_enforced(slurm_accounting_alone: Cluster) -> None:
    """A limit of an account's user refuses the job that is one too many."""
    cluster = slurm_accounting_alone
    limit = "sacctmgr -i modify user rechpc set MaxSubmitJobs="
    assert cluster.run(limit + "1", "root").returncode == 0
    try:
        _submit(cluster, "--hold --wrap true")
        until(lambda: "AssocMaxSubmitJobLimit" in cluster.run("sbatch --hold --wrap true").stderr, 20, "the limit does not hold")
        assert len(cluster.jobs()) == 1
    finally:
        assert cluster.run(limit + "-1", "root").returncode == 0


@pytest.mark.slow
@pytest.mark.real("slurm")
def test_from_nothing_to_nothing(slurm: Cluster) -> None:
    """A new instance beside the others has its own ports, takes a line of configuration, and after `down --wipe` nothing of it is left."""
    began = time.monotonic()
    done = _script("up", "--name", "passing", "--nodes", "1", "--slurm-conf", "MaxArraySize=11")
    try:
        assert done.returncode == 0, done.stderr
        passing = Cluster.read(Path(done.stdout.strip()))
        assert passing.port != slurm.port
        assert "MaxArraySize            = 11\n" in passing.run("scontrol show config").stdout
        job = _submit(passing, "--wrap 'sleep 600'")
        until(lambda: passing.state_of(job) == "RUNNING", 30, "the job did not start")
        pids = [passing.pid(daemon) for daemon in DAEMONS[:4]]
    finally:
        done = _script("down", "--wipe", "--name", "passing")
    assert done.returncode == 0, done.stderr
    assert [pid for pid in pids if is_alive(pid)] == []
    assert (passing.state.exists(), passing.run_folder.exists()) == (False, False)
    assert slurm.run(["squeue", "-h"]).returncode == 0
    assert time.monotonic() - began < 60


_TELL = """\
import sys
from pathlib import Path
from tests.clusters.cluster import Cluster
with Cluster.read(Path(sys.argv[1])).held(alone=sys.argv[2] == "alone"), open(sys.argv[3], "a") as told:
    told.write(sys.argv[2] + " ")
"""


@pytest.mark.real("slurm")
def test_alone_is_not_starved(slurm: Cluster, tmp_path: Path) -> None:
    """Who wants a cluster alone waits for those who are there, and those who come later wait for it."""
    description, told, turn = tmp_path / "cluster.json", tmp_path / "told", tmp_path / "run.turn"
    words = {field: str(value) if isinstance(value, Path) else value for field, value in vars(slurm).items()}
    description.write_text(json.dumps({**words, "run_folder": str(tmp_path / "run")}))
    root = Path(__file__).parents[2]

    def come(who: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _TELL, str(description), who, str(told)], cwd=root)

    with ExitStack() as processes, Cluster.read(description).held(alone=False):  # both are waited for when it is free
        alone = processes.enter_context(come("alone"))
        until(lambda: _is_open(alone.pid, turn) and _is_locked(turn), 30, "nobody waits to be alone")
        later = processes.enter_context(come("later"))
        until(lambda: _is_open(later.pid, turn), 30, "nobody came later")
        told.write_text("first ")
    assert told.read_text() == "first alone later "


def _is_open(pid: int, path: Path) -> bool:
    try:
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # a file was closed meanwhile
        return False


def _is_locked(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
