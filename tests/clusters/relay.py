"""A way to a login node that a test can cut, without hurting anybody else who uses it: a TCP relay on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from tests.clusters.cluster import Cluster


class Relay:
    """Hands bytes to and fro between its own port and a cluster's sshd. `cut` breaks every connection and refuses new ones; `after`, when
    set, breaks each connection once so many bytes have come back through it: an answer that is lost in the middle."""

    def __init__(self, cluster: Cluster) -> None:
        self._to = cluster.host, cluster.port
        self._key = cluster.known_hosts.read_text().split(maxsplit=1)[1].splitlines()[0]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.after: int | None = None
        self.port = 0
        self.connections = 0

    async def open(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def write_known_hosts(self, path: Path) -> Path:
        """A known_hosts file with the cluster's key for this port."""
        path.write_text(f"[127.0.0.1]:{self.port} {self._key}\n")
        return path

    def cut(self) -> None:
        """Break everything, and refuse what comes."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.snap()

    def snap(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        """Break everything, for good."""
        self.cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink, counted in ((reader, far_writer, False), (far_reader, writer, True)):
            pump = asyncio.ensure_future(self._pump(source, sink, counted))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counted: bool) -> None:
        back = 0
        with contextlib.suppress(ConnectionError, OSError):
            while data := await source.read(65536):
                back += len(data) if counted else 0
                if counted and self.after is not None and back > self.after:
                    self.snap()
                    return
                sink.write(data)
                await sink.drain()
        with contextlib.suppress(ConnectionError, OSError, RuntimeError):
            sink.close()
