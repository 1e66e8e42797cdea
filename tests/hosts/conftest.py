"""What the tests of hosts share: an sshd that runs any command, hosts that are closed in the end, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.hosts.base import NotBegun
from reconciler.hosts.ssh import SshHost, SshPlace, Tuning
from tests.sshd import Sshd


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys, agent and ssh config of whoever runs the tests play no part."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("ssh") / "sshd", any_command=True, more="AcceptEnv *\n") as running:
        yield running


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """One that a test may stop, cut and reconfigure."""
    with Sshd(tmp_path / "sshd", any_command=True) as running:
        yield running


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def place(sshd: Sshd, **changed: object) -> SshPlace:
    """The way to an sshd with its right key and its right host key, unless told otherwise."""
    right = SshPlace("127.0.0.1", port=sshd.port, key_path=str(sshd.key), known_hosts=str(sshd.known_hosts))
    return replace(right, **changed)  # type: ignore[arg-type]


class Hosts:
    """Makes hosts that are closed after the test. Pauses are by the clock, and exact."""

    def __init__(self, clock: Clock) -> None:
        self._tuning = Tuning(now=clock, jitter=lambda: 1.0, refused_pauses_s=(0.01, 0.05), refused_max_s=0.5)
        self.made: list[SshHost] = []

    def __call__(self, sshd: Sshd, **changed: object) -> SshHost:
        return self.at(place(sshd, **changed))

    def at(self, there: SshPlace) -> SshHost:
        self.made.append(SshHost(there, self._tuning))
        return self.made[-1]


@pytest.fixture
async def hosts(clock: Clock) -> AsyncIterator[Hosts]:
    made = Hosts(clock)
    yield made
    for host in made.made:
        await host.close()


async def refusal(host: SshHost) -> str:
    """What a host says that runs nothing."""
    with pytest.raises(NotBegun) as refused:
        await host.run("echo never", 20)
    return str(refused.value)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that will be so, while the loop goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


class Frozen:
    """The processes of an sshd's connections stand still: the network is there, and nobody answers."""

    def __init__(self, sshd: Sshd) -> None:
        self._pids = sshd.connections()

    def __enter__(self) -> list[int]:
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)
        return self._pids

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
