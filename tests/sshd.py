"""A real sshd on a loopback port that lets one key run git, for tests of sources."""

from __future__ import annotations

import os
import shutil
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
    """An sshd with `folder` as its home. Use `with`. `key` may log in, as the user who runs the tests, to run git and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True)
        self.key = make_key(folder / "deploy_key")
        self.host_key = make_key(folder / "host_key")
        command = (
            'command="case \\"$SSH_ORIGINAL_COMMAND\\" in git-upload-pack*) eval \\"$SSH_ORIGINAL_COMMAND\\";; *) exit 1;; esac",restrict'
        )
        (folder / "authorized_keys").write_text(f"{command} {self.key.with_suffix('.pub').read_text()}")
        self.port = _free_port()
        (folder / "sshd_config").write_text(_CONFIG.format(port=self.port, folder=folder))
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

    def __enter__(self) -> Sshd:
        program = shutil.which("sshd", path=_SEARCH)
        assert program is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation; Debian makes it when the service starts
        with (self.folder / "log").open("wb") as log:
            words = [program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while not _answers(self.port):
            assert self._process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)


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
