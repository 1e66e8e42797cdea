"""What the tests of faults on a real Slurm share: a login node whose commands can be broken, and a small loop over the real core.

The loop is what the controller is, with one run and no ledger: look, plan, act. So what is judged is the outcome: which jobs ran, how
often, and what is remembered of each task.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reconciler.backends.accounts import Rhythm
from reconciler.backends.base import CancelRequest, JobRequest
from reconciler.backends.cluster import ClusterBackend, ClusterPlace
from reconciler.backends.judgement import Patience
from reconciler.backends.marks import Owner
from reconciler.backends.packing import Namer
from reconciler.backends.slurm import Slurm
from reconciler.clock import monotonic, utc_now
from reconciler.core.actions import Cancel, Forget, Submit
from reconciler.core.desired import Place, Resources, Run, Task
from reconciler.core.names import job_name
from reconciler.core.observed import BackendView, Expected, News, Receipt, Snapshot
from reconciler.core.plan import after_restart, new_record, plan, remember
from reconciler.core.record import LIVE, Event, RunRecord, TaskRecord, TaskState
from reconciler.errors import Unreachable
from reconciler.hosts.base import Host
from reconciler.hosts.ssh import SshHost, SshPlace
from reconciler.hosts.ssh_place import Tuning
from reconciler.jobrequest import job_request
from tests.clusters.cluster import Cluster
from tests.clusters.wrappers import Door, Wrappers

RUN = "0123456789ab"
DEADLINE_S = 30.0
SMALL = Resources(memory_mb=16)
_SOON = Rhythm(first_s=1.5, between_s=2.0, silent_max_s=2.0)
_HASTY = Patience(5.0, 1.0, 1.0)


def task(name: str, command: str = "true", **fields: Any) -> Task:
    """A task that asks for little."""
    return Task(id=name, command=command, **{"resources": SMALL, **fields})


def job(name: str, attempt: int = 1) -> str:
    return job_name(RUN, name, attempt)


def request(name: str, command: str = "true", attempt: int = 1, **fields: Any) -> JobRequest:
    return JobRequest(job=job(name, attempt), run=RUN, task=name, command=command, **{"resources": SMALL, **fields})


class Login:
    """A cluster through a door of its own; `work` is a folder of both. `ran` tells how often each task did its work."""

    def __init__(self, cluster: Cluster, work: Path, *options: str) -> None:
        self.cluster, self.work = cluster, work
        self.wrappers = Wrappers(work / "wrappers")
        self.door = Door(cluster, self.wrappers, work / "door.log", *options)
        self.instance = f"f{secrets.token_hex(4)}"
        self.spool = work / "spool"
        self.known_hosts = work / "known_hosts"
        self.known_hosts.write_text(self.door.known_hosts_line())
        self._lines = work / "ran"
        self._lines.mkdir()
        self._lines.chmod(0o777)
        self._opened: list[ClusterBackend] = []
        self._epoch = 0
        self._put_back: dict[str, float] = {}

    @property
    def root(self) -> Path:
        """The spool of this instance."""
        return self.spool / self.instance

    @property
    def namer(self) -> Namer:
        """What our jobs are called in the scheduler."""
        return Namer(f"{self.instance}\0{self.root}")

    def folder(self, name: str, attempt: int = 1) -> Path:
        """The folder of a job in the spool."""
        return self.root / "runs" / RUN / job(name, attempt)

    async def backend(
        self,
        array: str = "never",
        host: Host | None = None,
        poll: tuple[float, float] = (0.2, 0.5),
        patience: Patience = _HASTY,
        rhythm: Rhythm = _SOON,
        **words: Any,
    ) -> ClusterBackend:
        """A backend as a new daemon would make it, through `host`, by default `self.host()`. It asks soon what ended jobs used."""
        self._epoch += 1
        place = ClusterPlace(
            str(self.spool), self.instance, array, poll_min_s=poll[0], poll_max_s=poll[1], patience=patience, accounts=rhythm
        )
        made = ClusterBackend("hpc", host or self.host(), Slurm(**words), place, Owner("ledger-1", self._epoch), lambda: None)
        await self.keep(made).own()
        return made

    def keep(self, backend: ClusterBackend) -> ClusterBackend:
        """This one is closed at the end, too."""
        self._opened.append(backend)
        return backend

    def host(self, user: str = "", login_shell: bool = False) -> SshHost:
        """The login node, for the main user of the cluster or another one."""
        place = SshPlace(
            "127.0.0.1", self.door.port, user or self.cluster.user, str(self.cluster.key), known_hosts=str(self.known_hosts),
            login_shell=login_shell,
        )  # fmt: skip
        return SshHost(place, Tuning(retry_first_s=0.01, retry_max_s=0.1))

    def marked(self, name: str, then: str = "") -> str:
        """A command that counts in `ran`, and then goes on."""
        return f"echo {name} >>{self._lines}/{name}{'; ' if then else ''}{then}"

    def held(self, name: str, then: str = "") -> str:
        """As `marked`, and then waits until `release(name)`."""
        return self.marked(name, f"until [ -e {self.work}/go.{name} ]; do sleep 0.05; done{'; ' if then else ''}{then}")

    def release(self, *names: str) -> None:
        for name in names:
            (self.work / f"go.{name}").touch()

    @property
    def ran(self) -> Counter[str]:
        """How often each task has begun its work."""
        return Counter({each.name: each.read_text().count("\n") for each in self._lines.iterdir()})

    def jobs(self, *, ended: bool = False) -> list[tuple[str, str, str]]:
        """(id, name, state) of every job of this folder that slurmctld has, whatever became of its name."""
        words = ["squeue", "-h", "-r", "-o", "%i|%T|%Z|%j", *(["-t", "all"] if ended else [])]
        rows = (line.split("|", 3) for line in self.cluster.run(words, "root").stdout.splitlines())
        return [(row[0], row[3], row[1]) for row in rows if row[2].startswith(str(self.work))]

    def scontrol(self, *words: str) -> None:
        """As the administrator."""
        done = self.cluster.run(["scontrol", *words], "root")
        assert done.returncode == 0, done.stderr

    def start_now(self, job_id: str) -> None:
        """One that was put back into the queue waits two seconds, not two minutes; nothing happens while Slurm still ends its first start.
        Not less: a node takes no job whose credential it revoked in the same second."""
        told = self.cluster.run(["squeue", "-h", "-j", job_id, "-o", "%T %r"], "root").stdout.strip()
        if told != "PENDING BeginTime":
            self._put_back.pop(job_id, None)
        elif monotonic() > self._put_back.setdefault(job_id, monotonic()) + 2:
            self.cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], "root")

    async def close(self) -> None:
        for each in self._opened:
            await each.close()
        self.door.close()
        if mine := [row[0] for row in self.jobs()]:
            self.cluster.run(["scancel", *mine], "root")


@asynccontextmanager
async def login(cluster: Cluster, work: Path, *options: str) -> AsyncIterator[Login]:
    """A login node that is open for the time of the block; `options` are its sshd's."""
    made = Login(cluster, work, *options)
    made.door.open()
    try:
        yield made
    finally:
        await made.close()


@dataclass
class Loop:
    """Look, plan, act, for one run. `states` are all states that each task entered, in order."""

    backend: ClusterBackend
    run: Run
    record: RunRecord
    grace_s: float = 0.5
    most: int = 1000
    snapshot: Snapshot | None = None
    problem: str = ""
    cancelled: str = ""

    def __post_init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.answers: list[Receipt] = []
        self.events: list[Event] = []

    @classmethod
    def of(cls, backend: ClusterBackend, *tasks: Task, **words: Any) -> Loop:
        """A new run of these tasks."""
        run = Run(RUN, "w", "", "", "", "hpc", tasks, Place("", "w.yaml", 1), utc_now())
        return cls(backend, run, new_record(run, utc_now()), **words)

    def after(self, backend: ClusterBackend) -> Loop:
        """The loop of the next daemon, which knows what was saved."""
        record = remember(self.run, after_restart(dict(self.record.tasks)), self.record.cancelled, self.record.dropped)
        return Loop(backend, self.run, record, self.grace_s, self.most)

    @property
    def states(self) -> dict[str, TaskState]:
        return {name: each.state for name, each in self.record.tasks.items()}

    def __getitem__(self, name: str) -> TaskRecord:
        return self.record.tasks[name]

    @property
    def ended(self) -> bool:
        return self.record.ended

    def said(self, event: str) -> list[str]:
        """The tasks of which this was told, in order."""
        return [each.task for each in self.events if each.name == event]

    def _expected(self) -> dict[str, Expected]:
        live = {name: each for name, each in self.record.tasks.items() if each.state in LIVE}
        names = {name: job(name, each.attempt) for name, each in live.items()}
        return {names[name]: Expected(names[name], each.job_id, each.claimed_at) for name, each in live.items()}

    async def look(self) -> News:
        """What is new."""
        expected = self._expected()
        try:
            self.snapshot, self.problem = await self.backend.look(expected), ""
            self.problem = self.snapshot.problem
        except Unreachable as error:
            self.problem = str(error)
        seen = self.snapshot
        view = BackendView(
            began_at=seen.began_at if seen else None,
            reachable=seen is not None and not self.problem,
            complete=bool(seen and seen.complete),
            absence_grace_s=self.grace_s,
            reason=self.problem,
            scheduler_started_at=seen.scheduler_started_at if seen else None,
            forgotten=seen.forgotten if seen else frozenset(),
        )
        facts = seen.facts if seen else {}
        absent = frozenset(expected.keys() - facts.keys()) if view.complete and view.reachable else frozenset()
        receipts, self.receipts = tuple(self.receipts), []
        return News({"hpc": view}, facts, absent, receipts, cancelled=self.cancelled)

    async def step(self) -> None:
        """One cycle."""
        news = await self.look()
        room = self.most - sum(self.record.live.values())
        if self.snapshot is not None and self.snapshot.room is not None:
            room = min(room, self.snapshot.room)
        planned = plan(self.run, self.record, news, {"hpc": max(0, room)}, utc_now())
        self.record = planned.record
        self.events += planned.events
        submits = [each for each in planned.actions if isinstance(each, Submit)]
        cancels = [CancelRequest(each.job, each.job_id, each.kill) for each in planned.actions if isinstance(each, Cancel)]
        forgets = [each.job for each in planned.actions if isinstance(each, Forget)]
        if forgets and not self.problem:
            await self._tried(self.backend.forget(forgets))
        if cancels:
            self.receipts += await self._tried(self.backend.cancel(cancels)) or ()
        if submits:
            known = self.record.known
            requests = [job_request(self.run, known[each.task], self.record.tasks[each.task], False) for each in submits]
            self.receipts += await self._tried(self.backend.submit(requests)) or ()
        self.answers += self.receipts

    async def _tried(self, work: Any) -> Any:
        try:
            return await work
        except Unreachable as error:
            self.problem = str(error)
            return None

    async def until(self, condition: Callable[[], bool], what: str = "it", deadline_s: float = DEADLINE_S) -> None:
        """Go on until `condition`, which is asked after each cycle."""
        deadline = monotonic() + deadline_s
        while True:
            await self.step()
            if condition():
                return
            assert monotonic() < deadline, f"{what} did not come true in {deadline_s:.0f} s: {self._told()}"
            again_s = self.snapshot.again_s if self.snapshot and self.snapshot.again_s is not None else 0.1
            await asyncio.sleep(min(0.25, max(0.02, again_s)))

    async def to_end(self, deadline_s: float = DEADLINE_S) -> None:
        """Go on until the run has ended."""
        await self.until(lambda: self.ended, "the end", deadline_s)

    def hurry(self) -> None:
        """What waits before it is sent, or told, again may be so now: minutes pass."""
        tasks = {name: each._replace(not_before=0.0, told_at=0.0) for name, each in self.record.tasks.items()}
        self.record = replace(remember(self.run, tasks, self.record.cancelled, self.record.dropped))

    def _told(self) -> str:
        lines = [f"{name}: {each.state} attempt {each.attempt} {each.reason!r}" for name, each in list(self.record.tasks.items())[:8]]
        return "; ".join([*lines, f"problem {self.problem!r}"])


async def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for `condition`, with a deadline."""
    deadline = monotonic() + deadline_s
    while not condition():
        assert monotonic() < deadline, f"{what} did not come true in {deadline_s:.0f} s"
        await asyncio.sleep(0.02)


def succeeded(*names: str) -> dict[str, TaskState]:
    return dict.fromkeys(names, TaskState.SUCCEEDED)


def once(names: Sequence[str]) -> Counter[str]:
    """Each of these ran once."""
    return Counter(dict.fromkeys(names, 1))
