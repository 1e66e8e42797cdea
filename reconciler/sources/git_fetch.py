"""Fetches one ref of one remote repository into a bare mirror: `python -m reconciler.sources.git_fetch`, started by git_remote.py.

It is a process of its own because libgit2 cannot be interrupted: a server that accepts a connection and never answers would hold a
thread for ever. The order comes as JSON over stdin, so that neither url nor key is ever on a command line; the answer is one line of
JSON: `{"commit": …}`, `{"refused": …}` or `{"unreachable": …}`.

Nothing of the user's or the machine's git configuration counts here (`url.*.insteadOf`, `http.sslVerify`): HOME is a folder of ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pygit2
from pygit2.enums import ConfigLevel, CredentialType

from reconciler.errors import SourceError, SourceRefused, SourceUnreachable
from reconciler.printable import redact_text
from reconciler.sources.git_hostkeys import SSH_PORT, host_name, trusted_lines
from reconciler.sources.git_ref import Ref

TIP = "refs/reconciler/tip"
"""Where the mirror keeps what was fetched last."""
RECEIVED_BYTES_MAX = 8 * 1024**3
"""A server that sends more in one fetch is refused: it could fill the disk within the time-out."""
PACKS_MAX = 100
"""Each fetch leaves a pack. After so many the mirror is made anew, which also frees what was force-pushed away."""
GRACE_S = 5
"""How long after the time-out this process ends itself, should nobody be left to kill it."""

_NO_REPOSITORY = "there is no such repository, or it is not shown to us"
_NO_LOGIN = "the server refused the login"
_REFUSALS = {
    "status code: 404": _NO_REPOSITORY,
    "does not appear to be a git repository": _NO_REPOSITORY,
    "epository not found": _NO_REPOSITORY,
    "private key file": "the deploy key is none that can be used; it must be a private key without a passphrase",
    "status code: 401": _NO_LOGIN,
    "status code: 403": _NO_LOGIN,
    "authenticat": _NO_LOGIN,
    "exchange encryption keys": "the host has no key of the kind that known_hosts says, or no cipher that we have",
    "certificate": "the server's certificate is not to be trusted",
}
"""What libgit2 1.9 and its ssh library say when a person must act, seen from real servers (tests/sources/test_git_ssh.py, _https.py)."""

_SCP_FORM = re.compile(r"(?:([^@/]+)@)?([^@/:]+):(?!//)(.+)")


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch from where. Paths are absolute; "" for a key that is not given. `subject` begins messages, without credentials."""

    subject: str
    url: str
    kind: str
    name: str
    mirror: str
    home: str
    deploy_key: str
    known_hosts: str
    timeout_s: float

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.name)


def ssh_address(url: str) -> tuple[str, int] | None:
    """Host and port of an ssh url (`ssh://…` or `user@host:path`); None for another one."""
    if "://" not in url:
        match = _SCP_FORM.fullmatch(url)
        return (match[2], SSH_PORT) if match else None
    parts = urlsplit(url)
    return (parts.hostname or "", parts.port or SSH_PORT) if parts.scheme == "ssh" else None


class Visitor(pygit2.RemoteCallbacks):
    """Shows the deploy key, once; believes no host that libgit2 does not; stops a server that sends without end."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order
        self._shown = False

    def credentials(self, url: str, username_from_url: str | None, allowed_types: CredentialType) -> pygit2.Keypair | pygit2.Username:
        subject, key = self._order.subject, self._order.deploy_key
        user = username_from_url or "git"
        if allowed_types & CredentialType.USERNAME:
            return pygit2.Username(user)
        if not allowed_types & CredentialType.SSH_KEY:
            if ssh_address(self._order.url) is not None:
                raise SourceRefused(f"{subject}: the server takes no ssh keys")
            raise SourceRefused(f"{subject}: the server asks for a login, or refuses the one in the url")
        if not key:
            raise SourceRefused(f"{subject}: the server asks for an ssh key; name its file as `deploy_key`")
        if self._shown:
            raise SourceRefused(
                f"{subject}: the server refused the deploy key {key}; add its public half there (a key with a passphrase cannot be used)"
            )
        self._shown = True
        return pygit2.Keypair(user, None, key, "")

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        if valid:
            return True
        address, order = ssh_address(self._order.url), self._order
        if address is None:
            raise SourceRefused(
                f"{order.subject}: the certificate of {host.decode(errors='replace')} is for another name, has expired, or nobody that "
                "this machine trusts vouches for it; if the host is yours, name its authority in SSL_CERT_FILE of the daemon's environment"
            )
        raise SourceRefused(
            f"{order.subject}: the host key of {host_name(*address)} is another one than {order.known_hosts} says; "
            "somebody may stand in between. Ask whoever runs that host before you change the file"
        )

    def transfer_progress(self, stats: pygit2.remotes.TransferProgress) -> None:
        if stats.received_bytes > RECEIVED_BYTES_MAX:
            raise SourceRefused(
                f"{self._order.subject}: more than {RECEIVED_BYTES_MAX // 1024**3} GB in one fetch; use a smaller repository"
            )


def fetch(order: Order) -> str:
    """The commit that the ref stands at now; afterwards the mirror holds it. Raises SourceError."""
    mirror = Path(order.mirror)
    _clear(mirror)
    repository = _opened(mirror)
    if order.kind == "commit" and repository is not None and _has(repository, order.name):
        return order.name  # a commit never changes: nobody is asked
    _prepare(order)
    if repository is not None and not _is_worn(mirror):
        return _fetch_into(repository, order)
    if repository is not None and (commit := _unchanged(repository, order)):
        return commit  # whoever reads an unchanged mirror shall go on reading it
    commit = _fetch_into(_made(Path(f"{mirror}.new")), order)
    shutil.rmtree(mirror, ignore_errors=True)
    os.rename(f"{mirror}.new", mirror)
    return commit


def _clear(mirror: Path) -> None:
    """Removes what is left of fetches that were killed, and the mirrors of urls that this source had before."""
    mirror.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in mirror.parent.glob("*.git*"):
        if other != mirror:
            shutil.rmtree(other, ignore_errors=True)
    for leftover in (*mirror.glob("objects/pack/*pack_*_*"), *mirror.glob("**/*.lock")):  # finished packs are named pack-<hash>
        leftover.unlink()


def _is_worn(mirror: Path) -> bool:
    return len(list(mirror.glob("objects/pack/*.pack"))) > PACKS_MAX


def _prepare(order: Order) -> None:
    """Checks what needs no server, and tells libgit2 where its files are: none but ours."""
    for level in (ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL, ConfigLevel.PROGRAMDATA):
        pygit2.settings.search_path[level] = order.home
    folder = Path(order.home) / ".ssh"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    address = ssh_address(order.url)
    if address is None:
        return
    _check_key(order)
    try:
        text = Path(order.known_hosts).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceRefused(
            f"{order.subject}: no host is trusted, because {order.known_hosts} cannot be read ({error.strerror}); {_cure(address)}"
        ) from error
    lines = trusted_lines(text, *address)
    if not lines:
        raise SourceRefused(f"{order.subject}: {order.known_hosts} has no key of {host_name(*address)}; {_cure(address)}")
    (folder / "known_hosts").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _cure(address: tuple[str, int]) -> str:
    host, port = address
    return f"add what `ssh-keyscan -p {port} {host}` says, after comparing it with what whoever runs that host publishes"


def _check_key(order: Order) -> None:
    if not order.deploy_key:
        return
    try:
        mode = os.stat(order.deploy_key).st_mode
        os.close(os.open(order.deploy_key, os.O_RDONLY))
    except OSError as error:
        raise SourceRefused(f"{order.subject}: the deploy key {order.deploy_key} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise SourceRefused(f"{order.subject}: other users may read the deploy key {order.deploy_key}; chmod 600 it")


def _opened(mirror: Path) -> pygit2.Repository | None:
    """The mirror; None when there is none, or it is damaged (a power cut), which a new one cures."""
    try:
        repository = pygit2.Repository(str(mirror), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
        tip = repository.references.get(TIP)
        if tip is not None:
            tip.peel(pygit2.Tree)
    except (pygit2.GitError, KeyError, ValueError):
        return None
    return repository


def _made(folder: Path) -> pygit2.Repository:
    folder.mkdir(mode=0o700, parents=True)
    return pygit2.init_repository(str(folder), bare=True)


def _fetch_into(repository: pygit2.Repository, order: Order) -> str:
    return _fetch_commit(repository, order) if order.kind == "commit" else _fetch_ref(repository, order)


def _unchanged(repository: pygit2.Repository, order: Order) -> str:
    """The commit that the mirror holds, when the ref still stands there; else ""."""
    tip = repository.references.get(TIP)
    if tip is None or not order.ref.full:
        return ""
    _, names = _connected(repository, order)
    return str(tip.peel(pygit2.Commit).id) if names.get(order.ref.full) == str(tip.target) else ""


def _fetch_ref(repository: pygit2.Repository, order: Order) -> str:
    remote, names = _connected(repository, order)
    wanted = names.get(order.ref.full)
    if wanted is None:
        raise order.ref.missing(order.subject, names)
    known = repository.references.get(TIP)
    if known is None or str(known.target) != wanted:
        remote.fetch([f"+{order.ref.full}:{TIP}"], callbacks=Visitor(order), proxy=True)
    try:
        return str(repository.references[TIP].peel(pygit2.Commit).id)
    except pygit2.GitError as error:
        raise SourceRefused(f"{order.subject}: {order.kind} {order.name} is no commit; correct `{order.kind}`") from error


def _fetch_commit(repository: pygit2.Repository, order: Order) -> str:
    """A pinned commit, by its id if the server gives it so, else with every branch and tag."""
    remote, names = _connected(repository, order)
    try:
        remote.fetch([f"+{order.name}:{TIP}"], callbacks=Visitor(order), proxy=True)
    except pygit2.GitError:  # the server hands out what a ref stands at, and nothing else
        remote, names = _connected(repository, order)
        specs = ["+refs/heads/*:refs/reconciler/heads/*", "+refs/tags/*:refs/reconciler/tags/*"]
        remote.fetch(specs, callbacks=Visitor(order), proxy=True)
    if not _has(repository, order.name):
        raise order.ref.missing(order.subject, names)
    repository.references.create(TIP, order.name, force=True)
    return order.name


def _has(repository: pygit2.Repository, commit: str) -> bool:
    return isinstance(repository.get(commit), pygit2.Commit)


def _connected(repository: pygit2.Repository, order: Order) -> tuple[pygit2.Remote, dict[str, str]]:
    """The remote, connected, and what it has: full name of each ref -> 40 digits."""
    remote = repository.remotes.create_anonymous(order.url)
    remote.connect(callbacks=Visitor(order), proxy=True)
    return remote, {head.name or "": str(head.oid) for head in remote.list_heads(connect=False)}


def translated(call: Callable[[], str], subject: str) -> dict[str, str]:
    """The answer: what `call` returns, or the error as ours. libgit2 says most of what went wrong in words only."""
    try:
        return {"commit": call()}
    except SourceRefused as error:
        return {"refused": str(error)}
    except SourceUnreachable as error:
        return {"unreachable": str(error)}
    except (SourceError, pygit2.GitError, KeyError, ValueError, OSError) as error:
        said = redact_text(" ".join(str(error).split()))
        return _trouble(said, subject)


def _trouble(said: str, subject: str) -> dict[str, str]:
    """What libgit2 says in words, as refused (a person must act) or unreachable (everything that we do not know)."""
    for words, meaning in _REFUSALS.items():
        if words in said:
            return {"refused": f"{subject}: {meaning} ({said})"}
    return {"unreachable": f"{subject} cannot be reached: {said}"}


def main() -> None:
    """Reads the order from stdin, writes the answer to stdout."""
    order = Order(**json.load(sys.stdin))
    pygit2.settings.enable_fsync_gitdir(True)  # a power cut must not leave half a mirror
    signal.alarm(int(order.timeout_s) + GRACE_S)
    print(json.dumps(translated(lambda: fetch(order), order.subject)))


if __name__ == "__main__":
    main()
