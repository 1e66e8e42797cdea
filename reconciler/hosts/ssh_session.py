"""One program over one channel: sent, heard out, and what is certain about it if that is cut short. Called by ssh.py.

The last bytes of the program are held back until the rest has left our buffer. The far side runs nothing that is not whole, so until
`handed` is set nothing was run; from then on nobody can say.
"""

from __future__ import annotations

import asyncio

import asyncssh

from reconciler.hosts.base import WHOLE
from reconciler.hosts.program import signal_code

#: More than any honest answer.
OUTPUT_BYTES_MAX = 64 * 2**20


class Session(asyncssh.SSHClientSession[bytes]):
    """`ended` is done when the channel is closed: with None, or with the error that closed it.

    code: the exit code, None if the host did not tell. too_large: there was more output than is kept, and the channel was closed.
    """

    def __init__(self, program: bytes) -> None:
        self._body, self._end = program[: -len(WHOLE)], program[-len(WHOLE) :]
        self._out: list[bytes] = []
        self._err: list[bytes] = []
        self._size = 0
        self._paused = False
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self.handed = False
        self.code: int | None = None
        self.too_large = False
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    @property
    def out(self) -> bytes:
        return b"".join(self._out)

    @property
    def err(self) -> bytes:
        return b"".join(self._err)

    def send(self) -> None:
        """Send the program. What cannot be sent now is sent as the host takes it."""
        channel = self._channel
        if channel is None or channel.is_closing():
            return  # `ended` tells
        channel.set_write_buffer_limits(0)
        channel.write(self._body)
        if not self._paused:
            self._hand_over(channel)

    def _hand_over(self, channel: asyncssh.SSHClientChannel[bytes]) -> None:
        if self.handed or channel.is_closing():
            return
        self.handed = True
        channel.write(self._end)
        channel.write_eof()

    def abort(self) -> None:
        """Close the channel and send nothing more. A program that is running is left alone by sshd."""
        if self._channel is not None:
            self._channel.abort()

    # what asyncssh calls

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._channel is not None:
            self._hand_over(self._channel)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._size += len(data)
        if self._size > OUTPUT_BYTES_MAX:
            self.too_large = True
            self._settle(None)
            self.abort()
            return
        (self._err if datatype == asyncssh.EXTENDED_DATA_STDERR else self._out).append(data)

    def eof_received(self) -> bool:
        return True  # our side is closed by us

    def exit_status_received(self, status: int) -> None:
        self.code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.code = signal_code(signal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(exc)

    def _settle(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
