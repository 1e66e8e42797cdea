"""What people are told: conditions of every object, as status files and as rows in the ledger for the read verbs.

Made by daemon.py; controller.py tells it what was decided and saved. Nothing decides from what it says. A run's file is written by
status/ alone; here are the other objects, and each workflow's summary of its newest run. The words are made in standing.py and
core/summary.py, the rows in objectrow.py.

That a run has ended is said in the same transaction that ends it: a daemon that is killed right after leaves no wrong word behind.
All other words follow at most a second later, and only those that changed are made: with 1,000 workflows that counts.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ParamSpec

import structlog

from reconciler.clock import utc_now
from reconciler.core.codec import Json
from reconciler.core.desired import BackendSpec, Place
from reconciler.core.observed import BackendView
from reconciler.core.plan import remember
from reconciler.core.record import Event, RunHead
from reconciler.core.summary import Condition, SourceView, Truth, backend_conditions, carry, source_conditions, workflow_conditions
from reconciler.core.trigger import Decisions, Waiting, Word
from reconciler.fleet import Step
from reconciler.intake import Feed
from reconciler.ledger import LedgerReader
from reconciler.ledger.rows import ObjectRow, RunRow
from reconciler.log import EventName
from reconciler.manifest.assemble import Desired, Key
from reconciler.objectrow import conditions_of, event_of, row_of, said_of, was_valid
from reconciler.saving import ObjectChanges
from reconciler.standing import (
    Alive,
    Newest,
    Standing,
    change_standing,
    head_in,
    history,
    invalid,
    newest_of,
    newest_of_row,
    noted,
    request_conditions,
    request_standings,
    standings,
    strays,
)
from reconciler.status import RunView, StatusWriter, condition_rows, object_document

log = structlog.get_logger(__name__)

P = ParamSpec("P")

#: How often at most the words that are behind are said. The end of a run is told at once.
REFRESH_S = 1.0
#: What is only good to know of a backend (calls an hour, sizes) changes with every look; it is told so often, or with what matters.
ABOUT_S = 60.0


@dataclass(slots=True)
class _Told:
    """What was last said of one object."""

    conditions: tuple[Condition, ...] = ()
    row: ObjectRow = field(default_factory=lambda: ObjectRow("", ""))


@dataclass(frozen=True, slots=True)
class _Words:
    """What is to be said of one object. `place` None, `digest` "", `body` None: as before."""

    conditions: tuple[Condition, ...]
    place: Place | None = None
    said: Mapping[str, object] = field(default_factory=dict)
    digest: str = ""
    body: Json = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """Words about a workflow whose run ends in the batch that is being saved: said when that has worked, forgotten when not."""

    row: ObjectRow
    conditions: tuple[Condition, ...]
    newest: Newest
    instead: ObjectRow | None  # the row that would have been saved without it


class Report:
    """Says how things are. `poke` asks for a cycle a little later, so that what was held back is said. `look_up` asks for the ledger's
    row of a run that a Run document names; the answer comes by `looked_up`."""

    def __init__(
        self, writer: StatusWriter, rows: Iterable[ObjectRow], poke: Callable[[float], None], look_up: Callable[[str], None] | None = None
    ) -> None:
        self._writer = writer
        self._poke = poke
        self._look_up = look_up
        self._told: dict[Key, _Told] = {(row.kind, row.name): _Told(conditions_of(row), row) for row in rows}
        self._pending: dict[Key, ObjectRow] = {}
        self._drafts: dict[Key, _Draft] = {}
        self._gone: dict[Key, None] = {}
        self._events: list[Event] = []
        self._released: list[str] = []
        self._desired: Desired | None = None
        self._heads: Mapping[str, Mapping[str, RunHead]] = {}
        self._standings: Mapping[str, Standing] = {}  # by workflow
        self._asked: Mapping[str, Standing | None] = {}  # by Run document; None: its run is being made
        self._looked_up: dict[str, RunRow | None] = {}  # runs that Run documents name and that are not in memory
        self._looking: set[str] = set()  # of those, which the ledger is being asked for
        self._newest: dict[str, Newest | Alive] = {}
        self._dirty: dict[Key, None] = {}  # workflows and Run documents whose words are behind
        self._fresh_at = 0.0
        self._poked = False  # a cycle has been asked for
        self._views: Mapping[str, BackendView] = {}
        self._specs: dict[str, BackendSpec] = {}  # as the backends were last told
        self._about: dict[str, tuple[Mapping[str, object], float]] = {}  # what was last told about them, and when
        self._unwritten = ""  # why status files cannot be written, as last told
        self._late: Mapping[str, str] = {}  # by source: why its changes are found late, as last told
        self.feeds: Mapping[str, Feed] = {}

    # -- what the daemon and the controller tell ----------------------------------------------------------------------------------

    def catch_up(self, reader: LedgerReader) -> None:
        """Put right what an earlier daemon could not say any more: each workflow's words about its newest run. Before anything else;
        on a thread, for it asks the ledger."""
        for kind, name in list(self._told):
            if kind == "Workflow":
                self._apart((kind, name), self._correct, name, reader)

    def directed(self, desired: Desired) -> None:
        """This is what is asked for from now on."""
        before, self._desired = self._desired, desired
        undeclared = {("Backend", name) for name in desired.backends}  # the local one, when no Backend is declared
        for key in set(self._told) - set(desired.present) - undeclared:
            source = self._told[key].row.source
            if key[0] != "Run" or desired.is_gone(*key, source):
                self._remove(key)
        self._say_sources(desired)
        self._say_settings(desired)
        self._say_invalid(desired)
        for kind, group in (("Workflow", desired.workflows), ("Run", desired.requests)):
            for name in group:
                key = (kind, name)
                if before is None or _asks(before, key) != _asks(desired, key):
                    self._dirty[key] = None

    def decided(self, decisions: Decisions, heads: Mapping[str, Mapping[str, RunHead]]) -> None:
        """Which runs are owed was decided anew."""
        self._heads = heads
        before, self._standings = self._standings, standings(decisions)
        if self._desired is None:
            return
        for name in self._desired.workflows:
            if self._standings.get(name) != before.get(name):
                self._dirty["Workflow", name] = None
        self._decide_requests(decisions, self._desired)

    def looked_up(self, run: str, answer: Future[RunRow | None]) -> None:
        """What the ledger has of a run that was asked for by `look_up`; a result of None: there is no such run."""
        self._looking.discard(run)
        if answer.cancelled():
            return
        if error := answer.exception():
            log.warning(EventName.OBJECT_FAILED, kind="Run", name=run, verb="report", reason=str(error))
            return
        row = self._looked_up[run] = answer.result()
        self._poke(0.0)
        for name, request in self._desired.requests.items() if self._desired else ():
            if request.run == run:
                self._asked = {**self._asked, name: change_standing(request, head_in(self._heads, run) or row, asked=True)}
                self._dirty["Run", name] = None

    def run(self, step: Step, suspended: str) -> None:
        """A run changed, and that was saved."""
        workflow = step.run.workflow
        known = self._newest.get(workflow)
        if known is None or step.run.created_at >= known.created_at:
            if not step.record.ended:
                self._newest[workflow] = Alive(step.run, step.record, suspended)
                self._dirty["Workflow", workflow] = None
            elif not (isinstance(known, Newest) and known.run == step.run.id):  # else it was said with the save
                self._newest[workflow] = newest_of(step.run, step.record)
                self._dirty["Workflow", workflow] = None
        self._writer.put_run(RunView(step.run, step.record, suspended, self._views))

    def backends(
        self, views: Mapping[str, BackendView], unowned: frozenset[str], about: Mapping[str, Mapping[str, object]] = MappingProxyType({})
    ) -> None:
        """How the backends look now, which of them are somebody else's, and what else a person should know of each."""
        specs = self._desired.backends if self._desired else {}
        changed = False
        for name, view in views.items():
            before, spec = self._views.get(name), specs.get(name)
            same = before is not None and not _differs(before, view) and self._specs.get(name) == spec
            if spec is None or (same and not self._is_about_due(name, about.get(name, {}))):
                continue
            changed, self._specs[name] = changed or not same, spec
            self._apart(("Backend", name), self._say_backend, spec, view, name in unowned, about.get(name, {}))
        self._views = dict(views)
        if changed:
            self._dirty.update((("Workflow", name), None) for name, newest in self._newest.items() if isinstance(newest, Alive))

    def used(self, runs: Iterable[str]) -> None:
        """What jobs of these runs used came to be known, and was saved: the writer asks the ledger for it."""
        for run in runs:
            self._writer.refresh_run(run)

    def unsaved(self, ending: Sequence[Step] = ()) -> ObjectChanges:
        """What changed about objects since `saved` was last called. `ending`: steps of the same batch that end a run; what they change
        about their workflows is in it, and is told to people when `saved` says that it worked."""
        self._look_around()
        self._refresh()
        self._drafts.clear()
        for step in ending:
            self._apart(("Workflow", step.run.workflow), self._draft, step)
        rows = {**self._pending, **{key: draft.row for key, draft in self._drafts.items()}}
        return ObjectChanges(tuple(rows.values()), tuple(self._gone), tuple(self._events), tuple(self._released))

    def saved(self, changes: ObjectChanges) -> None:
        """These are in the ledger now."""
        for row in changes.objects:
            key = (row.kind, row.name)
            draft = self._drafts.pop(key, None)
            if draft is not None and draft.row is row:
                self._adopt(key, draft)
            elif self._pending.get(key) is row:
                del self._pending[key]
        for key in changes.gone:
            self._gone.pop(key, None)
        del self._events[: len(changes.events)]
        del self._released[: len(changes.released)]

    def release(self, workflow: str) -> None:
        """A person has let this workflow go again after a recovery."""
        self._released.append(workflow)

    # -- for --once and for people ------------------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether there are words that wait for their turn."""
        return bool(self._dirty or self._looking)

    def hurry(self) -> None:
        """Say everything in the next cycle, and have one."""
        self._fresh_at = 0.0
        self._poke(0.01)

    def trouble(self) -> list[str]:
        """Everything that is not well: stalled or failed objects, each with its place."""
        self._fresh_at = 0.0
        self._refresh()
        lines = [str(problem) for problem in self._desired.problems] if self._desired else []
        for (kind, name), told in sorted(self._told.items()):
            bad = next((each for each in told.conditions if _is_bad(each)), None)
            if bad is not None and not (bad.reason in ("InvalidManifest", "InvalidManifests") and lines):
                row = told.row
                place = f"{row.source + ':' if row.source else ''}{row.file}:{row.line}" if row.file else "."
                lines.append(f"{place}: {kind}/{name}: {bad.reason}: {bad.message}")
        return lines

    # -- workflows and their runs -------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Say what is behind, at most once a second."""
        if not self._dirty or self._desired is None:
            return
        now = utc_now()
        if now < self._fresh_at + REFRESH_S:
            if not self._poked:
                self._poked = True
                self._poke(self._fresh_at + REFRESH_S - now)
            return
        self._fresh_at, self._poked = now, False
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            self._apart(key, self._say_workflow if key[0] == "Workflow" else self._say_request, key[1])

    def _apart(self, key: Key, say: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Say something of one object."""
        try:
            say(*args, **kwargs)
        except Exception:  # one object of which nothing can be said must not keep the others from being told of
            log.exception(EventName.OBJECT_FAILED, kind=key[0], name=key[1], verb="report")

    def _say_workflow(self, name: str) -> None:
        newest = self._newest.get(name)
        if words := self._words_of(name, newest.words(self._views) if isinstance(newest, Alive) else newest):
            self._say(("Workflow", name), words)

    def _words_of(self, name: str, newest: Newest | None) -> _Words | None:
        """What is to be said of a workflow. None: nothing can be, for it is neither in force nor was anything said of it."""
        key = ("Workflow", name)
        desired, told = self._desired, self._told.get(key)
        revision = desired.workflows.get(name) if desired else None
        row = told.row if told else ObjectRow("", "")
        said: dict[str, object] = {key: value for key, value in said_of(row).items() if key != "warnings"}
        before = told.conditions if told else ()
        about = newest.about if newest else tuple(each for each in before if each.type == "Succeeded")
        if newest is not None:
            said["run"] = newest.said
            if newest.entry:
                said["history"] = history(said.get("history"), newest)
        if desired is None or revision is None:
            others = tuple(each for each in before if each.type != "Succeeded")
            return _Words((*others, *about), None, said) if told else None
        problem = desired.stalled.get(key)
        standing = self._standings.get(name) or _undecided(name, newest)
        conditions = workflow_conditions(revision.digest, standing, about, str(problem) if problem else "")
        if warnings := desired.warnings.get(key):
            said["warnings"] = list(warnings)
        said["observed_revision"], said["observed_digest"] = revision.place.revision, revision.digest
        return _Words(conditions, revision.place, said, revision.digest)

    def _draft(self, step: Step) -> None:
        """Make the words about a workflow whose run ends, without saying them yet."""
        name, key = step.run.workflow, ("Workflow", step.run.workflow)
        draft = self._drafts.get(key)
        known = draft.newest if draft else self._newest.get(name)
        if known is not None and step.run.created_at < known.created_at:
            return
        newest = newest_of(step.run, step.record)
        if words := self._words_of(name, newest):
            conditions, row = self._row(key, words)
            self._drafts[key] = _Draft(row, conditions, newest, self._pending.get(key))

    def _adopt(self, key: Key, draft: _Draft) -> None:
        self._newest[key[1]] = draft.newest
        if self._pending.get(key) is draft.instead:
            self._pending.pop(key, None)
        if key not in self._gone:
            self._tell(key, draft.conditions, draft.row)

    def _correct(self, name: str, reader: LedgerReader) -> None:
        """Whatever was said of a workflow's newest run, the ledger's own word of that run counts."""
        row = reader.newest_run(name)
        said = said_of(self._told["Workflow", name].row).get("run")
        known = (said.get("id"), said.get("phase")) if isinstance(said, dict) else None
        if row is None or known == (row.id, row.phase.value):
            return
        stored = None if row.pruned else reader.stored(row.id)
        if stored is None:
            self._newest[name] = newest_of_row(row)
        else:
            record = replace(remember(stored.run, stored.records, stored.cancelled, stored.dropped), stalled=stored.stalled)
            self._newest[name] = newest_of(stored.run, record) if record.ended else Alive(stored.run, record, "")
        self._say_workflow(name)

    # -- Run documents ------------------------------------------------------------------------------------------------------------

    def _decide_requests(self, decisions: Decisions, desired: Desired) -> None:
        """Where each Run document stands now. A run that is not in memory is looked up, once."""
        made = {each.request for each in decisions.create}
        found = request_standings(decisions)
        asked: dict[str, Standing | None] = {}
        for name, request in desired.requests.items():
            if request.run:
                head = head_in(self._heads, request.run) or self._looked_up.get(request.run)
                asked[name] = change_standing(request, head, request.run in self._looked_up)
                if head is None and self._look_up and request.run not in {*self._looked_up, *self._looking}:
                    self._looking.add(request.run)
                    self._look_up(request.run)
            else:
                asked[name] = found.get(name) or (None if name in made else Waiting("", name, "Pending", "not decided yet"))
            if name not in self._asked or asked[name] != self._asked[name]:
                self._dirty["Run", name] = None
        self._asked = asked
        wanted = {request.run for request in desired.requests.values()}
        self._looked_up = {run: row for run, row in self._looked_up.items() if run in wanted}

    def _say_request(self, name: str) -> None:
        request = self._desired.requests.get(name) if self._desired else None
        if self._desired is None or request is None:
            return
        conditions = request_conditions(self._asked.get(name, Waiting("", name, "Pending", "not decided yet")))
        if problem := self._desired.stalled.get(("Run", name)):
            message = f"{problem}; the last good version stays in force"
            states = (("Ready", Truth.FALSE), ("Stalled", Truth.TRUE))
            conditions = tuple(Condition(kind, truth, "InvalidManifest", message) for kind, truth in states)
        self._say(("Run", name), _Words(conditions, request.place))

    # -- sources, backends, Settings ----------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Nobody else tells that status files cannot be written, or that a source's changes are found late."""
        problem = self._writer.problem
        if bool(problem) != bool(self._unwritten):
            before, self._unwritten = self._unwritten, problem
            name = EventName.STATUS_UNWRITABLE if problem else EventName.STATUS_WRITABLE
            (log.warning if problem else log.info)(name, reason=problem or f"it works again; was: {before}")
            if self._desired is not None and (key := _settings_of(self._desired)):
                self._events.append(Event(utc_now(), name, "", "", problem or "status files are written again", "/".join(key)))
                self._say_settings(self._desired)
        late = {name: feed.source.problem for name, feed in self.feeds.items()}
        if late != self._late and self._desired is not None:
            self._say_sources(self._desired)
            self._say_settings(self._desired)

    def _say_invalid(self, desired: Desired) -> None:
        """Of what is declared, but badly, and no version is in force."""
        in_force = {"Workflow": desired.workflows, "Run": desired.requests, "Source": desired.sources, "Backend": desired.backends}
        for key, problem in desired.stalled.items():
            if key[1] in in_force.get(key[0], {key[1]: None}):
                continue
            told = self._told.get(key, _Told())
            known = was_valid(told.row) if key[0] == "Workflow" else key in desired.good
            kept = tuple(each for each in told.conditions if each.type == "Succeeded")
            conditions = (*invalid(problem, known, runs=key[0] == "Workflow"), *kept)
            self._say(key, _Words(conditions, None, said_of(told.row)))

    def _say_sources(self, desired: Desired) -> None:
        self._late = {name: feed.source.problem for name, feed in self.feeds.items()}
        for name in desired.sources:
            self._apart(("Source", name), self._say_source, name, desired)

    def _say_source(self, name: str, desired: Desired) -> None:
        spec, feed = desired.sources[name], self.feeds.get(name)
        own = desired.stalled.get(("Source", name))
        view = SourceView(
            revision=feed.tree.revision if feed and feed.tree else "",
            unreachable=feed.unreachable if feed else "",
            refused=(str(own) if own else "") or (feed.refused if feed else ""),
            problems=tuple(str(problem) for problem in desired.problems if problem.file.startswith(f"{name}:")),
            suspended=(spec.suspend.reason or "by its document") if spec.suspend and spec.suspend.holds(utc_now()) else "",
            objects=sum(1 for _, each in desired.present if each.startswith(f"{name}/")),
        )
        conditions = noted(source_conditions(view), _late(self._late.get(name, "")))
        self._say(("Source", name), _Words(conditions, spec.place, {"observed_revision": view.revision}))

    def _say_settings(self, desired: Desired) -> None:
        key = _settings_of(desired)
        if key is None:
            return
        own = [problem for problem in desired.problems if not any(problem.file.startswith(f"{name}:") for name in desired.sources)]
        feed = self.feeds.get("")
        count = sum("/" not in name for _, name in desired.present)
        view = SourceView(feed.tree.revision if feed and feed.tree else "", problems=tuple(map(str, own)), objects=count)
        conditions = noted(source_conditions(view), _late(self._late.get("", "")))
        if self._unwritten:
            conditions = (*conditions, Condition("StatusWritable", Truth.FALSE, "StatusUnwritable", self._unwritten))
        place = Place("", desired.good[key].file if key in desired.good else "", 1)
        self._say(key, _Words(conditions, place, {"observed_revision": view.revision}))

    def _is_about_due(self, name: str, about: Mapping[str, object]) -> bool:
        """Whether what is only good to know is told for its own sake."""
        told, at = self._about.get(name, ({}, 0.0))
        return about != told and utc_now() >= at + ABOUT_S

    def _say_backend(self, spec: BackendSpec, view: BackendView, unowned: bool, about: Mapping[str, object]) -> None:
        conditions = noted(backend_conditions(spec, view, view.reason if unowned else ""), view.later, strays(view.strays))
        body: dict[str, Json] = {"type": spec.type, "max_concurrent": spec.max_concurrent, "absence_grace_s": spec.absence_grace_s}
        said: dict[str, object] = {key: body[key] for key in ("type", "max_concurrent")}
        self._about[spec.name] = (dict(about), utc_now())
        key = ("Backend", spec.name)
        if view.began_at is None and not about and key in self._told:
            said["about"] = said_of(self._told[key].row).get("about")  # what an earlier daemon saw, until there is something newer
        said["about"] = about or said.get("about")
        self._say(key, _Words(conditions, spec.place, {name: value for name, value in said.items() if value}, body=body))

    # -- saying -------------------------------------------------------------------------------------------------------------------

    def _row(self, key: Key, words: _Words) -> tuple[tuple[Condition, ...], ObjectRow]:
        told = self._told.get(key) or _Told()
        conditions = carry(told.conditions, words.conditions, utc_now())
        row = row_of(key, words.place, {"conditions": condition_rows(conditions), **words.said}, told.row, words.digest)
        return conditions, row if words.body is None else row._replace(body=words.body)

    def _say(self, key: Key, words: _Words) -> None:
        """Write what is new of one object; nothing when it is as it was last told."""
        conditions, row = self._row(key, words)
        told = self._told.get(key)
        if told is not None and row == told.row._replace(updated_at=row.updated_at):
            told.conditions = conditions
            return
        if event := event_of(key, told.conditions if told else (), conditions):
            self._events.append(event)
        self._pending[key] = row
        self._gone.pop(key, None)
        self._tell(key, conditions, row)

    def _tell(self, key: Key, conditions: tuple[Condition, ...], row: ObjectRow) -> None:
        """To people. A Run document has no file: its run has one."""
        self._told[key] = _Told(conditions, row)
        if key[0] != "Run" and isinstance(row.status, dict):
            self._writer.put(*key, object_document(*key, row.status))

    def _remove(self, key: Key) -> None:
        del self._told[key]
        self._pending.pop(key, None)
        self._dirty.pop(key, None)
        self._gone[key] = None
        if key[0] == "Workflow":
            self._newest.pop(key[1], None)
        if key[0] != "Run":
            self._writer.remove(*key)


def _asks(desired: Desired, key: Key) -> tuple[object, ...]:
    """Everything that a document says of what people are told about a workflow or a Run document."""
    kind, name = key
    value = desired.workflows.get(name) if kind == "Workflow" else desired.requests.get(name)
    return (value, desired.stalled.get(key), desired.warnings.get(key))


def _undecided(name: str, newest: Newest | None) -> Word | Waiting:
    if newest is None:
        return Waiting(name, "", "Pending", "not decided yet")
    return Word("", "Reconciled", f"run {newest.run} follows this digest")


def _settings_of(desired: Desired) -> Key | None:
    return next((key for key in desired.present if key[0] == "Settings"), None)


def _late(problem: str) -> str:
    return f"changes are found late: {problem}" if problem else ""


def _is_bad(condition: Condition) -> bool:
    """Whether a person must know: stalled, failed, or not reachable."""
    if condition.type == "Stalled":
        return condition.status is Truth.TRUE
    if condition.type == "Succeeded":
        return condition.status is Truth.FALSE
    return condition.type == "Reconciling" and condition.reason in ("Unreachable",)


def _differs(before: BackendView, after: BackendView) -> bool:
    """Whether a person would be told something else."""
    return any(getattr(before, name) != getattr(after, name) for name in ("reachable", "reason", "accepts", "complete", "strays", "later"))
