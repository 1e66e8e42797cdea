"""The loop: look -> plan -> save -> act. The only caller of core.plan, and the only place where decisions meet the world.

Made and run by daemon.py. It is level-triggered: whatever happens (a look came back, a file changed, a timer rang) only wakes the
loop, which plans from the newest state. So a missed or doubled wake-up is harmless, and a restart needs no code of its own: load
the ledger, look, plan.

One cycle: learn what is new for each run; decide which runs are owed; make them; share the room; plan what to send; save all of
it in one transaction; only then act. A save that fails throws the cycle away: what was new stays new, and nothing was done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ParamSpec, Protocol, TypeVar

import structlog

from reconciler.aside import aside
from reconciler.clock import monotonic, utc_now
from reconciler.core.desired import BackendSpec, OnDelete, Place, Revision, Run, Suspend
from reconciler.core.observed import BackendView, News
from reconciler.core.plan import after_restart, new_record, plan, remember
from reconciler.core.record import Event, RunHead, RunRecord
from reconciler.core.room import free, share
from reconciler.core.summary import moves
from reconciler.core.trigger import Context, Decisions, Gate, Waiting, owed, suspension
from reconciler.errands import MANY, carry_out
from reconciler.errors import LedgerCorrupt, LedgerError, LedgerUnwritable, StateLost
from reconciler.fleet import Fleet, LiveRun, Step, demands, first_in_line, head_of, limits_of
from reconciler.fresh import Fresh, Gathered, by_run
from reconciler.housekeeping import Clean
from reconciler.ledger import Ledger
from reconciler.ledger.rows import StoredRun, UsageChange
from reconciler.log import EventName
from reconciler.manifest.assemble import Desired
from reconciler.outlook import Outlook
from reconciler.saving import ObjectChanges, batch_of
from reconciler.workshop import Workshop

log = structlog.get_logger(__name__)

#: A cycle that takes longer is said: 200 viewers and 100,000 tasks must not need it. Seconds.
SLOW_CYCLE_S = 1.0
#: After a save that failed: 1, 2, 4 … seconds, up to this.
SAVE_BACKOFF_S_MAX = 30.0
#: The most of the time that deciding which runs are owed may take, unless what is asked for has changed.
DECIDING_SHARE = 0.1
#: So many saves in a row must fail before `--once` gives up on the ledger: seven seconds.
SAVES_TRIED = 4
#: For a backend whose document is gone: what schema_backend.py has for one that does not say.
ABSENCE_GRACE_S = 30.0
#: How long the document of a live run must be missing from a folder before it counts as removed.
GONE_AFTER_S = 60.0
#: A run whose plan raised (a bug) is left alone for this long, and the others go on.
BROKEN_RUN_PAUSE_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")


#: What a person should know of a backend (core/observed.py Snapshot).
About = Mapping[str, str | int | float]


class Reporter(Protocol):
    """Who is told what was saved: status files now, notifications later. What it says of objects is saved with the next cycle."""

    def run(self, step: Step, suspended: str) -> None:
        """A run changed."""

    def decided(self, decisions: Decisions, heads: Mapping[str, Mapping[str, RunHead]]) -> None:
        """Which runs are owed was decided anew."""

    def backends(self, views: Mapping[str, BackendView], unowned: frozenset[str], about: Mapping[str, About]) -> None:
        """How the backends look now, which of them are somebody else's, and what else a person should know of each. Called at each cycle;
        cheap when nothing changed."""

    def used(self, runs: Iterable[str]) -> None:
        """What jobs of these runs used came to be known, and was saved."""

    def unsaved(self, ending: Sequence[Step]) -> ObjectChanges:
        """What changed about objects since `saved` was last called, and what the steps change that end a run in this very batch."""

    def saved(self, changes: ObjectChanges) -> None:
        """These are in the ledger now."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What daemon.py puts together for a controller. `held` says why nothing of a workflow may start after a recovery, "" when it may."""

    instance: str
    ledger: Ledger
    reporter: Reporter
    make_outlook: Callable[[BackendSpec, Callable[[], None]], Outlook]
    held: Callable[[Revision, Gate | None], str]


class Controller:
    """Keeps what is asked for true. One for a daemon; everything in it happens on one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._fleet = Fleet()
        self.outlooks: dict[str, Outlook] = {}
        self.heads: dict[str, dict[str, RunHead]] = {}
        self._digests: dict[str, str | None] = {}  # of each workflow: the digest whose records are in `heads`
        self._desired: Desired | None = None
        self._next_desired: Desired | None = None
        self._decisions = Decisions()
        self._undecided = True
        self._decide_at = 0.0  # not before: going through thousands of workflows takes its share of the time, and no more
        self._woken = asyncio.Event()
        self._halted = asyncio.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._workshop = Workshop(self.wake)
        self._broken: dict[str, float] = {}  # run -> when it may be planned again
        self._missing: dict[str, float] = {}  # workflow of a live run whose document is gone -> since when
        self.unmade: dict[str, str] = {}  # run that is owed -> why it could not be made, last time it was tried
        self._careful = False  # the ledger refused a cycle with new runs: make one at a time, to learn which
        self._judged_by: tuple[Mapping[str, Revision], Context] = ({}, Context(parts.instance))
        self._suspended: dict[str, str] = {}
        self._suspended_until: float | None = None  # when the first suspension in force ends
        self.unwritable = ""  # "": the ledger can be written; else why not
        self._save_again_at = 0.0
        self._save_failures = 0
        self._later: dict[str, BackendSpec] = {}  # backends whose document names another place, while jobs live at the old one
        self._closing: set[asyncio.Task[None]] = set()
        self.cycles = 0

    # -- from outside ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed. Safe to call from anywhere on the loop, any number of times."""
        self._woken.set()

    def halt(self) -> None:
        """The daemon is about to end: whatever is waited for, it is not worth it."""
        self._halted.set()
        self.wake()

    def direct(self, desired: Desired) -> None:
        """This is what is asked for from now on."""
        self._next_desired = desired
        self.wake()

    async def prune(self, keep_runs_s: float, keep_events_s: float, clean: Clean) -> None:
        """Forget what ended longer ago than that, first in the ledger, then where it ran. Identities and outcomes stay.

        What `clean` could not do is given to it again by the next call, whoever makes that. Raises LedgerError.
        """
        ledger = self._parts.ledger
        while await self._in_ledger(ledger.prune, utc_now(), keep_runs_s / 86400.0, keep_events_s / 86400.0):
            pass
        if runs := await self._in_ledger(ledger.uncleaned):
            await self._in_ledger(ledger.cleaned, await clean(runs), utc_now())

    def look_at_once(self) -> None:
        """Look at every backend now (SIGHUP)."""
        for outlook in self.outlooks.values():
            outlook.look_now()

    async def load(self) -> None:
        """Take up where the ledger says the last daemon was."""
        for stored in await self._in_ledger(self._parts.ledger.live_runs):
            self._take_up(stored)

    def _take_up(self, stored: StoredRun) -> None:
        run = stored.run
        record = remember(run, after_restart(stored.records), stored.cancelled, stored.dropped)
        self._fleet.runs[run.id] = LiveRun(run, record)
        self.heads.setdefault(run.workflow, {})[run.id] = head_of(run, record)

    async def close(self) -> None:
        """Stop looking, wait for a save under way. Safe to call twice."""
        await asyncio.gather(*(outlook.close() for outlook in self.outlooks.values()))
        self._pool.shutdown(wait=True)

    @property
    def live_runs(self) -> Iterable[LiveRun]:
        """All runs that have not ended."""
        return list(self._fleet)

    @property
    def decisions(self) -> Decisions:
        """What was decided last about which runs are owed."""
        return self._decisions

    def idle(self, now: float) -> bool:
        """Nothing can move without a person, a later clock time or a system that cannot be reached (core/summary.py `moves`)."""
        if self._save_failures >= SAVES_TRIED:
            return True
        if self._next_desired is not None or self._desired is None or self._undecided or self._decisions.create or self._workshop.busy:
            return False
        if not all(outlook.tried for outlook in self.outlooks.values()):
            return False
        views = {name: outlook.view(now) for name, outlook in self.outlooks.items()}
        held = self._suspended.keys() | self._broken.keys()
        return not any(moves(live.run, live.record, views, live.run.id in held) for live in self._fleet)

    def suspended(self, run: Run) -> str:
        """"" when `run` may send jobs; else what suspends it, in words."""
        return self._suspended.get(run.id, "")

    # -- one cycle ------------------------------------------------------------------------------------------------------------

    async def cycle(self) -> None:
        """Look, plan, save, act, once. Returns when the actions are under way, not when they are done."""
        began = monotonic()
        self._woken.clear()
        self.cycles += 1
        await self._take_desired()
        if lost := next((outlook.lost for outlook in self.outlooks.values() if outlook.lost), None):
            raise lost
        now = utc_now()
        if self.unwritable and now < self._save_again_at:
            return
        self._mend(now)
        if (self._undecided and now >= self._decide_at) or _due(self._decisions.wake_at, now) or _due(self._suspended_until, now):
            self._decide(now)
        if self._desired is not None:
            self._workshop.take([each for outlook in self.outlooks.values() for each in outlook.take_fetched()], self._fleet, self._desired)
        gathered = {name: Gathered.of(outlook) for name, outlook in self.outlooks.items()}
        views = {name: outlook.view(now) for name, outlook in self.outlooks.items()}
        steps = await self._beside(self._is_large(gathered), self._learn, gathered, views, now)
        self._make(steps, now)
        await self._beside(self._is_large(gathered), self._send, steps, views, now)
        unowned = frozenset(name for name, outlook in self.outlooks.items() if outlook.unowned)
        self._parts.reporter.backends(views, unowned, {name: outlook.about for name, outlook in self.outlooks.items()})
        used = [change for each in gathered.values() for change in each.used]
        if await self._save(steps, used):
            await self._adopt(steps, gathered)
            self._parts.reporter.used({change.run for change in used})
            self._renew()
        elapsed_s = monotonic() - began
        if elapsed_s > SLOW_CYCLE_S:
            log.warning(EventName.LOOP_SLOW, seconds=round(elapsed_s, 2), runs=len(self._fleet.runs))

    async def pause(self) -> None:
        """Until something wakes us, or the next thing is due."""
        if self.unwritable:
            dues = [self._save_again_at]  # nothing else can go on before
        else:
            dues = [at for at in (self._decisions.wake_at, self._suspended_until) if at is not None]
            dues += [max(live.wake_at, self._broken.get(live.run.id, 0.0)) for live in self._fleet if live.wake_at is not None]
            dues += self._broken.values()
            dues += [self._decide_at] if self._undecided else []
        timeout_s = max(0.001, min(dues) - utc_now()) if dues else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # while nothing can be saved every look wakes us, and none of them helps
                await (self._halted if self.unwritable else self._woken).wait()

    def _mend(self, now: float) -> None:
        """What was left alone after a bug is tried again when its time has come."""
        for run_id in [run_id for run_id, until in self._broken.items() if until <= now]:
            del self._broken[run_id]
            if live := self._fleet.runs.get(run_id):
                live.wake_at = now
            else:
                self._undecided = True

    def _renew(self) -> None:
        """Backends whose document needs another in their place get it when that is possible. At the end of a cycle: all that they said is
        saved, and nothing of it is lost with them."""
        for name, spec in list(self._later.items()):
            if self.outlooks[name].yields_to(spec):
                del self._later[name]
                self._take_backend(spec)

    # -- what is asked for ----------------------------------------------------------------------------------------------------

    async def _take_desired(self) -> None:
        if self._next_desired is None:
            return
        desired, self._next_desired = self._next_desired, None
        digests: dict[str, str | None] = {live.run.workflow: None for live in self._fleet if live.run.workflow not in self._digests}
        digests.update({name: each.digest for name, each in desired.workflows.items() if self._digests.get(name) != each.digest})
        for name, heads in (await self._in_ledger(self._parts.ledger.heads_of_all, digests)).items():
            before = self.heads.get(name, {})
            self.heads[name] = {head.id: before[head.id] if head.id in self._fleet.runs and head.id in before else head for head in heads}
            self.heads[name].update((run_id, head) for run_id, head in before.items() if not head.ended)
        self._digests.update(digests)
        self._desired = desired
        self._take_backends(desired)
        self._undecided, self._decide_at = True, 0.0

    def _take_backends(self, desired: Desired) -> None:
        self._later.clear()
        for spec in desired.backends.values():
            self._take_backend(spec)
        lost = {backend for live in self._fleet for backend in live.record.live} - self.outlooks.keys()
        for name in lost:  # its document went while no daemon ran: what runs there is followed to its end, where the default spool is
            if ("Backend", name) not in desired.present:
                self._take_backend(BackendSpec(name, "local", Place("", "", 0), 1, ABSENCE_GRACE_S))
        for name, outlook in self.outlooks.items():
            outlook.gone = name not in desired.backends

    def _take_backend(self, spec: BackendSpec) -> None:
        """Follow a backend as its document has it now. One whose jobs are elsewhere than it says is followed there to their end; one that
        is only to be made otherwise is replaced as soon as nothing is under way there."""
        outlook = self.outlooks.get(spec.name)
        if outlook is not None and not outlook.suits(spec):
            if not outlook.yields_to(spec):
                self._later[spec.name] = spec
                outlook.wait_for(spec)
                return
            self._closing.add(task := asyncio.ensure_future(outlook.close()))
            task.add_done_callback(self._closing.discard)
            outlook = None
        if outlook is None:
            outlook = self.outlooks[spec.name] = self._parts.make_outlook(spec, self.wake)
            for live in self._fleet:
                for backend, expected, job in self._fleet.expected_of(live):
                    if backend == spec.name:
                        outlook.expect(job, expected)
            outlook.start()
        outlook.follow(spec)

    def _decide(self, now: float) -> None:
        desired = self._desired
        if desired is None:
            return
        self._undecided = False
        began = monotonic()
        before = self._suspended
        try:
            self._decisions, self._suspended, self._suspended_until = self._judged(desired, now)
        except Exception:  # a bug about one workflow must not end the daemon: what was decided before holds
            log.exception(EventName.OBJECT_FAILED, kind="Settings", name="(which runs are owed)")
            self._decisions = replace(self._decisions, create=())
        self._workshop.keep(self._decisions.create)
        self._careful = self._careful and bool(self._decisions.create)
        self._parts.reporter.decided(self._decisions, self.heads)
        for live in self._fleet:
            if before.get(live.run.id, "") != (why := self._suspended.get(live.run.id, "")):
                self._parts.reporter.run(Step(live.run, live.record, live.record), why)
        self._decide_at = now + (monotonic() - began) / DECIDING_SHARE

    def _judged(self, desired: Desired, now: float) -> tuple[Decisions, dict[str, str], float | None]:
        """What core/trigger.py says of everything that is asked for; which live runs are held, and when the first of that ends."""
        gone, wait_until = self._gone(desired, now)
        context = Context(self._parts.instance, desired.limits, desired.requests, gone, desired.gates)
        held = {name: self._parts.held(each, desired.gates.get(each.place.source)) for name, each in desired.workflows.items()}
        revisions = {name: replace(each, suspend=Suspend(held[name])) if held[name] else each for name, each in desired.workflows.items()}
        heads = {name: tuple(each.values()) for name, each in self.heads.items()}
        decisions = self._without_unmade(owed(revisions, heads, context, now), now)
        self._judged_by = revisions, context
        suspended: dict[str, str] = {}
        ends = [spec.suspend.until for spec in desired.backends.values() if spec.suspend and spec.suspend.holds(now)]
        for live in self._fleet:
            if found := suspension(live.run, revisions, context, now):
                suspended[live.run.id] = found[0]
                ends.append(found[1].until)
        return decisions, suspended, min((end for end in (*ends, wait_until) if end is not None), default=None)

    def _gone(self, desired: Desired, now: float) -> tuple[dict[str, OnDelete], float | None]:
        """Workflows of live runs whose documents are gone, and when to ask again. A folder's are given a minute: `git stash`, a checkout or
        an editor takes files away for a moment, and a run that was dropped cannot be taken up again. A commit is meant."""
        rules, missing = {}, {}
        for live in self._fleet:
            name, source = live.run.workflow, live.run.place.source
            if desired.is_gone("Workflow", name, source):
                missing[name] = now if live.run.place.commit else self._missing.get(name, now) + GONE_AFTER_S
                if missing[name] <= now:
                    rules[name] = live.run.on_delete
        self._missing = {name: self._missing.get(name, now) for name in missing}
        return rules, min((at for at in missing.values() if at > now), default=None)

    def _without_unmade(self, decisions: Decisions, now: float) -> Decisions:
        """Runs that cannot be made now wait, and say why."""
        create, waiting = [], list(decisions.waiting)
        for debt in decisions.create:
            if debt.run_id in self._parts.ledger.nameless:
                words = f"run {debt.run_id} was made before the ledger was lost, and the recovery found nothing but its id; rerun it"
                waiting.append(Waiting(debt.revision.name, debt.request, "MadeBefore", words))
            elif self._is_broken(debt.run_id, now):
                words = f"its run could not be made, and is tried again by itself: {self.unmade.get(debt.run_id, '')}"
                waiting.append(Waiting(debt.revision.name, debt.request, "CannotBeMade", words))
            else:
                create.append(debt)
        self.unmade = {each.run_id: self.unmade[each.run_id] for each in decisions.create if each.run_id in self.unmade}
        return replace(decisions, create=tuple(create), waiting=tuple(waiting))

    # -- learn and plan -------------------------------------------------------------------------------------------------------

    def _learn(self, gathered: Mapping[str, Gathered], views: Mapping[str, BackendView], now: float) -> dict[str, Step]:
        """Fold what is new into every run that it concerns, and end what must end. Sends nothing: room comes after."""
        news = by_run(gathered.values(), self._workshop.generated(self._fleet))
        cancel, drop = dict(self._decisions.cancel), dict(self._decisions.drop)
        steps: dict[str, Step] = {}
        for live in list(self._fleet):
            run_id = live.run.id
            mine = news.get(run_id)
            due = _due(live.wake_at, now) or run_id in cancel or run_id in drop
            if (mine or due) and not self._is_broken(run_id, now):
                mine = mine or Fresh()
                told = News(
                    backends=views,
                    facts=mine.facts,
                    absent=frozenset(mine.absent),
                    receipts=tuple(mine.receipts),
                    generated=mine.generated,
                    cancelled=cancel.get(run_id, ""),
                    dropped=drop.get(run_id, ""),
                )
                self._step(steps, Step(live.run, live.record, live.record), told, {}, now)
        return steps

    def _step(self, steps: dict[str, Step], step: Step, news: News, room: Mapping[str, int], now: float) -> None:
        try:
            steps[step.run.id] = step.then(plan(step.run, step.record, news, room, now))
        except Exception:  # one run's bug must not stop the others; it is tried again later
            log.exception(EventName.OBJECT_FAILED, kind="Run", name=step.run.id, workflow=step.run.workflow)
            self._break(step.run.id, now)

    def _break(self, run_id: str, now: float) -> None:
        """Leave a run alone for a while, after a bug. What is new for it stays new."""
        self._broken[run_id] = now + BROKEN_RUN_PAUSE_S
        self._undecided = True

    def _is_broken(self, run_id: str, now: float) -> bool:
        return self._broken.get(run_id, 0.0) > now

    def _make(self, steps: dict[str, Step], now: float) -> None:
        """Make the runs that are owed. The tasks of a large one are made ready on a thread first, and it follows in a later cycle."""
        if self._desired is None:
            return
        for debt in self._decisions.create:
            if debt.run_id in self._fleet.runs or (self._careful and any(step.before is None for step in steps.values())):
                continue
            try:
                run = self._workshop.run(debt, self._desired, now)
            except Exception as error:  # one workflow's bug must not stop the others
                log.exception(EventName.OBJECT_FAILED, kind="Workflow", name=debt.revision.name)
                self.unmade[debt.run_id] = f"{debt.revision.place}: {type(error).__name__}: {error}"
                self._break(debt.run_id, now)
                continue
            if run is not None:
                if found := suspension(run, *self._judged_by, now):  # asked for by hand of what is suspended: made, and held
                    self._suspended[run.id] = found[0]
                why = f"by Run {debt.request}" if debt.request else f"{debt.revision.place}"
                created = Event(now, EventName.RUN_CREATED, run.id, "", f"{run.workflow} at {run.digest[:19]}, {why}")
                steps[run.id] = Step(run, None, new_record(run, now), changed=frozenset(task.id for task in run.tasks), events=(created,))

    def _send(self, steps: dict[str, Step], views: Mapping[str, BackendView], now: float) -> None:
        """Share the room, and plan what each run sends within it."""
        if self.unwritable or self._desired is None:
            return
        current = {live.run.id: (live.run, live.record) for live in self._fleet}
        current.update((run_id, (step.run, step.record)) for run_id, step in steps.items())
        room = self._free((record for _, record in current.values()), views)
        if not any(room.values()):
            return
        wanting = [(run, record) for run, record in current.values() if record.ready and not self._held(run, record, now)]
        wanting = first_in_line(wanting, sum(room.values()))
        wants = [demand for run, record in wanting for demand in demands(run, record, now, room)]
        granted = share(wants, room, limits_of([*current.values()], self._desired.workflows))
        rooms: dict[str, dict[str, int]] = {}
        for (run_id, backend), more in granted.items():
            if more:
                rooms.setdefault(run_id, {})[backend] = more
        for run, record in wanting:
            if mine := rooms.get(run.id):
                step = steps.get(run.id) or Step(run, record, record, wake_at=self._fleet.runs[run.id].wake_at)
                self._step(steps, step, News(backends=views), mine, now)

    def _held(self, run: Run, record: RunRecord, now: float) -> bool:
        return bool(record.cancelled or record.dropped or run.id in self._suspended) or self._is_broken(run.id, now)

    def _free(self, records: Iterable[RunRecord], views: Mapping[str, BackendView]) -> dict[str, int]:
        """How many more jobs each backend takes now."""
        open_ones = {name: outlook for name, outlook in self.outlooks.items() if views[name].reachable and views[name].accepts}
        most = {name: outlook.spec.max_concurrent for name, outlook in open_ones.items()}
        return free(most, (record.live for record in records), {name: outlook.room() for name, outlook in open_ones.items()})

    # -- save and act ---------------------------------------------------------------------------------------------------------

    async def _save(self, steps: dict[str, Step], used: Sequence[UsageChange]) -> bool:
        """Make it all durable. False when that was not possible: then nothing of it may be done."""
        changes = self._parts.reporter.unsaved([step for step in steps.values() if step.alters and step.record.ended])
        batch = batch_of([step for step in steps.values() if step.alters], changes, used)
        if not batch and not self.unwritable:
            return True
        try:
            await self._in_ledger(self._parts.ledger.save, batch)
        except LedgerUnwritable as error:
            self._save_failures += 1
            self._save_again_at = utc_now() + min(SAVE_BACKOFF_S_MAX, 2.0 ** (self._save_failures - 1))
            if str(error) != self.unwritable:
                log.error(EventName.LEDGER_UNWRITABLE, reason=str(error))
            self.unwritable = str(error)
            return False
        except (LedgerCorrupt, StateLost):
            raise  # nothing that this ledger says can be relied on
        except LedgerError as error:
            self._refuse_new(steps, error)
            return False
        if self.unwritable:
            log.warning(EventName.LEDGER_WRITABLE, was=self.unwritable)
            self.wake()
        self.unwritable, self._save_failures = "", 0
        self._parts.reporter.saved(changes)
        return True

    def _refuse_new(self, steps: Mapping[str, Step], error: LedgerError) -> None:
        """The ledger would not have this cycle. When several runs were to be made in it, they are tried one at a time, so that a bad one
        is left alone and the others are made. Raises `error` when none was."""
        new = [step.run for step in steps.values() if step.before is None]
        if not new:
            raise error
        self._careful = True
        if len(new) == 1:
            log.error(EventName.OBJECT_FAILED, kind="Workflow", name=new[0].workflow, run=new[0].id, reason=str(error))
            self.unmade[new[0].id] = str(error)
            self._break(new[0].id, utc_now())
        self.wake()

    def _is_large(self, gathered: Mapping[str, Gathered]) -> bool:
        """Whether so much is new, or waits to be sent, that planning would hold up the loop."""
        news = sum(len(each.facts) + len(each.receipts) for each in gathered.values())
        return news > MANY or any(len(live.record.ready) > MANY for live in self._fleet)

    async def _beside(self, large: bool, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Plan on a thread when that takes long: whatever it reads is changed by nobody but this cycle."""
        return await aside(call, *args, **kwargs) if large else call(*args, **kwargs)

    async def _adopt(self, steps: Mapping[str, Step], gathered: Mapping[str, Gathered]) -> None:
        """What was planned is saved: it is so now. Do what it asks for."""
        for name, each in gathered.items():
            each.settle(self.outlooks[name], self._broken.keys())
        for step in steps.values():
            for backend, job, expected in self._fleet.apply(step):
                if outlook := self.outlooks.get(backend):
                    outlook.expect(job, expected)
            if len(step.changed) > MANY:
                await asyncio.sleep(0)  # the loop has others to serve
            if step.alters:
                self._tell(step)
        await carry_out([step for step in steps.values() if step.actions or step.look_at], self.outlooks)
        self._workshop.used(steps)

    def _tell(self, step: Step) -> None:
        head = head_of(step.run, step.record)
        heads = self.heads.setdefault(step.run.workflow, {})
        if heads.get(step.run.id) != head:
            heads[step.run.id] = head
            self._undecided = True
            self.wake()
        for event in step.events:
            say = log.info if not event.task or event.name in _WORTH_SAYING else log.debug
            say(event.name, run=event.run, workflow=step.run.workflow, task=event.task or None, message=event.message or None)
        if head.ended:
            log.info(EventName.RUN_ENDED, run=step.run.id, workflow=step.run.workflow, phase=str(head.phase))
        self._parts.reporter.run(step, self.suspended(step.run))

    async def _in_ledger(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` on the ledger's own thread: the loop never waits for a disk."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))


#: Events of single tasks that are worth a log line each; the rest is in the ledger and at level debug.
_WORTH_SAYING = frozenset({"TaskFailed", "TaskLost", "TaskRetried", "SubmissionLost", "TaskStalled", "LateEvidence", "TaskCancelling"})


def _due(at: float | None, now: float) -> bool:
    return at is not None and at <= now
