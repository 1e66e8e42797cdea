"""The core alone: planning one large run, and a cycle in which little changed among much."""

from __future__ import annotations

import time

from reconciler.core.actions import Submit
from reconciler.core.desired import BackendSpec, Place, Run, Task
from reconciler.core.names import job_name
from reconciler.core.observed import BackendView, JobFact, JobState, News
from reconciler.core.plan import Plan, new_record, plan
from tests.bench.measure import Row, rounds

PLACE = Place("", "bench.yaml", 1)
VIEW = {"local": BackendView(0.5, True, True, 60.0)}


def made_run(index: int, tasks: int, chained: bool = True) -> Run:
    """A run of `tasks` tasks; when `chained`, each fourth needs the three before it."""
    made = []
    for number in range(tasks):
        needs = tuple(f"t{n}" for n in range(number - 3, number)) if chained and number % 4 == 3 else ()
        made.append(Task(f"t{number}", "true", needs=needs))
    return Run(f"{index:012x}", f"w{index}", "sha256:0", "", "", "local", tuple(made), PLACE, 0.0)


def started(run: Run) -> Plan:
    """All that can be sent was, and runs."""
    planned = plan(run, new_record(run, 1.0), News(VIEW), {"local": 10**9}, 2.0)
    facts = {action.job: JobFact(JobState.RUNNING, started=True) for action in planned.actions if isinstance(action, Submit)}
    return plan(run, planned.record, News(VIEW, facts=facts), {}, 3.0)


def cases() -> list[Row]:
    """The figures of issue 2, item 5, that concern the core."""
    return [_first_plan(), _idle_plan(), _cycle()]


def _first_plan() -> Row:
    run = made_run(1, 10_000)
    record = new_record(run, 1.0)

    def once() -> float:
        began = time.perf_counter()
        planned = plan(run, record, News(VIEW), {"local": 10**9}, 2.0)
        seconds = time.perf_counter() - began
        assert len(planned.actions) == 7_500
        return seconds * 1e3

    return rounds("plan 10,000 tasks of one run, 7,500 of them to submit", once, "ms", "<= 60")


def _idle_plan() -> Row:
    run = made_run(1, 10_000, chained=False)
    record = started(run).record
    facts = {job_name(run.id, task, 1): JobFact(JobState.RUNNING, started=True) for task in record.tasks}

    def once() -> float:
        began = time.perf_counter()
        planned = plan(run, record, News(VIEW, facts=facts), {}, 4.0)
        seconds = time.perf_counter() - began
        assert not planned.changed
        return seconds * 1e3

    return rounds("plan 10,000 running tasks from a full look, nothing new", once, "ms", "<= 60")


def _cycle() -> Row:
    """100 runs of 1,000 live tasks; ten facts differ. The same code as the controller's: outlook.news, plan, room."""
    from reconciler.core.observed import Snapshot
    from reconciler.core.room import share
    from reconciler.fleet import Fleet, LiveRun, demands
    from reconciler.outlook import Outlook

    fleet = Fleet()
    spec = BackendSpec("local", "local", PLACE, 10**6, 60.0)
    outlook = Outlook(spec, backend=None, poll_interval_s=1.0, wake=lambda: None)  # type: ignore[arg-type]  # never asked here
    facts: dict[str, JobFact] = {}
    for index in range(100):
        run = made_run(index, 1_000, chained=False)
        record = started(run).record
        fleet.runs[run.id] = LiveRun(run, record, None)
        for backend, expected, job in fleet.expected_of(fleet.runs[run.id]):
            outlook.expected[job] = expected
            facts[job] = JobFact(JobState.RUNNING, started=True)
            assert backend == "local"
    outlook.fold(facts, [])
    names = list(facts)
    rounds_seen = [0]

    def once() -> float:
        rounds_seen[0] += 1
        fresh = dict(facts)
        for job in names[:: len(names) // 10][:10]:
            fresh[job] = JobFact(JobState.ENDED, started=True, exit_code=0)
        outlook._asked = dict(outlook.expected)
        outlook._snapshot = Snapshot("local", 10.0 + rounds_seen[0], fresh)
        began = time.perf_counter()
        changed, absent = outlook.news()
        by_run: dict[str, dict[str, JobFact]] = {}
        for job, fact in changed.items():
            by_run.setdefault(job[:12], {})[job] = fact
        free = {"local": spec.max_concurrent - sum(fleet.live_by_backend().values())}
        wants = [demand for live in fleet for demand in demands(live.run, live.record, 11.0, free)]
        room = share(wants, free, {})
        plans = [
            plan(fleet.runs[run].run, fleet.runs[run].record, News(VIEW, facts=news), {"local": room.get((run, "local"), 0)}, 11.0)
            for run, news in by_run.items()
        ]
        seconds = time.perf_counter() - began
        assert not absent and sum(len(planned.changed) for planned in plans) == 10
        return seconds * 1e3

    return rounds("a cycle: 10 of 100,000 live tasks (100 runs) changed", once, "ms", "<= 20")
