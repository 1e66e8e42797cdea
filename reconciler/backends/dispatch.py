"""Sending jobs to a batch system: packed, claimed and recorded on the far side in few round trips, and what came back as receipts.

Called by cluster.py, one submission at a time. What is proven is told as proven; whatever a lost answer leaves open is UNKNOWN, and is
never sent again from here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from reconciler.backends import far
from reconciler.backends.base import JobRequest
from reconciler.backends.dialect import Dialect, Site
from reconciler.backends.packing import Batch, Namer, batches, comment_of
from reconciler.backends.reply import Reply
from reconciler.backends.script import Layout, job_script, trouble
from reconciler.backends.sightings import Sightings
from reconciler.clock import monotonic, utc_now
from reconciler.core.names import parse_job_name
from reconciler.core.observed import Answer, Receipt
from reconciler.errors import NotOwner, Unreachable
from reconciler.hosts.base import NotBegun

#: Jobs of one program at most: five hundred scripts are some 1 MB, and their claims a few tenths of a second.
JOBS_AT_ONCE = 500
#: Calls of the submit command in one program: at first, at least, and at most. The time between two programs is some 0.1 s, as much as
#: ten calls take on a good day; on a bad one a program must end before its time is up, and an answer that is lost leaves fewer in doubt.
CALLS_AT_FIRST, CALLS_MIN, CALLS_MAX = 100, 10, 300
#: A program that takes longer than the second is followed by smaller ones, a full one that takes less than the first by larger ones.
_QUICK_S, _SLOW_S = 5.0, 30.0
_CLASSES = {
    "refused": Answer.REFUSED,
    "bad": Answer.REFUSED,
    "limit": Answer.LIMIT,
    "transient": Answer.TRANSIENT,
    "unsent": Answer.TRANSIENT,
    "owner": Answer.TRANSIENT,
}
_TEXT_MAX = 1000

#: Runs a program's text on the far side: from (what it is made from the mark, how many calls of the scheduler are in it) to its reply.
Run = Callable[[Callable[[str], str], int], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Terms:
    """How jobs are sent now. `array_most`: elements of one array at most, 1 for no arrays. `umask` is that of the user there."""

    desk: far.Desk
    instance: str
    umask: str
    array_most: int
    site: Site


class Dispatch:
    """Sends jobs. Remembers between calls only how large an array the scheduler takes that has refused a larger one."""

    def __init__(self, dialect: Dialect, namer: Namer, sightings: Sightings, run: Run) -> None:
        self._dialect = dialect
        self._namer = namer
        self._sightings = sightings
        self._run = run
        self._array_fits: dict[tuple[str, ...], int] = {}  # by what the jobs ask for
        self._calls = CALLS_AT_FIRST
        self._too_many: list[Batch] = []  # arrays that a limit refused, of the newest step
        self._limit = ""  # the words of the newest limit
        self._stopped = ""  # why the newest step stopped

    async def send(self, jobs: Sequence[JobRequest], terms: Terms) -> list[Receipt]:
        """One receipt for each job. Raises NotOwner and NotBegun when nothing was done, and only then."""
        receipts, left, asked = await asyncio.to_thread(self._prepared, jobs, terms)
        halt, largest = "", min(terms.array_most, JOBS_AT_ONCE)
        fits = {options: size * 2 for options, size in self._array_fits.items()}  # a limit may have been lifted: twice what went through
        while left and not halt:
            step = secrets.token_hex(8)
            most = partial(_size, largest, fits)
            part = _first(batches(left, asked, self._namer, step, most), self._calls)
            self._too_many = []
            began = monotonic()
            told, halt = await self._step(part, terms, step, bool(receipts))
            self._calls = calls_next(self._calls, len(part), monotonic() - began)
            receipts.update(told)
            left = [job for job in left if job.job not in told]
            for batch in self._too_many:  # an array counts as many jobs as it has elements: half of it may still be taken
                fits[batch.asked] = self._array_fits[batch.asked] = max(1, len(batch.jobs) // 2)
                halt = "" if halt == "limit" else halt
            for batch in part:
                if batch.array and batch not in self._too_many and len(batch.jobs) == largest:
                    self._array_fits.pop(batch.asked, None)
        for job in left:
            receipts[job.job] = Receipt(job.job, _CLASSES.get(halt, Answer.TRANSIENT), utc_now(), reason=self._why(halt))
        return [receipts[job.job] for job in jobs]

    def _prepared(
        self, jobs: Sequence[JobRequest], terms: Terms
    ) -> tuple[dict[str, Receipt], list[JobRequest], dict[str, tuple[str, ...]]]:
        """Receipts of those that can never be sent, the others, and by job what these ask for. Long, for 10,000."""
        receipts: dict[str, Receipt] = {}
        fit = []
        for job in (self._dialect.capped(job, terms.site) for job in jobs):
            if words := self._trouble(job):
                receipts[job.job] = Receipt(job.job, Answer.REFUSED, utc_now(), reason=words)
            else:
                fit.append(job)
        return receipts, fit, {job.job: self._dialect.asked(job) for job in fit}

    def _trouble(self, job: JobRequest) -> str:
        name = parse_job_name(job.job)
        if name is None or name.run != job.run:
            return f"{job.job!r} is not the name of a job of run {job.run!r}"
        return trouble(job) or self._dialect.trouble(job)

    def _why(self, halt: str) -> str:
        if halt == "limit":
            return f"not sent yet: {self._limit}" if self._limit else "not sent yet: a limit of the scheduler is reached"
        return self._stopped or "not sent yet: the submission before it met trouble"

    async def _step(self, part: Sequence[Batch], terms: Terms, step: str, begun: bool) -> tuple[dict[str, Receipt], str]:
        """Send one part. Receipts of those of which something is known, and why nothing more may be sent ("": it may)."""
        def program(mark: str) -> str:
            return far.submitted(terms.desk, mark, [self._parcel(batch, terms) for batch in part], step)

        for batch in part:
            if batch.array is not None:
                self._sightings.sent(batch.array.folder, {index: job.job for index, job in enumerate(batch.jobs)})
        try:
            reply = await self._run(program, len(part))
        except (NotBegun, NotOwner) as error:
            if not begun:
                raise
            self._stopped = f"not sent: {error}"
            return {}, "transient"
        except Unreachable as error:
            self._stopped = f"not sent: {error}"
            jobs = (job.job for batch in part for job in batch.jobs)
            return {job: Receipt(job, Answer.UNKNOWN, utc_now(), reason=str(error)) for job in jobs}, "unknown"
        return self._receipts(part, reply)

    def _parcel(self, batch: Batch, terms: Terms) -> far.Parcel:
        scripts = tuple(f"#!/bin/sh\n{job_script(job, self._layout(job, terms))}" for job in batch.jobs)
        who = batch.jobs[0].job if batch.array is None else f"{batch.array.folder} of run {batch.array.run}"
        return far.Parcel(batch, scripts, f"{comment_of(terms.instance)}{who}")

    def _layout(self, job: JobRequest, terms: Terms) -> Layout:
        root = terms.desk.root
        uptime = "{ read -r up rest </proc/uptime; } 2>/dev/null"
        return Layout(
            folder=f"{root}/runs/{job.run}/{job.job}",
            exits=f"{root}/exits",
            identify=f'{self._dialect.identify}\n{uptime}\nset -- $me\nrestarts=${{3-0}} me="$me ${{up:-0}}"',
            umask=terms.umask,
            last=uptime,
            says=" $me ${up:-0}",
            count="$restarts",
        )

    def _receipts(self, part: Sequence[Batch], reply: Reply) -> tuple[dict[str, Receipt], str]:
        told: dict[str, Receipt] = {}
        at = utc_now()
        arrays = {batch.array.folder: batch for batch in part if batch.array is not None}
        won: dict[str, list[int]] = {}
        for word, rest in reply.lines:
            who, _, text = rest.partition(" ")
            match word:
                case "was":
                    self._accept(told, who, text, at)
                case "doubt":
                    told[who] = Receipt(who, Answer.UNKNOWN, at, reason="it was claimed before, and whether it was sent is not known")
                case "bad" | "unsent":
                    told[who] = Receipt(who, _CLASSES[word], at, reason=text[:_TEXT_MAX])
                case "in":
                    won.setdefault(who, []).append(int(text))
                case "ok" if who in arrays:
                    for index in won.get(who, ()):
                        self._accept(told, arrays[who].jobs[index].job, self._element(text, index), at)
                case "ok":
                    self._accept(told, who, text, at)
                case "no":
                    members = [arrays[who].jobs[index].job for index in won.get(who, ())] if who in arrays else [who]
                    self._refuse(told, members, text, at, arrays.get(who))
        if not reply.has("end"):  # the program was ended in the middle: what it did not tell is not known
            for batch in part:
                for job in batch.jobs:
                    told.setdefault(job.job, Receipt(job.job, Answer.UNKNOWN, at, reason="the answer was cut short"))
            return told, "unknown"
        return told, reply.first("stop") or ""

    def _accept(self, told: dict[str, Receipt], job: str, job_id: str, at: float) -> None:
        told[job] = Receipt(job, Answer.ACCEPTED, at, job_id)
        self._sightings.accepted(job, job_id)

    def _element(self, array_id: str, index: int) -> str:
        return self._dialect.element.replace("${id}", array_id).replace("$index", str(index))

    def _refuse(self, told: dict[str, Receipt], jobs: Sequence[str], text: str, at: float, array: Batch | None) -> None:
        class_, _, rest = text.partition(" ")
        words = rest.partition(" ")[2][:_TEXT_MAX]
        answer = _CLASSES.get(class_, Answer.UNKNOWN)
        if answer is Answer.LIMIT:
            self._limit = words
            if array is not None and len(jobs) > 1:
                self._too_many.append(array)
                return  # fewer may be taken: `send` tries
        for job in jobs:
            told[job] = Receipt(job, answer, at, reason=words)
        if answer is not Answer.REFUSED:
            self._stopped = f"not sent: {words}"


def _size(most: int, fits: Mapping[tuple[str, ...], int], options: tuple[str, ...]) -> int:
    """How many elements an array of jobs that ask for `options` may have."""
    return max(1, min(most, fits.get(options, most)))


def calls_next(limit: int, calls: int, took_s: float) -> int:
    """How many calls the next program may have, when one of `calls`, which might have had `limit`, took so long."""
    if took_s > _SLOW_S:
        return max(CALLS_MIN, limit // 2)
    return min(CALLS_MAX, 3 * limit) if calls >= limit and took_s < _QUICK_S else limit


def _first(found: Sequence[Batch], calls: int) -> list[Batch]:
    """As many of the first as one program takes."""
    part: list[Batch] = []
    jobs = 0
    for batch in found:
        if part and (jobs + len(batch.jobs) > JOBS_AT_ONCE or len(part) >= calls):
            break
        part.append(batch)
        jobs += len(batch.jobs)
    return part


