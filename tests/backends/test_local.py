"""The local backend keeps what every backend owes the core."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.backends.base import Backend
from reconciler.backends.local import LocalBackend, Tuning
from reconciler.backends.marks import Owner
from reconciler.backends.process import folders_below, processes_of
from reconciler.core.observed import JobFact
from tests.backends.conformance import Conformance, Far


class Here(Far):
    """This machine. Whatever still runs at the end of a test is killed."""

    def __init__(self, root: Path, tuning: Tuning | None = None) -> None:
        super().__init__(root / "work")
        self.work.mkdir()
        self.spool = root / "spool"
        self.tuning = tuning or Tuning(grace_s=0.5, poll_s=0.05)
        self.opened: list[LocalBackend] = []
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def open(self, ledger: str = "ledger-1", epoch: int = 1) -> LocalBackend:
        backend = LocalBackend("here", self.spool, Owner(ledger, epoch), self.changed, self.tuning)
        backend.own()
        self.opened.append(backend)
        return backend

    async def abandon(self, backend: Backend) -> None:
        assert isinstance(backend, LocalBackend)
        backend.close()

    async def destroy(self, job: str, fact: JobFact) -> None:
        os.killpg(int(fact.job_id), signal.SIGKILL)

    async def send_twin(self, job: str) -> int:
        script = self.folder(job) / "script"
        process = await asyncio.create_subprocess_exec("/bin/sh", str(script), stdin=asyncio.subprocess.DEVNULL)
        return await process.wait()

    async def cut(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, self._limit[1]))

    async def mend(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)

    def folder(self, job: str) -> Path:
        return self.spool / "runs" / job.partition(".")[0] / job

    async def end(self) -> None:
        """Stop watching, and kill whatever of the spool's jobs still runs."""
        for backend in self.opened:
            backend.close()
        for folder in folders_below(str(self.spool)):
            for pid in processes_of(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    far = Here(tmp_path)
    yield far
    await far.end()


class TestLocal(Conformance):
    @pytest.fixture
    def far(self, here: Here) -> Here:
        return here
