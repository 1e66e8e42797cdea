"""The table of Slurm's states: complete, and no word is ever taken for more than it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.slurm_states import STATES, cancelled_by, standing
from reconciler.core.desired import Cause
from reconciler.core.observed import JobState

#: JOB STATE CODES of the manual of squeue, 22.05, with their short forms; and the words that the manuals of 23.02 to 24.11 add.
MANUAL = {
    "BF": "BOOT_FAIL", "CA": "CANCELLED", "CD": "COMPLETED", "CF": "CONFIGURING", "CG": "COMPLETING", "DL": "DEADLINE", "F": "FAILED",
    "NF": "NODE_FAIL", "OOM": "OUT_OF_MEMORY", "PD": "PENDING", "PR": "PREEMPTED", "R": "RUNNING", "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED", "RH": "REQUEUE_HOLD", "RQ": "REQUEUED", "RS": "RESIZING", "RV": "REVOKED", "SI": "SIGNALING", "SE": "SPECIAL_EXIT",
    "SO": "STAGE_OUT", "ST": "STOPPED", "S": "SUSPENDED", "TO": "TIMEOUT",
}  # fmt: skip
NEWER = ("EXPEDITING", "LAUNCH_FAILED", "POWER_UP_NODE", "RECONFIG_FAIL", "UPDATE_DB")
ENDS = {
    "COMPLETED": None,
    "CANCELLED": Cause.CANCELLED,
    "FAILED": Cause.EXIT,
    "TIMEOUT": Cause.TIMEOUT,
    "DEADLINE": Cause.TIMEOUT,
    "OUT_OF_MEMORY": Cause.OOM,
    "NODE_FAIL": Cause.NODE_FAIL,
    "BOOT_FAIL": Cause.NODE_FAIL,
    "PREEMPTED": Cause.PREEMPTED,
}


def test_the_table_holds_every_state_of_the_manuals_and_no_other() -> None:
    """Every word of squeue's manual and of the newer ones has its line."""
    assert set(STATES) == {*MANUAL.values(), *NEWER}


@pytest.mark.parametrize(("code", "word"), MANUAL.items())
def test_a_short_form_means_what_the_word_means(code: str, word: str) -> None:
    """`squeue -t`'s two letters are the same state."""
    assert standing(code) == standing(word)


def test_only_what_has_ended_is_ended_and_each_end_has_its_cause() -> None:
    """Nine words are ends; only COMPLETED is a success."""
    assert {word: each.cause for word, each in STATES.items() if each.state is JobState.ENDED} == ENDS
    assert all(each.cause is None for each in STATES.values() if each.state is not JobState.ENDED)


def test_whoever_reads_a_state_that_is_not_plain_is_told_what_it_means() -> None:
    """Every state but the four plain ones has words."""
    assert {word for word, each in STATES.items() if not each.words} == {"PENDING", "RUNNING", "COMPLETED"}


@pytest.mark.parametrize("word", ["REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"])
def test_a_held_job_says_that_it_will_not_start_and_what_to_do(word: str) -> None:
    """A hold is told with its cure."""
    assert standing(word).words.startswith("will not start by itself: ")
    assert "`scontrol release`" in standing(word).words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("CANCELLED by 1005", "CANCELLED"),
        ("CANCELLED by 10+", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("OUT_OF_ME+", "OUT_OF_MEMORY"),
        ("PENDING,REQUEUED", "REQUEUED"),
        ("FAILED,COMPLETING", "COMPLETING"),
        ("FAILED,LAUNCH_FAILED", "FAILED"),
        ("LAUNCH_FAILED", "LAUNCH_FAILED"),
    ],
)
def test_other_forms_of_a_word_mean_the_same(text: str, word: str) -> None:
    """Who cancelled, a cut column, and several words at once are understood."""
    assert standing(text) == STATES[word]


@pytest.mark.parametrize("text", ["", "NEW_STATE", "RE+", "+", "COMPLETED by 3", "completed", "COMPLETED,NEW", "RUNNING COMPLETED", ","])
def test_an_unfamiliar_state_is_unknown_and_told(text: str) -> None:
    """Neither failed nor ended; the word is shown."""
    assert standing(text).state is JobState.UNKNOWN
    assert standing(text).cause is None
    assert text in standing(text).words


def test_who_cancelled_is_read_from_the_state() -> None:
    """The user id, when there is one."""
    told = ("CANCELLED by 1005", "CANCELLED by 0", "CANCELLED", "CANCELLED by x", "")
    assert [cancelled_by(text) for text in told] == [1005, 0, None, None, None]


@given(st.text())
def test_no_text_makes_the_look_up_fail(text: str) -> None:
    """Whatever is printed as a state, there is an answer."""
    assert standing(text).state in JobState
    cancelled_by(text)
