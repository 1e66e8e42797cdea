"""The one connection to a host: made when needed, shared, made anew after it broke, and never asked for too often. Called by ssh.py.

Two pauses: a short one after a host could not be reached or a connection was of no use (1 s, doubled to a minute), and a long one after
it refused our keys (5 minutes, doubled to an hour), because sites lock accounts. A changed key file ends the long one.
"""

from __future__ import annotations

import asyncio

from reconciler import clock
from reconciler.hosts.base import NotBegun
from reconciler.hosts.ssh_dial import Dial, Line
from reconciler.hosts.ssh_place import SshPlace, Tuning
from reconciler.hosts.ssh_words import Trouble

#: For a connection to end in good order before it is cut.
_CLOSE_S = 2.0


class Link:
    """Hands out the line, or says why there is none. `connects` counts logins."""

    def __init__(self, place: SshPlace, tuning: Tuning) -> None:
        self._where, self._tuning, self._dial = place.where, tuning, Dial(place)
        self._line: Line | None = None
        self._retired: list[Line] = []
        self._dialling: asyncio.Task[Line | None] | None = None
        self._failures = 0
        self._denials = 0
        self._trouble = ""
        self._until = 0.0  # by tuning.now: no try before
        self._until_utc = 0.0
        self._proved = False
        self._closed = False
        self._since = 0.0
        self.connects = 0

    @property
    def up_since(self) -> float | None:
        """In seconds since 1970 UTC; None while there is no connection."""
        return self._since if self._line is not None and self._line.lost is None else None

    async def line(self) -> Line:
        """The line that is up, or a new one. Raises NotBegun at once while it is too early to try again."""
        self._notice_loss()
        if self._line is not None:
            return self._line
        if self._dialling is None:
            if self._is_early():
                return await self._early()
            self._dialling = asyncio.create_task(self._connect())
        return await self._dialled(self._dialling)

    async def _early(self) -> Line:
        """It is too early to try again, unless the host refused our keys and these are others now."""
        changed = bool(self._denials) and await asyncio.to_thread(self._dial.keys_changed)
        if self._dialling is None and self._line is None and self._is_early():  # nobody else has begun meanwhile
            if self._closed or not changed:
                raise self._not_begun()
            self._until = self._tuning.now()
        return await self.line()

    async def _dialled(self, dialling: asyncio.Task[Line | None]) -> Line:
        try:
            line = await asyncio.shield(dialling)  # a caller that is cancelled leaves it to the others
        except asyncio.CancelledError:
            if dialling.cancelled():  # by close(), and not the caller
                raise self._not_begun() from None
            raise
        if line is None:
            raise self._not_begun()
        return line

    def prove(self, line: Line) -> None:
        """A program ended and was heard on this line: the failures before it are forgotten."""
        if line is self._line:
            self._proved, self._failures = True, 0

    def retire(self, line: Line, reason: str) -> None:
        """The host opens no channel on this line though none is used: the next program gets a new one, this one ends when it is idle."""
        if line is self._line:
            self._forget(reason)
            self._retired.append(line)

    def end_if_idle(self, line: Line) -> None:
        """To be called when a program on a line has ended: a retired one that no other uses is closed."""
        if line in self._retired and not line.users:
            self._retired.remove(line)
            line.abort()

    async def close(self) -> None:
        """End the connection, and make no other."""
        self._closed, self._trouble = True, f"{self._where}: closed"
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait([self._dialling])
        lines = [*self._retired, *([self._line] if self._line else [])]
        self._line, self._retired = None, []
        for line in lines:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await line.close()
            except TimeoutError:
                line.abort()

    async def _connect(self) -> Line | None:
        """Dial once; None when it failed, and what is wrong is noted."""
        try:
            line = await self._dial.line()
        except Trouble as trouble:
            self._fail(str(trouble), trouble.denied)
            return None
        finally:
            self._dialling = None
        self._line, self._proved, self._denials = line, False, 0
        self.connects += 1
        self._since = clock.utc_now()
        return line

    def _fail(self, reason: str, denied: bool) -> None:
        self._failures += 1
        self._denials += denied
        self._hold(reason, self._tuning.pause_s(self._denials if denied else self._failures, denied))
        if not denied:
            self._denials = 0

    def _hold(self, reason: str, pause_s: float) -> None:
        self._trouble = reason
        self._until = self._tuning.now() + pause_s
        self._until_utc = clock.utc_now() + pause_s

    def _notice_loss(self) -> None:
        if self._line is not None and self._line.lost is not None:
            self._forget(f"{self._where}: the connection broke before anything was done on it ({self._line.lost})")

    def _forget(self, reason: str) -> None:
        """The line is of no use any more. One that never was of use counts as a failure; the first of these has no pause."""
        self._line = None
        if not self._proved:
            self._failures += 1
        if self._failures > 1:
            self._hold(reason, self._tuning.pause_s(self._failures - 1, denied=False))

    def _is_early(self) -> bool:
        return self._closed or self._tuning.now() < self._until

    def _not_begun(self) -> NotBegun:
        return NotBegun(self._trouble if self._closed else f"{self._trouble}; asked again after {clock.rfc3339(self._until_utc)}")
