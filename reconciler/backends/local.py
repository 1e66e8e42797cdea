"""Jobs as detached processes of this machine. They outlive the daemon and are found again after it restarts.

A job is `sh <spool>/runs/<run>/<job>/script` (script.py) in a session and process group of its own. Made by daemon.compose.

What holds: the time limit (TERM to the group, KILL a grace later; after a restart counted from the process's own start), exactly
one start a name, a clean environment. What does not: memory and cpus are not enforced; a process that leaves the job's process group
(`setsid`, a daemon of its own) is no longer part of the job and is neither waited for nor ended. A job that was claimed before the
machine restarted is *lost* unless its exit record says how it ended, also when no start record is there: after a power cut a
missing file proves nothing. A task without a working directory runs in its job's folder, beside our records (spool.py names them).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from reconciler.backends.base import CancelRequest, Capacity, Check, Explanation, FileRange, FileRequest, JobRequest, QueueRow, Trace
from reconciler.backends.files import Files, Question, Trouble, aside
from reconciler.backends.marks import Claim, Owner, Process, Revoked
from reconciler.backends.process import Life, clean_environment, folders_below, keep_files, processes_of, spawn, this_machine
from reconciler.backends.script import Layout, claimed_script, identify_process, job_script, trouble, work_folder
from reconciler.backends.sight import Sight
from reconciler.backends.spool import CANCEL, Spool
from reconciler.backends.verdict import fact_of
from reconciler.backends.watch import Pace, Watch
from reconciler.clock import utc_now
from reconciler.core.names import parse_job_name
from reconciler.core.observed import Answer, Expected, JobFact, JobState, Receipt, Snapshot
from reconciler.errors import Unreachable
from reconciler.mounts import NETWORK_FILE_SYSTEMS, file_system

#: Above this many the loop gets a breath between jobs; a submission takes about half a millisecond, a read a tenth.
_AT_ONCE = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tuning:
    """`slots`: how many jobs at once, for people and as the snapshot's room; None: no opinion. The others: see watch.Pace.

    `file_system` names the type of the one that holds a path.
    """

    slots: int | None = None
    grace_s: float = 10.0
    poll_s: float = 0.5
    pidfds_max: int | None = None
    now: Callable[[], float] = utc_now
    file_system: Callable[[Path], str] = file_system


class LocalBackend:
    """Backend and Inspector (base.py) for this machine. Call `own` once before anything else; `close` at the end.

    `spool` is the folder of this instance; only `own` makes it. `changed` is called on the event loop when a look would show
    something new.
    """

    def __init__(self, name: str, spool: Path, owner: Owner, changed: Callable[[], None], tuning: Tuning | None = None) -> None:
        self._tuning = tuning or Tuning()
        self._now = self._tuning.now
        self._name = name
        self._owner = owner
        self._machine = this_machine()
        self._spool = Spool(spool)
        self._sight = Sight(self._spool, self._machine)
        self._environment = clean_environment()
        self._identify = identify_process(self._machine.namespace)
        self._files = Files(self._environment["HOME"])
        pace = Pace(self._tuning.grace_s, self._tuning.poll_s, self._tuning.pidfds_max, self._now)
        self._watch = Watch(self._spool, self._machine, changed, pace)
        self._strays: frozenset[str] | None = None  # jobs that lived and nobody expected; None: nobody has looked yet

    def own(self) -> None:
        """Take the spool. Raises NotOwner when it is another ledger's or a newer daemon's, Unreachable when it cannot be written, or is
        where it could keep everybody waiting: on a network file system."""
        keep_files()
        if words := self._far_away():
            raise Unreachable(f"the spool {words}")
        with self._reached():
            self._spool.own(self._owner)

    def close(self) -> None:
        """Stop watching, on the event loop. Jobs go on."""
        self._watch.close()

    # Backend

    async def look(self, expected: Mapping[str, Expected]) -> Snapshot:
        """Facts of every job known or expected. Raises NotOwner, and Unreachable when the spool cannot be read."""
        began_at = self._now()
        self._spool.check(self._owner)
        if self._strays is None:
            with self._reached():
                self._strays = await self._find_strays(expected)
        self._watch.refresh()
        unread = await self._meet(self._watch.unknown(expected))
        facts = dict(self._watch.facts)
        self._watch.drop(expected)
        return Snapshot(
            backend=self._name,
            began_at=began_at,
            facts=facts,
            complete=not unread,
            unexpected=tuple(sorted(job for job in self._strays if self._watch.lives(job) and job not in expected)),
            room=self._free(),
        )

    async def submit(self, jobs: Sequence[JobRequest]) -> Sequence[Receipt]:
        """Start each job, at most once for ever. Raises NotOwner and Unreachable before anything is started."""
        self._spool.check(self._owner)
        troubles = await self._files.ask({each for job in jobs for each in self._questions(job)})
        receipts = []
        async for job in _with_breaths(jobs):
            receipts.append(self._send(job, troubles))
        return receipts

    async def cancel(self, jobs: Sequence[CancelRequest]) -> Sequence[Receipt]:
        """Revoke each start, and end what has started if asked to. Raises NotOwner and Unreachable before anything is done."""
        self._spool.check(self._owner)
        receipts = []
        async for job in _with_breaths(jobs):
            answer, reason = self._end(job)
            receipts.append(Receipt(job.job, answer, self._now(), job.job_id, reason))
        return receipts

    async def fetch(self, request: FileRequest) -> FileRange:
        """A range of a file; what is no plain file, or does not answer, is a `problem`."""
        if parse_job_name(request.job) is None:
            return FileRange(None, problem=f"{request.job!r} is not a job name")
        return await self._files.read(request, self._spool.folder(request.job))

    async def forget(self, jobs: Sequence[str]) -> None:
        """Move exit records out of the mailbox; a look still finds them by name. Raises NotOwner and Unreachable."""
        self._spool.check(self._owner)
        async for job in _with_breaths([job for job in jobs if parse_job_name(job)]):
            with self._reached():
                self._spool.forget(job)

    # Beyond it: retention and recovery

    async def clean(self, runs: Sequence[str]) -> Sequence[str]:
        """Remove the folders of runs that are over; none of their jobs will ever start again. One with a living job is left alone.

        Those of which nothing is left, oldest request first. Raises NotOwner and Unreachable.
        """
        self._spool.check(self._owner)
        with self._reached():
            living = {job.partition(".")[0] for job in await aside(self._jobs_that_live)}
            over = [run for run in runs if run not in living]
            closed = [await aside(partial(self._spool.close, run)) for run in over]
        return [run for run, gone in zip(over, closed, strict=True) if gone]

    def owner_there(self) -> Owner | None:
        """Who holds the spool now; None when nobody has ever, or nobody readable. Needs no ownership."""
        return self._spool.owner()

    def traces(self) -> Sequence[Trace]:
        """Everything that the spool holds, for recovery. Needs no ownership and changes nothing. Raises OSError."""
        found = []
        for job in (job for run in self._spool.runs() for job in self._spool.jobs(run)):
            evidence, life = self._sight.observe(Expected(job, "", 0.0), self._now())
            found.append(Trace(job, evidence.claimed, fact_of(evidence, life, self._now())))
        return found

    # Inspector

    async def queue(self) -> Sequence[QueueRow]:
        """The jobs of this instance that live, asked of the kernel: it needs no ownership and no daemon. Raises Unreachable."""
        user = os.environ.get("USER", str(os.getuid()))
        with self._reached():
            seen = await aside(self._living)
        return [QueueRow(fact.job_id, job, user, fact.state, fact.reason, ours=True) for job, fact in seen]

    async def capacity(self) -> Capacity:
        """Slots, and how many are free."""
        return Capacity(self._tuning.slots, self._free(), (), (f"{os.cpu_count()} processors; neither they nor memory are enforced",))

    async def explain(self, jobs: Sequence[str]) -> Mapping[str, Explanation]:
        """Empty: nothing ever waits here."""
        return {}

    async def read(self, request: FileRequest) -> FileRange:
        """As `fetch`."""
        return await self.fetch(request)

    async def check(self) -> Sequence[Check]:
        """Whether the spool is ours and writable, and what runs the commands."""
        bash = os.access("/bin/bash", os.X_OK)
        words = "commands are run by /bin/bash" if bash else "there is no /bin/bash: commands are run by /bin/sh, without pipefail"
        return [self._check_spool(), Check("shell", bash, words)]

    def _living(self) -> list[tuple[str, JobFact]]:
        observed = [(job, self._sight.observe(Expected(job, "", 0.0), self._now())) for job in self._jobs_that_live()]
        facts = ((job, fact_of(evidence, life, self._now())) for job, (evidence, life) in observed)
        return [(job, fact) for job, fact in facts if fact is not None]

    def _check_spool(self) -> Check:
        root = self._spool.root
        if words := self._far_away():
            return Check("spool", False, words)
        there = next(folder for folder in (root, *root.parents) if folder.exists())
        writable = os.access(there, os.W_OK | os.X_OK) and there.is_dir()
        try:
            held = self._spool.owner()
        except OSError as error:
            return Check("spool", False, f"{root} cannot be read: {error.strerror}")
        whose = f"belongs to ledger {held.ledger_id}" if held else "belongs to nobody yet"
        return Check("spool", writable, f"{root} {whose}" if writable else f"{there} cannot be written")

    # How

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Trouble with the disk, or too many open files, says nothing about any job."""
        try:
            yield
        except OSError as error:
            raise Unreachable(f"the spool {self._spool.root} cannot be used: {error}") from error

    def _far_away(self) -> str:
        """Why the spool is in the wrong place, in words; "" when it is not. Every look and claim is a call on it that nothing can end."""
        kind = self._tuning.file_system(self._spool.root)
        if kind not in NETWORK_FILE_SYSTEMS:
            return ""
        return f"{self._spool.root} is on a network file system ({kind}), which may not answer; give the backend a `spool` on a local disk"

    def _free(self) -> int | None:
        return None if self._tuning.slots is None else max(0, self._tuning.slots - self._watch.count)

    async def _find_strays(self, expected: Mapping[str, Expected]) -> frozenset[str]:
        """Jobs of this instance that live and that nobody expects: of an older ledger, or a twin."""
        strays = await aside(self._jobs_that_live) - expected.keys()
        await self._meet([Expected(job, "", 0.0) for job in strays])
        return frozenset(strays)

    def _jobs_that_live(self) -> set[str]:
        """The jobs in this spool of which a process lives. Blocks: it asks after every process of the machine."""
        folders = folders_below(f"{self._spool.root}/runs")
        jobs = {folder.rpartition("/")[2] for folder in folders}
        return {job for job in jobs if parse_job_name(job) and self._spool.folder(job) in folders}

    async def _meet(self, names: Sequence[Expected]) -> list[str]:
        """Find out about jobs that are not known in memory. Returns those that could not be read."""
        unread = []
        async for each in _with_breaths(names):
            try:
                self._watch.meet(each.job, *self._sight.observe(each, self._now()))
            except (OSError, ValueError):  # not to be read now, or no name of a job: one must not hurt the others
                unread.append(each.job)
        return unread

    def _questions(self, request: JobRequest) -> Iterator[Question]:
        folder = self._files.expanded(request.working_dir, "/")
        if request.working_dir:
            yield Question(folder, written=False)
        for path in {request.output_file, request.error_file} - {""}:
            yield Question(self._files.expanded(path, folder), written=True)

    def _send(self, request: JobRequest, troubles: Mapping[Question, Trouble]) -> Receipt:
        """Claim the name and start the job; or say why not."""
        name = parse_job_name(request.job)
        if name is None or name.run != request.run:
            return self._receipt(request, Answer.REFUSED, f"{request.job!r} is not the name of a job of run {request.run!r}")
        try:
            if self._spool.closed(request.run):
                return self._receipt(request, Answer.REFUSED, f"run {request.run} is over and was cleaned away")
            if not self._spool.claimed(request.job):
                if words := trouble(request):
                    return self._receipt(request, Answer.REFUSED, words)
                for found in (troubles[each] for each in self._questions(request) if each in troubles):
                    return self._receipt(request, Answer.TRANSIENT if found.passing else Answer.REFUSED, found.words)
                if self._spool.claim(request.job, self._script(request)):
                    return self._start(request)
            return self._sent_before(request)
        except OSError as error:
            return self._unsent(request, f"the spool cannot be used: {error.strerror}")

    def _sent_before(self, request: JobRequest) -> Receipt:
        """What is said of a name that somebody has claimed. A claim alone is no proof that anything was started. Raises OSError."""
        evidence, life = self._sight.observe(Expected(request.job, "", 0.0), self._now())
        shown = evidence.start is not None or evidence.exit is not None or life is not Life.GONE or self._watch.lives(request.job)
        if not shown and not processes_of(self._spool.folder(request.job)):
            return self._receipt(request, Answer.UNKNOWN, "claimed before, and nothing shows that it was started")
        job_id = str(evidence.start.pid) if isinstance(evidence.start, Process) else ""
        return Receipt(request.job, Answer.ACCEPTED, self._now(), job_id, "it had been sent before")

    def _unsent(self, request: JobRequest, words: str) -> Receipt:
        """After trouble with the disk: only a name that nobody has claimed was provably not sent."""
        try:
            claimed = self._spool.claimed(request.job)
        except OSError:
            claimed = True
        if claimed:
            return self._receipt(request, Answer.UNKNOWN, f"{words}; its name is claimed, or that cannot be told")
        return self._receipt(request, Answer.TRANSIENT, words)

    def _script(self, request: JobRequest) -> str:
        layout = Layout(self._spool.folder(request.job), "", self._identify, self._machine.umask, self._machine.files)
        claim = Claim(self._owner, self._machine.boot, max(0, request.resources.time_limit_s))
        return claimed_script(claim, job_script(request, layout))

    def _start(self, request: JobRequest) -> Receipt:
        """Start a job whose name was just claimed. What fails before the spawn returns is proof that it did not start."""
        folder = self._spool.folder(request.job)
        try:
            if not request.working_dir:
                self._spool.make_work(request.job)
            for name, target in (("out", request.output_file), ("err", request.error_file)):
                if target:
                    work = self._files.expanded(request.working_dir or work_folder(folder), folder)
                    self._spool.link_output(request.job, name, self._files.expanded(target, work))
            pid = spawn(folder, self._environment)
        except OSError as error:
            return self._give_back(request, f"it could not be started: {error.strerror}")
        at = self._now()
        self._watch.spawned(request.job, pid, max(0, request.resources.time_limit_s), at)
        return Receipt(request.job, Answer.ACCEPTED, at, str(pid))

    def _give_back(self, request: JobRequest, words: str) -> Receipt:
        try:
            self._spool.unclaim(request.job)
        except OSError as error:  # the claim stands, so the name can never be sent again: a doubt, which a revocation settles
            return self._receipt(request, Answer.UNKNOWN, f"{words}; and its claim cannot be taken back: {error.strerror}")
        return self._receipt(request, Answer.TRANSIENT, words)

    def _receipt(self, request: JobRequest, answer: Answer, reason: str) -> Receipt:
        return Receipt(request.job, answer, self._now(), reason=reason)

    def _end(self, request: CancelRequest) -> tuple[Answer, str]:
        job, name = request.job, parse_job_name(request.job)
        if name is None:
            return Answer.UNKNOWN, f"{job!r} is not a job name"
        try:
            if self._spool.closed(name.run):
                return Answer.FENCED, "its run was cleaned away"
            if self._spool.revoke(job, self._owner):
                return Answer.FENCED, ""
            evidence, life = self._sight.observe(Expected(job, request.job_id, 0.0), self._now())
        except OSError as error:
            return Answer.UNKNOWN, f"the spool cannot be used: {error.strerror}"
        if isinstance(evidence.start, Revoked):
            return Answer.FENCED, ""
        self._watch.meet(job, evidence, life)
        if request.kill:
            self._watch.end(job, CANCEL)
        return self._answer(request, self._watch.facts.get(job))

    def _answer(self, request: CancelRequest, fact: JobFact | None) -> tuple[Answer, str]:
        """What a job whose start is taken says to a Cancel."""
        match fact.state if fact else JobState.UNKNOWN:
            case JobState.FENCED:
                return Answer.FENCED, ""
            case JobState.ENDED:
                return Answer.ENDED, ""
            case JobState.RUNNING:
                return (Answer.ENDING, "") if request.kill else (Answer.STARTED, "")
            case _:
                # Its records cannot be understood. That none of its processes lives is proof enough for somebody who wants it ended.
                if request.kill and not processes_of(self._spool.folder(request.job)):
                    return Answer.ENDED, "its records cannot be understood, and no process of it lives"
                return Answer.UNKNOWN, fact.reason if fact else "its start is taken, and its start record cannot be read"


async def _with_breaths(items: Sequence[T]) -> AsyncIterator[T]:
    """Each of `items`, with a breath for the event loop now and then."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
