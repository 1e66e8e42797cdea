"""A seeded world: clusters that obey backends/base.py to the letter and nothing else, and clients that time out.

Used by simulation.py. A cluster keeps two kinds of things: what a controller can see through `look` and receipts, and the truth
(which job did work, from when to when), which only promises.py reads. Time is seconds and is passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from zlib import crc32

from reconciler.core.desired import Cause
from reconciler.core.names import parse_job_name
from reconciler.core.observed import Answer, Expected, JobFact, JobState, Snapshot
from reconciler.errors import NotOwner, Unreachable

NEVER = float("inf")
SIGNAL_EXIT = 143
#: The share of clusters that swallow nearly every submission, and do so for long.
HOPELESS = 0.03


@dataclass(frozen=True)
class Character:
    """How bad a world is: chances per occasion, spans in seconds. Drawn once from the seed, so that worlds differ in kind."""

    lost_submit: float = 0.0
    late_submit: float = 0.0
    late_s_max: float = 0.0
    refuse: float = 0.0
    limit: float = 0.0
    transient: float = 0.0
    lost_receipt: float = 0.0
    slow_action: float = 0.0
    lost_action: float = 0.0
    double: float = 0.0
    vanish: float = 0.0
    ghost: float = 0.0
    requeue: float = 0.0
    scancel: float = 0.0
    preempt: float = 0.0
    restart: float = 0.0
    unreachable: float = 0.0
    outage: float = 0.0  # the same for a while
    incomplete: float = 0.0
    partial: float = 0.0  # a part of the system is down for a while
    slow_look: float = 0.0
    slow_look_s_max: float = 0.0
    steady_look_s: float = 0.0  # how long every look takes
    unknown: float = 0.0
    hiccup_at: float = NEVER
    hiccup_s: float = 0.0
    nfs_s_max: float = 0.0
    memory_s: float = 0.0  # how long the scheduler remembers a job that ended
    fail: float = 0.0
    pick: float = 0.5  # how soon the scheduler starts what waits
    silent: bool = False  # the scheduler does not say when it started
    reuse: float = 0.0  # how soon an id that a restart forgot is another job's
    grace_s: float = 0.0  # what the core waits; only for promises.py


def draw_character(rng: random.Random, grace: float) -> Character:
    """Each fault is absent from many worlds, so that worlds with one fault only exist as well as terrible ones."""

    def maybe(chance: float, share: float = 0.5) -> float:
        return rng.uniform(0.2, 1.0) * chance if rng.random() < share else 0.0

    hopeless = rng.random() < HOPELESS
    return Character(
        lost_submit=0.99 if hopeless else maybe(0.25), late_submit=maybe(0.3), late_s_max=rng.choice((20.0, grace, 4 * grace, 12 * grace)),
        refuse=maybe(0.05, 0.3), limit=maybe(0.2), transient=maybe(0.2), lost_receipt=maybe(0.3), slow_action=maybe(0.5),
        lost_action=maybe(0.1), double=maybe(0.2, 0.3), vanish=maybe(0.05), ghost=maybe(0.04, 0.3),
        requeue=maybe(0.1, 0.4), scancel=maybe(0.02, 0.4),
        preempt=maybe(0.05, 0.4), restart=maybe(0.08, 0.4), unreachable=maybe(0.3), incomplete=maybe(0.4), slow_look=maybe(0.4),
        slow_look_s_max=rng.choice((20.0, grace, 3 * grace)),
        steady_look_s=rng.choice((0.0, 0.0, 2.5 * grace, 5 * grace)), partial=maybe(0.08), unknown=maybe(0.1, 0.4),
        hiccup_at=rng.uniform(20, 500) if rng.random() < 0.5 else NEVER, hiccup_s=rng.uniform(0.3, 0.9) * grace,
        nfs_s_max=rng.choice((0.0, 0.5 * grace, 0.9 * grace, 3 * grace)), memory_s=rng.choice((0.0, 60.0, NEVER)), fail=maybe(0.5),
        grace_s=grace, pick=rng.choice((0.5, 0.5, 0.1)), outage=maybe(0.03),
        silent=rng.random() < 0.5, reuse=maybe(1.0, 0.7),
    )  # fmt: skip


class Claim(StrEnum):
    """How far the submit step came with a name."""

    SENT = "sent"  # in doubt
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass
class Job:
    """One job that a scheduler accepted. `works` are [from, to] of the time between winning a start record and its end."""

    id: str
    name: str
    submitted_at: float
    state: str = "pending"  # pending, starting (no start record taken yet), running, gone
    restarts: int = 0
    works: list[list[float]] = field(default_factory=list)
    ends_at: float = NEVER
    killed_at: float = NEVER
    code: int = 0
    cause: Cause | None = None  # why the work will have ended, or did
    left_at: float = NEVER  # when it left the live queue
    word: str = ""  # what the scheduler remembers of its end: "", "completed", or a Cause
    word_until: float = 0.0
    hidden: bool = False  # the process lives on, where the scheduler does not look
    fenced: bool = False

    @property
    def working(self) -> bool:
        return bool(self.works) and self.works[-1][1] == NEVER

    @property
    def live(self) -> bool:
        return self.state != "gone"


@dataclass
class Exit:
    """One exit record."""

    code: int
    cause: Cause | None
    at: float
    visible_at: float
    forgotten: bool = False


@dataclass
class Spool:
    """The far side of one instance: everything here is created exclusively and outlives `forget`."""

    owner: tuple[str, int] | None = None
    claims: dict[str, Claim] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    winner: dict[str, Job] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    exits: dict[str, Exit] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)  # revoked while a job of this name was in the queue; only for promises.py


class Cluster:
    """One backend. `watch` is told of each work that starts, with its job, before it counts."""

    def __init__(self, name: str, rng: random.Random, character: Character, say: Callable[[str], None]) -> None:
        self.name = name
        self.rng = rng
        self.nature = character
        self.say = say
        self.faults = True
        self.now = 0.0
        self.spool = Spool()
        self.jobs: dict[str, list[Job]] = {}
        self.late: list[tuple[float, str]] = []
        self.accepted: dict[str, int] = {}  # how often the scheduler took this name
        self.scheduler_started_at = 0.0
        self.forgotten: set[str] = set()  # names whose acknowledged id a restart forgot, and that is another job's by now
        self._free: list[str] = []  # names whose id it forgot, and has not given to another job yet
        self.hiccup_until = 0.0
        self.hiccup_due = character.hiccup_at
        self.outage_until = 0.0
        self.partial_until = 0.0
        self.partial_half = 0
        self.watch: Callable[[Job], None] = lambda job: None
        self._facts: dict[str, JobFact] = {}
        self._serial = 0

    def chance(self, share: float) -> bool:
        """Whether a fault of this likelihood happens now; never after faults stopped."""
        return self.faults and share > 0 and self.rng.random() < share

    def check_owner(self, ledger: str, epoch: int) -> None:
        """The first thing of every far-side step. Raises NotOwner."""
        if self.spool.owner is None or (self.spool.owner[0] == ledger and epoch >= self.spool.owner[1]):
            self.spool.owner = (ledger, epoch)
        else:
            raise NotOwner(f"{self.name} belongs to {self.spool.owner}")

    # ---- what time does

    def tick(self, now: float) -> None:
        """Let the scheduler and the jobs live until `now`."""
        self.now = now
        if now >= self.hiccup_due and self.faults:
            self.hiccup_due, self.hiccup_until = NEVER, now + self.nature.hiccup_s
            self.say(f"{self.name}: the scheduler shows an empty queue until {self.hiccup_until:.0f}")
        if self.chance(self.nature.outage):
            self.outage_until = now + self.rng.uniform(1, 5) * self.nature.grace_s
            self.say(f"{self.name}: cannot be reached until {self.outage_until:.0f}")
        if self.chance(self.nature.partial):
            self.partial_until, self.partial_half = now + self.rng.uniform(1, 5) * self.nature.grace_s, self.rng.randrange(2)
            self.say(f"{self.name}: one half of the jobs cannot be seen until {self.partial_until:.0f}")
        for due, name in [each for each in self.late if each[0] <= now]:
            self.late.remove((due, name))
            self.say(f"{self.name}: late submission of {name} arrives")
            self._accept(name)
        if self.chance(self.nature.restart):
            self._restart_scheduler()
        for name in [each for each in self._free if self.chance(self.nature.reuse)]:
            self._free.remove(name)
            self.forgotten.add(name)
            self.say(f"{self.name}: the id {self.spool.ids[name]} of {name} is now another job's")
        for job in [job for jobs in self.jobs.values() for job in jobs if job.live or job.working]:
            self._live(job)

    def _live(self, job: Job) -> None:
        if job.working and self.now >= min(job.ends_at, job.killed_at):
            self._end_work(job)
        elif job.hidden:
            return
        elif self.chance(self.nature.scancel):
            self.say(f"{self.name}: somebody cancels {job.id} {job.name} ({job.state})")
            self._leave(job, "cancelled")
        elif self.chance(self.nature.vanish):
            self.say(f"{self.name}: {job.id} {job.name} vanishes ({job.state})")
            self._leave(job, self.rng.choice(("", "node_fail")) if job.works else "")
        elif job.state == "pending" and self.rng.random() < (self.nature.pick if self.faults else 0.5):
            job.state = "starting"
        elif job.state == "starting" and self.rng.random() < 0.7:
            self._start(job)
        elif job.working and self.chance(self.nature.ghost):
            self.say(f"{self.name}: the node of {job.id} {job.name} is lost, the process goes on")
            job.hidden = True
            self._leave(job, "node_fail", stop=False)
        elif job.working and self.chance(self.nature.requeue):
            self.say(f"{self.name}: {job.id} {job.name} is requeued")
            self._stop(job)
            job.state, job.restarts = "pending", job.restarts + 1
        elif job.working and self.chance(self.nature.preempt):
            self._leave(job, "preempted")

    def _start(self, job: Job) -> None:
        """The job script's first act: its own start record, or it leaves."""
        taken = self.spool.winner.get(job.name)
        if job.name in self.spool.revoked or (taken is not None and taken is not job):
            self.say(f"{self.name}: {job.id} {job.name} is fenced out")
            job.fenced = True
            self._leave(job, "fenced")
            return
        self.spool.winner[job.name] = job
        self.watch(job)
        job.state = "running"
        job.works.append([self.now, NEVER])
        job.ends_at = self.now + self.rng.choice((0.0, 5.0, 20.0, 60.0, 150.0)) * self.rng.uniform(0.5, 1.0)
        job.code, job.cause = 0, None
        if self.chance(self.nature.fail):
            job.cause = self._ran_out_before(job) or self.rng.choice((Cause.EXIT, Cause.EXIT, Cause.TIMEOUT, Cause.OOM))
            job.code = self.rng.choice((1, 2, 121, 137))
        self.say(f"{self.name}: {job.id} {job.name} starts work, until {job.ends_at:.0f}")

    def _ran_out_before(self, job: Job) -> Cause | None:
        """What an earlier attempt of the same task ran out of: the next one mostly does so too."""
        parts = parse_job_name(job.name)
        assert parts is not None
        before = [each.cause for each in self.jobs_of_task(parts.run, parts.task) if each.cause in (Cause.TIMEOUT, Cause.OOM)]
        return before[-1] if before and self.rng.random() < 0.7 else None

    def _end_work(self, job: Job) -> None:
        killed = job.killed_at < job.ends_at
        if killed:
            job.code, job.cause = SIGNAL_EXIT, Cause.CANCELLED
        visible_at = self.now + (self.rng.uniform(0, self.nature.nfs_s_max) if self.faults else 0.0)
        word = "cancelled" if killed else "completed" if not job.code else (job.cause or Cause.EXIT).value
        self.say(f"{self.name}: {job.id} {job.name} ends with {job.code} ({word}), to be read from {visible_at:.0f}")
        if not (killed and self.rng.random() < 0.5):  # one half of what is killed leaves no exit record
            self.spool.exits[job.name] = Exit(job.code, job.cause, self.now, visible_at)
        if job.hidden:
            self._stop(job)
        else:
            self._leave(job, word)

    def _stop(self, job: Job) -> None:
        if job.working:
            job.works[-1][1] = self.now

    def _leave(self, job: Job, word: str, stop: bool = True) -> None:
        if stop:
            self._stop(job)
        job.state, job.word, job.left_at = "gone", word, self.now
        job.word_until = self.now + self.nature.memory_s if word else 0.0

    def _restart_scheduler(self) -> None:
        """It comes back without some of what it had acknowledged; processes of those live on."""
        self.scheduler_started_at = self.now
        forgotten = [job for jobs in self.jobs.values() for job in jobs if job.live and self.rng.random() < 0.4]
        for job in forgotten:
            job.hidden = job.working
            self._leave(job, "", stop=False)
            if self.spool.ids.get(job.name) == job.id:
                self._free.append(job.name)
        self.say(f"{self.name}: the scheduler restarts and forgets {[job.name for job in forgotten]}")

    # ---- what a controller asks for

    def submit(self, name: str) -> tuple[Answer, str]:
        """One far-side submit step, after the owner check. The answer may still be lost on its way back."""
        claim = self.spool.claims.get(name)
        if claim is Claim.ACCEPTED:
            return Answer.ACCEPTED, self.spool.ids[name]
        if claim is Claim.SENT or name in self.spool.revoked:
            return Answer.UNKNOWN, ""
        if claim is Claim.REFUSED:
            del self.spool.claims[name]  # consumed
            return Answer.REFUSED, ""
        for answer, share in ((Answer.LIMIT, self.nature.limit), (Answer.TRANSIENT, self.nature.transient)):
            if self.chance(share):
                return answer, ""
        if self.chance(self.nature.refuse):
            self.spool.claims[name] = Claim.REFUSED
            return Answer.REFUSED, ""
        self.spool.claims[name] = Claim.SENT
        if self.chance(self.nature.lost_submit):
            self.say(f"{self.name}: the submission of {name} never reaches the scheduler")
            return Answer.UNKNOWN, ""
        if self.chance(self.nature.late_submit):
            due = self.now + self.rng.uniform(0, self.nature.late_s_max)
            self.say(f"{self.name}: the submission of {name} will be accepted at {due:.0f} only")
            self.late.append((due, name))
            return Answer.UNKNOWN, ""
        self._accept(name)
        if self.chance(self.nature.lost_submit):
            return Answer.UNKNOWN, ""
        self.spool.claims[name], self.spool.ids[name] = Claim.ACCEPTED, self.jobs[name][0].id
        return Answer.ACCEPTED, self.spool.ids[name]

    def _accept(self, name: str) -> None:
        self.accepted[name] = self.accepted.get(name, 0) + 1
        for _ in range(2 if self.chance(self.nature.double) else 1):  # a client that tries again inside one submission
            self._serial += 1
            self.jobs.setdefault(name, []).append(Job(str(self._serial), name, self.now))

    def cancel(self, name: str, kill: bool) -> Answer:
        """Revoke, and end what started if `kill`. Only what is true is proven."""
        if name in self.spool.exits and self.spool.exits[name].visible_at <= self.now:
            return Answer.ENDED
        winner = self.spool.winner.get(name)
        if winner is None:
            if name not in self.spool.revoked and any(job.live for job in self.jobs.get(name, ())):
                self.spool.cut.add(name)
            self.spool.revoked.add(name)
            for job in self.jobs.get(name, []):
                if job.live and self.rng.random() < 0.7:  # the others are left to their fence
                    self._leave(job, "cancelled")
            return Answer.FENCED
        if winner.hidden or (not winner.live and self.now >= winner.word_until):
            return self.rng.choice((Answer.UNKNOWN, Answer.ENDING)) if kill else Answer.STARTED  # nowhere to be found
        if not winner.live:
            return Answer.ENDED
        return self._kill(winner) if kill else Answer.STARTED

    def _kill(self, job: Job) -> Answer:
        if job.working:
            job.killed_at = min(job.killed_at, self.now + self.rng.choice((0.0, 15.0, 30.0)))
            return Answer.ENDING
        self.spool.revoked.add(job.name)  # requeued: no later restart may begin
        self._leave(job, "cancelled")
        job.word_until = NEVER  # the revocation of later restarts is durable evidence of its end
        return Answer.ENDED

    def forget(self, name: str) -> None:
        """Move the exit record out of the mailbox."""
        if name in self.spool.exits:
            self.spool.exits[name].forgotten = True

    def look(self, expected: Mapping[str, Expected], began_at: float) -> Snapshot:
        """What can be seen at this moment. Raises Unreachable."""
        if self.chance(self.nature.unreachable) or (self.faults and self.now < self.outage_until):
            raise Unreachable(f"{self.name}: connection timed out")
        names = {name for name in self.jobs if self._shown(name)} | {name for name, left in self.spool.exits.items() if not left.forgotten}
        facts: dict[str, JobFact] = {}
        for name in sorted(names | set(expected)):  # sorted: sets of text have no order of their own
            fact = self._fact(name)
            if fact is not None:
                facts[name] = self._same(name, fact)
        complete = not self.chance(self.nature.incomplete)
        if not complete:
            facts = {name: fact for name, fact in facts.items() if self.rng.random() < 0.5}
        if self.faults and self.now < self.partial_until:
            complete, facts = False, {name: fact for name, fact in facts.items() if crc32(name.encode()) % 2 != self.partial_half}
        unexpected = tuple(name for name in facts if name not in expected)
        started_at = None if self.nature.silent else self.scheduler_started_at
        forgotten = frozenset(name for name, each in expected.items() if each.job_id and name in self.forgotten)
        return Snapshot(self.name, began_at, facts, complete, unexpected, None, started_at, forgotten)

    def _shown(self, name: str) -> bool:
        return any(job.live or self.now < job.word_until for job in self.jobs[name])

    def _same(self, name: str, fact: JobFact) -> JobFact:
        """The same object while nothing changed about a job."""
        known = self._facts.get(name)
        if known == fact and known is not None:
            return known
        self._facts[name] = fact
        return fact

    def _fact(self, name: str) -> JobFact | None:
        winner, left = self.spool.winner.get(name), self.spool.exits.get(name)
        if left is not None and left.visible_at <= self.now:
            cause = None if left.code == 0 else left.cause or Cause.EXIT
            return JobFact(JobState.ENDED, winner.id if winner else "", True, left.code, cause=cause, ended_at=left.at)
        if name in self.spool.revoked and winner is None:
            return JobFact(JobState.FENCED)
        live = [job for job in self.jobs.get(name, ()) if job.live and not (winner is not None and job is not winner)]
        if live and self.now >= self.hiccup_until:
            return self._live_fact(live[0], winner)
        return self._end_fact(name, winner)

    def _live_fact(self, job: Job, winner: Job | None) -> JobFact:
        if self.chance(self.nature.unknown):
            return JobFact(JobState.UNKNOWN, job.id, reason="STAGE_OUT+SPECIAL")
        state = JobState.QUEUED if job.state == "pending" else JobState.RUNNING
        started_at = job.works[0][0] if job.works else None
        return JobFact(state, job.id, winner is job, submitted_at=job.submitted_at, started_at=started_at, restarts=job.restarts)

    def _end_fact(self, name: str, winner: Job | None) -> JobFact | None:
        """The scheduler's memory, for exactly the job of the start record; or, when none started, for all jobs of the name."""
        jobs = [winner] if winner is not None else self.jobs.get(name, [])
        known = [job for job in jobs if not job.live and self.now < job.word_until]
        if not jobs or len(known) < len(jobs):
            return None
        word = known[-1].word
        if word == "completed":
            return JobFact(JobState.ENDED, known[-1].id, True, 0, ended_at=known[-1].left_at)
        return JobFact(JobState.ENDED, known[-1].id, winner is not None, cause=Cause(word), reason=word, ended_at=known[-1].left_at)

    # ---- the truth, for promises.py only

    def may_have_forgotten(self, name: str, acknowledged_at: float) -> bool:
        """Whether it can be proven that the scheduler lost what it had acknowledged then."""
        return name in self.forgotten or (not self.nature.silent and acknowledged_at < self.scheduler_started_at)

    def ran_out(self, run: str, task: str, attempt: int, cause: Cause) -> tuple[int, int]:
        """Of the attempts before this one, how many ended for `cause`, and how many of those did so for everybody to see in time."""
        found = [job for job in self.jobs_of_task(run, task) if job.cause is cause and job.code and not job.working]
        found = [job for job in found if (parts := parse_job_name(job.name)) and parts.attempt < attempt and job.name in self.spool.exits]
        late_s_max = 0.0 if self.nature.slow_look or self.nature.steady_look_s else 0.9 * self.nature.grace_s
        plain = [job for job in found if not job.hidden and self.spool.exits[job.name].visible_at <= job.left_at + late_s_max]
        return len(found), len(plain)

    def jobs_of_task(self, run: str, task: str) -> list[Job]:
        """Every job ever accepted for a task, in the order of attempts."""
        found: list[tuple[int, Job]] = []
        for name, jobs in self.jobs.items():
            parts = parse_job_name(name)
            if parts is not None and (parts.run, parts.task) == (run, task):
                found.extend((parts.attempt, job) for job in jobs)
        return [job for _, job in sorted(found, key=lambda each: each[0])]
