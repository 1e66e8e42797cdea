"""What finished jobs used comes late, is saved with the attempt that it is of, and is shown; what nobody knows of is ignored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.names import job_name
from reconciler.core.observed import Snapshot, Usage
from reconciler.core.record import Phase, TaskRecord, TaskState
from reconciler.fresh import Gathered
from reconciler.ledger import Batch, Ledger, LedgerReader
from reconciler.ledger.rows import UsageChange
from reconciler.saving import ObjectChanges, batch_of
from reconciler.status import Asked, StatusWriter, view_of
from tests.cli.command import OLD, reconciler, sample_folder
from tests.ledger_samples import changed, ended, new, sample_run
from tests.test_outlook import Scripted, outlook_of, until

RUN = sample_run()
DONE = TaskRecord(TaskState.SUCCEEDED, attempt=2, claimed_at=10.0, started=True, started_at=20.0, ended_at=80.0, exit_code=0, job_id="77")
USED = Usage(60.0, 55.25, 120.5)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "state", "lab")
    opened.save(new(RUN, DONE))
    yield opened
    opened.close()


def kept(tmp_path: Path) -> dict[str, Usage]:
    with LedgerReader(tmp_path / "state") as reader:
        return reader.usage(RUN.id)


def save(ledger: Ledger, task: str, attempt: int, usage: Usage, run: str = RUN.id) -> None:
    ledger.save(Batch(usage=(UsageChange(run, task, attempt, usage),)))


def test_usage_outlives_the_end_of_its_run(ledger: Ledger, tmp_path: Path) -> None:
    """It is saved also when its run has ended, and changes nothing else of it."""
    ledger.save(ended(RUN.id, 90.0))
    save(ledger, "t0", 2, USED)
    assert kept(tmp_path) == {"t0": USED}
    with LedgerReader(tmp_path / "state") as reader:
        stored = reader.stored(RUN.id)
    assert stored is not None
    assert (stored.phase, dict(stored.records)) == (Phase.SUCCEEDED, {"t0": DONE, "t1": DONE})


@pytest.mark.parametrize(("run", "task", "attempt"), [("f" * 12, "t0", 2), (RUN.id, "nobody", 2), (RUN.id, "t0", 1), (RUN.id, "t0", 3)])
def test_usage_of_what_is_not_there_is_ignored(ledger: Ledger, tmp_path: Path, run: str, task: str, attempt: int) -> None:
    """An unknown run, task or attempt costs nothing: the rest of its batch is saved."""
    ledger.save(Batch(usage=(UsageChange(run, task, attempt, USED), UsageChange(RUN.id, "t1", 2, USED))))
    assert kept(tmp_path) == {"t1": USED}


def test_usage_is_that_of_the_newest_attempt(ledger: Ledger, tmp_path: Path) -> None:
    """A new attempt begins with nothing known."""
    save(ledger, "t0", 2, USED)
    ledger.save(changed(RUN.id, "t0", DONE._replace(attempt=3, state=TaskState.RUNNING)))
    assert kept(tmp_path) == {}


def test_what_is_no_quantity_is_not_kept(ledger: Ledger, tmp_path: Path) -> None:
    """What a scheduler could not measure, or measured wrongly, is not known."""
    save(ledger, "t0", 2, Usage(math.nan, -1.0, math.inf))
    save(ledger, "t1", 2, Usage(None, 3.0, None))
    assert kept(tmp_path) == {"t0": Usage(), "t1": Usage(None, 3.0, None)}


@pytest.mark.parametrize("over", [False, True], ids=["alive", "ended"])
def test_the_status_file_is_written_once_more(ledger: Ledger, tmp_path: Path, over: bool) -> None:
    """The run's file shows what is known of each task, and leaves out what is not; a run of which there is no file is left alone."""
    ledger.save(ended(RUN.id, 90.0) if over else changed(RUN.id, "t1", DONE._replace(state=TaskState.RUNNING)))
    with LedgerReader(tmp_path / "state") as reader:
        stored = reader.stored(RUN.id)
        assert stored is not None
        view = view_of(stored)
        assert view is not None
        writer = StatusWriter(tmp_path, "lab", interval_s=0.01, ask=Asked(lambda run: view, reader.usage))
        writer.put_run(view)
        assert writer.flush()
        path = tmp_path / "run" / f"{RUN.id}.yaml"
        assert "memory_max_mb" not in path.read_text()
        save(ledger, "t0", 2, replace(USED, cpu_s=None))
        writer.refresh_run("f" * 12)
        writer.refresh_run(RUN.id)
        assert writer.flush()
        rows = [line for line in path.read_text().splitlines() if "memory_max_mb" in line]
        writer.close()
    assert [('"elapsed_s": 60.0, "memory_max_mb": 120.5' in row, "cpu_s" in row) for row in rows] == [(True, False)]


async def test_usage_waits_until_it_is_saved() -> None:
    """What a look told once is handed on until it is in the ledger, also when a save fails in between; then it is let go."""
    job = job_name(RUN.id, "t0", 2)
    told = iter([{job: USED, "no job name of ours": USED}, {}])
    backend = Scripted(lambda began_at: Snapshot("far", began_at, usage=next(told, {}), again_s=0.01))
    outlook = outlook_of(backend)
    try:
        await until(lambda: outlook.looks > 2, "it was looked at a few times")
        first = Gathered.of(outlook)
        assert first.used == [UsageChange(RUN.id, "t0", 2, USED)]
        again = Gathered.of(outlook)  # the first was not saved
        assert batch_of((), ObjectChanges(), again.used) == Batch(usage=(UsageChange(RUN.id, "t0", 2, USED),))
        again.settle(outlook, frozenset())
        assert (Gathered.of(outlook).used, outlook.usage) == ([], {})
    finally:
        await outlook.close()


def test_get_shows_usage(tmp_path: Path) -> None:
    """`get run` shows what is known: as columns when anything is, as numbers with --json."""
    folder = sample_folder(tmp_path / "trusted")
    before = reconciler("get", "run", OLD, "--dir", folder).out
    assert "CPU" not in before
    ledger = Ledger.open(folder / ".state", "lab")
    ledger.save(Batch(usage=(UsageChange(OLD, "setup", 1, Usage(61.0, 3723.0, 2048.0)),)))
    ledger.close()
    shown = reconciler("get", "run", OLD, "--dir", folder).out.splitlines()
    assert shown[2].split()[4:8] == ["TIME", "CPU", "MEMORY", "JOB"]
    assert [line.split()[4:7] for line in shown[3:]] == [["1s", "1h02m", "2.0G"], ["1s", "-", "-"]]
    rows = reconciler("get", "run", OLD, "--json", "--dir", folder).json["tasks"]
    keys = ("elapsed_s", "cpu_s", "memory_max_mb")
    assert [[row.get(key) for key in keys] for row in rows] == [[61.0, 3723.0, 2048.0], [None, None, None]]
