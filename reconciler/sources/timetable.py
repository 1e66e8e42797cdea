"""When a source should be looked at next: an event rang, an interval passed, or a back-off ended. Called by folder.py and git.py."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from reconciler.clock import monotonic
from reconciler.sources.backoff import Backoff

JITTER = 0.1
"""The share of an interval by which it varies, so that sources of one server spread out."""


class Timetable:
    """The next look at one source. Rings from any thread; everything else is called on the event loop."""

    def __init__(self, interval_s: float, backoff: Backoff | None = None) -> None:
        self._interval_s = interval_s
        self._backoff = backoff or Backoff(random.random)
        self._due = 0.0  # a look is due at once in the beginning
        self._rung = True
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bell = asyncio.Event()

    @property
    def failures(self) -> int:
        """How many looks in a row failed."""
        return self._backoff.failures

    def ring(self) -> None:
        """Something changed: look now, also within a back-off. May be called from any thread."""
        self._rung = True
        self._wake()

    def looked(self) -> None:
        """A look got its answer: the next one is due an interval later."""
        self._backoff.succeeded()
        self._due_in(self._interval_s * (1 + JITTER * (2 * random.random() - 1)))

    def failed(self) -> None:
        """A look got no answer: the next one is due when the back-off ends."""
        self._due_in(self._backoff.failed())

    def soon(self, seconds: float) -> None:
        """The answer may not last: look again after `seconds`."""
        self._due_in(seconds)

    def close(self) -> None:
        """Ends `changes`. Safe to call twice."""
        self._closed = True
        self._wake()

    async def changes(self) -> AsyncIterator[None]:
        """Yields when a look is worth while, first at once; ends at `close`. One listener at a time."""
        self._loop = asyncio.get_running_loop()
        while not self._closed:
            remaining = self._due - monotonic()
            if self._rung or remaining <= 0:
                self._rung = False
                self._due = monotonic() + self._interval_s
                yield
                continue
            self._bell.clear()
            if self._rung:  # it rang between the look at the flag and the clearing of the bell
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):  # wait_for of Python 3.11 loses a cancellation that comes as the bell rings
                    await self._bell.wait()

    def _due_in(self, seconds: float) -> None:
        self._due = monotonic() + seconds
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._bell.set)
        except RuntimeError:  # closed between the question and the call: nobody listens any more
            return
