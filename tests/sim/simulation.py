"""One seeded world from its beginning to its end: `simulate(seed)` returns how it went, or raises PromiseBroken.

Called by test_sim.py and by `python -m tests.sim`. The first part of a world is full of faults; then they stop, and every run
must end, or say that only a person can move it on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.actions import Cancel, Fetch, Submit
from reconciler.core.observed import Snapshot
from reconciler.core.plan import plan as correct
from reconciler.core.record import TaskState
from tests.sim.controller import Controller, Crash, Disk, Habits, Planner
from tests.sim.promises import Promises, hold
from tests.sim.story import BackendStory, RunStory, draw_backends, draw_runs
from tests.sim.world import Cluster, draw_character

FAULTY_STEPS = 70
#: Ten losses with their back-off take so long.
FAULTY_STEPS_HOPELESS = 250
CALM_STEPS = 400
GRACES = (20.0, 40.0, 60.0)


@dataclass
class Outcome:
    """How a world ended."""

    steps: int
    crashes: int
    restored: bool
    works: int
    states: dict[TaskState, int]
    losses: int
    stalled: int


@dataclass(frozen=True)
class Subject:
    """What is put into a world: a planner, and the habits and eyes of the controller around it. The default is the correct one."""

    planner: Planner = correct
    habits: Mapping[str, bool] = field(default_factory=dict)  # override those drawn from the seed
    read: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot
    plan_twice: bool = True  # also compare plans with each other, not only with the truth


class Simulation:
    """A world, the daemon in it, and sometimes a second daemon that should not be there."""

    def __init__(self, seed: int, subject: Subject, say: Callable[[str], None]) -> None:
        self.rng = random.Random(seed)
        self.say = say
        grace = self.rng.choice(GRACES)
        self.backends: dict[str, BackendStory] = {each.spec.name: each for each in draw_backends(self.rng, grace)}
        self.stories: list[RunStory] = draw_runs(self.rng, list(self.backends.values()))
        self.clusters = {
            name: Cluster(name, random.Random(self.rng.random()), draw_character(self.rng, grace), say) for name in self.backends
        }
        self.promises = Promises(self.clusters, {name: each.spec.max_concurrent for name, each in self.backends.items()})
        self.promises.twice = self.rng.choice((2, 3)) if subject.plan_twice else 0
        for story in self.stories:
            self.promises.know(story.run)
        self.daemon = self._daemon("ledger", subject, self.promises)
        for cluster in self.clusters.values():
            cluster.watch = self.promises.check_start
            cluster.check_owner("ledger", 1)  # whoever comes second is the second
        self.daemon.habits = replace(self._draw_habits(), **subject.habits)
        self.promises.pending = self._is_pending
        self.promises.in_order = not self.daemon.habits.folds_stale
        self.restore_at = self.rng.uniform(100, 700) if self.rng.random() < 0.25 else float("inf")
        self.other = self._draw_other(subject)
        self.old: list[Disk] = []
        self.crashes = 0
        self.steps = 0

    def _draw_other(self, subject: Subject) -> Controller | None:
        """A second daemon with the same instance and another ledger: it may plan what it likes, and must do nothing."""
        if self.rng.random() > 0.15:
            return None
        promises = Promises(self.clusters, self.promises.limits)
        promises.rewound = True
        return self._daemon("another ledger", subject, promises)

    def _daemon(self, ledger: str, subject: Subject, promises: Promises) -> Controller:
        daemon = Controller(Disk(ledger), self.clusters, self.backends, promises, subject.planner)
        daemon.read = subject.read
        daemon.rng, daemon.say = random.Random(self.rng.random()), self.say
        return daemon

    def _draw_habits(self) -> Habits:
        rng = self.rng
        lazy = rng.random() < 0.5
        return Habits(
            full_news=rng.random() < 0.4,
            lazy=lazy,
            two_plans=lazy or rng.random() < 0.5,
            folds_stale=rng.random() < 0.3,
            keeps_absent=rng.random() < 0.2,
            crash=rng.choice((0.0, 0.01, 0.03)),
            poll_s=rng.uniform(3, 20),
        )

    def _is_pending(self, job: str) -> bool:
        under_way = [*self.daemon.flights, *self.daemon.orphans]
        return any(
            not each.arrived and getattr(each.action, "job", "") == job and type(each.action).__name__ == "Submit" for each in under_way
        )

    def run(self) -> Outcome:
        """Live through it."""
        now = 0.0
        hopeless = any(cluster.nature.lost_submit > 0.9 for cluster in self.clusters.values())
        faulty = FAULTY_STEPS_HOPELESS if hopeless else FAULTY_STEPS
        for step in range(faulty + CALM_STEPS):
            self.steps = step
            if step == faulty:
                self._calm(now)
            now += self.rng.uniform(1, 15)
            for cluster in self.clusters.values():
                cluster.tick(now)
            self._meddle(now)
            self._turn(self.daemon, now)
            if step > faulty and self._is_over(now):
                return self._outcome()
        hold(9, False, f"faults stopped long ago, and these did not end: {self.daemon.unfinished()}")
        raise AssertionError

    def _turn(self, daemon: Controller, now: float) -> None:
        try:
            daemon.step(now, self.stories)
        except Crash as crash:
            self.crashes += 1
            self.say(f"---- crash {crash}; epoch {daemon.disk.epoch + 1}")
            daemon.start()
        for record in daemon.records.values():
            self.promises.check_stall(record)

    def _calm(self, now: float) -> None:
        self.say(f"==== {now:.0f}: faults stop")
        for cluster in self.clusters.values():
            cluster.faults = False
        self.daemon.faults = False
        self.other = None
        self._own()

    def _own(self) -> None:
        """What an operator does after a restore: the epoch is lifted above what the far side knows."""
        owners = [cluster.spool.owner for cluster in self.clusters.values() if cluster.spool.owner is not None]
        if any(epoch > self.daemon.disk.epoch for _, epoch in owners):
            self.daemon.disk.epoch = max(epoch for _, epoch in owners)
            self.daemon.start()

    def _meddle(self, now: float) -> None:
        """Things that happen to ledgers."""
        if now >= self.restore_at and self.old and self.daemon.faults:
            self.restore_at = float("inf")
            self.daemon.disk = self.rng.choice(self.old).copy()
            self.promises.rewound = True
            self.say(f"---- {now:.0f}: an old ledger is restored")
            self.daemon.start()
            if self.rng.random() < 0.5:
                self._own()
        elif self.rng.random() < 0.1:
            self.old.append(self.daemon.disk.copy())
        if self.other is not None and now > 30 and self.steps % 5 == 0:
            sent = len(self.other.flights)
            self._turn(self.other, now)
            hold(
                5,
                not any(isinstance(each.action, Submit | Cancel | Fetch) for each in self.other.flights[sent:]),
                "a daemon that does not own the far side acts on it",
            )

    def _is_over(self, now: float) -> bool:
        everything = all(story.run.id in self.daemon.records or story.appears_at > now for story in self.stories)
        return everything and not self.daemon.unfinished()

    def _outcome(self) -> Outcome:
        states: dict[TaskState, int] = {}
        losses = 0
        for record in self.daemon.records.values():
            losses += sum(each.losses for each in record.tasks.values())
            for state, count in record.counts.items():
                states[state] = states.get(state, 0) + count
        for cluster in self.clusters.values():
            for name, times in cluster.accepted.items():
                hold(2, times == 1, f"the scheduler of {cluster.name} took {name} {times} times")
        stalled = sum(bool(record.stalled) for record in self.daemon.records.values())
        works = sum(len(job.works) for cluster in self.clusters.values() for jobs in cluster.jobs.values() for job in jobs)
        return Outcome(self.steps, self.crashes, self.promises.rewound, works, states, losses, stalled)


def simulate(seed: int, subject: Subject = Subject(), say: Callable[[str], None] = lambda text: None) -> Outcome:  # frozen
    """Live through the world of `seed`. Raises PromiseBroken."""
    return Simulation(seed, subject, say).run()
