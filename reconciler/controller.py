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

from reconciler.backends.base import CancelRequest, FileRequest, JobRequest
from reconciler.clock import monotonic, utc_now
from reconciler.core.actions import Cancel, Fetch, Forget, Submit
from reconciler.core.desired import BackendSpec, Revision, Run, Suspend
from reconciler.core.draft import NEVER
from reconciler.core.observed import BackendView, News
from reconciler.core.plan import after_restart, new_record, plan, remember
from reconciler.core.record import Event, RunHead
from reconciler.core.room import share
from reconciler.core.trigger import Context, Decisions, Gate, may_change, owed
from reconciler.errors import LedgerCorrupt, LedgerError, LedgerUnwritable, StateLost
from reconciler.fleet import Fleet, LiveRun, Step, demands, head_of
from reconciler.fresh import Fresh, Gathered, by_run
from reconciler.housekeeping import Clean
from reconciler.jobrequest import job_request
from reconciler.ledger import Ledger
from reconciler.ledger.rows import StoredRun
from reconciler.log import EventName
from reconciler.manifest.assemble import Desired
from reconciler.outlook import GENERATED_BYTES_MAX, Outlook
from reconciler.saving import ObjectChanges, batch_of
from reconciler.workshop import Workshop

log = structlog.get_logger(__name__)

#: A cycle that takes longer is said: 200 viewers and 100,000 tasks must not need it. Seconds.
SLOW_CYCLE_S = 1.0
#: After a save that failed: 1, 2, 4 … seconds, up to this.
SAVE_BACKOFF_S_MAX = 30.0
#: A run whose plan raised (a bug) is left alone for this long, and the others go on.
BROKEN_RUN_PAUSE_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")


class Reporter(Protocol):
    """Who is told what was saved: status files now, notifications later. What it says of objects is saved with the next cycle."""

    def run(self, step: Step, suspended: str) -> None:
        """A run changed."""

    def decided(self, decisions: Decisions, heads: Mapping[str, Mapping[str, RunHead]]) -> None:
        """Which runs are owed was decided anew."""

    def backends(self, views: Mapping[str, BackendView], unowned: frozenset[str]) -> None:
        """How the backends look now, and which of them are somebody else's. Called at each cycle; cheap when nothing changed."""

    def unsaved(self) -> ObjectChanges:
        """What changed about objects since `saved` was last called."""

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
        self._woken = asyncio.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._workshop = Workshop(self.wake)
        self._broken: dict[str, float] = {}  # run -> when it may be planned again
        self._failed: set[str] = set()  # runs whose plan raised in this cycle: what was new for them stays new
        self._suspended: dict[str, str] = {}
        self._suspended_until: float | None = None  # when the first suspension in force ends
        self.unwritable = ""  # "": the ledger can be written; else why not
        self._save_again_at = 0.0
        self._save_failures = 0
        self.cycles = 0

    # -- from outside ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed. Safe to call from anywhere on the loop, any number of times."""
        self._woken.set()

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
            outlook.look_soon()

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
        """Nothing can move without a person, a later clock time or a system that cannot be reached. Back-off before a retry counts as
        moving: whoever asked for the retry wants its outcome."""
        if self._next_desired is not None or self._desired is None or self._undecided or self._decisions.create or self._workshop.busy:
            return False
        if not all(outlook.tried for outlook in self.outlooks.values()):
            return False
        views = {name: outlook.view(now) for name, outlook in self.outlooks.items()}
        return not any(self._moves(live, views) for live in self._fleet)

    def _moves(self, live: LiveRun, views: Mapping[str, BackendView]) -> bool:
        reachable = {name for name, view in views.items() if view.reachable}
        if reachable.intersection(live.record.live):
            return True
        if live.run.id in self._suspended or live.run.id in self._broken:
            return False
        takes = {name for name in reachable if views[name].accepts}
        return any(at < NEVER and live.run.backend_of(live.record.known[task_id]) in takes for task_id, at in live.record.ready.items())

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
        self._failed.clear()
        if self._undecided or _due(self._decisions.wake_at, now) or _due(self._suspended_until, now):
            self._decide(now)
        if self._desired is not None:
            self._workshop.take([each for outlook in self.outlooks.values() for each in outlook.take_fetched()], self._fleet, self._desired)
        gathered = {name: Gathered.of(outlook) for name, outlook in self.outlooks.items()}
        views = {name: outlook.view(now) for name, outlook in self.outlooks.items()}
        steps = self._learn(gathered, views, now)
        self._make(steps, now)
        self._send(steps, views, now)
        self._parts.reporter.backends(views, frozenset(name for name, outlook in self.outlooks.items() if outlook.unowned))
        if await self._save(steps):
            self._adopt(steps, gathered)
        elapsed_s = monotonic() - began
        if elapsed_s > SLOW_CYCLE_S:
            log.warning(EventName.LOOP_SLOW, seconds=round(elapsed_s, 2), runs=len(self._fleet.runs))

    async def pause(self) -> None:
        """Until something wakes us, or the next thing is due."""
        saves = self._save_again_at if self.unwritable else None
        dues = [at for at in (self._decisions.wake_at, self._suspended_until, saves) if at is not None]
        dues += [live.wake_at for live in self._fleet if live.wake_at is not None]
        timeout_s = max(0.001, min(dues) - utc_now()) if dues else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()

    # -- what is asked for ----------------------------------------------------------------------------------------------------

    async def _take_desired(self) -> None:
        if self._next_desired is None:
            return
        desired, self._next_desired = self._next_desired, None
        digests: dict[str, str | None] = {live.run.workflow: None for live in self._fleet if live.run.workflow not in self._digests}
        digests.update({name: each.digest for name, each in desired.workflows.items() if self._digests.get(name) != each.digest})
        for name, heads in (await self._in_ledger(_read_heads, self._parts.ledger, digests)).items():
            known = self.heads.setdefault(name, {})
            for head in heads:
                if head.id not in self._fleet.runs:  # of a live one we know more than is stored
                    known[head.id] = head
        self._digests.update(digests)
        self._desired = desired
        self._take_backends(desired.backends)
        self._undecided = True

    def _take_backends(self, specs: Mapping[str, BackendSpec]) -> None:
        for name, spec in specs.items():
            outlook = self.outlooks.get(name)
            if outlook is None:
                outlook = self._parts.make_outlook(spec, self.wake)
                self.outlooks[name] = outlook
                for live in self._fleet:
                    for backend, expected, job in self._fleet.expected_of(live):
                        if backend == name:
                            outlook.expected[job] = expected
                outlook.start()
            outlook.spec, outlook.gone = spec, False
        for name, outlook in self.outlooks.items():
            outlook.gone = name not in specs

    def _decide(self, now: float) -> None:
        desired = self._desired
        if desired is None:
            return
        gone = {
            live.run.workflow: live.run.on_delete
            for live in self._fleet
            if desired.is_gone("Workflow", live.run.workflow, live.run.place.source)
        }
        context = Context(self._parts.instance, desired.limits, desired.requests, gone, desired.gates)
        held = {name: self._parts.held(each, desired.gates.get(each.place.source)) for name, each in desired.workflows.items()}
        revisions = {name: replace(each, suspend=Suspend(held[name])) if held[name] else each for name, each in desired.workflows.items()}
        heads = {name: tuple(each.values()) for name, each in self.heads.items()}
        self._decisions = owed(revisions, heads, context, now)
        self._undecided = False
        self._suspended = {}
        ends = [spec.suspend.until for spec in desired.backends.values() if spec.suspend and spec.suspend.holds(now)]
        for live in self._fleet:
            if why := held.get(live.run.workflow):
                self._suspended[live.run.id] = why
            elif found := _suspension(live.run, desired, now):
                self._suspended[live.run.id] = found[0]
                ends.append(found[1].until)
        self._suspended_until = min((end for end in ends if end is not None), default=None)
        self._parts.reporter.decided(self._decisions, self.heads)

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
            if step.run.id not in steps:
                self._failed.add(step.run.id)

    def _break(self, run_id: str, now: float) -> None:
        self._broken[run_id] = now + BROKEN_RUN_PAUSE_S
        if live := self._fleet.runs.get(run_id):
            live.wake_at = now + BROKEN_RUN_PAUSE_S

    def _is_broken(self, run_id: str, now: float) -> bool:
        return self._broken.get(run_id, 0.0) > now

    def _make(self, steps: dict[str, Step], now: float) -> None:
        """Make the runs that are owed. The tasks of a large one are made ready on a thread first, and it follows in a later cycle."""
        if self._desired is None:
            return
        for debt in self._decisions.create:
            if debt.run_id in self._fleet.runs or self._is_broken(debt.run_id, now):
                continue
            if debt.run_id in self._parts.ledger.nameless:  # a recovery found nothing but its id: it has been made before
                continue
            try:
                run = self._workshop.run(debt, self._desired, now)
            except Exception:  # one workflow's bug must not stop the others
                log.exception(EventName.OBJECT_FAILED, kind="Workflow", name=debt.revision.name)
                self._break(debt.run_id, now)
                continue
            if run is not None:
                why = f"by Run {debt.request}" if debt.request else f"{debt.revision.place}"
                created = Event(now, EventName.RUN_CREATED, run.id, "", f"{run.workflow} at {run.digest[:19]}, {why}")
                steps[run.id] = Step(run, None, new_record(run, now), changed=frozenset(task.id for task in run.tasks), events=(created,))

    def _send(self, steps: dict[str, Step], views: Mapping[str, BackendView], now: float) -> None:
        """Share the room, and plan what each run sends within it."""
        if self.unwritable or self._desired is None:
            return
        current = {live.run.id: Step(live.run, live.record, live.record, wake_at=live.wake_at) for live in self._fleet}
        current.update(steps)
        free = self._free(current.values(), views)
        if not any(more > 0 for more in free.values()):
            return
        wanting = [step for step in current.values() if step.record.ready and not self._held(step, now)]
        wants = [demand for step in wanting for demand in demands(step.run, step.record, now, free)]
        granted = share(wants, free, self._limits(current.values()))
        rooms: dict[str, dict[str, int]] = {}
        for (run_id, backend), more in granted.items():
            if more:
                rooms.setdefault(run_id, {})[backend] = more
        for step in wanting:
            if room := rooms.get(step.run.id):
                self._step(steps, step, News(backends=views), room, now)

    def _held(self, step: Step, now: float) -> bool:
        return bool(step.record.cancelled or step.record.dropped or step.run.id in self._suspended) or self._is_broken(step.run.id, now)

    def _free(self, steps: Iterable[Step], views: Mapping[str, BackendView]) -> dict[str, int]:
        """How many more jobs each backend takes now."""
        live: dict[str, int] = {}
        for step in steps:
            for backend, count in step.record.live.items():
                live[backend] = live.get(backend, 0) + count
        free = {}
        for name, outlook in self.outlooks.items():
            view = views[name]
            if view.reachable and view.accepts:
                more = outlook.spec.max_concurrent - live.get(name, 0)
                said = outlook.room()
                free[name] = more if said is None else min(more, said)
        return free

    def _limits(self, steps: Iterable[Step]) -> dict[str, int]:
        """What each workflow's own `max_concurrent` still allows. The current document's number holds, also for older runs."""
        left: dict[str, int] = {}
        workflows = self._desired.workflows if self._desired else {}
        for step in steps:
            revision = workflows.get(step.run.workflow)
            limit = revision.max_concurrent if revision else step.run.max_concurrent
            if limit is not None:
                left.setdefault(step.run.workflow, limit)
                left[step.run.workflow] -= sum(step.record.live.values())
        return left

    # -- save and act ---------------------------------------------------------------------------------------------------------

    async def _save(self, steps: dict[str, Step]) -> bool:
        """Make it all durable. False when that was not possible: then nothing of it may be done."""
        changes = self._parts.reporter.unsaved()
        batch = batch_of([step for step in steps.values() if step.alters], changes)
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
            if not self._refuse_new(steps, str(error)):
                raise
            return False
        if self.unwritable:
            log.warning(EventName.LEDGER_WRITABLE, was=self.unwritable)
            self.wake()
        self.unwritable, self._save_failures = "", 0
        self._parts.reporter.saved(changes)
        return True

    def _refuse_new(self, steps: Mapping[str, Step], why: str) -> bool:
        """The ledger would not have this cycle: leave the runs alone that were to be made in it. False when there were none."""
        new = [step.run for step in steps.values() if step.before is None]
        for run in new:
            log.error(EventName.OBJECT_FAILED, kind="Workflow", name=run.workflow, run=run.id, reason=why)
            self._break(run.id, utc_now())
        self.wake()
        return bool(new)

    def _adopt(self, steps: Mapping[str, Step], gathered: Mapping[str, Gathered]) -> None:
        """What was planned is saved: it is so now. Do what it asks for."""
        for name, each in gathered.items():
            each.settle(self.outlooks[name], self._failed)
        for step in steps.values():
            for backend, job, expected in self._fleet.apply(step):
                if outlook := self.outlooks.get(backend):
                    outlook.expect(job, expected)
            if step.alters:
                self._tell(step)
        self._act([step for step in steps.values() if step.actions or step.look_at])
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

    def _act(self, steps: Sequence[Step]) -> None:
        """Carry out what was saved. What comes back arrives as receipts; what does not, the next looks settle."""
        submits: dict[str, list[JobRequest]] = {}
        cancels: dict[str, list[CancelRequest]] = {}
        forgets: dict[str, list[str]] = {}
        for step in steps:
            for action in step.actions:
                match action:
                    case Submit():
                        submits.setdefault(action.backend, []).append(self._request(step, action))
                    case Cancel():
                        cancels.setdefault(action.backend, []).append(CancelRequest(action.job, action.job_id, action.kill))
                    case Forget():
                        forgets.setdefault(action.backend, []).append(action.job)
                    case Fetch():
                        working_dir = step.record.known[action.task].working_dir
                        wanted = FileRequest(action.job, action.path, working_dir, bytes_max=GENERATED_BYTES_MAX + 1)
                        self.outlooks[action.backend].fetch(wanted)
            for backend, at in (step.look_at or {}).items():
                self.outlooks[backend].look_by(at)
        for name, outlook in self.outlooks.items():
            outlook.drop(forgets.get(name, ()))
            if name in cancels:
                outlook.cancel(cancels[name])
            if name in submits:
                outlook.submit(submits[name])

    def _request(self, step: Step, action: Submit) -> JobRequest:
        login_shell = bool(self.outlooks[action.backend].spec.options.get("login_shell", False))
        return job_request(step.run, step.record.known[action.task], step.record.tasks[action.task].attempt, login_shell)

    async def _in_ledger(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` on the ledger's own thread: the loop never waits for a disk."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))


#: Events of single tasks that are worth a log line each; the rest is in the ledger and at level debug.
_WORTH_SAYING = frozenset({"TaskFailed", "TaskLost", "TaskRetried", "SubmissionLost", "TaskStalled", "LateEvidence", "TaskCancelling"})


def _due(at: float | None, now: float) -> bool:
    return at is not None and at <= now


def _read_heads(ledger: Ledger, digests: Mapping[str, str | None]) -> dict[str, tuple[RunHead, ...]]:
    """On the ledger's thread: the heads that trigger.py needs of each workflow."""
    return {name: ledger.heads(name, digest) for name, digest in digests.items()}


def _suspension(run: Run, desired: Desired, now: float) -> tuple[str, Suspend] | None:
    """What suspends a live run, in words; None when nothing does."""
    found: list[tuple[str, Suspend | None]] = []
    if revision := desired.workflows.get(run.workflow):
        found.append((f"workflow {run.workflow}", revision.suspend))
    if gate := desired.gates.get(run.place.source):
        found.append((f"source {run.place.source}", gate.suspend))
    mine = (request for request in desired.requests.values() if request.run == run.id and may_change(request, run.workflow))
    found += [(f"Run {request.name}", request.suspend) for request in mine]
    for what, suspend in found:
        if suspend is not None and suspend.holds(now):
            by = f" by {suspend.by}" if suspend.by else ""
            return f"{what} is suspended{by}{': ' + suspend.reason if suspend.reason else ''}", suspend
    return None
