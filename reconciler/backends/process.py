"""Processes of this machine: who they are, whether they live, how one is started. Linux only (/proc, pidfd). Called by local.py.

A pid alone names nobody: pids come back. A process is boot id + pid namespace + pid + start time; a *job* is the process group
that its wrapper leads, and it ends when the group is empty. While a group has members the kernel gives its number to nobody else.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from reconciler.backends.marks import Process
from reconciler.backends.script import FOLDER_VARIABLE

#: What a job inherits of the daemon's environment: who and where, and the language. Never keys, agent sockets or cloud credentials.
INHERITED = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Read when this is imported, because a daemon soon allows itself more than its jobs should have.
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_QUIET = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    (os.POSIX_SPAWN_DUP2, 1, 2),
]
#: Set back to their defaults in a job: Python ignores SIGPIPE, and nohup SIGHUP.
_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD]


class Life(Enum):
    """What is left of the process group of a job."""

    LED = "led"  # the wrapper lives
    LEFT = "left"  # the wrapper is gone, and processes that it left behind live
    GONE = "gone"  # nobody of it lives
    RESTARTED = "restarted"  # it was of another boot, or another pid namespace, which ended with it


@dataclass(frozen=True, slots=True)
class Machine:
    """This boot and this pid namespace. Jobs get `umask` (octal text), and `files` as the soft limit of open files."""

    boot: str
    namespace: int
    umask: str
    files: int


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc says of one process."""

    state: str
    group: int
    session: int
    ticks: int

    @property
    def dead(self) -> bool:
        """A zombie has ended, and waits only for its parent to notice."""
        return self.state in "ZX"


def this_machine() -> Machine:
    """Read once, at the start of a daemon."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    umask = next((line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), "0022")
    return Machine(
        boot=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        namespace=os.stat("/proc/self/ns/pid").st_ino,
        umask=umask,
        files=_FILES,
    )


def uptime() -> float:
    """Seconds since this boot, asleep ones included: the clock that the kernel dates processes with. Nobody can set it."""
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def age_s(ticks: int) -> float:
    """How long ago a process with that start began, in seconds."""
    return max(0.0, uptime() - ticks / os.sysconf("SC_CLK_TCK"))


def stat_of(pid: int) -> Stat | None:
    """What /proc says of `pid`; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b") ")[2].split()  # the name before it may hold anything, also ")"
    return Stat(fields[0].decode(), int(fields[2]), int(fields[3]), int(fields[19]))


def clean_environment() -> dict[str, str]:
    """What every job inherits of this daemon's environment: an allow-list."""
    kept = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}
    return {"PATH": _DEFAULT_PATH, "HOME": os.path.expanduser("~"), **kept}


def keep_files() -> None:
    """Let no job inherit a file that this daemon inherited: a lock or a pipe of whoever started it would stay held for weeks."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the one that the listing itself was read with
                os.set_inheritable(int(name), False)


def spawn(folder: str, environment: Mapping[str, str]) -> int:
    """Run `sh <folder>/script` detached, in a session and a process group of its own, and marked as of the job in `folder`; its pid.

    Raises OSError when it was not started.

    posix_spawn, because it needs 0.25 ms where subprocess.Popen needs three times that. Python opens all files close-on-exec;
    `keep_files` sees to the others.
    """
    argv, marked = ["/bin/sh", f"{folder}/script"], {**environment, FOLDER_VARIABLE: folder}
    return os.posix_spawn("/bin/sh", argv, marked, file_actions=_QUIET, setsid=True, setsigdef=_SIGNALS, setsigmask=[])


def living_groups(groups: Iterable[int]) -> set[int]:
    """Those of `groups` in which a process lives. Zombies do not, however long their parent leaves them lying about."""
    candidates = {group for group in groups if _answers(group)}
    return {stat.group for _, stat in _everybody() if stat.group in candidates and not stat.dead} if candidates else set()


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to every process of a group; nobody there, or nobody who may be told, is no error."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def life_of(process: Process, folder: str, machine: Machine) -> Life:
    """What is left of the job whose wrapper `process` was, as one sees it who has not watched it all along.

    The number of a group that has become empty may be a stranger's by now. So what is left without its leader counts as ours
    only if one of them carries our variable.
    """
    if process.boot != machine.boot or process.namespace != machine.namespace:
        return Life.RESTARTED
    stat = stat_of(process.pid)
    if stat is not None and (stat.ticks != process.ticks or stat.group != process.pid):
        return Life.GONE
    if stat is not None and not stat.dead:
        return Life.LED
    if not _answers(process.pid):
        return Life.GONE
    members = (pid for pid, each in _everybody() if each.group == process.pid and not each.dead)
    return Life.LEFT if any(_folder_of(pid) == folder for pid in members) else Life.GONE


def folders_below(root: str) -> set[str]:
    """The folders below `root` of all jobs of which a process lives."""
    folders = {_folder_of(pid) for pid, stat in _everybody() if not stat.dead}
    return {folder for folder in folders if folder.startswith(f"{root}/")}


def processes_of(folder: str) -> list[int]:
    """The living processes of the job in `folder`, also one that has not come to say who it is."""
    return [pid for pid, stat in _everybody() if not stat.dead and _folder_of(pid) == folder]


def _answers(group: int) -> bool:
    """Whether the kernel knows that group. Asked first: /proc costs 20 µs a process, and most groups are empty."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # there is somebody, of another user
    return True


def _everybody() -> Iterator[tuple[int, Stat]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := stat_of(int(name))) is not None:
            yield int(name), stat


def _folder_of(pid: int) -> str:
    """What our variable says in the environment that `pid` was started with; "" when it has none or may not be asked."""
    prefix = f"{FOLDER_VARIABLE}=".encode()
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    return next((os.fsdecode(entry[len(prefix) :]) for entry in entries if entry.startswith(prefix)), "")
