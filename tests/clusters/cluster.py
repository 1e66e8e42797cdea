"""A real Slurm that `slurm.sh up` brought up, as tests see it: run something there, break a daemon and mend it, have it to oneself.

tests/run sets RECONCILER_SLURM (no accounting) and RECONCILER_SLURM_ACCOUNTING (slurmdbd, limits enforced) to the descriptions that
`slurm.sh up` wrote. The fixtures that hand these to tests are in tests/clusters/fixtures.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

#: The variable that holds the path of the description, for each name that `@pytest.mark.real` may give.
VARIABLES = {"slurm": "RECONCILER_SLURM", "slurm-accounting": "RECONCILER_SLURM_ACCOUNTING"}

#: How long a test waits for the others to leave a cluster: longer than any one of them may take.
WAIT_S = 600

Action = Literal["stop", "cont", "kill", "term", "start", "cut"]


@dataclass(frozen=True)
class Job:
    """A row of squeue: `id` is "17", or "17_3" for an element of an array; `state` as in "RUNNING"."""

    id: str
    user: str
    state: str
    name: str


@dataclass(frozen=True)
class Cluster:
    """One instance. `host` and `port` are its sshd's; `user` and `other_user` may log in there with `key` and are unprivileged."""

    name: str
    mode: Literal["plain", "accounting", "limits"]
    version: str
    nodes: int
    host: str
    port: int
    user: str
    other_user: str
    key: Path
    known_hosts: Path
    ssh_config: Path  # its Host is `name`
    slurm_conf: Path
    state: Path
    run_folder: Path
    log: Path
    script: Path

    @classmethod
    def read(cls, path: Path) -> Cluster:
        """From the description that `slurm.sh up` wrote."""
        found: dict[str, Any] = json.loads(path.read_text())
        values: dict[str, Any] = {name: Path(value) if str(value).startswith("/") else value for name, value in found.items()}
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    @classmethod
    def named(cls, name: str) -> Cluster:
        """The one that `@pytest.mark.real(name)` asks for: "slurm" or "slurm-accounting"."""
        path = os.environ.get(VARIABLES[name])
        assert path, f'no {name} here: mark the test @pytest.mark.real("{name}")'
        return cls.read(Path(path))

    def home(self, user: str | None = None) -> Path:
        """The home of `user`, by default of the main user."""
        return Path(pwd.getpwnam(user or self.user).pw_dir)

    def run(
        self, command: str | Sequence[str], user: str | None = None, *, stdin: str = "", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` (a text is for bash) on the login node in the home of `user`, without ssh. "root" is Slurm's administrator."""
        user = user or self.user
        words = ["bash", "-c", command] if isinstance(command, str) else list(command)
        words = words if user == "root" else ["runuser", "-u", user, "--", *words]
        home = str(self.home(user))
        environment = {"HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin"}
        environment["SLURM_CONF"] = str(self.slurm_conf)
        return subprocess.run(words, input=stdin, cwd=home, env=environment, capture_output=True, text=True, timeout=timeout_s)

    def ssh(self, command: str, *, stdin: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `command` as the main user with the real ssh client."""
        words = ["ssh", "-F", str(self.ssh_config), self.name, command]
        return subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout_s)

    def jobs(self, *, ended: bool = False) -> list[Job]:
        """Everybody's jobs that have not ended, elements of arrays one by one; with `ended` also those that slurmctld still remembers."""
        words = ["squeue", "-h", "-r", "-o", "%i|%u|%T|%j", *(["-t", "all"] if ended else [])]
        done = self.run(words, "root")
        assert done.returncode == 0, done.stderr
        return [Job(*line.split("|", 3)) for line in done.stdout.splitlines()]

    def state_of(self, job: str) -> str:
        """The state that slurmctld remembers of one job; "" if none."""
        return next((row.state for row in self.jobs(ended=True) if row.id == job), "")

    def cancel_all(self) -> None:
        """Cancel everybody's jobs and wait until the queue is empty."""
        for user in (self.user, self.other_user):
            self.run(["scancel", "-u", user], "root")
        until(lambda: not self.jobs(), 30, f"{self.name} still has jobs")

    def pid(self, daemon: str) -> int:
        """The recorded pid of munged, sshd, mariadbd, slurmdbd, slurmctld or slurmd:n1; it need not be alive."""
        folder = "munge" if daemon == "munged" else "slurm"
        return int((self.run_folder / folder / f"{daemon.replace(':', '.')}.pid").read_text())

    def control(self, action: Action, daemon: str = "slurmctld") -> None:
        """Break or mend one daemon (named as in `pid`). "kill" and "term" return when it has ended, "start" when it answers.

        "cut", for sshd, ends its open sessions and leaves it running; killing sshd leaves the sessions, as a restart of it does.
        """
        words = ["start", daemon] if action == "start" else ["signal", action.upper(), daemon]
        self._script(*words)

    def mend(self) -> None:
        """Continue what is stopped, start what is gone, wait until all nodes are up. What is well is left alone (0.2 s)."""
        self._script("start")

    def _script(self, *words: str) -> None:
        done = subprocess.run([str(self.script), *words, "--name", self.name], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def held(self, *, alone: bool) -> Iterator[None]:
        """Until the end of `with` nobody breaks this cluster; with `alone` nobody else uses it.

        Who wants it alone holds the turn while waiting, so that no newcomer goes ahead; waiting does not count as the test's time.
        """
        with open(f"{self.run_folder}.turn", "w") as turn, open(f"{self.run_folder}.use", "w") as use:
            with _clock_stopped():
                _lock(turn, fcntl.LOCK_EX)
                _lock(use, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)
            yield


def is_alive(pid: int) -> bool:
    """Whether that process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait until `true()`; after `seconds` fail, saying `otherwise`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)


def _lock(file: IO[str], how: int) -> None:
    def locked() -> bool:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    until(locked, WAIT_S, f"{file.name} was not free within {WAIT_S} s")


@contextmanager
def _clock_stopped() -> Iterator[None]:
    """Hold pytest-timeout's alarm."""
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
