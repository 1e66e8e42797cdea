"""Names are computed, never random, and what comes from outside is read with care."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import names

RUN = "5f0c21d9a7be"


@given(st.from_regex(names.TASK_ID, fullmatch=True).filter(lambda text: len(text) <= names.TASK_ID_LENGTH_MAX), st.integers(1, 999_999_999))
def test_a_job_name_can_be_read_back(task: str, attempt: int) -> None:
    """Whatever dots and digits a task id holds, its job name gives back run, task and attempt."""
    assert names.parse_job_name(names.job_name(RUN, task, attempt)) == (RUN, task, attempt)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        RUN,
        f"{RUN}.a",
        f"{RUN}.a.0",
        f"{RUN}.a.01",
        f"{RUN}.a.-1",
        f"{RUN}.a.1\n",
        f"{RUN}.a.1000000000",
        f"{RUN}..1",
        f"{RUN}.-a.1",
        f"{RUN}.a/b.1",
        f"{RUN.upper()}.a.1",
        f"{RUN[1:]}.a.1",
        f"{RUN}.a.١",  # an Arabic digit
        f"{RUN}.{'a' * (names.TASK_ID_LENGTH_MAX + 1)}.1",
    ],
)
def test_what_is_no_job_name_of_ours_is_none(text: str) -> None:
    """Names on the far side are hostile input: anything but our exact form is nobody's."""
    assert names.parse_job_name(text) is None


def test_a_run_id_is_twelve_hex_digits_and_always_the_same() -> None:
    """A restart computes the same id; this value is in users' ledgers and may never change."""
    assert names.run_id("main", "Workflow", "diamond", "sha256:00", "", 0) == "78a0ddb083aa"


@pytest.mark.parametrize("place", range(6))
def test_every_part_of_what_a_run_is_enters_its_id(place: int) -> None:
    """Another instance, kind, name, digest, occasion or number of predecessors is another run."""
    parts = ("main", "Workflow", "diamond", "sha256:00", "c0ffee", 0)
    other = [*parts[:place], 1 if place == 5 else f"{parts[place]}x", *parts[place + 1 :]]
    assert names.run_id(*parts) != names.run_id(*other)  # type: ignore[arg-type]  # a list of the same six


def test_parts_of_an_id_cannot_run_into_each_other() -> None:
    """`a` + `bc` is not `ab` + `c`."""
    assert names.run_id("a", "bc", "", "", "", 0) != names.run_id("ab", "c", "", "", "", 0)


def test_a_digest_is_sha256_of_the_text() -> None:
    """The form that status files show, with the known hash of an empty text."""
    assert names.digest_of("") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
