"""A lost ledger, rebuilt: what ran is known again, what was under way is followed to its end, and nothing runs by itself.

Called by the verb `recover`, with no daemon running. Three witnesses, the strongest first:

* what backends hold of each job (claims, start and exit records, live processes): believed over everything else;
* what can still be read of the old ledger, damaged or merely old: final records are believed, the rest follows the backends;
* status files (statusfile.py): who a run was, and of tasks only what no backend contradicts.

A run's id is a hash of what it is of, so a workflow and digest that were edited in a status file are found out; then only the id is
believed. Such a *nameless* run still keeps its id from being made again (writer.py gives it its name back when it is asked for).

What is not final and not under way is cancelled: the commands of waiting tasks may be lost, and nobody should guess whether they ran.
The new ledger goes on under the id of the old one, one epoch later, so that every backend knows it and no older daemon can act.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from reconciler.clock import rfc3339
from reconciler.core.desired import Cause, Task
from reconciler.core.draft import remember
from reconciler.core.names import parse_job_name
from reconciler.core.observed import JobFact, JobState
from reconciler.core.record import FINAL, LIVE, Phase, TaskRecord, TaskState
from reconciler.core.summary import phase_of
from reconciler.errors import LedgerUnwritable
from reconciler.ledger.folder import Lock, prepare
from reconciler.ledger.rows import Batch, Identity, NewRun, RunChange, StoredRun
from reconciler.ledger.salvage import Salvaged, salvage
from reconciler.ledger.schema import FILE_NAME
from reconciler.ledger.statusfile import is_run_of, nameless, read_status_files
from reconciler.ledger.traces import Owner
from reconciler.ledger.writer import write_whole

LOST_WITH_SPOOL = "nothing is left of the backend's records of jobs, so nobody can tell how it ended"
WHY = "the ledger was lost and rebuilt, and nobody can tell what would have come next"


class Trace(NamedTuple):
    """What a backend holds of one job name. `claimed`: a submission took the name. `fact` None: nothing more is known of it."""

    backend: str
    job: str
    claimed: bool
    fact: JobFact | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that there is to rebuild a ledger from. `owners`: what the owner files of spools say. `bare`: backends of whose
    records nothing is left at all, so that nobody will ever be able to prove anything about a job there."""

    traces: Sequence[Trace] = ()
    owners: Sequence[Owner] = ()
    bare: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Report:
    """What a recovery found and did. `lines` says for each run what will not be run again; `problems` what was not believed.

    `kept` is where the old file is now, None when there was none.
    """

    lines: tuple[str, ...]
    problems: tuple[str, ...]
    runs: int
    live: int
    nameless: int
    identity: Identity
    kept: Path | None = None


@dataclass(slots=True)
class _Rebuilt:
    runs: dict[str, StoredRun] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def recover(state_dir: Path, status_dir: Path, instance: str, findings: Findings, now: float) -> Report:
    """Put a new ledger in the place of the lost, damaged or old one, which is kept under another name.

    Raises LedgerBusy while a daemon runs, LedgerUnwritable when the new one cannot be written; then nothing has changed. After a crash
    in the middle there is no ledger, the daemon says StateLost, and this can be run again.
    """
    prepare(state_dir)
    lock = Lock(state_dir)
    try:
        path = state_dir / FILE_NAME
        old = salvage(path)
        rebuilt = _rebuild(instance, findings, old, status_dir, now)
        identity = _identity(instance, findings.owners, old, rebuilt.problems)
        write_whole(path.with_name(f"{FILE_NAME}.recovering"), identity, (_batch(run) for run in rebuilt.runs.values()), now)
        kept = _put_in_place(path, now)
    finally:
        lock.release()
    return _report(rebuilt, identity, kept)


def _rebuild(instance: str, findings: Findings, old: Salvaged, status_dir: Path, now: float) -> _Rebuilt:
    rebuilt = _Rebuilt(problems=list(old.problems))
    for stored in old.runs:
        believed = not stored.run.workflow or is_run_of(instance, stored.run)
        if not believed:
            rebuilt.problems.append(f"old ledger: run {stored.run.id} is not of what it says; only its id is believed")
        rebuilt.runs[stored.run.id] = stored if believed else replace(stored, run=replace(stored.run, workflow="", digest="", occasion=""))
    ended = {run for run, stored in rebuilt.runs.items() if stored.ended_at is not None}
    for file in read_status_files(status_dir, instance):
        rebuilt.problems += file.problems
        if file.stored is not None:
            known = rebuilt.runs.get(file.stored.run.id)
            rebuilt.runs[file.stored.run.id] = file.stored if known is None else _joined(known, file.stored)
    jobs: dict[str, list[Trace]] = {}
    for trace in findings.traces:
        if name := parse_job_name(trace.job):
            jobs.setdefault(name.run, []).append(trace)
    for run in sorted(rebuilt.runs.keys() | jobs.keys()):
        stored = rebuilt.runs.get(run) or StoredRun(nameless(run), {}, Phase.WAITING, True)
        folded = _folded(stored, jobs.get(run, ()), rebuilt.problems, now)
        final = run in ended and folded.records == stored.records
        rebuilt.runs[run] = folded if final else _settled(folded, now, findings.bare)
    return rebuilt


def _joined(ledger: StoredRun, status: StoredRun) -> StoredRun:
    """The old ledger's word, and where it has none, that of the status file."""
    run = ledger.run if ledger.run.workflow else replace(status.run, tasks=ledger.run.tasks)
    if ledger.records or not status.records:
        return replace(ledger, run=run)
    return replace(ledger, run=replace(run, tasks=status.run.tasks), records=status.records)


def _folded(stored: StoredRun, traces: Iterable[Trace], problems: list[str], now: float) -> StoredRun:
    """What backends hold, laid over what is remembered: the newest attempt of each task counts."""
    records, tasks = dict(stored.records), {task.id: task for task in stored.run.tasks}
    backend = stored.run.backend
    for trace in traces:
        name = parse_job_name(trace.job)
        assert name is not None  # they were sorted into runs by it
        old = records.get(name.task)
        backend = backend or trace.backend
        task = tasks.get(name.task) or Task(name.task, "")
        tasks[name.task] = replace(task, backend=trace.backend) if trace.backend != (task.backend or backend) else task
        if old is None or name.attempt > old.attempt:
            records[name.task] = _record_of(trace, name.attempt, now)
        elif name.attempt == old.attempt:
            records[name.task] = _newer(old, _record_of(trace, name.attempt, now), trace, problems)
    run = replace(stored.run, tasks=tuple(tasks.values()), backend=backend)
    return replace(stored, run=run, records=records, begun=stored.begun or any(record.claimed_at for record in records.values()))


def _newer(old: TaskRecord, seen: TaskRecord, trace: Trace, problems: list[str]) -> TaskRecord:
    """Of what is remembered of an attempt and what its backend shows: what is proven, and else what is final."""
    if old.state not in FINAL:
        return seen
    fact = trace.fact
    if fact is None or fact.state is JobState.UNKNOWN or seen.state is old.state:
        return old  # the backend has forgotten what was proven once, or says the same
    if old.state is TaskState.CANCELLED and seen.state in {TaskState.FAILED, TaskState.LOST}:
        return old  # its end says how; that somebody wanted it is what is remembered
    if old.state is TaskState.FAILED and old.exit_code == 0 and seen.state is TaskState.SUCCEEDED:
        return old  # it was not its exit code that made it fail: what it generated could not be used
    if fact.state is JobState.FENCED and old.state not in {TaskState.SUCCEEDED, TaskState.FAILED}:
        return old
    problems.append(f"{trace.job}: remembered as {old.state}, but {trace.backend} shows {seen.state}, which is believed")
    return seen


_SHOWN = "found under way when the ledger was rebuilt"


def _record_of(trace: Trace, attempt: int, now: float) -> TaskRecord:
    """The record of a task whose newest attempt left this trace."""
    fact = trace.fact
    if fact is None:
        doubt = TaskRecord(TaskState.SUBMITTING, attempt, since=now, claimed_at=now, reason="a submission is in doubt")
        return doubt if trace.claimed else TaskRecord(TaskState.WAITING, attempt, since=now)
    claimed_at = fact.submitted_at or fact.started_at or now
    record = TaskRecord(
        TaskState.SUBMITTING, attempt, since=now, job_id=fact.job_id, started=fact.started, claimed_at=claimed_at, reason=fact.reason,
        started_at=fact.started_at or 0.0, acknowledged_at=claimed_at if fact.job_id else 0.0,
    )  # fmt: skip
    if fact.state is JobState.ENDED:
        ended_at = fact.ended_at or now
        state = _verdict(fact)
        cause = None if state is TaskState.SUCCEEDED else fact.cause or Cause.EXIT
        return record._replace(state=state, since=ended_at, ended_at=ended_at, exit_code=fact.exit_code, cause=cause)
    if fact.state is JobState.FENCED:  # it never did any work, and never will
        return TaskRecord(TaskState.WAITING, attempt, since=now, claimed_at=claimed_at)
    if fact.state is JobState.RUNNING:
        return record._replace(state=TaskState.RUNNING, reason=_SHOWN)
    if fact.state is JobState.QUEUED:
        return record._replace(state=TaskState.QUEUED, reason=_SHOWN)
    return record._replace(state=TaskState.RUNNING) if fact.started else record


def _verdict(fact: JobFact) -> TaskState:
    if fact.exit_code == 0 and fact.cause is None:
        return TaskState.SUCCEEDED
    return {Cause.LOST: TaskState.LOST, Cause.CANCELLED: TaskState.CANCELLED}.get(fact.cause or Cause.EXIT, TaskState.FAILED)


def _settled(stored: StoredRun, now: float, bare: frozenset[str]) -> StoredRun:
    """The run as the new ledger has it: what waits is cancelled, what may be under way is left for the backends to prove, and what was
    under way on a bare one is lost."""
    if not stored.records:  # pruned, or only its identity is known
        ended = stored.phase in {Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}
        phase = stored.phase if ended else Phase.CANCELLED
        return replace(stored, phase=phase, ended_at=stored.ended_at or now, dropped=stored.dropped or ("" if ended else WHY))
    records = {
        task: record.to(TaskState.CANCELLED, now, WHY, cause=Cause.CANCELLED, ended_at=now) if record.state is TaskState.WAITING else record
        for task, record in stored.records.items()
    }
    for task in stored.run.tasks:
        if stored.run.backend_of(task) in bare and task.id in records and records[task.id].state in LIVE:
            records[task.id] = records[task.id].to(TaskState.LOST, now, LOST_WITH_SPOOL, cause=Cause.LOST, ended_at=now, aim=None)
    # what is no longer known of a run of which a part was lost must not keep the rest from being built
    tasks = (replace(task, needs=tuple(need for need in task.needs if need in records)) for task in stored.run.tasks)
    known = replace(stored.run, tasks=tuple(task for task in tasks if task.id in records))
    interrupted = any(record.state not in FINAL for record in stored.records.values())
    dropped = stored.dropped or (WHY if interrupted else "")
    whole = remember(known, records, stored.cancelled, dropped)
    ended_at = max(record.ended_at or record.since for record in records.values()) if whole.ended else None
    return replace(stored, run=known, records=records, phase=phase_of(whole), dropped=dropped, stalled="", ended_at=ended_at)


def _identity(instance: str, owners: Sequence[Owner], old: Salvaged, problems: list[str]) -> Identity:
    """The id under which backends know us, with the newest epoch that anybody has seen; the next start raises it above all."""
    known = [*owners]
    if old.identity is not None:
        known.append(Owner("old ledger", old.identity.id, old.identity.epoch))
    if not known:
        return Identity(secrets.token_hex(16), 0, instance, False)
    newest = max(owners or known, key=lambda owner: owner.epoch)
    for owner in owners:
        if owner.ledger != newest.ledger:
            problems.append(f"{owner.where} belongs to another ledger ({owner.ledger}): it stays refused until its owner file is removed")
    return Identity(newest.ledger, max(owner.epoch for owner in known if owner.ledger == newest.ledger), instance, False)


def _batch(stored: StoredRun) -> Batch:
    change = RunChange(stored.run.id, stored.phase, stored.begun, stored.cancelled, stored.dropped, "", stored.ended_at, stored.core_hours)
    return Batch(new_runs=(NewRun(stored.run, stored.records),), runs=(change,))


def _put_in_place(path: Path, now: float) -> Path | None:
    """The old file and its log get another name, the new one theirs. Nothing is ever deleted."""
    kept: Path | None = None
    stamp = rfc3339(now).replace(":", "")
    try:
        kept_as = _free_name(path.with_name(f"{path.name}.damaged-{stamp}"))
        # the file first: without it nobody takes its log for that of another; SQLite finds a log by the name of its file
        for suffix in ("", "-wal", "-shm"):
            old = path.with_name(path.name + suffix)
            if old.exists() or old.is_symlink():
                old.rename(kept_as.with_name(kept_as.name + suffix))
                kept = kept_as
        path.with_name(f"{path.name}.recovering").rename(path)
    except OSError as error:
        raise LedgerUnwritable(f"the rebuilt ledger cannot be put in place: {error.strerror}") from error
    return kept


def _free_name(base: Path) -> Path:
    """A name that nobody has yet."""
    names = (base, *(base.with_name(f"{base.name}.{number}") for number in range(1, 1000)))
    return next(name for name in names if not any(name.with_name(name.name + suffix).exists() for suffix in ("", "-wal", "-shm")))


def _report(rebuilt: _Rebuilt, identity: Identity, kept: Path | None) -> Report:
    runs = sorted(rebuilt.runs.values(), key=lambda stored: (stored.run.workflow, stored.run.created_at, stored.run.id))
    return Report(
        lines=tuple(line for stored in runs for line in _lines(stored)),
        problems=tuple(rebuilt.problems),
        runs=len(runs),
        live=sum(stored.ended_at is None for stored in runs),
        nameless=sum(not stored.run.workflow for stored in runs),
        identity=identity,
        kept=kept,
    )


def _lines(stored: StoredRun) -> Iterator[str]:
    run = stored.run
    what = f"{run.workflow} {run.digest}{f' ({run.occasion})' if run.occasion else ''}" if run.workflow else "a workflow nobody can name"
    if stored.ended_at is not None and not stored.dropped:
        yield f"run {run.id} of {what} ended as {stored.phase}: it is not run again"
        return
    under_way = sorted(task for task, record in stored.records.items() if record.state in LIVE)
    cut = sum(record.reason == WHY for record in stored.records.values())
    followed = f"; followed to their end: {', '.join(under_way)}" if under_way else ""
    yield f"run {run.id} of {what} was interrupted: {cut} waiting tasks are cancelled{followed}; a new `rerun` token runs it again"


def find_status_traces(status_dir: Path, instance: str) -> tuple[str, ...]:
    """Paths of status files of runs of `instance`, for check_traces. Looks at names and the first lines only."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted((status_dir / "run").glob("*.yaml")):
            with path.open(encoding="utf-8", errors="replace") as file:
                head = file.read(2000)
            if f"\n  instance: {instance}\n" in head or f'\n  instance: "{instance}"\n' in head:
                found.append(str(path))
    return tuple(found)
