"""Which workflows owe a run, and which runs must make way: "a record of a run exists for this digest" as a function.

    owed(revisions, heads, context, now) -> Decisions

Called by controller.py whenever a source, a record or the clock says so. Level-triggered: it looks at what is asked for and at
what exists, so asking twice, or after a restart, gives the same answer, and once its `create` exists it gives nothing more.

How the rules of "When a commit runs something" are kept here, and what was decided where they leave room:

* An *occasion* is "" for `change`, `paths` and the rerun token (which is in the digest); the commit for `commit`, which then
  stands for `change` too, since no digest changes without one; `run:<request>@<digest>` for a Run document. Editing the
  document's revision, backend or parameters asks for another run; a workflow that changes under it does not.
* A run satisfies its digest from the moment it exists. Only one that was superseded, replaced or dropped with its document
  before it saved a first intent does not; it counts as a *predecessor*, so that the next one gets another id. One that a person
  cancelled satisfies, also when nothing of it had begun: otherwise cancelling would start it again.
* `concurrency: queue`: while a run is alive that has begun, the next is not made. When it ends, whatever digest is newest then
  is made; the ones between never had a record, so going back to one of them later runs it. A run that exists and has not begun
  is superseded at once when another digest is in force. Runs asked for by hand are waited for and never superseded.
* `replace` cancels what is alive of other digests, and the new run is made when that has ended: the two never overlap. A run of
  the same digest (asked for by hand) is waited for, or the two would replace each other for ever.
* A guard holds all runs of one cause back, not those above the limit: a person should see all of them before approving one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.core import cost, names
from reconciler.core.desired import Concurrency, OnDelete, Place, Revision, Run, RunRequest, Suspend, Trigger
from reconciler.core.record import Phase, RunHead

#: How the reason of a drop or cancellation begins that does not come from a person. Stored in records: never change them.
SUPERSEDED = "superseded by "
REPLACED = "replaced by "
REMOVED = "its document was removed"
_MADE_WAY = (SUPERSEDED, REPLACED, REMOVED)

RERUN = "to run it again: `rerun: <any new string>`"


@dataclass(frozen=True, slots=True)
class Limits:
    """Guards. `runs_per_commit`: of one cause in one cycle. `core_hours_per_run` None: no limit."""

    runs_per_commit: int = 100
    core_hours_per_run: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """What a Source says about all that comes from it. `limits` None: those of the Settings."""

    suspend: Suspend | None = None
    approve: str = ""  # a commit, or the revision of a plain folder
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What else decides. `requests` by qualified name; `gone`: workflows whose document was removed; `gates` by source ("": the
    operator's own folder)."""

    instance: str
    limits: Limits = field(default_factory=Limits)
    requests: Mapping[str, RunRequest] = field(default_factory=dict)
    gone: Mapping[str, OnDelete] = field(default_factory=dict)
    gates: Mapping[str, Gate] = field(default_factory=dict)


class Owed(NamedTuple):
    """A run that should exist and does not. `request` is "" when no person asked for it by a Run document."""

    revision: Revision
    occasion: str
    run_id: str
    request: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    backend: str = ""


class Held(NamedTuple):
    """A run that waits for a person. `cure` is the field to write. `request` is "" for an automatic run."""

    workflow: str
    request: str
    reason: str
    message: str
    cure: str


class Waiting(NamedTuple):
    """A run that is owed and not made yet, by itself. `request` is "" for an automatic run."""

    workflow: str
    request: str
    reason: str
    message: str


class Word(NamedTuple):
    """Why a workflow owes nothing. `run` is the record that satisfies it, "" when there need be none."""

    run: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """`drop` and `cancel` hold (run id, why); only runs that are not dropped or cancelled yet. `satisfied` is by workflow,
    `answered` (the run of a Run document) by request. `wake_at`: when a suspension ends, None when only a change can matter."""

    create: tuple[Owed, ...] = ()
    drop: tuple[tuple[str, str], ...] = ()
    cancel: tuple[tuple[str, str], ...] = ()
    held: tuple[Held, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    satisfied: Mapping[str, Word] = field(default_factory=dict)
    answered: Mapping[str, str] = field(default_factory=dict)
    wake_at: float | None = None


def owed(revisions: Mapping[str, Revision], heads: Mapping[str, Sequence[RunHead]], context: Context, now: float) -> Decisions:
    """What must be made, dropped, cancelled and held back now.

    `revisions` are the workflows in force, by qualified name. `heads` holds, by workflow: every live run, every record of the
    current digest, and, for a workflow that a request names, every record that a request made (`by_hand`).
    """
    ledger = _Decider(heads, context, now)
    for workflow, rule in context.gone.items():
        ledger.remove(workflow, rule)
    asked: dict[str, list[RunRequest]] = {}
    for name in sorted(context.requests):
        request = context.requests[name]
        if request.run:
            ledger.change(request)
        elif request.workflow in revisions:
            asked.setdefault(request.workflow, []).append(request)
        else:
            message = f"there is no workflow {request.workflow!r}; the run is made when there is"
            ledger.waiting.append(Waiting(request.workflow, name, "UnknownWorkflow", message))
    due: list[_Due] = []
    for name, revision in revisions.items():
        due += ledger.due(revision, asked.get(name, ()))
    for each in ledger.unguarded(due):
        ledger.admit(each)
    return ledger.decisions()


def run_of(debt: Owed, now: float) -> Run:
    """The run that `debt` asks for, everything pinned (rule 9)."""
    revision = debt.revision
    return Run(
        id=debt.run_id,
        workflow=revision.name,
        digest=revision.digest,
        canonical=revision.canonical,
        occasion=debt.occasion,
        backend=debt.backend or revision.backend,
        tasks=revision.tasks,
        place=revision.place,
        created_at=now,
        rerun=revision.rerun,
        max_concurrent=revision.max_concurrent,
        on_delete=revision.on_delete,
        title=revision.title,
        labels=revision.labels,
        parameters=debt.parameters,
    )


def by_hand(occasion: str) -> str:
    """The qualified name of the Run document that asked for a run, "" when none did."""
    return occasion.removeprefix("run:").rpartition("@")[0] if occasion.startswith("run:") else ""


def may_change(request: RunRequest, workflow: str) -> bool:
    """Whether a Run document may change a run of `workflow`: the operator's may change any, a source's only those of that source."""
    return not request.place.source or workflow.startswith(f"{request.place.source}/")


def suspension(run: Run, revisions: Mapping[str, Revision], context: Context, now: float) -> tuple[str, Suspend] | None:
    """What keeps a live run from sending anything, in words, and the suspension itself; None when nothing does."""
    revision, gate = revisions.get(run.workflow), context.gates.get(run.place.source)
    found: list[tuple[str, Suspend | None]] = [
        (f"workflow {run.workflow}", revision.suspend if revision else None),
        (f"source {run.place.source}", gate.suspend if gate else None),
    ]
    for request in context.requests.values():
        if request.run == run.id and may_change(request, run.workflow):
            found.append((f"Run {request.name}", request.suspend))
    for what, suspend in found:
        if suspend is not None and suspend.holds(now):
            return f"{what} is suspended{_words_of(suspend)}", suspend
    return None


def occasion_of(request: RunRequest) -> str:
    """The occasion of the run that a Run document asks for: its name, and what it asks."""
    asked = "\0".join((request.workflow, request.revision, request.backend, *(f"{key}={value}" for key, value in request.parameters)))
    return f"run:{request.name}@{names.digest_of(asked).removeprefix('sha256:')[:12]}"


def too_many_gone(before: Collection[str], after: Collection[str], share: float = 0.5, at_least: int = 3) -> bool:
    """Whether a new tree of a source that declares `after` instead of `before` removes so much that a person must approve it:
    everything, or more than `share` of the objects and at least `at_least` of them (rule 7)."""
    gone = set(before) - set(after)
    return bool(gone) and (not after or (len(gone) >= at_least and len(gone) > share * len(set(before))))


class _Due(NamedTuple):
    """A run that is owed, before guards and concurrency had their say."""

    revision: Revision
    occasion: str
    predecessors: int
    request: RunRequest | None = None

    @property
    def place(self) -> Place:
        return self.request.place if self.request else self.revision.place

    @property
    def cause(self) -> tuple[str, str]:
        """What would start it: one commit, or one state of a folder, of one source."""
        return (self.place.source, self.place.commit or self.place.revision)

    @property
    def who(self) -> tuple[str, str]:
        return (self.revision.name, self.request.name if self.request else "")


class _Decider:
    """Collects the decisions of one call."""

    def __init__(self, heads: Mapping[str, Sequence[RunHead]], context: Context, now: float) -> None:
        self._heads = heads
        self._context = context
        self._now = now
        self._made: dict[str, str] = {}  # by workflow: the run made in this call
        self._live = {head.id: head for each in heads.values() for head in each if not head.ended} if context.requests else {}
        self.create: list[Owed] = []
        self.drop: dict[str, str] = {}
        self.cancel: dict[str, str] = {}
        self.held: list[Held] = []
        self.waiting: list[Waiting] = []
        self.satisfied: dict[str, Word] = {}
        self.answered: dict[str, str] = {}
        self._wakes: list[float] = []

    def decisions(self) -> Decisions:
        """All of it, frozen. What is cancelled need not be dropped as well."""
        drop = tuple((run, why) for run, why in self.drop.items() if run not in self.cancel)
        return Decisions(
            create=tuple(self.create),
            drop=drop,
            cancel=tuple(self.cancel.items()),
            held=tuple(self.held),
            waiting=tuple(self.waiting),
            satisfied=self.satisfied,
            answered=self.answered,
            wake_at=min(self._wakes, default=None),
        )

    def remove(self, workflow: str, rule: OnDelete) -> None:
        """Rule 7: what becomes of the live runs of a workflow whose document is gone."""
        for head in self._heads.get(workflow, ()):
            if head.ended or head.cancelled:
                continue
            if rule is OnDelete.CANCEL:
                self.cancel[head.id] = f"{REMOVED} (on_delete: cancel)"
            elif rule is OnDelete.FINISH and not head.dropped:
                self.drop[head.id] = f"{REMOVED} (on_delete: finish)"

    def change(self, request: RunRequest) -> None:
        """A Run document that changes a run which exists. A source may change its own runs only."""
        head = self._live.get(request.run)
        if head is not None and may_change(request, head.workflow) and request.state == "cancelled" and not head.cancelled:
            self.cancel[head.id] = f"cancelled by Run {request.name} ({request.place})"

    def due(self, revision: Revision, requests: Iterable[RunRequest]) -> list[_Due]:
        """Rules 2, 3 and 4: what one workflow owes, by hand first, whatever else may hold it back."""
        heads = self._heads.get(revision.name, ())
        found = [each for request in requests if (each := self._due_by_hand(revision, request, heads))]
        occasion = _occasion(revision)
        if occasion is None:
            self.satisfied[revision.name] = Word("", "Idle", "runs only when asked: by a `rerun` token or a Run document")
            return found
        same = [head for head in heads if head.digest == revision.digest and head.occasion == occasion]
        if head := _satisfying(same):
            self.satisfied[revision.name] = _word(head)
            self._supersede(revision, occasion)
        elif not self._suspended(revision, None):
            found.append(_Due(revision, occasion, len(same)))
        return found

    def _due_by_hand(self, revision: Revision, request: RunRequest, heads: Sequence[RunHead]) -> _Due | None:
        occasion = occasion_of(request)
        same = [head for head in heads if head.occasion == occasion]
        if head := _satisfying(same):
            self.answered[request.name] = head.id
            return None
        if not _is_at(revision, request.revision):
            message = f"{revision.name} is at {revision.place.revision or revision.digest}, and revision {request.revision!r} is asked for"
            self.waiting.append(Waiting(revision.name, request.name, "OtherRevision", message))
            return None
        if self._suspended(revision, request):
            return None
        return _Due(revision, occasion, sum(head.digest == revision.digest for head in same), request)

    def _suspended(self, revision: Revision, request: RunRequest | None) -> bool:
        """Whether somebody holds it back for a time; says so."""
        source = (request or revision).place.source
        gate = self._context.gates.get(source)
        for what, suspend in (
            (f"Run {request.name}" if request else "", request.suspend if request else None),
            (f"workflow {revision.name}", revision.suspend),
            (f"source {source}", gate.suspend if gate else None),
        ):
            if suspend is not None and suspend.holds(self._now):
                if suspend.until is not None:
                    self._wakes.append(suspend.until)
                message = f"{what} is suspended{_words_of(suspend)}"
                self.waiting.append(Waiting(revision.name, request.name if request else "", "Suspended", message))
                return True
        return False

    def unguarded(self, due: Sequence[_Due]) -> list[_Due]:
        """Rule 8: those that no guard holds back; says so of the others."""
        counts = Counter(each.cause for each in due)
        free = []
        for each in due:
            gate = self._context.gates.get(each.place.source, Gate())
            limits = gate.limits or self._context.limits
            hours = limits.core_hours_per_run
            if _approved(each, gate):
                free.append(each)
            elif counts[each.cause] > limits.runs_per_commit:
                source, commit = each.cause
                what = f"{commit or 'this change'} would start {counts[each.cause]} runs"
                all_of_them = f"`approve: {commit}` of Source {source}" if source and commit else "a higher limit"
                message = f"{what}, more than limits.runs_per_commit ({limits.runs_per_commit}); {all_of_them} lets all of them start"
                self._hold(each, "TooManyRuns", message)
            elif hours is not None and (asked := cost.core_hours_at_most(each.revision.tasks)) > hours:
                self._hold(each, "TooLarge", f"the run may use {asked:,.1f} core-hours, more than limits.core_hours_per_run ({hours:,g})")
            else:
                free.append(each)
        return free

    def _hold(self, due: _Due, reason: str, message: str) -> None:
        self.held.append(Held(*due.who, reason, message, f"approve: {due.revision.digest}"))

    def admit(self, due: _Due) -> None:
        """Rule 5: make the run now, or say what it waits for; end what must make way."""
        revision = due.revision
        if revision.concurrency is Concurrency.ALLOW:
            self._make(due)
            return
        if due.request is None:
            self._supersede(revision, due.occasion)
        in_the_way = self._made.get(revision.name, "")
        for head in self._heads.get(revision.name, ()):
            if head.ended or _made_way(head) or head.id in self.drop:
                continue
            in_the_way = in_the_way or head.id
            if revision.concurrency is Concurrency.REPLACE and head.digest != revision.digest and not head.cancelled:
                self.cancel.setdefault(head.id, f"{REPLACED}{_short(revision.digest)} (concurrency: replace)")
        if in_the_way:
            message = f"waiting for run {in_the_way} to end (concurrency: {revision.concurrency})"
            self.waiting.append(Waiting(*due.who, "WaitingForRun", message))
        else:
            self._make(due)

    def _supersede(self, revision: Revision, occasion: str) -> None:
        """Drop the runs of other digests and occasions of which nothing has begun, unless a person asked for them."""
        if revision.concurrency is Concurrency.ALLOW:
            return
        for head in self._heads.get(revision.name, ()):
            idle = not (head.ended or head.begun or head.cancelled or head.dropped or by_hand(head.occasion))
            if idle and (head.digest, head.occasion) != (revision.digest, occasion):
                self.drop[head.id] = f"{SUPERSEDED}{_short(revision.digest)}"

    def _make(self, due: _Due) -> None:
        revision, request = due.revision, due.request
        run_id = names.run_id(self._context.instance, "Workflow", revision.name, revision.digest, due.occasion, due.predecessors)
        self._made[revision.name] = run_id
        backend = (request.backend if request else "") or revision.backend
        self.create.append(Owed(revision, due.occasion, run_id, due.who[1], request.parameters if request else (), backend))


def _occasion(revision: Revision) -> str | None:
    """On which occasion a workflow owes a run by itself; None: only by hand."""
    if Trigger.COMMIT in revision.triggers:
        return revision.place.commit or revision.place.revision
    if revision.triggers & {Trigger.CHANGE, Trigger.PATHS} or (Trigger.MANUAL in revision.triggers and revision.rerun):
        return ""
    return None


def _made_way(head: RunHead) -> bool:
    """Whether it was told to make way before anything of it had begun: it never will, and does not satisfy its digest."""
    return not head.begun and (head.dropped.startswith(_MADE_WAY) or head.cancelled.startswith(_MADE_WAY))


def _satisfying(same: Sequence[RunHead]) -> RunHead | None:
    """Of the records of one digest and occasion the one that counts: a live one, else the newest."""
    return max((head for head in same if not _made_way(head)), key=lambda head: (not head.ended, head.created_at, head.id), default=None)


def _word(head: RunHead) -> Word:
    if head.cancelled:
        reason = "Replaced" if head.cancelled.startswith(REPLACED) else "Cancelled"
        return Word(head.id, reason, f"run {head.id} of this digest was cancelled: {head.cancelled}; {RERUN}")
    if head.dropped:
        return Word(head.id, "Dropped", f"run {head.id} of this digest was not finished: {head.dropped}; {RERUN}")
    if not head.ended:
        return Word(head.id, "Reconciled", f"run {head.id} follows this digest")
    if head.phase is Phase.SUCCEEDED:
        return Word(head.id, "Reconciled", f"run {head.id} of this digest succeeded")
    return Word(head.id, "Reconciled", f"run {head.id} of this digest ended: {head.phase.lower()}; {RERUN}")


def _is_at(revision: Revision, asked: str) -> bool:
    """Whether `asked` ("": any; a digest, a commit of 7 digits or more, a revision) names this revision."""
    if not asked or asked in (revision.digest, revision.place.revision):
        return True
    return len(asked) >= 7 and revision.place.commit.startswith(asked)


def _approved(due: _Due, gate: Gate) -> bool:
    cause = due.cause[1]
    said = {due.revision.approve, due.request.approve if due.request else ""} - {""}
    return bool(said & {due.revision.digest, cause}) or (bool(cause) and gate.approve == cause)


def _words_of(suspend: Suspend) -> str:
    by = f" by {suspend.by}" if suspend.by else ""
    return f"{by}: {suspend.reason}" if suspend.reason else by


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]
