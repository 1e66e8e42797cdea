"""What verbs ask without a daemon, or beside one: every question is answered from the documents, the ledger and the backends themselves.

    preview(settings)         what a daemon would do now, doing nothing (the verb `plan`)
    survey(settings)          what the manifests say, offline (the verb `validate`)
    rebuild(settings)         a new ledger in the place of a lost one (the verb `recover`)
    stations(settings, name)  backends for people (the verbs `check`, `queue`, `logs`, `why`)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reconciler.clock import utc_now
from reconciler.config import Settings
from reconciler.core.desired import BackendSpec
from reconciler.core.trigger import Context, Decisions, owed
from reconciler.errors import BackendError, LedgerError, ReconcilerError, SourceRefused
from reconciler.intake import Intake
from reconciler.ledger import LedgerReader, recovery
from reconciler.ledger.schema import FILE_NAME
from reconciler.ledger.traces import Owner as SpoolOwner
from reconciler.manifest.assemble import Desired
from reconciler.manifest.origin import SourceSpec
from reconciler.places import NOBODY, Places, Station, nobody_told, scratch, spec_of_unknown
from reconciler.sources.base import Source

#: How long a verb waits for every source to answer once. Seconds; a git fetch gives up by itself after 60.
LOOK_DEADLINE_S = 120.0
#: How long a verb waits for everything that a backend holds: thousands of job folders, read over one connection.
LEFT_DEADLINE_S = 600.0
#: A connection that does not end within this is left to the end of the process.
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What the manifests say now. `unread`: why a source could not be read, by its name."""

    desired: Desired
    unread: Mapping[str, str]


def survey(settings: Settings) -> Survey:
    """What the trusted folder says, and the sources with a `path:`. Asks no other machine. Raises ReconcilerError."""
    with scratch(settings) as places:

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
    with scratch(settings) as places:
        seen = asyncio.run(_look_once(places, places.source, sources=True))
    desired = seen.desired
    with LedgerReader(settings.state_dir) as reader:
        heads = {name: reader.heads(name, revision.digest) for name, revision in desired.workflows.items()}
        live = {each.workflow: stored.run for each in reader.live() if (stored := reader.stored(each.id))}
        heads.update({name: reader.heads(name, None) for name in live if name not in heads})
    gone = {name: run.on_delete for name, run in live.items() if desired.is_gone("Workflow", name, run.place.source)}
    context = Context(settings.instance, desired.limits, desired.requests, gone, desired.gates)
    return Preview(desired, owed(desired.workflows, heads, context, utc_now()), seen.unread)


def _unasked(spec: SourceSpec) -> Source:
    """Backends are declared by the operator alone, so no source need be asked for them."""
    raise SourceRefused("not asked")


@asynccontextmanager
async def stations(settings: Settings, name: str = "") -> AsyncIterator[dict[str, Station]]:
    """The backends of these settings by name, or the one called `name`, for people: they own nothing and change nothing.

    Nothing is asked of them yet; what they keep open is closed at the end. Raises ReconcilerError when there is none of this name, and of
    all when one of them is not valid.
    """
    with scratch(settings) as places:
        desired = (await _look_once(places, _unasked)).desired
        if not name and (broken := [str(problem) for (kind, _), problem in desired.stalled.items() if kind == "Backend"]):
            raise ReconcilerError("\n".join(broken))
        specs = {name: _spec(places, desired, name)} if name else desired.backends
        found = {each: places.backend(spec, NOBODY, nobody_told) for each, spec in specs.items()}
        try:
            yield found
        finally:
            await asyncio.gather(*(_closed(each) for each in found.values()))


def _spec(places: Places, desired: Desired, name: str) -> BackendSpec:
    """The document of a backend. One that is gone was a local one, when there is a spool of that name."""
    if name in desired.backends:
        return desired.backends[name]
    if problem := desired.stalled.get(("Backend", name)):
        raise ReconcilerError(str(problem))
    spec = spec_of_unknown(name)
    if not places.spool(spec).exists():
        raise ReconcilerError(f"no backend {name!r}; declared are: {', '.join(desired.backends) or 'none'}")
    return spec


async def _closed(station: Station) -> None:
    with contextlib.suppress(TimeoutError):  # what holds a connection up must not hold up the verb
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await station.close()


def rebuild(settings: Settings) -> recovery.Report:
    """Put a new ledger in the place of a lost or damaged one (the verb `recover`).

    Raises LedgerBusy while a daemon runs, and ReconcilerError when a backend cannot be asked: without it nobody knows what runs there.
    """
    findings = asyncio.run(_found(settings))
    nothing = not findings.traces and not findings.owners and not (settings.state_dir / FILE_NAME).exists()
    if nothing and not recovery.find_status_traces(settings.status_dir, settings.instance):
        where = f"no ledger in {settings.state_dir}, no status file of a run in {settings.status_dir}, and nothing of ours on any backend"
        raise LedgerError(f"there is nothing to recover from: {where}")
    return recovery.recover(settings.state_dir, settings.status_dir, settings.instance, findings, utc_now())


async def _found(settings: Settings) -> recovery.Findings:
    """What all backends hold, asked at the same time."""
    with scratch(settings) as places:
        desired = (await _look_once(places, _unasked)).desired
        for (kind, name), problem in desired.stalled.items():
            if kind == "Backend" and name not in desired.backends:
                raise ReconcilerError(f"{problem}; mend it first: what runs there would be forgotten")
        specs: dict[str, BackendSpec] = dict(desired.backends)
        for folder in settings.spool.glob(f"*/{settings.instance}"):  # also those whose document is gone
            specs.setdefault(folder.parent.name, spec_of_unknown(folder.parent.name))
        each = await asyncio.gather(*(_left(name, places.backend(spec, NOBODY, nobody_told)) for name, spec in specs.items()))
    traces = [trace for found, _ in each for trace in found]
    owners = [owner for _, owner in each if owner is not None]
    bare = frozenset(name for name, (_, owner) in zip(specs, each, strict=True) if owner is None)
    return recovery.Findings(traces, owners, bare)


async def _left(name: str, station: Station) -> tuple[list[recovery.Trace], SpoolOwner | None]:
    """What one backend holds, and whose it is; None when nobody's."""
    try:
        async with asyncio.timeout(LEFT_DEADLINE_S):
            held = await station.owner_there()
            traces = [recovery.Trace(name, each.job, each.claimed, each.fact) for each in await station.left()]
    except (BackendError, OSError) as error:
        said = str(error) or f"no answer within {LEFT_DEADLINE_S:.0f} s"
        words = f"backend {name} ({station.where}) cannot be asked what runs there: {said}"
        cure = "make it reachable and try again; if it is gone for good, remove its document: its jobs are lost then"
        raise ReconcilerError(f"nothing was rebuilt: {words}; {cure}") from error
    finally:
        await _closed(station)
    return traces, SpoolOwner(f"backend {name} ({station.where}/owner)", held.ledger_id, held.epoch) if held else None
