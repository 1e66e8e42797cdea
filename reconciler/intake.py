"""What the sources say, put together: follows every source, reads what changed, and hands the desired state to the controller.

Made by daemon.py. Each source is followed by a task of its own, and read on a thread of its own turn, so that a dead, slow or huge
one never delays another. It decides nothing about runs; what a document means is decided in manifest/ and core/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from reconciler.aside import aside
from reconciler.clock import utc_now
from reconciler.errors import SourceRefused, SourceUnreachable
from reconciler.log import EventName
from reconciler.manifest.assemble import Desired, Key, LastGood, Site, SourceView, assemble, view
from reconciler.manifest.load import Loader
from reconciler.manifest.origin import SourceSpec
from reconciler.sources.base import Source, Tree

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Feed:
    """One source while it is followed. `view` None: never read. `tried`: a first look has ended, in whatever way."""

    name: str
    source: Source
    identity: tuple[object, ...]
    loader: Loader = field(default_factory=Loader)
    tree: Tree | None = None
    view: SourceView | None = None
    unreachable: str = ""
    refused: str = ""
    tried: bool = False
    looked_at: float = 0.0  # when the newest look that came back ended
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None


def _identity(spec: SourceSpec) -> tuple[object, ...]:
    """What of a Source's document makes it another place to look at, not only another judgement of what is there."""
    where = (spec.url, spec.branch, spec.tag, spec.commit, spec.path, spec.include)
    return (*where, spec.deploy_key, spec.known_hosts, spec.interval_s, spec.timeout_s)


class Intake:
    """Follows the operator's folder, and every Source that it declares."""

    def __init__(
        self, operator: Source, site: Site, make_source: Callable[[SourceSpec], Source], deliver: Callable[[Desired], None]
    ) -> None:
        self._site = site
        self._make_source = make_source
        self._deliver = deliver
        self._changed = asyncio.Event()
        self._assembling = False
        self._previous: Mapping[Key, LastGood] = {}
        self._assembled: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.feeds: dict[str, Feed] = {"": Feed("", operator, ())}
        self.desired: Desired | None = None

    def remember(self, known: Mapping[Key, LastGood]) -> None:
        """Objects that an earlier daemon knew of, so that the deletion guard sees them. Before `start`."""
        self._previous = known

    def start(self) -> None:
        """Begin to follow."""
        self._follow(self.feeds[""])
        self._assembled = asyncio.ensure_future(self._assemble_on_change())

    @property
    def settled(self) -> bool:
        """Every source has been looked at, and what they said has been handed on."""
        busy = self._changed.is_set() or self._assembling
        return self.desired is not None and not busy and all(feed.tried for feed in self.feeds.values())

    def look_soon(self) -> None:
        """Look at every source now (SIGHUP)."""
        for feed in self.feeds.values():
            self._keep(asyncio.ensure_future(self._look(feed)))

    async def close(self) -> None:
        """Stop following."""
        tasks = [task for task in (self._assembled, *(feed.task for feed in self.feeds.values()), *self._closing) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(feed.source.close() for feed in self.feeds.values()), return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _follow(self, feed: Feed) -> None:
        feed.task = asyncio.ensure_future(self._look_on_change(feed))

    async def _look_on_change(self, feed: Feed) -> None:
        async for _ in feed.source.changes():
            await self._look(feed)

    async def _look(self, feed: Feed) -> None:
        async with feed.turn:
            try:
                tree = await feed.source.look()
                if tree is not feed.tree:
                    feed.view = await aside(view, feed.name, tree, feed.loader)
                    feed.tree = tree
                    log.info(EventName.SOURCE_FETCHED, source=feed.name or "(trusted folder)", revision=tree.revision)
            except SourceUnreachable as error:
                self._say(feed, EventName.SOURCE_UNREACHABLE, unreachable=str(error))
            except SourceRefused as error:
                self._say(feed, EventName.SOURCE_REFUSED, refused=str(error))
            except Exception as error:  # one source's bug must not stop the others; it is looked at again on its next change
                log.exception(EventName.OBJECT_FAILED, kind="Source", name=feed.name)
                self._say(feed, EventName.SOURCE_UNREACHABLE, unreachable=f"{type(error).__name__}: {error}")
            else:
                feed.looked_at = utc_now()
                feed.unreachable = feed.refused = ""
            feed.tried = True
            self._changed.set()

    def _say(self, feed: Feed, event: EventName, unreachable: str = "", refused: str = "") -> None:
        if (unreachable, refused) != (feed.unreachable, feed.refused):
            log.warning(event, source=feed.name or "(trusted folder)", reason=unreachable or refused)
        feed.unreachable, feed.refused = unreachable, refused

    async def _assemble_on_change(self) -> None:
        while True:
            self._assembling = False
            await self._changed.wait()
            self._changed.clear()  # before the work: what changes meanwhile asks for another round
            self._assembling = True
            views = {name: feed.view for name, feed in self.feeds.items() if feed.view is not None}
            operator = views.pop("", None)
            if operator is None:
                continue  # nothing can be said before the trusted folder has been read
            try:
                desired = await aside(assemble, operator, views, self._previous, self._site)
            except Exception:  # a bug here must not end the daemon: what was in force stays so
                log.exception(EventName.OBJECT_FAILED, kind="Settings", name="(all manifests)")
                if self.desired is not None:
                    self._deliver(self.desired)  # whoever waits for an answer has it
                continue
            self._previous = desired.good
            self._tell_problems(desired)
            self.desired = desired
            self._take_sources(desired.sources)
            self._deliver(desired)

    def _tell_problems(self, desired: Desired) -> None:
        """Log what is newly wrong, and what is right again, once each."""
        before = set(self.desired.problems) if self.desired else set()
        for problem in sorted(set(desired.problems) - before):
            log.warning(EventName.MANIFEST_PROBLEM, problem=str(problem))
        for problem in sorted(before - set(desired.problems)):
            log.info(EventName.MANIFEST_ACCEPTED, was=str(problem))

    def _take_sources(self, specs: Mapping[str, SourceSpec]) -> None:
        for name, feed in list(self.feeds.items()):
            if name and (name not in specs or _identity(specs[name]) != feed.identity):
                del self.feeds[name]
                self._keep(asyncio.ensure_future(_end(feed)))
        for name, spec in specs.items():
            if name not in self.feeds:
                try:
                    source = self._make_source(spec)
                except SourceRefused as error:
                    log.warning(EventName.SOURCE_REFUSED, source=name, reason=str(error))
                    continue
                self.feeds[name] = Feed(name, source, _identity(spec))
                self._follow(self.feeds[name])


async def _end(feed: Feed) -> None:
    """Stop following one source."""
    if feed.task is not None:
        feed.task.cancel()
        await asyncio.gather(feed.task, return_exceptions=True)
    await feed.source.close()
