"""Status files say what is, are written whole, soon and rarely, stay in their folder, and never stop anything."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.desired import Cause, Task
from reconciler.core.draft import remember
from reconciler.core.record import Phase, TaskRecord, TaskState
from reconciler.ledger import StoredRun
from reconciler.status import Asked, RunView, StatusWriter, object_document, run_document, view_of
from reconciler.status.folder import StatusFolder, parts_of
from reconciler.yamlfile import parse
from tests.ledger_samples import PLACE, sample_run

RUN = sample_run()
DONE = TaskRecord(TaskState.SUCCEEDED, claimed_at=10.0, started=True, started_at=20.0, ended_at=80.0, exit_code=0, job_id="77")


def view(*records: TaskRecord, run_id: str = RUN.id) -> RunView:
    run = replace(RUN, id=run_id)
    return RunView(run, remember(run, dict(zip(("t0", "t1"), records, strict=True))))


def until(true: Callable[[], object], what: str) -> None:
    """Wait until `true()`; fail after ten seconds."""
    end = time.monotonic() + 10
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.005)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StatusWriter]:
    made = StatusWriter(tmp_path / "status", "lab", interval_s=0.05)
    yield made
    made.close()


def read(path: Path) -> object:
    """The one document of a file, through our own reader of YAML."""
    parsed = parse(path.read_bytes(), path.name)
    assert parsed.problems == ()
    (document,) = parsed.documents
    return document.data


def test_a_run_s_file_says_everything(tmp_path: Path) -> None:
    """A run's document has its identity, conditions with their times, counts, and one line for each task."""
    run = replace(RUN, rerun="again", tasks=(RUN.tasks[0], replace(RUN.tasks[1], output_file="out.txt")))
    failed = TaskRecord(TaskState.FAILED, 2, 1, since=95.0, reason="code 3", cause=Cause.EXIT, claimed_at=90.0, ended_at=95.0, exit_code=3)
    seen = RunView(run, remember(run, {"t0": DONE, "t1": failed}))
    document, _ = run_document("lab", seen, 100.0, log_of=lambda backend, job: f"/{backend}/{job}/out")
    conditions = document["status"]["conditions"]  # type: ignore[index]  # a mapping, as the test shows
    assert [(each["type"], each["status"], each["last_transition_time"]) for each in conditions] == [
        ("Ready", "True", "1970-01-01T00:01:40Z"),
        ("Succeeded", "False", "1970-01-01T00:01:35Z"),
    ]
    assert document == {
        "apiVersion": "scripthut/v1",
        "kind": "Run",
        "metadata": {"name": run.id, "instance": "lab"},
        "spec": {
            "workflow": "lab/a",
            "digest": "sha256:1",
            "occasion": "",
            "backend": "local",
            "source": "lab",
            "file": ".hut/a.yaml",
            "line": 3,
            "commit": PLACE.commit,
            "revision": PLACE.revision,
            "created_at": "1970-01-01T00:01:40Z",
            "rerun": "again",
        },
        "status": {
            "phase": "Failed",
            "begun": True,
            "started_at": "1970-01-01T00:00:20Z",
            "ended_at": "1970-01-01T00:01:35Z",
            "core_hours": 0.0167,
            "counts": {"succeeded": 1, "failed": 1},
            "conditions": conditions,
            "tasks": {
                "t0": {
                    "state": "succeeded",
                    "attempt": 1,
                    "job": "77",
                    "exit_code": 0,
                    "submitted_at": "1970-01-01T00:00:10Z",
                    "started_at": "1970-01-01T00:00:20Z",
                    "ended_at": "1970-01-01T00:01:20Z",
                    "log": f"/local/{run.id}.t0.1/out",
                },
                "t1": {
                    "state": "failed",
                    "attempt": 2,
                    "exit_code": 3,
                    "cause": "exit",
                    "submitted_at": "1970-01-01T00:01:30Z",
                    "ended_at": "1970-01-01T00:01:35Z",
                    "reason": "code 3",
                    "log": "out.txt",
                },
            },
        },
    }


def test_what_was_written_reads_back(writer: StatusWriter, tmp_path: Path) -> None:
    """The file of a run is at run/<id>.yaml, that of an object at <kind>/<source>/<name>.yaml, and both are YAML of what was put."""
    writer.put_run(view(DONE, TaskRecord()))
    writer.put("Workflow", "lab/.hut/flow.json", object_document("Workflow", "lab/.hut/flow.json", {"observed_digest": "sha256:1"}))
    assert writer.flush()
    expected, _ = run_document("lab", view(DONE, TaskRecord()), 0.0)
    found = read(tmp_path / "status" / "run" / f"{RUN.id}.yaml")
    assert isinstance(found, dict)
    assert found["spec"] == expected["spec"]
    assert read(tmp_path / "status" / "workflow" / "lab" / ".hut" / "flow.json.yaml") == {
        "apiVersion": "scripthut/v1",
        "kind": "Workflow",
        "metadata": {"name": "lab/.hut/flow.json"},
        "status": {"observed_digest": "sha256:1"},
    }
    assert writer.problem == ""


def test_conditions_keep_their_times(writer: StatusWriter, tmp_path: Path) -> None:
    """A condition that does not change keeps the time of its last change through many writes."""
    waiting = view(TaskRecord(), TaskRecord())
    _, before = run_document("lab", waiting, 500.0)
    stuck = RunView(waiting.run, replace(waiting.record, stalled="look at it"))
    _, second = run_document("lab", stuck, 600.0, before)
    _, third = run_document("lab", stuck, 700.0, second)
    assert {each.type: each.last_transition_time for each in third} == {"Ready": 600.0, "Succeeded": 100.0, "Stalled": 600.0}


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    """Files can be read by everybody, unless the umask says otherwise."""
    for mask, expected in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            StatusFolder(tmp_path / str(mask)).write(("run", "a.yaml"), b"x")
        finally:
            os.umask(before)
        assert (tmp_path / str(mask) / "run" / "a.yaml").stat().st_mode & 0o777 == expected


def test_many_changes_are_few_writes(tmp_path: Path) -> None:
    """A file that changes all the time is written once an interval, and its last state is always written."""
    writer = StatusWriter(tmp_path, "lab", interval_s=0.3)
    inodes = set()
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < 1.0:
        number += 1
        writer.put("Source", "lab", object_document("Source", "lab", {"number": number}))
        if (tmp_path / "source" / "lab.yaml").exists():
            inodes.add((tmp_path / "source" / "lab.yaml").stat().st_mtime_ns)
        time.sleep(0.001)
    took = time.monotonic() - began
    writer.close()
    assert 2 <= len(inodes) <= took / 0.3 + 1
    assert read(tmp_path / "source" / "lab.yaml") == object_document("Source", "lab", {"number": number})


def test_what_did_not_change_is_not_written(writer: StatusWriter, tmp_path: Path) -> None:
    """Putting the same again does not touch the file."""
    path = tmp_path / "status" / "source" / "lab.yaml"
    for _ in range(3):
        writer.put("Source", "lab", object_document("Source", "lab", {"number": 1}))
        assert writer.flush()
        inode = path.stat().st_ino
        assert path.stat().st_ino == inode
    before = path.stat()
    writer.put("Source", "lab", object_document("Source", "lab", {"number": 1}))
    assert writer.flush()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_large_files_are_written_rarely(tmp_path: Path) -> None:
    """Writing takes at most its share of the time: files that cost much are written less often than once an interval."""
    run = sample_run(tasks=2000)
    record = remember(run, {task.id: DONE._replace(state=TaskState.RUNNING) for task in run.tasks})
    writer = StatusWriter(tmp_path, "lab", interval_s=0.01)
    written: set[int] = set()
    spent = time.process_time()
    began = time.monotonic()
    while time.monotonic() - began < 2.0:
        writer.put_run(RunView(run, record, suspended=str(time.monotonic())))
        if (tmp_path / "run" / f"{run.id}.yaml").exists():
            written.add((tmp_path / "run" / f"{run.id}.yaml").stat().st_mtime_ns)
        time.sleep(0.01)
    spent = time.process_time() - spent
    writer.close()
    # a burst of 0.2 s and then 2 %: without the limit it would be nearly all of the two seconds
    assert len(written) >= 1
    assert spent < 1.0


@pytest.mark.parametrize("vandalism", ["edit", "delete", "replace", "link", "folder gone"])
def test_a_touched_file_is_written_again(writer: StatusWriter, tmp_path: Path, vandalism: str) -> None:
    """A file that somebody edits, deletes, replaces or makes a link of is as before after the next look; what a link names stays."""
    path = tmp_path / "status" / "run" / f"{RUN.id}.yaml"
    writer.put_run(view(DONE, TaskRecord()))
    assert writer.flush()
    before = path.read_text()
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    if vandalism == "edit":
        path.write_text(before.replace("waiting", "succeeded"))
    elif vandalism == "replace":
        (tmp_path / "other").write_text(before.upper())
        (tmp_path / "other").rename(path)
    else:
        path.unlink()
    if vandalism == "link":
        path.symlink_to(treasure)
    elif vandalism == "folder gone":
        path.parent.rmdir()
    writer.verify()
    until(lambda: path.exists() and path.read_text() == before and not path.is_symlink(), "written again")
    assert treasure.read_text() == "mine"


def test_untouched_files_are_left_alone(writer: StatusWriter, tmp_path: Path) -> None:
    """A look at the files writes nothing when nobody has touched them."""
    path = tmp_path / "status" / "run" / f"{RUN.id}.yaml"
    other = tmp_path / "status" / "source" / "lab.yaml"
    writer.put_run(view(DONE, DONE))
    writer.put("Source", "lab", {"a": 1})
    assert writer.flush()
    before = path.stat().st_ino
    other.unlink()
    writer.verify()
    until(other.exists, "the look has happened")
    assert path.stat().st_ino == before


def test_a_run_that_ended_is_made_again_from_the_ledger(tmp_path: Path) -> None:
    """The file of a run that ended is restored without keeping the run in memory, and one that is no longer kept is let go."""
    asked: list[str] = []
    kept = {RUN.id: view(DONE, DONE)}

    def rebuild(run: str) -> RunView | None:
        asked.append(run)
        return kept.get(run)

    writer = StatusWriter(tmp_path, "lab", interval_s=0.01, ask=Asked(rebuild))
    path = tmp_path / "run" / f"{RUN.id}.yaml"
    writer.put_run(kept[RUN.id])
    assert writer.flush()
    before = path.read_text()
    assert all(file.make is None for file in writer._files.values())
    path.write_text("hello")
    writer.verify()
    until(lambda: path.read_text() == before, "restored")
    assert asked == [RUN.id]
    kept.clear()
    path.unlink()
    writer.verify()
    until(lambda: not writer._files, "let go")
    assert (path.exists(), writer.problem) == (False, "")
    writer.close()


@pytest.mark.parametrize("state", ["as left", "edited", "missing"])
def test_files_of_an_earlier_daemon_are_looked_after(tmp_path: Path, state: str) -> None:
    """After a restart, the file of a run that had ended is restored when it is missing or was edited, and else not even read."""
    path = tmp_path / "run" / f"{RUN.id}.yaml"
    first = StatusWriter(tmp_path, "lab")
    first.put_run(view(DONE, DONE))
    first.close()
    before, inode = path.read_text(), path.stat().st_ino
    if state == "edited":
        path.write_text("hello")
    elif state == "missing":
        path.unlink()
    asked: list[str] = []

    def rebuild(run: str) -> RunView | None:
        asked.append(run)
        return view(DONE, DONE, run_id=run)

    second = StatusWriter(tmp_path, "lab", interval_s=0.01, ask=Asked(rebuild))
    second.expect_run(RUN.id, 80.0)
    second.expect_run("f" * 12, 80.0)  # missing: shows that the look has happened
    until((tmp_path / "run" / f"{'f' * 12}.yaml").exists, "the look has happened")
    second.close()
    assert path.read_text() == before
    assert RUN.id in asked if state != "as left" else path.stat().st_ino == inode and RUN.id not in asked


def test_a_removed_object_s_file_goes(writer: StatusWriter, tmp_path: Path) -> None:
    """The file of an object that is gone is removed with the folders it leaves empty; removing twice is fine."""
    for name in ("lab/deep/a", "lab/b"):
        writer.put("Workflow", name, {"a": 1})
    assert writer.flush()
    for _ in range(2):
        writer.remove("Workflow", "lab/deep/a")
        assert writer.flush()
    assert [path.relative_to(tmp_path / "status").as_posix() for path in (tmp_path / "status").rglob("*")] == [
        "workflow",
        "workflow/lab",
        "workflow/lab/b.yaml",
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("diamond", "workflow/diamond.yaml"),
        ("lab/.hut/a.json", "workflow/lab/.hut/a.json.yaml"),
        ("../../etc/passwd", "workflow/%2E%2E/%2E%2E/etc/passwd.yaml"),
        ("/etc/passwd", "workflow/%/etc/passwd.yaml"),
        (".", "workflow/%2E.yaml"),
        ("a%2Fb", "workflow/a%252Fb.yaml"),
        ("a\nb\0", "workflow/a%0Ab%00.yaml"),
    ],
)
def test_names_never_leave_the_folder(name: str, path: str) -> None:
    """Whatever a name holds, its file lies below its kind, and no two names have one file."""
    assert "/".join(parts_of("Workflow", name)) == path


def test_long_names_have_files_of_their_own(tmp_path: Path) -> None:
    """Names too long for a file are cut, and still have one file each."""
    names = ["ä" * 300 + end for end in "ab"]
    paths = {parts_of("Workflow", name) for name in names}
    assert len(paths) == 2
    for path in paths:
        StatusFolder(tmp_path).write(path, b"x")


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    """A folder that is a link is not entered: nothing is written behind it, the problem is told, and other files are written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    status = tmp_path / "status"
    (status / "workflow").mkdir(parents=True)
    (status / "workflow" / "lab").symlink_to(outside)
    (status / "source").mkdir()
    (status / "source" / ".being-written").symlink_to(outside / "file")
    writer = StatusWriter(status, "lab", interval_s=0.01)
    writer.put("Workflow", "lab/a", {"a": 1})
    writer.put("Source", "lab", {"a": 1})
    assert not writer.flush(5)
    assert "status file workflow/lab/a.yaml cannot be written: Not a directory" in writer.problem
    assert (status / "source" / "lab.yaml").read_text() == "a: 1\n"
    assert list(outside.iterdir()) == []
    (status / "workflow" / "lab").unlink()
    until(lambda: writer.problem == "" and (status / "workflow" / "lab" / "a.yaml").exists(), "written when the link is gone")
    writer.close()


def test_a_broken_document_hurts_no_other(writer: StatusWriter, tmp_path: Path) -> None:
    """A document that cannot be written as YAML is named as a bug; the others are written."""
    writer.put("Source", "a", {"a": object()})
    writer.put("Source", "b", {"b": 1})
    assert not writer.flush(5)
    assert "source/a.yaml" in writer.problem
    assert "report it" in writer.problem
    assert (tmp_path / "status" / "source" / "b.yaml").exists()
    writer.put("Source", "a", {"a": 1})
    until(lambda: writer.problem == "", "right again")


def test_a_folder_that_is_a_file_is_told_and_passes(tmp_path: Path) -> None:
    """While the status folder cannot be made, calls return, the problem is told, and all is written when it can."""
    blocked = tmp_path / "status"
    blocked.write_text("in the way")
    writer = StatusWriter(blocked, "lab", interval_s=0.01)
    for name in ("a", "b"):
        writer.put("Source", name, {"a": 1})
    assert not writer.flush(5)
    assert "(and 1 more files)" in writer.problem
    blocked.unlink()
    until(lambda: writer.problem == "", "written")
    assert sorted(path.name for path in (blocked / "source").iterdir()) == ["a.yaml", "b.yaml"]
    writer.close()


def test_nobody_sees_half_a_file(tmp_path: Path) -> None:
    """Whoever reads while files are written sees a whole document every time."""
    folder = StatusFolder(tmp_path)
    texts = [f"{letter * 50_000}\n".encode() for letter in "ab"]
    folder.write(("run", "a.yaml"), texts[0])
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for text in texts:
                folder.write(("run", "a.yaml"), text)

    thread = threading.Thread(target=rewrite)
    thread.start()
    seen = {(tmp_path / "run" / "a.yaml").read_bytes() for _ in range(300)}
    stop.set()
    thread.join()
    assert seen <= set(texts)


def test_closing_writes_what_is_left(tmp_path: Path) -> None:
    """What was put just before the end is written, also within an interval; closing twice is fine, and quick on a broken disk."""
    writer = StatusWriter(tmp_path, "lab", interval_s=60)
    for number in range(3):
        writer.put("Source", "lab", {"number": number})
        time.sleep(0.01)
    writer.close()
    writer.close()
    assert (tmp_path / "source" / "lab.yaml").read_text() == "number: 2\n"
    (tmp_path / "file").write_text("")
    broken = StatusWriter(tmp_path / "file", "lab")
    broken.put("Source", "lab", {})
    began = time.monotonic()
    broken.close()
    assert time.monotonic() - began < 3


def test_a_stored_run_can_be_shown() -> None:
    """A run read from the ledger is reported as it was; one whose tasks are no longer kept is not."""
    stored = StoredRun(RUN, {"t0": DONE, "t1": TaskRecord()}, Phase.RUNNING, True, cancelled="by ada")
    seen = view_of(stored)
    assert seen is not None
    assert (dict(seen.record.tasks), seen.record.cancelled) == (stored.records, "by ada")
    assert view_of(replace(stored, run=replace(RUN, tasks=()), records={}, ended_at=5.0)) is None


def test_hostile_words_are_written_as_text(writer: StatusWriter, tmp_path: Path) -> None:
    """What a scheduler said, and ids that YAML would take for something else, come back as the same text."""
    run = replace(RUN, tasks=(Task("yes", "x"), Task("1.2", "x")))
    reason = "a: b # c\n- d \x1b[31m {e} \u2028 'f' \"g\""
    record = remember(run, {"yes": TaskRecord(reason=reason), "1.2": TaskRecord()})
    writer.put_run(RunView(run, record))
    assert writer.flush()
    text = (tmp_path / "status" / "run" / f"{run.id}.yaml").read_text()
    assert "\x1b" not in text
    rows = [line.strip().split(": ", 1) for line in text.partition("\n  tasks:\n")[2].splitlines()]
    assert [(json.loads(key), json.loads(row).get("reason")) for key, row in rows] == [("yes", reason), ("1.2", None)]
