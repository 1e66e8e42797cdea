"""What was seen of each job of a cluster so far, put together from looks of several kinds. No I/O; called by cluster.py.

A look shows rows of the queue, exit records and, by name, trails of the spool; here they are matched with job names, and it is told
what is still to be read or asked before a fact can be stated. What is remembered is only what a look can show again: a restarted
daemon begins with nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.backends.dialect import Row
from reconciler.backends.far_marks import FarExit, JobStart
from reconciler.backends.judgement import Evidence, Patience, fact_of, needs_said, needs_word
from reconciler.backends.packing import ArrayName, Namer, array_of
from reconciler.backends.reply import Trail
from reconciler.core.names import parse_job_name
from reconciler.core.observed import Expected, JobFact, JobState

#: A job that was submitted longer before its intent than this is somebody else's, whatever it is called. Clocks differ, seconds are cut.
_SUBMITTED_SLACK_S = 120.0
#: A question that the scheduler could not answer is asked again after 0.3, 0.6, 1.2 … seconds, up to this.
_ASK_AGAIN_S, _ASK_AGAIN_MAX_S = 0.3, 20.0
#: Above so many arrays, those are let go of which nothing lives.
_ARRAYS_KEPT = 200
#: A job whose end was told is still in the queue for a moment, and is nobody's stray.
_TOLD_S = 900.0
#: So many jobs are remembered whose mail was taken away unread; the others are found by the next full look.
_EMPTIED_MAX = 10_000


@dataclass
class Known:
    """One job. `since`: when its end was first suspected, 0.0 not yet; `ask_at`: when the scheduler may be asked about it again."""

    trail: Trail = field(default_factory=Trail)
    live: Row | None = None
    word: Row | None = None
    asked: bool = False
    asks: int = 0
    ask_at: float = 0.0
    since: float = 0.0
    said: str = ""
    to_read: bool = False
    fact: JobFact | None = None
    fresh: bool = True  # something of the above has changed since `fact` was made
    job_id: str = ""  # as a receipt or the ledger has it


class Sightings:
    """All jobs of one instance on one cluster."""

    def __init__(self, namer: Namer, patience: Patience) -> None:
        self.namer = namer
        self.known: dict[str, Known] = {}
        self.arrays: dict[str, dict[int, str]] = {}  # by folder: the job of each index
        self.forgotten: set[str] = set()  # names whose id is another job's by now
        self.skew_s = 0.0
        self._patience = patience
        self._names: dict[str, str] = {}  # of the scheduler -> job, of those seen or sent; "": not ours
        self._array_names: dict[str, ArrayName | None] = {}
        self._told: dict[str, float] = {}  # jobs that are over and dropped, and until when that is remembered
        self._alien: set[str] = set()  # folders of arrays that are not in our spool
        self._nobodys: set[str] = set()  # mail that nobody expected at the last look
        self._emptied: dict[str, None] = {}  # and that was taken away
        self._later: deque[Callable[[], None]] = deque()

    # What comes in

    def sent(self, array: str, members: Mapping[int, str]) -> None:
        """These jobs were sent as an array."""
        self.arrays[array] = dict(members)

    def accepted(self, job: str, job_id: str) -> None:
        """The scheduler said which job it is. Counts from the next look on: one may be under way on a thread."""
        self._later.append(lambda: setattr(self._of(job), "job_id", job_id))

    def touched(self, jobs: Sequence[str]) -> None:
        """Something was done to the records of these. They are read again, by the next look: one under way may have read them before."""

        def read_again() -> None:
            for job in self.known.keys() & set(jobs):
                self.known[job].to_read = True

        self._later.append(read_again)

    def settle(self) -> None:
        """Take in what was told since the last look. Only while no look is under way."""
        while self._later:
            self._later.popleft()()

    def see_exits(self, exits: Mapping[str, tuple[FarExit, float | None]], expected: Mapping[str, Expected], now: float) -> bool:
        """Exit records of the mailbox. Whether any was new."""
        news = False
        for job, (record, at) in exits.items():
            if job not in expected:
                continue
            known = self._of(job)
            if known.trail.over or known.trail.exit == record:
                continue
            known.trail = replace(known.trail, exit=record, ended_at=at)
            self._suspect(known, now)
            self._ask_anew(known)
            known.live = None if record.code and known.trail.over else known.live
            known.to_read = bool(record.code)  # a mark of ours may say why
            news = True
        return news

    def stale_mail(self, names: Iterable[str], expected: Mapping[str, Expected], sending: Collection[str]) -> list[str]:
        """Of the jobs with mail those that nobody expects, and nobody expected at the last look: each look would read it for ever. A job
        that was sent meanwhile is expected by now, because its intent is saved before. One that is expected after all is read by name."""
        for job in expected.keys() & self._emptied.keys():
            del self._emptied[job]
            self._of(job).to_read = True
        nobodys = {job for job in names if job not in expected and job not in sending and parse_job_name(job)}
        stale = nobodys & self._nobodys
        self._nobodys = nobodys - stale
        self._emptied |= dict.fromkeys(sorted(stale))
        while len(self._emptied) > _EMPTIED_MAX:
            del self._emptied[next(iter(self._emptied))]
        return sorted(stale)

    def see_queue(self, rows: Sequence[Row], expected: Mapping[str, Expected], now: float) -> bool:
        """The live queue, all of it. Whether anything moved."""
        seen: dict[str, list[Row]] = {}
        for row in rows:
            if job := self.job_of(row):
                seen.setdefault(job, []).append(row)
        news = False
        for job in expected.keys() | seen.keys() | self.known.keys():
            mine = self._chosen(job, seen.get(job, ()), expected.get(job))
            if mine is None and job not in expected:
                if job in self.known:
                    self.known[job].live = None  # or its id would be ended in every look, also when it is another job's by then
                continue
            if job not in expected and job not in self.known:
                self._of(job).to_read = True  # a stray, or one whose start was revoked
            news |= self._see_live(job, mine, now)
        return news

    def _see_live(self, job: str, row: Row | None, now: float) -> bool:
        known = self._of(job)
        if isinstance(known.trail.exit, FarExit) and known.trail.over and known.trail.exit.code:
            row = None  # it is not the queue's word that is waited for
        if row == known.live:
            if row is None:
                self._suspect(known, now)
            return False
        moved = (row is None) is not (known.live is None) or (row and known.live and row.state is not known.live.state)
        if row is not None:
            if row.state is JobState.RUNNING and (not known.trail.started or (known.live and known.live.state is not JobState.RUNNING)):
                known.to_read = True
            known.word, known.asked, known.asks, known.ask_at = None, False, 0, 0.0
            known.since = known.since if known.trail.over else 0.0
        else:
            known.to_read = True
            self._suspect(known, now)
        known.live, known.fresh = row, True
        return bool(moved)

    def see_trails(self, asked: Iterable[str], trails: Mapping[str, Trail], now: float) -> None:
        """What the spool holds of the jobs that were asked about."""
        for job in asked:
            known = self._of(job)
            known.to_read = False
            found = trails.get(job, Trail())
            if known.trail.over and not isinstance(found.exit, FarExit):
                found = replace(found, exit=known.trail.exit, ended_at=known.trail.ended_at)
            if found.exit is not None and known.trail.exit is None:
                self._ask_anew(known)
            if found != known.trail:
                known.trail, known.fresh = found, True
            if found.over:
                self._suspect(known, now)
            if found.sending is not None and found.sending.job_id and not found.sending.array and not known.job_id:
                known.job_id = found.sending.job_id
            self._drop_twin(known)

    def _drop_twin(self, known: Known) -> None:
        """Rows of another job under this name are a twin's, which leaves by itself."""
        start = next((each for each in reversed(known.trail.starts) if isinstance(each, JobStart)), None)
        if start is None or start.job_id == "none":
            return
        known.job_id = start.job_id
        for which in ("live", "word"):
            row: Row | None = getattr(known, which)
            if row is not None and row.job_id != start.job_id:
                setattr(known, which, None)
                known.fresh = True

    def see_members(self, arrays: Sequence[tuple[str, str]], members: Mapping[str, Mapping[int, str]]) -> None:
        """Who is in the arrays that were asked about. What is no name of a job of that run is left out: it would get into a program."""
        for run, folder in arrays:
            if folder in members:
                named = ((index, job, parse_job_name(job)) for index, job in members[folder].items())
                self.arrays[folder] = {index: job for index, job, parts in named if parts is not None and parts.run == run}
            else:
                self._alien.add(folder)

    def see_words(self, asked: Mapping[str, str], rows: Sequence[Row], expected: Mapping[str, Expected], now: float) -> None:
        """What the scheduler said about the jobs that were asked about, each with the id it was asked by."""
        by_id = {row.job_id: row for row in rows}
        for job, job_id in asked.items():
            known = self._of(job)
            row = by_id.get(job_id)
            if row is not None and (other := self.job_of(row)) != job:
                if not other and _may_be(known, row):
                    row = replace(row, state=JobState.UNKNOWN, reason=f"a job with its id is there, under another name ({row.name[:80]})")
                else:
                    self.forgotten.add(job)
                    row = None
            if row is not None and row.state is not JobState.UNKNOWN and self._chosen(job, [row], expected.get(job)) is None:
                row = None
            known.asked, known.fresh, known.asks = True, True, known.asks + 1
            known.ask_at = now + min(_ASK_AGAIN_MAX_S, _ASK_AGAIN_S * 2.0 ** min(known.asks, 10))
            if row is not None:
                if row.state is JobState.ENDED and not (known.word and known.word.state is JobState.ENDED):
                    known.to_read, known.since = True, now  # its records may have been read before it ended: patience begins now
                known.word = row
                if row.state not in (JobState.ENDED, JobState.UNKNOWN) and (known.trail.exit is None or known.trail.interrupted):
                    known.live = row
            elif known.word is not None and known.word.state is not JobState.ENDED:
                known.word = None  # it was alive when it was last heard of, and is not known any more: that is no news of a living job

    def postpone(self, jobs: Iterable[str], now: float) -> None:
        """The scheduler could not be asked about these: not again at once."""
        for job in jobs:
            known = self._of(job)
            known.asks += 1
            known.ask_at = now + min(_ASK_AGAIN_MAX_S, _ASK_AGAIN_S * 2.0 ** min(known.asks, 10))

    def see_said(self, said: Mapping[str, str]) -> None:
        """What the scheduler wrote into the output of jobs."""
        for job, text in said.items():
            known = self._of(job)
            known.said, known.fresh = text or " ", True

    def _ask_anew(self, known: Known) -> None:
        """That the scheduler did not know of it, before its exit record was seen, does not say why it ended."""
        if known.word is None:
            known.asked, known.ask_at = False, 0.0

    def _suspect(self, known: Known, now: float) -> None:
        known.since = known.since or now
        known.fresh = True

    # What is still to be found out

    def to_read(self, expected: Mapping[str, Expected], sending: frozenset[str], full: bool) -> list[str]:
        """Jobs whose trail must be read before anything is told of them: newly begun, ended, nobody's, never heard of; after a full look
        also those that are about to be called absent, or said to run and not known to have started."""
        found = [job for job, known in self.known.items() if known.to_read and job not in sending]
        found += sorted(expected.keys() - self.known.keys() - sending)
        absent = [job for job in expected if job not in sending and self._is_absent(self._of(job))] if full else []
        return list(dict.fromkeys((*found, *absent)))

    def _is_absent(self, known: Known) -> bool:
        """Nothing shows it; or it runs, and its start record is not there yet, which only reading again can tell."""
        if known.trail.exit is not None or known.trail.revoked:
            return False
        return known.live is None or (known.live.state is JobState.RUNNING and not known.trail.started)

    def unknown_arrays(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Arrays in the queue that look like ours and of which nobody knows the members, as (run, folder)."""
        found = {}
        for row in rows:
            if row.index is None or (array := self._array(row.name)) is None:
                continue
            if array.folder not in self.arrays and array.folder not in self._alien:
                found[array.folder] = array.run
        return [(run, folder) for folder, run in found.items()]

    def to_ask(self, expected: Mapping[str, Expected], now: float) -> dict[str, str]:
        """Jobs whose end is suspected and may be explained by the scheduler, with the id to ask by."""
        found = {}
        for job, each in expected.items():
            known = self.known.get(job)
            if known is None or not known.since or known.to_read or now < known.ask_at or not needs_word(self._evidence(known)):
                continue
            if job_id := known.job_id or each.job_id or self._element_id(known):
                found[job] = job_id
        return found

    def _element_id(self, known: Known) -> str:
        return known.trail.exit.job_id if isinstance(known.trail.exit, FarExit) and known.trail.exit.job_id != "none" else ""

    def to_hear(self, expected: Mapping[str, Expected]) -> list[tuple[str, str, int]]:
        """Jobs whose output may say why the scheduler ended them, each with its array's folder ("": none) and index."""
        found = []
        for job in expected:
            known = self.known.get(job)
            if known is not None and known.fresh and not known.said and needs_said(self._evidence(known)):
                sending = known.trail.sending
                found.append((job, sending.array if sending else "", sending.index if sending else 0))
        return found

    # What is told

    def facts(self, expected: Mapping[str, Expected], now: float) -> dict[str, JobFact]:
        """Facts of all expected jobs that are not absent, in their order, and of live ones that nobody expects."""
        facts = {}
        for job in expected:
            known = self._of(job)
            if known.fresh:
                self._judge(known, now)
            if known.fact is not None:
                facts[job] = known.fact
        for job in self.strays(expected, now):
            known = self.known[job]
            self._judge(known, now)
            if known.fact is not None:
                facts[job] = known.fact
        return facts

    def _judge(self, known: Known, now: float) -> None:
        fact = fact_of(self._evidence(known), now, self._patience)
        # what waits for more evidence is judged again by every look, because patience ends by itself
        known.fresh = bool(known.since) and (fact is None or fact.state is not JobState.ENDED)
        if fact is not None and fact.state is JobState.ENDED and known.fact is not None and known.fact.state is JobState.ENDED:
            return  # its end was told; only the words could differ
        if fact != known.fact:
            known.fact = fact

    def strays(self, expected: Mapping[str, Expected], now: float) -> list[str]:
        """Live jobs of this instance that nobody expects."""
        self._told = {job: until for job, until in self._told.items() if until > now}
        return sorted(
            job
            for job, known in self.known.items()
            if job not in expected and job not in self._told and _is_alive(known)
        )

    def leftovers(self) -> list[str]:
        """Ids of waiting jobs whose start was revoked: they can do no work, and only take up room in the queue."""
        return [
            known.live.job_id for known in self.known.values() if known.live and known.live.state is JobState.QUEUED and known.trail.revoked
        ]

    def forget(self, jobs: Sequence[str], now: float) -> None:
        """These are final: nothing of them is told any more, from the next look on."""

        def let_go() -> None:
            for job in jobs:
                self._told[job] = now + _TOLD_S
                self.forgotten.discard(job)
                self.known.pop(job, None)

        self._later.append(let_go)

    def drop_unseen(self, expected: Mapping[str, Expected], sending: frozenset[str]) -> None:
        """Let go of what nobody expects and no queue shows."""
        for job in [job for job, known in self.known.items() if job not in expected and job not in sending and known.live is None]:
            del self.known[job]
        if len(self.arrays) > _ARRAYS_KEPT:  # who was in one can be read again
            self.arrays = {
                folder: members
                for folder, members in self.arrays.items()
                if any(job in self.known or job in sending for job in members.values())
            }
            self._alien.clear()

    # How

    def job_of(self, row: Row) -> str:
        """The job of ours that a row is; "" when it is none."""
        if row.index is not None:
            array = self._array(row.name)
            return self.arrays.get(array.folder, {}).get(row.index, "") if array else ""
        job = self._names.get(row.name)
        if job is None:
            job = self._names[row.name] = self.namer.job_of(row.name)
            if len(self._names) > 200_000:  # a user's own jobs are remembered as not ours; not for ever
                self._names.clear()
        return job

    def is_ours(self, row: Row) -> bool:
        """Whether a row is a job of this instance."""
        return bool(self.job_of(row))

    def _array(self, name: str) -> ArrayName | None:
        if name not in self._array_names:
            if len(self._array_names) > 10_000:
                self._array_names.clear()
            self._array_names[name] = array_of(name)
        return self._array_names[name]

    def _of(self, job: str) -> Known:
        known = self.known.get(job)
        if known is None:
            known = self.known[job] = Known()
        return known

    def _evidence(self, known: Known) -> Evidence:
        return Evidence(known.trail, known.live, known.word, known.asked, known.since, known.said, self.skew_s)

    def _chosen(self, job: str, rows: Sequence[Row], expected: Expected | None) -> Row | None:
        """Of rows with this job's name the one that is it: the job of its start record if there is one, or that was acknowledged; else one
        that was submitted after its intent, as far as clocks can tell."""
        if not rows:
            return None
        known = self.known.get(job)
        start = next((each for each in reversed(known.trail.starts) if isinstance(each, JobStart)), None) if known else None
        if start is not None and start.job_id != "none":
            return next((row for row in rows if row.job_id == start.job_id), None)
        wanted = (known.job_id if known else "") or (expected.job_id if expected else "")
        acknowledged = next((row for row in rows if row.job_id == wanted), None)
        return acknowledged or next((row for row in rows if self._is_after(row, expected)), None)

    def _is_after(self, row: Row, expected: Expected | None) -> bool:
        if expected is None or not expected.claimed_at or row.submitted_at is None:
            return True
        return row.submitted_at - self.skew_s >= expected.claimed_at - _SUBMITTED_SLACK_S


def _may_be(known: Known, row: Row) -> bool:
    """Whether a live job of another name, which is no other job of ours, may be this one, renamed: it has the id that took the start. It
    may as well be a stranger to whom a restarted scheduler gave that id; so this is no verdict either way."""
    taken = any(isinstance(start, JobStart) and start.job_id == row.job_id for start in known.trail.starts)
    return taken and row.state in (JobState.QUEUED, JobState.RUNNING)


def _is_alive(known: Known) -> bool:
    """The queue shows it, and nothing says that it is over."""
    if known.live is None or known.live.state is JobState.ENDED or known.trail.over:
        return False
    return known.fact is None or known.fact.state is not JobState.ENDED
