"""Retention: what a ledger forgets, and how the backends come to forget it too, with a real ledger and the real local backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.backends.local import LocalBackend
from reconciler.core.observed import JobState
from reconciler.core.record import Event, TaskRecord, TaskState
from reconciler.errors import LedgerError
from reconciler.housekeeping import clean_everywhere
from reconciler.ledger import Batch, Ledger, LedgerReader
from reconciler.ledger.retention import EVENTS_MAX, RUNS_MAX
from tests.backends.conformance import RUN, end, name, request, seen, send, started
from tests.backends.test_local import Here
from tests.ledger_samples import ended, new, sample_run

DAY = 86_400.0
NOW = 100 * DAY


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "state", "lab")
    yield opened
    opened.close()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    far = Here(tmp_path)
    yield far
    await far.end()


def save_old_run(ledger: Ledger, run: str = RUN, digest: str = "sha256:a") -> None:
    """A run that ended long ago, all of whose tasks are on one backend."""
    sample = sample_run(run, digest=digest)
    ledger.save(new(sample, TaskRecord(TaskState.SUCCEEDED, attempt=1)))
    ledger.save(ended(run, 10 * DAY))


def prune_all(ledger: Ledger) -> None:
    while ledger.prune(NOW, 30, 30):
        pass


async def forget_everywhere(ledger: Ledger, backend: LocalBackend) -> list[str]:
    """One pass as the daemon makes it, with `backend` standing under every name that the sample uses."""
    runs = ledger.uncleaned()
    names = {each for names in runs.values() for each in names}
    gone = await clean_everywhere(dict.fromkeys(names, backend), runs)
    ledger.cleaned(gone, NOW)
    return gone


async def test_what_could_not_be_cleaned_is_cleaned_by_the_next_pass(ledger: Ledger, here: Here, tmp_path: Path) -> None:
    """A backend that cannot be reached leaves the run to the next pass, also to that of another daemon; its row stays for ever."""
    backend = await here.open()
    await send(backend, request("true"))
    await seen(backend, name(), JobState.ENDED)
    save_old_run(ledger)
    prune_all(ledger)
    owner = here.spool / "owner"
    owner.rename(here.spool / "elsewhere")
    assert await forget_everywhere(ledger, backend) == []
    assert here.folder(name()).exists()
    ledger.close()
    (here.spool / "elsewhere").rename(owner)
    again = Ledger.open(tmp_path / "state", "lab")
    assert list(again.uncleaned()) == [RUN]
    assert await forget_everywhere(again, backend) == [RUN]
    assert (here.folder(name()).exists(), again.uncleaned()) == (False, {})
    again.close()
    with LedgerReader(tmp_path / "state") as reader:
        [row] = reader.runs()
    assert (row.id, row.phase, row.ended_at, row.pruned) == (RUN, "Succeeded", 10 * DAY, True)


async def test_a_run_with_a_living_job_is_cleaned_once_that_has_ended(ledger: Ledger, here: Here) -> None:
    """Whatever the ledger says, the folder of a run of which a job lives is not touched; the next pass after its end removes it."""
    backend = await here.open()
    await send(backend, request("sleep 1000"))
    await started(backend, name())
    save_old_run(ledger)
    prune_all(ledger)
    assert await forget_everywhere(ledger, backend) == []
    assert (here.folder(name()) / "start.0").exists()
    await end(backend, name(), kill=True)
    await seen(backend, name(), JobState.ENDED)
    assert await forget_everywhere(ledger, backend) == [RUN]
    assert not here.folder(name()).exists()


def test_a_live_run_is_never_given_out(ledger: Ledger) -> None:
    """A run that has not ended is neither pruned nor to be cleaned, however old it is; nor can it be marked as cleaned."""
    ledger.save(new(sample_run(RUN)))
    prune_all(ledger)
    assert ledger.uncleaned() == {}
    ledger.cleaned([RUN], NOW)
    ledger.save(ended(RUN, 10 * DAY))
    prune_all(ledger)
    assert list(ledger.uncleaned()) == [RUN]


class Asked:
    """A place of which only its answers matter: `says` are the runs it has forgotten; an exception is raised."""

    def __init__(self, says: Sequence[str] | Exception) -> None:
        self.says = says
        self.asked: list[list[str]] = []

    async def clean(self, runs: Sequence[str]) -> Sequence[str]:
        self.asked.append(list(runs))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


async def test_one_backend_never_keeps_another_from_being_cleaned() -> None:
    """A run is gone once every backend of it said so; one that fails, or has no document now, keeps only its own runs."""
    broken, sound = Asked(RuntimeError("a bug")), Asked(["a", "b"])
    runs = {"a": ["sound"], "b": ["sound", "broken"], "c": ["absent"], "d": []}
    assert await clean_everywhere({"broken": broken, "sound": sound}, runs) == ["a", "d"]
    assert (broken.asked, sound.asked) == ([["b"]], [["a", "b"]])


@pytest.mark.parametrize("count", [1, RUNS_MAX, 2 * RUNS_MAX + 1])
def test_pruning_says_when_there_are_more_runs(count: int, ledger: Ledger) -> None:
    """Each call forgets a few runs; asked until it says that there is no more, all are forgotten."""
    for number in range(count):
        save_old_run(ledger, f"{number:012x}", f"sha256:{number}")
    prune_all(ledger)
    assert len(ledger.uncleaned()) == count


def test_pruning_says_when_there_are_more_events(ledger: Ledger, tmp_path: Path) -> None:
    """Old events go on being forgotten when no run is left to forget."""
    ledger.save(Batch(events=tuple(Event(1.0, "Old", "") for _ in range(EVENTS_MAX + 1))))
    assert ledger.prune(NOW, 30, 30) is True
    assert ledger.prune(NOW, 30, 30) is False
    with LedgerReader(tmp_path / "state") as reader:
        assert reader.events() == []


def test_a_closed_ledger_says_so(ledger: Ledger, tmp_path: Path) -> None:
    """What cannot be written down is not taken as done."""
    save_old_run(ledger)
    prune_all(ledger)
    (tmp_path / "state" / "ledger.sqlite3").rename(tmp_path / "moved")
    with pytest.raises(LedgerError):
        ledger.cleaned([RUN], NOW)
    (tmp_path / "moved").rename(tmp_path / "state" / "ledger.sqlite3")
    assert list(ledger.uncleaned()) == [RUN]
