"""A real sshd on a loopback port, for tests: it lets one key run git and nothing else, or any command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PermitRootLogin yes
LogLevel VERBOSE
"""


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair: `path`, and `path`.pub beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)], check=True)
    return path


class Sshd:
    """An sshd with `folder` as its home. Use `with`, or start() and stop(), which may be repeated: the port stays.

    `key` may log in as the user who runs the tests: to run git and nothing else, or whatever it likes with `any_command`. `more` are
    further lines of sshd_config.
    """

    def __init__(self, folder: Path, any_command: bool = False, more: str = "") -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True)
        self.key = make_key(folder / "deploy_key")
        self.host_key = make_key(folder / "host_key")
        command = (
            'command="case \\"$SSH_ORIGINAL_COMMAND\\" in git-upload-pack*) eval \\"$SSH_ORIGINAL_COMMAND\\";; *) exit 1;; esac",restrict'
        )
        (folder / "authorized_keys").write_text(f"{'' if any_command else command + ' '}{self.key.with_suffix('.pub').read_text()}")
        self.port = _free_port()
        (folder / "sshd_config").write_text(_CONFIG.format(port=self.port, folder=folder) + more)
        self.home = folder / "home"  # so that the profile of whoever runs the tests plays no part
        self.home.mkdir()
        if any_command:
            with (folder / "sshd_config").open("a") as config:
                config.write(f"SetEnv HOME={self.home}\n")
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(self.known_hosts_line(self.host_key))
        self._process: subprocess.Popen[bytes] | None = None

    def known_hosts_line(self, key: Path) -> str:
        """The line of known_hosts that says: this host has that key."""
        kind, text, *_ = key.with_suffix(".pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {text}\n"

    def url(self, path: Path) -> str:
        """The ssh url of a repository on this machine."""
        import getpass

        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def log(self) -> str:
        """What sshd said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def visits(self) -> int:
        """How many connections came so far, the one by which start() sees that it listens among them."""
        return self.log().count("Connection from ")

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. The log begins anew."""
        program = shutil.which("sshd", path=_SEARCH)
        assert program is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation; Debian makes it when the service starts
        with (self.folder / "log").open("wb") as log:
            words = [program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    def _await(self) -> None:
        """Until it listens, and all of our own visit is in the log."""
        assert self._process is not None
        end = time.monotonic() + 10
        while not _answers(self.port):
            assert self._process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.02)
        while self.connections():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def stop(self) -> None:
        """Listen no more. Connections that are up stay up, as with a real one; cut() ends them."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def connections(self) -> list[int]:
        """The process of each connection that is up. Ask while it listens."""
        assert self._process is not None
        return _children(self._process.pid)

    def programs(self) -> list[int]:
        """What runs on these connections."""
        return [pid for connection in self.connections() for pid in _children(connection)]

    def cut(self) -> None:
        """Kill the processes of all connections, as a crash or a lost network would. What they started goes on."""
        for pid in self.connections():
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
