"""Local jobs while they live: notices their end at once, keeps their time limits, ends them when told. Called by local.py.

Each job's wrapper is watched by a pidfd in the event loop, so a look costs nothing for jobs that did not change. What no pidfd can
tell (processes left behind by a wrapper, a start record that is about to be written, a pidfd that could not be had for want of
file descriptors) is polled, all in one pass. Everything here runs on the event loop and takes well under a millisecond a job.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from reconciler.backends.marks import Mark, Process
from reconciler.backends.process import Life, Machine, age_s, living_groups, signal_group, stat_of, uptime
from reconciler.backends.spool import CANCEL, TIMEOUT, Evidence, Spool
from reconciler.backends.verdict import fact_of
from reconciler.core.observed import Expected, JobFact, JobState

#: What cannot change any more. All else without a process to follow is read again by each look.
_SETTLED = frozenset({JobState.ENDED, JobState.FENCED})


@dataclass(frozen=True, slots=True)
class Pace:
    """`grace_s` between TERM and KILL; `poll_s` between two looks at what cannot be watched; `now` is clock.utc_now.

    `pidfds_max`: how many jobs may each have a pidfd, the others are polled; None: half of the files that may be open, so that
    the other half is left to the rest of the daemon.
    """

    grace_s: float
    poll_s: float
    pidfds_max: int | None
    now: Callable[[], float]


class Leader:
    """The wrapper of a job, watched until it ends. `ticks` None: our own child, whose pid cannot come back before we reap it."""

    def __init__(self, pid: int, ticks: int | None = None) -> None:
        self.pid = pid
        self.watched = False
        self._ticks = ticks
        self._pidfd = -1
        self._gone = False

    def watch(self, ended: Callable[[], None]) -> None:
        """Have `ended` called once it has ended. Without a pidfd (too many open files, gone already) it must be polled."""
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            return
        asyncio.get_running_loop().add_reader(self._pidfd, ended)
        self.watched = True

    def unwatch(self) -> None:
        """Close the pidfd. The process itself is left alone."""
        if self.watched:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self.watched = False

    def gone(self) -> bool:
        """Whether it has ended. Reaps it if it is our child."""
        if not self._gone:
            try:
                self._gone = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:  # of an earlier daemon
                stat = stat_of(self.pid)
                self._gone = stat is None or stat.dead or (self._ticks is not None and stat.ticks != self._ticks)
        return self._gone


@dataclass(slots=True)
class _Live:
    """A job of which a process lives. `leader` None: only what its wrapper left behind."""

    group: int
    leader: Leader | None
    evidence: Evidence = field(default_factory=Evidence)  # what was read of it last
    told: bool = False
    kill_timer: asyncio.TimerHandle | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Watch:
    """The jobs that are known, and the newest fact of each. `changed` is called when a fact changed by itself."""

    def __init__(self, spool: Spool, machine: Machine, changed: Callable[[], None], pace: Pace) -> None:
        self.facts: dict[str, JobFact] = {}
        self._spool = spool
        self._machine = machine
        self._changed = changed
        self._pace = pace
        self._live: dict[str, _Live] = {}
        # Kept apart, so that what happens to one job costs nothing for the others:
        self._unstarted: set[str] = set()  # live, and their start record has not been seen
        self._unwatched: set[str] = set()  # live, and no pidfd will tell
        self._timer: asyncio.TimerHandle | None = None

    def lives(self, job: str) -> bool:
        """Whether a process of `job` is known to live."""
        return job in self._live

    def knows(self, job: str) -> bool:
        """Whether there is nothing about `job` that a look would have to read."""
        return job in self._live or (job in self.facts and self.facts[job].state in _SETTLED)

    def unknown(self, expected: Mapping[str, Expected]) -> list[Expected]:
        """Those of `expected` that a look must read."""
        return [expected[job] for job in expected.keys() - self._live.keys() if not self.knows(job)]

    @property
    def count(self) -> int:
        """How many jobs live."""
        return len(self._live)

    def spawned(self, job: str, pid: int, limit_s: int, at: float) -> None:
        """Follow a wrapper that was just started by us. Its start record is yet to come."""
        self.facts[job] = JobFact(JobState.RUNNING, job_id=str(pid), submitted_at=at)
        self._follow(job, _Live(pid, Leader(pid)))
        self._limit(job, limit_s, 0.0)

    def meet(self, job: str, evidence: Evidence, life: Life) -> None:
        """Take up what was just read about a job: follow it if it lives, else keep its fact."""
        if self.knows(job):
            return
        fact = fact_of(evidence, life, self._pace.now())
        if fact is None:
            self.facts.pop(job, None)
        elif fact != self.facts.get(job):
            self.facts[job] = fact
        start = evidence.start
        if life in (Life.LED, Life.LEFT) and isinstance(start, Process):
            self._follow(job, _Live(start.pid, Leader(start.pid, start.ticks) if life is Life.LED else None, evidence))
            self._limit(job, evidence.claim.limit_s if evidence.claim else 0, age_s(start.ticks))
            for mark in filter(None, (evidence.cancel, evidence.timeout)):
                self._escalate(job, mark)

    def end(self, job: str, name: str) -> None:
        """Tell every process of `job` to end, once (TERM), and end it (KILL) a grace after it was first told. `name`: the mark's."""
        self._settle(job)
        live = self._live.get(job)
        if live is None:
            return
        mark, fresh = self._mark(job, name)
        if fresh or (mark is None and not live.told):
            signal_group(live.group, signal.SIGTERM)
            reason = "being ended" if name == CANCEL else "being ended: its time limit is over"
            self.facts[job] = replace(self.facts[job], reason=reason)
        live.told = True
        self._escalate(job, mark)

    def refresh(self) -> bool:
        """Read the start records of jobs that had none when they were last looked at. Whether one has been written since."""
        written = [self._read_start(job) for job in list(self._unstarted)]
        return any(written)

    def drop(self, expected: Mapping[str, Expected]) -> None:
        """Forget what is over and not expected any more. Whoever expects it again has it read from the spool."""
        for job in self.facts.keys() - self._live.keys() - expected.keys():
            del self.facts[job]

    def close(self) -> None:
        """Stop watching. Jobs go on."""
        for live in self._live.values():
            _disarm(live)
        for jobs in (self._live, self._unstarted, self._unwatched):
            jobs.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _follow(self, job: str, live: _Live) -> None:
        self._live[job] = live
        most = self._pace.pidfds_max
        if most is None:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        if live.leader is not None and len(self._live) <= most:
            live.leader.watch(partial(self._leader_ended, job))
        if live.leader is None or not live.leader.watched:
            self._unwatched.add(job)
        if not self.facts[job].started:
            self._unstarted.add(job)
        self._poll_later()

    def _leader_ended(self, job: str) -> None:
        live = self._live[job]
        if live.leader is not None:
            live.leader.unwatch()  # first: a pidfd stays readable for ever
            self._unwatched.add(job)
        self._settle(job)
        self._poll_later()

    def _settle(self, job: str) -> None:
        """Find out what is left of a job. Trouble with a disk or too many open files: it is asked again by the next poll."""
        live = self._live.get(job)
        if live is None or (live.leader is not None and not live.leader.gone()):
            return
        with suppress(OSError):
            self._conclude(job, live, bool(living_groups([live.group])))

    def _conclude(self, job: str, live: _Live, lives: bool) -> None:
        """The wrapper has ended. The spool is read after the group was seen, so what the job wrote last is in it."""
        before = self.facts[job]
        fact = fact_of(self._spool.read_on(job, live.evidence), Life.LEFT if lives else Life.GONE, self._pace.now())
        if not lives:
            _disarm(live)
            del self._live[job]
            self._unwatched.discard(job)
            self._unstarted.discard(job)
        elif live.leader is not None:
            live.leader.unwatch()
            live.leader = None
            self._unwatched.add(job)
        if fact is None:  # its wrapper ended before it took its start
            del self.facts[job]
        else:
            self.facts[job] = before if fact == before else fact
        if fact != before:
            self._changed()

    def _read_start(self, job: str) -> bool:
        with suppress(OSError):  # read again by the next poll
            if not self._spool.started(job):
                return False
            evidence = self._live[job].evidence = self._spool.read(job)
            fact = fact_of(evidence, Life.LED, self._pace.now())
            if fact is not None and evidence.start is not None:
                self._unstarted.discard(job)
                self.facts[job] = fact
                return True
        return False

    def _poll_later(self) -> None:
        if self._timer is None and (self._unwatched or self._unstarted):
            self._timer = asyncio.get_running_loop().call_later(self._pace.poll_s, self._poll)

    def _poll(self) -> None:
        self._timer = None
        with suppress(OSError):  # too many open files, most likely: asked again by the next poll
            ended = [job for job in self._unwatched if (leader := self._live[job].leader) is None or leader.gone()]
            living = living_groups(self._live[job].group for job in ended)
            for job in ended:
                with suppress(OSError):  # as above; one must not hurt the others
                    self._conclude(job, self._live[job], self._live[job].group in living)
        if self.refresh():
            self._changed()
        self._poll_later()

    def _limit(self, job: str, limit_s: int, age: float) -> None:
        if limit_s > 0:
            handle = asyncio.get_running_loop().call_later(max(0.0, limit_s - age), self._overdue, job)
            self._live[job].timers.append(handle)

    def _overdue(self, job: str) -> None:
        self.end(job, TIMEOUT)
        self._changed()

    def _mark(self, job: str, name: str) -> tuple[Mark | None, bool]:
        try:
            return self._spool.mark(job, name, Mark(self._machine.boot, uptime()))
        except OSError:  # a full disk must not keep a job alive: it is told without the mark
            return None, False

    def _escalate(self, job: str, mark: Mark | None) -> None:
        """KILL a grace after the mark was made, whoever made it."""
        live = self._live[job]
        if live.kill_timer is None:
            age = uptime() - mark.uptime if mark and mark.boot == self._machine.boot else 0.0
            delay = max(0.0, self._pace.grace_s - max(0.0, age))
            live.kill_timer = asyncio.get_running_loop().call_later(delay, self._kill, job)

    def _kill(self, job: str) -> None:
        live = self._live.get(job)
        if live is None:
            return
        live.kill_timer = None
        self._settle(job)  # what is left must be known to be ours before it is killed
        if job in self._live:
            signal_group(live.group, signal.SIGKILL)
            self._poll_later()


def _disarm(live: _Live) -> None:
    if live.leader is not None:
        live.leader.unwatch()
    for timer in (*live.timers, live.kill_timer):
        if timer is not None:
            timer.cancel()
