"""The daemon that slurm.py measures: on a real git repository, with the benchmark's Slurm as its only backend."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bench.slurm_site import Site
from tests.e2e.world import World, wait_for, workflow
from tests.gitrepo import GitRepo

SETTINGS = """\
apiVersion: scripthut/v1
kind: Settings
metadata: {{name: {instance}}}
spec:
  state_dir: {root}/state
  status_dir: {root}/status
---
apiVersion: scripthut/v1
kind: Backend
metadata: {{name: hpc}}
spec:
  type: slurm
  max_concurrent: 20000
  spool: {spool}
{more}  ssh: {{host: {host}, port: {port}, user: {user}, key_path: {key}, known_hosts: {known_hosts}}}
---
apiVersion: scripthut/v1
kind: Source
metadata: {{name: code}}
spec:
  git: {{url: 'file://{root}/repo', branch: main}}
"""
_OVER = ("Succeeded", "Failed", "Cancelled")


class SlurmWorld(World):
    """`more` is YAML of the Backend's spec, indented, each line ended."""

    def __init__(self, site: Site, more: str = "") -> None:
        here = site.folder()
        self.spool = here / "spool"
        super().__init__(here / "daemon", instance=here.name.replace("_", "-").lower())
        where = site.cluster
        (self.folder / "settings.yaml").write_text(
            SETTINGS.format(
                instance=here.name.replace("_", "-").lower(), root=self.root, spool=self.spool, more=more,
                host=where.host, port=where.port, user=where.user, key=where.key, known_hosts=where.known_hosts,
            )
        )  # fmt: skip
        self.repo = GitRepo(self.root / "repo")
        self.repo.commit({"README": "x"}, "first")

    def wait_ready(self) -> None:
        """Until the source was read and the backend was seen."""
        self._until(lambda: '"source": "code"' in self.text() and '"status": "True"' in self.backend_status(), 60, "the daemon is ready")

    def backend_status(self) -> str:
        """The status file of the Backend; "" while there is none."""
        with suppress(FileNotFoundError):
            return (self.status / "backend" / "hpc.yaml").read_text()
        return ""

    def wait_calls(self) -> int:
        """What the Backend's status says, once it has been written anew: commands of the scheduler in the last hour."""
        before = self.backend_status()
        wait_for(lambda: self.backend_status() != before, "the status is written anew", 130)
        found = re.search(r"calls_last_hour: (\d+)", self.backend_status())
        assert found is not None
        return int(found[1])

    def commit(self, tasks: str) -> float:
        """Commit a workflow; when that was done, in seconds since 1970."""
        self.repo.commit({".hut/w.yaml": workflow("w", tasks, backend="hpc")}, "add")
        return time.time()

    def ask(self, query: str) -> Any:
        """The first row of a query of the ledger; None while there is none. Cheap, unlike World.runs, with many tasks."""
        path = self.state / "ledger.sqlite3"
        if not path.exists():
            return None
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchone()

    def wait_over(self, seconds: float) -> float:
        """When the run was seen to have ended well, by the daemon's clock."""
        row = self._until(lambda: self.ask("SELECT phase, ended_at FROM runs WHERE ended_at IS NOT NULL"), seconds, "the run has ended")
        why = "SELECT count(*), min(task), state, cause, reason FROM tasks WHERE state <> 'succeeded' GROUP BY 3, 4, 5"
        assert row[0] == "Succeeded", (row, self.ask(why))
        return float(row[1])

    def wait_accepted(self, count: int, seconds: float) -> tuple[float, float]:
        """When the first intent was saved and the last answer came, once the scheduler has taken `count` jobs."""
        query = "SELECT count(*), min(claimed_at), max(acknowledged_at) FROM tasks WHERE acknowledged_at > 0"
        row = self._until(lambda: (found := self.ask(query)) and found[0] >= count and found, seconds, f"{count} jobs were taken")
        return float(row[1]), float(row[2])

    def _until(self, condition: Any, seconds: float, what: str) -> Any:
        """Four times a second: a question oftener would take time from what is measured; what is measured is in the answer."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.text()[-2000:]}"
            assert self.daemon is not None and self.daemon.poll() is None, self.text()[-2000:]
            time.sleep(0.25)
        return found

    # What it costs

    def cpu_s(self) -> float:
        """Processor seconds of the daemon and of its ended children so far."""
        assert self.daemon is not None
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        """The most memory that was resident so far."""
        assert self.daemon is not None
        return int(Path(f"/proc/{self.daemon.pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def daemon(site: Site, more: str = "", *words: str) -> Iterator[SlurmWorld]:
    """A new daemon that is ready; stopped at the end, and what it left in the queue is cancelled. `words`: instead of the module
    `reconciler` and its `run`, a module that takes the folder and these."""
    world = SlurmWorld(site, more)
    _start(world, words)
    try:
        world.wait_ready()
        yield world
    finally:
        world.stop(deadline_s=60)
        site.clear()


def _start(world: SlurmWorld, words: tuple[str, ...]) -> None:
    if not words:
        world.start()
        return
    import subprocess

    with world.log.open("ab") as log:
        command = [sys.executable, "-m", words[0], str(world.folder), *words[1:]]
        world.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=world.env())


def keep_scripts(world: SlurmWorld, folder: Path) -> int:
    """Copy the script of every job that was sent to `folder`, numbered from 0; how many."""
    found = sorted(world.spool.glob("*/runs/*/*/script"))
    for number, script in enumerate(found):
        shutil.chown(shutil.copy(script, folder / str(number)), script.owner())
    return len(found)
