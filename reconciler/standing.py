"""Where a workflow, its newest run and a Run document stand, in words. Pure; called by report.py, which writes them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.clock import rfc3339, utc_now
from reconciler.core.desired import Run, RunRequest
from reconciler.core.observed import BackendView
from reconciler.core.record import Phase, RunHead, RunRecord
from reconciler.core.summary import Condition, Truth, run_conditions, run_summary
from reconciler.core.trigger import Decisions, Held, Waiting, Word, may_change
from reconciler.errors import Problem
from reconciler.ledger.rows import RunRow

Standing = Word | Waiting | Held

#: How many earlier runs a workflow's status names.
HISTORY_MAX = 5
#: So many names are told before "and 3 more".
STRAYS_TOLD = 3
#: A Run document that waits for one of these waits for a person: it cannot be honoured as it is.
_NEVER = ("UnknownWorkflow", "OtherRevision")


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest run of a workflow, in words only: an ended run's tasks are not kept for them."""

    run: str
    created_at: float
    about: tuple[Condition, ...]  # Succeeded
    said: Mapping[str, object]  # id, phase, counts
    entry: Mapping[str, object] | None  # what `history` has of it; None while it is alive


@dataclass(frozen=True, slots=True)
class Alive:
    """The newest run of a workflow while it is alive: its words are made when they are wanted."""

    run: Run
    record: RunRecord
    suspended: str

    @property
    def created_at(self) -> float:
        """When it was made, seconds since 1970."""
        return self.run.created_at

    def words(self, views: Mapping[str, BackendView]) -> Newest:
        """It, as it is now."""
        return newest_of(self.run, self.record, self.suspended, views)


def newest_of(run: Run, record: RunRecord, suspended: str = "", views: Mapping[str, BackendView] | None = None) -> Newest:
    """A run in words."""
    summary = run_summary(record, utc_now() if record.ended else 0.0)
    said: dict[str, object] = {"id": run.id, "phase": summary.phase.value}
    said["tasks"] = {state.value: count for state, count in summary.tasks.items()}
    entry = None
    if record.ended:
        said["core_hours"] = round(summary.core_hours, 4)
        ended_at = max((task.ended_at or task.since for task in record.tasks.values()), default=run.created_at)
        entry = _entry(run.digest, run.id, summary.phase, ended_at)
    about = tuple(each for each in run_conditions(run, record, suspended, views or {}) if each.type == "Succeeded")
    return Newest(run.id, run.created_at, about, said, entry)


def newest_of_row(row: RunRow) -> Newest:
    """A run in words that has ended and whose tasks are not kept any more."""
    truth = Truth.TRUE if row.phase is Phase.SUCCEEDED else Truth.FALSE
    ended_at = row.ended_at or row.created_at
    about = Condition("Succeeded", truth, row.phase.value, f"ended {rfc3339(ended_at)}; its tasks are no longer kept", row.digest)
    said = {"id": row.id, "phase": row.phase.value, "tasks": dict(row.tasks), "core_hours": round(row.core_hours, 4)}
    return Newest(row.id, row.created_at, (about,), said, _entry(row.digest, row.id, row.phase, ended_at))


def _entry(digest: str, run: str, phase: Phase, ended_at: float) -> Mapping[str, object]:
    return {"digest": digest, "run": run, "outcome": phase.value, "finished": rfc3339(ended_at)}


def history(before: object, newest: Newest) -> list[object]:
    """The newest runs first, each once. `before`: what was said, anything else counts as nothing."""
    known: list[object] = before if isinstance(before, list) else []
    if newest.entry is None:
        return known
    earlier: list[object] = [each for each in known if isinstance(each, dict) and each.get("run") != newest.run]
    return [newest.entry, *earlier][:HISTORY_MAX]


def standings(decisions: Decisions) -> dict[str, Standing]:
    """Of each workflow what was decided about its own runs. What a Run document asks for is that document's affair."""
    found: dict[str, Standing] = dict(decisions.satisfied)
    found.update({each.workflow: each for each in decisions.waiting if not each.request})
    found.update({each.workflow: each for each in decisions.held if not each.request})
    return found


def request_standings(decisions: Decisions) -> dict[str, Standing]:
    """Of each Run document that asks for a run what was decided; none for one whose run is made now."""
    found: dict[str, Standing] = {name: Word(run, "Answered", f"run {run} answers it") for name, run in decisions.answered.items()}
    found.update({each.request: each for each in decisions.waiting if each.request})
    found.update({each.request: each for each in decisions.held if each.request})
    return found


def head_in(heads: Mapping[str, Mapping[str, RunHead]], run: str) -> RunHead | None:
    """The head of a run among those of all workflows."""
    return next((each[run] for each in heads.values() if run in each), None)


def change_standing(request: RunRequest, head: RunHead | RunRow | None, asked: bool) -> Standing:
    """Of a Run document that names a run. `head` None: no such run is known; `asked`: the ledger has been asked for it."""
    run, name = request.run, request.name
    if head is None and not asked:
        return Waiting("", name, "Pending", f"run {run} is looked for")
    if head is None:
        return Held("", name, "UnknownRun", f"there is no run {run}", "")
    if not may_change(request, head.workflow):
        words = f"run {run} is one of {head.workflow}, which does not come from source {request.place.source}"
        return Held(head.workflow, name, "NotAllowed", words, "")
    if head.ended if isinstance(head, RunHead) else head.ended_at is not None:
        why = f": {head.cancelled}" if head.cancelled else ""
        return Word(run, "Ended", f"run {run} has ended: {head.phase.lower()}{why}")
    if head.cancelled:
        return Word(run, "Cancelled", f"run {run} is cancelled, and what runs of it is being ended: {head.cancelled}")
    if request.suspend is not None and request.suspend.holds(utc_now()):
        return Word(run, "Suspended", f"nothing new of run {run} is started")
    return Word(run, "Accepted", f"run {run} is alive")


def request_conditions(standing: Standing | None) -> tuple[Condition, ...]:
    """Ready, Reconciling, Stalled of a Run document. `standing` None: its run is being made."""
    if standing is None:
        standing = Waiting("", "", "Pending", "its run is being made")
    reason, message = standing.reason, standing.message
    if isinstance(standing, Word):
        return (Condition("Ready", Truth.TRUE, reason, message),)
    if isinstance(standing, Held) and standing.cure:
        message = f"{message}; to let it start: `{standing.cure}`"
    ready = Condition("Ready", Truth.FALSE, reason, message)
    if reason == "Suspended":
        return (ready,)
    stuck = isinstance(standing, Held) or reason in _NEVER
    return (ready, Condition("Stalled" if stuck else "Reconciling", Truth.TRUE, reason, message))


def invalid(problem: Problem, known: bool, runs: bool) -> tuple[Condition, ...]:
    """Of an object that no version is in force of. `known`: there was a version once, and which is not known any more.
    `runs`: it may have runs, which go on."""
    words = "nothing of it is in force" if known else "it was never valid, so nothing of it is in force"
    words += "; its runs go on" if known and runs else ""
    message = f"{problem}; {words}"
    return (Condition("Ready", Truth.FALSE, "InvalidManifest", message), Condition("Stalled", Truth.TRUE, "InvalidManifest", message))


def noted(conditions: tuple[Condition, ...], *notes: str) -> tuple[Condition, ...]:
    """With what a person should know besides, which is no failure. "" is no note."""
    more = "; ".join(note for note in notes if note)
    return tuple(replace(each, message=f"{each.message}; {more}") if more and each.type == "Ready" else each for each in conditions)


def strays(jobs: tuple[str, ...]) -> str:
    """Jobs of ours that nobody expects, for a person; "" when there are none."""
    if not jobs:
        return ""
    more = f" and {len(jobs) - STRAYS_TOLD} more" if len(jobs) > STRAYS_TOLD else ""
    plural = "job" if len(jobs) == 1 else "jobs"
    return f"{len(jobs)} {plural} of ours that nobody expects: {', '.join(jobs[:STRAYS_TOLD])}{more}"
