"""Deliberately wrong planners. Each is the correct one with its input or its output bent, so that it survives refactoring.

Used by test_sim.py: the simulator must catch every one of them, else its worlds or its promises are too weak. `world` is the first
seed that did when it was measured (`python -m tests.sim --measure 170`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count

from reconciler.core.actions import Cancel, Submit
from reconciler.core.desired import RETRYABLE, Cause, Retry, Run
from reconciler.core.names import job_name, parse_job_name
from reconciler.core.observed import Answer, JobFact, JobState, News, Receipt, Snapshot
from reconciler.core.plan import Plan, plan, remember
from reconciler.core.record import FINAL, LIVE, Aim, RunRecord, TaskRecord, TaskState
from tests.sim.controller import Planner
from tests.sim.simulation import Subject

Bend = Callable[[Run, RunRecord, News, float], tuple[RunRecord, News]]


@dataclass(frozen=True)
class Wrong:
    """One wrong design, and the first world in which it showed when it was measured."""

    name: str
    world: int
    subject: Subject


def _input(bend: Bend) -> Planner:
    def planner(run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float) -> Plan:
        bent, told = bend(run, record, news, now)
        return plan(run, bent, told, room, now)

    return planner


def _output(bend: Callable[[Run, RunRecord, News, Plan], Plan]) -> Planner:
    def planner(run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float) -> Plan:
        return bend(run, record, news, plan(run, record, news, room, now))

    return planner


def _facts(bend: Callable[[str, JobFact, RunRecord], tuple[str, JobFact]]) -> Planner:
    def bent(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
        return record, replace(news, facts=dict(bend(job, fact, record) for job, fact in news.facts.items()))

    return _input(bent)


def _with_tasks(run: Run, planned: Plan, tasks: Mapping[str, TaskRecord]) -> Plan:
    """The plan with other records; what follows from them is kept consistent."""
    changed = tuple(task_id for task_id, record in tasks.items() if record != planned.record.tasks[task_id])
    grown = replace(run, tasks=run.tasks + planned.appended)
    record = remember(grown, tasks, planned.record.cancelled, planned.record.dropped)
    return replace(planned, record=record, changed=tuple(dict.fromkeys((*planned.changed, *changed))))


def _jobs(run: Run, record: RunRecord, states: frozenset[TaskState]) -> dict[str, TaskRecord]:
    return {job_name(run.id, task_id, each.attempt): each for task_id, each in record.tasks.items() if each.state in states}


# ---- what is seen, misread


def _unreachable_is_empty(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    blind = {name for name, view in news.backends.items() if not view.reachable}
    views = {
        name: replace(view, reachable=True, complete=True, began_at=now, accepts=False) if name in blind else view
        for name, view in news.backends.items()
    }
    gone = {job for job in _jobs(run, record, LIVE) if run.backend_of(record.known[_task(job)]) in blind}
    return record, replace(news, backends=views, absent=news.absent | gone)


def _task(job: str) -> str:
    parts = parse_job_name(job)
    assert parts is not None
    return parts.task


def _no_grace(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    return record, replace(news, backends={name: replace(view, absence_grace_s=0.0) for name, view in news.backends.items()})


def _always_complete(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, complete=True)


def _always_fresh(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    return record, replace(news, backends={name: replace(view, began_at=now) for name, view in news.backends.items()})


def _vanished_succeeded(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    gone = {job for job, each in _jobs(run, record, LIVE).items() if job in news.absent and each.state is not TaskState.SUBMITTING}
    return record, replace(news, facts={**news.facts, **{job: JobFact(JobState.ENDED, exit_code=0, started=True) for job in gone}})


def _exit_code_ignored(job: str, fact: JobFact, record: RunRecord) -> tuple[str, JobFact]:
    return job, replace(fact, exit_code=0, cause=None) if fact.state is JobState.ENDED else fact


def _requeue_is_failure(job: str, fact: JobFact, record: RunRecord) -> tuple[str, JobFact]:
    requeued = fact.state is JobState.QUEUED and fact.restarts > 0
    return job, replace(fact, state=JobState.ENDED, cause=Cause.PREEMPTED, started=True) if requeued else fact


def _unknown_is_failure(job: str, fact: JobFact, record: RunRecord) -> tuple[str, JobFact]:
    return job, replace(fact, state=JobState.ENDED, cause=Cause.EXIT) if fact.state is JobState.UNKNOWN else fact


def _fenced_is_failure(job: str, fact: JobFact, record: RunRecord) -> tuple[str, JobFact]:
    return job, replace(fact, state=JobState.ENDED, cause=Cause.EXIT) if fact.state is JobState.FENCED else fact


def _any_attempt(job: str, fact: JobFact, record: RunRecord) -> tuple[str, JobFact]:
    """Whatever is known of a task is taken for its newest attempt."""
    parts = parse_job_name(job)
    assert parts is not None
    known = record.tasks.get(parts.task)
    return (job_name(parts.run, parts.task, known.attempt) if known and known.state in LIVE else job), fact


# ---- fences and receipts that are not waited for


def _fence_assumed(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    doubted = [
        job for job, each in _jobs(run, record, LIVE).items() if each.state is TaskState.CANCELLING and each.aim is not Aim.CANCELLED
    ]
    return record, replace(news, receipts=(*news.receipts, *(Receipt(job, Answer.FENCED, now) for job in doubted)))


def _end_assumed(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    told = [job for job, each in _jobs(run, record, LIVE).items() if each.state is TaskState.CANCELLING and each.aim is Aim.CANCELLED]
    return record, replace(news, receipts=(*news.receipts, *(Receipt(job, Answer.ENDED, now) for job in told)))


def _ending_is_ended(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    told = tuple(replace(each, answer=Answer.ENDED) if each.answer is Answer.ENDING else each for each in news.receipts)
    return record, replace(news, receipts=told)


def _unknown_is_refused(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    told = tuple(replace(each, answer=Answer.TRANSIENT) if each.answer is Answer.UNKNOWN else each for each in news.receipts)
    return record, replace(news, receipts=told)


def _doubt_sent_again(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    """A submission that got no answer for a while is sent again under its own name."""
    waiting = [job for job, each in _jobs(run, record, frozenset({TaskState.SUBMITTING})).items() if now > each.since + 20]
    return record, replace(news, receipts=(*news.receipts, *(Receipt(job, Answer.TRANSIENT, now) for job in waiting)))


def _one_name(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    acts = [replace(act, job=job_name(act.run, act.task, 1)) if isinstance(act, Submit) else act for act in planned.actions]
    return replace(planned, actions=tuple(acts))


def _sends_at_every_plan(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    """An intent that has no answer yet is taken for a task that waits."""
    tasks = {
        task_id: each._replace(state=TaskState.WAITING) if each.state is TaskState.SUBMITTING else each
        for task_id, each in record.tasks.items()
    }
    return remember(run, tasks, record.cancelled, record.dropped), news


def _with_a_mind_of_its_own() -> Planner:
    """State outside the record: every third plan sends nothing."""
    calls = count()

    def planner(run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float) -> Plan:
        return plan(run, record, news, {} if next(calls) % 3 == 0 else room, now)

    return planner


# ---- verdicts


def _loss_spends(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    tasks = {
        task_id: each._replace(failures=each.failures + 1)
        if task_id in record.tasks and each.losses > record.tasks[task_id].losses
        else each
        for task_id, each in planned.record.tasks.items()
    }
    return _with_tasks(run, planned, tasks)


def _late_evidence_wins(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    tasks = dict(planned.record.tasks)
    for job, each in _jobs(run, record, FINAL).items():
        fact = news.facts.get(job)
        if fact is not None and fact.exit_code == 0 and each.state is not TaskState.SUCCEEDED:
            tasks[_task(job)] = each._replace(state=TaskState.SUCCEEDED, exit_code=0, cause=None)
    return _with_tasks(run, planned, tasks)


def _appends_twice(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    """A file that is read twice is appended twice."""
    more = [
        task
        for job, generated in news.generated.items()
        if record.tasks[_task(job)].state is TaskState.SUCCEEDED and not planned.appended
        for task in generated.tasks
    ]
    return replace(planned, appended=(*planned.appended, *more))


def _retries_everything(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    known = {task_id: replace(task, retry=Retry(limit=50, on=RETRYABLE)) for task_id, task in record.known.items()}
    return replace(record, known=known), news


def _losses_forgotten(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    tasks = {task_id: each._replace(losses=min(each.losses, 1)) for task_id, each in record.tasks.items()}
    return replace(record, tasks=tasks), news


def _needs_ignored(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    ready = {task_id: each.not_before for task_id, each in record.tasks.items() if each.state is TaskState.WAITING}
    return replace(record, needs_left={}, ready=ready), news


# ---- what a scheduler forgot, and what ran out


def _absent_is_forgotten(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    """Whatever the scheduler had taken and does not show any more is sent again: also what somebody cancelled."""
    return record, replace(news, backends={name: replace(view, forgotten=news.absent) for name, view in news.backends.items()})


def _forgotten_never_started(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    """What the scheduler forgot is sent again, although it had started."""
    forgotten = {job for view in news.backends.values() for job in view.forgotten}
    tasks = {
        task_id: each._replace(started=False) if job_name(run.id, task_id, each.attempt) in forgotten else each
        for task_id, each in record.tasks.items()
    }
    return remember(run, tasks, record.cancelled, record.dropped), news


def _nothing_is_forgotten(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    return record, replace(news, backends={name: replace(view, forgotten=frozenset()) for name, view in news.backends.items()})


def _counted_otherwise(count: Callable[[TaskRecord, TaskRecord], TaskRecord]) -> Planner:
    """Another record after each plan of every task whose failures are more than before."""

    def bent(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
        failed = {
            task_id: count(before, planned.record.tasks[task_id])
            for task_id, before in record.tasks.items()
            if planned.record.tasks[task_id].failures > before.failures
        }
        return _with_tasks(run, planned, {**planned.record.tasks, **failed})

    return _output(bent)


def _both_on_oom(before: TaskRecord, after: TaskRecord) -> TaskRecord:
    return after._replace(timeouts=after.timeouts + after.ooms - before.ooms)


def _at_every_failure(before: TaskRecord, after: TaskRecord) -> TaskRecord:
    return after._replace(ooms=after.failures, timeouts=after.failures)


def _not_remembered(before: TaskRecord, after: TaskRecord) -> TaskRecord:
    return after._replace(ooms=0, timeouts=0)


# ---- wishes of people


def _told_nothing(*fields: str) -> Bend:
    def bent(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
        return record, replace(news, **dict.fromkeys(fields, ""))  # type: ignore[arg-type]  # only fields of text

    return bent


def _draining_ignored(run: Run, record: RunRecord, news: News, now: float) -> tuple[RunRecord, News]:
    return record, replace(news, backends={name: replace(view, accepts=True) for name, view in news.backends.items()})


def _room_ignored(run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float) -> Plan:
    return plan(run, record, news, dict.fromkeys(room, 99), now)


def _kills_in_doubt(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    return replace(planned, actions=tuple(replace(act, kill=True) if isinstance(act, Cancel) else act for act in planned.actions))


def _cancels_once(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    told = {task_id for task_id, each in record.tasks.items() if each.told_at}
    return replace(planned, actions=tuple(act for act in planned.actions if not (isinstance(act, Cancel) and act.task in told)))


def _never_woken(run: Run, record: RunRecord, news: News, planned: Plan) -> Plan:
    return replace(planned, wake_at=None)


def _wrong(name: str, world: int, planner: Planner = plan, **more: object) -> Wrong:
    """By default it is told apart by the truth alone, not by planning twice."""
    return Wrong(name, world, Subject(planner, **{"plan_twice": False, **more}))  # type: ignore[arg-type]  # names checked by the dataclass


WRONG = (
    _wrong("acts before it saves", 6, habits={"acts_before_saving": True, "crash": 0.03}),
    _wrong("reads unreachable as empty", 14, _input(_unreachable_is_empty)),
    _wrong("believes absence without a grace", 7, _input(_no_grace)),
    _wrong("reads an incomplete look as complete", 13, read=_always_complete),
    _wrong("believes a stale look to be of now", 3, _input(_always_fresh), habits={"folds_stale": True}),
    _wrong("reads vanished as succeeded", 0, _input(_vanished_succeeded)),
    _wrong("ignores the exit code", 2, _facts(_exit_code_ignored)),
    _wrong("takes a requeue for an end", 3, _facts(_requeue_is_failure)),
    _wrong("takes unknown words for a failure", 6, _facts(_unknown_is_failure)),
    _wrong("takes a fenced job for a failure", 6, _facts(_fenced_is_failure)),
    _wrong("believes what is known of another attempt", 3, _facts(_any_attempt), habits={"full_news": True}),
    _wrong("does not wait for the fence", 4, _input(_fence_assumed)),
    _wrong("records cancelled without proof", 2, _input(_end_assumed)),
    _wrong("takes ending for ended", 2, _input(_ending_is_ended)),
    _wrong("takes no answer for a refusal", 3, _input(_unknown_is_refused)),
    _wrong("sends again what is in doubt", 3, _input(_doubt_sent_again)),
    _wrong("has one job name for all attempts", 6, _output(_one_name)),
    _wrong("sends at every plan until it is answered", 1, _input(_sends_at_every_plan)),
    _wrong("spends the budget on lost submissions", 6, _output(_loss_spends)),
    _wrong("sends for ever what is lost", 32, _input(_losses_forgotten)),
    _wrong("changes a final record by late evidence", 57, _output(_late_evidence_wins)),
    _wrong("appends a generator's tasks twice", 122, _output(_appends_twice)),
    _wrong("retries whatever failed", 2, _input(_retries_everything)),
    _wrong("keeps state of its own", 0, _with_a_mind_of_its_own(), plan_twice=True),
    _wrong("takes whatever is absent for forgotten", 3, _input(_absent_is_forgotten)),
    _wrong("sends again what had started and was forgotten", 72, _input(_forgotten_never_started)),
    _wrong("does not hear that a job was forgotten", 72, _input(_nothing_is_forgotten)),
    _wrong("asks for more of both when one ran out", 7, _counted_otherwise(_both_on_oom)),
    _wrong("asks for more after any failure", 2, _counted_otherwise(_at_every_failure)),
    _wrong("does not remember what ran out", 13, _counted_otherwise(_not_remembered)),
    _wrong("ignores needs", 2, _input(_needs_ignored)),
    _wrong("ignores a suspension", 6, _input(_told_nothing("suspended"))),
    _wrong("ignores a cancelled run", 3, _input(_told_nothing("cancelled"))),
    _wrong("ignores a dropped run", 7, _input(_told_nothing("dropped"))),
    _wrong("ignores a draining backend", 2, _input(_draining_ignored)),
    _wrong("ignores the room", 0, _room_ignored),
    _wrong("kills what it only doubts", 3, _output(_kills_in_doubt)),
    _wrong("cancels only once", 3, _output(_cancels_once)),
    _wrong("does not ask to be woken", 9, _output(_never_woken), habits={"lazy": True, "two_plans": True}),
)
