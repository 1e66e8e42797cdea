"""The promises of the core in seeded worlds full of faults, and proof that the worlds are bad enough: wrong planners are caught.

Explore further with `python -m tests.sim --seeds 0:20000`; a failing seed prints the command that replays it.
"""

from __future__ import annotations

import pytest

from reconciler.core.record import TaskState
from tests.sim.promises import PromiseBroken
from tests.sim.simulation import Outcome, simulate
from tests.sim.wrong import WRONG, Wrong

WORLDS = 320
CHUNK = 20
#: Among so many worlds each wrong planner must be caught. The one that caught it when it was measured is tried first.
BUDGET = 400


def live_through(seed: int) -> Outcome:
    """The world of `seed`; a failure names its replay."""
    try:
        return simulate(seed)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n    replay: python -m tests.sim --seed {seed}") from error


@pytest.mark.parametrize("first", range(0, WORLDS, CHUNK))
def test_promises_hold_in_every_world(first: int) -> None:
    """Whatever the world does, no promise is broken, and when faults stop every run ends or says what a person must do."""
    for seed in range(first, first + CHUNK):
        live_through(seed)


def test_worlds_are_rich_enough() -> None:
    """Forty worlds together hold crashes, restored ledgers, lost submissions, and every way in which a task can end."""
    outcomes = [live_through(seed) for seed in range(40)]
    ends = {state for outcome in outcomes for state, number in outcome.states.items() if number}
    assert ends >= {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED, TaskState.LOST}
    assert sum(outcome.crashes for outcome in outcomes) > 20
    assert sum(outcome.losses for outcome in outcomes) > 20
    assert sum(outcome.restored for outcome in outcomes) > 3


def test_a_world_is_the_same_every_time() -> None:
    """A seed replays exactly: the same lines are told twice."""
    told: list[list[str]] = [[], []]
    for lines in told:
        simulate(7, say=lines.append)
    assert told[0] == told[1]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_planner_is_caught(wrong: Wrong) -> None:
    """A deliberately wrong design breaks a promise in one of the first few hundred worlds."""
    for seed in (wrong.world, *range(BUDGET)):
        try:
            simulate(seed, wrong.subject)
        except PromiseBroken:
            return
    pytest.fail(f"{wrong.name}: not caught in {BUDGET} worlds; see python -m tests.sim --measure {BUDGET}")
