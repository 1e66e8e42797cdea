"""The composition root: settings -> objects -> the loop; signals; what systemd wants to hear.

    serve(folder, once)             the daemon, or one pass of it; returns the exit code

Sources and backends are made in places.py; what verbs ask without a daemon is in consult.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from reconciler import __version__
from reconciler.backends.marks import Owner
from reconciler.clock import utc_now
from reconciler.config import Settings, read_settings
from reconciler.controller import Controller, Parts
from reconciler.core.desired import BackendSpec, Revision
from reconciler.core.summary import run_conditions
from reconciler.core.trigger import Gate
from reconciler.errors import LedgerError, ReconcilerError, SettingsError, StateLost
from reconciler.fleet import LiveRun
from reconciler.housekeeping import clean_everywhere
from reconciler.intake import Intake
from reconciler.ledger import Ledger, LedgerReader, check_traces, recovery
from reconciler.ledger.traces import Owner as SpoolOwner
from reconciler.log import EventName, configure
from reconciler.manifest.assemble import Desired, LastGood
from reconciler.outlook import Outlook
from reconciler.places import Places, Station
from reconciler.report import Report
from reconciler.sources.watch import Watcher
from reconciler.status import Asked, StatusWriter, view_of
from reconciler.taking import Takings

log = structlog.get_logger(__name__)

EXIT_OK, EXIT_TROUBLE, EXIT_SETTINGS = 0, 1, 2
#: mallopt's word for the number of heaps (malloc.h of glibc).
_M_ARENA_MAX = -8
#: How often it is looked for runs whose retention has passed, and how long after a start first: when the backends were looked at.
HOUSEKEEPING_S, HOUSEKEEPING_FIRST_S = 3600.0, 30.0


def serve(folder: Path, once: bool = False) -> int:
    """Run the daemon on a trusted folder until it is told to stop; with `once`, until nothing can move by itself.

    Exit codes: 0 stopped, or with `once` all ended well; 1 a run failed, something is stalled, or the ledger cannot be used;
    2 the Settings are unusable.
    """
    try:
        settings = read_settings(folder)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    configure(_log_format(settings), settings.log_level, sys.stderr)
    _raise_file_limit()
    _spare_loop_and_memory()
    try:
        return asyncio.run(Daemon(settings).run(once))
    except LedgerError as error:
        event = EventName.STATE_LOST if isinstance(error, StateLost) else EventName.DAEMON_STOPPED
        log.error(event, reason=str(error))
        return EXIT_TROUBLE


def _log_format(settings: Settings) -> Literal["json", "console"]:
    if settings.log_format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return "json" if settings.log_format == "json" else "console"


class Daemon:
    """One daemon on one trusted folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = Places(settings, Watcher(), settings.state_dir / "sources")
        self._stopping = False
        self.controller: Controller | None = None  # once there is one
        self._stations: dict[str, Station] = {}  # the backends as they are now, by name

    async def run(self, once: bool) -> int:
        """Serve until SIGTERM or SIGINT; with `once` until nothing moves. Jobs are left running. Raises LedgerError."""
        settings = self._settings
        self._on_stop_signals()
        ledger = await asyncio.to_thread(Ledger.open, settings.state_dir, settings.instance)
        try:
            await asyncio.to_thread(self._check_traces, ledger)
            return await self._serve(ledger, once)
        except StateLost as error:
            if ledger.fresh:
                raise  # nothing is in it: when the traces are gone, it may be used
            return await asyncio.to_thread(ledger.refuse, str(error))
        finally:
            await asyncio.to_thread(ledger.close)
            self._places.watcher.close()
            log.info(EventName.DAEMON_STOPPED, instance=settings.instance)

    def _check_traces(self, ledger: Ledger) -> None:
        settings = self._settings
        owners = []
        for spool in settings.spool.glob(f"*/{settings.instance}"):  # before anything is said or done; others when they are taken
            if held := self._places.held_by(spool):
                owners.append(SpoolOwner(f"{spool}/owner", held.ledger_id, held.epoch))
        check_traces(ledger.identity, owners, recovery.find_status_traces(settings.status_dir, settings.instance) if ledger.fresh else ())

    async def _serve(self, ledger: Ledger, once: bool) -> int:
        settings = self._settings
        reader = LedgerReader(settings.state_dir)
        writer = await self._status_writer(reader)
        try:
            report, controller, intake = await self._assembled(ledger, reader, writer)
            keeper = asyncio.ensure_future(self._keep_house(controller))
            try:
                await self._loop(report, controller, intake, once)
            finally:
                _notify_systemd("STOPPING=1")
                keeper.cancel()
                await intake.close()
                await controller.close()
        finally:
            await asyncio.to_thread(writer.close)
            reader.close()
        return self._verdict(report, controller) if once else EXIT_OK

    async def _status_writer(self, reader: LedgerReader) -> StatusWriter:
        settings = self._settings
        writer = StatusWriter(
            settings.status_dir,
            settings.instance,
            interval_s=settings.status_interval_s,
            ask=Asked(lambda run: view_of(stored) if (stored := reader.stored(run)) else None, reader.usage, self._log_of),
        )
        for run, ended_at in await asyncio.to_thread(reader.ended):
            writer.expect_run(run, ended_at)
        return writer

    def _log_of(self, backend: str, job: str) -> str:
        known = self._stations.get(backend)
        return known.log(job) if known else ""

    async def _assembled(self, ledger: Ledger, reader: LedgerReader, writer: StatusWriter) -> tuple[Report, Controller, Intake]:
        """The parts of the loop, put together and loaded."""
        settings, loop = self._settings, asyncio.get_running_loop()
        rows = await asyncio.to_thread(ledger.objects)

        def poke(delay_s: float) -> None:
            loop.call_later(delay_s, controller.wake)

        def look_up(run: str) -> None:
            loop.run_in_executor(None, reader.row, run).add_done_callback(lambda answer: report.looked_up(run, answer))

        report = Report(writer, rows, poke, look_up)
        await asyncio.to_thread(report.catch_up, reader)
        recovered = _Recovered(ledger, report.release)
        controller = self.controller = Controller(Parts(settings.instance, ledger, report, self._outlook_maker(ledger), recovered.held))

        def deliver(desired: Desired) -> None:
            report.directed(desired)
            controller.direct(desired)

        intake = Intake(self._places.trusted(), self._places.site, self._places.source, deliver)
        report.feeds = intake.feeds
        intake.remember({(row.kind, row.name): LastGood(row.kind, row.name, row.source, row.file, None) for row in rows})
        await controller.load()
        gc.freeze()  # what was loaded stays: no collection need look at it
        self._on_look_signal(controller, intake)
        return report, controller, intake

    async def _loop(self, report: Report, controller: Controller, intake: Intake, once: bool) -> None:
        """Cycle until told to stop; with `once` until nothing moves and all of that has been said."""
        settings = self._settings
        log.info(EventName.DAEMON_STARTED, instance=settings.instance, version=__version__, pid=os.getpid(), folder=str(settings.folder))
        _notify_systemd("READY=1")
        intake.start()
        while not self._stopping:
            await controller.cycle()
            if once and intake.settled and controller.idle(utc_now()):
                if controller.unwritable or not report.behind:
                    await self._tidy(controller)
                    return
                report.hurry()  # the last words are saved too
            await controller.pause()

    def _verdict(self, report: Report, controller: Controller) -> int:
        """Say on standard error what is not well after `--once`."""
        settings = self._settings
        trouble = [*report.trouble(), *(_unfinished(live, controller) for live in controller.live_runs), *controller.unmade.values()]
        if self._stopping:
            trouble.append(f"{settings.folder}: stopped by a signal before everything had ended")
        if controller.unwritable:
            trouble.append(f"{settings.state_dir}: {controller.unwritable}")
        for line in trouble:
            print(line, file=sys.stderr)
        return EXIT_TROUBLE if trouble else EXIT_OK

    def _outlook_maker(self, ledger: Ledger) -> Callable[[BackendSpec, Callable[[], None]], Outlook]:
        takings = Takings(ledger)

        def make(spec: BackendSpec, wake: Callable[[], None]) -> Outlook:
            def changed() -> None:
                outlook.look_soon()

            async def take() -> None:
                await takings.take(station, len(outlook.expected))

            async def release() -> None:
                takings.let_go(station)
                await station.close()

            station = self._stations[spec.name] = self._places.backend(spec, Owner(ledger.id, ledger.epoch), changed)
            outlook = Outlook(spec, station.works, self._settings.poll_interval_s, wake, take, release)
            return outlook

        return make

    def _on_stop_signals(self) -> None:
        """Before anything else, so that a stop during the start is a stop too."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self.stop, "SIGINT")

    def stop(self, why: str) -> None:
        """End soon, and leave jobs running. `why` is a signal's name."""
        log.info(EventName.DAEMON_STOPPING, signal=why)
        self._stopping = True
        if self.controller is not None:
            self.controller.halt()

    def _on_look_signal(self, controller: Controller, intake: Intake) -> None:
        def look() -> None:
            log.info(EventName.LOOK_ASKED)
            intake.look_soon()
            controller.look_at_once()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, look)

    async def _keep_house(self, controller: Controller) -> None:
        """Soon after the start, then once an hour, forget what its retention no longer keeps."""
        await asyncio.sleep(HOUSEKEEPING_FIRST_S)
        while True:
            await self._tidy(controller)
            gc.collect()
            gc.freeze()
            await asyncio.sleep(HOUSEKEEPING_S)

    async def _tidy(self, controller: Controller) -> None:
        """One pass: first in the ledger, then on the backends. What fails is said, and tried again by the next."""
        settings = self._settings
        try:
            clean = partial(clean_everywhere, {name: station.works for name, station in self._stations.items()})
            await controller.prune(settings.retention_runs_s, settings.retention_events_s, clean)
        except ReconcilerError as error:
            log.warning(EventName.OBJECT_FAILED, kind="Settings", name=settings.instance, verb="retention", reason=str(error))
        except Exception:  # a bug in retention must not end it silently, and must not hurt a run
            log.exception(EventName.OBJECT_FAILED, kind="Settings", name=settings.instance, verb="retention")


def _unfinished(live: LiveRun, controller: Controller) -> str:
    """Why a run is left over after `--once`, for a person."""
    views = {name: outlook.view(utc_now()) for name, outlook in controller.outlooks.items()}
    said = run_conditions(live.run, live.record, controller.suspended(live.run), views)
    words = next(each.message for each in said if each.type == "Succeeded")
    return f"{live.run.place}: run {live.run.id} of {live.run.workflow} has not ended: {words}"


class _Recovered:
    """After a recovery nothing starts before a person has let it, workflow by workflow or source by source."""

    def __init__(self, ledger: Ledger, release: Callable[[str], None]) -> None:
        since = ledger.recovered_at()
        self._token = f"recovered-{since:.0f}" if since is not None else ""
        self._released = set(ledger.released())
        self._release = release

    def held(self, revision: Revision, gate: Gate | None) -> str:
        """Why nothing of a workflow may start; "" when it may."""
        if not self._token or revision.name in self._released or "*" in self._released:
            return ""
        if self._token in (revision.approve, gate.approve if gate else ""):
            self._released.add(revision.name)
            self._release(revision.name)
            return ""
        return f"the ledger was rebuilt; when what `recover` said is right, let it go on with `approve: {self._token}`"


def _raise_file_limit() -> None:
    """Each local job is watched by a file descriptor; the usual soft limit of 1,024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system that forbids it: more jobs than descriptors are polled instead
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))


def _spare_loop_and_memory() -> None:
    """A full garbage collection over 10,000 tasks takes 0.2 s, in which nothing else happens: only housekeeping makes one. And threads
    share one heap: with several, what a thread frees is not used again by the others (10 MB)."""
    gc.set_threshold(20_000, 50, 1_000_000)
    with contextlib.suppress(OSError, AttributeError):  # a C library without mallopt does as it likes
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _notify_systemd(message: str) -> None:
    """Tell systemd, when it wants to hear (man sd_notify): one datagram to the socket it names."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:  # nobody to tell is no error
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(message.encode())
