"""The smallest daemon that is right, as a program to be killed: `python -m tests.backends.tiny_daemon <root> <epoch> <tasks>`.

Its ledger is one file a task, holding the attempt whose intent was saved. It exits 0 when every task has an exit record.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from reconciler.backends.base import CancelRequest
from reconciler.backends.local import LocalBackend
from reconciler.backends.marks import Owner
from reconciler.core.observed import Answer, JobState
from tests.backends.conformance import look, name, request


class Ledger:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def attempt(self, task: str) -> int:
        """The attempt that was intended last; 0 when none was."""
        path = self._folder / task
        return int(path.read_text()) if path.exists() else 0

    def intend(self, task: str, attempt: int) -> None:
        new = self._folder / f"{task}.new"
        new.write_text(str(attempt))
        os.replace(new, self._folder / task)


async def run(root: Path, epoch: int, tasks: list[str]) -> None:
    """Until all have ended: send what was never intended, revoke what was intended and is nowhere, send that again."""
    ledger = Ledger(root / "ledger")
    wake = asyncio.Event()
    backend = LocalBackend("here", root / "spool", Owner("ledger-1", epoch), wake.set)
    backend.own()
    sent: set[str] = set()
    left = list(tasks)
    while left:
        wake.clear()
        names = {task: name(task, ledger.attempt(task)) for task in left if ledger.attempt(task)}
        facts = (await look(backend, *names.values())).facts
        again = [task for task in left if task not in names]
        for task, job in names.items():
            fact = facts.get(job)
            if fact is not None and fact.state is JobState.ENDED:
                assert fact.exit_code == 0, fact
                left.remove(task)
            elif (fact is None and job not in sent) or (fact is not None and fact.state is JobState.FENCED):
                [receipt] = await backend.cancel([CancelRequest(job, "", kill=False)])
                again += [task] if receipt.answer is Answer.FENCED else []
        for task in again[:5]:
            ledger.intend(task, ledger.attempt(task) + 1)
            job = name(task, ledger.attempt(task))
            sent.add(job)
            await backend.submit([request(f"echo {job} >> {root}/work/{task}; sleep 0.05", task=task, attempt=ledger.attempt(task))])
        if left and not again:
            await asyncio.wait_for(wake.wait(), 10)
    backend.close()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), [f"t{number}" for number in range(int(sys.argv[3]))]))
