"""The composition root: settings -> objects -> the loop; signals; what systemd wants to hear. The only module that names concrete
backends and sources.

    serve(folder, once)             the daemon, or one pass of it; returns the exit code
    preview(settings)               what a daemon would do now, doing nothing (the verb `plan`)
    survey(settings)                what the manifests say, offline (the verb `validate`)
    inspector_of(settings, name)    a backend for people, without a daemon
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from reconciler import __version__
from reconciler.backends.base import Cleaner, Inspector
from reconciler.backends.local import LocalBackend
from reconciler.backends.marks import Owner
from reconciler.clock import utc_now
from reconciler.config import Settings, read_settings
from reconciler.controller import Controller, Parts
from reconciler.core.desired import BackendSpec, Place, Revision
from reconciler.core.names import RUN_ID_LENGTH
from reconciler.core.summary import run_conditions
from reconciler.core.trigger import Context, Decisions, Gate, owed
from reconciler.errors import LedgerError, NotOwner, ReconcilerError, SettingsError, SourceRefused, StateLost
from reconciler.fleet import LiveRun
from reconciler.housekeeping import clean_everywhere
from reconciler.intake import Intake
from reconciler.ledger import Ledger, LedgerReader, check_traces, recovery
from reconciler.ledger.traces import Owner as SpoolOwner
from reconciler.log import EventName, configure
from reconciler.manifest.assemble import Desired, LastGood, Site
from reconciler.manifest.origin import SourceSpec
from reconciler.outlook import Outlook
from reconciler.report import Report
from reconciler.sources.base import Source
from reconciler.sources.folder import FolderSource
from reconciler.sources.watch import Watcher
from reconciler.status import StatusWriter, view_of

log = structlog.get_logger(__name__)

#: As whom a spool is read by a verb: owns nothing, and everything that would change something refuses it.
NOBODY = Owner("nobody", 0)
#: What is read of the trusted folder. Hidden files and folders are left out.
TRUSTED_INCLUDE = ("**/*.yaml", "**/*.yml", "*.yaml", "*.yml", ".hut/**/*.yaml", ".hut/workflows/*.json")
EXIT_OK, EXIT_TROUBLE, EXIT_SETTINGS = 0, 1, 2
#: How long a verb waits for every source to answer once. Seconds; a git fetch gives up by itself after 60.
LOOK_DEADLINE_S = 120.0
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


@dataclass(frozen=True, slots=True)
class Places:
    """Where things of this machine are made. `watcher` is one for the whole process."""

    settings: Settings
    watcher: Watcher
    mirrors: Path  # where remote git sources are fetched to

    def trusted(self) -> Source:
        """The operator's own folder."""
        return FolderSource("trusted folder", self.settings.folder, TRUSTED_INCLUDE, self.settings.excluded, self.watcher)

    def source(self, spec: SourceSpec) -> Source:
        """A Source, from its document. Raises SourceRefused for one that can never be looked at."""
        if not spec.is_git:
            return FolderSource(spec.name, Path(spec.path).expanduser(), spec.include, self.settings.excluded, self.watcher)
        from reconciler.sources.git import GitSource, GitSpec

        where = GitSpec(
            url=spec.url,
            branch=spec.branch,
            tag=spec.tag,
            commit=spec.commit,
            deploy_key=_path(spec.deploy_key),
            known_hosts=_path(spec.known_hosts),
            interval_s=spec.interval_s or self.settings.source_interval_s,
            timeout_s=spec.timeout_s,
        )
        return GitSource(spec.name, where, spec.include, self.mirrors, self.watcher)

    def backend(self, spec: BackendSpec, owner: Owner, changed: Callable[[], None]) -> LocalBackend:
        """A backend, from its document. Other types than local are refused by their model."""
        return LocalBackend(spec.name, self.spool(spec), owner, changed)

    def spool(self, spec: BackendSpec) -> Path:
        """The folder of this instance on a backend."""
        chosen = str(spec.options.get("spool", ""))
        return (Path(chosen).expanduser() if chosen else self.settings.spool / spec.name) / self.settings.instance

    def held_by(self, spool: Path) -> Owner | None:
        """Who holds the spool of a local backend; None when nobody does."""
        return LocalBackend("", spool, NOBODY, _nothing).owner_there()

    def log(self, spec: BackendSpec, job: str) -> Path:
        """Where a job's standard output is, for people."""
        return self.spool(spec) / "runs" / job[:RUN_ID_LENGTH] / job / "out"

    @property
    def site(self) -> Site:
        """What documents are judged by."""
        return Site(os.cpu_count() or 1, tuple(str(path) for path in self.settings.excluded))


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


class Daemon:
    """One daemon on one trusted folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = Places(settings, Watcher(), settings.state_dir / "sources")
        self._stopping = False
        self.controller: Controller | None = None  # once there is one
        self._cleaners: dict[str, Cleaner] = {}  # the backends that keep files of runs

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
            rebuild=lambda run: view_of(stored) if (stored := reader.stored(run)) else None,
            log_of=self._log_of,
        )
        for run, ended_at in await asyncio.to_thread(reader.ended):
            writer.expect_run(run, ended_at)
        return writer

    def _log_of(self, backend: str, job: str) -> str:
        known = self.controller.outlooks.get(backend) if self.controller else None
        return str(self._places.log(known.spec, job)) if known else ""

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
        places, interval_s = self._places, self._settings.poll_interval_s

        def make(spec: BackendSpec, wake: Callable[[], None]) -> Outlook:
            def changed() -> None:
                outlook.look_soon()

            backend = self._cleaners[spec.name] = places.backend(spec, Owner(ledger.id, ledger.epoch), changed)

            def take() -> None:
                if held := backend.owner_there():
                    where = f"backend {spec.name} ({places.spool(spec)}/owner)"
                    check_traces(ledger.identity, [SpoolOwner(where, held.ledger_id, held.epoch)])
                elif outlook.expected:
                    lost = f"{places.spool(spec)} holds nothing of ours, but the ledger knows of {len(outlook.expected)} live jobs there"
                    raise NotOwner(f"{lost}; put it back where it was, or give those jobs up as lost with `reconciler recover --replace`")
                backend.own()

            outlook = Outlook(spec, backend, interval_s, wake, take, backend.close)
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
            await asyncio.sleep(HOUSEKEEPING_S)

    async def _tidy(self, controller: Controller) -> None:
        """One pass: first in the ledger, then on the backends. What fails is said, and tried again by the next."""
        settings = self._settings
        try:
            clean = partial(clean_everywhere, self._cleaners)
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


@contextlib.contextmanager
def _scratch(settings: Settings) -> Iterator[Places]:
    """Places for a verb, which may run beside a daemon: what it fetches is its own, and gone when it ends."""
    watcher = Watcher()
    with tempfile.TemporaryDirectory(prefix="reconciler-") as folder:
        try:
            yield Places(settings, watcher, Path(folder))
        finally:
            watcher.close()


def rebuild(settings: Settings) -> recovery.Report:
    """Put a new ledger in the place of a lost or damaged one (the verb `recover`). Raises LedgerBusy while a daemon runs."""
    with _scratch(settings) as places:
        desired = asyncio.run(_look_once(places, places.source)).desired
    specs: dict[str, BackendSpec] = dict(desired.backends)
    for folder in settings.spool.glob(f"*/{settings.instance}"):  # also those whose document is gone
        specs.setdefault(folder.parent.name, BackendSpec(folder.parent.name, "local", Place("", "", 0), 1, 1.0))
    traces, owners, bare = [], [], set()
    for name, spec in specs.items():
        backend = places.backend(spec, NOBODY, _nothing)
        traces += [recovery.Trace(name, each.job, each.claimed, each.fact) for each in backend.traces()]
        if held := backend.owner_there():
            owners.append(SpoolOwner(f"backend {name} ({places.spool(spec)}/owner)", held.ledger_id, held.epoch))
        else:
            bare.add(name)
    findings = recovery.Findings(traces, owners, frozenset(bare))
    return recovery.recover(settings.state_dir, settings.status_dir, settings.instance, findings, utc_now())


def _nothing() -> None:
    """Nobody is told when a backend that is only looked at changes."""


def inspector_of(settings: Settings, name: str) -> Inspector:
    """A backend of these settings, for people: it owns nothing and changes nothing. Raises ReconcilerError when there is none."""
    with _scratch(settings) as places:
        desired = asyncio.run(_look_once(places, places.source)).desired
    spec = desired.backends.get(name) or BackendSpec(name, "local", Place("", "", 0), 1, 1.0)
    return places.backend(spec, NOBODY, _nothing)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the manifests say now. `unread`: why a source could not be read, by its name."""

    desired: Desired
    unread: Mapping[str, str]


def survey(settings: Settings) -> Survey:
    """What the trusted folder says, and the sources with a `path:`. Asks no other machine. Raises ReconcilerError."""
    with _scratch(settings) as places:

        def near(spec: SourceSpec) -> Source:
            if spec.is_git:
                raise SourceRefused("a git source is not asked offline")
            return places.source(spec)

        return asyncio.run(_look_once(places, near, sources=True))


async def _look_once(
    places: Places, make_source: Callable[[SourceSpec], Source], sources: bool = False, deadline_s: float = LOOK_DEADLINE_S
) -> Survey:
    """The desired state as it is now; with `sources`, after each has been looked at once. Raises ReconcilerError."""
    delivered: list[Desired] = []
    intake = Intake(places.trusted(), places.site, make_source, delivered.append)
    intake.start()
    try:
        async with asyncio.timeout(deadline_s):
            while not delivered or (sources and not intake.settled):
                await asyncio.sleep(0.01)
                if intake.feeds[""].refused or intake.feeds[""].unreachable:
                    raise ReconcilerError(intake.feeds[""].refused or intake.feeds[""].unreachable)
    except TimeoutError as error:
        slow = [name or "(trusted folder)" for name, feed in intake.feeds.items() if not feed.tried]
        raise ReconcilerError(f"no answer within {deadline_s:.0f} s from {', '.join(slow) or 'the manifests'}") from error
    finally:
        await intake.close()
    unread = {name: feed.refused or feed.unreachable for name, feed in intake.feeds.items()}
    return Survey(delivered[-1], {name: words for name, words in unread.items() if words})


@dataclass(frozen=True, slots=True)
class Preview:
    """What a daemon would do now: the desired state, and what is owed on top of what the ledger knows."""

    desired: Desired
    decisions: Decisions
    unread: Mapping[str, str]  # why a source could not be read, by its name: the plan says nothing of it


def preview(settings: Settings) -> Preview:
    """What would be created, cancelled and held back by a daemon that started now. Changes nothing; fetches into a scratch folder."""
    with _scratch(settings) as places:
        seen = asyncio.run(_look_once(places, places.source, sources=True))
    desired = seen.desired
    with LedgerReader(settings.state_dir) as reader:
        heads = {name: reader.heads(name, revision.digest) for name, revision in desired.workflows.items()}
        live = {each.workflow: stored.run for each in reader.live() if (stored := reader.stored(each.id))}
        heads.update({name: reader.heads(name, None) for name in live if name not in heads})
    gone = {name: run.on_delete for name, run in live.items() if desired.is_gone("Workflow", name, run.place.source)}
    context = Context(settings.instance, desired.limits, desired.requests, gone, desired.gates)
    return Preview(desired, owed(desired.workflows, heads, context, utc_now()), seen.unread)


def _raise_file_limit() -> None:
    """Each local job is watched by a file descriptor; the usual soft limit of 1,024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system that forbids it: more jobs than descriptors are polled instead
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))


def _notify_systemd(message: str) -> None:
    """Tell systemd, when it wants to hear (man sd_notify): one datagram to the socket it names."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:  # nobody to tell is no error
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(message.encode())
