"""Learn: fold what was seen and what came back into a draft. Decides nothing that is not forced by the evidence.

Called by core/plan.py. Facts first, then receipts, then absence: a fact is what is, a receipt is what was said, absence is only
what was not seen. Evidence of an attempt older than the record's changes nothing: that attempt was ended or fenced before the
next one was named. Evidence of a newer one is adopted: an older ledger had sent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.cost import more_asked
from reconciler.core.desired import RETRYABLE, Cause, Task
from reconciler.core.draft import LOSSES_MAX, Draft, awaits_tasks
from reconciler.core.names import JobName, job_name, parse_job_name
from reconciler.core.observed import Answer, BackendView, Generated, JobFact, JobState, News, Receipt
from reconciler.core.record import FINAL, LIVE, Aim, TaskRecord, TaskState

#: A proven refusal for want of room, or a submission proven not sent, is tried again after this long. Seconds, by judgement:
#: long enough not to storm a scheduler that says "full", short beside any job worth submitting.
LIMIT_WAIT_S = 10.0
TRANSIENT_WAIT_S = 5.0
#: Both double with each further refusal in a row, up to this. A limit may hold for days; nobody gains from asking every ten seconds.
REFUSAL_WAIT_S_MAX = 300.0
#: The first lost submission is sent again at once; then 1, 2, 4 … seconds later, up to this.
LOSS_BACKOFF_S_MAX = 300.0
RETRY_BACKOFF_S_MAX = 3600.0

_SEEN_AS = {JobState.QUEUED: TaskState.QUEUED, JobState.RUNNING: TaskState.RUNNING}


def learn(draft: Draft, news: News) -> None:
    """Fold all of `news` into `draft`. Folding the same news again changes nothing."""
    for name, fact in _by_attempt(news.facts):
        if name.task in draft.tasks:
            _fold_fact(draft, name, fact)
    for receipt in news.receipts:
        parsed = parse_job_name(receipt.job)
        if parsed and parsed.task in draft.tasks and draft.tasks[parsed.task].attempt == parsed.attempt:
            _fold_receipt(draft, parsed.task, receipt, news)
    for job in sorted(news.absent):
        parsed = parse_job_name(job)
        if parsed and parsed.task in draft.tasks and draft.tasks[parsed.task].attempt == parsed.attempt:
            _fold_absence(draft, parsed.task, news.backends)
    for job, generated in news.generated.items():
        parsed = parse_job_name(job)
        if parsed and parsed.task in draft.tasks and draft.tasks[parsed.task].attempt == parsed.attempt:
            _fold_generated(draft, parsed.task, generated)


def _by_attempt(facts: Mapping[str, JobFact]) -> Iterable[tuple[JobName, JobFact]]:
    """One look may show several attempts of one task: oldest first, so that the latest is what stays."""
    named = [(parsed, fact) for job, fact in facts.items() if (parsed := parse_job_name(job))]
    return sorted(named, key=_attempt)


def _attempt(pair: tuple[JobName, JobFact]) -> int:
    return pair[0].attempt


def _fold_fact(draft: Draft, name: JobName, fact: JobFact) -> None:
    record = draft.tasks[name.task]
    if record.state in FINAL:
        if fact.state is JobState.RUNNING and name.attempt == record.attempt:
            draft.note("LateEvidence", name.task, f"{'.'.join(map(str, name))} is seen running after it was recorded {record.state}")
        return
    if name.attempt < record.attempt or _is_old_news(name.attempt, fact, record):
        return
    if name.attempt > record.attempt:
        record = _adopt(record, name.attempt)
    record = record._replace(
        job_id=fact.job_id or record.job_id,
        started=record.started or fact.started,
        claimed_at=record.claimed_at or fact.submitted_at or draft.now,
        started_at=fact.started_at or (0.0 if fact.state is JobState.QUEUED else record.started_at),
        absent_since=0.0,
    )
    match fact.state:
        case JobState.UNKNOWN:
            draft.put(name.task, record._replace(reason=fact.reason or record.reason))
        case JobState.QUEUED:
            _see_alive(draft, name.task, record, TaskState.QUEUED, fact.reason)
        case JobState.RUNNING:
            _see_alive(draft, name.task, record, TaskState.RUNNING, fact.reason)
        case JobState.FENCED:
            _see_fenced(draft, name.task, record, fact.reason)
        case JobState.ENDED:
            _see_ended(draft, name.task, record, fact)


def _adopt(record: TaskRecord, attempt: int) -> TaskRecord:
    """The record, as that of a later attempt which an older ledger had sent. Who is being cancelled stays so; any other doubt was
    about the earlier attempt, which that ledger had settled."""
    aim = record.aim if record.aim is Aim.CANCELLED else Aim.AGAIN if record.state is TaskState.CANCELLING else None
    return record._replace(attempt=attempt, job_id="", started=False, exit_code=None, aim=aim, told_at=0.0)


def _is_old_news(attempt: int, fact: JobFact, record: TaskRecord) -> bool:
    """Whether folding this fact would change nothing. A full look at 10,000 running jobs is mostly this."""
    return (
        attempt == record.attempt
        and _SEEN_AS.get(fact.state) is record.state
        and not record.absent_since
        and bool(record.acknowledged_at)
        and fact.started <= record.started
        and fact.job_id in ("", record.job_id)
        and fact.started_at in (None, record.started_at)
        and fact.reason in ("", record.reason)
    )


def _see_alive(draft: Draft, task_id: str, record: TaskRecord, state: TaskState, reason: str) -> None:
    if record.state is TaskState.CANCELLING and record.aim is Aim.CANCELLED:
        draft.put(task_id, record)  # it is there, and is being ended
    elif awaits_tasks(record, draft.known[task_id]):
        draft.put(task_id, record)  # its end is known already: an older look cannot undo it
    else:
        acknowledged_at = record.acknowledged_at or draft.now
        draft.put(task_id, record.to(state, draft.now, reason, acknowledged_at=acknowledged_at, aim=None))


def _see_fenced(draft: Draft, task_id: str, record: TaskRecord, reason: str) -> None:
    if record.state is TaskState.CANCELLING:
        _reach_aim(draft, task_id, record)
    elif record.started:  # no work is being done under this name any more, and nothing says how it ended
        fail(draft, task_id, record, Cause.LOST, reason or "it started, and only a fence is left of it")
    else:
        send_again(draft, task_id, record, reason or "its start had been revoked")


def _see_ended(draft: Draft, task_id: str, record: TaskRecord, fact: JobFact) -> None:
    record = record._replace(ended_at=fact.ended_at or draft.now, exit_code=fact.exit_code)
    task = draft.known[task_id]
    aimed = record.state is TaskState.CANCELLING and record.aim is Aim.CANCELLED
    if fact.exit_code == 0 and fact.cause is None:
        if task.generates_source and not aimed:
            draft.put(task_id, record.to(TaskState.RUNNING, draft.now, f"reading the tasks in {task.generates_source}", aim=None))
        else:
            draft.put(task_id, record.to(TaskState.SUCCEEDED, draft.now, fact.reason, aim=None))
    elif aimed:
        draft.put(task_id, record.to(TaskState.CANCELLED, draft.now, record.reason, cause=Cause.CANCELLED, aim=None))
    elif fact.cause is Cause.CANCELLED:
        reason = fact.reason or "cancelled from outside"
        draft.put(task_id, record.to(TaskState.CANCELLED, draft.now, reason, cause=Cause.CANCELLED, aim=None))
    elif fact.cause in (Cause.NODE_FAIL, Cause.PREEMPTED, Cause.LOST) and not record.started:
        # The scheduler gave up before the job began: nothing was spent. Its start is revoked before another is sent.
        if record.state is TaskState.WAITING:
            send_again(draft, task_id, record, fact.reason)
        elif record.state is not TaskState.CANCELLING:
            draft.put(task_id, record.to(TaskState.CANCELLING, draft.now, fact.reason or "it ended before it started", aim=Aim.AGAIN))
    else:
        fail(draft, task_id, record, fact.cause or Cause.EXIT, fact.reason or _words(fact))


def _words(fact: JobFact) -> str:
    if fact.signal is not None:
        return f"ended by signal {fact.signal}"
    return f"exit code {fact.exit_code}" if fact.exit_code is not None else "ended without an exit record"


def _fold_receipt(draft: Draft, task_id: str, receipt: Receipt, news: News) -> None:
    record = draft.tasks[task_id]
    if record.state not in LIVE:
        return
    match receipt.answer:
        case Answer.ACCEPTED:
            view = news.backends.get(draft.run.backend_of(draft.known[task_id]))
            record = record._replace(
                job_id=receipt.job_id or record.job_id,
                acknowledged_at=receipt.at,
                scheduler=(view.scheduler_started_at or 0.0) if view else 0.0,
                refusals=0,
            )
            draft.put(task_id, record.to(TaskState.QUEUED, draft.now, receipt.reason) if record.state is TaskState.SUBMITTING else record)
        case Answer.REFUSED | Answer.LIMIT | Answer.TRANSIENT:
            _see_unsent(draft, task_id, record, receipt)
        case Answer.FENCED:
            _see_fenced(draft, task_id, record, receipt.reason)
        case Answer.ENDED | Answer.STARTED | Answer.ENDING:
            _see_cancel_answered(draft, task_id, record, receipt)
        case Answer.UNKNOWN:
            draft.put(task_id, record._replace(reason=receipt.reason or record.reason))


def _see_unsent(draft: Draft, task_id: str, record: TaskRecord, receipt: Receipt) -> None:
    """It is proven that no job exists under this name. Of an attempt that was seen since, this is old news."""
    if record.state is TaskState.CANCELLING:
        _reach_aim(draft, task_id, record)
    elif record.state is not TaskState.SUBMITTING:
        return
    elif receipt.answer is Answer.REFUSED:
        draft.put(task_id, record.to(TaskState.FAILED, draft.now, receipt.reason, cause=Cause.REFUSED, ended_at=receipt.at))
    elif draft.closed:
        _close(draft, task_id, record)
    else:
        wait_s = LIMIT_WAIT_S if receipt.answer is Answer.LIMIT else TRANSIENT_WAIT_S
        wait_s = min(REFUSAL_WAIT_S_MAX, wait_s * 2.0 ** min(record.refusals, 10))
        not_before, refusals = draft.now + wait_s, record.refusals + 1
        draft.put(task_id, record.to(TaskState.WAITING, draft.now, receipt.reason, not_before=not_before, refusals=refusals))


def _see_cancel_answered(draft: Draft, task_id: str, record: TaskRecord, receipt: Receipt) -> None:
    if record.state is not TaskState.CANCELLING:
        return
    if record.aim is not Aim.CANCELLED:  # only revocation was wanted, and it had started after all: what became of it shows in a look
        draft.put(task_id, record.to(TaskState.RUNNING, draft.now, receipt.reason or "it had started after all", started=True, aim=None))
    elif receipt.answer is Answer.ENDED:
        ended = record.to(TaskState.CANCELLED, draft.now, record.reason, cause=Cause.CANCELLED, ended_at=receipt.at, aim=None)
        draft.put(task_id, ended)
    else:  # its start could not be revoked, so it was taken: from here on a confirmed absence proves the end
        draft.put(task_id, record._replace(started=True))


def _fold_absence(draft: Draft, task_id: str, backends: Mapping[str, BackendView]) -> None:
    """The newest complete look did not show a job that we believe alive."""
    record = draft.tasks[task_id]
    view = backends[draft.run.backend_of(draft.known[task_id])]
    if record.state not in LIVE or view.began_at is None or awaits_tasks(record, draft.known[task_id]):
        return
    if not (view.reachable and view.complete):
        return  # `began_at` is that of a look which cannot speak of absence
    if view.began_at < max(record.since, record.claimed_at, record.acknowledged_at):
        return  # that look began before our last change, and cannot speak of it
    if not record.absent_since:
        draft.put(task_id, record._replace(absent_since=view.began_at))
    elif view.began_at >= record.absent_since + view.absence_grace_s:
        _believe_absent(draft, task_id, record, view)


def _believe_absent(draft: Draft, task_id: str, record: TaskRecord, view: BackendView) -> None:
    if record.started:
        if record.state is TaskState.CANCELLING and record.aim is Aim.CANCELLED:
            gone = record.to(TaskState.CANCELLED, draft.now, record.reason, cause=Cause.CANCELLED, ended_at=draft.now, aim=None)
            draft.put(task_id, gone)
        else:
            fail(draft, task_id, record._replace(ended_at=draft.now), Cause.LOST, "it started, vanished, and left no exit record")
    elif record.state is not TaskState.CANCELLING:
        restarted = view.scheduler_started_at is not None and 0.0 < record.acknowledged_at < view.scheduler_started_at
        forgotten = restarted or job_name(draft.run.id, task_id, record.attempt) in view.forgotten
        if not record.acknowledged_at:
            aim, reason = Aim.AGAIN, "the submission got no answer and no job was seen; revoking it before it is sent again"
        elif forgotten:
            aim, reason = Aim.AGAIN, "the scheduler restarted and forgot the job; revoking it before it is sent again"
        else:
            aim, reason = Aim.LOST, "the scheduler had taken the job, and it is nowhere; making sure that it cannot start"
        draft.put(task_id, record.to(TaskState.CANCELLING, draft.now, reason, aim=aim))


def _reach_aim(draft: Draft, task_id: str, record: TaskRecord) -> None:
    """It is proven that the job cannot do any work under this name."""
    match record.aim:
        case Aim.AGAIN:
            send_again(draft, task_id, record, record.reason)
        case Aim.LOST:
            fail(draft, task_id, record, Cause.LOST, "the scheduler had taken the job, and it was nowhere")
        case _:
            ended = record.to(TaskState.CANCELLED, draft.now, record.reason, cause=Cause.CANCELLED, ended_at=draft.now, aim=None)
            draft.put(task_id, ended)


def send_again(draft: Draft, task_id: str, record: TaskRecord, reason: str) -> None:
    """A submission that never started and never will: a new attempt, no budget spent, capped and with back-off."""
    losses = record.losses + 1
    draft.note("SubmissionLost", task_id, reason)
    if draft.closed:
        _close(draft, task_id, record)
        return
    wait_s = min(LOSS_BACKOFF_S_MAX, 2.0 ** (losses - 2)) if losses > 1 else 0.0
    if losses >= LOSSES_MAX:
        draft.note("TaskStalled", task_id, reason)
    draft.put(task_id, _fresh(record.to(TaskState.WAITING, draft.now, reason, not_before=draft.now + wait_s, losses=losses)))


def fail(draft: Draft, task_id: str, record: TaskRecord, cause: Cause, reason: str) -> None:
    """A job that is proven ended without success: another try, if the task's `retry` has one for this cause."""
    task = draft.known[task_id]
    failures = record.failures + 1
    record = record._replace(ooms=record.ooms + (cause is Cause.OOM), timeouts=record.timeouts + (cause is Cause.TIMEOUT))
    if may_retry(task, cause, failures) and not draft.closed:
        wait_s = min(RETRY_BACKOFF_S_MAX, task.retry.backoff_s * 2.0 ** min(failures - 1, 30))
        overlap = "; the old process may still run where nobody can see it" if cause in (Cause.NODE_FAIL, Cause.LOST) else ""
        why = f"{reason}; trying again ({failures} of {task.retry.limit}){more_asked(task, record)}{overlap}"
        waiting = record.to(TaskState.WAITING, draft.now, why, not_before=draft.now + wait_s, failures=failures, cause=cause)
        draft.put(task_id, _fresh(waiting))
    else:
        state = TaskState.LOST if cause is Cause.LOST else TaskState.FAILED
        ended_at = record.ended_at or draft.now
        draft.put(task_id, record.to(state, draft.now, reason, failures=failures, cause=cause, ended_at=ended_at, aim=None))


def may_retry(task: Task, cause: Cause, failures: int) -> bool:
    """Whether the budget of `task` holds another try after `failures` failures, the last of them for `cause`."""
    return cause in RETRYABLE and cause in task.retry.on and failures <= task.retry.limit


def _fresh(record: TaskRecord) -> TaskRecord:
    """The same task, one attempt on."""
    return record._replace(
        attempt=record.attempt + 1,
        job_id="",
        started=False,
        acknowledged_at=0.0,
        started_at=0.0,
        ended_at=0.0,
        exit_code=None,
        aim=None,
        scheduler=0.0,
        refusals=0,
    )


def _close(draft: Draft, task_id: str, record: TaskRecord) -> None:
    why = draft.cancelled or draft.dropped
    draft.put(task_id, record.to(TaskState.CANCELLED, draft.now, why, cause=Cause.CANCELLED, ended_at=draft.now, aim=None))


def _fold_generated(draft: Draft, task_id: str, generated: Generated) -> None:
    """The file of a generator was read: its tasks join the run in the same save that makes it succeed, so never twice."""
    record, task = draft.tasks[task_id], draft.known[task_id]
    if not awaits_tasks(record, task):
        return
    if generated.error:
        draft.put(task_id, record.to(TaskState.FAILED, draft.now, generated.error, cause=Cause.GENERATED, failures=record.failures + 1))
        return
    draft.append(generated.tasks)
    draft.put(task_id, record.to(TaskState.SUCCEEDED, draft.now, f"generated {len(generated.tasks)} tasks"))
