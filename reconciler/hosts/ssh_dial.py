"""One way to one host: ssh config, jump hosts, host keys, login. Called by ssh_link.py; everything that can go wrong is a Trouble.

Of ~/.ssh/config asyncssh reads Host, Match (not `canonical`), Include, HostName, User, Port, IdentityFile, CertificateFile, IdentityAgent,
IdentitiesOnly, ProxyJump, ProxyCommand, HostKeyAlias, UserKnownHostsFile, GlobalKnownHostsFile, AddressFamily, BindAddress, Compression
and the lists of algorithms. It does not read /etc/ssh/ssh_config, and ignores ControlMaster and ControlPath (one connection is shared
here anyway), StrictHostKeyChecking (strict here, unless accept_new), CheckHostIP, HashKnownHosts, RevokedHostKeys, KnownHostsCommand,
VerifyHostKeyDNS and AddKeysToAgent. We pass over, on purpose: passwords and keyboard-interactive, GSSAPI, host-based login,
PKCS11Provider, ForwardAgent, ForwardX11, SendEnv, SetEnv, RequestTTY, RemoteCommand, ConnectTimeout, ServerAlive…, CanonicalizeHostname.
`%` tokens are expanded in IdentityFile, CertificateFile, IdentityAgent, HostName and ProxyCommand only, not in UserKnownHostsFile.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import asyncssh

from reconciler.hosts.ssh_hostkeys import SSH_PORT, Doorman, Known, add, algorithms, known
from reconciler.hosts.ssh_keys import Keyring, Wanted, default_files, gather, load, stamp
from reconciler.hosts.ssh_place import SshPlace
from reconciler.hosts.ssh_words import Trouble, is_denied, words

#: A peer that does not answer this many keep-alives is gone.
_KEEPALIVES_MAX = 3
#: Jump hosts of jump hosts; more is a circle in the ssh config.
_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True)
class Stop:
    """One host on the way, as somebody wrote it: maybe an alias. The last one is the host itself."""

    host: str
    port: int | None = None
    user: str = ""
    jump: str = ""
    last: bool = False


#: The connections on the way, the first jump host's first, each with who watches it.
_Ways = list[tuple[asyncssh.SSHClientConnection, Doorman]]


class _Address(TypedDict, total=False):
    host: str
    port: int
    username: str


class Line:
    """A connection that is up, with the jump hosts' connections that carry it.

    users: programs on it, from the wish for a channel to the end. channels: of these, the ones that have a channel or are being given
    one. refused_since: by monotonic(), since when the host has opened no channel though we had none; None: it did.
    """

    def __init__(self, ways: _Ways) -> None:
        self._ways = ways
        self.connection, self._doorman = ways[-1]
        self.users = self.channels = 0
        self.refused_since: float | None = None

    @property
    def lost(self) -> str | None:
        """None while it is up, then why it ended."""
        return self._doorman.lost

    def abort(self) -> None:
        """End it at once, the jump hosts' last. Programs on the far side go on."""
        _abort(self._ways)

    async def close(self) -> None:
        """End it in good order."""
        for connection, _ in reversed(self._ways):
            connection.close()
            await connection.wait_closed()


class Dial:
    """Makes connections to one place. `stamp` is what the key files were when they were offered last."""

    def __init__(self, place: SshPlace) -> None:
        self._place = place
        self._at = place.where  # the stop that is being connected to, for people
        self._files: tuple[Path, ...] = ()
        self._stamp = stamp(())
        self._next_files: tuple[Path, ...] = ()
        self._next_stamp = stamp(())

    def keys_changed(self) -> bool:
        """True if a key file is another than at the last try. Blocks."""
        return stamp(self._files) != self._stamp

    async def line(self) -> Line:
        """Connect and log in, within the place's time. Raises Trouble."""
        ways: _Ways = []
        self._next_files, self._next_stamp = (), stamp(())
        place = self._place
        try:
            async with asyncio.timeout(place.connect_timeout_s):
                await self._reach(Stop(place.host, place.port, place.user, place.jump, last=True), ways, 0)
        except TimeoutError as error:
            _abort(ways)
            raise Trouble(f"{self._at}: no login within {place.connect_timeout_s:g} s") from error
        except BaseException:  # whatever ended it, a cancellation too: half a way to the host must not stay open
            _abort(ways)
            raise
        finally:
            self._files, self._stamp = self._next_files, self._next_stamp
        return Line(ways)

    async def _reach(self, stop: Stop, ways: _Ways, depth: int) -> None:
        """Connect to a stop, after the jump hosts before it; each is added to `ways`."""
        if depth > _DEPTH_MAX:
            raise Trouble(f"{stop.host}: more than {_DEPTH_MAX} jump hosts after one another: the ssh config has a circle")
        try:
            config = await self._config(stop)
            if not ways:
                for jump in stops(stop.jump or str(config.tunnel or "")):
                    await self._reach(jump, ways, depth + 1)
            await self._connect(stop, config, ways)
        except Trouble:
            raise
        except Exception as error:  # one host, or a fault in asyncssh, must not hurt what runs elsewhere
            raise Trouble(f"{self._name(stop)}: {words(error)}") from error

    def _name(self, stop: Stop) -> str:
        return self._place.where if stop.last else f"{self._place.where}: jump host {stop.host}"

    def _config_files(self) -> list[str] | None:
        if self._place.config_path:
            return [str(Path(self._place.config_path).expanduser())]
        usual = Path.home() / ".ssh" / "config"
        return [str(usual)] if usual.is_file() else None

    async def _config(self, stop: Stop) -> asyncssh.SSHClientConnectionOptions:
        """What the ssh config says of a stop. Nothing is connected, and no key is read."""
        options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(
            config=self._config_files(), client_keys=None, known_hosts=None, x509_trusted_certs=None, **_address(stop)
        )
        return options

    async def _connect(self, stop: Stop, config: asyncssh.SSHClientConnectionOptions, ways: _Ways) -> None:
        self._at = self._name(stop)
        host = await asyncio.to_thread(self._known, config)
        doorman = Doorman(host, self._place.accept_new)
        ring = await self._keyring(stop, config)
        try:
            connection = await asyncssh.connect(
                **_address(stop),
                config=self._config_files(),
                tunnel=ways[-1][0] if ways else None,  # None: no, whatever the config says
                client_factory=lambda: doorman,
                known_hosts=(host.keys, host.authorities, host.revoked),
                client_keys=ring.pairs,
                server_host_key_algs=algorithms(host),
                keepalive_interval=self._place.keepalive_s,
                keepalive_count_max=_KEEPALIVES_MAX,
                connect_timeout=None,  # line() has the time
                login_timeout=0,
                **_NOTHING_ELSE,
            )
        except Exception as error:  # as in _reach: told as Trouble, with what the host was asked and answered
            raise self._trouble(stop, error, doorman, ring) from error
        finally:
            ring.close()
        ways.append((connection, doorman))
        if doorman.new_line:
            await asyncio.to_thread(add, host.files[0], doorman.new_line)

    def _trouble(self, stop: Stop, error: Exception, doorman: Doorman, ring: Keyring) -> Trouble:
        name = self._name(stop)
        if doorman.refusal:
            return Trouble(f"{name}: {doorman.refusal}")
        if is_denied(error):
            return Trouble(
                f"{name}: {words(error)} (offered: {ring.names}). Add the public key to ~/.ssh/authorized_keys there, or correct `user:` "
                "or `key_path:`; a site that asks for a second factor cannot be used without a key that is exempt. Asked rarely from now "
                "on, so that no account is locked; a changed key file is tried at once",
                denied=True,
            )
        return Trouble(f"{name}: {words(error)}")

    def _known(self, config: asyncssh.SSHClientConnectionOptions) -> Known:
        """Blocks."""
        if self._place.known_hosts:
            names = [self._place.known_hosts]
        else:
            names = _strings(config.config.get("UserKnownHostsFile")) or ["~/.ssh/known_hosts"]
            names += _strings(config.config.get("GlobalKnownHostsFile")) or ["/etc/ssh/ssh_known_hosts"]
        files = tuple(Path(name).expanduser() for name in names)
        if config.host_key_alias:
            return known(files, config.host_key_alias, SSH_PORT)
        return known(files, config.host, config.port)

    async def _keyring(self, stop: Stop, config: asyncssh.SSHClientConnectionOptions) -> Keyring:
        wanted = self._wanted(stop, config)
        self._next_files += wanted.files
        self._next_stamp = await asyncio.to_thread(stamp, self._next_files)
        loaded = await asyncio.to_thread(load, wanted)
        try:
            return await gather(wanted, loaded)
        except Trouble as trouble:
            raise Trouble(f"{self._name(stop)}: {trouble}") from trouble

    def _wanted(self, stop: Stop, config: asyncssh.SSHClientConnectionOptions) -> Wanted:
        """The key that the operator names holds for every stop; at a jump host those of its own in the ssh config come before it."""
        place = self._place
        configured = _strings(config.config.get("IdentityFile"))
        key = Path(place.key_path).expanduser() if place.key_path else None
        own = [] if key and stop.last else [Path(file).expanduser() for file in configured]
        files = tuple([*own, key] if key else own) or default_files()
        certificates = [place.cert_path] if place.cert_path else _strings(config.config.get("CertificateFile"))
        agent = _agent_path(config.config.get("IdentityAgent", "SSH_AUTH_SOCK"))
        only = bool(key or config.config.get("IdentitiesOnly"))
        return Wanted(files, tuple(Path(file).expanduser() for file in certificates), agent, key, only)


class _NothingElse(TypedDict):
    preferred_auth: list[str]
    password_auth: bool
    kbdint_auth: bool
    host_based_auth: bool
    gss_auth: bool
    gss_kex: bool
    agent_path: None
    pkcs11_provider: None
    agent_forwarding: bool
    x11_forwarding: bool
    x509_trusted_certs: None
    canonicalize_hostname: bool


#: Keys, and nothing else, whatever the ssh config says.
_NOTHING_ELSE: _NothingElse = {
    "preferred_auth": ["publickey"],
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "gss_auth": False,
    "gss_kex": False,
    "agent_path": None,
    "pkcs11_provider": None,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "x509_trusted_certs": None,
    "canonicalize_hostname": False,
}


def stops(jump: str) -> list[Stop]:
    """`[user@]host[:port]`, several separated by commas, as `ssh -J` takes them. Raises Trouble."""
    return [_stop(text.strip()) for text in jump.split(",") if text.strip() and text.strip().lower() != "none"]


def _stop(text: str) -> Stop:
    user, _, rest = text.removeprefix("ssh://").rpartition("@")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    else:
        host, port = rest, ""
    if not host or (port and not port.isdecimal()):
        raise Trouble(f"jump host {text!r} cannot be read: write [user@]host[:port]")
    return Stop(host, int(port) if port else None, user)


def _address(stop: Stop) -> _Address:
    address = _Address(host=stop.host)
    if stop.port is not None:
        address["port"] = stop.port
    if stop.user:
        address["username"] = stop.user
    return address


def _abort(ways: _Ways) -> None:
    for connection, _ in reversed(ways):
        connection.abort()


def _strings(value: object) -> list[str]:
    """An option of the ssh config that is a list of files; `none` is no file."""
    return [str(item) for item in value if str(item).lower() != "none"] if isinstance(value, list) else []


def _agent_path(value: object) -> str:
    """IdentityAgent: a path, `none`, `SSH_AUTH_SOCK`, or `$NAME`."""
    text = "" if value is None else str(value)
    if text == "SSH_AUTH_SOCK":
        return os.environ.get(text, "")
    return os.environ.get(text[1:], "") if text.startswith("$") else str(Path(text).expanduser()) if text else ""
