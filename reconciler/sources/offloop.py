"""Runs one blocking call at a time off the event loop, with a time-out that holds. Called by folder.py and git.py.

A thread that hangs in a dead network file system cannot be ended. So each source has its own, it is a daemon thread (it never
keeps the process from ending), and while it hangs the source says so at once instead of starting another.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from reconciler.errors import SourceUnreachable

Answer = TypeVar("Answer")


class OffLoop:
    """The one thread of one source. `subject` begins its messages: `source lab: /data/manifests`."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._idle = asyncio.Event()
        self._idle.set()
        self._hangs = False

    async def run(self, call: Callable[[], Answer], timeout_s: float) -> Answer:
        """What `call` returns or raises. SourceUnreachable when it, or one before it, does not come back in time."""
        if self._hangs:
            raise SourceUnreachable(f"{self._subject}: the disk has not answered an earlier look yet")
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()  # a look that was cancelled may still be reading
                return await self._start(call)
        except TimeoutError as late:
            self._hangs = not self._idle.is_set()
            raise SourceUnreachable(f"{self._subject}: the disk did not answer within {timeout_s:g} s") from late

    def _start(self, call: Callable[[], Answer]) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def deliver(outcome: Callable[[], None]) -> None:
            self._hangs = False
            self._idle.set()
            if not answer.done():
                outcome()

        def work() -> None:
            try:
                value = call()
            except BaseException as error:  # every outcome is carried to whoever waits, and raised there
                failed = error  # `error` itself ends with this block
                _post(loop, deliver, lambda: answer.set_exception(failed))
            else:
                _post(loop, deliver, lambda: answer.set_result(value))

        self._idle.clear()
        threading.Thread(target=work, name=self._subject, daemon=True).start()
        return answer


def _post(loop: asyncio.AbstractEventLoop, deliver: Callable[[Callable[[], None]], None], outcome: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(deliver, outcome)
    except RuntimeError:  # the loop is closed: nobody waits for this any more
        return
