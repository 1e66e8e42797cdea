"""What a person reads: record → phase, counts, conditions and one sentence; and the chain that blocks a task.

Called by reconciler/report.py, status/ and the read verbs of cli/. Nothing is ever decided from it.

Conditions follow the Kubernetes convention: a `type`, a `status` of three values, a CamelCase `reason` for programs, a `message`
for people, and the time of the last change of `status` (`carry`). *Ready* is always there. *Reconciling* (it moves on by itself)
and *Stalled* (a person must act: the message says what) are there only while they are true. *Succeeded* is Unknown while a run
is alive, so that "accepted" and "finished" are never confused. No message of a condition holds a running time: a status that
says "for 3 s" would be written again every second. `why` does; it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reconciler.core.cost import core_hours_used
from reconciler.core.desired import BackendSpec, Run
from reconciler.core.draft import NEVER, awaits_tasks
from reconciler.core.observed import BackendView, Usage
from reconciler.core.record import FINAL, Aim, Phase, RunRecord, TaskRecord, TaskState
from reconciler.core.trigger import Held, Waiting, Word

#: Ends what is said of a backend that cannot be reached.
GOES_ON = "; jobs there go on, and it is looked at again by itself"
#: So many names are told before "and 3 more".
NAMES_MAX = 3
#: A chain of waiting tasks longer than this is told by its beginning and its end.
WHY_LINES_MAX = 30


class Truth(StrEnum):
    """The three values of a condition's status."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is, is not, or is not known to be so. `observed_generation` is the digest or revision it was decided on.

    `last_transition_time` is when `status` last changed, seconds since 1970 UTC; 0.0 until `carry` has set it.
    """

    type: str
    status: Truth
    reason: str
    message: str
    observed_generation: str = ""
    last_transition_time: float = 0.0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in numbers. `tasks`: by state, only those that occur. `core_hours` so far; times 0.0 when not yet."""

    phase: Phase
    tasks: Mapping[TaskState, int]
    total: int
    done: int
    core_hours: float
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class SourceView:
    """What there is to say of a source. All "" when nothing is wrong; `revision` "" when it was never read.

    `unreachable`: could not be asked, tried again by itself. `refused`: a person must act. `problems`: what is wrong in its
    manifests, one sentence each. `suspended`: by what. `objects`: how many it declares.
    """

    revision: str = ""
    unreachable: str = ""
    refused: str = ""
    problems: tuple[str, ...] = ()
    suspended: str = ""
    objects: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What besides its record decides when a task moves on. `room`: jobs its run may still have, by backend."""

    backends: Mapping[str, BackendView]
    room: Mapping[str, int] = field(default_factory=dict)
    suspended: str = ""


def carry(old: Iterable[Condition], new: Iterable[Condition], now: float) -> tuple[Condition, ...]:
    """`new`, each with the time of its last change of status: that of `old` while the status is the same, else `now`."""
    before = {condition.type: condition for condition in old}
    return tuple(
        replace(each, last_transition_time=was.last_transition_time)
        if (was := before.get(each.type)) is not None and was.status is each.status
        else replace(each, last_transition_time=now)
        for each in new
    )


def phase_of(record: RunRecord) -> Phase:
    """Where a run is. Ended: Failed if any task failed or was lost that was not allowed to; else Cancelled if any was cancelled;
    else Succeeded, also when tasks were skipped because their `when` was not called for."""
    if not record.ended:
        return Phase.RUNNING if record.begun else Phase.WAITING
    if _spoilers(record):
        return Phase.FAILED
    return Phase.CANCELLED if record.counts.get(TaskState.CANCELLED) else Phase.SUCCEEDED


def run_summary(record: RunRecord, now: float) -> RunSummary:
    """A run in numbers, at `now`."""
    tasks = {state: count for state in TaskState if (count := record.counts.get(state, 0))}
    return RunSummary(
        phase=phase_of(record),
        tasks=tasks,
        total=len(record.tasks),
        done=sum(tasks.get(state, 0) for state in FINAL),
        core_hours=core_hours_used(record, now),
        started_at=min((task.started_at for task in record.tasks.values() if task.started_at), default=0.0),
        ended_at=max((task.ended_at for task in record.tasks.values()), default=0.0) if record.ended else 0.0,
    )


def run_conditions(
    run: Run, record: RunRecord, suspended: str = "", backends: Mapping[str, BackendView] | None = None
) -> tuple[Condition, ...]:
    """Ready (accepted and honoured), Succeeded, and Stalled while only a person can move it on."""
    count = len(record.tasks)
    ready = _ready(run.digest, "Accepted", f"{count} task{'s' * (count != 1)} of {run.workflow} on {run.backend}")
    if record.stalled:
        stalled = Condition("Stalled", Truth.TRUE, "SubmissionsLost", record.stalled, run.digest)
        ready = _ready(run.digest, "Stalled", record.stalled, Truth.FALSE)
        return (ready, _succeeded(run, record, suspended, backends or {}), stalled)
    if suspended and not record.ended:
        ready = _ready(run.digest, "Suspended", f"nothing new is started: {suspended}")
    return (ready, _succeeded(run, record, suspended, backends or {}))


def workflow_conditions(
    digest: str, standing: Word | Waiting | Held, newest: Sequence[Condition] = (), problem: str = ""
) -> tuple[Condition, ...]:
    """Ready, Reconciling, Stalled, and Succeeded as `newest` (the conditions of its newest run) has it.

    `standing` is what core/trigger.py said of it. `problem`: what is wrong with its document, whose last good version is in
    force; "" when nothing is.
    """
    succeeded = tuple(condition for condition in newest if condition.type == "Succeeded")
    if problem:
        return (*_stuck(digest, "InvalidManifest", f"{problem}; the last good version stays in force"), *succeeded)
    if isinstance(standing, Held):
        return (*_stuck(digest, standing.reason, f"{standing.message}; to let it start: `{standing.cure}`"), *succeeded)
    if isinstance(standing, Word):
        return (_ready(digest, standing.reason, standing.message), *succeeded)
    ready = _ready(digest, standing.reason, standing.message, Truth.FALSE)
    if standing.reason == "Suspended":
        return (ready, *succeeded)
    return (ready, Condition("Reconciling", Truth.TRUE, standing.reason, standing.message, digest), *succeeded)


def source_conditions(view: SourceView) -> tuple[Condition, ...]:
    """Ready, Reconciling, Stalled of a source of manifests."""
    at = view.revision
    kept = f"; {at} stays in force" if at else ""
    if view.refused:
        return _stuck(at, "Refused", f"{view.refused}{kept}")
    if view.unreachable:
        return _trying(at, "Unreachable", f"{view.unreachable}{kept}; tried again by itself")
    if view.problems:
        return _stuck(at, "InvalidManifests", _some(view.problems, "; "))
    if view.suspended:
        return (_ready(at, "Suspended", f"nothing new is started: {view.suspended}"),)
    if not at:
        return _trying(at, "FirstLook", "not read yet", Truth.UNKNOWN)
    return (_ready(at, "Reconciled", f"{view.objects} object{'s' * (view.objects != 1)} at {at}"),)


def backend_conditions(spec: BackendSpec, view: BackendView, unowned: str = "") -> tuple[Condition, ...]:
    """Ready, Reconciling, Stalled of a backend. `unowned`: who else owns its far side, "" when we do."""
    if unowned:
        return _stuck("", "NotOwner", unowned)
    if not view.reachable:
        if view.began_at is None and not view.reason:
            return _trying("", "FirstLook", "not seen yet", Truth.UNKNOWN)
        return _trying("", "Unreachable", f"{view.reason or 'it gave no answer'}{GOES_ON}")
    if spec.draining:
        return (_ready("", "Draining", "takes nothing new; what runs there finishes"),)
    if not view.accepts:
        return (_ready("", "Suspended", "takes nothing new; what runs there finishes"),)
    if not view.complete:
        return (_ready("", "PartlySeen", f"{view.reason or 'a part of it gave no answer'}; no job is called absent until all of it does"),)
    return (_ready("", "Reconciled", f"seen; at most {spec.max_concurrent} jobs at once"),)


def why(run: Run, record: RunRecord, task_id: str, around: Surroundings, now: float) -> tuple[str, ...]:
    """The chain that keeps a task from ending, one sentence each, from the task itself down to what happens next and when.

    Of several needs that are not final it follows one that is under way, else the first written. Raises KeyError for an id that
    is no task of the run.
    """
    lines = []
    while left := _open_needs(record, task_id):
        lines.append(f"{task_id} waits for {len(left)} of {len(record.known[task_id].needs)} tasks it needs: {_some(left)}")
        task_id = _followed(record, left)
    lines += _why_here(run, record, task_id, around, now)
    if len(lines) > WHY_LINES_MAX:
        half = WHY_LINES_MAX // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half:,} more tasks that wait for each other …", *lines[-half:]]
    return tuple(lines)


def blocking(record: RunRecord, task_id: str) -> str:
    """The task at the end of the chain that `why` tells of: its own state says what comes next. Raises KeyError as `why` does."""
    while left := _open_needs(record, task_id):
        task_id = _followed(record, left)
    return task_id


def _open_needs(record: RunRecord, task_id: str) -> list[str]:
    """What a waiting task still needs."""
    if record.tasks[task_id].state is not TaskState.WAITING:
        return []
    return [need for need in record.known[task_id].needs if record.tasks[need].state not in FINAL]


def _followed(record: RunRecord, left: Sequence[str]) -> str:
    """Of several needs one that is under way, else the first."""
    return next((need for need in left if record.tasks[need].state is not TaskState.WAITING), left[0])


def moves(run: Run, record: RunRecord, backends: Mapping[str, BackendView], held: bool) -> bool:
    """Whether a live run goes on without a person, a later clock time or a backend that cannot be reached. `held`: nothing of it may
    be sent. A back-off before a retry counts as going on: whoever asked for the retry wants its outcome. One after a refusal does
    not: nobody knows how long the room or the trouble lasts."""
    reachable = {name for name, view in backends.items() if view.reachable}
    if reachable.intersection(record.live):
        return True
    takes = {name for name in reachable if backends[name].accepts}
    return not held and any(
        at < NEVER and not record.tasks[task_id].refusals and run.backend_of(record.known[task_id]) in takes
        for task_id, at in record.ready.items()
    )


def usage_row(usage: Usage | None) -> dict[str, float]:
    """What a job used, by the names in the status file; what is not known is left out."""
    told = {} if usage is None else {"elapsed_s": usage.elapsed_s, "cpu_s": usage.cpu_s, "memory_max_mb": usage.memory_max_mb}
    return {key: round(value, 1) for key, value in told.items() if value is not None}


def span(seconds: float) -> str:
    """A duration for people, in at most two units: `0.4 s`, `40 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    first, second = (f"{days} d", f"{hours} h" if hours else "") if days else (f"{hours} h", f"{minutes} min" if minutes else "")
    return f"{first} {second}".rstrip()


def _ready(generation: str, reason: str, message: str, status: Truth = Truth.TRUE) -> Condition:
    return Condition("Ready", status, reason, message, generation)


def _stuck(generation: str, reason: str, message: str) -> tuple[Condition, ...]:
    return (_ready(generation, reason, message, Truth.FALSE), Condition("Stalled", Truth.TRUE, reason, message, generation))


def _trying(generation: str, reason: str, message: str, status: Truth = Truth.FALSE) -> tuple[Condition, ...]:
    return (_ready(generation, reason, message, status), Condition("Reconciling", Truth.TRUE, reason, message, generation))


def _spoilers(record: RunRecord) -> list[str]:
    """Tasks that failed or were lost and were not allowed to, in run order."""
    if not (record.counts.get(TaskState.FAILED) or record.counts.get(TaskState.LOST)):
        return []
    bad = (TaskState.FAILED, TaskState.LOST)
    return [task_id for task_id, task in record.tasks.items() if task.state in bad and not record.known[task_id].allow_failure]


def _succeeded(run: Run, record: RunRecord, suspended: str, backends: Mapping[str, BackendView]) -> Condition:
    phase = phase_of(record)
    done = f"{sum(record.counts.get(state, 0) for state in FINAL)} of {len(record.tasks)} tasks done"
    if phase is Phase.SUCCEEDED:
        return Condition("Succeeded", Truth.TRUE, "Succeeded", _words_of_success(record), run.digest)
    if phase is Phase.FAILED:
        spoilers = _spoilers(record)
        first = record.tasks[spoilers[0]]
        more = f", and {len(spoilers) - 1} more" if len(spoilers) > 1 else ""
        message = f"{spoilers[0]} {_ended(first)}{more}; {_words_of_success(record)}"
        return Condition("Succeeded", Truth.FALSE, "Failed", message, run.digest)
    if phase is Phase.CANCELLED:
        why_not = record.cancelled or record.dropped or _reason_of(record, TaskState.CANCELLED)
        return Condition("Succeeded", Truth.FALSE, "Cancelled", f"{why_not}; {_words_of_success(record)}", run.digest)
    reason, message = _under_way(run, record, suspended, backends)
    return Condition("Succeeded", Truth.UNKNOWN, reason, f"{done}; {message}", run.digest)


def _under_way(run: Run, record: RunRecord, suspended: str, backends: Mapping[str, BackendView]) -> tuple[str, str]:
    """What a live run waits for first: (reason, words)."""
    dark = next((name for name in sorted(record.live) if name in backends and not backends[name].reachable), "")
    if dark:
        return "BackendUnreachable", f"backend {dark} cannot be reached: {backends[dark].reason or 'no answer'}"
    for state, reason, words in (
        (TaskState.CANCELLING, "Cancelling", "is being ended"),
        (TaskState.QUEUED, "WaitingForScheduler", "is pending"),
        (TaskState.RUNNING, "Running", "is running"),
        (TaskState.SUBMITTING, "Submitting", "is being submitted"),
    ):
        if count := record.counts.get(state, 0):
            task_id = next(name for name, task in record.tasks.items() if task.state is state)
            said = record.tasks[task_id].reason if state is not TaskState.RUNNING else ""
            more = f", and {count - 1} more" if count > 1 else ""
            return reason, f"{task_id} {words}{f' ({said})' if said else ''}{more}"
    if suspended:
        return "Suspended", f"nothing new is started: {suspended}"
    if record.stalled:
        return "Stalled", record.stalled
    task_id = next(iter(record.ready), "")
    task = record.tasks.get(task_id, TaskRecord())
    if task.not_before:
        return "BackOff", f"{task_id} is tried again ({task.reason or 'after a pause'})"
    backend = run.backend_of(record.known[task_id]) if task_id else run.backend
    view = backends.get(backend)
    if view is not None and not view.reachable:
        return "BackendUnreachable", f"backend {backend} cannot be reached: {view.reason or 'no answer yet'}"
    return "WaitingForRoom", f"{task_id or 'the next task'} waits for room on {backend}"


def _words_of_success(record: RunRecord) -> str:
    """`all 7 tasks succeeded`, or `4 of 7 tasks succeeded, 1 failed, 2 skipped`."""
    total, good = len(record.tasks), record.counts.get(TaskState.SUCCEEDED, 0)
    if good == total:
        return f"all {total} tasks succeeded" if total != 1 else "its task succeeded"
    others = [state for state in (TaskState.FAILED, TaskState.LOST, TaskState.CANCELLED, TaskState.SKIPPED) if record.counts.get(state)]
    return ", ".join([f"{good} of {total} tasks succeeded", *(f"{record.counts[state]} {state}" for state in others)])


def _reason_of(record: RunRecord, state: TaskState) -> str:
    task_id, task = next((name, task) for name, task in record.tasks.items() if task.state is state)
    return f"{task_id} was {state}{f' ({task.reason})' if task.reason else ''}"


def _ended(task: TaskRecord) -> str:
    words = {TaskState.LOST: "was lost", TaskState.CANCELLED: "was cancelled", TaskState.SKIPPED: "was skipped"}.get(
        task.state, task.state.value
    )
    return f"{words} ({task.reason})" if task.reason else words


def _some(names: Sequence[str], between: str = ", ") -> str:
    """The first few of `names`, and how many more there are."""
    more = f"{between}and {len(names) - NAMES_MAX:,} more" if len(names) > NAMES_MAX else ""
    return between.join(names[:NAMES_MAX]) + more


def _why_here(run: Run, record: RunRecord, task_id: str, around: Surroundings, now: float) -> list[str]:
    """The end of a chain: a task whose own state says what comes next."""
    task = record.tasks[task_id]
    backend = run.backend_of(record.known[task_id])
    view = around.backends.get(backend)
    if task.state in FINAL:
        return [f"{task_id} {_ended(task)}"]
    if task.state is TaskState.WAITING:
        return [_why_not_sent(record, task_id, backend, around, now)]
    lines = [f"{task_id} {_doing(record, task_id, backend, now)}"]
    if view is None or not view.reachable:
        lines.append(_dark(backend, view, now))
    elif task.absent_since:
        left = task.absent_since + view.absence_grace_s - now
        lines.append(
            f"its job was not there {span(now - task.absent_since)} ago; it is believed gone when a complete look that begins "
            f"{f'in {span(left)}' if left > 0 else 'now'} or later does not show it either"
        )
    return lines


def _why_not_sent(record: RunRecord, task_id: str, backend: str, around: Surroundings, now: float) -> str:
    """Why a task whose needs are met is not sent now."""
    view = around.backends.get(backend)
    not_before = record.ready.get(task_id, 0.0)
    if around.suspended:
        return f"{task_id} could start, but {around.suspended}"
    if not_before == NEVER:
        return f"{task_id} is not sent again: {record.stalled}"
    if not_before > now:
        said = f" ({record.tasks[task_id].reason})" if record.tasks[task_id].reason else ""
        return f"{task_id} is tried again in {span(not_before - now)}, as attempt {record.tasks[task_id].attempt}{said}"
    if view is None or not view.reachable:
        return f"{task_id} could start, but {_dark(backend, view, now)}"
    if not view.accepts:
        return f"{task_id} could start, but backend {backend} is draining or suspended and takes nothing new"
    if around.room.get(backend, 1) <= 0:
        live = record.live.get(backend, 0)
        return f"{task_id} could start, but there is no room for it on {backend} now (this run has {live} job{'s' * (live != 1)} there)"
    return f"{task_id} is sent to {backend} next"


def _dark(backend: str, view: BackendView | None, now: float) -> str:
    if view is None:
        return f"backend {backend} does not exist; declare it, or name another"
    seen = f"last seen {span(now - view.began_at)} ago" if view.began_at is not None else "never seen yet"
    return f"backend {backend} cannot be reached: {view.reason or 'no answer yet'} ({seen}); it is looked at again by itself"


def _doing(record: RunRecord, task_id: str, backend: str, now: float) -> str:
    """What a live task is at, in words."""
    task = record.tasks[task_id]
    job = f"job {task.job_id} on {backend}" if task.job_id else backend
    said = f" ({task.reason})" if task.reason else ""
    if task.state is TaskState.QUEUED:
        return f"is pending{said}: {job}, for {span(now - task.since)}"
    if task.state is TaskState.SUBMITTING:
        return f"was sent to {backend} {span(now - task.claimed_at)} ago; no answer yet"
    if task.state is TaskState.CANCELLING:
        aim = {Aim.AGAIN: "it is sent again after that", Aim.LOST: "it is lost after that"}.get(
            task.aim or Aim.CANCELLED, "it is cancelled then"
        )
        return f"waits for {backend} to prove that its job cannot run any more{said}; {aim}"
    if awaits_tasks(task, record.known[task_id]):
        return f"has ended well; the tasks it generated are being read from {backend}"
    return f"is running: {job}, for {span(now - (task.started_at or task.since))}"
