"""The table of legal moves: complete, and the only way a record changes its state."""

from __future__ import annotations

import itertools

import pytest

from reconciler.core.desired import Cause
from reconciler.core.draft import EVENT_OF
from reconciler.core.record import FINAL, LIVE, MOVES, Aim, RunRecord, Shape, TaskRecord, TaskState
from reconciler.errors import IllegalMove

PAIRS = [(old, new) for old, new in itertools.product(TaskState, TaskState) if old is not new]
#: A record in which no field has its default, so that whatever a move touches shows.
FULL = TaskRecord(
    attempt=3,
    failures=1,
    losses=2,
    since=10.0,
    reason="before",
    cause=Cause.EXIT,
    job_id="17",
    started=True,
    claimed_at=11.0,
    acknowledged_at=12.0,
    started_at=13.0,
    ended_at=14.0,
    exit_code=1,
    absent_since=15.0,
    not_before=16.0,
    aim=Aim.AGAIN,
    told_at=17.0,
    scheduler=18.0,
    refusals=4,
    ooms=1,
    timeouts=1,
)


def run_record(tasks: dict[str, TaskRecord]) -> RunRecord:
    counts = {state: sum(task.state is state for task in tasks.values()) for state in TaskState}
    return RunRecord(tasks, {}, Shape({}), {}, {}, frozenset(), {}, counts)


def test_every_state_has_its_moves() -> None:
    """The table names every state, leads only to states, and never from a state to itself."""
    assert set(MOVES) == set(TaskState)
    for old, targets in MOVES.items():
        assert targets <= set(TaskState)
        assert old not in targets


def test_every_state_is_waiting_live_or_final() -> None:
    """A task waits, may have a job, or has ended: exactly one of them."""
    assert set(TaskState) == {TaskState.WAITING} | LIVE | FINAL
    assert not LIVE & FINAL
    assert TaskState.WAITING not in LIVE | FINAL


def test_final_is_final() -> None:
    """Nothing leads out of a final state."""
    assert {state: MOVES[state] for state in FINAL} == dict.fromkeys(FINAL, frozenset())


def test_every_state_can_be_reached_and_left() -> None:
    """From waiting every state is within reach, and from every state a final one."""
    reached = {TaskState.WAITING}
    while more := {new for old in reached for new in MOVES[old]} - reached:
        reached |= more
    assert reached == set(TaskState)
    assert all(MOVES[state] & FINAL for state in TaskState if state not in FINAL)


def test_only_a_task_without_a_job_is_skipped() -> None:
    """Skipped means that nothing was sent: only waiting leads there."""
    assert {old for old, targets in MOVES.items() if TaskState.SKIPPED in targets} == {TaskState.WAITING}


def test_every_state_has_an_event() -> None:
    """Entering any state is told under a promised name of its own."""
    assert set(EVENT_OF) == set(TaskState)
    assert len(set(EVENT_OF.values())) == len(TaskState)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda state: state.value)
def test_a_move_is_in_the_table_or_raises_and_changes_nothing(old: TaskState, new: TaskState) -> None:
    """A legal move sets the state, the time and the reason, and forgets what was only true of the old state; an illegal one raises."""
    record = FULL._replace(state=old)
    if new in MOVES[old]:
        expected = FULL._replace(state=new, since=99.0, reason="why", absent_since=0.0, told_at=0.0)
        assert record.to(new, 99.0, "why") == expected
    else:
        with pytest.raises(IllegalMove, match=f"{old} -> {new} \\(why\\)"):
            record.to(new, 99.0, "why", attempt=4)
    assert record == FULL._replace(state=old)


@pytest.mark.parametrize("state", TaskState, ids=lambda state: state.value)
def test_staying_is_no_move(state: TaskState) -> None:
    """Staying in a state keeps the time and, unless a new one is given, the reason; only named fields change."""
    record = FULL._replace(state=state)
    assert record.to(state, 99.0) == record
    assert record.to(state, 99.0, "why", attempt=4) == record._replace(reason="why", attempt=4)


@pytest.mark.parametrize("state", TaskState, ids=lambda state: state.value)
def test_sent_is_the_move_to_submitting(state: TaskState) -> None:
    """The fast spelling of the intent is legal from waiting only, keeps what was spent, and knows nothing of an earlier job."""
    record = TaskRecord(state=state, attempt=3, failures=1, losses=2, not_before=5.0, reason="trying again", cause=Cause.EXIT)
    if state is TaskState.WAITING:
        expected = TaskRecord(TaskState.SUBMITTING, attempt=3, failures=1, losses=2, since=99.0, claimed_at=99.0)
        assert record.sent(99.0) == expected
    else:
        with pytest.raises(IllegalMove):
            record.sent(99.0)


def test_a_misspelt_field_is_refused() -> None:
    """`to` takes only fields of the record."""
    with pytest.raises(ValueError, match="atempt"):
        TaskRecord().to(TaskState.SUBMITTING, 1.0, atempt=2)


@pytest.mark.parametrize("state", TaskState, ids=lambda state: state.value)
def test_a_run_has_ended_when_all_its_tasks_have(state: TaskState) -> None:
    """One task that is not final keeps a run alive."""
    ended = run_record({"a": TaskRecord(TaskState.SUCCEEDED), "b": TaskRecord(state)}).ended
    assert ended == (state in FINAL)


def test_a_run_has_begun_with_its_first_intent() -> None:
    """Only a saved intent makes a run count for its digest; tasks that were skipped or cancelled while waiting do not."""
    waiting, cancelled = TaskRecord(), TaskRecord(TaskState.CANCELLED)
    assert not run_record({"a": waiting, "b": cancelled}).begun
    assert run_record({"a": waiting.sent(5.0), "b": cancelled}).begun
