"""The promises of the core (design: ten of them), checked against the truth of the simulated world, which no planner sees.

The controller model calls these at each step; a broken promise raises PromiseBroken, which names the promise by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from reconciler.core.actions import Cancel, Submit
from reconciler.core.cost import asked
from reconciler.core.desired import Cause, Run, Task, When
from reconciler.core.draft import EVENT_OF, LOSSES_MAX
from reconciler.core.names import job_name, parse_job_name
from reconciler.core.observed import Answer, News, Receipt
from reconciler.core.plan import Plan, remember
from reconciler.core.record import FINAL, LIVE, Aim, RunRecord, TaskRecord, TaskState
from tests.sim.world import NEVER, Claim, Cluster, Job

NOT_SENT = frozenset({Answer.REFUSED, Answer.LIMIT, Answer.TRANSIENT})
#: Causes after which an old process may still run where nobody can see it; a retry of these is a policy that somebody chose.
UNSEEN = frozenset({Cause.NODE_FAIL, Cause.LOST})
_STATE_OF = {name: state for state, name in EVENT_OF.items()}

Planner = Callable[[Run, RunRecord, News, Mapping[str, int], float], Plan]


class PromiseBroken(AssertionError):
    """A promise of the core does not hold in this world."""


def hold(number: int, condition: object, what: str) -> None:
    """Raise PromiseBroken unless `condition`. Number 0 is for what goes without saying."""
    if not condition:
        raise PromiseBroken(f"promise {number}: {what}")


class Promises:
    """What one world must keep to. `rewound` once an old ledger was restored: names of its lost future may be sent again."""

    def __init__(self, clusters: Mapping[str, Cluster], limits: Mapping[str, int]) -> None:
        self.clusters = clusters
        self.limits = limits
        self.tasks: dict[tuple[str, str], Task] = {}
        self.run_limits: dict[str, int | None] = {}
        self.rewound = False
        self.doubtful: set[str] = set()  # names that were sent and not proven unsent
        self.refused: set[str] = set()
        self.pending: Callable[[str], bool] = lambda job: False  # whether a Submit of this name is still under way
        self.shown: dict[str, float] = {}  # when the newest look began that showed this daemon a job
        self.in_order = True  # looks are folded in the order in which they began
        self.twice = 0  # every so many plans are made twice
        self._plans = 0

    def know(self, run: Run) -> None:
        """The run as it is now, generated tasks included."""
        self.run_limits[run.id] = run.max_concurrent
        for task in run.tasks:
            self.tasks[run.id, task.id] = task

    # ---- the truth about a job name

    def home(self, run: Run, task_id: str) -> Cluster:
        """Where the jobs of a task are."""
        return self.clusters[run.backend_of(self.tasks[run.id, task_id])]

    def may_work(self, cluster: Cluster, job: str) -> bool:
        """Whether work may be done under this name from now on, as far as anything can be seen."""
        winner = cluster.spool.winner.get(job)
        if winner is not None:
            return winner.live
        if job in cluster.spool.revoked:
            return False
        coming = any(name == job for _, name in cluster.late) or self.pending(job)
        return coming or any(each.live for each in cluster.jobs.get(job, ()))

    # ---- 1, 4: what jobs do

    def check_start(self, job: Job) -> None:
        """A job won its start record and is about to work."""
        parts = parse_job_name(job.name)
        assert parts is not None
        cluster = next(each for each in self.clusters.values() if job in each.jobs.get(job.name, ()))
        earlier = [other for other in cluster.jobs_of_task(parts.run, parts.task) if other is not job and other.works]
        for other in earlier:
            self._check_second(cluster, other, f"{job.id} {job.name}")

    def check_arrival(self, cluster: Cluster, job: str) -> None:
        """A submission arrives at the far side: no earlier attempt may have a start left in it."""
        parts = parse_job_name(job)
        assert parts is not None
        if job in cluster.spool.claims or job in cluster.spool.revoked:
            return  # nothing new will start under this name
        for attempt in range(1, parts.attempt):
            before = job_name(parts.run, parts.task, attempt)
            winner = cluster.spool.winner.get(before)
            if winner is not None:
                self._check_second(cluster, winner, job)
            elif before not in cluster.spool.revoked:
                claim = cluster.spool.claims.get(before)
                hold(1, claim in (None, Claim.REFUSED), f"{job} is sent although {before} was sent and neither ended nor revoked")
        vain = [job_name(parts.run, parts.task, attempt) for attempt in range(1, parts.attempt)]
        vain = [name for name in vain if name in cluster.spool.revoked and name not in cluster.spool.winner]
        hold(10, self.rewound or len(vain) < LOSSES_MAX, f"{job} is sent after {len(vain)} submissions that never started")
        self._check_room(cluster, job)

    def _check_second(self, cluster: Cluster, first: Job, second: str) -> None:
        """Work was done by `first`; `second` may do more only by the task's policy."""
        parts = parse_job_name(first.name)
        assert parts is not None
        retry, what = self.tasks[parts.run, parts.task].retry, f"{second} would work after {first.id} {first.name}"
        policy = bool(retry.on & UNSEEN)
        if first.hidden and policy:
            return
        hold(1, not first.working, f"{what}, which is still working")
        hold(1, not first.live, f"{what}, which has not ended")
        hold(1, retry.limit > 0, f"{what}, and the task has no retry")
        left = cluster.spool.exits.get(first.name)
        if left is not None:
            late = left.visible_at > first.left_at
            hold(1, left.code != 0 or (late and Cause.LOST in retry.on), f"{what}, which had succeeded")
        elif first.word in ("", "node_fail"):
            hold(1, policy, f"{what}, of which nobody knows how it ended, and the task has no policy for that")

    def _check_room(self, cluster: Cluster, job: str) -> None:
        if self.rewound:
            return  # what the lost future had sent is found by looking; until then it may be exceeded
        live = {name for name in cluster.jobs if name != job and self.may_work(cluster, name)}
        hold(4, len(live) < self.limits[cluster.name], f"{job} is sent to {cluster.name}, which holds {sorted(live)} already")
        run_id = job.partition(".")[0]
        limit = self.run_limits.get(run_id)
        if limit is not None:
            mine = [name for each in self.clusters.values() for name in each.jobs if name != job and self.may_work(each, name)]
            mine = [name for name in mine if name.startswith(run_id + ".")]
            hold(4, len(mine) < limit, f"{job} is sent, and {sorted(mine)} are alive in a run of at most {limit}")

    # ---- 2, 3: what is sent

    def check_submit(self, run: Run, saved: Mapping[str, TaskRecord], action: Submit) -> None:
        """A Submit is about to be carried out; `saved` is what the ledger holds."""
        job, record, task = action.job, saved[action.task], self.tasks[action.run, action.task]
        hold(2, self.rewound or job not in self.doubtful, f"{job} is sent again, and it was not proven that it was not sent")
        self.doubtful.add(job)
        hold(0, record.state is TaskState.SUBMITTING, f"{job} is sent, and the ledger says {record.state}")
        hold(0, action.backend == run.backend_of(task), f"{job} is sent to {action.backend}")
        self._check_asked(run, record, task, self.clusters[action.backend])
        for need in task.needs:
            hold(3, saved[need].state in FINAL, f"{job} is sent, and {need} is {saved[need].state}")
        spoiled = [need for need in task.needs if not self._is_fine(run, need, saved[need])]
        if task.when is When.SUCCESS:
            hold(3, not spoiled, f"{job} is sent, and {spoiled} did not succeed")
        elif task.when is When.FAILURE:
            hold(3, spoiled, f"{job} is sent, and nothing that it needs failed")

    def _check_asked(self, run: Run, record: TaskRecord, task: Task, cluster: Cluster) -> None:
        """A retry asks for more of what ran out, once for each time, and of nothing else."""
        nature, resources = cluster.nature, asked(task, record.ooms, record.timeouts)
        clear = nature.hiccup_at == NEVER and not self.rewound  # a queue that shows empty can make an end look like a loss
        for cause, number, given, unit in (
            (Cause.OOM, record.ooms, resources.memory_mb, task.resources.memory_mb),
            (Cause.TIMEOUT, record.timeouts, resources.time_limit_s, task.resources.time_limit_s),
        ):
            most, least = cluster.ran_out(run.id, task.id, record.attempt, cause)
            times = f"after {number} times {cause} ({least} to {most})"
            what = f"{run.id}.{task.id} ({record.attempt}) asks for {given}, declared {unit}, {times}"
            hold(10, number <= most, f"{what}: more than ever ran out")
            hold(10, number >= least or not clear, f"{what}: less than ran out")
            factor = task.retry.memory_factor if cause is Cause.OOM else task.retry.time_factor
            hold(10, given == unit * factor**number, what)

    def hear(self, receipt: Receipt) -> None:
        """A receipt reached the controller."""
        if receipt.answer in NOT_SENT:
            self.doubtful.discard(receipt.job)
        if receipt.answer is Answer.REFUSED:
            self.refused.add(receipt.job)

    # ---- 4, 5, 6, 8: what is planned

    def check_plan(
        self, planner: Planner, run: Run, record: RunRecord, news: News, full: News, room: Mapping[str, int], now: float, plan: Plan
    ) -> None:
        """A plan was made. `full` is the same news with every fact that is known."""
        self._check_submits(run, record, news, room, plan)
        for task_id, before in record.tasks.items():
            after = plan.record.tasks.get(task_id)
            hold(6, before.state not in FINAL or after == before, f"the final record of {task_id} changed from {before} to {after}")
        self._check_closed(run, plan)
        self._check_events(plan)
        self._check_absence(run, record, news, plan)
        self._check_forgotten(run, record, news, plan)
        self._plans += 1
        if self.twice and self._plans % self.twice == 0:
            self._check_again(planner, run, record, news, room, now, plan)
            self._check_styles(planner, run, record, full, room, now, plan)

    def _check_submits(self, run: Run, record: RunRecord, news: News, room: Mapping[str, int], plan: Plan) -> None:
        sent: dict[str, int] = {}
        for action in plan.actions:
            if isinstance(action, Submit):
                sent[action.backend] = sent.get(action.backend, 0) + 1
                view = news.backends[action.backend]
                hold(5, view.reachable and view.began_at is not None, f"{action.job} is sent to {action.backend}, which cannot be seen")
                hold(5, view.accepts, f"{action.job} is sent to {action.backend}, which is draining")
                hold(5, not news.suspended, f"{action.job} is sent, and the run is suspended")
                closed = news.cancelled or news.dropped or record.cancelled or record.dropped
                hold(5, not closed, f"{action.job} is sent, and the run is cancelled or dropped")
        for backend, count in sent.items():
            hold(4, count <= room.get(backend, 0), f"{count} jobs are sent to {backend}, which has room for {room.get(backend, 0)}")

    def _check_closed(self, run: Run, plan: Plan) -> None:
        """Nobody's job is ended without being asked for, and a cancelled run ends all of its own."""
        for action in plan.actions:
            if isinstance(action, Cancel):
                hold(0, not action.kill or plan.record.cancelled, f"{action.job} is killed, and nobody asked for that")
        if plan.record.cancelled:
            for task_id, record in plan.record.tasks.items():
                ended = record.state in FINAL or (record.state is TaskState.CANCELLING and record.aim is Aim.CANCELLED)
                hold(5, ended, f"{run.id} is cancelled, and {task_id} is {record.state} (aim {record.aim})")

    def _check_absence(self, run: Run, record: RunRecord, news: News, plan: Plan) -> None:
        """Nothing is believed gone before a grace has passed since a look that showed it began."""
        for job in news.absent - news.facts.keys() - {receipt.job for receipt in news.receipts}:
            parts = parse_job_name(job)
            assert parts is not None
            before, after = record.tasks[parts.task], plan.record.tasks[parts.task]
            doubted = after.state is TaskState.CANCELLING and after.aim is not Aim.CANCELLED
            believed = before.state is not after.state and (doubted or after.cause is Cause.LOST)
            if not believed or not self.in_order or job not in self.shown:
                continue
            view = news.backends[run.backend_of(self.tasks[run.id, parts.task])]
            since = (view.began_at or 0.0) - self.shown[job]
            hold(6, since >= view.absence_grace_s, f"{job} is believed gone (now {after.state}), and was seen {since:.0f} s before")

    def _check_forgotten(self, run: Run, record: RunRecord, news: News, plan: Plan) -> None:
        """What the scheduler had acknowledged is sent again only if it provably forgot it; and then it is, without spending anything."""
        for job in news.absent - news.facts.keys() - {receipt.job for receipt in news.receipts}:
            parts = parse_job_name(job)
            assert parts is not None
            before, after = record.tasks[parts.task], plan.record.tasks[parts.task]
            if before.aim is after.aim or after.aim not in (Aim.AGAIN, Aim.LOST):
                continue
            cluster, view = self.home(run, parts.task), news.backends[run.backend_of(self.tasks[run.id, parts.task])]
            if after.aim is Aim.AGAIN:
                proven = not before.acknowledged_at or cluster.may_have_forgotten(job, before.acknowledged_at)
                hold(10, proven, f"{job} was acknowledged, nobody forgot it, and it is to be sent again")
            else:
                hold(10, job not in view.forgotten, f"{job} was forgotten by the scheduler, and is called lost")

    def _check_events(self, plan: Plan) -> None:
        ended: set[str] = set()
        for event in plan.events:
            state = _STATE_OF.get(event.name)
            hold(6, state is None or event.task not in ended, f"{event.task} moved on after its end: {event.name} ({event.message})")
            if state in FINAL:
                ended.add(event.task)

    def _check_again(
        self, planner: Planner, run: Run, record: RunRecord, news: News, room: Mapping[str, int], now: float, plan: Plan
    ) -> None:
        hold(8, planner(run, record, news, room, now) == plan, "the same arguments give another plan")
        left = dict(room)
        for action in plan.actions:
            if isinstance(action, Submit):
                left[action.backend] -= 1
        grown = run if not plan.appended else _grown(run, plan.appended)
        again = planner(grown, plan.record, news, left, now)
        before = {action.job for action in plan.actions if isinstance(action, Submit)}
        twice = [action.job for action in again.actions if isinstance(action, Submit)]
        hold(8, not set(twice) & before, f"planned twice, sent twice: {twice}")
        hold(8, not twice, f"planning again sends more: {twice}")
        hold(8, not again.appended, "planning again appends again")

    def _check_styles(
        self, planner: Planner, run: Run, record: RunRecord, full: News, room: Mapping[str, int], now: float, plan: Plan
    ) -> None:
        """News of what changed and news of everything lead to the same, and what follows from the tasks is kept up."""
        fresh = remember(_grown(run, plan.appended), plan.record.tasks, plan.record.cancelled, plan.record.dropped)
        hold(0, fresh == plan.record, f"a record that is remembered is another one: {_difference(fresh, plan.record)}")
        whole = planner(run, record, full, room, now)
        if self.rewound:
            return  # what an old ledger had not asked for yet may be seen before that: then the styles differ, and both are right
        alike = _wordless(whole.record.tasks) == _wordless(plan.record.tasks)
        hold(8, alike, f"with all facts it becomes another record: {_difference(whole.record, plan.record)}")
        acts = [
            sorted(str(replace(each, reason="") if isinstance(each, Cancel) else each) for each in one.actions) for one in (whole, plan)
        ]
        hold(8, acts[0] == acts[1], f"with all facts other actions are taken: {acts}")

    def _is_fine(self, run: Run, task_id: str, record: TaskRecord) -> bool:
        forgiven = self.tasks[run.id, task_id].allow_failure and record.state in (TaskState.FAILED, TaskState.LOST)
        return record.state is TaskState.SUCCEEDED or forgiven

    # ---- 6, 7, 10: what is saved

    def check_saved(self, was: Run, run: Run, old: Mapping[str, TaskRecord], new: Mapping[str, TaskRecord]) -> None:
        """`new` was committed."""
        self.know(run)
        ids = [task.id for task in run.tasks]
        hold(0, len(ids) == len(set(ids)), f"tasks were appended twice: {ids}")
        grown = {task.id for task in run.tasks[len(was.tasks) :]}
        for task_id in grown:
            hold(0, f"{task_id.partition('.')[0]}" in old, f"{task_id} was appended, and nothing generated it")
        for task_id, record in new.items():
            before = old.get(task_id, TaskRecord())
            if record is before:
                continue
            hold(6, before.state not in FINAL or record == before, f"the final record of {run.id}.{task_id} changed: {before} to {record}")
            self._check_budget(run, task_id, before, record)
            if record.state is TaskState.SUCCEEDED and before.state is not TaskState.SUCCEEDED:
                self._check_success(run, task_id, record)
            if record.state in FINAL and before.state not in FINAL:
                self._check_final(run, task_id, before, record)
            if record.state is TaskState.SKIPPED and before.state is not TaskState.SKIPPED:
                self._check_skipped(run, task_id, new)

    def _check_skipped(self, run: Run, task_id: str, saved: Mapping[str, TaskRecord]) -> None:
        task = self.tasks[run.id, task_id]
        fine = [self._is_fine(run, need, saved[need]) for need in task.needs if saved[need].state in FINAL]
        if task.when is When.SUCCESS:
            hold(3, not all(fine), f"{task_id} is skipped, and nothing it needs failed")
        else:
            called_for = task.when is When.ALWAYS or not all(fine) or len(fine) < len(task.needs)
            hold(3, not called_for, f"{task_id} is skipped, and it was called for")

    def _check_success(self, run: Run, task_id: str, record: TaskRecord) -> None:
        job = job_name(run.id, task_id, record.attempt)
        left = self.home(run, task_id).spool.exits.get(job)
        hold(7, left is not None and left.code == 0, f"{job} is recorded succeeded, and its exit record is {left}")

    def _check_final(self, run: Run, task_id: str, before: TaskRecord, record: TaskRecord) -> None:
        cluster = self.home(run, task_id)
        what = f"{run.id}.{task_id} is recorded {record.state} ({record.reason})"
        forgotten_future = self.rewound and before.state is TaskState.WAITING  # sent by a ledger that is gone, not seen yet
        for attempt in range(1, record.attempt + 1):
            job = job_name(run.id, task_id, attempt)
            hold(6, forgotten_future or not self.may_work(cluster, job), f"{what}, and {job} may still work")
        job = job_name(run.id, task_id, record.attempt)
        if record.state is TaskState.FAILED:
            hold(6, self._has_failed(cluster, job, record), f"{what}, and {job} did not fail")
        if record.state is TaskState.LOST:
            self._check_lost(cluster, job, what)

    def _has_failed(self, cluster: Cluster, job: str, record: TaskRecord) -> bool:
        winner, left = cluster.spool.winner.get(job), cluster.spool.exits.get(job)
        if record.cause is Cause.REFUSED:
            return job in self.refused
        if record.cause is Cause.GENERATED:
            return left is not None and left.code == 0
        if winner is None or winner.live:
            return False
        return winner.code != 0 or winner.cause is not None or winner.word not in ("", "completed")

    def _check_lost(self, cluster: Cluster, job: str, what: str) -> None:
        winner, left, nature = cluster.spool.winner.get(job), cluster.spool.exits.get(job), cluster.nature
        hold(6, winner is not None or job in cluster.spool.revoked, f"{what}, and {job} neither started nor was revoked")
        hold(6, job not in cluster.spool.cut, f"{what}, and {job} was in the queue when its start was revoked")
        clear = nature.hiccup_at == NEVER and not nature.slow_look and not nature.steady_look_s
        if winner is not None and left is not None and clear and not winner.hidden:
            delay = left.visible_at - winner.left_at
            hold(6, delay >= 0.9 * nature.grace_s, f"{what}, and its exit record was on its way ({delay:.0f} s)")

    def _check_budget(self, run: Run, task_id: str, before: TaskRecord, record: TaskRecord) -> None:
        cluster = self.home(run, task_id)
        job = job_name(run.id, task_id, before.attempt)
        if record.failures > before.failures and not self.rewound:
            # what the scheduler had taken and lost counts as lost, started or not
            spent = job in cluster.spool.winner or job in self.refused or cluster.accepted.get(job, 0) > 0
            hold(10, spent, f"{job} never started, and the budget is spent ({before.failures} to {record.failures})")
            # its loss may be followed at once by the end of its run, or by the next attempt: the record's cause is of that then
            known = record.cause is Cause.LOST or before.aim is Aim.LOST
            known = known or job in cluster.spool.winner or job in self.refused
            hold(10, known, f"{job} never started, and a failure by {record.cause} was counted")
        hold(10, record.losses <= LOSSES_MAX, f"{job} was lost {record.losses} times and goes on")

    def check_stall(self, record: RunRecord) -> None:
        """Losses are capped, and the run says so."""
        stuck = [task for task, each in record.tasks.items() if each.losses >= LOSSES_MAX and each.state is TaskState.WAITING]
        hold(10, not stuck or record.stalled, f"{stuck} were lost {LOSSES_MAX} times, and nobody is told")
        live = [task for task, each in record.tasks.items() if each.losses > LOSSES_MAX and each.state in LIVE]
        hold(10, not live, f"{live} were sent after {LOSSES_MAX} losses")


def _grown(run: Run, appended: tuple[Task, ...]) -> Run:
    return replace(run, tasks=run.tasks + appended)


def _wordless(tasks: Mapping[str, TaskRecord]) -> dict[str, TaskRecord]:
    """The records without their words for people, which depend on what was said last."""
    return {task_id: record._replace(reason="") for task_id, record in tasks.items()}


def _difference(one: RunRecord, other: RunRecord) -> str:
    parts = []
    for name in ("tasks", "needs_left", "ready", "watched", "live", "counts", "cancelled", "dropped", "stalled", "shape", "known"):
        left, right = getattr(one, name), getattr(other, name)
        if left != right:
            if name == "tasks":
                left = {key: value for key, value in left.items() if right.get(key) != value}
                right = {key: right.get(key) for key in left}
            parts.append(f"{name}: {left} / {right}")
    return "; ".join(parts)
