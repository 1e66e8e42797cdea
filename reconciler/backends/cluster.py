"""Jobs of a batch system that is reached through a host: a login node over ssh, or this machine. Made by the composition root.

What a batch system is called and how it speaks is its dialect's (dialect.py, slurm.py); what is kept on the far side is described in
far_marks.py; what is run there, in far.py. This module asks and acts:

* A *peek* reads the mailbox; a *full* look asks the queue first, then reads the mailbox, and then by name whatever is about to be called
  absent. pace.py says which is due. Both are one round trip while nothing ends in an unusual way.
* Submissions go out one after the other (dispatch.py); looks go on meanwhile.
* While the scheduler does not answer, what the mailbox says still counts, and the snapshot says what the trouble is.

Nothing here holds up the event loop: what is large is taken apart on a thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from reconciler.backends import far
from reconciler.backends.accounts import Accounts, Rhythm
from reconciler.backends.base import CancelRequest, FileRange, FileRequest, JobRequest, Trace
from reconciler.backends.dialect import Dialect, Row, Site
from reconciler.backends.dispatch import Dispatch, Terms
from reconciler.backends.front import Front
from reconciler.backends.judgement import Patience, trace_of, was_refused_by_its_node
from reconciler.backends.marks import Owner, parse_owner
from reconciler.backends.ownership import refuse_lost, refuse_stranger
from reconciler.backends.pace import Calls, Pace
from reconciler.backends.packing import Namer, array_of
from reconciler.backends.reply import Reply, Trail, mailed, members, trails
from reconciler.backends.sightings import Sightings
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import Cause
from reconciler.core.names import parse_job_name
from reconciler.core.observed import Answer, Expected, Receipt, Snapshot
from reconciler.errors import NotOwner, Unreachable
from reconciler.hosts.base import Host

#: A program that looks has ended by then: a Slurm client gives up by itself after 9-45 s.
LOOK_TIMEOUT_S = 50.0
#: One that submits: `sbatch` itself retries for 120 s while the scheduler holds as many jobs as it can.
SUBMIT_TIMEOUT_S = 240.0
#: After so long a look asks nothing more that it can do without: it is given up after a minute, with all that it has seen.
HURRY_S = 20.0
#: What a cluster allows, and how large the spool is, are asked for so often.
SITE_S, SIZE_S = 600.0, 3600.0
#: Accounting is a moment behind: so long is waited for who cancelled a job that ran. Shorter than `Patience.word_s`.
WHO_S = 3.0
#: Trails that one program reads.
_READ_AT_ONCE = 2000
#: Jobs whose starts one program revokes.
_CANCELLED_AT_ONCE = 1000
#: Above so many bytes an answer is taken apart on a thread.
_LARGE = 20_000


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """Where and how: `spool` is a folder of the far side, absolute or `~/…`, that login and compute nodes share, without the instance;
    `array` is `auto` or `never`; the intervals between two questions to the scheduler are between `poll_min_s` and `poll_max_s`."""

    spool: str
    instance: str
    array: str = "auto"
    login_shell: bool = False
    poll_min_s: float = 2.0
    poll_max_s: float = 60.0
    patience: Patience = field(default_factory=Patience)
    accounts: Rhythm = field(default_factory=Rhythm)


@dataclass
class _Seen:
    """What the newest full look was."""

    began_at: float = 0.0
    complete: bool = False
    rows: int = 0  # jobs of the user in the queue, of all kinds
    sent: list[tuple[float, int]] = field(default_factory=list)  # when, and how many jobs were handed over that it may not show


#: What far.revoked says of a job -> what that is to the core.
_CANCELLED = {
    "fenced": Answer.FENCED,
    "ended": Answer.ENDED,
    "ending": Answer.ENDING,
    "started": Answer.STARTED,
    "unknown": Answer.UNKNOWN,
}

T = TypeVar("T")


class ClusterBackend(Front):
    """Backend, Cleaner and Inspector (base.py) for a batch system. Call `own` once before anything but the Inspector's part."""

    def __init__(
        self, name: str, host: Host, dialect: Dialect, place: ClusterPlace, owner: Owner, changed: Callable[[], None]
    ) -> None:
        super().__init__(host, dialect, place.spool, place.instance)
        self._name = name
        self._place = place
        self._owner = owner
        self._changed = changed
        self._umask = "0022"
        self._pace = Pace(place.poll_min_s, place.poll_max_s)
        self._accounts = Accounts(place.accounts)
        self._submitting = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._sending: set[str] = set()
        self._site: Site | None = None
        self._site_at = 0.0
        self._size_at = 0.0
        self._words_at = 0.0
        self._size_bytes: int | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._desk: far.Desk | None = None
        self._sightings: Sightings | None = None
        self._dispatch: Dispatch | None = None
        self._seen = _Seen()

    @property
    def calls(self) -> Calls:
        """The commands of the scheduler that were run."""
        return self._calls

    async def own(self) -> None:
        """Take the spool. Raises NotOwner when it is another ledger's or a newer daemon's, Unreachable when it cannot be reached."""
        there = await self._surveyed()
        path = f"{there.root}/owner on {self._host.where}"
        if there.held:
            refuse_stranger(there.held, self._owner, path, f"{there.root} on {self._host.where}")
        reply = await self._talk(lambda mark: far.own(mark, there.root, there.held, self._owner), LOOK_TIMEOUT_S, 0)
        if (held := reply.first("owner")) is not None:
            refuse_lost(held, self._owner, path, there.root)
        if words := reply.first("failed"):
            raise Unreachable(f"the spool {there.root} on {self._host.where} cannot be made: {words}")
        root = reply.first("root")
        if root is None or not reply.has("end"):
            raise Unreachable(f"the spool {there.root} on {self._host.where} could not be taken")
        self._umask = there.umask
        self._settle(root)

    def _settle(self, root: str) -> None:
        self._desk = far.Desk(root, self._owner, self._dialect)
        namer = Namer(f"{self._place.instance}\0{root}")
        self._sightings = Sightings(namer, self._place.patience)
        self._dispatch = Dispatch(self._dialect, namer, self._sightings, self._submitted)

    async def owner_there(self) -> Owner | None:
        """Who holds the spool now; None when nobody has ever, or nobody readable. Needs no ownership."""
        return parse_owner((await self._surveyed()).held)

    async def close(self) -> None:
        """End the connection. Jobs go on."""
        beside = [each for each in (self._measuring, self._collecting) if each is not None]
        for each in beside:
            each.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await self._host.close()

    # Backend

    async def look(self, expected: Mapping[str, Expected]) -> Snapshot:
        """One look, full or a peek. Raises NotOwner, and Unreachable when the host cannot be reached."""
        async with self._looking:
            began_at = utc_now()
            return await self._look(expected, began_at, self._pace.due(monotonic()))

    async def _look(self, expected: Mapping[str, Expected], began_at: float, full: bool) -> Snapshot:
        desk, sightings = self._known
        sightings.settle()
        asked_at = monotonic()
        reply = self._whole(await self._ours(lambda mark: far.looked(desk, mark, full), int(full)))
        self._learn_clock(reply, began_at)
        moved = sightings.see_exits(mailed(reply), expected, utc_now())
        took_s = reply.took_s
        await self._empty(desk, sightings.stale_mail((each.partition(" ")[0] for each in reply.all("mail")), expected, self._sending))
        rows: list[Row] = []
        problem = ""
        if full:
            queue = reply.asked.get("queue")
            if queue is None or queue.code:
                problem = self._silence("queue", queue.code if queue else 1, queue.error if queue else "no answer")
            else:
                rows = await self._apart(lambda: self._dialect.read_rows(reply.mark, queue.text), len(queue.text))
                await self._find_members(desk, sightings, rows)
                size = max(len(queue.text), 20 * len(expected))
                moved |= await self._apart(lambda: sightings.see_queue(rows, expected, utc_now()), size)
                self._seen.rows = len(rows)
        complete = full and not problem
        await self._read_trails(desk, sightings, expected, complete)
        hurried = monotonic() > asked_at + HURRY_S  # what was seen must be told before the look is given up
        if complete and not hurried:
            await self._ask_site(began_at)
        if not (problem or hurried) and (full or asked_at >= self._words_at + self._place.poll_min_s):
            await self._ask_words(desk, sightings, expected)
        now = utc_now()
        facts = await self._apart(lambda: sightings.facts(expected, now), 20 * len(expected))
        if moved:
            self._pace.changed(monotonic())
        self._seen.complete = self._seen.complete and not problem
        if complete:
            self._seen.began_at, self._seen.complete = began_at, True
            self._seen.sent = [(at, count) for at, count in self._seen.sent if at >= began_at]
            absent = len(expected) > len(facts)
            self._pace.looked(monotonic(), took_s, absent or any(each.since for each in sightings.known.values()))
            await self._sweep(desk, sightings)
            self._collect(desk, now)
            sightings.drop_unseen(expected, frozenset(self._sending))
        return Snapshot(
            backend=self._name,
            began_at=self._seen.began_at or began_at,
            facts=facts,
            complete=self._seen.complete,
            problem=problem,
            unexpected=tuple(sightings.strays(expected, now)),
            room=self._room(),
            scheduler_started_at=self._started_at(),
            forgotten=frozenset(sightings.forgotten),
            again_s=self._pace.again_s(monotonic(), bool(expected)),
            usage=self._accounts.taken(),
            about=self._about(now),
        )

    async def submit(self, jobs: Sequence[JobRequest]) -> Sequence[Receipt]:
        """Claim, send and record many in few round trips. Raises NotOwner when nothing was done."""
        self._sending.update(job.job for job in jobs)
        try:
            async with self._submitting:
                return await self._submit(jobs)
        finally:
            self._sending.difference_update(job.job for job in jobs)

    async def _submit(self, jobs: Sequence[JobRequest]) -> Sequence[Receipt]:
        try:
            desk, _ = self._known
            assert self._dispatch is not None
            terms = Terms(desk, self._place.instance, self._umask, self._array_most(), self._site or Site())
            receipts = await self._dispatch.send(jobs, terms)
        except NotOwner:
            raise
        except Unreachable as error:  # NotBegun: dispatch tells of all else by receipts
            return [Receipt(job.job, Answer.TRANSIENT, utc_now(), reason=f"not sent: {error}") for job in jobs]
        now = utc_now()
        if sent := sum(receipt.answer in (Answer.ACCEPTED, Answer.UNKNOWN) for receipt in receipts):
            self._seen.sent.append((now, sent))
            self._pace.changed(monotonic())
        return receipts

    async def cancel(self, jobs: Sequence[CancelRequest]) -> Sequence[Receipt]:
        """Revoke each start; end what has started if asked to, and whatever still waits, after its identity has been verified."""
        return [receipt for part in _parts(jobs, _CANCELLED_AT_ONCE) for receipt in await self._cancel(part)]

    async def _cancel(self, jobs: Sequence[CancelRequest]) -> Sequence[Receipt]:
        desk, sightings = self._known
        valid = {job.job: job for job in jobs if parse_job_name(job.job)}
        try:
            reply = await self._ours(lambda mark: far.revoked(desk, mark, [(job.job, job.kill) for job in valid.values()]), 0)
        finally:  # an answer that was lost may have been a yes
            sightings.touched(list(valid))
        receipts, ids = [], dict[str, str]()
        for word, answer in _CANCELLED.items():
            for job, _, rest in (each.partition(" ") for each in reply.all(word)):
                if job not in valid:
                    continue
                known = sightings.known.get(job)
                job_id = (rest if word != "unknown" else "") or (known.job_id if known else "") or valid[job].job_id
                receipts.append(Receipt(job, answer, utc_now(), job_id, rest if word == "unknown" else ""))
                if word in ("fenced", "ending") and job_id and job_id != "none":
                    ids[job_id] = job
        told = {receipt.job for receipt in receipts}
        receipts += [Receipt(job.job, Answer.UNKNOWN, utc_now(), reason="no answer") for job in jobs if job.job not in told]
        await self._end(desk, sightings, ids)
        self._pace.changed(monotonic())
        return receipts

    async def _end(self, desk: far.Desk, sightings: Sightings, ids: Mapping[str, str]) -> None:
        """End the jobs with these ids, if each is still the job that it was. What fails is tried again: the core tells it again."""
        ordered = list(ids)
        for part in (ordered[first : first + 500] for first in range(0, len(ordered), 500)):
            reply = await self._ours(lambda mark, part=part: far.explained(desk, mark, part), 1)  # type: ignore[misc]
            asked = reply.asked.get("jobs")
            rows = self._dialect.read_rows(reply.mark, asked.text) if asked else []
            ours = [row.job_id for row in rows if sightings.job_of(row) == ids.get(row.job_id)]
            if ours:
                await self._ours(lambda mark, ours=ours: far.ended(desk, mark, ours), 1)  # type: ignore[misc]

    async def fetch(self, request: FileRequest) -> FileRange:
        """A range of a file; what is no plain file, or cannot be read, is a `problem`. Raises Unreachable."""
        return await self.read(request)

    async def forget(self, jobs: Sequence[str]) -> None:
        """Empty the mailbox of these jobs; a look still finds their records by name. Raises NotOwner and Unreachable."""
        desk, sightings = self._known
        named = [job for job in jobs if parse_job_name(job)]
        await self._ours(lambda mark: far.looked_away(desk, mark, named), 0)
        now = utc_now()
        for job in named:
            known = sightings.known.get(job)
            if known is not None and known.fact is not None and (job_id := known.fact.job_id) and known.fact.started:
                self._accounts.owe(job, job_id, now)
        sightings.forget(named, now)

    # Beyond it: retention and recovery

    async def clean(self, runs: Sequence[str]) -> Sequence[str]:
        """Remove the folders of runs that are over; none of their jobs will ever start again. One with a job in the queue is left alone.

        Those of which nothing is left. Raises NotOwner and Unreachable.
        """
        desk, sightings = self._known
        reply = await self._ours(lambda mark: far.queue_only(desk, mark), 1)
        asked = reply.asked.get("queue")
        if asked is None or asked.code:
            raise Unreachable(self._silence("queue", asked.code if asked else 1, asked.error if asked else "no answer"))
        rows = self._dialect.read_rows(reply.mark, asked.text)
        living = {run for row in rows if (run := self._run_of(row, sightings))}
        over = [run for run in runs if run not in living]
        gone: list[str] = []
        for part in (over[first : first + 50] for first in range(0, len(over), 50)):
            cleaned = await self._ours(lambda mark, part=part: far.cleaned(desk, mark, part), 0)  # type: ignore[misc]
            gone += [run for run in cleaned.all("clean") if run in part]
        self._size_at = 0.0
        return gone

    async def traces(self) -> Sequence[Trace]:
        """Everything that the spool holds, for recovery. Needs no ownership and changes nothing. Raises Unreachable."""
        there = await self._surveyed()
        held = parse_owner(there.held)
        if held is None:
            return []
        desk = far.Desk(there.root, held, self._dialect)
        listed = self._whole(await self._talk(lambda mark: far.everything(desk, mark), LOOK_TIMEOUT_S, 0))
        jobs = [job for job in listed.all("job") if parse_job_name(job)]
        sightings = Sightings(Namer(f"{self._place.instance}\0{there.root}"), self._place.patience)
        queue = await self._talk(lambda mark: far.queue_only(desk, mark), LOOK_TIMEOUT_S, 1)
        asked = queue.asked.get("queue")
        if asked is None or asked.code:
            raise Unreachable(self._silence("queue", asked.code if asked else 1, asked.error if asked else "no answer"))
        rows = self._dialect.read_rows(queue.mark, asked.text)
        await self._find_members(desk, sightings, rows)
        live: dict[str, list[Row]] = {}
        for row in rows:
            live.setdefault(sightings.job_of(row), []).append(row)
        found: list[Trace] = []
        for part in (jobs[first : first + _READ_AT_ONCE] for first in range(0, len(jobs), _READ_AT_ONCE)):
            reply = await self._talk(lambda mark, part=part: far.records(desk, mark, part, ()), LOOK_TIMEOUT_S, 0)  # type: ignore[misc]
            told = trails(self._whole(reply))
            found += [trace_of(job, told.get(job, Trail()), live.get(job, ()), utc_now()) for job in part]
        return found

    # How

    @property
    def _known(self) -> tuple[far.Desk, Sightings]:
        if self._desk is None or self._sightings is None:
            raise Unreachable(f"the spool on {self._host.where} was not taken yet")
        return self._desk, self._sightings

    async def _ours(self, make: Callable[[str], str], calls: int, timeout_s: float = LOOK_TIMEOUT_S, large: bool = False) -> Reply:
        """Run a program that acts in our spool. Raises NotOwner when it is not ours any more."""
        assert self._desk is not None
        reply = await self._talk(make, timeout_s, calls, large)
        path = f"{self._desk.root}/owner on {self._host.where}"
        if reply.has("gone"):
            refuse_lost("", self._owner, path, self._desk.root)
        if not reply.has("begin"):
            if (held := reply.first("owner")) is not None:
                refuse_lost(held, self._owner, path, self._desk.root)
            raise Unreachable(f"{self._host.where} gave no answer that can be understood")
        return reply

    def _whole(self, reply: Reply) -> Reply:
        """`reply`, if all of it is there: of half an answer, what is missing would be taken for absent. Raises Unreachable."""
        if not reply.has("end"):
            raise Unreachable(f"{self._host.where} was cut short in the middle of its answer (a program of ours was ended there)")
        return reply

    async def _submitted(self, make: Callable[[str], str], calls: int) -> Reply:
        return await self._ours(make, calls, SUBMIT_TIMEOUT_S, large=True)

    async def _apart(self, work: Callable[[], T], size: int) -> T:
        """Do something that takes long for a large `size` on a thread. A look that is given up waits for it: two must not change what was
        seen at the same time."""
        if size <= _LARGE:
            return work()
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.wait([thread])
            raise

    def _learn_clock(self, reply: Reply, began_at: float) -> None:
        _, sightings = self._known
        sightings.skew_s = self._skew(reply, began_at)

    async def _find_members(self, desk: far.Desk, sightings: Sightings, rows: Sequence[Row]) -> None:
        if arrays := sightings.unknown_arrays(rows):
            reply = await self._talk(lambda mark: far.records(desk, mark, (), arrays), LOOK_TIMEOUT_S, 0)
            sightings.see_members(arrays, members(self._whole(reply)))

    async def _read_trails(self, desk: far.Desk, sightings: Sightings, expected: Mapping[str, Expected], full: bool) -> None:
        sending = frozenset(self._sending)
        names = await self._apart(lambda: sightings.to_read(expected, sending, full), 20 * len(expected))
        for part in (names[first : first + _READ_AT_ONCE] for first in range(0, len(names), _READ_AT_ONCE)):
            reply = await self._ours(lambda mark, part=part: far.records(desk, mark, part, ()), 0)  # type: ignore[misc]
            sightings.see_trails(part, trails(self._whole(reply)), utc_now())

    async def _ask_words(self, desk: far.Desk, sightings: Sightings, expected: Mapping[str, Expected]) -> None:
        """Ask the scheduler why jobs ended, or where they are: its short memory, then its accounting, many at once."""
        wanted = await self._apart(lambda: sightings.to_ask(expected, utc_now()), 20 * len(expected))
        jobs = list(wanted)
        for part in (jobs[first : first + 500] for first in range(0, len(jobs), 500)):
            self._words_at = monotonic()  # between two questions is the floor, however many jobs a peek sees fail
            asked = {job: wanted[job] for job in part}
            ids = list(asked.values())
            reply = await self._ours(lambda mark, ids=ids: far.explained(desk, mark, ids), 1)  # type: ignore[misc]
            told = reply.asked.get("jobs")
            if told is None or told.code:
                sightings.postpone(part, utc_now())
                return
            rows = self._dialect.read_rows(reply.mark, told.text)
            rows += await self._ask_more(desk, sightings, asked, rows)
            missing = set(ids) - {row.job_id for row in rows}
            sightings.see_words(self._settled(sightings, asked, rows), rows, expected, utc_now())
            if missing:
                self._site_at = 0.0  # a scheduler that restarted may have forgotten them: when did it start?
        if heard := await self._apart(lambda: sightings.to_hear(expected), 20 * len(expected)):
            reply = await self._ours(lambda mark: far.said(desk, mark, heard), 0)
            sightings.see_said({job: text for job, _, text in (each.partition(" ") for each in reply.all("said"))})

    async def _ask_more(self, desk: far.Desk, sightings: Sightings, asked: Mapping[str, str], rows: Sequence[Row]) -> list[Row]:
        """What only the accounting knows: jobs that the scheduler has forgotten, and who cancelled those that were not ended by us."""
        if self._site is None or not self._site.accounting:
            return []
        by_id = {row.job_id: row for row in rows}
        missing = {job_id for job_id in asked.values() if job_id not in by_id}
        cancelled = {asked[job] for job in self._cancelled(sightings, asked, by_id)}
        if not missing and not cancelled:
            return []
        found = await self._ask_accounts(desk, [*missing, *cancelled]) or []
        return [row for row in found if row.job_id in missing or (row.job_id in cancelled and row.cause is Cause.CANCELLED)]

    def _cancelled(self, sightings: Sightings, asked: Mapping[str, str], by_id: Mapping[str, Row]) -> list[str]:
        """Jobs that somebody else than us cancelled."""
        return [
            job
            for job, job_id in asked.items()
            if (row := by_id.get(job_id)) and row.cause is Cause.CANCELLED
            and not (trail := sightings.known[job].trail).cancel and not was_refused_by_its_node(trail, row)
        ]  # fmt: skip

    def _settled(self, sightings: Sightings, asked: Mapping[str, str], rows: Sequence[Row]) -> Mapping[str, str]:
        """`asked` without those of which the accounting may say in a moment who cancelled them: its row comes after the scheduler's."""
        if self._site is None or not self._site.accounting:
            return asked
        told = Counter(row.job_id for row in rows)
        soon = utc_now() - WHO_S
        late = {
            job
            for job in self._cancelled(sightings, asked, {row.job_id: row for row in rows})
            if told[asked[job]] == 1 and (known := sightings.known[job]).trail.exit is not None and known.since > soon
        }
        return {job: job_id for job, job_id in asked.items() if job not in late}

    async def _ask_accounts(self, desk: far.Desk, ids: Sequence[str]) -> list[Row] | None:
        """None: it does not answer."""
        reply = await self._ours(lambda mark: far.accounts_only(desk, mark, ids), 1)
        told = reply.asked.get("accounts")
        return self._dialect.read_accounts(reply.mark, told.text) if told and not told.code else None

    def _collect(self, desk: far.Desk, now: float) -> None:
        """Ask what ended jobs used, a batch of those whose accounting should be there by now. Beside the looks: a database that hangs
        answers after 45 s. What it says is told by a later look."""
        if self._site is None or not self._site.accounting or (self._collecting is not None and not self._collecting.done()):
            return
        if due := self._accounts.due(now):
            self._collecting = asyncio.ensure_future(self._ask_usage(desk, due))

    async def _ask_usage(self, desk: far.Desk, due: Mapping[str, str]) -> None:
        try:
            rows = await self._ask_accounts(desk, list(due.values()))
        except (NotOwner, Unreachable):
            rows = None  # the next look meets the same, and says so
        if rows is None:
            self._accounts.silent(utc_now())
            return
        self._accounts.learn(due, {row.job_id: row for row in rows}, utc_now())
        self._changed()

    async def _empty(self, desk: far.Desk, jobs: Sequence[str]) -> None:
        """Take mail away that nobody expects; the job's folder keeps the record."""
        if jobs:
            await self._ours(lambda mark: far.looked_away(desk, mark, jobs), 0)

    async def _sweep(self, desk: far.Desk, sightings: Sightings) -> None:
        """Take jobs out of the queue that can do no work: their start was revoked."""
        if ids := sightings.leftovers():
            await self._ours(lambda mark: far.ended(desk, mark, ids), 1)

    async def _ask_site(self, now: float) -> None:
        """What the cluster allows, if it is time to ask. After the queue has answered: a scheduler that does not must not hold up the
        mailbox."""
        if self._site is not None and now < self._site_at + SITE_S:
            return
        try:
            self._site = await self.ask_site()
        except Unreachable:
            return  # asked again by the next full look
        self._site_at = now
        if now >= self._size_at + SIZE_S and (self._measuring is None or self._measuring.done()):
            self._size_at = now
            self._measuring = asyncio.ensure_future(self._measure())

    async def _measure(self) -> None:
        """How large the spool is. Beside the looks: on a network file system this may take long."""
        desk, _ = self._known
        try:
            reply = await self._talk(lambda mark: far.measured(desk, mark), LOOK_TIMEOUT_S, 0)
        except Unreachable:
            return  # asked again in an hour
        size = reply.first("size")
        self._size_bytes = int(size) * 1024 if size and size.isdecimal() else None

    def _array_most(self) -> int:
        if self._place.array == "never" or self._site is None:
            return 1
        limits = [each for each in (self._site.array_max, self._site.jobs_max, self._site.submit_max) if each]
        return max(1, min(limits)) if self._site.array_max else 1

    def _room(self) -> int | None:
        site = self._site
        if site is None or site.submit_max is None:
            return None
        return max(0, site.submit_max - self._seen.rows - sum(count for _, count in self._seen.sent))

    def _started_at(self) -> float | None:
        if self._site is None or self._site.started_at is None:
            return None
        _, sightings = self._known
        return self._site.started_at - sightings.skew_s

    def _about(self, now: float) -> Mapping[str, str | int | float]:
        desk, sightings = self._known
        about: dict[str, str | int | float] = {
            "scheduler": f"{self._dialect.title} {self._site.version if self._site else ''}".strip(),
            "host": self._host.where,
            "spool": desk.root,
            "calls_last_hour": self._calls.last_hour(now),
        }
        if self._size_bytes is not None:
            about["spool_bytes"] = self._size_bytes
        if self._site is not None:
            about["accounting"] = "yes" if self._site.accounting else "no"
        if abs(sightings.skew_s) >= 2.0:
            about["clock_ahead_s"] = round(sightings.skew_s)
        return about

    def _run_of(self, row: Row, sightings: Sightings) -> str:
        if job := sightings.job_of(row):
            return job.partition(".")[0]
        return array.run if row.index is not None and (array := array_of(row.name)) else ""

    def log_path(self, job: str) -> str:
        """Where a job's standard output is, for people: `host:path`."""
        root = self._desk.root if self._desk else f"{self._place.spool}/{self._place.instance}"
        return f"{self._host.where}:{root}/runs/{job.partition('.')[0]}/{job}/out"


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
