"""What the evidence about one job of a cluster comes to. Pure; called by sightings.py with what was read.

Strongest first: the exit record; the live queue; the scheduler's word about exactly the job that took the start (its short memory, its
accounting); then nothing, which is absence and never success. A revoked start is a fence whatever else is there.

An exit record of 0 is a success at once. One of another code waits for the scheduler's word, because only that tells a time limit or a
cancellation from a command that failed by itself; not longer than `Patience.word_s`. A job that the scheduler says has ended, and that
left no exit record, waits `Patience.record_s` for it: a file of another machine may take some seconds to be seen.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.backends.base import Trace
from reconciler.backends.dialect import Row
from reconciler.backends.far_marks import FarExit, JobStart
from reconciler.backends.marks import EXIT_WORDS, Garbled
from reconciler.backends.reply import Trail
from reconciler.core.desired import Cause
from reconciler.core.observed import JobFact, JobState

#: Causes by which a scheduler ends a job, whatever its command then says.
_BY_SCHEDULER = frozenset({Cause.TIMEOUT, Cause.OOM, Cause.CANCELLED, Cause.PREEMPTED, Cause.NODE_FAIL})
#: What a scheduler writes into the output of a job that it ended for its memory, where its state does not say so (Slurm without
#: cgroups: FAILED, signal 9).
_MEMORY_WORDS = ("exceeded job memory limit", "exceeded memory limit", "oom-kill", "oom_kill", "out of memory", "out-of-memory")

#: A node refuses a job within seconds; a machine that must be switched on first, whose job somebody cancels meanwhile, takes minutes.
_REFUSAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for more evidence, in seconds: for the scheduler's word; for an exit record where the scheduler says how it
    ended; for any record before a job is called lost, which must outlast what a network file system remembers (acdirmax: 60 s)."""

    word_s: float = 15.0
    record_s: float = 5.0
    lost_s: float = 65.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one job now. `live`: its row in the live queue. `word`: the scheduler's last word, once it is not live.

    `asked`: the scheduler was asked since the job was last live, so that `word` None means that it does not know. `since`: when the end
    was first suspected, in seconds. `said`: what the scheduler wrote into its output. `skew_s`: how far the cluster's clock is ahead.
    """

    trail: Trail
    live: Row | None
    word: Row | None
    asked: bool
    since: float
    said: str = ""
    skew_s: float = 0.0


def fact_of(evidence: Evidence, now: float, patience: Patience) -> JobFact | None:
    """The fact; None when the job is absent."""
    trail, live = evidence.trail, evidence.live
    if isinstance(trail.exit, FarExit):
        return (_interrupted if trail.interrupted else _exited)(evidence, trail.exit, now, patience)
    if trail.revoked:
        return JobFact(JobState.FENCED, job_id=live.job_id if live else "", reason="its start was revoked")
    if live is not None and live.state is not JobState.ENDED:
        return _alive(evidence, live)
    word = evidence.word or live
    if word is not None and word.state is JobState.ENDED:
        return _ended(evidence, word, now, patience)
    if word is not None:  # alive in the scheduler's memory, although the queue did not show it
        return _alive(evidence, word)
    return None


def trace_of(job: str, trail: Trail, rows: Sequence[Row], now: float) -> Trace:
    """What the spool and the queue hold of a job that nobody remembers. Of rows with its name, the one that took its start counts."""
    start = _last_start(trail)
    live = next((row for row in rows if start is None or row.job_id == start.job_id), None)
    fact = fact_of(Evidence(trail, live, None, True, 0.0), now, Patience(0.0, 0.0))
    if fact is None and trail.started:
        job_id = start.job_id if start else ""
        fact = JobFact(JobState.UNKNOWN, job_id=job_id, started=True, reason="it started; neither the queue nor an exit record shows it")
    return Trace(job, trail.sending is not None and trail.sending.state != "refused", fact)


def needs_word(evidence: Evidence) -> bool:
    """Whether the scheduler's own word would change what is told."""
    trail = evidence.trail
    if trail.revoked or (isinstance(trail.exit, FarExit) and trail.over and trail.exit.code == 0):
        return False
    return not evidence.live and not (evidence.word and evidence.word.state is JobState.ENDED)


def needs_said(evidence: Evidence) -> bool:
    """Whether what the scheduler wrote into the output would change what is told."""
    word = evidence.word
    if word is None or word.cause is not Cause.EXIT or evidence.said:
        return False
    return word.signal == signal.SIGKILL or evidence.trail.exit is None or _killed(evidence.trail)


def _killed(trail: Trail) -> bool:
    return isinstance(trail.exit, FarExit) and trail.exit.code == 128 + signal.SIGKILL


def _interrupted(evidence: Evidence, record: FarExit, now: float, patience: Patience) -> JobFact | None:
    """Its command has ended because the job was told to end. Whether it is put back into the queue only the scheduler knows."""
    for row in (evidence.live, evidence.word):
        if row is not None and row.state is not JobState.ENDED:
            return _alive(evidence, row)
    if not evidence.asked or (evidence.word is None and now < evidence.since + patience.word_s):
        return _waiting(evidence, record.job_id, "it was told to end; asking the scheduler whether it will start again")
    return _exited(evidence, record, now, patience)


def _exited(evidence: Evidence, record: FarExit, now: float, patience: Patience) -> JobFact | None:
    cause, reason = None, ""
    stopped = evidence.trail.interrupted and evidence.word is not None and evidence.word.cause in _BY_SCHEDULER
    if record.code or stopped:
        patient = now < evidence.since + patience.word_s
        told = evidence.asked and evidence.live is None and (evidence.word is None or evidence.word.state is JobState.ENDED)
        if not told and patient and record.what == "command":
            return _waiting(evidence, record.job_id, "its command has ended; asking the scheduler why")
        cause, reason = _why(evidence, record)
    ended_at = evidence.trail.ended_at - evidence.skew_s if evidence.trail.ended_at is not None else now
    number = record.code - 128 if 128 < record.code < 128 + signal.NSIG else None
    return JobFact(
        JobState.ENDED,
        job_id=record.job_id,
        started=True,
        exit_code=record.code,
        signal=number,
        cause=cause,
        reason=reason,
        submitted_at=_ours(row.submitted_at, evidence) if (row := _any_row(evidence)) else None,
        started_at=ended_at - record.elapsed_s,
        ended_at=ended_at,
        restarts=record.restarts,
    )


def _why(evidence: Evidence, record: FarExit) -> tuple[Cause, str]:
    if EXIT_WORDS[record.what]:
        return Cause.EXIT, EXIT_WORDS[record.what]
    word = evidence.word
    if word is not None and word.cause in _BY_SCHEDULER and word.cause is not Cause.CANCELLED:
        assert word.cause is not None
        return word.cause, word.reason
    if evidence.trail.cancel:
        return Cause.CANCELLED, "ended on request"
    if word is not None and word.cause is Cause.CANCELLED:
        return Cause.CANCELLED, word.reason or "cancelled from outside"
    if _tells_memory(evidence.said):
        return Cause.OOM, _quoted("it used more memory than it had asked for", evidence.said)
    number = record.code - 128
    names = {each.value: each.name for each in signal.Signals}
    return Cause.EXIT, f"exit code {record.code} (signal {number}, {names[number]})" if number in names else f"exit code {record.code}"


def _alive(evidence: Evidence, row: Row) -> JobFact:
    reason = row.reason
    if evidence.trail.cancel and row.state is JobState.RUNNING:
        reason = "being ended"
    return JobFact(
        row.state,
        job_id=row.job_id,
        started=evidence.trail.started,
        reason=reason,
        submitted_at=_ours(row.submitted_at, evidence),
        started_at=_ours(row.started_at, evidence) if row.state is JobState.RUNNING else None,
        restarts=max(row.restarts or 0, len(evidence.trail.starts) - 1),
    )


def _waiting(evidence: Evidence, job_id: str, reason: str) -> JobFact:
    row = _any_row(evidence)
    return JobFact(
        JobState.RUNNING,
        job_id=job_id,
        started=evidence.trail.started or isinstance(evidence.trail.exit, FarExit),
        reason=reason,
        submitted_at=_ours(row.submitted_at, evidence) if row else None,
        started_at=_ours(row.started_at, evidence) if row else None,
    )


def _ended(evidence: Evidence, word: Row, now: float, patience: Patience) -> JobFact | None:
    """The scheduler says that it has ended, and there is no exit record, or none that can be read."""
    trail = evidence.trail
    start = _last_start(trail)
    awaited = start is not None or word.cause is None or (word.exit_code or 0) > 0 or isinstance(trail.exit, Garbled)
    if awaited and now < evidence.since + patience.record_s:
        return _waiting(evidence, word.job_id, "the scheduler says that it has ended; waiting for its exit record")
    fact = JobFact(
        JobState.ENDED,
        job_id=word.job_id,
        started=trail.started,
        exit_code=None,
        signal=word.signal or None,
        cause=word.cause,
        reason=word.reason or word.word,
        submitted_at=_ours(word.submitted_at, evidence),
        started_at=_ours(word.started_at, evidence),
        ended_at=_ours(word.ended_at, evidence) or now,
        restarts=word.restarts or 0,
    )
    if trail.cancel and word.cause is not None and word.cause not in (Cause.TIMEOUT, Cause.OOM):
        return replace(fact, cause=Cause.CANCELLED, reason="ended on request")
    if was_refused_by_its_node(trail, word):
        return replace(fact, cause=Cause.NODE_FAIL, reason="its node did not start it, and the scheduler took it away")
    if word.cause is None:
        fact = _succeeded(fact, start, word)
    elif word.cause is Cause.EXIT:
        fact = _unexplained(fact, evidence, word)
    if fact.cause is Cause.LOST and now < evidence.since + patience.lost_s:
        return _waiting(evidence, word.job_id, "the scheduler says that it has ended, and it left no record so far")
    return fact


def was_refused_by_its_node(trail: Trail, word: Row) -> bool:
    """Whether a job that the scheduler calls cancelled was put on a node, never started there, and was taken away at once.

    A slurmctld that was killed gives ids out again. A node that still has the former job of that id refuses the new one, and Slurm then
    cancels it, since it may not be requeued. A person cancels a job that waits, which has no node, or one that has started.
    """
    at_once = word.started_at is None or word.ended_at is None or word.ended_at - word.started_at <= _REFUSAL_S
    return word.cause is Cause.CANCELLED and bool(word.node) and not trail.starts and at_once


def _succeeded(fact: JobFact, start: JobStart | None, word: Row) -> JobFact:
    """Success by the scheduler's word counts only for exactly the job in the start record."""
    if start is not None and start.job_id == word.job_id and word.restarts in (None, start.restarts):
        return replace(fact, exit_code=0, reason="by the scheduler's word: it left no exit record that can be read")
    return replace(fact, cause=Cause.LOST, started=True, reason="the scheduler says that it ended well, but nothing of it is in the spool")


def _unexplained(fact: JobFact, evidence: Evidence, word: Row) -> JobFact:
    if _tells_memory(evidence.said):
        return replace(fact, cause=Cause.OOM, reason=_quoted("it used more memory than it had asked for", evidence.said))
    if not fact.started:  # it never got as far as our first line: the scheduler's words are all there is
        return replace(fact, reason=_quoted(f"it never began: {fact.reason}", evidence.said))
    return replace(fact, cause=Cause.LOST, reason=_quoted(f"{fact.reason}; it left no exit record", evidence.said))


def _tells_memory(said: str) -> bool:
    lower = said.lower()
    return any(words in lower for words in _MEMORY_WORDS)


def _quoted(reason: str, said: str) -> str:
    return f"{reason} ({said.strip()[-300:]})" if said.strip() else reason


def _last_start(trail: Trail) -> JobStart | None:
    return next((start for start in reversed(trail.starts) if isinstance(start, JobStart)), None)


def _any_row(evidence: Evidence) -> Row | None:
    return evidence.live or evidence.word


def _ours(at: float | None, evidence: Evidence) -> float | None:
    """A time of the cluster's clock on ours."""
    return None if at is None else at - evidence.skew_s
