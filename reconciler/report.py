"""What people are told: conditions of every object, as status files and as rows in the ledger for the read verbs.

Made by daemon.py; controller.py tells it what was decided and saved. Nothing decides from what it says. A run's file is written by
status/ alone; here are the other objects, and each workflow's summary of its newest run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from reconciler.clock import rfc3339, utc_now
from reconciler.core.codec import Json
from reconciler.core.desired import BackendSpec, Place
from reconciler.core.names import digest_of
from reconciler.core.observed import BackendView
from reconciler.core.record import Event, RunHead
from reconciler.core.summary import (
    Condition,
    SourceView,
    Truth,
    backend_conditions,
    carry,
    phase_of,
    run_conditions,
    run_summary,
    source_conditions,
    workflow_conditions,
)
from reconciler.core.trigger import Decisions, Held, Waiting, Word
from reconciler.errors import Problem
from reconciler.fleet import Step
from reconciler.intake import Feed
from reconciler.ledger.rows import ObjectRow
from reconciler.log import EventName
from reconciler.manifest.assemble import Desired, Key
from reconciler.saving import ObjectChanges
from reconciler.status import RunView, StatusWriter, condition_rows, object_document

#: How often at most the words about a workflow follow its run. The end of a run is told at once.
REFRESH_S = 1.0
#: How many earlier runs a workflow's status names.
HISTORY_MAX = 5


@dataclass(slots=True)
class _Newest:
    """The newest run of a workflow, as last saved."""

    step: Step
    suspended: str


@dataclass(slots=True)
class _Told:
    """What was last said of one object."""

    conditions: tuple[Condition, ...] = ()
    row: ObjectRow = field(default_factory=lambda: ObjectRow("", ""))


class Report:
    """Says how things are. `poke` asks for a cycle a little later, so that what was held back is said."""

    def __init__(self, writer: StatusWriter, rows: Iterable[ObjectRow], poke: Callable[[float], None]) -> None:
        self._writer = writer
        self._poke = poke
        self._told: dict[Key, _Told] = {(row.kind, row.name): _Told(_conditions_of(row), row) for row in rows}
        self._pending: dict[Key, ObjectRow] = {}
        self._gone: dict[Key, None] = {}
        self._events: list[Event] = []
        self._released: list[str] = []
        self._desired: Desired | None = None
        self._decisions = Decisions()
        self._newest: dict[str, _Newest] = {}
        self._dirty: dict[str, None] = {}  # workflows whose words are behind
        self._fresh_at = 0.0
        self._poked = False  # a cycle has been asked for
        self._views: Mapping[str, BackendView] = {}
        self.feeds: Mapping[str, Feed] = {}

    # -- what the controller tells ----------------------------------------------------------------------------------------------

    def directed(self, desired: Desired) -> None:
        """This is what is asked for from now on."""
        self._desired = desired
        undeclared = {("Backend", name) for name in desired.backends}  # the local one, when no Backend is declared
        for key in set(self._told) - set(desired.present) - undeclared:
            source = self._told[key].row.source
            if key[0] != "Run" or desired.is_gone(*key, source):
                self._remove(key)
        self._say_sources(desired)
        self._dirty.update(dict.fromkeys(desired.workflows))
        for (kind, name), problem in desired.stalled.items():
            if kind == "Workflow" and name not in desired.workflows:
                self._say((kind, name), None, _invalid(problem))
        for name, request in desired.requests.items():
            self._say(("Run", name), request.place, (Condition("Ready", Truth.TRUE, "Accepted", "the document is accepted"),))

    def decided(self, decisions: Decisions, heads: Mapping[str, Mapping[str, RunHead]]) -> None:
        """Which runs are owed was decided anew."""
        self._decisions = decisions
        if self._desired is not None:
            self._dirty.update(dict.fromkeys(self._desired.workflows))
        self._fresh_at = 0.0

    def run(self, step: Step, suspended: str) -> None:
        """A run changed, and that was saved."""
        known = self._newest.get(step.run.workflow)
        if known is None or step.run.created_at >= known.step.run.created_at:
            self._newest[step.run.workflow] = _Newest(step, suspended)
        self._dirty[step.run.workflow] = None
        if step.record.ended:
            self._fresh_at = 0.0
        self._writer.put_run(RunView(step.run, step.record, suspended, self._views))

    def backends(self, views: Mapping[str, BackendView], unowned: frozenset[str]) -> None:
        """How the backends look now, and which of them are somebody else's."""
        desired = self._desired
        for name, view in views.items():
            before = self._views.get(name)
            if before is None or _differs(before, view):
                spec = desired.backends.get(name) if desired else None
                self._say_backend(name, spec, view, name in unowned)
        self._views = dict(views)

    def unsaved(self) -> ObjectChanges:
        """What changed about objects since `saved` was last called."""
        self._refresh()
        return ObjectChanges(tuple(self._pending.values()), tuple(self._gone), tuple(self._events), tuple(self._released))

    def saved(self, changes: ObjectChanges) -> None:
        """These are in the ledger now."""
        for row in changes.objects:
            key = (row.kind, row.name)
            if self._pending.get(key) is row:
                del self._pending[key]
        for key in changes.gone:
            self._gone.pop(key, None)
        del self._events[: len(changes.events)]
        del self._released[: len(changes.released)]

    def release(self, workflow: str) -> None:
        """A person has let this workflow go again after a recovery."""
        self._released.append(workflow)

    # -- for --once and for people ------------------------------------------------------------------------------------------------

    def trouble(self) -> list[str]:
        """Everything that is not well: stalled or failed objects, each with its place."""
        lines = [str(problem) for problem in self._desired.problems] if self._desired else []
        for (kind, name), told in sorted(self._told.items()):
            bad = next((each for each in told.conditions if _is_bad(each)), None)
            if bad is not None and not (bad.reason in ("InvalidManifest", "InvalidManifests") and lines):
                row = told.row
                place = f"{row.source + ':' if row.source else ''}{row.file}:{row.line}" if row.file else "."
                lines.append(f"{place}: {kind}/{name}: {bad.reason}: {bad.message}")
        return lines

    # -- saying -----------------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Say what is behind of workflows, at most once a second."""
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
        standings = self._standings()
        for name in dirty:
            self._say_workflow(name, standings.get(name))

    def _standings(self) -> dict[str, Word | Waiting | Held]:
        standings: dict[str, Word | Waiting | Held] = dict(self._decisions.satisfied)
        standings.update({each.workflow: each for each in self._decisions.waiting})
        standings.update({each.workflow: each for each in self._decisions.held})
        return standings

    def _say_workflow(self, name: str, standing: Word | Waiting | Held | None) -> None:
        desired = self._desired
        revision = desired.workflows.get(name) if desired else None
        if desired is None or revision is None:
            return
        newest = self._newest.get(name)
        told = self._told.get(("Workflow", name), _Told())
        about_run: tuple[Condition, ...] = tuple(each for each in told.conditions if each.type == "Succeeded")
        before = told.row.status if isinstance(told.row.status, dict) else {}
        status: dict[str, object] = {key: before[key] for key in ("run", "history") if key in before}
        if newest is not None:
            run, record = newest.step.run, newest.step.record
            about_run = run_conditions(run, record, newest.suspended, self._views)
            summary = run_summary(record, utc_now() if record.ended else 0.0)
            counts = {state.value: count for state, count in summary.tasks.items()}
            status["run"] = {"id": run.id, "phase": summary.phase.value, "tasks": counts}
            if record.ended:
                status["run"] = {**status["run"], "core_hours": round(summary.core_hours, 4)}  # type: ignore[dict-item]  # made above
                status["history"] = _history(status.get("history"), newest.step)
        if standing is None:
            word = f"run {newest.step.run.id} follows this digest" if newest else "not decided yet"
            standing = Word("", "Reconciled", word) if newest else Waiting(name, "", "Pending", word)
        problem = desired.stalled.get(("Workflow", name))
        conditions = workflow_conditions(revision.digest, standing, about_run, str(problem) if problem else "")
        if warnings := desired.warnings.get(("Workflow", name)):
            status["warnings"] = list(warnings)
        status["observed_revision"], status["observed_digest"] = revision.place.revision, revision.digest
        self._say(("Workflow", name), revision.place, conditions, status, revision.digest)

    def _say_sources(self, desired: Desired) -> None:
        for name, spec in desired.sources.items():
            feed = self.feeds.get(name)
            problems = tuple(str(problem) for problem in desired.problems if problem.file.startswith(f"{name}:"))
            own = desired.stalled.get(("Source", name))
            view = SourceView(
                revision=feed.tree.revision if feed and feed.tree else "",
                unreachable=feed.unreachable if feed else "",
                refused=(str(own) if own else "") or (feed.refused if feed else ""),
                problems=problems,
                suspended=(spec.suspend.reason or "by its document") if spec.suspend and spec.suspend.holds(utc_now()) else "",
                objects=sum(1 for _, each in desired.present if each.startswith(f"{name}/")),
            )
            self._say(("Source", name), spec.place, source_conditions(view), {"observed_revision": view.revision})
        for (kind, name), problem in desired.stalled.items():
            if kind in ("Source", "Backend") and name not in (desired.sources if kind == "Source" else desired.backends):
                self._say((kind, name), None, _invalid(problem))
        own_problems = [problem for problem in desired.problems if not any(problem.file.startswith(f"{name}:") for name in desired.sources)]
        settings = next((key for key in desired.present if key[0] == "Settings"), None)
        if settings is not None:
            feed = self.feeds.get("")
            count = sum("/" not in name for _, name in desired.present)
            view = SourceView(feed.tree.revision if feed and feed.tree else "", problems=tuple(map(str, own_problems)), objects=count)
            place = Place("", desired.good[settings].file if settings in desired.good else "", 1)
            self._say(settings, place, source_conditions(view), {"observed_revision": view.revision})

    def _say_backend(self, name: str, spec: BackendSpec | None, view: BackendView, unowned: bool) -> None:
        if spec is not None:
            conditions = backend_conditions(spec, view, view.reason if unowned else "")
            self._say(("Backend", name), spec.place, conditions, {"type": spec.type, "max_concurrent": spec.max_concurrent})

    def _say(
        self, key: Key, place: Place | None, conditions: tuple[Condition, ...], status: Mapping[str, object] | None = None, digest: str = ""
    ) -> None:
        """Write what is new of one object; nothing when it is as it was last told. A Run document has no file: its run has one."""
        kind, name = key
        told = self._told.setdefault(key, _Told())
        conditions = carry(told.conditions, conditions, utc_now())
        document = {"conditions": condition_rows(conditions), **(status or {})}
        row = _row(key, place, digest, document, told.row)
        if row == told.row._replace(updated_at=row.updated_at):
            told.conditions = conditions
            return
        if event := _event_of(kind, name, told.conditions, conditions):
            self._events.append(event)
        told.conditions, told.row = conditions, row
        self._pending[kind, name] = row
        self._gone.pop((kind, name), None)
        if kind != "Run":
            self._writer.put(kind, name, object_document(kind, name, document))

    def _remove(self, key: Key) -> None:
        del self._told[key]
        self._pending.pop(key, None)
        self._gone[key] = None
        if key[0] == "Workflow":
            self._newest.pop(key[1], None)
        if key[0] != "Run":
            self._writer.remove(*key)


def _row(key: Key, place: Place | None, digest: str, status: Mapping[str, object], before: ObjectRow) -> ObjectRow:
    kind, name = key
    where = place or Place(before.source, before.file, before.line, before.commit, before.revision)
    known = digest or before.digest
    generation = before.generation + (known != before.digest or not before.generation)
    return ObjectRow(
        kind=kind,
        name=name,
        source=where.source,
        file=where.file,
        line=where.line,
        commit=where.commit,
        revision=where.revision,
        digest=known or digest_of(f"{kind}/{name}"),
        generation=generation,
        body=None,
        status=_plain(status),
        updated_at=utc_now(),
    )


def _plain(value: object) -> Json:
    """As JSON has it, so that what was stored equals what is said."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def _invalid(problem: Problem) -> tuple[Condition, ...]:
    message = f"{problem}; it was never valid, so nothing of it is in force"
    return (Condition("Ready", Truth.FALSE, "InvalidManifest", message), Condition("Stalled", Truth.TRUE, "InvalidManifest", message))


def _is_bad(condition: Condition) -> bool:
    """Whether a person must know: stalled, failed, or not reachable."""
    if condition.type == "Stalled":
        return condition.status is Truth.TRUE
    if condition.type == "Succeeded":
        return condition.status is Truth.FALSE
    return condition.type == "Reconciling" and condition.reason in ("Unreachable",)


def _differs(before: BackendView, after: BackendView) -> bool:
    """Whether a person would be told something else."""
    return any(getattr(before, name) != getattr(after, name) for name in ("reachable", "reason", "accepts", "complete"))


def _history(before: object, step: Step) -> list[object]:
    """The newest runs first, each once."""
    entry = {
        "digest": step.run.digest,
        "run": step.run.id,
        "outcome": phase_of(step.record).value,
        "finished": rfc3339(max((task.ended_at or task.since for task in step.record.tasks.values()), default=step.run.created_at)),
    }
    known = before if isinstance(before, list) else []
    earlier: list[object] = [each for each in known if isinstance(each, dict) and each.get("run") != step.run.id]
    return [entry, *earlier][:HISTORY_MAX]


_EVENTS: Mapping[tuple[str, str], EventName] = {
    ("Source", "Reconciled"): EventName.SOURCE_FETCHED,
    ("Source", "Unreachable"): EventName.SOURCE_UNREACHABLE,
    ("Source", "Refused"): EventName.SOURCE_REFUSED,
    ("Source", "InvalidManifests"): EventName.MANIFEST_PROBLEM,
    ("Settings", "InvalidManifests"): EventName.MANIFEST_PROBLEM,
    ("Workflow", "InvalidManifest"): EventName.MANIFEST_PROBLEM,
    ("Workflow", "TooManyRuns"): EventName.APPROVAL_NEEDED,
    ("Workflow", "TooLarge"): EventName.APPROVAL_NEEDED,
    ("Backend", "Reconciled"): EventName.BACKEND_REACHABLE,
    ("Backend", "Unreachable"): EventName.BACKEND_UNREACHABLE,
    ("Backend", "NotOwner"): EventName.BACKEND_NOT_OWNED,
}


def _event_of(kind: str, name: str, before: tuple[Condition, ...], after: tuple[Condition, ...]) -> Event | None:
    """The event that a change of Ready is worth; None for a change of words, or one that runs tell better."""
    old = next((each for each in before if each.type == "Ready"), None)
    new = next((each for each in after if each.type == "Ready"), None)
    same = ("status", "reason", "observed_generation")
    if new is None or (old is not None and all(getattr(old, key) == getattr(new, key) for key in same)):
        return None
    event = _EVENTS.get((kind, new.reason))
    return Event(utc_now(), event, "", "", new.message, f"{kind}/{name}") if event else None


def _conditions_of(row: ObjectRow) -> tuple[Condition, ...]:
    """The conditions that an earlier daemon stored, so that their times are kept. Only what is well-formed counts."""
    stored = row.status.get("conditions") if isinstance(row.status, dict) else None
    found = []
    for each in stored if isinstance(stored, list) else ():
        if isinstance(each, dict) and each.get("status") in {truth.value for truth in Truth}:
            texts = {key: str(each.get(key, "")) for key in ("type", "reason", "message", "observed_generation")}
            since = _seconds(each.get("last_transition_time"))
            found.append(Condition(status=Truth(str(each["status"])), last_transition_time=since, **texts))
    return tuple(found)


def _seconds(text: object) -> float:
    """Seconds since 1970 of an RFC 3339 time of ours; 0.0 when it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
