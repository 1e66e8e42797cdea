"""Readers work beside a daemon and without one, and answer what the command line and the web ask."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.record import Event, Phase, TaskRecord, TaskState
from reconciler.errors import LedgerError
from reconciler.ledger import Batch, Ledger, LedgerReader, ObjectRow
from tests.ledger_samples import changed, ended, new, sample_run

RUNNING = TaskRecord(TaskState.RUNNING, claimed_at=5.0)


def filled(state: Path) -> Ledger:
    """A ledger with three runs of two workflows; the first has ended."""
    ledger = Ledger.open(state, "lab")
    for number, (letter, workflow) in enumerate([("a", "lab/a"), ("b", "lab/a"), ("c", "lab/b")]):
        ledger.save(new(replace(sample_run(letter * 12, workflow=workflow, digest=f"sha256:{letter}"), created_at=float(number))))
    ledger.save(changed("b" * 12, "t0", RUNNING))
    ledger.save(ended("a" * 12, 50.0))
    return ledger


def test_no_ledger_reads_as_an_empty_one(tmp_path: Path) -> None:
    """Before the first start there are no runs, events or objects, and reading makes no file."""
    with LedgerReader(tmp_path / "none") as reader:
        assert not reader.exists
        assert (reader.runs(), reader.events(), reader.objects(), reader.run("a"), reader.identity(), reader.daemon()) == (
            [],
            [],
            [],
            None,
            None,
            None,
        )
        assert reader.recovered_at() is None
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_what_the_daemon_saves(tmp_path: Path) -> None:
    """An open reader sees each save as soon as it was saved, and never keeps the daemon from saving."""
    ledger = filled(tmp_path)
    with LedgerReader(tmp_path) as reader:
        tasks = reader.tasks("b" * 12)
        next(tasks)  # a question half asked
        ledger.save(changed("c" * 12, "t0", RUNNING))
        row = reader.run("c")
        assert row is not None
        assert row.tasks == {"running": 1, "waiting": 1}
        held = reader.daemon()
        assert held is not None
        assert held.pid == os.getpid()
        assert reader.identity() == ledger.identity
        ledger.close()
        assert reader.daemon() is None


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    """Runs come newest first, page by page, of one workflow or phase if asked; live ones oldest first."""
    filled(tmp_path).close()
    with LedgerReader(tmp_path) as reader:
        assert [row.id[0] for row in reader.runs()] == ["c", "b", "a"]
        assert [row.id[0] for row in reader.runs(1, 1)] == ["b"]
        assert [row.id[0] for row in reader.runs(workflow="lab/a")] == ["b", "a"]
        assert [row.id[0] for row in reader.runs(workflow="lab/a", phase=Phase.SUCCEEDED)] == ["a"]
        assert [row.id[0] for row in reader.live()] == ["b", "c"]
        newest = reader.newest_run("lab/a")
        assert newest is not None
        assert newest.id == "b" * 12
        assert reader.newest_run("lab/none") is None


def test_a_row_says_how_a_run_ended(tmp_path: Path) -> None:
    """A run's row has its identity, outcome, and how many tasks are in which state."""
    filled(tmp_path).close()
    with LedgerReader(tmp_path) as reader:
        row = reader.run("a" * 12)
    assert row is not None
    assert (row.workflow, row.source, row.digest, row.phase, row.begun) == ("lab/a", "lab", "sha256:a", Phase.SUCCEEDED, True)
    assert (row.created_at, row.ended_at, row.core_hours, row.pruned, row.tasks) == (0.0, 50.0, 1.5, False, {"waiting": 2})


def test_a_run_is_found_by_its_start(tmp_path: Path) -> None:
    """The start of an id names a run when only one has it; several are listed; wildcards are no wildcards."""
    ledger = filled(tmp_path)
    ledger.save(new(sample_run("b" * 11 + "0", digest="sha256:x")))
    ledger.close()
    with LedgerReader(tmp_path) as reader:
        found = {prefix: reader.run(prefix) for prefix in ("c", "b" * 12, "d", "", "%", "c" * 13)}
        assert {prefix: row.id if row else None for prefix, row in found.items()} == {
            "c": "c" * 12, "b" * 12: "b" * 12, "d": None, "": None, "%": None, "c" * 13: None,
        }  # fmt: skip
        with pytest.raises(LedgerError, match=f"'bb' is the start of several runs: {'b' * 11}0, {'b' * 12}"):
            reader.run("bb")


def test_a_stored_run_is_whole(tmp_path: Path) -> None:
    """A run can be read whole, ended ones too; its tasks also one at a time."""
    ledger = filled(tmp_path)
    run = sample_run("b" * 12, digest="sha256:b")
    with LedgerReader(tmp_path) as reader:
        stored = reader.stored("b" * 12)
        assert stored is not None
        assert stored.run == replace(run, created_at=1.0)
        assert stored.records == {"t0": RUNNING, "t1": TaskRecord()}
        assert list(reader.tasks("b" * 12)) == list(zip(run.tasks, stored.records.values(), strict=True))
        assert reader.stored("b") is None
        ended_run = reader.stored("a" * 12)
        assert ended_run is not None
        assert ended_run.phase is Phase.SUCCEEDED
    ledger.close()


def test_events_are_asked_in_three_ways(tmp_path: Path) -> None:
    """The newest events, those after a number, those of a run or an object; always oldest first."""
    ledger = filled(tmp_path)
    names = ["One", "Two", "Three", "Four"]
    runs = ["a" * 12, "", "a" * 12, ""]
    subjects = ["", "Source/lab", "", "Source/lab"]
    ledger.save(
        Batch(events=tuple(Event(1.0, name, run, object=subject) for name, run, subject in zip(names, runs, subjects, strict=True)))
    )
    ledger.close()
    with LedgerReader(tmp_path) as reader:
        asked = [
            reader.events(),
            reader.events(limit=2),
            reader.events(after=1, limit=2),
            reader.events(after=4),
            reader.events(run="a" * 12),
            reader.events(subject="Source/lab", after=2),
        ]
    assert [[entry.event.name for entry in answer] for answer in asked] == [
        names, ["Three", "Four"], ["Two", "Three"], [], ["One", "Three"], ["Four"],
    ]  # fmt: skip


def test_objects_are_listed_by_kind(tmp_path: Path) -> None:
    """Objects come by kind and name; one can be asked for."""
    ledger = filled(tmp_path)
    rows = [ObjectRow("Source", "lab"), ObjectRow("Workflow", "lab/a"), ObjectRow("Workflow", "lab/b")]
    ledger.save(Batch(objects=tuple(reversed(rows))))
    ledger.close()
    with LedgerReader(tmp_path) as reader:
        assert reader.objects() == rows
        assert reader.objects("Workflow") == rows[1:]
        assert reader.object("Workflow", "lab/b") == rows[2]
        assert reader.object("Workflow", "lab/c") is None


STREAM = """
import resource, sys
from pathlib import Path
from reconciler.ledger import LedgerReader
with LedgerReader(Path(sys.argv[1])) as reader:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = sum(1 for row in reader.runs(1000) for _ in reader.tasks(row.id))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seen, after - before)
"""


def test_streaming_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Going over 20,000 tasks takes no memory to speak of: they are read one at a time."""
    ledger = Ledger.open(tmp_path, "lab")
    for number in range(4):
        ledger.save(new(sample_run(f"{number:012x}", 5000, digest=f"sha256:{number}"), RUNNING))
    ledger.close()
    said = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    seen, grown_kb = map(int, said.stdout.split())
    assert seen == 20_000
    assert grown_kb < 8_000


def test_a_ledger_that_is_being_made_reads_as_none(tmp_path: Path) -> None:
    """A file that a daemon has just made, with no table in it yet, is no ledger yet, and no damage."""
    db = sqlite3.connect(tmp_path / "ledger.sqlite3")
    db.execute("PRAGMA journal_mode = WAL")
    with LedgerReader(tmp_path) as reader:
        assert (reader.exists, reader.runs(), reader.identity()) == (False, [], None)
    db.close()
