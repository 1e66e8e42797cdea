"""The Slurm that the benchmarks of slurm.py have to themselves: brought up, taken down, and what its slurmctld says happened, to the
millisecond. Everything done by hand (the plain side of each comparison) is one program over one ssh connection."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tests.clusters.cluster import Cluster, until

NAME = "bench"
#: Nothing starts in it, so that running jobs do not disturb what is measured; sbatch takes jobs for it all the same.
HELD = "held"
_SCRIPT = Path(__file__).parents[1] / "clusters" / "slurm.sh"
#: 10,000 tasks fit into one array and, with what earlier rounds left in slurmctld's memory, into its table.
_LINES = ("MaxArraySize=10001", "MaxJobCount=40000", f"PartitionName={HELD} Nodes=ALL MaxTime=INFINITE State=DOWN")
_AT = r"^\[([^\]]+)\] "
_SUBMITTED = re.compile(_AT + r"_slurm_rpc_submit_batch_job: JobId=", re.MULTILINE)
_COMPLETED = re.compile(_AT + r"_job_complete: JobId=\S+ done", re.MULTILINE)
#: One request of each command, as sdiag calls it: sbatch, squeue (of a user, of jobs, of one job), scontrol show config, scancel.
_ASKED = {
    "REQUEST_SUBMIT_BATCH_JOB", "REQUEST_JOB_USER_INFO", "REQUEST_JOB_INFO", "REQUEST_JOB_INFO_SINGLE", "REQUEST_BUILD_INFO",
    "REQUEST_KILL_JOB",
}  # fmt: skip


class NoCluster(Exception):
    """There can be no Slurm on this machine; the text says why."""


class Site:
    """One instance, up. Nobody else uses it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._log = cluster.log / "slurmctld.log"
        self._folders: list[Path] = []

    def folder(self) -> Path:
        """A new folder of the cluster's user. Removed at the very end: making files is slow right after many were removed."""
        path = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="reconciler-bench-"))
        shutil.chown(path, self.cluster.user)
        self._folders.append(path)
        return path

    def sweep(self) -> None:
        """Remove the folders."""
        while self._folders:
            shutil.rmtree(self._folders.pop(), ignore_errors=True)

    def delay_scheduling(self, default: bool) -> None:
        """Whether Slurm waits before it looks at what was just submitted (`batch_sched_delay`): its default of 3 s, or not at all."""
        _call("up", *([f"--slurm-conf=SchedulerParameters={'' if default else 'batch_sched_delay=0'}"]))

    # What slurmctld says

    def now(self) -> int:
        """A place in slurmctld's log."""
        return self._log.stat().st_size

    def submitted(self, since: int) -> list[float]:
        """When each submission was taken, an array being one; seconds since 1970."""
        return self._times(_SUBMITTED, since)

    def completed(self, since: int) -> list[float]:
        """When the script of each job or element had ended."""
        return self._times(_COMPLETED, since)

    def _times(self, what: re.Pattern[str], since: int) -> list[float]:
        with self._log.open("rb") as log:
            log.seek(since)
            text = log.read().decode(errors="replace")
        return [datetime.fromisoformat(at).timestamp() for at in what.findall(text)]

    def wait_completed(self, since: int, count: int, seconds: float) -> float:
        """When the last of `count` had ended. Looks into the log, so that slurmctld is not disturbed."""
        until(lambda: len(self.completed(since)) >= count, seconds, f"{count} jobs did not end")
        return max(self.completed(since))

    def commands(self) -> int:
        """How many of the user's commands that submit, look or cancel slurmctld has answered so far."""
        said = self.cluster.run(["sdiag"], "root").stdout
        return sum(int(count) for word, count in re.findall(r"(REQUEST_\w+) .*count:(\d+)", said) if word in _ASKED)

    def clear(self) -> None:
        """Cancel all and wait until slurmctld has nothing to do."""
        self.cluster.run(["scancel", "-u", self.cluster.user], "root", timeout_s=300)
        until(lambda: not self.cluster.run(["squeue", "-h", "-o", "%A"], "root").stdout, 120, "there are still jobs")

    # By hand

    def by_hand(self, program: str) -> str:
        """What a program for /bin/sh prints that is run over one ssh connection. Raises when it fails."""
        words = ["ssh", "-F", str(self.cluster.ssh_config), self.cluster.name, "sh -s"]
        done = subprocess.run(words, input=f"set -eu\n{program}", capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def site() -> Iterator[Site]:
    """Up until the end of `with`. Raises NoCluster when it cannot be brought up here."""
    if os.geteuid() != 0:
        raise NoCluster("needs root, to bring up a Slurm with tests/clusters/slurm.sh")
    usual = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ended benchmark takes its Slurm down, too
    try:
        found = Site(Cluster.read(Path(_call("up"))))
        try:
            yield found
        finally:
            found.sweep()
    finally:
        _call("down", "--wipe")
        signal.signal(signal.SIGTERM, usual)


def _call(verb: str, *words: str) -> str:
    lines = [f"--slurm-conf={line}" for line in _LINES] if verb == "up" else []
    options = [part for line in (*lines, *words) for part in line.split("=", 1)]
    done = subprocess.run([str(_SCRIPT), verb, "--name", NAME, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise NoCluster(f"slurm.sh {verb} failed: {done.stderr.strip()}")
    return done.stdout.strip()
