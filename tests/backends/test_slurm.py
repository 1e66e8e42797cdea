"""What every backend owes the core, on a real Slurm: over ssh to a real sshd, and from the login node itself; single jobs and arrays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.backends.cluster import ClusterBackend, ClusterPlace
from reconciler.backends.judgement import Patience
from reconciler.backends.marks import Owner
from reconciler.backends.slurm import Slurm
from reconciler.core.observed import JobFact
from reconciler.hosts.base import Host
from reconciler.hosts.ssh import SshHost, SshPlace
from reconciler.hosts.ssh_place import Tuning
from tests.backends.conformance import RUN, Conformance, Far
from tests.clusters.cluster import Cluster
from tests.clusters.relay import Relay


def ssh_place(cluster: Cluster, relay: Relay, known_hosts: Path) -> SshPlace:
    """How to log in to a cluster's login node, through a relay."""
    known_hosts = relay.write_known_hosts(known_hosts)
    return SshPlace(host="127.0.0.1", port=relay.port, user=cluster.user, key_path=str(cluster.key), known_hosts=str(known_hosts))


class OnSlurm(Far):
    """One instance on a cluster, reached over ssh. `work` is visible to its jobs."""

    def __init__(self, cluster: Cluster, work: Path, array: str) -> None:
        super().__init__(work)
        self.cluster = cluster
        self.array = array
        self.instance = f"t{secrets.token_hex(4)}"
        self.spool = work / "spool"
        self.opened: list[ClusterBackend] = []
        self.relay = Relay(cluster)

    @property
    def root(self) -> Path:
        return self.spool / self.instance

    @property
    def home(self) -> str:
        return str(self.cluster.home())

    def host(self) -> Host:
        place = ssh_place(self.cluster, self.relay, self.work / "known_hosts")
        return SshHost(place, Tuning(retry_first_s=0.01, retry_max_s=0.1))

    async def open(self, ledger: str = "ledger-1", epoch: int = 1) -> ClusterBackend:
        place = ClusterPlace(str(self.spool), self.instance, self.array, poll_min_s=0.2, poll_max_s=1.0, patience=Patience(5.0, 1.0, 1.0))
        backend = ClusterBackend("hpc", self.host(), Slurm(), place, Owner(ledger, epoch), self.changed)
        self.opened.append(backend)
        await backend.own()
        return backend

    async def abandon(self, backend: object) -> None:
        assert isinstance(backend, ClusterBackend)
        await backend.close()

    async def destroy(self, job: str, fact: JobFact) -> None:
        """SIGKILL for all processes of the job, from the side: the wrapper first, which would write an exit record."""
        mine = f"{self.root}/runs/{RUN}/{job}/script".encode()
        body = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal() and mine in _words(int(each.name)).split(b"\0")]
        wrappers = {int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1]) for pid in body} - set(body)
        for pid in (*(pid for pid in wrappers if b"slurmstepd" not in _words(pid)), *body):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    async def send_twin(self, job: str) -> int:
        """Hand the job's script to Slurm once more; its exit code."""
        script = self.root / "runs" / RUN / job / "script"
        done = await asyncio.to_thread(
            self.cluster.run, ["sbatch", "--parsable", "-W", "-o", "/dev/null", "-J", "twin", str(script)]
        )
        return done.returncode

    async def cut(self) -> None:
        self.relay.cut()

    async def mend(self) -> None:
        await self.relay.open()

    async def end(self) -> None:
        for backend in self.opened:
            await backend.close()
        await self.relay.close()
        rows = self.cluster.run(["squeue", "-h", "-r", "-o", "%i %Z"], "root").stdout.splitlines()
        if mine := [row.split(" ", 1)[0] for row in rows if row.split(" ", 1)[1].startswith(str(self.work))]:
            self.cluster.run(["scancel", *mine], "root")


def _words(pid: int) -> bytes:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def work(shared_folder: Path) -> Iterator[Path]:
    """A folder of the test and of the jobs; what either makes in it the other may change."""
    before = os.umask(0)
    yield shared_folder
    os.umask(before)


@pytest.mark.real("slurm")
class TestSlurmSingles(Conformance):
    """Each job by an sbatch of its own."""

    @pytest.fixture
    async def far(self, slurm: Cluster, work: Path) -> AsyncIterator[OnSlurm]:
        far = OnSlurm(slurm, work, "never")
        await far.relay.open()
        yield far
        await far.end()


@pytest.mark.real("slurm")
class TestSlurmArrays(Conformance):
    """What is sent together and asks for the same is an array."""

    @pytest.fixture
    async def far(self, slurm: Cluster, work: Path) -> AsyncIterator[OnSlurm]:
        far = OnSlurm(slurm, work, "auto")
        await far.relay.open()
        yield far
        await far.end()


