"""What is saved is there, whole, for ever; what must never be saved is refused and changes nothing."""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.desired import Task
from reconciler.core.names import run_id
from reconciler.core.record import Event, Phase, RunHead, TaskRecord, TaskState
from reconciler.errors import LedgerCorrupt, LedgerError, StateLost
from reconciler.ledger import Appended, Batch, Identity, Ledger, LedgerReader, NewRun, ObjectRow, Owner, RunChange, TaskChange, check_traces
from reconciler.ledger.schema import MIGRATIONS, RECORD_COLUMNS, USAGE_COLUMNS, VERSION
from tests.ledger_samples import RECORDS, changed, ended, new, new_runs, sample_run

RUN = sample_run()
RUNNING = TaskRecord(TaskState.RUNNING, claimed_at=5.0, job_id="77")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "state", "lab")
    yield opened
    opened.close()


def reopened(ledger: Ledger, tmp_path: Path) -> Ledger:
    ledger.close()
    return Ledger.open(tmp_path / "state", "lab")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_was_saved_is_there(data: st.DataObject) -> None:
    """After any saves, a ledger opened anew has every live run with its tasks in order and their newest records."""
    runs = data.draw(st.lists(new_runs(), max_size=3, unique_by=lambda entry: entry.run.id))
    expected = {entry.run.id: (entry.run, dict(entry.records)) for entry in runs}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "state", "lab")
        ledger.save(Batch(new_runs=tuple(runs)))
        for run, records in expected.values():
            for task in data.draw(st.lists(st.sampled_from(sorted(records)), unique=True)) if records else []:
                records[task] = data.draw(RECORDS)
                ledger.save(changed(run.id, task, records[task]))
        ledger.close()
        ledger = Ledger.open(Path(folder) / "state", "lab")
        found = {stored.run.id: (stored.run, stored.records) for stored in ledger.live_runs()}
        ledger.close()
    assert found == expected


def test_each_record_field_has_its_column(ledger: Ledger) -> None:
    """The table `tasks` has one column for each field of a record, in its order, and then those of what an attempt used."""
    columns = [row[1] for row in ledger._db.execute("PRAGMA table_info(tasks)")]
    assert columns == ["run", "task", *RECORD_COLUMNS, *USAGE_COLUMNS]


def test_an_unchanged_form_keeps_its_version() -> None:
    """Released migrations are never edited: a change of the tables is a new entry."""
    assert VERSION == len(MIGRATIONS) == 3


def test_an_older_ledger_is_read(ledger: Ledger, tmp_path: Path) -> None:
    """What a ledger of version 1 holds is there in this one: no retry of its runs has asked for more yet."""
    older = RUNNING._replace(attempt=3, failures=2)
    ledger.save(Batch(new_runs=(NewRun(RUN, {task.id: older for task in RUN.tasks}),)))
    ledger.close()
    with sqlite3.connect(tmp_path / "state" / "ledger.sqlite3") as db:
        for column in ("ooms", "timeouts", *USAGE_COLUMNS):
            db.execute(f"ALTER TABLE tasks DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    [stored] = reopened(ledger, tmp_path).live_runs()
    assert stored.records == {task.id: older for task in RUN.tasks}


def test_a_run_that_ended_is_not_live(ledger: Ledger) -> None:
    """A run with an end is not loaded at start-up, but its digest is still known."""
    ledger.save(new(RUN))
    ledger.save(ended(RUN.id, 200.0))
    assert ledger.live_runs() == []
    head = RunHead(RUN.id, "lab/a", "sha256:1", "", Phase.SUCCEEDED, True, True, 100.0, backends=frozenset({"local"}))
    assert ledger.heads("lab/a", "sha256:1") == (head,)


def test_heads_are_those_that_matter(ledger: Ledger) -> None:
    """Heads are the workflow's live runs, and all its runs of the digest, whatever the occasion; of no other workflow."""
    runs = {
        "a" * 12: sample_run("a" * 12, digest="sha256:old"),  # ended, another digest
        "b" * 12: sample_run("b" * 12, digest="sha256:1"),  # ended, the digest
        "c" * 12: sample_run("c" * 12, digest="sha256:old", occasion="tick"),  # live, another digest
        "d" * 12: sample_run("d" * 12, digest="sha256:1", occasion="tick"),  # live, the digest
        "e" * 12: sample_run("e" * 12, workflow="lab/b"),  # another workflow
    }
    for run in runs.values():
        ledger.save(new(run))
    ledger.save(ended("a" * 12, 1.0))
    ledger.save(ended("b" * 12, 1.0))
    assert [head.id for head in ledger.heads("lab/a", "sha256:1")] == ["b" * 12, "c" * 12, "d" * 12]
    assert [head.id for head in ledger.heads("lab/a", None)] == ["c" * 12, "d" * 12]
    assert ledger.heads("lab/none", "sha256:1") == ()


def test_a_head_names_all_backends(ledger: Ledger) -> None:
    """A head names every backend of the run's tasks, also those of tasks generated later."""
    run = replace(RUN, tasks=(Task("a", "x"), Task("b", "x", backend="hpc")))
    ledger.save(new(run))
    ledger.save(Batch(appended=(Appended(run.id, "a", (Task("c", "x", backend="cloud"),), {"c": TaskRecord()}),)))
    assert ledger.heads("lab/a", None)[0].backends == {"local", "hpc", "cloud"}


def test_generated_tasks_follow(ledger: Ledger) -> None:
    """Tasks that a generator appended stand behind those of the run, twice over, and name their generator."""
    ledger.save(new(RUN))
    for name in ("z", "m"):
        ledger.save(Batch(appended=(Appended(RUN.id, "t0", (Task(name, "x", needs=("t1",)),), {name: RUNNING}),)))
    stored = ledger.live_runs()[0]
    assert [task.id for task in stored.run.tasks] == ["t0", "t1", "z", "m"]
    assert stored.records["m"] == RUNNING
    assert stored.generators == {"z": "t0", "m": "t0"}


def test_one_batch_is_applied_in_order(ledger: Ledger) -> None:
    """One batch can make a run, append to it, change both kinds of task and the run itself."""
    more = Appended(RUN.id, "t0", (Task("g", "x"),), {"g": TaskRecord()})
    changes = (TaskChange(RUN.id, "g", RUNNING), TaskChange(RUN.id, "t1", RUNNING))
    ledger.save(replace(new(RUN), appended=(more,), tasks=changes, runs=(RunChange(RUN.id, Phase.RUNNING, True),)))
    stored = ledger.live_runs()[0]
    assert (stored.records, stored.phase, stored.begun) == ({"t0": TaskRecord(), "t1": RUNNING, "g": RUNNING}, Phase.RUNNING, True)


def test_what_is_said_of_a_run_is_kept(ledger: Ledger) -> None:
    """`begun`, `cancelled` and `dropped` stay once set; `stalled` follows."""
    ledger.save(new(RUN))
    ledger.save(Batch(runs=(RunChange(RUN.id, Phase.RUNNING, True, cancelled="by ada", dropped="gone", stalled="look"),)))
    ledger.save(Batch(runs=(RunChange(RUN.id, Phase.RUNNING, False, cancelled="other"),)))
    stored = ledger.live_runs()[0]
    assert (stored.begun, stored.cancelled, stored.dropped, stored.stalled) == (True, "by ada", "gone", "")


def test_a_run_that_was_sent_has_begun(ledger: Ledger) -> None:
    """A run saved for the first time with an intent has begun, without anybody saying so."""
    ledger.save(new(RUN, RUNNING))
    assert ledger.heads("lab/a", None)[0].begun


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (new(RUN), "is not made again: it was made before"),
        (new(replace(RUN, digest="sha256:2")), "is not made again: it is kept as lab/a sha256:1 ''"),
        (new(replace(RUN, occasion="tick")), "is not made again"),
        (new(replace(RUN, workflow="lab/b")), "is not made again"),
        (changed(RUN.id, "t9", RUNNING), f"1 of 2 changed tasks are not in the ledger: {RUN.id}.t9"),
        (changed("f" * 12, "t0", RUNNING), "not in the ledger: ffffffffffff.t0"),
        (ended("f" * 12, 1.0), "it is not in the ledger"),
        (Batch(appended=(Appended("f" * 12, "t0", (Task("g", "x"),), {"g": TaskRecord()}),)), "which is not in the ledger"),
        (Batch(appended=(Appended(RUN.id, "t0", (Task("t1", "x"),), {"t1": TaskRecord()}),)), "UNIQUE"),
    ],
)
def test_what_must_not_be_saved_is_refused(ledger: Ledger, batch: Batch, words: str) -> None:
    """A batch that contradicts the ledger is refused whole, in words, and changes nothing; the next one is saved."""
    ledger.save(new(RUN))
    before = ledger.live_runs()
    good = changed(RUN.id, "t0", RUNNING)
    with pytest.raises(LedgerError, match=re.escape(words)):
        ledger.save(replace(batch, events=(Event(1.0, "RunMade", RUN.id),), tasks=(*good.tasks, *batch.tasks)) if batch.tasks else batch)
    assert ledger.live_runs() == before
    ledger.save(good)
    assert ledger.live_runs()[0].records["t0"] == RUNNING


def test_an_end_is_final(ledger: Ledger) -> None:
    """A run that ended does not end otherwise, nor at another time."""
    ledger.save(new(RUN))
    ledger.save(ended(RUN.id, 200.0))
    with pytest.raises(LedgerError, match="cannot become Failed: it ended as Succeeded"):
        ledger.save(ended(RUN.id, 300.0, Phase.FAILED))
    ledger.save(ended(RUN.id, 300.0))
    assert ledger.heads("lab/a", "sha256:1")[0].phase is Phase.SUCCEEDED
    assert ledger._db.execute("SELECT ended_at FROM runs").fetchone() == (200.0,)


def test_an_empty_batch_writes_nothing(ledger: Ledger) -> None:
    """Saving nothing costs nothing."""
    before = ledger._db.total_changes
    ledger.save(Batch())
    assert ledger._db.total_changes == before


def test_events_and_objects_are_kept(ledger: Ledger, tmp_path: Path) -> None:
    """Events keep their order; an object is as last saved, or gone; hostile bytes in words do not stop a save."""
    row = ObjectRow("Workflow", "lab/a", "lab", "a.yaml", 3, "c0", "main@c0", "sha256:1", 1, {"spec": ["x"]}, {"seen": None}, 5.0)
    ledger.save(Batch(events=(Event(1.0, "TaskFailed", RUN.id, "t0", "bad \udc80 byte"),), objects=(row, row._replace(name="lab/b"))))
    ledger.save(
        Batch(
            events=(Event(0.5, "SourceReady", "", object="Source/lab"),),
            objects=(row._replace(generation=2),),
            gone=(("Workflow", "lab/b"),),
        )
    )
    assert ledger.objects() == [row._replace(generation=2)]
    with LedgerReader(tmp_path / "state") as reader:
        assert [entry.event.message for entry in reader.events()] == ["bad \\udc80 byte", ""]
        assert [entry.seq for entry in reader.events()] == [1, 2]


def test_hostile_bytes_in_a_reason_are_stored(ledger: Ledger) -> None:
    """A reason that is no text is stored with its bytes spelled out."""
    ledger.save(new(RUN, TaskRecord(reason="über \udcff\x00")))
    assert ledger.live_runs()[0].records["t0"].reason == "über \\udcff\x00"


def test_epoch_rises_and_identity_stays(ledger: Ledger, tmp_path: Path) -> None:
    """Each opening has the same id, and an epoch one higher; it is fresh until a run was saved."""
    first = ledger.identity
    assert (first.epoch, first.instance, first.fresh, len(first.id)) == (1, "lab", True, 32)
    ledger = reopened(ledger, tmp_path)
    assert ledger.identity == first._replace(epoch=2)
    ledger.save(new(RUN))
    assert not ledger.fresh
    ledger = reopened(ledger, tmp_path)
    assert ledger.identity == first._replace(epoch=3, fresh=False)
    ledger.close()


def test_another_instance_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    """A ledger opened under another instance's name says whose it is; its epoch does not rise."""
    ledger.close()
    with pytest.raises(LedgerError, match="belongs to the instance 'lab', not 'other'"):
        Ledger.open(tmp_path / "state", "other")
    ledger = Ledger.open(tmp_path / "state", "lab")
    assert ledger.epoch == 2
    ledger.close()


def test_a_newer_release_s_ledger_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    """A ledger with tables of a newer release is neither written nor read."""
    ledger.close()
    db = sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(LedgerError, match="newer release"):
        Ledger.open(tmp_path / "state", "lab")
    with pytest.raises(LedgerError, match="another release"):
        LedgerReader(tmp_path / "state")


def test_words_that_were_never_written_are_damage(ledger: Ledger) -> None:
    """A state that no release knows is not guessed at."""
    ledger.save(new(RUN))
    ledger._db.execute("UPDATE tasks SET state = 'sleeping' WHERE task = 't0'")
    with pytest.raises(LedgerCorrupt, match="sleeping"):
        ledger.live_runs()


DAY = 86_400.0


def test_pruning_forgets_tasks_and_never_a_run(ledger: Ledger, tmp_path: Path) -> None:
    """Old ended runs lose their tasks; their identity, outcome and counts stay, so that their digest is never run again."""
    old, young, live = (sample_run(letter * 12, digest=f"sha256:{letter}") for letter in "abc")
    for run in (old, young, live):
        ledger.save(new(run, RUNNING))
    ledger.save(ended(old.id, 10 * DAY))
    ledger.save(ended(young.id, 90 * DAY))
    assert ledger.prune(100 * DAY, 30, None) is False
    assert [head.id for head in ledger.heads("lab/a", "sha256:a")] == [old.id, live.id]
    with pytest.raises(LedgerError, match="made before"):
        ledger.save(new(old))
    with LedgerReader(tmp_path / "state") as reader:
        kept = {row.id: (row.pruned, row.tasks, len(list(reader.tasks(row.id)))) for row in reader.runs()}
        stored = reader.stored(old.id)
        assert reader.ended() == [(young.id, 90 * DAY)]
    counts = {"running": 2}
    assert kept == {old.id: (True, counts, 0), young.id: (False, counts, 2), live.id: (False, counts, 2)}
    assert stored is not None
    assert (stored.run, stored.phase, stored.ended_at) == (replace(old, tasks=()), Phase.SUCCEEDED, 10 * DAY)


def test_pruning_forgets_old_events_but_not_of_live_runs(ledger: Ledger, tmp_path: Path) -> None:
    """Old events go, except those of runs that are alive; None keeps everything."""
    ledger.save(new(RUN))
    ledger.save(Batch(events=(Event(1.0, "Old", ""), Event(1.0, "OldOfLive", RUN.id), Event(99 * DAY, "New", ""))))
    ledger.prune(100 * DAY, None, None)
    with LedgerReader(tmp_path / "state") as reader:
        assert len(reader.events()) == 3
        ledger.prune(100 * DAY, None, 30)
        assert [entry.event.name for entry in reader.events()] == ["OldOfLive", "New"]


def test_a_nameless_run_gets_its_identity_back(ledger: Ledger) -> None:
    """A run of which only the id is known satisfies the digest whose id it is, and no other."""
    lost = sample_run(run_id("lab", "Workflow", "lab/a", "sha256:9", "", 1), 1, workflow="", digest="")
    other = sample_run("f" * 12, 1, workflow="", digest="")
    ledger.save(Batch(new_runs=tuple(NewRun(run, {"t0": TaskRecord()}) for run in (lost, other))))
    ledger._nameless = {lost.id, other.id}
    assert ledger.heads("lab/a", "sha256:1") == ()
    assert [(head.id, head.digest) for head in ledger.heads("lab/a", "sha256:9")] == [(lost.id, "sha256:9")]
    assert ledger.nameless == {other.id}


OWNER = "the spool"


@pytest.mark.parametrize(
    ("fresh", "owners", "files", "words"),
    [
        (True, [], [], ""),
        (False, [(OWNER, "mine", 4)], ["run/a.yaml"], ""),
        (True, [(OWNER, "mine", 4)], [], ""),  # it was opened before and never ran anything
        (True, [(OWNER, "other", 1)], [], "belongs to the ledger other of instance lab, but the ledger is empty"),
        (False, [(OWNER, "other", 1)], [], "but the ledger is another one"),
        (False, [(OWNER, "mine", 4), ("far", "mine", 5)], [], "far has seen epoch 5 of this ledger, which is only at 5"),
        (False, [(OWNER, "mine", 9)], [], "it is an old copy"),
        (True, [], ["run/a.yaml", "run/b.yaml"], "exist (run/a.yaml and 1 more)"),
    ],
)
def test_traces_tell_a_lost_ledger(fresh: bool, owners: list[tuple[str, str, int]], files: list[str], words: str) -> None:
    """Traces newer than the ledger, or beside an empty one, are StateLost; anything else is not."""
    mine = Identity("mine", 5, "lab", fresh)
    found = [Owner(*owner) for owner in owners]
    if not words:
        check_traces(mine, found, files)
        return
    with pytest.raises(StateLost, match=re.escape(words)) as caught:
        check_traces(mine, found, files)
    assert "reconciler recover" in str(caught.value)


def test_a_refused_ledger_stays_refused(ledger: Ledger, tmp_path: Path) -> None:
    """An old copy does not become the newest by being started often enough."""
    with pytest.raises(StateLost, match="it is an old copy"):
        ledger.refuse("it is an old copy")
    ledger.close()
    for _ in range(3):
        with pytest.raises(StateLost, match="it is an old copy"):
            Ledger.open(tmp_path / "state", "lab")


def test_a_failed_commit_that_turns_up_again_is_taken_back(ledger: Ledger) -> None:
    """When the file must be opened anew after a failed save, what that save had added is removed, and can be saved again."""
    more = Appended(RUN.id, "t0", (Task("g", "x"),), {"g": TaskRecord()})
    other = sample_run("a" * 12)
    ledger.save(new(RUN))
    batch = replace(new(other), appended=(more,))
    ledger.save(batch)  # this is the commit whose sync, as far as anybody was told, failed
    ledger._failed = batch
    ledger._db.close()
    ledger.save(batch)
    assert [(stored.run.id, len(stored.records)) for stored in ledger.live_runs()] == [(RUN.id, 3), (other.id, 2)]
