"""What the evidence about a job of a cluster comes to: every kind of evidence, alone and together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.backends.dialect import Row
from reconciler.backends.far_marks import FarExit, JobStart, Sending
from reconciler.backends.judgement import Evidence, Patience, fact_of, needs_said, needs_word
from reconciler.backends.marks import Garbled, Owner, Revoked
from reconciler.backends.reply import Trail
from reconciler.core.desired import Cause
from reconciler.core.observed import JobFact, JobState

NOW = 1000.0
PATIENCE = Patience(word_s=15.0, record_s=5.0)
START = JobStart("12", 0, 5.0)
CLAIMED = Sending("accepted", job_id="12")
STARTED = Trail(sending=CLAIMED, starts=(START,))
QUEUED = Row("12", "t", JobState.QUEUED, "PENDING", reason="waits for free resources (Slurm: Resources)", submitted_at=900.0)
RUNNING = Row("12", "t", JobState.RUNNING, "RUNNING", submitted_at=900.0, started_at=950.0)


def word(cause: Cause | None, text: str = "FAILED", **fields: object) -> Row:
    row = Row("12", "t", JobState.ENDED, text, cause=cause, reason=f"Slurm says {text}", submitted_at=900.0, started_at=950.0)
    return replace(row, ended_at=990.0, **fields)  # type: ignore[arg-type]  # fields of Row


def exited(code: int, what: str = "command", **fields: object) -> Trail:
    trail = replace(STARTED, exit=FarExit(code, what, "12", 0, 30.0), ended_at=990.0)
    return replace(trail, **fields)  # type: ignore[arg-type]  # fields of Trail


def judged(trail: Trail = STARTED, live: Row | None = None, last: Row | None = None, **fields: object) -> JobFact | None:
    evidence = Evidence(trail, live, last, asked=True, since=NOW - 100.0)
    return fact_of(replace(evidence, **fields), NOW, PATIENCE)  # type: ignore[arg-type]  # fields of Evidence


def ended(fact: JobFact | None) -> tuple[Cause | None, int | None, bool]:
    assert fact is not None and fact.state is JobState.ENDED, fact
    return fact.cause, fact.exit_code, fact.started


def test_nothing_is_absence() -> None:
    """Where nothing is, there is no fact: neither with a claim, nor with a start record alone."""
    assert judged(Trail()) is None
    assert judged(Trail(sending=CLAIMED)) is None
    assert judged(STARTED) is None


@pytest.mark.parametrize("live", [None, QUEUED, RUNNING])
@pytest.mark.parametrize("last", [None, word(Cause.EXIT), word(Cause.OOM), word(Cause.CANCELLED)])
def test_an_exit_record_of_0_is_a_success(live: Row | None, last: Row | None) -> None:
    """Whatever the scheduler says: the command ended with 0. Times are those of the record."""
    fact = judged(exited(0), live, last, asked=False, since=NOW)
    assert ended(fact) == (None, 0, True)
    assert fact is not None and (fact.started_at, fact.ended_at, fact.job_id) == (960.0, 990.0, "12")


@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.OOM, Cause.PREEMPTED, Cause.NODE_FAIL, Cause.CANCELLED])
def test_the_scheduler_tells_why_it_ended_a_command(cause: Cause) -> None:
    """An exit record of 143 with the scheduler's word takes its cause, and keeps the code."""
    assert ended(judged(exited(143), last=word(cause))) == (cause, 143, True)


def test_a_command_that_failed_by_itself() -> None:
    """A code that is not 0 is the command's own when the scheduler says FAILED, or does not know any more."""
    assert ended(judged(exited(3), last=word(Cause.EXIT))) == (Cause.EXIT, 3, True)
    assert ended(judged(exited(3))) == (Cause.EXIT, 3, True)


@pytest.mark.parametrize("code", [0, 143])
def test_a_command_that_was_told_to_end_may_be_started_again(code: int) -> None:
    """Of a job that its scheduler may put back, an exit record after TERM is no end: the queue counts, then the scheduler's word, which
    is waited for however long; only where it knows nothing of it any more the record is all there is."""
    trail = exited(code, "interrupted")
    assert judged(trail, QUEUED) == judged(STARTED, QUEUED)
    assert judged(trail, RUNNING) == judged(STARTED, RUNNING)
    assert judged(trail, last=QUEUED) == judged(STARTED, last=QUEUED)
    for waits in (judged(trail, asked=False), judged(trail, since=NOW)):
        assert waits is not None and waits.state is JobState.RUNNING
    for cause in (Cause.CANCELLED, Cause.TIMEOUT, Cause.PREEMPTED, Cause.NODE_FAIL):
        assert ended(judged(trail, last=word(cause))) == (cause, code, True)
    own = (Cause.EXIT if code else None, code, True)
    assert ended(judged(trail, last=word(Cause.EXIT if code else None))) == ended(judged(trail)) == own


def test_only_the_scheduler_knows_of_an_interrupted_job() -> None:
    """Its word is asked for, also when the command ended with 0."""
    for code in (0, 143):
        evidence = Evidence(exited(code, "interrupted"), None, None, asked=False, since=NOW)
        assert (needs_word(evidence), needs_word(replace(evidence, live=QUEUED))) == (True, False)


def test_a_code_waits_for_the_word() -> None:
    """A code that is not 0 is told once the scheduler was asked and the job is over there; patience ends by itself."""
    for fields in ({"asked": False}, {"live": RUNNING}, {"last": RUNNING}):
        fact = judged(exited(143), since=NOW - 1.0, **fields)  # type: ignore[arg-type]  # one of them each
        assert fact is not None and (fact.state, fact.started, fact.job_id) == (JobState.RUNNING, True, "12"), fields
        assert ended(judged(exited(143), since=NOW - 15.0, **fields))[1] == 143  # type: ignore[arg-type]  # as above


def test_what_we_ended_was_cancelled() -> None:
    """With our mark, a job that ended otherwise than well was cancelled by us; a time limit or the memory comes first."""
    assert ended(judged(exited(143, cancel=True), last=word(Cause.CANCELLED)))[0] is Cause.CANCELLED
    assert ended(judged(exited(1, cancel=True), last=word(Cause.EXIT)))[0] is Cause.CANCELLED
    assert ended(judged(exited(143, cancel=True), last=word(Cause.TIMEOUT)))[0] is Cause.TIMEOUT
    assert ended(judged(replace(STARTED, cancel=True), last=word(Cause.EXIT, signal=9)))[0] is Cause.CANCELLED


def test_what_never_began_says_so() -> None:
    """A working directory that went away is told in words, without asking the scheduler."""
    fact = judged(exited(122, "workdir"), live=RUNNING, asked=False, since=NOW)
    assert ended(fact) == (Cause.EXIT, 122, True)
    assert fact is not None and "working directory" in fact.reason


def test_a_revoked_start_is_a_fence() -> None:
    """Whatever the queue says of it, a job whose start was revoked does no work."""
    trail = Trail(sending=CLAIMED, starts=(Revoked(Owner("ledger-1", 1)),))
    for live in (None, QUEUED, RUNNING):
        fact = judged(trail, live)
        assert fact is not None and (fact.state, fact.started) == (JobState.FENCED, False)


def test_the_live_queue() -> None:
    """A row of the queue is told as it is; it has started when its start record is there."""
    waiting, begun = judged(Trail(sending=CLAIMED), QUEUED), judged(STARTED, RUNNING)
    assert waiting is not None and begun is not None
    assert (waiting.state, waiting.started, waiting.started_at, waiting.reason) == (JobState.QUEUED, False, None, QUEUED.reason)
    assert (begun.state, begun.started, begun.started_at) == (JobState.RUNNING, True, 950.0)
    before = judged(Trail(sending=CLAIMED), RUNNING)
    assert before is not None and before.started is False


def test_a_requeued_job_has_started() -> None:
    """A job that ran and waits again is queued, and has started."""
    fact = judged(STARTED, QUEUED)
    assert fact is not None and (fact.state, fact.started) == (JobState.QUEUED, True)


def test_an_unfamiliar_state_is_no_verdict() -> None:
    """A word that we do not know is neither an end nor absence."""
    fact = judged(STARTED, replace(RUNNING, state=JobState.UNKNOWN, word="DANCING", reason="Slurm says DANCING"))
    assert fact is not None and (fact.state, fact.reason) == (JobState.UNKNOWN, "Slurm says DANCING")


def test_success_by_the_schedulers_word() -> None:
    """Without an exit record, the scheduler's success counts for exactly the job and restart of the start record, after some patience."""
    patient = judged(last=word(None, "COMPLETED"), since=NOW - 1.0)
    assert patient is not None and patient.state is JobState.RUNNING
    assert ended(judged(last=word(None, "COMPLETED", restarts=0))) == (None, 0, True)
    assert ended(judged(last=word(None, "COMPLETED", restarts=1))) == (Cause.LOST, None, True)
    assert ended(judged(Trail(sending=CLAIMED), last=word(None, "COMPLETED"))) == (Cause.LOST, None, True)


def test_no_exit_record_is_lost() -> None:
    """A job that started, and that the scheduler says has failed, without a record of its own: lost, with the scheduler's words."""
    fact = judged(last=word(Cause.EXIT, signal=9))
    assert ended(fact) == (Cause.LOST, None, True)
    assert fact is not None and "Slurm says FAILED" in fact.reason and fact.signal == 9
    garbled = replace(STARTED, exit=Garbled("exit 1 ", True))
    assert ended(judged(garbled, last=word(Cause.EXIT)))[0] is Cause.LOST


def test_memory_is_told_by_what_was_written() -> None:
    """Where the state does not say it, the scheduler's words in the output do: out of memory."""
    said = "slurmstepd-n1: error: Job 12 exceeded memory limit (9 > 5), being killed"
    assert ended(judged(last=word(Cause.EXIT, signal=9), said=said))[0] is Cause.OOM
    assert ended(judged(exited(137), last=word(Cause.EXIT), said=said))[:2] == (Cause.OOM, 137)


@pytest.mark.parametrize("cause", [Cause.NODE_FAIL, Cause.PREEMPTED, Cause.CANCELLED, Cause.TIMEOUT])
def test_what_ended_before_it_began(cause: Cause) -> None:
    """A job that never started is told at once with the scheduler's cause: no exit record will come."""
    assert ended(judged(Trail(sending=CLAIMED), last=word(cause), since=NOW)) == (cause, None, False)


def test_a_job_that_its_node_refused_is_nobodys_cancellation() -> None:
    """Cancelled on a node, within seconds, and never started: Slurm took it away, so it is sent again. Waiting, after a start, or after
    minutes of switching a machine on, it was a person."""
    refused = word(Cause.CANCELLED, started_at=989.0, node="n1")
    assert ended(judged(Trail(sending=CLAIMED), last=refused)) == (Cause.NODE_FAIL, None, False)
    assert ended(judged(Trail(sending=CLAIMED), last=replace(refused, started_at=None))) == (Cause.NODE_FAIL, None, False)
    for other in (replace(refused, node=""), replace(refused, node=None), replace(refused, started_at=900.0)):
        assert ended(judged(Trail(sending=CLAIMED), last=other)) == (Cause.CANCELLED, None, False)
    assert ended(judged(STARTED, last=refused)) == (Cause.CANCELLED, None, True)
    assert ended(judged(Trail(sending=CLAIMED, cancel=True), last=refused))[0] is Cause.CANCELLED


def test_times_are_ours() -> None:
    """Times of the cluster's clock are told on ours."""
    fact = judged(exited(0), skew_s=100.0)
    assert fact is not None and (fact.started_at, fact.ended_at) == (860.0, 890.0)
    live = judged(STARTED, RUNNING, skew_s=100.0)
    assert live is not None and (live.submitted_at, live.started_at) == (800.0, 850.0)


def test_what_is_asked() -> None:
    """The scheduler is asked about jobs that vanished or ended with a code; its output is read where memory may be the cause."""
    gone = Evidence(STARTED, None, None, False, NOW)
    assert needs_word(gone)
    assert needs_word(replace(gone, trail=exited(3)))
    assert not needs_word(replace(gone, trail=exited(0)))
    assert not needs_word(replace(gone, live=RUNNING))
    assert not needs_word(replace(gone, word=word(Cause.EXIT)))
    assert needs_said(replace(gone, word=word(Cause.EXIT, signal=9)))
    assert not needs_said(replace(gone, word=word(Cause.EXIT), trail=exited(3)))
    assert not needs_said(replace(gone, word=word(Cause.TIMEOUT)))
