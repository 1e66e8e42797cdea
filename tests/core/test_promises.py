"""The promises of the core as properties of single plans: whatever is remembered and whatever is seen.

The simulator (tests/sim) checks whole histories against the truth; here hypothesis picks one moment, also such as no history
would lead to, and looks at one step from it.
"""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.actions import Cancel, Fetch, Forget, Submit
from reconciler.core.desired import Cause, Place, Retry, Run, Task, When
from reconciler.core.draft import LOSSES_MAX, is_fine
from reconciler.core.names import job_name, parse_job_name
from reconciler.core.observed import Answer, BackendView, Generated, JobFact, JobState, News, Receipt
from reconciler.core.plan import Plan, new_record, plan, remember
from reconciler.core.record import FINAL, LIVE, Aim, RunRecord, TaskRecord, TaskState

#: So many moments for each promise, always the same ones; RECONCILER_EXAMPLES=5000 searches further, elsewhere each time.
EXAMPLES = int(os.environ.get("RECONCILER_EXAMPLES", "100"))
SEARCHES = "RECONCILER_EXAMPLES" in os.environ
RUN = "0123456789ab"
NOW = 1000.0
BACKENDS = ("here", "there")
Moment = tuple[Run, RunRecord, News, dict[str, int]]

times = st.sampled_from([0.0, 900.0, 940.0, 960.0, 990.0, NOW])


@st.composite
def runs(draw: st.DrawFn) -> Run:
    tasks: list[Task] = []
    for place in range(draw(st.integers(1, 5))):
        tasks.append(
            Task(
                f"t{place}",
                "work",
                needs=tuple(task.id for task in tasks if draw(st.booleans())),
                backend=draw(st.sampled_from(["", *BACKENDS])),
                generates_source=draw(st.sampled_from(["", "", "tasks.json"])),
                when=draw(st.sampled_from(When)),
                allow_failure=draw(st.booleans()),
                retry=draw(
                    st.builds(
                        Retry, limit=st.integers(0, 2), on=st.frozensets(st.sampled_from(Cause)), backoff_s=st.sampled_from([0.0, 30.0])
                    )
                ),
            )
        )
    return Run(RUN, "flow", "sha256:0", "", "", "here", tuple(tasks), Place("", "flow.yaml", 1), 0.0)


@st.composite
def task_records(draw: st.DrawFn, run: Run, task: Task, before: dict[str, TaskRecord]) -> TaskRecord:
    """Any record that the table and the needs of the task allow."""
    ends = [before[need].state in FINAL for need in task.needs]
    fine = [is_fine(run.tasks[int(need[1:])], before[need]) for need in task.needs]
    spoiled = any(end and not good for end, good in zip(ends, fine, strict=True))
    state = draw(st.sampled_from(TaskState))
    if (not all(ends) and state is not TaskState.WAITING) or state is TaskState.SKIPPED:
        state = TaskState.WAITING
    if state is TaskState.WAITING and ((task.when is When.SUCCESS and spoiled) or (task.when is When.FAILURE and all(ends) and all(fine))):
        state = TaskState.SKIPPED
    since = draw(times)
    live = state in LIVE
    return TaskRecord(
        state=state,
        attempt=draw(st.integers(1, 3)),
        failures=draw(st.integers(0, 2)),
        ooms=draw(st.integers(0, 1)),
        timeouts=draw(st.integers(0, 1)),
        losses=draw(st.sampled_from([0, 1, LOSSES_MAX - 1, LOSSES_MAX])) if state is TaskState.WAITING else draw(st.integers(0, 2)),
        since=since,
        job_id="7" if live and draw(st.booleans()) else "",
        started=live and state is not TaskState.SUBMITTING and draw(st.booleans()),
        claimed_at=since if live else 0.0,
        acknowledged_at=since if live and state is not TaskState.SUBMITTING and draw(st.booleans()) else 0.0,
        exit_code=0 if state is TaskState.RUNNING and task.generates_source and draw(st.booleans()) else None,
        absent_since=draw(times) if live else 0.0,
        not_before=draw(st.sampled_from([0.0, NOW + 5.0])),
        aim=draw(st.sampled_from([Aim.AGAIN, Aim.LOST])) if state is TaskState.CANCELLING else None,
        told_at=draw(times) if live else 0.0,
    )


facts = st.builds(
    JobFact,
    state=st.sampled_from(JobState),
    job_id=st.sampled_from(["", "7", "8"]),
    started=st.booleans(),
    exit_code=st.sampled_from([None, 0, 1, 121]),
    cause=st.sampled_from([None, *Cause]),
    restarts=st.integers(0, 1),
)
views = st.builds(
    BackendView,
    began_at=st.sampled_from([None, 900.0, 960.0, NOW]),
    reachable=st.booleans(),
    complete=st.booleans(),
    absence_grace_s=st.sampled_from([0.0, 30.0]),
    accepts=st.booleans(),
    scheduler_started_at=st.sampled_from([None, 950.0]),
    forgotten=st.frozensets(st.builds(job_name, st.just(RUN), st.sampled_from(["t0", "t1"]), st.integers(1, 3)), max_size=2),
)
files = st.sampled_from(
    [Generated(error="tasks.json:1: no"), Generated((Task("g0", "work"), Task("g1", "work", needs=("g0", "t0"), when=When.ALWAYS)))]
)
words = st.sampled_from(["", "", "", "because"])


@st.composite
def moments(draw: st.DrawFn) -> Moment:
    run = draw(runs())
    tasks: dict[str, TaskRecord] = {}
    for task in run.tasks:
        tasks[task.id] = draw(task_records(run, task, tasks))
    cancelled = draw(words)
    if cancelled:  # then nothing waits, and what lives is being ended
        for task_id, record in tasks.items():
            if record.state is TaskState.WAITING:
                tasks[task_id] = record._replace(state=TaskState.CANCELLED)
            elif record.state in LIVE:
                tasks[task_id] = record._replace(state=TaskState.CANCELLING, aim=Aim.CANCELLED)
    names = [job_name(RUN, task.id, attempt) for task in run.tasks for attempt in range(1, 5)]
    jobs = st.sampled_from([*names, job_name(RUN, "stranger", 1)])
    live = [job_name(RUN, task_id, record.attempt) for task_id, record in tasks.items() if record.state in LIVE]
    news = News(
        backends={name: draw(views) for name in BACKENDS},
        facts=draw(st.dictionaries(jobs, facts, max_size=4)),
        absent=draw(st.frozensets(st.sampled_from(live))) if live else frozenset(),
        receipts=tuple(draw(st.lists(st.builds(Receipt, job=jobs, answer=st.sampled_from(Answer), at=times), max_size=3))),
        generated=draw(st.dictionaries(jobs, files, max_size=2)),
        suspended=draw(words),
        cancelled=draw(words),
        dropped=draw(words),
    )
    room = draw(st.dictionaries(st.sampled_from(BACKENDS), st.integers(0, 4)))
    return run, remember(run, tasks, cancelled), news, room


def every(examples: int = EXAMPLES) -> settings:
    tolerated = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, derandomize=not SEARCHES, database=None, suppress_health_check=tolerated)


def sent(planned: Plan) -> list[Submit]:
    return [action for action in planned.actions if isinstance(action, Submit)]


@every()
@given(moments())
def test_1_and_2_a_name_follows_only_on_proof(moment: Moment) -> None:
    """What is sent was waiting, under the attempt now recorded; an attempt is left behind only on evidence about it, or of a later one."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    for action in sent(planned):
        after = planned.record.tasks[action.task]
        assert (after.state, action.job) == (TaskState.SUBMITTING, job_name(RUN, action.task, after.attempt))
        before = record.tasks.get(action.task)
        if before is not None and before.state is not TaskState.WAITING:
            assert after.attempt > before.attempt
    for task_id, before in record.tasks.items():
        after = planned.record.tasks[task_id]
        if before.state in LIVE and after.attempt > before.attempt:
            job = job_name(RUN, task_id, before.attempt)
            fact = news.facts.get(job)
            proven = fact is not None and fact.state in (JobState.ENDED, JobState.FENCED)
            proven |= any(each.job == job and each.answer in (Answer.FENCED, *_NOT_SENT) for each in news.receipts)
            proven |= job in news.absent and bool(before.absent_since) and before.started | _started(news, job)
            assert proven or _later(news, task_id, before.attempt)


_NOT_SENT = (Answer.REFUSED, Answer.LIMIT, Answer.TRANSIENT)


def _started(news: News, job: str) -> bool:
    told = any(each.job == job and each.answer in (Answer.STARTED, Answer.ENDING, Answer.ENDED) for each in news.receipts)
    return told or (job in news.facts and news.facts[job].started)


def _later(news: News, task_id: str, attempt: int) -> bool:
    parsed = [parse_job_name(job) for job in news.facts]
    return any(each is not None and each.task == task_id and each.attempt > attempt for each in parsed)


@every()
@given(moments())
def test_3_nothing_starts_before_its_needs(moment: Moment) -> None:
    """A task is sent only when all its needs are final and their ends are what its `when` asks for."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    known = planned.record.known
    for action in sent(planned):
        task = known[action.task]
        ends = [planned.record.tasks[need] for need in task.needs]
        fine = [is_fine(known[need], end) for need, end in zip(task.needs, ends, strict=True)]
        assert all(end.state in FINAL for end in ends)
        assert task.when is not When.SUCCESS or all(fine)
        assert task.when is not When.FAILURE or not all(fine)


@every()
@given(moments())
def test_4_and_5_room_sight_and_wishes(moment: Moment) -> None:
    """Never more than the room, nothing to a backend that cannot be seen or takes nothing, nothing for a run that is held or closed."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    for backend in BACKENDS:
        submits = [action for action in sent(planned) if action.backend == backend]
        assert len(submits) <= room.get(backend, 0)
        assert not submits or (news.backends[backend].reachable and news.backends[backend].accepts)
    if news.suspended or news.cancelled or news.dropped or record.cancelled or record.dropped:
        assert sent(planned) == []
    for action in planned.actions:
        assert isinstance(action, Forget) or news.backends[action.backend].reachable
        assert not isinstance(action, Cancel) or action.kill == bool(planned.record.cancelled)


@every()
@given(moments())
def test_6_final_stays_final(moment: Moment) -> None:
    """A final record never changes, and a live task becomes final only by something that was seen or proven in this news."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    for task_id, before in record.tasks.items():
        after = planned.record.tasks[task_id]
        if before.state in FINAL:
            assert after == before
        elif before.state in LIVE and after.state in FINAL and before.exit_code is None:
            names = {job_name(RUN, task_id, attempt) for attempt in range(before.attempt, after.attempt + 1)}
            assert names & (news.facts.keys() | news.absent | {receipt.job for receipt in news.receipts})


@every()
@given(moments())
def test_6_absence_is_cleared_on_sight(moment: Moment) -> None:
    """A job that was shown is not absent any more, and one that nobody missed is not believed gone."""
    run, record, news, room = moment
    planned = plan(run, record, replace(news, absent=frozenset()), room, NOW)
    for task_id, before in record.tasks.items():
        after = planned.record.tasks[task_id]
        fact = news.facts.get(job_name(RUN, task_id, after.attempt))
        if before.state in LIVE and after.state in LIVE and fact is not None and fact.state not in (JobState.ENDED, JobState.FENCED):
            assert after.absent_since == 0.0
        assert before.absent_since or not after.absent_since


@every()
@given(moments())
def test_7_success_needs_an_exit_record(moment: Moment) -> None:
    """A task succeeds only by code 0 of the attempt that is recorded; a generator also needs its file."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    for task_id, before in record.tasks.items():
        after = planned.record.tasks[task_id]
        if after.state is TaskState.SUCCEEDED and before.state is not TaskState.SUCCEEDED:
            job = job_name(RUN, task_id, after.attempt)
            fact = news.facts.get(job)
            shown = fact is not None and fact.state is JobState.ENDED and fact.exit_code == 0 and fact.cause is None
            assert shown or (before.exit_code == 0 and job in news.generated)


@every()
@given(moments())
def test_8_planning_again_sends_nothing_new(moment: Moment) -> None:
    """The same arguments give the same plan; planning on its result sends, appends and forgets nothing more."""
    run, record, news, room = moment
    tasks = dict(record.tasks)
    planned = plan(run, record, news, room, NOW)
    assert plan(run, record, news, room, NOW) == planned
    assert dict(record.tasks) == tasks
    left = {name: more - sum(action.backend == name for action in sent(planned)) for name, more in room.items()}
    again = plan(replace(run, tasks=run.tasks + planned.appended), planned.record, news, left, NOW)
    assert (sent(again), again.appended) == ([], ())
    assert not any(isinstance(action, Fetch) for action in again.actions)


@every()
@given(moments())
def test_9_whatever_is_left_has_somebody_who_moves_it(moment: Moment) -> None:
    """With everything in sight and no news, what is alive is watched for, told again, woken for, ready, waiting for a need, or stalled."""
    run, record, _, _ = moment
    view = BackendView(NOW, reachable=True, complete=True, absence_grace_s=30.0)
    room = dict.fromkeys(BACKENDS, 9)
    planned = plan(run, record, News(dict.fromkeys(BACKENDS, view)), room, NOW)
    for task_id, after in planned.record.tasks.items():
        if after.state is TaskState.WAITING and task_id not in planned.record.needs_left:
            stuck = after.losses >= LOSSES_MAX and planned.record.stalled
            assert stuck or (planned.wake_at is not None and planned.wake_at <= after.not_before)
        if after.state is TaskState.CANCELLING:
            told = any(isinstance(action, Cancel) and action.task == task_id for action in planned.actions)
            assert told or (planned.wake_at is not None and planned.wake_at <= after.told_at + 10.0)
        if after.state in LIVE and after.absent_since:
            assert planned.look_at[run.backend_of(planned.record.known[task_id])] <= after.absent_since + 30.0


@every()
@given(moments())
def test_10_only_what_started_spends_the_budget(moment: Moment) -> None:
    """A fenced or unanswered submission counts as a loss, never as a failure; after the cap nothing more is sent and a person is told."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    for task_id, before in record.tasks.items():
        after = planned.record.tasks[task_id]
        if before.state is TaskState.SUBMITTING and after.failures > before.failures:
            names = {job_name(RUN, task_id, attempt) for attempt in range(before.attempt, after.attempt + 1)}
            assert names & news.facts.keys()
        if after.state is TaskState.WAITING and after.losses >= LOSSES_MAX and task_id not in planned.record.needs_left:
            assert planned.record.stalled
            assert task_id not in {action.task for action in sent(planned)}


@every()
@given(moments())
def test_only_what_ran_out_is_asked_more_of(moment: Moment) -> None:
    """The counts that a retry multiplies by never fall, rise at most with the failures, and only for an end of their own cause."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    for task_id, before in record.tasks.items():
        after = planned.record.tasks[task_id]
        of_task = [fact for job, fact in news.facts.items() if (parsed := parse_job_name(job)) and parsed.task == task_id]
        seen = {cause: sum(fact.state is JobState.ENDED and fact.cause is cause for fact in of_task) for cause in Cause}
        assert 0 <= after.ooms - before.ooms <= seen[Cause.OOM]
        assert 0 <= after.timeouts - before.timeouts <= seen[Cause.TIMEOUT]
        assert (after.ooms - before.ooms) + (after.timeouts - before.timeouts) <= after.failures - before.failures


@every()
@given(moments())
def test_what_follows_from_the_tasks_is_kept_up(moment: Moment) -> None:
    """The record that a plan carries on is the one that would be remembered from its tasks."""
    run, record, news, room = moment
    planned = plan(run, record, news, room, NOW)
    after = planned.record
    assert remember(replace(run, tasks=run.tasks + planned.appended), after.tasks, after.cancelled, after.dropped) == after
    assert {task_id for task_id in after.tasks if after.tasks[task_id] != record.tasks.get(task_id)} <= set(planned.changed)


@every()
@given(runs())
def test_a_new_run_is_remembered_as_it_was_made(run: Run) -> None:
    """A record that was just made equals the one remembered from its tasks, and what nothing can call for is skipped."""
    made = new_record(run, NOW)
    assert remember(run, made.tasks) == made
    for task in run.tasks:
        if task.when is When.FAILURE and not task.needs:
            assert made.tasks[task.id].state is TaskState.SKIPPED
