"""A small model of the controller: look, plan, save, act; it crashes between any two steps and starts again from its ledger.

Used by simulation.py. Each action and each look is under way for a while, so that they overtake each other; a crash loses what
was under way on our side, and what had already left may still arrive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.actions import Action, Cancel, Fetch, Forget, Submit
from reconciler.core.desired import Run
from reconciler.core.names import job_name, parse_job_name
from reconciler.core.observed import BackendView, Expected, Generated, JobFact, News, Receipt, Snapshot
from reconciler.core.plan import Plan, after_restart, new_record, remember
from reconciler.core.record import FINAL, LIVE, RunRecord, TaskRecord, TaskState
from reconciler.core.room import Demand, share
from reconciler.errors import NotOwner, Unreachable
from tests.sim.promises import Promises
from tests.sim.story import BackendStory, RunStory
from tests.sim.world import NEVER, Cluster

Planner = Callable[[Run, RunRecord, News, Mapping[str, int], float], Plan]


class Crash(Exception):
    """The daemon is killed here."""


@dataclass(frozen=True)
class Habits:
    """What kind of controller this is. All of these are allowed, except the last, which the promises must catch."""

    full_news: bool = False  # every fact at each plan, not only what changed
    lazy: bool = False  # a turn of the loop only when there is news or a run asked to be woken
    two_plans: bool = False  # learns first, then shares the room and plans again; saved as one
    folds_stale: bool = False  # does not drop a look that began before the newest
    keeps_absent: bool = False  # repeats what the newest *complete* look did not show, also after an incomplete one
    crash: float = 0.0
    poll_s: float = 10.0
    acts_before_saving: bool = False


@dataclass
class Stored:
    """One run as the ledger holds it."""

    run: Run
    tasks: Mapping[str, TaskRecord]
    cancelled: str = ""
    dropped: str = ""


@dataclass
class Disk:
    """The ledger: all that survives a crash."""

    ledger: str
    epoch: int = 0
    runs: dict[str, Stored] = field(default_factory=dict)

    def copy(self) -> Disk:
        return Disk(self.ledger, self.epoch, dict(self.runs))  # what is stored is never changed in place


@dataclass
class Flight:
    """One action under way. `lost`: its reply never comes back."""

    action: Action
    epoch: int
    arrives_at: float
    replies_at: float
    lost: bool
    arrived: bool = False
    reply: Receipt | Generated | None = None


@dataclass
class Looking:
    """One look under way: asked at `began_at`, answered at `answers_at`; what it saw is of one of these two moments."""

    backend: str
    began_at: float
    answers_at: float
    expected: dict[str, Expected]
    answer: Snapshot | Unreachable | NotOwner | None


class Controller:
    """One daemon after another, on one ledger."""

    def __init__(
        self, disk: Disk, clusters: Mapping[str, Cluster], backends: Mapping[str, BackendStory], promises: Promises, planner: Planner
    ) -> None:
        self.disk = disk
        self.clusters = clusters
        self.backends = backends
        self.promises = promises
        self.planner = planner
        self.habits = Habits()
        self.rng = random.Random(0)
        self.say: Callable[[str], None] = lambda text: None
        self.read: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot  # a wrong controller reads more into it
        self.faults = True
        self.now = 0.0
        self.flights: list[Flight] = []
        self.orphans: list[Flight] = []  # sent by a daemon that is dead
        self.start()

    def start(self) -> None:
        """A new daemon: raise the epoch, load the ledger, know nothing else."""
        self.disk.epoch += 1
        self.promises.shown.clear()
        self.orphans += [each for each in self.flights if not each.arrived and self.rng.random() < 0.5]
        self.flights = []
        self.looks: list[Looking] = []
        self.newest: dict[str, Snapshot] = {}
        self.seen_whole: set[str] = set()
        self.problem: dict[str, str] = dict.fromkeys(self.clusters, "not seen yet")
        self.seen: dict[str, dict[str, JobFact]] = {name: {} for name in self.clusters}
        self.fresh: dict[str, dict[str, JobFact]] = {}
        self.receipts: dict[str, list[Receipt]] = {}
        self.generated: dict[str, dict[str, Generated]] = {}
        self.wakes: dict[str, float] = {}
        self.look_due: dict[str, float] = {}
        self.mood: dict[str, object] = {}
        self.runs = {run: stored.run for run, stored in self.disk.runs.items()}
        self.records = {
            run: remember(stored.run, after_restart(stored.tasks), stored.cancelled, stored.dropped)
            for run, stored in self.disk.runs.items()
        }

    def chance(self, likelihood: float) -> bool:
        return self.faults and likelihood > 0 and self.rng.random() < likelihood

    def _may_crash(self, where: str) -> None:
        if self.chance(self.habits.crash):
            raise Crash(where)

    def step(self, now: float, stories: list[RunStory]) -> None:
        """One turn of the loop. Raises Crash; then `start` is next."""
        self.now = now
        for story in stories:
            if story.run.id not in self.runs and story.appears_at <= now:
                self.runs[story.run.id] = story.run
                self.records[story.run.id] = new_record(story.run, now)
                self.disk.runs[story.run.id] = Stored(story.run, self.records[story.run.id].tasks)
        self._carry(stories)
        self._look()
        alive = [story for story in stories if story.run.id in self.runs and not self.records[story.run.id].ended]
        due = [self._is_due(story.run.id, self._news(story)) for story in alive]  # all of them: each asks what changed since it was asked
        if any(due) or not self.habits.lazy:
            self._cycle(alive)

    # ---- look

    def _look(self) -> None:
        for name, cluster in self.clusters.items():
            if self.now >= self.look_due.get(name, 0.0):
                self.look_due[name] = self.now + self.habits.poll_s
                slow = self.chance(cluster.nature.slow_look)
                answers_at = self.now + (self.rng.uniform(0, cluster.nature.slow_look_s_max) if slow else cluster.nature.steady_look_s)
                looking = Looking(name, self.now, answers_at, self._expected(name), None)
                # A grace counts from when a look *began*. One that saw its absences long after that shortens it, so a backend
                # whose scheduler can show an empty queue by mistake must have a grace longer than that and a look together.
                if cluster.nature.steady_look_s or cluster.nature.hiccup_at != NEVER or self.rng.random() < 0.5:
                    looking.answer = self._ask(looking)
                self.looks.append(looking)
        for looking in [each for each in self.looks if each.answers_at <= self.now or not self.faults]:
            self.looks.remove(looking)
            self._fold(looking, looking.answer or self._ask(looking))

    def _ask(self, looking: Looking) -> Snapshot | Unreachable | NotOwner:
        cluster = self.clusters[looking.backend]
        try:
            cluster.check_owner(self.disk.ledger, self.disk.epoch)
            return cluster.look(looking.expected, looking.began_at)
        except (Unreachable, NotOwner) as problem:
            return problem

    def _fold(self, looking: Looking, answer: Snapshot | Unreachable | NotOwner) -> None:
        name = looking.backend
        newest = self.newest.get(name)
        if newest is not None and looking.began_at < newest.began_at and not self.habits.folds_stale:
            return
        if not isinstance(answer, Snapshot):
            self.problem[name] = str(answer)
            return
        answer = self.read(answer)
        self.problem[name] = ""
        self.newest[name] = answer
        known = self.seen[name]
        for job, fact in answer.facts.items():
            self.promises.shown[job] = max(looking.began_at, self.promises.shown.get(job, 0.0))
            parts = parse_job_name(job)
            if known.get(job) is not fact and parts is not None:
                self.fresh.setdefault(parts.run, {})[job] = fact
        self.seen[name] = dict(answer.facts) if answer.complete else {**known, **answer.facts}
        if answer.complete:
            self.seen_whole.add(name)

    def _live(self, backend: str) -> list[tuple[str, TaskRecord]]:
        """Job names that we believe alive there, with their records."""
        found = []
        for run_id, record in self.records.items():
            for task_id, task in record.tasks.items():
                if task.state in LIVE and self.runs[run_id].backend_of(record.known[task_id]) == backend:
                    found.append((job_name(run_id, task_id, task.attempt), task))
        return found

    def _expected(self, backend: str) -> dict[str, Expected]:
        return {job: Expected(job, record.job_id, record.claimed_at) for job, record in self._live(backend)}

    def _absent(self, run_id: str) -> frozenset[str]:
        absent = set()
        for name in self.clusters:
            newest = self.newest.get(name)
            repeats = self.habits.keeps_absent and name in self.seen_whole
            if repeats or (newest is not None and newest.complete and not self.problem[name]):
                shown = self.seen[name]  # by the newest complete look, and by incomplete ones since
                absent |= {job for job, _ in self._live(name) if job not in shown and job.startswith(run_id + ".")}
        return frozenset(absent)

    # ---- plan

    def _cycle(self, stories: list[RunStory]) -> None:
        """Plan all runs, then save and act run by run."""
        plans: dict[str, Plan] = {}
        records = {story.run.id: self.records[story.run.id] for story in stories}
        room = {} if self.habits.two_plans else self._room(records)
        for story in stories:
            run_id = story.run.id
            plans[run_id] = self._plan(self.runs[run_id], records[run_id], self._news(story), room)
        if self.habits.two_plans:
            room = self._room({run_id: plan.record for run_id, plan in plans.items()})
            for story in stories:
                run_id, first = story.run.id, plans[story.run.id]
                news = replace(self._news(story), facts={}, absent=frozenset(), receipts=(), generated={})
                plans[run_id] = _joined(first, self._plan(_grown(self.runs[run_id], first), first.record, news, room))
        for run_id, plan in plans.items():
            self._may_crash("before save")
            if self.habits.acts_before_saving:
                self.promises.know(_grown(self.runs[run_id], plan))
                self._act(plan)
                self._may_crash("after acting, before saving")
                self._save(run_id, plan)
            else:
                self._save(run_id, plan)
                self._may_crash("after save")
                self._act(plan)

    def _plan(self, run: Run, record: RunRecord, news: News, granted: Mapping[tuple[str, str], int]) -> Plan:
        room = {name: granted.get((run.id, name), 0) for name in self.backends}
        plan = self.planner(run, record, news, room, self.now)
        full = replace(news, facts=self._known_facts(run.id)) if news.facts else news
        self._tell(run.id, news, plan)
        self.promises.check_plan(self.planner, run, record, news, full, room, self.now, plan)
        return plan

    def _news(self, story: RunStory) -> News:
        run_id = story.run.id
        views = {}
        for name, backend in self.backends.items():
            newest = self.newest.get(name)
            views[name] = BackendView(
                began_at=newest.began_at if newest else None,
                reachable=not self.problem[name],
                complete=newest.complete if newest else False,
                absence_grace_s=backend.spec.absence_grace_s,
                reason=self.problem[name],
                accepts=not backend.draining.holds(self.now),
                scheduler_started_at=newest.scheduler_started_at if newest else None,
                forgotten=newest.forgotten if newest else frozenset(),
            )
        return News(
            backends=views,
            facts=self._known_facts(run_id) if self.habits.full_news else self.fresh.get(run_id, {}),
            absent=self._absent(run_id),
            receipts=tuple(self.receipts.get(run_id, ())),
            generated=self.generated.get(run_id, {}),
            suspended="by somebody" if story.suspended.holds(self.now) else "",
            cancelled="by somebody" if story.cancelled.holds(self.now) else "",
            dropped="document removed" if story.dropped.holds(self.now) else "",
        )

    def _tell(self, run_id: str, news: News, plan: Plan) -> None:
        seen = {
            job.partition(".")[2]: f"{fact.state}{'' if fact.exit_code is None else fact.exit_code}{fact.cause or ''}"
            for job, fact in news.facts.items()
        }
        said = [(receipt.job.partition(".")[2], receipt.answer.value) for receipt in news.receipts]
        if seen or said or news.absent or plan.changed:
            absent = sorted(job.partition(".")[2] for job in news.absent)
            self.say(f"{self.now:.0f} {run_id} facts {seen} absent {absent} receipts {said}")

    def _known_facts(self, run_id: str) -> dict[str, JobFact]:
        """All that is known; what changed last wins over what was seen before."""
        facts = {job: fact for seen in self.seen.values() for job, fact in seen.items() if job.startswith(run_id + ".")}
        return {**facts, **self.fresh.get(run_id, {})}

    def _is_due(self, run_id: str, news: News) -> bool:
        """Whether anything is new. An absence is new with each look."""
        looks = tuple(view.began_at for view in news.backends.values()) if news.absent else ()
        views = tuple((view.reachable, view.accepts) for view in news.backends.values())
        mood = (news.absent, looks, views, news.suspended, news.cancelled, news.dropped)
        due = (
            bool(news.facts or news.receipts or news.generated) or self.mood.get(run_id) != mood or self.now >= self.wakes.get(run_id, 0.0)
        )
        self.mood[run_id] = mood
        return due

    def _room(self, records: Mapping[str, RunRecord]) -> dict[tuple[str, str], int]:
        free = {name: backend.spec.max_concurrent for name, backend in self.backends.items()}
        limits: dict[str, int] = {}
        demands = []
        for run_id, record in records.items():
            run = self.runs[run_id]
            limit = run.workflow if run.max_concurrent is not None else ""
            if run.max_concurrent is not None:
                limits[limit] = run.max_concurrent - sum(record.live.values())
            for name in free:
                free[name] -= record.live.get(name, 0)
                ready = sum(run.backend_of(record.known[task]) == name and at <= self.now for task, at in record.ready.items())
                demands.append(Demand(run.id, name, ready, record.live.get(name, 0), limit))
        return share(demands, free, limits)

    # ---- save

    def _save(self, run_id: str, plan: Plan) -> None:
        before = self.records[run_id]
        old = self.disk.runs[run_id]
        run = _grown(self.runs[run_id], plan)
        self.disk.runs[run_id] = Stored(run, plan.record.tasks, plan.record.cancelled, plan.record.dropped)
        self.runs[run_id], self.records[run_id] = run, plan.record
        for kept in (self.fresh, self.receipts, self.generated):
            kept.pop(run_id, None)
        self.wakes[run_id] = plan.wake_at if plan.wake_at is not None else float("inf")
        for name, at in plan.look_at.items():
            self.look_due[name] = min(self.look_due.get(name, at), at)
        for event in plan.events:
            self.say(f"  event {event.name} {event.task} {event.message}")
        for task_id in plan.changed:
            was, is_ = before.tasks.get(task_id, TaskRecord()), plan.record.tasks[task_id]
            self.say(f"  {run_id}.{task_id}: {was.state} {was.attempt} -> {is_.state} {is_.attempt} ({is_.reason})")
            if is_.state in LIVE and (was.state not in LIVE or was.attempt != is_.attempt):
                self._expect(run, plan.record, task_id)
        self.promises.check_saved(old.run, run, old.tasks, plan.record.tasks)

    def _expect(self, run: Run, record: RunRecord, task_id: str) -> None:
        """What was seen of a job before it was expected said nothing to anybody then: it is news again."""
        job = job_name(run.id, task_id, record.tasks[task_id].attempt)
        fact = self.seen[run.backend_of(record.known[task_id])].get(job)
        if fact is not None:
            self.fresh.setdefault(run.id, {})[job] = fact

    # ---- act

    def _act(self, plan: Plan) -> None:
        for action in plan.actions:
            self._may_crash(f"before {action}")
            if isinstance(action, Submit):
                saved = plan.record.tasks if self.habits.acts_before_saving else self.disk.runs[action.run].tasks
                self.promises.check_submit(self.runs[action.run], saved, action)
            if self.chance(self.clusters[action.backend].nature.lost_action):
                self.say(f"{action} gets lost on its way")
                continue
            cluster = self.clusters[action.backend]
            slow = self.chance(cluster.nature.slow_action)
            arrives_at = self.now + (self.rng.choice((5.0, 20.0, 100.0)) if slow else 0.0)
            replies_at = arrives_at + (self.rng.choice((0.0, 20.0, 60.0)) if slow else 0.0)
            flight = Flight(action, self.disk.epoch, arrives_at, replies_at, self.chance(cluster.nature.lost_receipt))
            self.flights.append(flight)
            if not slow:
                self._arrive(flight)
            else:
                self.say(f"{action} is under way, until {arrives_at:.0f}")
            self._may_crash(f"after {action}")

    def _carry(self, stories: list[RunStory]) -> None:
        """Bring actions and replies that are under way to where they go."""
        self.files = {story.run.id: story.files for story in stories}
        for flight in [each for each in self.orphans if each.arrives_at <= self.now]:
            self.orphans.remove(flight)
            self._arrive(flight)
        for flight in list(self.flights):
            if not flight.arrived and (flight.arrives_at <= self.now or not self.faults):
                self._arrive(flight)
            if flight.arrived and (flight.replies_at <= self.now or not self.faults):
                self.flights.remove(flight)
                self._hear(flight)

    def _arrive(self, flight: Flight) -> None:
        action = flight.action
        cluster = self.clusters[action.backend]
        flight.arrived = True
        try:
            cluster.check_owner(self.disk.ledger, flight.epoch)
        except NotOwner as problem:
            self.say(f"{action} is turned away: {problem}")
            flight.lost = True
            return
        match action:
            case Submit():
                self.promises.check_arrival(cluster, action.job)
                answer, job_id = cluster.submit(action.job)
                flight.reply = Receipt(action.job, answer, self.now, job_id)
            case Cancel():
                flight.reply = Receipt(action.job, cluster.cancel(action.job, action.kill), self.now)
            case Fetch():
                flight.reply = self.files[action.run][action.task]
            case Forget():
                cluster.forget(action.job)
        self.say(f"{action} -> {flight.reply}{' (lost)' if flight.lost else ''}")

    def _hear(self, flight: Flight) -> None:
        if flight.lost or flight.reply is None:
            return
        if isinstance(flight.reply, Receipt):
            self.promises.hear(flight.reply)
            parts = parse_job_name(flight.reply.job)
            assert parts is not None
            self.receipts.setdefault(parts.run, []).append(flight.reply)
        elif isinstance(flight.action, Fetch):
            self.generated.setdefault(flight.action.run, {})[flight.action.job] = flight.reply

    # ---- for the end

    def unfinished(self) -> list[str]:
        """Tasks that should have ended. In a run that says that only a person can move it on, others may wait."""
        return [
            f"{run} {task}: {each}"
            for run, record in self.records.items()
            for task, each in record.tasks.items()
            if each.state not in FINAL and not (record.stalled and each.state is TaskState.WAITING)
        ]


def _grown(run: Run, plan: Plan) -> Run:
    """The run with what a plan appended."""
    return replace(run, tasks=run.tasks + plan.appended) if plan.appended else run


def _joined(first: Plan, second: Plan) -> Plan:
    """Two plans in a row as one change."""
    return Plan(
        record=second.record,
        changed=tuple(dict.fromkeys((*first.changed, *second.changed))),
        appended=first.appended + second.appended,
        actions=first.actions + second.actions,
        events=first.events + second.events,
        wake_at=second.wake_at,
        look_at={**first.look_at, **second.look_at},
    )
