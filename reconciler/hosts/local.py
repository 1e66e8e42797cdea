"""The machine that the daemon runs on, as a host: for a daemon that sits on a cluster's login node. Called by backends/cluster.py.

A program outlives our patience, and the daemon: it is in a session of its own, nobody ends it, and a thread of its own reads what
it writes and reaps it. asyncio's subprocesses are not used because they kill the child when their loop or transport is closed, and
the child may be an sbatch in the middle of its answer.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import subprocess
import threading
from pathlib import Path

from reconciler.clock import monotonic
from reconciler.errors import Unreachable
from reconciler.hosts.base import NotBegun, Outcome, entry
from reconciler.hosts.program import exit_code, whole

#: More than any honest answer; what is beyond is thrown away and the answer is not believed.
OUTPUT_BYTES_MAX = 64 * 2**20
#: As many at a time as over ssh: a login node is shared.
CHANNELS = 5
_READ_BYTES = 2**16


class LocalHost:
    """This machine. With `login_shell` the user's profile is read before every program."""

    where = "this machine"

    def __init__(self, login_shell: bool = False) -> None:
        self._command = entry(login_shell)
        self._slots = asyncio.Semaphore(CHANNELS)

    async def run(self, program: str, timeout_s: float) -> Outcome:
        """See base.Host. The wait for a free slot and the program itself may each take `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise NotBegun(f"{self.where}: {CHANNELS} programs are running and none ended within {timeout_s:g} s") from None
        try:
            return await self._follow(whole(program), timeout_s)
        finally:
            self._slots.release()

    async def _follow(self, program: bytes, timeout_s: float) -> Outcome:
        child = _Child(self._command, program)
        threading.Thread(target=child.follow, name="local-host", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                return await child.outcome
        except TimeoutError:
            raise Unreachable(f"{self.where}: no answer within {timeout_s:g} s; what was asked may still go on") from None
        finally:
            child.forgotten = True

    async def close(self) -> None:
        """Nothing to end: programs that still run are left alone."""


class _Child:
    """One program from its start to its end, followed on a thread. `outcome` belongs to the loop that made the object."""

    def __init__(self, command: str, program: bytes) -> None:
        self._command, self._program = command, program
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self.forgotten = False  # nobody waits any more: read on, so that the program never blocks, and keep nothing
        self._size = 0

    def follow(self) -> None:
        started = monotonic()
        try:
            process = self._start()
        except OSError as error:
            self._tell(NotBegun(f"this machine: cannot start a program: {error.strerror}"))
            return
        with process:  # leaving waits for its end and closes the pipes
            out, err = self._read(process)
        self._tell(Outcome(exit_code(process.returncode), out, err, monotonic() - started))

    def _start(self) -> subprocess.Popen[bytes]:
        words = ["/bin/sh", "-c", self._command]
        memory = os.memfd_create("program")  # whole before anything starts, and never a file that others can read
        with open(memory, "w+b") as stdin:
            stdin.write(self._program)
            stdin.seek(0)
            pipe = subprocess.PIPE
            return subprocess.Popen(words, stdin=stdin, stdout=pipe, stderr=pipe, cwd=_home(), start_new_session=True)

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """Both outputs to their ends, which may come after the program's own: something that it started may hold them."""
        assert process.stdout is not None
        assert process.stderr is not None
        out: list[bytes] = []
        err: list[bytes] = []
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ, out)
            ready.register(process.stderr, selectors.EVENT_READ, err)
            while ready.get_map():
                for key, _ in ready.select():
                    if not self._take(key.fd, key.data):
                        ready.unregister(key.fileobj)
        return b"".join(out), b"".join(err)

    def _take(self, descriptor: int, kept: list[bytes]) -> bool:
        """One read. False at the end of the stream."""
        data = os.read(descriptor, _READ_BYTES)
        self._size += len(data)
        if self._size > OUTPUT_BYTES_MAX and not self.forgotten:
            self._tell(Unreachable(f"this machine: the answer is larger than {OUTPUT_BYTES_MAX} bytes; it is not believed"))
        if self.forgotten:
            kept.clear()
        else:
            kept.append(data)
        return bool(data)

    def _tell(self, result: Outcome | Unreachable) -> None:
        if self.forgotten:
            return
        if isinstance(result, Unreachable):
            self.forgotten = True
        try:
            self._loop.call_soon_threadsafe(self._settle, result)
        except RuntimeError:  # the loop was closed meanwhile: nobody is there to hear
            self.forgotten = True

    def _settle(self, result: Outcome | Unreachable) -> None:
        if self.outcome.done():
            return
        if isinstance(result, Unreachable):
            self.outcome.set_exception(result)
        else:
            self.outcome.set_result(result)


def _home() -> str:
    """Where a login begins, so that a relative path means the same as over ssh."""
    home = Path.home()
    return str(home) if home.is_dir() else "/"
