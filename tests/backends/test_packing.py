"""How jobs are named in a scheduler and packed into arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.base import JobRequest
from reconciler.backends.packing import Namer, array_of, batches
from reconciler.core.names import job_name
from tests.backends.conformance import RUN

NAMER = Namer("main\0/home/ada/.reconciler/main")
OTHER_RUN = "fedcba987654"


def job(number: int, run: str = RUN) -> JobRequest:
    return JobRequest(job=job_name(run, f"t{number}", 1), run=run, task=f"t{number}", command="true")


def packed(jobs: list[JobRequest], most: int, **asked: tuple[str, ...]) -> list[list[str]]:
    """The tasks of each batch; `asked` by task, () where nothing is said."""
    told = {each.job: asked.get(each.task, ()) for each in jobs}
    return [[each.task for each in batch.jobs] for batch in batches(jobs, told, NAMER, "step", lambda _: most)]


def test_equal_jobs_are_an_array() -> None:
    """Jobs of one run that ask for the same are sent together, in their order, and no more at a time than an array may hold."""
    assert packed([job(number) for number in range(7)], 3) == [["t0", "t1", "t2"], ["t3", "t4", "t5"], ["t6"]]


def test_unequal_jobs_are_apart() -> None:
    """What asks for something else, or is of another run, is sent apart."""
    jobs = [job(0), job(1), job(2, OTHER_RUN), job(3)]
    assert packed(jobs, 100, t1=("--mem=1M",)) == [["t0", "t3"], ["t1"], ["t2"]]


def test_no_arrays() -> None:
    """With room for one element there are no arrays."""
    found = batches([job(0), job(1)], {job(0).job: (), job(1).job: ()}, NAMER, "step", lambda _: 1)
    assert [batch.array for batch in found] == [None, None]


def test_ten_thousand_and_one() -> None:
    """10,001 ready jobs with room for 1,001 are ten arrays, each job in one of them."""
    jobs = [job(number) for number in range(10_001)]
    found = batches(jobs, {each.job: () for each in jobs}, NAMER, "step", lambda _: 1001)
    assert [len(batch.jobs) for batch in found] == [1001] * 9 + [992]
    assert [each for batch in found for each in batch.jobs] == jobs
    assert len({batch.name for batch in found}) == 10


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", fullmatch=True), st.integers(1, 10**8))
def test_a_name_leads_back_to_its_job(task: str, attempt: int) -> None:
    """From a job's name in the scheduler its job is known again, whatever characters its task's id has."""
    name = job_name(RUN, task, attempt)
    said = NAMER.single(name)
    assert NAMER.job_of(said) == name
    assert said.startswith(f"{task}.{attempt}-{RUN}-") and len(said) <= 255
    assert array_of(said) is None


@pytest.mark.parametrize("place", ["main\0/elsewhere", "other\0/home/ada/.reconciler/main"])
def test_another_instance_has_other_names(place: str) -> None:
    """The same job of another instance, or of another spool, is not ours."""
    assert NAMER.job_of(Namer(place).single(job(1).job)) == ""


@given(st.text(max_size=80))
def test_foreign_names_are_nobodys(text: str) -> None:
    """Whatever people call their jobs, none is taken for ours by chance."""
    assert NAMER.job_of(text) == ""
    assert NAMER.job_of(f"x.1-{RUN}-{text[:8]}") == ""


def test_an_array_is_known_by_its_name() -> None:
    """An array's name tells its run and folder; two steps that send the same jobs make two arrays."""
    [one] = batches([job(0), job(1)], {job(0).job: (), job(1).job: ()}, NAMER, "step 1", lambda _: 10)
    [two] = batches([job(0), job(1)], {job(0).job: (), job(1).job: ()}, NAMER, "step 2", lambda _: 10)
    assert one.array is not None
    assert array_of(one.name) == one.array != two.array
    assert one.array.run == RUN and one.name.startswith(f"t0+1-{RUN}-")
