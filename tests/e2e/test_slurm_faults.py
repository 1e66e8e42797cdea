"""A real daemon, a real Slurm behind a real sshd, and what made every other tool run jobs twice, or call running ones failed.

The list of what other tools get wrong has 25 items. Where each that concerns Slurm is tested, b: tests/backends/test_slurm_faults_*.py:

    1 accepted, and timed out           here (E3), b submit, b alone       13 refused for good        b submit
    2 SIGKILL around sbatch             here (E5), b submit, kill9_slurm   14 waiting for ever        b look
    3 noise, odd and empty answers      b submit                           15 put back, preempted     b ends
    4 our own time-out                  b submit                           16 a node fails            b alone
    5 a scheduler that does not answer  here (E4), b look, b alone         17 memory and time         b ends, core/test_escalation
    6 empty and short lists             b look                             18 records that come late  b files
    7 gone before the first look        b look                             19 calls of the scheduler  b many
    8 accounting down, the reverse      b alone                            20 a slow scheduler        b look
    9 who cancelled, unknown words      here (E2), b ends, b look          22 one connection          b files, hosts/test_ssh_link
    10 arrays with mixed ends           here (E1), b ends                  23 an old attempt is late  b files, b submit
    11 large arrays, long scripts       b many, b submit                   25 ids given twice; scale  b alone, b many, bench
    12 limits                           here (E6), b limits

21 is about PBS and 24 about clouds: they belong to those backends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.cluster import Cluster
from tests.clusters.cluster import until as wait_until
from tests.clusters.wrappers import Door, Wrappers
from tests.e2e.world import World, wait_for, workflow

SETTINGS = """\
apiVersion: scripthut/v1
kind: Settings
metadata: {{name: {instance}}}
spec: {{state_dir: {root}/state, status_dir: {root}/status}}
---
apiVersion: scripthut/v1
kind: Backend
metadata: {{name: hpc}}
spec:
  type: slurm
  spool: {work}/spool
  absence_grace: 1s
  array: {array}
  poll: {{min: 500ms, max: 1s}}
  ssh: {{host: 127.0.0.1, port: {port}, user: {user}, key_path: {key}, known_hosts: {work}/known_hosts}}
"""
TIMED_OUT = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'


class SlurmWorld(World):
    """A daemon whose only backend is a cluster behind wrappers. `ran` holds a file for each task, a line for each time it began."""

    def __init__(self, root: Path, cluster: Cluster, work: Path, array: str) -> None:
        super().__init__(root)
        self.cluster, self.work = cluster, work
        self.wrappers = Wrappers(work / "wrappers")
        self.door = Door(cluster, self.wrappers, work / "door.log")
        (work / "known_hosts").write_text(self.door.known_hosts_line())
        self.ran = work / "ran"
        self.ran.mkdir()
        self.ran.chmod(0o777)
        self.instance = f"e{time.time_ns():x}"
        values = {"instance": self.instance, "root": root, "work": work, "array": array, "port": self.door.port}
        (self.folder / "settings.yaml").write_text(SETTINGS.format(**values, user=cluster.user, key=cluster.key))

    def ask(self, *tasks: str, more: str = "", **commands: str) -> None:
        """Ask for a workflow of these tasks, each of which counts itself and then does as `commands` says. `more`: YAML of each."""
        bodies = {name: f"echo x >>{self.ran}/{name}; {commands.get(name, 'true')}" for name in tasks}
        rows = [f'- {{id: {name}, command: "{body}", memory: 16M{more}}}' for name, body in bodies.items()]
        self.write("w.yaml", workflow("w", "\n".join(rows), backend="hpc"))

    def counts(self) -> dict[str, int]:
        """How often each task has begun."""
        return {each.name: each.read_text().count("x\n") for each in sorted(self.ran.iterdir())}

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks of the newest run."""
        if not self.runs():
            return {}
        return {task["id"]: task for task in self.get("run", "w")["tasks"]}

    def states(self) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks().items()}

    def phase(self, deadline_s: float = 60.0) -> str:
        """How the only run has ended."""
        [run] = wait_for(lambda: self.ended(1), "the run has ended", deadline_s)
        return str(run["phase"])

    def held(self, name: str) -> str:
        """A command that waits until `release(name)`."""
        return f"until [ -e {self.work}/go.{name} ]; do sleep 0.1; done"

    def release(self, *names: str) -> None:
        for name in names:
            (self.work / f"go.{name}").touch()

    def jobs(self) -> list[str]:
        """Ids of our jobs that have not ended."""
        rows = self.cluster.run(["squeue", "-h", "-r", "-o", "%i|%Z"], "root").stdout.splitlines()
        return [row.split("|")[0] for row in rows if row.split("|")[1].startswith(str(self.work))]

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        self.door.close()
        if mine := self.jobs():
            self.cluster.run(["scancel", *mine], "root")


Make = Callable[..., SlurmWorld]


@pytest.fixture
def make(tmp_path: Path, shared_folder: Path) -> Iterator[Make]:
    """Makes worlds; their daemons and jobs are gone when the test is."""
    made: list[SlurmWorld] = []

    def world(cluster: Cluster, array: str = "auto") -> SlurmWorld:
        made.append(SlurmWorld(tmp_path, cluster, shared_folder, array))
        made[-1].door.open()
        return made[-1]

    yield world
    for each in made:
        each.close()


@pytest.mark.real("slurm")
@pytest.mark.parametrize("array", ["never", "auto"])
def test_accepted_but_timed_out(make: Make, slurm: Cluster, array: str) -> None:
    """E3: the first sbatch says that it timed out, and its job is there: three tasks, each one job, which runs once and is known."""
    world = make(slurm, array)
    world.wrappers.fault("sbatch", f'real "$@" >/dev/null; {TIMED_OUT}', times=1)
    world.ask("a", "b", "c")
    world.start()
    assert (world.phase(), world.counts()) == ("Succeeded", {"a": 1, "b": 1, "c": 1})
    assert {task["attempt"] for task in world.tasks().values()} == {1}
    assert len(world.wrappers.calls("sbatch")) == (3 if array == "never" else 1)


@pytest.mark.real("slurm")
@pytest.mark.parametrize("array", ["never", "auto"])
def test_killed_while_sbatch_is_in_flight(make: Make, slurm: Cluster, array: str) -> None:
    """E5: SIGKILL of the daemon in the middle of a slow sbatch, and a new daemon: one job for each of three tasks."""
    world = make(slurm, array)
    world.wrappers.fault("sbatch", 'sleep 2; real "$@"; sleep 2', times=1)
    world.ask("a", "b", "c")
    world.start()
    wait_for(lambda: world.wrappers.calls("sbatch"), "sbatch has begun")
    world.kill()
    world.start()
    assert (world.phase(), world.counts()) == ("Succeeded", {"a": 1, "b": 1, "c": 1})
    wait_for(lambda: not world.jobs(), "late twins have come and gone")
    assert world.counts() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.real("slurm")
def test_the_scheduler_cannot_be_reached(make: Make, slurm: Cluster) -> None:
    """E4: squeue, sacct and scontrol fail or hang for half a minute, in which intervals are twenty times shorter than usual, while tasks
    run: none changes its state, it is said since when and why, Slurm is not stormed, and all end soon after."""
    world = make(slurm)
    names = ["a", "b", "c"]
    world.ask(*names, **{name: world.held(name) for name in names})
    world.start()
    running = dict.fromkeys(names, "running")
    wait_for(lambda: world.states() == running, "all run")
    for program in ("squeue", "sacct", "scontrol"):
        world.wrappers.fault(program, 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1')
    before, began = len(world.wrappers.calls()), time.monotonic()
    status = world.status / "backend" / "hpc.yaml"
    wait_for(lambda: "Unreachable" in status.read_text() or 'status: "False"' in status.read_text(), "its status says so")
    seen = set[str]()
    while time.monotonic() - began < 15:
        seen |= set(world.states().values())
    for program in ("squeue", "sacct", "scontrol"):
        world.wrappers.fault(program, f'until [ -e {world.work}/answer ]; do sleep 0.2; done; real "$@"')
    while time.monotonic() - began < 30:
        seen |= set(world.states().values())
    assert seen == {"running"}
    assert "slurmctld" in status.read_text()
    assert len(world.wrappers.calls()) - before < 30
    world.release(*names)
    (world.work / "answer").touch()
    world.wrappers.heal()
    assert (world.phase(40), world.counts()) == ("Succeeded", {"a": 1, "b": 1, "c": 1})


@pytest.mark.real("slurm-accounting")
@pytest.mark.parametrize("array", ["never", "auto"])
def test_a_limit_of_two(make: Make, slurm_accounting_alone: Cluster, array: str) -> None:
    """E6: room for two submitted jobs, one of which is the user's own: four tasks take turns, and none fails."""
    cluster = slurm_accounting_alone
    limit = ["sacctmgr", "-i", "modify", "user", cluster.user, "set"]
    assert cluster.run([*limit, "MaxSubmitJobs=2"], "root").returncode == 0
    try:
        own = cluster.run(["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "sleep 600"]).stdout.strip()
        wait_until(lambda: "AssocMaxSubmitJobLimit" in cluster.run("sbatch -o /dev/null -a 1-2 --wrap true").stderr, 20, "it holds")
        world = make(cluster, array)
        world.ask("a", "b", "c", "d")
        world.start()
        assert (world.phase(100), world.counts()) == ("Succeeded", dict.fromkeys("abcd", 1))
        assert cluster.state_of(own) == "RUNNING"
    finally:
        assert cluster.run([*limit, "MaxSubmitJobs=-1"], "root").returncode == 0


@pytest.mark.real("slurm-accounting")
def test_an_array_with_mixed_ends(make: Make, slurm_accounting: Cluster) -> None:
    """E1 and E2: of one array some end well, one fails once, one is cancelled by an administrator: only the failed one runs again, and it
    is said who cancelled."""
    world = make(slurm_accounting)
    once = f"[ $(wc -l <{world.ran}/fails) -gt 1 ]"
    rows = {"well": "true", "fails": once, "other": world.held("other"), "ended": world.held("ended")}
    world.ask(*rows, more=", retry: {limit: 1}", **rows)
    world.start()
    wanted = {"well": "succeeded", "fails": "succeeded", "other": "running", "ended": "running"}
    wait_for(lambda: world.states() == wanted, "two have ended, two run")
    assert "--array=0-3 " in world.wrappers.calls("sbatch")[0]
    cancelled = world.tasks()["ended"]["job_id"]
    known = ["sacct", "-n", "-X", "-P", "-o", "State,Partition", "-j", cancelled]
    wait_for(lambda: "RUNNING|main" in world.cluster.run(known).stdout, "the accounting knows it; it hears of starts every five seconds")
    world.cluster.run(["scancel", cancelled], "root")
    wait_for(lambda: world.states()["ended"] == "cancelled", "it is cancelled")
    assert world.states()["other"] == "running"
    world.release("other")
    assert world.phase() == "Cancelled"
    assert world.counts() == {"ended": 1, "fails": 2, "other": 1, "well": 1}
    assert "cancelled by root" in world.tasks()["ended"]["reason"]
