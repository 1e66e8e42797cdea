"""One backend as the controller sees it: the newest snapshot, what of it is new, and the actions under way.

Made by controller.py, one for each backend, so that a slow or dead one never delays another. It decides nothing: it asks,
remembers the newest answer, and carries actions there. What comes back waits here as receipts until it has been saved.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, filterfalse
from operator import is_not

import structlog

from reconciler.backends.base import Backend, CancelRequest, FileRange, FileRequest, JobRequest
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import BackendSpec
from reconciler.core.observed import Answer, BackendView, Expected, JobFact, Receipt, Snapshot, Usage
from reconciler.errors import NotOwner, StateLost, Unreachable
from reconciler.log import EventName

log = structlog.get_logger(__name__)

#: A look that takes longer than this counts as a backend that cannot be reached. A Slurm client gives up by itself after 9-45 s.
LOOK_TIMEOUT_S = 60.0
#: After a look that failed: 1, 2, 4 … seconds, up to this. A minute is what an outage may cost after it has ended.
BACKOFF_S_MAX = 60.0
#: A stop ends within 5 s, whatever a backend does. A connection needs a round trip to be closed.
RELEASE_TIMEOUT_S = 2.0
#: Options of a Backend document that say where its jobs' records are. While jobs live there, they cannot change. Of those of `ssh`, what
#: says which machine and which user; a key may change at any time.
PLACE_OPTIONS, SSH_PLACE_OPTIONS = ("spool", "host"), ("host", "port", "user", "jump")
#: A backend that asks to be looked at again sooner is looked at after this: no opinion of it may keep the loop busy.
AGAIN_S_MIN = 0.01
#: After a submission was accepted: how long until that is saved, unless something else is, and until it is looked whether it runs.
ACCEPTED_WAIT_S = 0.05
SEEN_RUNNING_S = 0.25
#: So many jobs that no look shows any more are remembered before they are swept out together.
FORGOTTEN_MAX = 1000
#: Files that a generator writes. ScriptHut's largest known one is 300 KB; the manifest limit of 1 MB holds here too.
GENERATED_BYTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Fetched:
    """A generator's file, as it came back. `at` is when."""

    job: str
    path: str
    file: FileRange
    at: float


class Outlook:
    """What we see of one backend. `wake` is called whenever something new is here."""

    def __init__(
        self,
        spec: BackendSpec,
        backend: Backend,
        poll_interval_s: float,
        wake: Callable[[], None],
        take: Callable[[], Awaitable[None]] | None = None,
        release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`take` makes the far side ours, before the first look; it may raise what a look raises, and StateLost. `release` frees what the
        backend holds here, at the end."""
        self._release = release
        self._take = take
        self.lost: StateLost | None = None  # found while taking it: the daemon must stop
        self.spec = self._made = spec  # as its document is now, and as it was when `backend` was made
        self.backend = backend
        self.poll_interval_s = poll_interval_s
        self.later = ""  # a change of its document that cannot count yet, in words
        self._yielding = False  # the next cycle in which nothing is under way here makes another in its place
        self.gone = False  # its document was removed: nothing new is sent, what runs is followed to its end
        self.expected: dict[str, Expected] = {}  # job names believed alive, kept up by the controller
        self.receipts: list[Receipt] = []
        self.fetched: list[Fetched] = []
        self.usage: dict[str, Usage] = {}  # by job name, until it has been saved
        self.looks = 0  # how many came back
        self.tried = 0  # how many were begun and ended in any way
        self.problem = ""  # "": reachable; else why not
        self.unowned = False
        self.problem_since = 0.0
        self._wake = wake
        self._snapshot: Snapshot | None = None
        self._asked: Mapping[str, Expected] = {}  # what was expected when the newest snapshot's look began
        self._folded: dict[str, JobFact] = {}
        self._told: tuple[Snapshot, int] | None = None  # the snapshot that was last told of, and how many facts; None: not all of it
        self._quiet: Snapshot | None = None  # nothing is new in this one: a cycle that something else woke need not go through it
        self._in_flight: set[str] = set()
        self._due = asyncio.Event()
        self._soon = False
        self._asked_for = False
        self._sent = 0  # jobs handed over since the beginning
        self._sent_before = 0  # of those, how many before the newest snapshot's look began
        self._look_at = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._acts: set[asyncio.Task[None]] = set()  # of those, all but the looking
        self._failures = 0

    def start(self) -> None:
        """Begin to look, now and then."""
        self._spawn(self._poll())

    async def close(self) -> None:
        """Stop looking and acting. Jobs go on; what was under way is settled by the next daemon's looks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._release is not None:
            try:
                async with asyncio.timeout(RELEASE_TIMEOUT_S):
                    await self._release()
            except TimeoutError:
                return  # a connection that cannot even be closed ends with the process
            except Exception:  # one backend's bug must not keep the daemon from ending
                log.exception(EventName.OBJECT_FAILED, kind="Backend", name=self.spec.name, verb="close")

    def look_soon(self) -> None:
        """Look now: something is known to have changed."""
        self._soon = True
        self._due.set()

    def look_now(self) -> None:
        """Look now, also within a back-off: a person asked."""
        self._asked_for = True
        self._due.set()

    def look_by(self, at: float) -> None:
        """Look no later than `at`, seconds since 1970."""
        if at < self._look_at:
            self._look_at = at
            self._due.set()

    def suits(self, spec: BackendSpec) -> bool:
        """Whether the backend that was made is the one that this document asks for."""
        return place_of(spec) == place_of(self._made) and spec.options == self._made.options

    def yields_to(self, spec: BackendSpec) -> bool:
        """Whether another may take its place for this document, now. Elsewhere: when no job of it may be alive, or nothing could ever be
        done through it. In the same place, only made otherwise: as soon as nothing is under way."""
        if place_of(spec) != place_of(self._made):
            return not self.expected or not self.looks
        return not (self._acts or self.receipts or self.fetched or self.usage)

    def follow(self, spec: BackendSpec) -> None:
        """Its document is this now, and all of it counts."""
        self.spec, self.gone, self.later, self._yielding = spec, False, "", False

    def wait_for(self, spec: BackendSpec) -> None:
        """Its document is this now, which needs another in its place: what this one was made of stays in force until then."""
        now, then = place_of(spec), place_of(self._made)
        moved = [key for key, value in now.items() if value != then[key]]
        self._yielding = not moved
        self.later = "its options have changed; they count when what is being sent there has been answered"
        if moved:
            verb = "is another one" if len(moved) == 1 else "are other ones"
            self.later = f"its {' and '.join(moved)} {verb} now; that counts when its {len(self.expected)} jobs have ended"
        self.spec, self.gone = replace(spec, type=self._made.type, options=self._made.options), False

    @property
    def reachable(self) -> bool:
        """The newest look came back, and the far side is ours."""
        return self._snapshot is not None and not self.problem

    def view(self, now: float) -> BackendView:
        """What a plan must know of this backend."""
        snapshot, spec = self._snapshot, self.spec
        held = spec.suspend is not None and spec.suspend.holds(now)
        return BackendView(
            began_at=snapshot.began_at if snapshot else None,
            reachable=self.reachable,
            complete=bool(snapshot and snapshot.complete),
            absence_grace_s=spec.absence_grace_s,
            reason=self.problem,
            accepts=not (held or spec.draining or self.gone or self._yielding),
            scheduler_started_at=snapshot.scheduler_started_at if snapshot else None,
            strays=snapshot.unexpected if snapshot else (),
            forgotten=snapshot.forgotten if snapshot else frozenset(),
            later=self.later,
        )

    @property
    def about(self) -> Mapping[str, str | int | float]:
        """What a person should know of the backend, as the newest look has it."""
        return self._snapshot.about if self._snapshot else {}

    def room(self) -> int | None:
        """How many more jobs the scheduler says it would take, less what was sent since it was asked; None when it has no opinion."""
        if self._snapshot is None or self._snapshot.room is None:
            return None
        return max(0, self._snapshot.room - (self._sent - self._sent_before))

    def news(self) -> tuple[dict[str, JobFact], list[str]]:
        """Facts that differ from what was folded, and expected names that a complete look did not show."""
        snapshot = self._snapshot
        if snapshot is None or snapshot is self._quiet:
            return {}, []
        facts = snapshot.facts
        changed = differing(facts, self._folded)
        absent: list[str] = []
        if snapshot.complete and not self.problem:
            absent = [name for name in missing(self._asked, facts) if name in self.expected and name not in self._in_flight]
        self._told = None if absent else (snapshot, len(changed))
        return changed, absent

    def take_fetched(self) -> list[Fetched]:
        """Files that came back. Not kept: one that is lost with the daemon is read again."""
        fetched, self.fetched = self.fetched, []
        return fetched

    def expect(self, job: str, expected: Expected) -> None:
        """This job may exist from now on. What was seen of its name before anybody expected it is news again."""
        if job not in self.expected and self._folded.pop(job, None) is not None:
            self._quiet = None
        self.expected[job] = expected

    def fold(self, facts: Mapping[str, JobFact], absent: Sequence[str]) -> None:
        """These have been planned on and saved: they are not new any more."""
        if self._told is not None and self._told[1] == len(facts):
            self._quiet = self._told[0]
        self._folded.update(facts)
        for name in absent:
            self._folded.pop(name, None)
        if self._snapshot is not None and len(self._folded) > len(self._snapshot.facts) + FORGOTTEN_MAX:
            self._folded = {name: fact for name, fact in self._folded.items() if name in self._snapshot.facts}

    def drop(self, jobs: Sequence[str]) -> None:
        """These jobs are final and saved. The backend may empty its mailbox of them."""
        for job in jobs:
            self.expected.pop(job, None)
            self._folded.pop(job, None)
        if jobs:
            self._act(self._forget(tuple(jobs)))

    def submit(self, jobs: Sequence[JobRequest]) -> None:
        """Send these, in the background. Their intents are saved."""
        self._in_flight.update(job.job for job in jobs)
        self._sent += len(jobs)
        self._act(self._send(tuple(jobs)))

    def cancel(self, jobs: Sequence[CancelRequest]) -> None:
        """Revoke and end these, in the background."""
        self._act(self._end(tuple(jobs)))

    def fetch(self, request: FileRequest) -> None:
        """Read a generator's file, in the background."""
        self._act(self._read(request))

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _act(self, work: Awaitable[None]) -> None:
        """Beside the looks, and beside each other: a submission may take minutes."""
        self._acts.add(task := self._spawn(work))
        task.add_done_callback(self._acts.discard)

    async def _poll(self) -> None:
        while True:
            self._soon, self._asked_for, self._look_at = False, False, math.inf
            await self._look()
            self.tried += 1
            self._wake()
            await self._pause(monotonic() + self._pause_s())

    def _pause_s(self) -> float:
        """How long until the next look, when nothing happens."""
        if self._failures:
            return min(BACKOFF_S_MAX, 2.0 ** min(self._failures - 1, 10))
        again_s = self._snapshot.again_s if self._snapshot else None
        return self.poll_interval_s if again_s is None else max(AGAIN_S_MIN, again_s)

    async def _pause(self, until: float) -> None:
        """Wait for a reason to look: the interval, `look_by`, `look_now`, or `look_soon`, which does not count after a failure."""
        while (left := min(until - monotonic(), self._look_at - utc_now())) > 0:
            if self._asked_for or (self._soon and not self._failures):
                return
            self._due.clear()
            try:
                async with asyncio.timeout(left):  # wait_for of Python 3.11 loses a cancellation that comes as it is due
                    await self._due.wait()
            except TimeoutError:
                return

    async def _look(self) -> None:
        asked, sent = dict(self.expected), self._sent - len(self._in_flight)
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                if self._take is not None:
                    await self._take()
                    self._take = None
                snapshot = await self.backend.look(asked)
        except StateLost as error:
            self.lost = error
            self._fail(str(error), EventName.STATE_LOST)
        except NotOwner as error:
            self._fail(str(error), EventName.BACKEND_NOT_OWNED)
            self.unowned = True
        except (Unreachable, TimeoutError) as error:
            self._fail(str(error) or f"no answer within {LOOK_TIMEOUT_S:.0f} s", EventName.BACKEND_UNREACHABLE)
        except Exception as error:  # one backend's bug must not stop the others
            log.exception(EventName.OBJECT_FAILED, kind="Backend", name=self.spec.name, verb="look")
            self._fail(f"{type(error).__name__}: {error}", EventName.BACKEND_UNREACHABLE)
        else:
            self._take_in(snapshot, asked, sent)

    def _take_in(self, snapshot: Snapshot, asked: Mapping[str, Expected], sent: int) -> None:
        """A look came back. `asked`: what was expected when it began; `sent`: how many jobs had been handed over and answered by then."""
        self.usage.update(snapshot.usage)
        self._snapshot, self._asked, self._sent_before = snapshot, asked, sent  # looks come one after the other, whatever the clock says
        self.looks += 1
        self.unowned = False
        if snapshot.problem:
            self._fail(snapshot.problem, EventName.BACKEND_UNREACHABLE)
            return
        if self.problem:
            log.info(EventName.BACKEND_REACHABLE, backend=self.spec.name, after_s=round(utc_now() - self.problem_since, 1))
        self.problem, self._failures = "", 0

    def _fail(self, problem: str, event: EventName) -> None:
        self._failures += 1
        if not self.problem:
            self.problem_since = utc_now()
        if problem != self.problem:
            log.warning(event, backend=self.spec.name, reason=problem)
        self.problem = problem

    async def _send(self, jobs: Sequence[JobRequest]) -> None:
        receipts = await self._receipts("submit", [job.job for job in jobs], self.backend.submit(jobs))
        self._in_flight.difference_update(job.job for job in jobs)
        self._receive(receipts)

    async def _end(self, jobs: Sequence[CancelRequest]) -> None:
        self._receive(await self._receipts("cancel", [job.job for job in jobs], self.backend.cancel(jobs)))

    def _receive(self, receipts: Sequence[Receipt]) -> None:
        self.receipts.extend(receipts)
        if all(receipt.answer is Answer.ACCEPTED for receipt in receipts):
            # No hurry: nothing follows from it but a word in the ledger, and short jobs end before it would be written.
            self.look_by(utc_now() + SEEN_RUNNING_S)
            asyncio.get_running_loop().call_later(ACCEPTED_WAIT_S, self._wake)
        else:
            self.look_soon()
            self._wake()

    async def _receipts(self, verb: str, names: Sequence[str], call: Awaitable[Sequence[Receipt]]) -> Sequence[Receipt]:
        """What came back; where nothing did, UNKNOWN for every job named."""
        try:
            return await call
        except (Unreachable, NotOwner) as error:
            reason = str(error)
        except Exception as error:  # one backend's bug must not stop the others
            log.exception(EventName.OBJECT_FAILED, kind="Backend", name=self.spec.name, verb=verb)
            reason = f"{type(error).__name__}: {error}"
        return [Receipt(name, Answer.UNKNOWN, utc_now(), reason=reason) for name in names]

    async def _read(self, request: FileRequest) -> None:
        try:
            file = await self.backend.fetch(request)
        except (Unreachable, NotOwner):
            return  # told again by the plan
        except Exception:  # one backend's bug must not stop the others; told again by the plan
            log.exception(EventName.OBJECT_FAILED, kind="Backend", name=self.spec.name, verb="fetch")
            return
        self.fetched.append(Fetched(request.job, request.path, file, utc_now()))
        self._wake()

    async def _forget(self, jobs: Sequence[str]) -> None:
        try:
            await self.backend.forget(jobs)
        except (Unreachable, NotOwner):
            return  # its mailbox stays fuller than it must be; nothing depends on it
        except Exception:  # one backend's bug must not stop the others
            log.exception(EventName.OBJECT_FAILED, kind="Backend", name=self.spec.name, verb="forget")


def place_of(spec: BackendSpec) -> dict[str, object]:
    """What of a backend's document says where its jobs and their records are, by its name there."""
    ssh = spec.options.get("ssh")
    far = ssh if isinstance(ssh, Mapping) else {}
    here = {key: spec.options.get(key) or None for key in PLACE_OPTIONS}
    return {"type": spec.type, **here, **{f"ssh.{key}": far.get(key) or None for key in SSH_PLACE_OPTIONS}}


# With 100,000 jobs, looking up every name of one dictionary in another costs 10 to 90 ms, depending on who else uses the caches; going
# through both in order costs 5. Their order is the same nearly always: what is new is appended to both.


def differing(facts: Mapping[str, JobFact], known: Mapping[str, JobFact]) -> dict[str, JobFact]:
    """Those of `facts` that are not the very same object in `known`."""
    if len(facts) == len(known) and list(facts) == list(known):
        return dict(compress(facts.items(), map(is_not, facts.values(), known.values())))
    return dict(compress(facts.items(), map(is_not, facts.values(), map(known.get, facts))))


def missing(names: Mapping[str, object], facts: Mapping[str, JobFact]) -> list[str]:
    """Those of `names` that are not in `facts`."""
    if len(names) == len(facts) and list(names) == list(facts):
        return []
    return list(filterfalse(facts.__contains__, names))
