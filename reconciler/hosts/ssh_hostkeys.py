"""Whether a host is the one that known_hosts means: strict, or adding hosts that are new. Called by ssh_dial.py.

asyncssh's own reading is not enough: it gives up a whole file for one broken line, it cannot tell a changed key from an unknown one, it
believes a key that is known for the same address under another name, and `UserKnownHostsFile none` makes it believe everybody.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import asyncssh

SSH_PORT = 22
#: Kinds of host keys, and the signatures that we take from each, the best first.
_SIGNATURES = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


@dataclass(frozen=True)
class Known:
    """What the files know of one host. `name` is how they call it: `host`, or `[host]:port` on another port than 22.

    `exact` are the keys by that very name; `keys` has those of the plain name in their place when there are none, as in OpenSSH.
    """

    name: str
    files: tuple[Path, ...]
    keys: tuple[asyncssh.SSHKey, ...]
    exact: tuple[asyncssh.SSHKey, ...]
    authorities: tuple[asyncssh.SSHKey, ...]
    revoked: tuple[asyncssh.SSHKey, ...]


def known(files: tuple[Path, ...], host: str, port: int) -> Known:
    """Read the files; one that does not exist knows nobody, and neither does a broken line. Blocks: call it on a thread."""
    hosts = asyncssh.SSHKnownHosts()
    for line in (line for path in files for line in _lines(path)):
        try:
            hosts.load(line)
        except ValueError:  # as OpenSSH does: the other lines count
            continue
    host = host.lower()
    name = host if port == SSH_PORT else f"[{host}]:{port}"
    exact, authorities, revoked, *_ = hosts.match(name, "", None)
    keys = exact
    if not exact and not authorities:
        keys, authorities, also_revoked, *_ = hosts.match(host, "", None)
        revoked = [*revoked, *also_revoked]
    return Known(name, files, tuple(keys), tuple(exact), tuple(authorities), tuple(revoked))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def algorithms(host: Known) -> list[str]:
    """Which host keys to ask for: those that we know first, as OpenSSH does, and then all, so that a changed kind is seen as a change.

    Certificates only if an authority is known: else a host that has one could never be checked by its plain key.
    """
    kinds = dict.fromkeys([*(key.get_algorithm() for key in host.keys), *_SIGNATURES])
    plain = [name for kind in kinds for name in _SIGNATURES.get(kind, ())]
    certified = [f"{name}-cert-v01@openssh.com" for name in plain] if host.authorities else []
    return [*certified, *plain]


def add(path: Path, line: str) -> None:
    """Append a line once, whoever else does the same now. A new file is 0600. Blocks: call it on a thread."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read().decode(errors="replace")
        if line in before.splitlines():
            return
        gap = "\n" if before and not before.endswith("\n") else ""
        file.write(f"{gap}{line}\n".encode())


class Doorman(asyncssh.SSHClient):
    """Asked by asyncssh about a host key that the files do not know by this name; keeps what is to be said of it, or added.

    `lost` is None while the connection is up, and then why it ended.
    """

    def __init__(self, host: Known, accept_new: bool) -> None:
        self._host, self._accept_new = host, accept_new
        self.refusal = ""
        self.new_line = ""
        self.lost: str | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        if self._host.exact:
            self.refusal = _changed(self._host, key)
            return False
        if self._accept_new:
            self.new_line = f"{self._host.name} {_public(key)}"
            return True
        self.refusal = _unknown(self._host, key)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.refusal = (
            f"it shows a host certificate of an authority that {self._host.files[0]} does not know: {_shown(key)}; "
            f"if the site says that it is theirs, add `@cert-authority {self._host.name} {_public(key)}`"
        )
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = (str(exc) if exc else "") or "it was closed"


def _unknown(host: Known, key: asyncssh.SSHKey) -> str:
    return (
        f"its host key is in none of {', '.join(map(str, host.files))}: {_shown(key)}. If the site says that it is theirs, "
        f"add it (`{_keyscan(host.name)} >> {host.files[0]}`), or set `known_hosts: accept-new`"
    )


def _changed(host: Known, key: asyncssh.SSHKey) -> str:
    before = ", ".join(_shown(known_key) for known_key in host.exact)
    return (
        f"its host key has CHANGED: it shows {_shown(key)}, and {', '.join(map(str, host.files))} has {before}. It was installed anew, or "
        f"somebody is in between: ask the site, and only then `ssh-keygen -R '{host.name}' -f {host.files[0]}` and add the new one"
    )


def _keyscan(name: str) -> str:
    host, _, port = name.removeprefix("[").partition("]:")
    return f"ssh-keyscan -p {port} {host}" if port else f"ssh-keyscan {host}"


def _shown(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _public(key: asyncssh.SSHKey) -> str:
    """`ssh-ed25519 AAAA…`, without a comment."""
    return " ".join(key.export_public_key().decode().split()[:2])
