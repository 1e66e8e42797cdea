"""A login node whose Slurm commands can be broken without hurting anybody else who uses the cluster: wrappers around them, and a door.

A *wrapper* is a program called as a command of Slurm's that writes down each call and then does as its fault says, or else as the real
one. A *door* is an sshd of its own to a cluster's login node whose sessions find the wrappers first on their PATH.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.clusters.cluster import Cluster

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr")
_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_WRAPPER = """\
#!/bin/sh
# {program}: written down in `calls`, then as `{program}.fault` says, if it is there, else as the real one.
printf '%s\\n' "{program} $*" >>{folder}/calls
real() {{ {real} "$@"; }}
turn() {{ for turn in {folder}/{program}.turn.*; do rm "$turn" 2>/dev/null && return; done; return 1; }}
[ -f {folder}/{program}.fault ] || exec {real} "$@"
. {folder}/{program}.fault
"""


class Wrappers:
    """Wrappers of every command, in `folder`, which both the test and the cluster's user may write to; its name holds no blank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o777)
        self._calls = folder / "calls"
        self._calls.touch()
        self._calls.chmod(0o666)
        for program in COMMANDS:
            real = shutil.which(program, path=_SEARCH)
            if real is not None:
                path = folder / program
                path.write_text(_WRAPPER.format(program=program, folder=folder, real=real))
                path.chmod(0o755)

    def fault(self, program: str, text: str, times: int | None = None) -> None:
        """From now on a call of `program` is this shell text, in which `real "$@"` is the real one. `times`: only the next so many calls
        (None: until `heal`)."""
        for number in range(times or 0):
            (self.folder / f"{program}.turn.{number}").touch(0o666)
        head = "" if times is None else 'turn || { real "$@"; exit; }\n'
        new = self.folder / f"{program}.new"
        new.write_text(f"{head}{text}\n")
        new.chmod(0o644)
        new.rename(self.folder / f"{program}.fault")

    def heal(self, *programs: str) -> None:
        """These, or all, are as the real ones again."""
        for program in programs or COMMANDS:
            (self.folder / f"{program}.fault").unlink(missing_ok=True)
            for turn in self.folder.glob(f"{program}.turn.*"):
                turn.unlink(missing_ok=True)

    def calls(self, *programs: str) -> list[str]:
        """The calls so far, of these programs or of all, each with its arguments."""
        lines = self._calls.read_text().splitlines()
        return [line for line in lines if line.split(" ", 1)[0] in (programs or COMMANDS)]


class Door:
    """An sshd in front of a cluster's login node, with wrappers first on PATH. As the cluster's own in all else, but for `options`,
    lines of sshd_config; needs root."""

    def __init__(self, cluster: Cluster, wrappers: Wrappers, log: Path, *options: str) -> None:
        self._cluster = cluster
        self._log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        program = shutil.which("sshd", path=_SEARCH)
        assert program is not None
        environment = f"PATH={wrappers.folder}:/usr/local/bin:/usr/bin:/bin SLURM_CONF={cluster.slurm_conf}"
        self._words = ["nsenter", f"--target={cluster.pid('sshd')}", "--uts", program, "-D", "-e", "-p", str(self.port)]
        self._words += ["-f", str(cluster.state / "sshd_config"), "-o", "PidFile=none", "-o", f"SetEnv={environment}"]
        self._words += [word for option in options for word in ("-o", option)]
        self._process: subprocess.Popen[bytes] | None = None

    def known_hosts_line(self) -> str:
        """The line of known_hosts for this door."""
        return f"[127.0.0.1]:{self.port} {self._cluster.known_hosts.read_text().split(maxsplit=1)[1].splitlines()[0]}\n"

    def open(self) -> None:
        """Listen."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < end, self._log.read_text(errors="replace")
            time.sleep(0.02)

    def close(self) -> None:
        """Listen no more. Connections that are up stay up, as with a real one."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def cut(self) -> None:
        """Kill the processes of all connections, as a crash or a lost network would. What they started goes on."""
        assert self._process is not None
        for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False
