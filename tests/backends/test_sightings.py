"""What several looks at a cluster come to together: which row is which job, and what is not believed for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.backends.dialect import Row
from reconciler.backends.far_marks import JobStart, Sending
from reconciler.backends.judgement import Patience
from reconciler.backends.marks import Owner, Revoked
from reconciler.backends.packing import Namer
from reconciler.backends.reply import Trail
from reconciler.backends.sightings import Sightings
from reconciler.core.observed import Expected, JobState
from tests.backends.conformance import RUN, name

NOW = 1000.0
NAMER = Namer("test")
CLAIM = Sending("accepted", job_id="77")


def sightings() -> Sightings:
    return Sightings(NAMER, Patience(5.0, 1.0))


def row(task: str = "a", job_id: str = "77", state: JobState = JobState.QUEUED, submitted_at: float = NOW - 10.0) -> Row:
    return Row(job_id, NAMER.single(name(task)), state, state.upper(), submitted_at=submitted_at)


def expecting(*tasks: str, job_id: str = "77", claimed_at: float = NOW - 20.0) -> dict[str, Expected]:
    return {name(task): Expected(name(task), job_id, claimed_at) for task in tasks}


def test_a_revoked_job_that_is_gone_is_not_ended_again() -> None:
    """A late job of a revoked name is taken out of the queue once: when it is gone, its id may be another job's."""
    seen = sightings()
    seen.see_queue([row()], {}, NOW)
    seen.see_trails([name("a")], {name("a"): Trail(CLAIM, starts=(Revoked(Owner("ledger-1", 1)),))}, NOW)
    assert (seen.leftovers(), seen.strays({}, NOW)) == (["77"], [name("a")])
    seen.see_queue([], {}, NOW + 2.0)
    assert (seen.leftovers(), seen.strays({}, NOW + 2.0)) == ([], [])
    seen.drop_unseen({}, frozenset())
    assert seen.known == {}


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_a_job_that_was_alive_and_is_forgotten_is_absent(state: JobState) -> None:
    """A scheduler that said by its id that a job lives, and later knows neither job nor id, does not keep it alive by its old word."""
    seen, expected = sightings(), expecting("a")
    seen.see_words({name("a"): "77"}, [row(state=state)], expected, NOW)
    assert [fact.state for fact in seen.facts(expected, NOW).values()] == [state]
    seen.see_queue([], expected, NOW + 2.0)
    seen.see_trails([name("a")], {name("a"): Trail(CLAIM)}, NOW + 2.0)
    seen.see_words({name("a"): "77"}, [], expected, NOW + 2.0)
    assert seen.facts(expected, NOW + 2.0) == {}


@pytest.mark.parametrize("started", [False, True])
def test_a_clock_that_was_set_back_hides_no_job(started: bool) -> None:
    """The job that was acknowledged, or that took the start, is that job also when it seems to be older than its intent."""
    seen, expected = sightings(), expecting("a", claimed_at=NOW + 3600.0)
    if started:
        seen.see_trails([name("a")], {name("a"): Trail(CLAIM, starts=(JobStart("77", 0, 5.0),))}, NOW)
    seen.see_queue([row()], expected, NOW)
    assert [fact.job_id for fact in seen.facts(expected, NOW).values()] == ["77"]
    seen.see_queue([row(job_id="78")], expected, NOW)
    assert seen.facts(expected, NOW) == {}


def test_what_stands_in_an_arrays_folder_is_no_program() -> None:
    """Of the members of an array only names of jobs of its run are taken."""
    seen, folder = sightings(), "+0123456789abcdef"
    array = [Row(f"9_{index}", f"a+2-{RUN}-{folder[1:]}", JobState.RUNNING, "RUNNING", index=index) for index in range(3)]
    assert seen.unknown_arrays(array) == [(RUN, folder)]
    seen.see_members([(RUN, folder)], {folder: {0: name("a"), 1: "x;reboot", 2: f"{'f' * 12}.a.1"}})
    assert [seen.job_of(each) for each in array] == [name("a"), "", ""]


def test_a_word_is_believed_only_after_the_records_were_read_again() -> None:
    """A job that ended while its records had been read, and before the scheduler was asked, is not lost: its records are read once more."""
    seen, expected = sightings(), expecting("a")
    seen.see_queue([], expected, NOW - 30.0)  # a look while it was being sent: not there yet
    seen.see_trails([name("a")], {name("a"): Trail(CLAIM)}, NOW - 30.0)
    seen.see_queue([], expected, NOW)  # it ran and ended between two looks; its records were read a moment before
    seen.see_trails([name("a")], {name("a"): Trail(CLAIM)}, NOW)
    ended = replace(row(state=JobState.ENDED), started_at=NOW, ended_at=NOW)
    seen.see_words({name("a"): "77"}, [ended], expected, NOW)
    assert {fact.state for fact in seen.facts(expected, NOW).values()} != {JobState.ENDED}
    assert seen.to_read(expected, frozenset(), False) == [name("a")]
