"""What the evidence about one local job comes to. Pure; called by local.py after it has read the spool and asked the kernel.

Strongest first: living processes; the exit record; our own marks that it was being ended; nothing left, which is *lost* and
never success. An exit record speaks only once the process group is empty: until then work may still be done under the name.
"""

from __future__ import annotations

import signal

from reconciler.backends.marks import EXIT_WORDS, Exit, Garbled, Process, Revoked
from reconciler.backends.process import Life
from reconciler.backends.spool import Evidence
from reconciler.core.desired import Cause
from reconciler.core.observed import JobFact, JobState

_TEXT_MAX = 200
_RESTARTED = "the machine (or the container) was restarted, and the job left no exit record"


def fact_of(evidence: Evidence, life: Life, now: float) -> JobFact | None:
    """The fact, or None when nothing shows that a job of this name was ever begun: it is absent.

    `life` is of the process in the start record; without one, LED when a wrapper is known to be about to take its start,
    RESTARTED when the name was claimed in another boot, else GONE.
    """
    start = evidence.start
    if isinstance(start, Revoked):
        return JobFact(JobState.FENCED, reason="its start was revoked", submitted_at=evidence.claimed_at)
    if life in (Life.LED, Life.LEFT):
        return _alive(evidence, life)
    if isinstance(evidence.exit, Garbled) and not evidence.exit.unfinished:
        return _unknown("exit record", evidence.exit)
    if isinstance(start, Garbled) and not start.unfinished and not isinstance(evidence.exit, Exit):
        return _unknown("start record", start)
    if start is None and evidence.exit is None and life is Life.GONE:
        return None
    return _ended(evidence, life, now)


def _unknown(what: str, garbled: Garbled) -> JobFact:
    return JobFact(JobState.UNKNOWN, started=True, reason=f"its {what} cannot be understood: {garbled.text[:_TEXT_MAX]!r}")


def _job_id(evidence: Evidence) -> str:
    return str(evidence.start.pid) if isinstance(evidence.start, Process) else ""


def _alive(evidence: Evidence, life: Life) -> JobFact:
    if evidence.cancel or evidence.timeout:
        reason = "being ended: its time limit is over" if evidence.timeout else "being ended"
    elif life is Life.LEFT:
        reason = "the command has ended, but processes that it left behind still run"
    else:
        reason = ""
    return JobFact(
        JobState.RUNNING,
        job_id=_job_id(evidence),
        started=evidence.start is not None,
        reason=reason,
        submitted_at=evidence.claimed_at,
        started_at=evidence.started_at,
    )


def _ended(evidence: Evidence, life: Life, now: float) -> JobFact:
    code = evidence.exit.code if isinstance(evidence.exit, Exit) else None
    cause, reason = _cause(evidence, life)
    # 128 + n is how a shell says that signal n ended its command.
    number = code - 128 if code is not None and 128 < code < 128 + signal.NSIG else None
    return JobFact(
        JobState.ENDED,
        job_id=_job_id(evidence),
        # Claimed before a restart: whether it began is not known, so it counts as begun, and is not sent again by itself.
        started=True,
        exit_code=code,
        signal=number,
        cause=cause,
        reason=reason,
        submitted_at=evidence.claimed_at,
        started_at=evidence.started_at,
        ended_at=evidence.exited_at or now,
    )


def _cause(evidence: Evidence, life: Life) -> tuple[Cause | None, str]:
    ended = evidence.exit if isinstance(evidence.exit, Exit) else None
    if evidence.timeout:
        return Cause.TIMEOUT, "its time limit was over"
    if ended and ended.code == 0:
        return None, ""
    if evidence.cancel:
        return Cause.CANCELLED, "ended on request"
    if ended:
        return Cause.EXIT, _words(ended)
    if life is Life.RESTARTED:
        return Cause.LOST, _RESTARTED
    return Cause.LOST, "its processes are gone and it left no exit record: its wrapper was killed, or could not write"


def _words(ended: Exit) -> str:
    if EXIT_WORDS[ended.what]:
        return EXIT_WORDS[ended.what]
    number = ended.code - 128
    names = {each.value: each.name for each in signal.Signals}
    return f"exit code {ended.code} (signal {number}, {names[number]})" if number in names else f"exit code {ended.code}"
