"""What people are told: real ledger rows, a real status writer, and what the controller would say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import reconciler.report
from reconciler.core.observed import BackendView
from reconciler.core.plan import remember
from reconciler.core.record import RunHead, TaskRecord, TaskState
from reconciler.core.trigger import Context, Decisions, Owed, owed, run_of
from reconciler.fleet import Step, head_of
from reconciler.ledger import Ledger, LedgerReader
from reconciler.ledger.rows import ObjectRow
from reconciler.manifest.assemble import Desired, LastGood
from reconciler.report import Report
from reconciler.saving import batch_of
from reconciler.standing import Alive
from reconciler.status import StatusWriter
from tests.manifest.samples import World, manifest, workflow

NOW = 1_000_000.0
SEEN = BackendView(NOW, reachable=True, complete=True, absence_grace_s=30.0)
Heads = dict[str, dict[str, RunHead]]


class Desk:
    """A Report on a real ledger and a real status folder; `again` is a new daemon on the same ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pokes: list[float] = []
        self.wanted: list[str] = []
        self.heads: Heads = {}
        self.ledger = Ledger.open(root / "state", "test")
        self.again()

    def again(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
        self.writer = StatusWriter(self.root / "status", "test", interval_s=0.0)
        self.rows = self.ledger.objects()
        self.report = Report(self.writer, self.rows, self.pokes.append, self.wanted.append)
        with LedgerReader(self.root / "state") as reader:
            self.report.catch_up(reader)

    def close(self) -> None:
        self.writer.close()
        self.ledger.close()

    def decide(self, desired: Desired) -> Decisions:
        """As the controller does it."""
        heads = {name: tuple(each.values()) for name, each in self.heads.items()}
        decisions = owed(desired.workflows, heads, Context("test", requests=desired.requests, gates=desired.gates), NOW)
        self.report.decided(decisions, self.heads)
        return decisions

    def direct(self, desired: Desired) -> Decisions:
        self.report.directed(desired)
        return self.decide(desired)

    def save(self, *steps: Step) -> None:
        """One cycle's save, and what follows from it."""
        changes = self.report.unsaved([step for step in steps if step.record.ended])
        self.ledger.save(batch_of(steps, changes))
        self.report.saved(changes)
        for step in steps:
            self.heads.setdefault(step.run.workflow, {})[step.run.id] = head_of(step.run, step.record)
            self.report.run(step, "")

    def flush(self) -> None:
        """Say and save what is behind."""
        self.report.hurry()
        self.save()

    def row(self, kind: str, name: str) -> ObjectRow:
        """As the ledger has it."""
        return next(row for row in self.ledger.objects() if (row.kind, row.name) == (kind, name))

    def said(self, kind: str, name: str) -> dict[str, dict[str, str]]:
        """The conditions of the row, by type."""
        status = self.row(kind, name).status
        assert isinstance(status, dict) and isinstance(status["conditions"], list)
        return {each["type"]: each for each in status["conditions"]}  # type: ignore[index,call-overload,misc]  # as rows are made

    def file(self, kind: str, name: str) -> str:
        assert self.writer.flush()
        return (self.root / "status" / kind.lower() / f"{name}.yaml").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def started(debt: Owed, at: float = NOW) -> Step:
    run = run_of(debt, at)
    tasks = {task.id: TaskRecord(TaskState.RUNNING, since=at, claimed_at=at, started_at=at, started=True) for task in run.tasks}
    return Step(run, None, remember(run, tasks), changed=frozenset(tasks))


def ended(step: Step, state: TaskState = TaskState.FAILED) -> Step:
    run = step.run
    tasks = {name: task._replace(state=state, ended_at=NOW + 5, exit_code=1) for name, task in step.record.tasks.items()}
    return Step(run, step.record, remember(run, tasks), changed=frozenset(tasks))


def begun(desk: Desk, *names: str) -> tuple[Desired, list[Step]]:
    """Workflows of one task each, whose runs were made and are saved."""
    desired = World({f"{name}.yaml": workflow(name) for name in names}).desired()
    steps = [started(debt) for debt in desk.direct(desired).create]
    desk.save(*steps)
    desk.decide(desired)
    desk.flush()
    return desired, steps


def test_the_end_of_a_run_is_in_the_batch_that_ends_it(desk: Desk) -> None:
    """Killed right after the save: the ledger has the workflow's words about the end, although no second has passed."""
    _, [step] = begun(desk, "w")
    assert desk.said("Workflow", "w")["Succeeded"]["status"] == "Unknown"
    changes = desk.report.unsaved([ended(step)])
    desk.ledger.save(batch_of([ended(step)], changes))
    status = desk.row("Workflow", "w").status
    assert isinstance(status, dict)
    assert (desk.said("Workflow", "w")["Succeeded"]["status"], status["run"]["phase"]) == ("False", "Failed")  # type: ignore[index,call-overload]
    assert status["history"][0]["outcome"] == "Failed"  # type: ignore[index,call-overload]


def test_an_end_that_was_not_saved_is_not_told(desk: Desk) -> None:
    """A save that fails leaves nothing behind: neither people nor `--once` are told of the end."""
    _, [step] = begun(desk, "w")
    desk.report.unsaved([ended(step)])
    assert desk.report.trouble() == []
    assert "phase: Running" in desk.file("Workflow", "w")
    desk.save(ended(step))
    assert [line for line in desk.report.trouble() if "Workflow/w: Failed" in line] != []
    assert "phase: Failed" in desk.file("Workflow", "w")


@pytest.mark.parametrize(("state", "phase"), [(TaskState.FAILED, "Failed"), (TaskState.SUCCEEDED, "Succeeded")])
def test_wrong_words_of_an_earlier_daemon_are_put_right(desk: Desk, state: TaskState, phase: str) -> None:
    """The ledger's own word of the newest run counts, not what was last said of it; `--once` hears of a failure."""
    _, [step] = begun(desk, "w")
    desk.ledger.save(replace(batch_of([ended(step, state)], desk.report.unsaved()), objects=()))
    desk.again()
    assert (desk.report.trouble() != []) == (phase == "Failed")
    desk.flush()
    assert desk.row("Workflow", "w").status["run"]["phase"] == phase  # type: ignore[index,call-overload]
    assert f"phase: {phase}" in desk.file("Workflow", "w")


def test_words_of_an_end_that_never_was_are_put_right(desk: Desk) -> None:
    """A workflow of which a final phase was said while its run is alive is told as alive again."""
    _, [step] = begun(desk, "w")
    changes = desk.report.unsaved([ended(step)])
    desk.ledger.save(batch_of([], changes))
    desk.again()
    desk.flush()
    assert desk.row("Workflow", "w").status["run"]["phase"] == "Running"  # type: ignore[index,call-overload]
    assert desk.said("Workflow", "w")["Succeeded"]["status"] == "Unknown"


def test_only_what_changed_is_said(desk: Desk) -> None:
    """When one of many runs ends, only its workflow is written, at once, and the throttle stays as it is."""
    desired, steps = begun(desk, *(f"w{number}" for number in range(20)))
    desk.decide(desired)
    assert desk.report.behind is False
    desk.save(ended(steps[3]))
    desk.decide(desired)
    assert list(desk.report._dirty) == [("Workflow", steps[3].run.workflow)]
    desk.report.hurry()
    changes = desk.report.unsaved([])
    assert {row.name for row in changes.objects if row.kind == "Workflow"} == {steps[3].run.workflow}
    desk.report.saved(changes)
    assert desk.report.unsaved([ended(steps[4])]).objects[0].name == steps[4].run.workflow


def test_what_is_throttled_is_said_later(desk: Desk) -> None:
    """Within a second only a cycle is asked for, once; `behind` says that something waits."""
    _, [step] = begun(desk, "w")
    desk.save(replace(step, before=step.record))
    desk.pokes.clear()
    desk.save()
    desk.save()
    assert (len(desk.pokes), desk.pokes[0] <= 1.0, desk.report.behind) == (1, True, True)
    desk.flush()
    assert desk.report.behind is False


def test_of_ended_runs_only_words_are_kept(desk: Desk) -> None:
    """No task of a run that has ended stays in memory."""
    _, [step] = begun(desk, "w")
    assert isinstance(desk.report._newest["w"], Alive)
    desk.save(ended(step))
    assert not isinstance(desk.report._newest["w"], Alive)


def run_document(**spec: object) -> str:
    return manifest("Run", "r", spec)


@pytest.mark.parametrize(
    ("spec", "reason", "stuck"),
    [
        ({"workflow": "nobody"}, "UnknownWorkflow", True),
        ({"workflow": "w", "revision": "1234567"}, "OtherRevision", True),
        ({"workflow": "w", "suspend": {"reason": "not now"}}, "Suspended", False),
        ({"workflow": "w"}, "WaitingForRun", False),
    ],
)
def test_a_run_document_has_its_own_words(desk: Desk, spec: dict[str, object], reason: str, stuck: bool) -> None:
    """A Run document that cannot be honoured says why, spoils no workflow, and is trouble when it waits for a person."""
    desired, _ = begun(desk, "w")
    desired = World({"w.yaml": workflow("w"), "r.yaml": run_document(**spec)}).desired()
    assert desired.problems == ()
    desk.direct(desired)
    desk.flush()
    ready = desk.said("Run", "r")["Ready"]
    assert (ready["status"], ready["reason"], "Stalled" in desk.said("Run", "r")) == ("False", reason, stuck)
    assert desk.said("Workflow", "w")["Ready"]["reason"] == "Reconciled"
    assert [line.startswith(f"r.yaml:1: Run/r: {reason}") for line in desk.report.trouble()] == [True] * stuck


def test_a_run_document_is_told_what_answers_it(desk: Desk) -> None:
    """Once its run exists, a Run document is Ready and names it; one that is held names the cure."""
    desired = World({"w.yaml": workflow("w", trigger={"on": ["manual"]}), "r.yaml": run_document(workflow="w")}).desired()
    limits = replace(desired.limits, runs_per_commit=0)
    decisions = owed(desired.workflows, {}, Context("test", requests=desired.requests, limits=limits), NOW)
    desk.report.directed(desired)
    desk.report.decided(decisions, {})
    desk.flush()
    assert (desk.said("Run", "r")["Ready"]["reason"], "approve: " in desk.said("Run", "r")["Ready"]["message"]) == ("TooManyRuns", True)
    assert [line for line in desk.report.trouble() if "Run/r: TooManyRuns" in line] != []
    [debt] = desk.decide(desired).create
    desk.save(started(debt))
    desk.decide(desired)
    desk.flush()
    ready = desk.said("Run", "r")["Ready"]
    assert (ready["status"], ready["message"]) == ("True", f"run {debt.run_id} answers it")
    assert desk.said("Workflow", "w")["Ready"]["reason"] == "Idle"


def test_a_run_document_that_names_a_run(desk: Desk) -> None:
    """It is told whether that run is cancelled, has ended, or is none at all: the ledger is asked for what is not in memory."""
    from asyncio import Future, new_event_loop

    _, [step] = begun(desk, "w")
    text = run_document(run=step.run.id, state="cancelled")
    desired = World({"w.yaml": workflow("w"), "r.yaml": text}).desired()
    assert desired.problems == ()
    desk.direct(desired)
    desk.save(replace(step, before=step.record, record=replace(step.record, cancelled="by Ada")))
    desk.decide(desired)
    desk.flush()
    assert (desk.said("Run", "r")["Ready"]["reason"], desk.wanted) == ("Cancelled", [])
    desk.save(ended(step, TaskState.CANCELLED))
    desk.decide(desired)
    desk.flush()
    assert desk.said("Run", "r")["Ready"]["reason"] == "Ended"
    desk.heads.clear()
    desk.decide(desired)
    desk.decide(desired)
    assert (desk.wanted, desk.report.behind) == ([step.run.id], True)
    loop = new_event_loop()
    answer: Future[None] = Future(loop=loop)
    answer.set_result(None)
    desk.report.looked_up(step.run.id, answer)
    loop.close()
    desk.flush()
    assert [line for line in desk.report.trouble() if "Run/r: UnknownRun" in line] != []


BROKEN = "apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: w}\nspec: {tusks: []}\n"


def test_never_valid_is_said_only_when_it_is_so(desk: Desk) -> None:
    """After a restart the last good version is not known: then its runs go on, and nobody is told that it was never valid."""
    desk.direct(World({"w.yaml": BROKEN}).desired())
    desk.flush()
    assert "it was never valid" in desk.said("Workflow", "w")["Ready"]["message"]
    begun(desk, "w")
    desk.again()
    world = World({"w.yaml": BROKEN})
    world.good = {(row.kind, row.name): LastGood(row.kind, row.name, row.source, row.file, None) for row in desk.rows}
    desk.direct(world.desired())
    desk.flush()
    said = desk.said("Workflow", "w")
    assert said["Ready"]["message"].endswith("; nothing of it is in force; its runs go on")
    assert said["Succeeded"]["status"] == "Unknown"


def test_one_workflow_of_which_nothing_can_be_said(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are told of all the same, and the log names it."""
    _, steps = begun(desk, "a", "b")
    broken = replace(steps[0], run=replace(steps[0].run, created_at="?"))  # type: ignore[arg-type]  # a bug, on purpose
    broken = replace(ended(broken), record=None)  # type: ignore[arg-type]
    changes = desk.report.unsaved([broken, ended(steps[1])])
    assert [row.name for row in changes.objects] == [steps[1].run.workflow]
    assert "ObjectFailed" in capsys.readouterr().out


def test_a_status_folder_that_cannot_be_written(desk: Desk) -> None:
    """The Settings object says so while it is so, and an event when it begins and ends."""
    blocked = desk.root / "status" / "workflow"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    begun(desk, "w")
    assert desk.writer.flush() is False
    desk.save()
    said = desk.said("Settings", "me")["StatusWritable"]
    assert (said["status"], said["reason"], "workflow/w" in said["message"]) == ("False", "StatusUnwritable", True)
    with LedgerReader(desk.root / "state") as reader:
        assert [each.event.object for each in reader.events() if each.event.name == "StatusUnwritable"] == ["Settings/me"]


def test_a_backend_says_what_nobody_expects(desk: Desk) -> None:
    """Jobs of ours that nobody expects are named, and the facts of its document are in its row."""
    text = manifest("Backend", "here", {"type": "local", "max_concurrent": 3, "absence_grace": "7s"})
    desk.direct(World({"b.yaml": text}).desired())
    view = replace(SEEN, strays=("a", "b", "c", "d"), later="its spool is another one now")
    desk.report.backends({"here": view}, frozenset())
    desk.save()
    message = desk.said("Backend", "here")["Ready"]["message"]
    assert message.endswith("; its spool is another one now; 4 jobs of ours that nobody expects: a, b, c and 1 more")
    assert desk.row("Backend", "here").body == {"type": "local", "max_concurrent": 3, "absence_grace_s": 7.0}
    desk.direct(World({"b.yaml": text.replace("7s", "9s")}).desired())
    desk.report.backends({"here": view}, frozenset())
    desk.save()
    assert json.loads(json.dumps(desk.row("Backend", "here").body))["absence_grace_s"] == 9.0


def test_what_is_good_to_know_of_a_backend_is_told_now_and_then(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that change with every look are told at once the first time, then once a minute, or with what matters; as they are."""
    now = [NOW]
    monkeypatch.setattr(reconciler.report, "utc_now", lambda: now[0])
    text = manifest("Backend", "here", {"type": "local", "max_concurrent": 3})
    desk.direct(World({"b.yaml": text}).desired())

    def told(calls: int, view: BackendView = SEEN, after_s: float = 1.0) -> object:
        now[0] += after_s
        desk.report.backends({"here": view}, frozenset(), {"here": {"scheduler": "Slurm 22.05.8", "calls_last_hour": calls}})
        desk.save()
        status = desk.row("Backend", "here").status
        assert isinstance(status, dict)
        return status["about"]

    first = {"scheduler": "Slurm 22.05.8", "calls_last_hour": 1}
    assert told(1) == first
    assert told(2) == first
    assert told(3, after_s=58.0) == first
    assert told(4) == {**first, "calls_last_hour": 4}
    assert told(5, replace(SEEN, reachable=False, reason="no route")) == {**first, "calls_last_hour": 5}
    desk.again()
    desk.direct(World({"b.yaml": text}).desired())
    desk.report.backends({"here": replace(SEEN, began_at=None, reachable=False)}, frozenset(), {"here": {}})
    desk.save()
    status = desk.row("Backend", "here").status
    assert isinstance(status, dict)
    assert status["about"] == {**first, "calls_last_hour": 5}  # until there is something newer
