"""Which keys are offered to a host, and never more than a host forgives. Called by ssh_dial.py.

asyncssh would offer every key of the agent before the one that was asked for, and be thrown out by sshd's MaxAuthTries. Here the files'
keys come first, from the agent if it holds them (so a key with a passphrase works), and a key that the operator names is the only one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from reconciler.hosts.ssh_words import Trouble, words

#: sshd's MaxAuthTries is 6; each refused key counts as a failed login.
_OFFERED_MAX = 5
_DEFAULT_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The keys that may be offered.

    files: best first. certificates: files; one beside a key (`-cert.pub`) is found without. agent_path: the agent's socket, "" for none.
    required: the file that the operator names: not to be able to read it is an error. only: the agent's other keys are not offered.
    """

    files: tuple[Path, ...]
    certificates: tuple[Path, ...]
    agent_path: str
    required: Path | None
    only: bool


@dataclass(slots=True)
class _Loaded:
    pairs: list[asyncssh.SSHKeyPair]
    public: list[bytes]  # of all files, also of those that cannot be opened without a passphrase
    read: list[Path]
    locked: list[Path]


@dataclass(slots=True)
class Keyring:
    """The keys to offer, best first. The agent signs with its own, so close() comes after the login."""

    pairs: list[asyncssh.SSHKeyPair]
    names: str
    agent: asyncssh.SSHAgentClient | None

    def close(self) -> None:
        if self.agent is not None:
            self.agent.close()


def default_files() -> tuple[Path, ...]:
    """Where OpenSSH looks for keys when nothing says otherwise."""
    return tuple(Path.home() / ".ssh" / name for name in _DEFAULT_NAMES)


def stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Changes when one of the files does (or its certificate): somebody did something about a refused key. Blocks."""
    return tuple(_stamp(Path(f"{file}{end}")) for file in files for end in ("", "-cert.pub"))


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, -1
    return str(path), stat.st_mtime_ns, stat.st_size


def load(wanted: Wanted) -> _Loaded:
    """Read the key files. Raises Trouble if one that was asked for cannot be read. Blocks: call it on a thread."""
    loaded = _Loaded([], [], [], [])
    for path in wanted.files:
        try:
            pairs = asyncssh.load_keypairs(str(path), certlist=[str(file) for file in wanted.certificates])
        except (OSError, ValueError) as error:
            if "assphrase" in str(error):
                loaded.locked.append(path)
                loaded.public += _public(path)
            elif path == wanted.required:
                raise Trouble(f"the key {path} cannot be used: {words(error)}") from error
            continue
        loaded.read.append(path)
        loaded.pairs += pairs
        loaded.public += [pair.public_data for pair in pairs]
    return loaded


def _public(path: Path) -> list[bytes]:
    """The public half of a key that needs a passphrase: beside it, or in it."""
    for file in (f"{path}.pub", str(path)):
        try:
            return [asyncssh.read_public_key(file).public_data]
        except (OSError, ValueError):
            continue
    return []


async def gather(wanted: Wanted, loaded: _Loaded) -> Keyring:
    """What to offer. Raises Trouble if there is nothing; the host is not even asked then."""
    agent, in_agent = await _agent(wanted.agent_path)
    held = [pair for pair in in_agent if pair.public_data in loaded.public]
    others = [] if wanted.only else [pair for pair in in_agent if pair.public_data not in loaded.public]
    ours = {pair.public_data for pair in held}
    files = [pair for pair in loaded.pairs if pair.public_data not in ours]
    pairs = [*held, *files, *others][:_OFFERED_MAX]
    ring = Keyring(pairs, _names(loaded, len(held) + len(others)), agent)
    if not pairs:
        ring.close()
        raise Trouble(_nothing_to_offer(wanted, loaded))
    return ring


async def _agent(path: str) -> tuple[asyncssh.SSHAgentClient | None, Sequence[asyncssh.SSHKeyPair]]:
    if not path:
        return None, []
    try:
        agent = await asyncssh.connect_agent(path)
    except OSError:  # a socket of an agent that is gone: as if there were none
        return None, []
    try:
        return agent, await agent.get_keys()
    except ValueError:  # it does not speak as an agent does
        agent.close()
        return None, []


def _names(loaded: _Loaded, held: int) -> str:
    """The keys for people: files, and how many of the agent's."""
    return ", ".join([*map(str, loaded.read), *([f"{held} of the agent's"] if held else [])])


def _nothing_to_offer(wanted: Wanted, loaded: _Loaded) -> str:
    agent = f"the agent at {wanted.agent_path}" if wanted.agent_path else "no agent (SSH_AUTH_SOCK is not set)"
    if loaded.locked:
        key = loaded.locked[0]
        return f"the key {key} has a passphrase and {agent} does not hold it: `ssh-add {key}`, or name a key without a passphrase"
    files = ", ".join(map(str, wanted.files))
    held = f"{agent} holds none" if wanted.agent_path else f"there is {agent}"
    return f"there is no key to log in with: none of {files} exists, and {held}; name one with `key_path:`"
