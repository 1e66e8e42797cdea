"""Where an ssh connection goes and how it behaves: what the operator says, and the pauses that tests make shorter. Used by ssh*.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from reconciler import clock


@dataclass(frozen=True, slots=True)
class SshPlace:
    """A host to log in to.

    host: a name, an address, or an alias of the ssh config. port: None is what the config says, or 22. user: "" is the config's, or the
    daemon's own. key_path: "" is the config's, or the usual default keys; and those of the agent. cert_path: a certificate for the key, ""
    is the one beside it (`-cert.pub`), if any. known_hosts: "" is the config's, or ~/.ssh/known_hosts; accept_new adds a host that it
    does not know, and still refuses a changed key. jump: `[user@]host[:port]` or aliases, separated by commas as for `ssh -J`; "" is the
    config's ProxyJump. config_path: "" is ~/.ssh/config if it exists. login_shell: read the user's profile before every program.
    channels: how many programs at a time; sshd allows 10 unless told otherwise.
    """

    host: str
    port: int | None = None
    user: str = ""
    key_path: str = ""
    cert_path: str = ""
    known_hosts: str = ""
    accept_new: bool = False
    jump: str = ""
    config_path: str = ""
    login_shell: bool = False
    channels: int = 5
    connect_timeout_s: float = 20
    keepalive_s: float = 15

    @property
    def where(self) -> str:
        """The host for people: `user@login.example.org`, with its port if one is given."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}{self.host}{port}"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How long to leave a host alone that could not be reached, in seconds, and what tests put in the place of chance and time.

    A pause is doubled with every failure, up to its maximum, and multiplied by 0.5 + jitter() / 2.
    """

    retry_first_s: float = 1
    retry_max_s: float = 60
    denied_first_s: float = 300  # sites lock an account or ban an address after a few failed logins within some minutes
    denied_max_s: float = 3600
    refused_pauses_s: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0)  # between tries of a channel that the host did not open
    refused_max_s: float = 2  # so long, with no channel of ours open: then a new connection is the cure
    jitter: Callable[[], float] = random.random
    now: Callable[[], float] = clock.monotonic

    def pause_s(self, failures: int, denied: bool) -> float:
        """How long to wait after the given number of failures in a row (at least 1)."""
        first, most = (self.denied_first_s, self.denied_max_s) if denied else (self.retry_first_s, self.retry_max_s)
        doubled = first * 2 ** min(failures - 1, 30)
        return float(min(doubled, most) * (0.5 + self.jitter() / 2))
