"""What people read: phases, conditions, and why a task does not move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core import summary
from reconciler.core.desired import BackendSpec, Place, Run, Task, When
from reconciler.core.draft import LOSSES_MAX, NOT_CALLED_FOR
from reconciler.core.observed import BackendView
from reconciler.core.plan import remember
from reconciler.core.record import Aim, Phase, RunRecord, TaskRecord, TaskState
from reconciler.core.summary import Condition, SourceView, Surroundings, Truth
from reconciler.core.trigger import Held, Waiting, Word

NOW = 10_000.0
PLACE = Place("", "w.yaml", 1)
SEEN = BackendView(NOW - 5, reachable=True, complete=True, absence_grace_s=30.0)
DARK = BackendView(NOW - 180, reachable=False, complete=False, absence_grace_s=30.0, reason="ssh: connection refused")
SPEC = BackendSpec("hpc", "slurm", PLACE, max_concurrent=100, absence_grace_s=30.0)

WAITING = TaskRecord(since=NOW - 100)
SUBMITTING = TaskRecord(TaskState.SUBMITTING, since=NOW - 3, claimed_at=NOW - 3)
QUEUED = TaskRecord(TaskState.QUEUED, since=NOW - 60, claimed_at=NOW - 61, job_id="77", reason="Priority")
RUNNING = TaskRecord(TaskState.RUNNING, since=NOW - 50, claimed_at=NOW - 61, job_id="78", started_at=NOW - 50, started=True)
SUCCEEDED = TaskRecord(TaskState.SUCCEEDED, claimed_at=1.0, started_at=NOW - 3600, ended_at=NOW - 10, exit_code=0)
FAILED = TaskRecord(TaskState.FAILED, claimed_at=1.0, started_at=NOW - 90, ended_at=NOW - 20, reason="exit code 2", exit_code=2)
LOST = TaskRecord(TaskState.LOST, claimed_at=1.0, ended_at=NOW - 20, reason="it vanished")
CANCELLED = TaskRecord(TaskState.CANCELLED, ended_at=NOW - 20, reason="by ada")
SKIPPED = TaskRecord(TaskState.SKIPPED, ended_at=NOW - 20, reason="build.x failed")
CANCELLING = RUNNING._replace(state=TaskState.CANCELLING, aim=Aim.CANCELLED, reason="by ada")

TASKS = (
    Task("setup", "true"),
    Task("build.x", "true", needs=("setup",)),
    Task("build.y", "true", needs=("setup",)),
    Task("merge", "true", needs=("build.x", "build.y")),
)


def run_of(*tasks: Task) -> Run:
    return Run("5f0c21d9a7be", "diamond", "sha256:9c41", "", "", "hpc", tasks or TASKS, PLACE, 0.0)


def diamond(*records: TaskRecord, cancelled: str = "", dropped: str = "") -> RunRecord:
    """The record of the diamond with these task records, in run order."""
    return remember(run_of(), dict(zip((task.id for task in TASKS), records, strict=True)), cancelled, dropped)


def single(record: TaskRecord, **fields: object) -> RunRecord:
    task = replace(Task("t", "true"), **fields)  # type: ignore[arg-type]  # field names are checked by dataclasses
    return remember(run_of(task), {"t": record})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (diamond(WAITING, WAITING, WAITING, WAITING), Phase.WAITING),
        (diamond(SUBMITTING, WAITING, WAITING, WAITING), Phase.RUNNING),
        (diamond(SUCCEEDED, WAITING, WAITING, WAITING), Phase.RUNNING),
        (diamond(WAITING._replace(claimed_at=5.0), WAITING, WAITING, WAITING), Phase.RUNNING),
        (diamond(SUCCEEDED, FAILED, RUNNING, SKIPPED), Phase.RUNNING),
        (diamond(SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED), Phase.SUCCEEDED),
        (diamond(SUCCEEDED, FAILED, SUCCEEDED, SKIPPED), Phase.FAILED),
        (diamond(SUCCEEDED, LOST, SUCCEEDED, SKIPPED), Phase.FAILED),
        (diamond(SUCCEEDED, CANCELLED, SUCCEEDED, SKIPPED), Phase.CANCELLED),
        (diamond(SUCCEEDED, FAILED, CANCELLED, SKIPPED), Phase.FAILED),
        (diamond(CANCELLED, CANCELLED, CANCELLED, CANCELLED, cancelled="by ada"), Phase.CANCELLED),
        (single(FAILED, allow_failure=True), Phase.SUCCEEDED),
        (single(LOST, allow_failure=True), Phase.SUCCEEDED),
        (single(CANCELLED, allow_failure=True), Phase.CANCELLED),
        (single(SKIPPED._replace(reason=NOT_CALLED_FOR), when=When.FAILURE), Phase.SUCCEEDED),
    ],
)
def test_the_phase_of_a_run(record: RunRecord, expected: Phase) -> None:
    """Waiting before anything began, Running until all is final, then as its tasks ended; what was allowed does not spoil it."""
    assert summary.phase_of(record) == expected


def test_a_run_in_numbers() -> None:
    """Counts by state in a fixed order, how many are done, core-hours, first start; no end while it is alive."""
    found = summary.run_summary(diamond(SUCCEEDED, RUNNING, QUEUED, WAITING), NOW)
    assert list(found.tasks.items()) == [(TaskState.WAITING, 1), (TaskState.QUEUED, 1), (TaskState.RUNNING, 1), (TaskState.SUCCEEDED, 1)]
    assert (found.phase, found.total, found.done, found.started_at, found.ended_at) == (Phase.RUNNING, 4, 1, NOW - 3600, 0.0)
    assert found.core_hours == pytest.approx((3590 + 50) / 3600)
    assert summary.run_summary(diamond(SUCCEEDED, FAILED, SUCCEEDED, SKIPPED), NOW).ended_at == NOW - 10


@pytest.mark.parametrize(
    ("record", "status", "reason", "message"),
    [
        (
            diamond(SUCCEEDED, RUNNING, QUEUED, WAITING),
            "Unknown",
            "WaitingForScheduler",
            "1 of 4 tasks done; build.y is pending (Priority)",
        ),
        (diamond(SUCCEEDED, RUNNING, RUNNING, WAITING), "Unknown", "Running", "1 of 4 tasks done; build.x is running, and 1 more"),
        (diamond(SUCCEEDED, RUNNING, CANCELLING, WAITING), "Unknown", "Cancelling", "1 of 4 tasks done; build.y is being ended (by ada)"),
        (diamond(SUBMITTING, WAITING, WAITING, WAITING), "Unknown", "Submitting", "0 of 4 tasks done; setup is being submitted"),
        (diamond(WAITING, WAITING, WAITING, WAITING), "Unknown", "WaitingForRoom", "0 of 4 tasks done; setup waits for room on hpc"),
        (
            diamond(WAITING._replace(not_before=NOW + 9, reason="exit code 1; trying again (1 of 2)"), WAITING, WAITING, WAITING),
            "Unknown",
            "BackOff",
            "0 of 4 tasks done; setup is tried again (exit code 1; trying again (1 of 2))",
        ),
        (diamond(SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED), "True", "Succeeded", "all 4 tasks succeeded"),
        (single(SUCCEEDED), "True", "Succeeded", "its task succeeded"),
        (single(FAILED, allow_failure=True), "True", "Succeeded", "0 of 1 tasks succeeded, 1 failed"),
        (
            diamond(SUCCEEDED, FAILED, SUCCEEDED, SKIPPED),
            "False",
            "Failed",
            "build.x failed (exit code 2); 2 of 4 tasks succeeded, 1 failed, 1 skipped",
        ),
        (
            diamond(SUCCEEDED, FAILED, LOST, SKIPPED),
            "False",
            "Failed",
            "build.x failed (exit code 2), and 1 more; 1 of 4 tasks succeeded, 1 failed, 1 lost, 1 skipped",
        ),
        (
            diamond(SUCCEEDED, LOST, SUCCEEDED, SKIPPED),
            "False",
            "Failed",
            "build.x was lost (it vanished); 2 of 4 tasks succeeded, 1 lost, 1 skipped",
        ),
        (
            diamond(SUCCEEDED, CANCELLED, SUCCEEDED, SKIPPED),
            "False",
            "Cancelled",
            "build.x was cancelled (by ada); 2 of 4 tasks succeeded, 1 cancelled, 1 skipped",
        ),
        (
            diamond(SUCCEEDED, CANCELLED, CANCELLED, CANCELLED, cancelled="by Run stop"),
            "False",
            "Cancelled",
            "by Run stop; 1 of 4 tasks succeeded, 3 cancelled",
        ),
    ],
)
def test_the_sentence_about_a_run(record: RunRecord, status: str, reason: str, message: str) -> None:
    """Succeeded is Unknown while a run is alive, and says how far it is and what it waits for; after it, how it ended."""
    ready, succeeded = summary.run_conditions(replace(run_of(), tasks=tuple(record.known.values())), record)
    assert (ready.type, ready.status, ready.reason) == ("Ready", Truth.TRUE, "Accepted")
    assert succeeded == Condition("Succeeded", Truth(status), reason, message, "sha256:9c41")


def test_a_run_on_a_backend_that_cannot_be_reached_says_so() -> None:
    """What is live there goes on, unseen; the sentence names the backend and its words."""
    for record in (diamond(SUCCEEDED, RUNNING, RUNNING, WAITING), diamond(WAITING, WAITING, WAITING, WAITING)):
        succeeded = summary.run_conditions(run_of(), record, backends={"hpc": DARK})[1]
        assert succeeded.reason == "BackendUnreachable"
        assert succeeded.message.endswith("backend hpc cannot be reached: ssh: connection refused")


def test_a_suspended_run_says_by_what() -> None:
    """It is honoured (Ready) and starts nothing."""
    ready, succeeded = summary.run_conditions(run_of(), diamond(SUCCEEDED, WAITING, WAITING, WAITING), "suspended by ada")
    assert (ready.status, ready.reason, ready.message) == (Truth.TRUE, "Suspended", "nothing new is started: suspended by ada")
    assert (succeeded.reason, succeeded.message) == ("Suspended", "1 of 4 tasks done; nothing new is started: suspended by ada")


def test_a_stalled_run_says_what_a_person_must_do() -> None:
    """Stalled is there only while it is true, and makes Ready false."""
    record = diamond(WAITING._replace(losses=LOSSES_MAX, reason="no answer"), WAITING, WAITING, WAITING)
    ready, succeeded, stalled = summary.run_conditions(run_of(), record)
    assert (ready.status, stalled.type, stalled.status, stalled.reason) == (Truth.FALSE, "Stalled", Truth.TRUE, "SubmissionsLost")
    assert stalled.message == record.stalled
    assert succeeded.reason == "Stalled"


OLD = Condition("Succeeded", Truth.UNKNOWN, "Running", "", last_transition_time=5.0)


@pytest.mark.parametrize(
    ("standing", "problem", "expected"),
    [
        (Word("r", "Reconciled", "run r follows this digest"), "", [("Ready", "True", "Reconciled")]),
        (Waiting("w", "", "WaitingForRun", "m"), "", [("Ready", "False", "WaitingForRun"), ("Reconciling", "True", "WaitingForRun")]),
        (Waiting("w", "", "Suspended", "m"), "", [("Ready", "False", "Suspended")]),
        (Held("w", "", "TooManyRuns", "m", "approve: x"), "", [("Ready", "False", "TooManyRuns"), ("Stalled", "True", "TooManyRuns")]),
        (Word("r", "Reconciled", "m"), "w.yaml:3:1: bad", [("Ready", "False", "InvalidManifest"), ("Stalled", "True", "InvalidManifest")]),
    ],
)
def test_the_conditions_of_a_workflow(standing: Word | Waiting | Held, problem: str, expected: list[tuple[str, str, str]]) -> None:
    """Ready always, Reconciling or Stalled only while true, and Succeeded as the newest run has it."""
    found = summary.workflow_conditions("sha256:1", standing, (OLD,), problem)
    assert [(each.type, each.status, each.reason) for each in found[:-1]] == expected
    assert found[-1] == OLD


def test_what_is_held_says_the_cure() -> None:
    """The field to write is in the message."""
    found = summary.workflow_conditions("d", Held("w", "", "TooLarge", "too many core-hours", "approve: d"))
    assert found[0].message == "too many core-hours; to let it start: `approve: d`"


@pytest.mark.parametrize(
    ("view", "expected", "message"),
    [
        (SourceView(), [("Ready", "Unknown", "FirstLook"), ("Reconciling", "True", "FirstLook")], "not read yet"),
        (SourceView("main@sha1:1", objects=2), [("Ready", "True", "Reconciled")], "2 objects at main@sha1:1"),
        (
            SourceView("main@sha1:1", unreachable="time-out"),
            [("Ready", "False", "Unreachable"), ("Reconciling", "True", "Unreachable")],
            "time-out; main@sha1:1 stays in force; tried again by itself",
        ),
        (SourceView(refused="no branch `main`"), [("Ready", "False", "Refused"), ("Stalled", "True", "Refused")], "no branch `main`"),
        (
            SourceView("r", problems=("a", "b", "c", "d", "e")),
            [("Ready", "False", "InvalidManifests"), ("Stalled", "True", "InvalidManifests")],
            "a; b; c; and 2 more",
        ),
        (SourceView("r", suspended="by ada"), [("Ready", "True", "Suspended")], "nothing new is started: by ada"),
    ],
)
def test_the_conditions_of_a_source(view: SourceView, expected: list[tuple[str, str, str]], message: str) -> None:
    """Unreachable moves on by itself; refused and invalid need a person; what was read before stays in force."""
    found = summary.source_conditions(view)
    assert [(each.type, each.status, each.reason) for each in found] == expected
    assert found[0].message == message


@pytest.mark.parametrize(
    ("spec", "view", "unowned", "expected"),
    [
        (SPEC, SEEN, "", [("Ready", "True", "Reconciled")]),
        (SPEC, DARK, "", [("Ready", "False", "Unreachable"), ("Reconciling", "True", "Unreachable")]),
        (SPEC, BackendView(None, False, False, 30.0), "", [("Ready", "Unknown", "FirstLook"), ("Reconciling", "True", "FirstLook")]),
        (
            SPEC,
            BackendView(None, False, False, 30.0, "refused"),
            "",
            [("Ready", "False", "Unreachable"), ("Reconciling", "True", "Unreachable")],
        ),
        (SPEC, replace(SEEN, complete=False), "", [("Ready", "True", "PartlySeen")]),
        (SPEC, replace(SEEN, accepts=False), "", [("Ready", "True", "Suspended")]),
        (replace(SPEC, draining=True), replace(SEEN, accepts=False), "", [("Ready", "True", "Draining")]),
        (SPEC, SEEN, "owned by ledger x", [("Ready", "False", "NotOwner"), ("Stalled", "True", "NotOwner")]),
    ],
)
def test_the_conditions_of_a_backend(spec: BackendSpec, view: BackendView, unowned: str, expected: list[tuple[str, str, str]]) -> None:
    """Unreachable is retried, another owner needs a person, draining is as asked."""
    assert [(each.type, each.status, each.reason) for each in summary.backend_conditions(spec, view, unowned)] == expected


def test_a_condition_keeps_its_time_while_its_status_is_the_same() -> None:
    """Another reason or message is no transition; another status is, and so is a condition that was not there."""
    old = (Condition("Ready", Truth.TRUE, "A", "a", "g1", 5.0), Condition("Stalled", Truth.TRUE, "S", "s", "g1", 6.0))
    new = (Condition("Ready", Truth.TRUE, "B", "b", "g2"), Condition("Succeeded", Truth.UNKNOWN, "R", "r", "g2"))
    assert summary.carry(old, new, 9.0) == (replace(new[0], last_transition_time=5.0), replace(new[1], last_transition_time=9.0))
    assert summary.carry(old, (Condition("Ready", Truth.FALSE, "A", "a"),), 9.0)[0].last_transition_time == 9.0


def test_no_condition_of_a_live_run_changes_with_the_clock_alone() -> None:
    """A status that changed every second would be written every second: conditions take no clock at all, and are equal."""
    record = diamond(SUCCEEDED, RUNNING, QUEUED, WAITING)
    assert summary.run_conditions(run_of(), record) == summary.run_conditions(run_of(), record)


HPC = {"hpc": SEEN}
UNREACHED = "backend hpc cannot be reached: ssh: connection refused (last seen 3 min ago); it is looked at again by itself"


@pytest.mark.parametrize(
    ("record", "task", "around", "expected"),
    [
        (
            diamond(SUCCEEDED, RUNNING, QUEUED, WAITING),
            "merge",
            Surroundings(HPC),
            (
                "merge waits for 2 of 2 tasks it needs: build.x, build.y",
                "build.x is running: job 78 on hpc, for 50 s",
            ),
        ),
        (
            diamond(SUCCEEDED, SUCCEEDED, QUEUED, WAITING),
            "merge",
            Surroundings(HPC),
            (
                "merge waits for 1 of 2 tasks it needs: build.y",
                "build.y is pending (Priority): job 77 on hpc, for 60 s",
            ),
        ),
        (
            diamond(WAITING, WAITING, WAITING, WAITING),
            "merge",
            Surroundings(HPC, {"hpc": 0}),
            (
                "merge waits for 2 of 2 tasks it needs: build.x, build.y",
                "build.x waits for 1 of 1 tasks it needs: setup",
                "setup could start, but there is no room for it on hpc now (this run has 0 jobs there)",
            ),
        ),
        (diamond(WAITING, WAITING, WAITING, WAITING), "setup", Surroundings(HPC, {"hpc": 1}), ("setup is sent to hpc next",)),
        (
            diamond(WAITING, WAITING, WAITING, WAITING),
            "setup",
            Surroundings(HPC, suspended="the workflow is suspended by ada"),
            ("setup could start, but the workflow is suspended by ada",),
        ),
        (
            diamond(WAITING, WAITING, WAITING, WAITING),
            "setup",
            Surroundings({"hpc": DARK}),
            (f"setup could start, but {UNREACHED}",),
        ),
        (
            diamond(WAITING, WAITING, WAITING, WAITING),
            "setup",
            Surroundings({}),
            ("setup could start, but backend hpc does not exist; declare it, or name another",),
        ),
        (
            diamond(WAITING, WAITING, WAITING, WAITING),
            "setup",
            Surroundings({"hpc": replace(SEEN, accepts=False)}),
            ("setup could start, but backend hpc is draining or suspended and takes nothing new",),
        ),
        (
            diamond(WAITING._replace(not_before=NOW + 40, attempt=2, reason="exit code 1"), WAITING, WAITING, WAITING),
            "setup",
            Surroundings(HPC),
            ("setup is tried again in 40 s, as attempt 2 (exit code 1)",),
        ),
        (diamond(SUBMITTING, WAITING, WAITING, WAITING), "setup", Surroundings(HPC), ("setup was sent to hpc 3 s ago; no answer yet",)),
        (
            diamond(CANCELLING, WAITING, WAITING, WAITING),
            "setup",
            Surroundings(HPC),
            ("setup waits for hpc to prove that its job cannot run any more (by ada); it is cancelled then",),
        ),
        (
            diamond(RUNNING._replace(absent_since=NOW - 12), WAITING, WAITING, WAITING),
            "setup",
            Surroundings(HPC),
            (
                "setup is running: job 78 on hpc, for 50 s",
                "its job was not there 12 s ago; it is believed gone when a complete look that begins in 18 s or later"
                " does not show it either",
            ),
        ),
        (
            diamond(RUNNING, WAITING, WAITING, WAITING),
            "setup",
            Surroundings({"hpc": DARK}),
            (
                "setup is running: job 78 on hpc, for 50 s",
                UNREACHED,
            ),
        ),
        (diamond(SUCCEEDED, FAILED, SUCCEEDED, SKIPPED), "merge", Surroundings(HPC), ("merge was skipped (build.x failed)",)),
        (diamond(SUCCEEDED, FAILED, SUCCEEDED, SKIPPED), "build.y", Surroundings(HPC), ("build.y succeeded",)),
    ],
)
def test_why_a_task_does_not_move(record: RunRecord, task: str, around: Surroundings, expected: tuple[str, ...]) -> None:
    """From the task itself down its needs to the one thing that comes next, with the time of the next try."""
    assert summary.why(run_of(), record, task, around, NOW) == expected


def test_why_says_when_only_a_person_can_help() -> None:
    """A task that was lost too often is not sent again, and the reason says what to do."""
    record = diamond(WAITING._replace(losses=LOSSES_MAX, reason="no answer"), WAITING, WAITING, WAITING)
    assert summary.why(run_of(), record, "setup", Surroundings(HPC), NOW) == (f"setup is not sent again: {record.stalled}",)


def test_why_of_a_generator_whose_file_is_read() -> None:
    """A generator that ended well waits for its file to be read."""
    record = single(RUNNING._replace(exit_code=0), generates_source="tasks.json")
    run = replace(run_of(), tasks=tuple(record.known.values()))
    expected = ("t has ended well; the tasks it generated are being read from hpc",)
    assert summary.why(run, record, "t", Surroundings(HPC), NOW) == expected


def test_why_of_a_chain_of_fifty_thousand_is_short() -> None:
    """It neither recurses nor prints the whole chain."""
    tasks = tuple(Task(f"t{place}", "true", needs=(f"t{place - 1}",) if place else ()) for place in range(50_000))
    run = run_of(*tasks)
    record = remember(run, dict.fromkeys((task.id for task in tasks), WAITING))
    lines = summary.why(run, record, "t49999", Surroundings(HPC, {"hpc": 1}), NOW)
    assert (len(lines), lines[-1]) == (31, "t0 is sent to hpc next")
    assert "… 49,970 more tasks that wait for each other …" in lines


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0 s"),
        (0.42, "0.42 s"),
        (9.9, "9.9 s"),
        (40.4, "40 s"),
        (99.9, "100 s"),
        (100, "2 min"),
        (5400, "90 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (86400, "1 d"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations_are_short(seconds: float, expected: str) -> None:
    """At most two units, and none that nobody needs."""
    assert summary.span(seconds) == expected
