"""Faults between a daemon and a real Slurm, one after the other at random, for kill9_slurm.py: each is inflicted, held and mended.

sshd: its sessions cut, or itself killed. slurmctld: stopped, for longer than its clients wait now and then, or killed. The way there,
a relay (tests/clusters/relay.py): connections broken, refused, or broken in the middle of an answer. And a submit command that hangs
half-way for some seconds: when the daemon is killed meanwhile, its job turns up long after the next daemon has given it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path

from tests.clusters.cluster import Cluster
from tests.clusters.relay import Relay

#: A login costs some 4,000 bytes of answers, a look some hundred up to some ten thousand: half-way through one or the other.
_CUT_AFTER = (1500, 4500, 5500, 7000, 10_000, 20_000)


class Way:
    """The relay, on an event loop of its own thread, so that it goes on while the test waits."""

    def __init__(self, cluster: Cluster) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._relay = Relay(cluster)
        self._is_open = False
        self.mend()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._relay.port

    def mend(self) -> None:
        """Take connections, and hand on whole answers."""
        self._relay.after = None
        if not self._is_open:
            self._is_open = True
            self._wait(self._relay.open())

    def snap(self) -> None:
        """Break every connection; new ones are taken."""
        self._loop.call_soon_threadsafe(self._relay.snap)

    def refuse(self) -> None:
        """Break every connection, and refuse new ones."""
        self._is_open = False
        self._loop.call_soon_threadsafe(self._relay.cut)

    def break_after(self, count: int) -> None:
        """Break each connection once so many bytes have come back through it."""
        self._relay.after = count

    def write_known_hosts(self, path: Path) -> Path:
        """A known_hosts file for it."""
        return self._relay.write_known_hosts(path)

    def close(self) -> None:
        """Break everything, for good."""
        self._wait(self._relay.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, what: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)


class Faults:
    """Inflicts faults on a thread of its own between `start` and `stop`; `stop` leaves all mended and tells what went wrong in it."""

    def __init__(self, cluster: Cluster, way: Way, rng: random.Random) -> None:
        self._cluster, self._way, self._rng = cluster, way, rng
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End and mend. Raises what a fault could not be inflicted or mended for."""
        self._over.set()
        self._thread.join()
        self._way.mend()
        self._cluster.mend()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        faults = {
            "sshd sessions cut": self._cut_sessions,
            "sshd killed": self._kill_sshd,
            "slurmctld stopped": self._stop_slurmctld,
            "slurmctld killed": self._kill_slurmctld,
            "connections broken": self._snap,
            "connections refused": self._refuse,
            "answers cut": self._cut_answers,
            "submit commands frozen": self._freeze,
        }
        order: list[str] = []
        try:
            while not self._over.wait(self._rng.uniform(1.0, 6.0)):
                order = order or self._rng.sample(sorted(faults), len(faults))  # each as often as the others
                name = order.pop()
                faults[name]()
                self.done[name] += 1
        except BaseException as error:  # told by stop(), on the thread that can end the test
            self._error = error

    def _hold(self, least_s: float, most_s: float) -> None:
        self._over.wait(self._rng.uniform(least_s, most_s))

    def _cut_sessions(self) -> None:
        self._cluster.control("cut", "sshd")

    def _kill_sshd(self) -> None:
        if self._rng.random() < 0.5:
            self._cluster.control("cut", "sshd")
        self._cluster.control("kill", "sshd")
        self._hold(0.2, 3.0)
        self._cluster.control("start", "sshd")

    def _stop_slurmctld(self) -> None:
        self._cluster.control("stop", "slurmctld")
        self._hold(0.5, 14.0)  # a client waits for 10 s
        self._cluster.control("cont", "slurmctld")

    def _kill_slurmctld(self) -> None:
        self._cluster.control("kill", "slurmctld")
        self._hold(0.0, 3.0)
        self._cluster.control("start", "slurmctld")

    def _snap(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            self._way.snap()
            self._hold(0.05, 1.0)

    def _refuse(self) -> None:
        self._way.refuse()
        self._hold(0.5, 3.0)
        self._way.mend()

    def _freeze(self) -> None:
        """Stop the next submit command that runs, if there is one soon, and let it go on later."""
        end = time.monotonic() + 5.0
        while not (found := _submitting(self._cluster)) and time.monotonic() < end and not self._over.wait(0.01):
            pass
        held = [pid for pid in found if _signalled(pid, signal.SIGSTOP)]
        try:
            if held:
                self._hold(3.0, 9.0)
        finally:
            for pid in held:
                _signalled(pid, signal.SIGCONT)
        self.done["submit commands that were held"] += bool(held)

    def _cut_answers(self) -> None:
        for _ in range(3):
            self._way.break_after(self._rng.choice(_CUT_AFTER))
            self._hold(0.5, 2.0)
        self._way.mend()


def let_nodes_tell(cluster: Cluster) -> None:
    """Start each slurmd anew: it tells which jobs its node has. A slurmctld that was killed believes of others that they run there, and
    would be told only minutes later. Jobs go on."""
    for number in range(1, cluster.nodes + 1):
        cluster.control("term", f"slurmd:n{number}")
        cluster.control("start", f"slurmd:n{number}")


def _submitting(cluster: Cluster) -> list[int]:
    """The submit commands that the main user of this cluster runs now."""
    user, configured = pwd.getpwnam(cluster.user).pw_uid, f"SLURM_CONF={cluster.slurm_conf}\0".encode()
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with contextlib.suppress(OSError):
                submits = each.stat().st_uid == user and (each / "comm").read_text() == "sbatch\n"
                if submits and configured in (each / "environ").read_bytes():
                    found.append(int(each.name))
    return found


def _signalled(pid: int, sig: signal.Signals) -> bool:
    """Send a signal; False when that process has ended."""
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return False
    return True
