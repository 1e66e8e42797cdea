"""A lost ledger comes back from what backends, the old file and status files hold; nothing runs by itself, nothing is believed blindly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.desired import Cause, Run
from reconciler.core.draft import remember
from reconciler.core.names import job_name, run_id
from reconciler.core.observed import JobFact, JobState
from reconciler.core.record import FINAL, Phase, TaskRecord, TaskState
from reconciler.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerUnwritable, StateLost
from reconciler.ledger import Batch, Ledger, LedgerReader, Owner, check_traces
from reconciler.ledger.recovery import WHY, Findings, Report, Trace, find_status_traces, recover
from reconciler.ledger.schema import FILE_NAME
from reconciler.status import RunView, StatusWriter
from tests.ledger_samples import changed, ended, new, sample_run

NOW = 5000.0
DONE = TaskRecord(TaskState.SUCCEEDED, since=80.0, claimed_at=10.0, started=True, started_at=20.0, ended_at=80.0, exit_code=0, job_id="77")
RUNNING = TaskRecord(TaskState.RUNNING, since=20.0, claimed_at=10.0, started=True, started_at=20.0, job_id="78")
EXIT_0 = JobFact(JobState.ENDED, "77", started=True, exit_code=0, started_at=20.0, ended_at=80.0)
ALIVE = JobFact(JobState.RUNNING, "78", started=True, started_at=20.0)


def run_of(digest: str, tasks: int = 3, *, workflow: str = "lab/a", occasion: str = "") -> Run:
    """A run whose id is what it must be."""
    return sample_run(run_id("lab", "Workflow", workflow, digest, occasion, 0), tasks, workflow=workflow, digest=digest, occasion=occasion)


def write_status(folder: Path, *runs: tuple[Run, Mapping[str, TaskRecord]], instance: str = "lab") -> None:
    writer = StatusWriter(folder / "status", instance)
    for run, records in runs:
        writer.put_run(RunView(run, remember(run, records)))
    writer.close()


def recovered(folder: Path, *traces: Trace, owners: tuple[Owner, ...] = ()) -> Report:
    return recover(folder / "state", folder / "status", "lab", Findings(traces, owners), NOW)


def trace(run: Run, task: str, fact: JobFact | None, attempt: int = 1, claimed: bool = True) -> Trace:
    return Trace("local", job_name(run.id, task, attempt), claimed, fact)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_what_ran_is_known_again(tmp_path: Path, state: Path) -> None:
    """From status files and a spool: what ended is not run again, what lives is followed, what waited is cancelled, all suspended."""
    finished, interrupted = run_of("sha256:1", 2), run_of("sha256:2", 3, workflow="lab/b")
    write_status(
        tmp_path,
        (finished, {"t0": DONE, "t1": DONE}),
        (interrupted, {"t0": DONE, "t1": RUNNING, "t2": TaskRecord()}),
    )
    traces = [trace(finished, task, EXIT_0) for task in ("t0", "t1")] + [trace(interrupted, "t0", EXIT_0), trace(interrupted, "t1", ALIVE)]
    report = recovered(tmp_path, *traces, owners=(Owner("spool", "f" * 32, 7),))
    assert (report.runs, report.live, report.nameless, report.problems, report.kept) == (2, 1, 0, (), None)
    assert report.lines == (
        f"run {finished.id} of lab/a sha256:1 ended as Succeeded: it is not run again",
        f"run {interrupted.id} of lab/b sha256:2 was interrupted: 1 waiting tasks are cancelled; followed to their end: t1;"
        " a new `rerun` token runs it again",
    )
    ledger = Ledger.open(state, "lab")
    assert (ledger.id, ledger.epoch, ledger.fresh, ledger.recovered_at()) == ("f" * 32, 8, False, NOW)
    check_traces(ledger.identity, [Owner("spool", "f" * 32, 7)], ["run/x.yaml"])
    (head,) = ledger.heads("lab/a", "sha256:1")
    assert (head.id, head.phase, head.begun, head.ended) == (finished.id, Phase.SUCCEEDED, True, True)
    (live,) = ledger.live_runs()
    assert {task: record.state for task, record in live.records.items()} == {
        "t0": TaskState.SUCCEEDED,
        "t1": TaskState.RUNNING,
        "t2": TaskState.CANCELLED,
    }
    assert (live.run.id, live.dropped, live.records["t1"].job_id, live.records["t1"].attempt) == (interrupted.id, WHY, "78", 1)
    assert remember(live.run, live.records, live.cancelled, live.dropped).live == {"local": 1}
    ledger.close()


def test_released_workflows_are_remembered(tmp_path: Path, state: Path) -> None:
    """After a recovery everything is suspended until a person releases it, one by one or all at once."""
    recovered(tmp_path)
    ledger = Ledger.open(state, "lab")
    ledger.save(Batch(released=("lab/a",)))
    ledger.close()
    ledger = Ledger.open(state, "lab")
    assert (ledger.recovered_at(), ledger.released()) == (NOW, frozenset({"lab/a"}))
    ledger.save(Batch(released=("*",)))
    assert ledger.recovered_at() is None
    with LedgerReader(state) as reader:
        assert reader.recovered_at() is None
    ledger.close()


def test_a_run_without_a_status_file_is_never_made_again(tmp_path: Path, state: Path) -> None:
    """Of a run that only a spool knows, the id is kept: its digest is satisfied, and no other is."""
    run = run_of("sha256:1", 1)
    report = recovered(tmp_path, trace(run, "t0", EXIT_0))
    assert (report.nameless, report.lines) == (1, (f"run {run.id} of a workflow nobody can name ended as Succeeded: it is not run again",))
    ledger = Ledger.open(state, "lab")
    assert ledger.nameless == {run.id}
    with pytest.raises(LedgerError, match="is not made again: it is kept as a recovered run"):
        ledger.save(new(run))
    assert ledger.heads("lab/a", "sha256:2") == ()
    assert [head.id for head in ledger.heads("lab/a", "sha256:1")] == [run.id]
    assert ledger.nameless == frozenset()
    ledger.close()


@pytest.mark.parametrize(
    ("fact", "claimed", "expected"),
    [
        (EXIT_0, True, (TaskState.SUCCEEDED, 0, None)),
        (JobFact(JobState.ENDED, exit_code=3, started=True, ended_at=80.0), True, (TaskState.FAILED, 3, Cause.EXIT)),
        (JobFact(JobState.ENDED, cause=Cause.TIMEOUT, started=True, ended_at=80.0), True, (TaskState.FAILED, None, Cause.TIMEOUT)),
        (JobFact(JobState.ENDED, cause=Cause.LOST, started=True), True, (TaskState.LOST, None, Cause.LOST)),
        (JobFact(JobState.ENDED, cause=Cause.CANCELLED), True, (TaskState.CANCELLED, None, Cause.CANCELLED)),
        (ALIVE, True, (TaskState.RUNNING, None, None)),
        (JobFact(JobState.QUEUED, "9"), True, (TaskState.QUEUED, None, None)),
        (JobFact(JobState.UNKNOWN, started=True), True, (TaskState.RUNNING, None, None)),
        (JobFact(JobState.UNKNOWN), True, (TaskState.SUBMITTING, None, None)),
        (None, True, (TaskState.SUBMITTING, None, None)),
        (JobFact(JobState.FENCED), True, (TaskState.CANCELLED, None, Cause.CANCELLED)),
        (None, False, (TaskState.CANCELLED, None, Cause.CANCELLED)),
    ],
)
def test_each_trace_has_its_record(
    tmp_path: Path, state: Path, fact: JobFact | None, claimed: bool, expected: tuple[TaskState, int | None, Cause | None]
) -> None:
    """A task is final only with proof; what may be under way, or was never proven not sent, is left for its backend to settle."""
    run = run_of("sha256:1", 1)
    recovered(tmp_path, trace(run, "t0", fact, claimed=claimed))
    with LedgerReader(state) as reader:
        stored = reader.stored(run.id)
    assert stored is not None
    record = stored.records["t0"]
    assert (record.state, record.exit_code, record.cause) == expected
    assert (stored.ended_at is None) == (record.state not in FINAL)


def test_the_newest_attempt_counts(tmp_path: Path, state: Path) -> None:
    """Of several attempts of a task the newest counts, in whatever order they are found."""
    run = run_of("sha256:1", 1)
    failed = JobFact(JobState.ENDED, exit_code=1, started=True, ended_at=30.0)
    for order in (1, -1):
        attempts = [trace(run, "t0", failed, 1), trace(run, "t0", ALIVE, 10), trace(run, "t0", failed, 9)][::order]
        recovered(tmp_path / str(order), *attempts)
        ledger = Ledger.open(tmp_path / str(order) / "state", "lab")
        record = ledger.live_runs()[0].records["t0"]
        assert (record.attempt, record.state) == (10, TaskState.RUNNING)
        ledger.close()


def test_backends_are_believed_over_status_files(tmp_path: Path, state: Path) -> None:
    """A status file that calls a failed task succeeded, or a living one ended, is contradicted in words and not believed."""
    run = run_of("sha256:1", 4)
    write_status(tmp_path, (run, dict.fromkeys(("t0", "t1", "t2", "t3"), DONE)))
    failed = JobFact(JobState.ENDED, exit_code=3, started=True, ended_at=80.0)
    report = recovered(tmp_path, trace(run, "t0", failed), trace(run, "t1", ALIVE), trace(run, "t2", None))
    assert report.problems == (
        f"{run.id}.t0.1: remembered as succeeded, but local shows failed, which is believed",
        f"{run.id}.t1.1: remembered as succeeded, but local shows running, which is believed",
    )
    ledger = Ledger.open(state, "lab")
    states = {task: record.state for task, record in ledger.live_runs()[0].records.items()}
    assert states == {"t0": TaskState.FAILED, "t1": TaskState.RUNNING, "t2": TaskState.SUCCEEDED, "t3": TaskState.SUCCEEDED}
    ledger.close()


def edited(tmp_path: Path, run: Run, old: str, new_text: str) -> None:
    """Write a run's status file, and edit it."""
    write_status(tmp_path, (run, {task.id: DONE for task in run.tasks}))
    path = tmp_path / "status" / "run" / f"{run.id}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new_text))


@pytest.mark.parametrize(
    ("old", "new_text", "words"),
    [
        ("sha256:1", "sha256:9", "it was edited; only the id is believed"),
        ("workflow: lab/a", "workflow: lab/b", "it was edited; only the id is believed"),
        ('occasion: ""', "occasion: tick", "it was edited; only the id is believed"),
        ("  name: ", "  name: x", "it was edited; only the id is believed"),
        ("kind: Run", "kind: Workflow", "it was edited or cut; only the run's id is believed"),
        ("spec:\n", "spec: [\n", "it was edited or cut; only the run's id is believed"),
        ("metadata:", "metadata: &a", "it was edited or cut; only the run's id is believed"),
        ('"attempt": 1', '"attempt": -1', "2 of its tasks cannot be read"),
        ('"state": "succeeded"', '"state": "sleeping"', "2 of its tasks cannot be read"),
        ("    t0: {", "    t0: {{", "1 of its tasks cannot be read"),
        ("    t0: {", "    ../t0: {", "1 of its tasks cannot be read"),
        ("    t0: {", "    t0: " + "[" * 100_000 + "{", "1 of its tasks cannot be read"),
    ],
)
def test_edited_status_files_are_found_out(tmp_path: Path, state: Path, old: str, new_text: str, words: str) -> None:
    """An edited file is told, its lies are not believed, and its run is not made again."""
    run = run_of("sha256:1", 2)
    edited(tmp_path, run, old, new_text)
    report = recovered(tmp_path)
    assert [words in problem for problem in report.problems] == [True]
    ledger = Ledger.open(state, "lab")
    assert [head.id for head in ledger.heads("lab/a", "sha256:1")] == [run.id]
    assert ledger.heads("lab/a", "sha256:9") == ledger.heads("lab/b", "sha256:1") == ()
    ledger.close()


@pytest.mark.parametrize("kind", ["binary", "empty", "link", "folder"])
def test_what_is_no_status_file_costs_nothing(tmp_path: Path, state: Path, kind: str) -> None:
    """Whatever lies in the place of a status file, its run's id is kept, and the recovery goes on."""
    run = run_of("sha256:1", 1)
    path = tmp_path / "status" / "run" / f"{run.id}.yaml"
    path.parent.mkdir(parents=True)
    if kind == "binary":
        path.write_bytes(b"\xff\x00" * 1000)
    elif kind == "empty":
        path.write_text("")
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    (path.parent / "README.yaml").write_text("not a run")
    report = recovered(tmp_path)
    assert (report.runs, report.nameless, len(report.problems)) == (1, 1, 1)


def test_another_instance_s_files_are_left_alone(tmp_path: Path, state: Path) -> None:
    """Status files of another instance in the same folder are not ours to know."""
    write_status(tmp_path, (run_of("sha256:1"), dict.fromkeys(("t0", "t1", "t2"), DONE)), instance="other")
    assert (recovered(tmp_path).runs, find_status_traces(tmp_path / "status", "lab")) == (0, ())


def test_hostile_words_in_a_status_file_are_text(tmp_path: Path, state: Path) -> None:
    """Reasons and titles with control characters, quotes and line breaks come back as they were."""
    run = replace(run_of("sha256:1", 1), title='a "b": c\n# d')
    reason = "x: [y \u2028\x1b[0m\n  tasks:\n    z: {}"
    write_status(tmp_path, (run, {"t0": DONE._replace(reason=reason)}))
    assert recovered(tmp_path).problems == ()
    with LedgerReader(state) as reader:
        stored = reader.stored(run.id)
    assert stored is not None
    assert (stored.run.title, stored.records["t0"].reason) == (run.title, reason)


def filled(state: Path) -> dict[str, Run]:
    """A ledger, closed, of 40 runs that ended and one that lives."""
    ledger = Ledger.open(state, "lab")
    runs = {digest: run_of(digest, 20) for digest in (f"sha256:{number}" for number in range(41))}
    for run in runs.values():
        ledger.save(new(run, DONE))
    ledger.save(changed(runs["sha256:40"].id, "t0", RUNNING))
    for digest, run in runs.items():
        if digest != "sha256:40":
            ledger.save(ended(run.id, 80.0))
    ledger.close()
    return runs


@pytest.mark.parametrize("damage", ["pages", "head", "cut"])
def test_a_damaged_ledger_gives_what_it_can(tmp_path: Path, state: Path, damage: str) -> None:
    """Of a damaged file what can be read is believed, the file is kept as it was, and status files and ids fill the rest."""
    runs = filled(state)
    write_status(tmp_path, *((run, {task.id: DONE for task in run.tasks}) for run in runs.values()))
    path = state / FILE_NAME
    data = bytearray(path.read_bytes())
    if damage == "pages":
        for page in range(10 * 4096, len(data) - 4096, 4 * 4096):
            data[page : page + 12] = b"\xff" * 12
    elif damage == "head":
        data[:50] = bytes(50)
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    with pytest.raises(LedgerCorrupt):
        Ledger.open(state, "lab")
    report = recovered(tmp_path)
    assert report.kept is not None
    assert report.kept.name == f"{FILE_NAME}.damaged-1970-01-01T012320Z"
    assert report.kept.read_bytes() == bytes(data)
    assert report.problems
    ledger = Ledger.open(state, "lab")
    assert {digest: ledger.heads("lab/a", digest)[0].id for digest in runs} == {digest: run.id for digest, run in runs.items()}
    ledger.close()


def test_an_old_ledger_is_brought_up_to_date(tmp_path: Path, state: Path) -> None:
    """A copy from a backup keeps what it knew, with its commands; what was done since comes from the spool; its owners know it again."""
    runs = filled(state)
    live = runs["sha256:40"]
    since = run_of("sha256:new", 1)
    owner = Owner("spool", "", 9)
    ledger = Ledger.open(state, "lab")
    owner = owner._replace(ledger=ledger.id)
    with pytest.raises(StateLost, match="old copy"):
        check_traces(ledger.identity, [owner])
    with pytest.raises(StateLost):
        ledger.refuse("old copy")
    ledger.close()
    report = recovered(tmp_path, trace(live, "t0", EXIT_0), trace(since, "t0", EXIT_0), owners=(owner, Owner("far", "other", 3)))
    assert report.problems == ("far belongs to another ledger (other): it stays refused until its owner file is removed",)
    assert (report.runs, report.live, report.nameless) == (42, 0, 1)
    ledger = Ledger.open(state, "lab")
    check_traces(ledger.identity, [owner])
    assert (ledger.id, ledger.epoch) == (owner.ledger, 10)
    with LedgerReader(state) as reader:
        stored = reader.stored(live.id)
    assert stored is not None
    assert (stored.run, stored.phase, stored.records["t0"].state) == (live, Phase.SUCCEEDED, TaskState.SUCCEEDED)
    ledger.close()


def test_a_running_daemon_is_not_disturbed(tmp_path: Path, state: Path) -> None:
    """Recovery refuses while a daemon holds the folder."""
    ledger = Ledger.open(state, "lab")
    with pytest.raises(LedgerBusy):
        recovered(tmp_path)
    ledger.close()


def test_a_recovery_that_cannot_write_changes_nothing(tmp_path: Path, state: Path) -> None:
    """When the new ledger cannot be written, the old one is where it was."""
    filled(state)
    before = (state / FILE_NAME).read_bytes()
    (state / f"{FILE_NAME}.recovering").mkdir()
    with pytest.raises(LedgerUnwritable, match="in the way"):
        recovered(tmp_path)
    assert (state / FILE_NAME).read_bytes() == before
    (state / f"{FILE_NAME}.recovering").rmdir()
    assert recovered(tmp_path).runs == 41


def test_recovering_twice_is_the_same(tmp_path: Path, state: Path) -> None:
    """A second recovery finds what the first has written, keeps both old files, and changes nothing of what is known."""
    runs = filled(state)
    first = recovered(tmp_path)
    with LedgerReader(state) as reader:
        known = reader.runs(100)
    second = recovered(tmp_path)
    with LedgerReader(state) as reader:
        assert reader.runs(100) == known
    assert first.kept != second.kept
    assert (first.runs, second.runs) == (len(runs), len(runs))


def test_a_lost_ledger_is_noticed_by_its_status_files(tmp_path: Path) -> None:
    """Status files of this instance beside an empty ledger are traces; a missing folder is none."""
    run = run_of("sha256:1", 1)
    assert find_status_traces(tmp_path / "status", "lab") == ()
    write_status(tmp_path, (run, {"t0": DONE}))
    assert find_status_traces(tmp_path / "status", "lab") == (str(tmp_path / "status" / "run" / f"{run.id}.yaml"),)
    assert find_status_traces(tmp_path / "status", "la") == ()
