"""A machine behind ssh, as a host: programs over one shared connection. Called by backends/cluster.py.

What is certain is said exactly: NotBegun when nothing of the program was run (no connection, no channel, or its end was never sent),
Unreachable when nobody can know. The parts: ssh_place (what the operator says), ssh_dial (one way there), ssh_hostkeys, ssh_keys, ssh_link
(when to connect), ssh_session (one program), ssh_words (errors in words).
"""

from __future__ import annotations

import asyncio

import asyncssh

from reconciler.clock import monotonic
from reconciler.errors import Unreachable
from reconciler.hosts.base import NotBegun, Outcome, entry
from reconciler.hosts.program import whole
from reconciler.hosts.ssh_dial import Line
from reconciler.hosts.ssh_link import Link
from reconciler.hosts.ssh_place import SshPlace as SshPlace
from reconciler.hosts.ssh_place import Tuning as Tuning
from reconciler.hosts.ssh_session import OUTPUT_BYTES_MAX, Session
from reconciler.hosts.ssh_words import words

_GOES_ON = "what was asked may still go on there"


class SshHost:
    """A host to log in to. Safe for any number of callers on one event loop; nothing is connected before the first program."""

    def __init__(self, place: SshPlace, tuning: Tuning | None = None) -> None:
        self._place, self._tuning = place, tuning or Tuning()
        self._command = entry(place.login_shell)
        self._slots = asyncio.Semaphore(place.channels)
        self._link = Link(place, self._tuning)
        self._openings: set[asyncio.Task[Session]] = set()

    @property
    def where(self) -> str:
        """`user@login.example.org`, as the operator wrote it."""
        return self._place.where

    @property
    def connects(self) -> int:
        """How often a connection was made so far."""
        return self._link.connects

    @property
    def up_since(self) -> float | None:
        """Since when the connection is up, in seconds since 1970 UTC. None: there is none."""
        return self._link.up_since

    async def run(self, program: str, timeout_s: float) -> Outcome:
        """See base.Host. Getting a connection and a channel, and the program itself, may each take `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise NotBegun(f"{self.where}: {self._place.channels} programs are running and none ended within {timeout_s:g} s") from None
        try:
            return await self._run(whole(program), timeout_s)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """End the connection. Programs that still run are left alone; later calls raise NotBegun."""
        await self._link.close()

    async def _run(self, program: bytes, timeout_s: float) -> Outcome:
        line: Line | None = None
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    line = await self._link.line()
                    line.users += 1
                    session = await self._channel(line, program)
            except TimeoutError:
                raise NotBegun(f"{self.where}: no channel within {timeout_s:g} s") from None
            return await self._hear(line, session, timeout_s)
        finally:
            if line is not None:
                line.users -= 1
                self._link.end_if_idle(line)

    async def _hear(self, line: Line, session: Session, timeout_s: float) -> Outcome:
        """Send the program and wait for its end."""
        started = monotonic()
        try:
            session.send()
            async with asyncio.timeout(timeout_s):
                error = await session.ended
        except TimeoutError:
            raise self._doubt(session, f"no answer within {timeout_s:g} s") from None
        finally:
            session.abort()
            line.channels -= 1  # _opened counted it
        if session.too_large:
            raise Unreachable(f"{self.where}: the answer is larger than {OUTPUT_BYTES_MAX} bytes; {_GOES_ON}")
        if session.code is None or error is not None:
            raise self._doubt(session, f"the connection broke before the answer was complete ({error or 'no exit code came'})") from error
        self._link.prove(line)
        return Outcome(session.code, session.out, session.err, monotonic() - started)

    def _doubt(self, session: Session, reason: str) -> Unreachable:
        """NotBegun as long as the end of the program was not sent; from then on nobody knows."""
        if session.handed:
            return Unreachable(f"{self.where}: {reason}; {_GOES_ON}")
        return NotBegun(f"{self.where}: {reason}, and before the program had been sent")

    async def _channel(self, line: Line, program: bytes) -> Session:
        """Open a channel. A host that refuses one is asked again: soon a few times, and then whenever one of ours may have ended.

        sshd counts a session until its program has ended, also when we closed the channel long ago. So programs that never end can use
        up a connection, and only a new one helps.
        """
        pauses = [*self._tuning.refused_pauses_s]
        while True:
            try:
                return await self._opened(line, Session(program))
            except asyncssh.ChannelOpenError as error:
                reason = words(error)
            if line.lost is not None:
                raise NotBegun(f"{self.where}: the connection broke ({line.lost})")
            if self._is_used_up(line):
                self._link.retire(line, f"{self.where}: {reason}")
                raise NotBegun(f"{self.where}: {reason}; programs that never end may hold all it allows; the next has a new connection")
            await asyncio.sleep(pauses.pop(0) if len(pauses) > 1 else pauses[0])

    def _is_used_up(self, line: Line) -> bool:
        """To be asked after a refusal: true if there have been only refusals for long enough, and no channel of ours to wait for."""
        if line.channels:
            line.refused_since = None
            return False
        if line.refused_since is None:
            line.refused_since = monotonic()
        return monotonic() - line.refused_since >= self._tuning.refused_max_s

    async def _opened(self, line: Line, session: Session) -> Session:
        """Raises ChannelOpenError when it was refused, NotBegun for all else: nothing of the program has been sent here."""
        opening = asyncio.create_task(self._open_channel(line, session))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        line.channels += 1
        opened = False
        try:
            await asyncio.shield(opening)
            opened = True
        except asyncio.CancelledError:  # cancelled half-way, asyncssh would leave the channel open for ever
            opening.add_done_callback(_abandon)
            raise
        except asyncssh.ChannelOpenError:
            raise
        except Exception as error:  # a fault in asyncssh must not hurt what runs elsewhere
            raise NotBegun(f"{self.where}: {words(error)}") from error
        finally:
            line.channels -= not opened
        line.refused_since = None
        return session

    async def _open_channel(self, line: Line, session: Session) -> Session:
        """With nothing of ours in its environment, and no terminal, whatever the ssh config says."""
        await line.connection.create_session(
            lambda: session, self._command, encoding=None, env={}, send_env=(), request_pty=False, x11_forwarding=False
        )
        return session


def _abandon(opening: asyncio.Task[Session]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
