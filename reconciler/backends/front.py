"""A batch system for people: its queue, what it has, why a job waits, what works there. The Inspector's half of cluster.py.

Needs no ownership and changes nothing; so verbs use it beside a daemon, and without one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.backends import check, far
from reconciler.backends.base import Capacity, Check, Explanation, FileRange, FileRequest, QueueRow
from reconciler.backends.dialect import Dialect, Row, Site
from reconciler.backends.judgement import Patience
from reconciler.backends.marks import Owner, parse_owner
from reconciler.backends.pace import Calls
from reconciler.backends.packing import Namer, array_of, comment_of
from reconciler.backends.reply import Reply, members, seconds
from reconciler.backends.sightings import Sightings
from reconciler.clock import monotonic, utc_now
from reconciler.core.names import parse_job_name
from reconciler.core.observed import JobState
from reconciler.errors import ReconcilerError, Unreachable
from reconciler.hosts.base import CUT_SHORT_EXIT, Host

_TIMEOUT_S = 50.0
#: What partitions and limits there are is remembered for so long: minutes apart is often enough, and the page is looked at by many.
_CAPACITY_S = 120.0
#: An estimated start that lies further back than this was left there by a scheduler that did not look again.
_STALE_S = 60.0
_NOBODY = Owner("nobody", 0)
#: What is asked, for a person.
_QUESTIONS = {
    "queue": "its queue", "everybody": "its queue", "site": "its settings", "capacity": "its partitions", "accounts": "its accounting",
    "comments": "the comments of jobs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Survey:
    """What the far side is. `root`: the folder of this instance, absolute; `held`: the owner's record there, "" when there is none.

    `clock`: how far its clock is ahead of ours, in seconds, the way there included; None when it cannot be read. `noise`: what the user's
    profile prints.
    """

    root: str
    held: str
    user: str
    node: str
    umask: str
    clock: float | None
    shell: str = ""
    noise: tuple[str, ...] = ()


class Front:
    """Asks through one host, in one dialect. `spool` and `instance` as in ClusterPlace."""

    def __init__(self, host: Host, dialect: Dialect, spool: str, instance: str) -> None:
        self._host = host
        self._dialect = dialect
        self._spool = spool
        self._instance = instance
        self._calls = Calls()
        self._capacity: tuple[float, Capacity] | None = None

    # Inspector

    async def queue(self) -> Sequence[QueueRow]:
        """The live jobs of everybody; `ours` for those of this instance. Raises Unreachable."""
        rows = await self._rows("everybody", self._dialect.everybody)
        there = await self._surveyed()
        sightings = await self._matched(there, rows)
        ours = [row.user == there.user and sightings.is_ours(row) for row in rows]  # anybody may call a job what he likes
        told = self._dialect.queue_rows(rows)
        return [
            QueueRow(each.job_id, sightings.job_of(row) if mine else each.name, each.user, each.state, each.reason, mine)
            for each, row, mine in zip(told, rows, ours, strict=True)
        ]

    async def capacity(self) -> Capacity:
        """Partitions, limits and what is free, at most two minutes old. Raises Unreachable."""
        now = monotonic()
        if self._capacity is None or now >= self._capacity[0] + _CAPACITY_S:
            reply, text = await self._question("capacity", self._dialect.capacity)
            self._capacity = now, self._dialect.read_capacity(reply.mark, text)
        return self._capacity[1]

    async def explain(self, jobs: Sequence[str]) -> Mapping[str, Explanation]:
        """Why these jobs wait, and when the scheduler thinks that they start. Raises Unreachable."""
        rows = await self._rows("queue", self._dialect.queue)
        there = await self._surveyed()
        sightings = await self._matched(there, rows)
        wanted, ahead_s = set(jobs), there.clock or 0.0
        return {
            job: Explanation(row.reason or row.word, _estimate(row, ahead_s if abs(ahead_s) > 1.0 else 0.0))
            for row in rows
            if (job := sightings.job_of(row)) in wanted
        }

    async def read(self, request: FileRequest) -> FileRange:
        """A range of a file of a job. Raises Unreachable."""
        if parse_job_name(request.job) is None:
            return FileRange(None, problem=f"{request.job!r} is not a job name")
        if "\0" in request.path + request.working_dir:
            return FileRange(None, problem="a NUL character, which no path can hold")
        there = await self._surveyed()
        mark = _mark()
        outcome = await self._host.run(far.part_of_file(mark, self._desk_there(there), request), _TIMEOUT_S)
        head, found, rest = outcome.out.partition(f"{mark}:".encode())
        del head  # what a profile printed
        line, _, data = rest.partition(b"\n")
        word, _, text = line.decode(errors="replace").partition(" ")
        if found and word == "file" and text.isdecimal():
            size = int(text)
            start = request.offset if request.offset >= 0 else max(0, size + request.offset)
            if len(data) < min(request.bytes_max, size - start):  # half a generator's file may be a whole list of fewer tasks
                raise Unreachable(f"{self._host.where}: {request.path} arrived cut short, {len(data)} bytes from {start} of {size}")
            return FileRange(data, size)
        if found and word == "no-file":
            return FileRange(None)
        return FileRange(None, problem=f"{request.path}: {text}" if found and word == "problem" else f"{request.path} cannot be read")

    async def check(self) -> Sequence[Check]:
        """What works on this cluster, one thing after the other; what needs another is left out when that failed. Submits nothing."""
        began = monotonic()
        try:
            there = await self._surveyed()
            took_ms = (monotonic() - began) * 1000
            found = [
                Check("host", True, f"{self._host.where}: {there.user} on {there.node}, login shell {there.shell}, {took_ms:.0f} ms"),
                *check.profile(there.noise),
                check.clock(there.clock),
            ]
            programs = (*self._dialect.programs, *self._dialect.extras)
            reply = await self._talk(lambda mark: far.tried(mark, there.root, programs), _TIMEOUT_S, 0)
        except ReconcilerError as error:
            return [Check("host", False, str(error))]
        found += [check.spool(reply, there.root, parse_owner(there.held)), check.commands(reply, self._dialect)]
        return found + await self._check_scheduler(there) if found[-1].ok else found

    async def _check_scheduler(self, there: Survey) -> list[Check]:
        try:
            site = await self.ask_site()
        except ReconcilerError as error:
            return [Check("scheduler", False, str(error))]
        found = [Check("scheduler", True, f"{self._dialect.title} {site.version} answers".replace("  ", " "))]
        found += [await self._check_accounting(site), check.limits(site), *self._dialect.remarks(site)]
        found.append(await self._check_comment(there, site))
        try:
            capacity = await self.capacity()
        except ReconcilerError as error:
            return [*found, Check("partitions", False, str(error))]
        partitions = "; ".join(capacity.partitions) or "none that this user sees"
        return [*found, Check("partitions", bool(capacity.partitions), partitions)]

    async def _check_accounting(self, site: Site) -> Check:
        if not site.accounting:
            return check.NO_ACCOUNTING
        try:
            await self._question("accounts", lambda mark: self._dialect.accounts(mark, ["1"]))
        except Unreachable as error:
            return Check("accounting", False, f"{error}; jobs run all the same, and what they used is collected when it answers")
        return Check("accounting", True, "elapsed time, memory and processor time of ended jobs are collected")

    async def _check_comment(self, there: Survey, site: Site) -> Check:
        """Whether a comment that we give a job can be seen: some sites overwrite it, or hide it. Nothing depends on it."""
        try:
            reply, text = await self._question("comments", self._dialect.comments)
            told = self._dialect.read_comments(reply.mark, text)
            rows = [Row("", name, JobState.QUEUED, "", index=0 if array_of(name) else None) for name, _ in told]
            sightings = await self._matched(there, rows)
        except ReconcilerError as error:
            return Check("comment", False, str(error))
        ours = [comment for row, (_, comment) in zip(rows, told, strict=True) if sightings.is_ours(row)]
        seen = sum(comment.startswith(comment_of(self._instance)) for comment in ours)
        return check.comment(seen, len(ours), site)

    async def ask_site(self) -> Site:
        """What the cluster is and allows. Raises Unreachable."""
        reply, text = await self._question("site", self._dialect.site)
        return self._dialect.read_site(reply.mark, text)

    # How

    async def _talk(self, make: Callable[[str], str], timeout_s: float, calls: int, large: bool = False) -> Reply:
        """Run a program and take its answer apart. Raises NotBegun and Unreachable. `calls`: commands of the scheduler in it; `large`: its
        text takes long to make, and is made on a thread."""
        mark = _mark()
        program = await asyncio.to_thread(make, mark) if large else make(mark)
        if calls:
            self._calls.add(utc_now(), calls)
        outcome = await self._host.run(program, timeout_s)
        reply = await asyncio.to_thread(Reply, mark, outcome.out) if len(outcome.out) > 20_000 else Reply(mark, outcome.out)
        reply.took_s = outcome.elapsed_s
        if not reply.lines:
            words = outcome.err.decode(errors="replace").strip()[-300:] or f"exit code {outcome.code}"
            if outcome.code == CUT_SHORT_EXIT:
                words = "what was sent arrived cut short"
            raise Unreachable(f"{self._host.where} gave no answer that can be understood: {words}")
        return reply

    async def _question(self, word: str, command: Callable[[str], str]) -> tuple[Reply, str]:
        reply = await self._talk(lambda mark: far.question(self._dialect, mark, word, command(mark)), _TIMEOUT_S, 1)
        told = reply.asked.get(word)
        if told is None or told.code:
            raise Unreachable(self._silence(word, told.code if told else 1, told.error if told else "no answer"))
        return reply, told.text

    def _silence(self, what: str, code: int, error: str) -> str:
        asked = f"{self._dialect.title} on {self._host.where}, asked for {_QUESTIONS.get(what, what)}"
        return f"{asked}: {self._dialect.unreachable('', code, error)}"

    async def _rows(self, word: str, command: Callable[[str], str]) -> list[Row]:
        reply, text = await self._question(word, command)
        return self._dialect.read_rows(reply.mark, text)

    async def _surveyed(self) -> Survey:
        began_at = utc_now()
        reply = await self._talk(lambda mark: far.survey(mark, self._spool, self._instance), _TIMEOUT_S, 0)
        roots = list(reply.all("root"))
        if not roots or not reply.has("end"):
            raise Unreachable(f"{self._host.where} gave no answer that can be understood; `reconciler check` tells more")
        if reply.has("unreadable"):
            raise Unreachable(f"{roots[-1]}/owner on {self._host.where} is there and cannot be read: look what is wrong with that file")
        if "\\" in roots[-1]:  # Slurm then expands no pattern in a path, and all elements of an array would write to one file
            raise Unreachable(f"the spool {roots[-1]} on {self._host.where} has a backslash in its path: choose another `spool`")
        clock = seconds(reply.first("clock") or "")
        return Survey(
            root=roots[-1],
            held=reply.first("held") or "",
            user=reply.first("user") or "",
            node=reply.first("node") or "",
            umask=reply.first("umask") or "0022",
            clock=clock - (began_at + utc_now()) / 2 if clock is not None else None,
            shell=reply.first("shell") or "unknown",
            noise=tuple(reply.noise),
        )

    def _skew(self, reply: Reply, began_at: float) -> float:
        """How far the cluster's clock is ahead of ours, in seconds; 0.0 when the difference may be the way there."""
        clock = seconds(reply.first("clock") or "")
        if clock is None:
            return 0.0
        now = utc_now()
        ahead = clock - (began_at + now) / 2
        return ahead if abs(ahead) > max(1.0, now - began_at) else 0.0

    def _desk_there(self, there: Survey) -> far.Desk:
        return far.Desk(there.root, parse_owner(there.held) or _NOBODY, self._dialect)

    async def _matched(self, there: Survey, rows: Sequence[Row]) -> Sightings:
        sightings = Sightings(Namer(f"{self._instance}\0{there.root}"), Patience())
        if parse_owner(there.held) is not None and (arrays := sightings.unknown_arrays(rows)):
            desk = self._desk_there(there)
            reply = await self._talk(lambda mark: far.records(desk, mark, (), arrays), _TIMEOUT_S, 0)
            sightings.see_members(arrays, members(reply))
        return sightings


def _estimate(row: Row, ahead_s: float) -> float | None:
    """When a waiting job will start, on our clock. One that is in the past was not renewed, and says nothing."""
    if row.state is not JobState.QUEUED or row.started_at is None:
        return None
    at = row.started_at - ahead_s
    return at if at >= utc_now() - _STALE_S else None


def _mark() -> str:
    return f"m{secrets.token_hex(8)}"
