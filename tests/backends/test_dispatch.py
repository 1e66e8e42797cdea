"""How much is sent by one program, and when nothing more is. The submit command is the stand-in of test_far.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.backends.base import JobRequest
from reconciler.backends.dialect import Site
from reconciler.backends.dispatch import CALLS_AT_FIRST, CALLS_MAX, CALLS_MIN, JOBS_AT_ONCE, Dispatch, Terms, calls_next
from reconciler.backends.judgement import Patience
from reconciler.backends.packing import Namer
from reconciler.backends.reply import Reply
from reconciler.backends.sightings import Sightings
from reconciler.core.desired import Resources
from reconciler.core.observed import Answer, Receipt
from tests.backends.conformance import RUN, name
from tests.backends.test_far import MARK, Node

FULL = "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1"


async def sent(node: Node, jobs: list[JobRequest], array_most: int) -> list[Receipt]:
    """What a login node answers to these, in its own shell."""

    async def run(make: Callable[[str], str], _: int) -> Reply:
        program = node.root.parent / "program"  # an argument has 128 KiB at most
        program.write_text(make(MARK))
        return node.run(f". '{program}'")

    namer = Namer("test")
    dispatch = Dispatch(node.desk.dialect, namer, Sightings(namer, Patience()), run)
    return await dispatch.send(jobs, Terms(node.desk, "test", "0022", array_most, Site()))


def request(task: str, memory_mb: int = 16) -> JobRequest:
    return JobRequest(job=name(task), run=RUN, task=task, command="true", resources=Resources(memory_mb=memory_mb))


async def test_no_program_grows_with_the_largest_array(tmp_path: Path) -> None:
    """Where an array may have a million elements, no more are sent at once than one program takes."""
    node = Node(tmp_path, "/bin/sh")
    receipts = await sent(node, [request(f"t{number}") for number in range(JOBS_AT_ONCE + 1)], 1_000_000)
    assert {receipt.answer for receipt in receipts} == {Answer.ACCEPTED}
    assert [f"--array=0-{JOBS_AT_ONCE - 1}" in call for call in node.calls] == [True, False]


async def test_nothing_is_sent_after_a_doubt(tmp_path: Path) -> None:
    """Arrays that are too large are halved and sent again; not when what was sent after them has no answer."""
    node = Node(tmp_path, "/bin/sh")
    node.answers(f'case "$*" in *--mem=16M*) {FULL} ;; *) exit 1 ;; esac')
    jobs = [request("a"), request("b"), request("c", 32)]
    assert [receipt.answer for receipt in await sent(node, jobs, 10)] == [Answer.TRANSIENT, Answer.TRANSIENT, Answer.UNKNOWN]
    assert len(node.calls) == 2


@pytest.mark.parametrize(
    ("limit", "calls", "took_s", "expected"),
    [
        pytest.param(100, 100, 1.0, 300, id="a full one was quick"),
        pytest.param(100, 7, 0.1, 100, id="a few say little"),
        pytest.param(100, 100, 15.0, 100, id="neither quick nor slow"),
        pytest.param(300, 300, 60.0, 150, id="slow"),
        pytest.param(100, 1, 60.0, 50, id="slow with a few"),
    ],
)
def test_programs_grow_and_shrink(limit: int, calls: int, took_s: float, expected: int) -> None:
    """A quick scheduler gets more calls in one program, a slow one fewer."""
    assert calls_next(limit, calls, took_s) == expected


def test_programs_stay_within_bounds() -> None:
    """However quick or slow a scheduler is, a program is neither huge nor empty."""
    low = high = CALLS_AT_FIRST
    for _ in range(20):
        low, high = calls_next(low, low, 1000.0), calls_next(high, high, 0.001)
    assert (low, high) == (CALLS_MIN, CALLS_MAX)
