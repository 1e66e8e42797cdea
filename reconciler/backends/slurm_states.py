"""Slurm's words for a job's state, and what each means for us. Pure data and its look-up; read by slurm_rows.py.

The words are those of `job_state_string` and `job_state_string_complete` in Slurm 22.05 and of the JOB STATE CODES of newer manuals. A
word that is not in the table is UNKNOWN, with the word itself kept: never failed, and never gone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from reconciler.core.desired import Cause
from reconciler.core.observed import JobState

_RELEASE = "`scontrol release` lets it go, `scancel` ends it"
_QUEUED, _RUNNING, _ENDED, _UNKNOWN = JobState.QUEUED, JobState.RUNNING, JobState.ENDED, JobState.UNKNOWN


class Standing(NamedTuple):
    """What a word of Slurm means. `cause` only with ENDED (None: it succeeded); `words` for a person, "" when there is nothing to say."""

    state: JobState
    cause: Cause | None = None
    words: str = ""


STATES: dict[str, Standing] = {
    # what a job is
    "PENDING": Standing(_QUEUED),
    "RUNNING": Standing(_RUNNING),
    "SUSPENDED": Standing(
        _RUNNING, None, "is suspended: Slurm has stopped it where it was, for a job of higher priority or because an administrator said so"
    ),
    "COMPLETED": Standing(_ENDED),
    "CANCELLED": Standing(_ENDED, Cause.CANCELLED, "was cancelled"),
    "FAILED": Standing(_ENDED, Cause.EXIT, "failed"),
    "TIMEOUT": Standing(_ENDED, Cause.TIMEOUT, "reached its time limit"),
    "NODE_FAIL": Standing(_ENDED, Cause.NODE_FAIL, "its node failed"),
    "PREEMPTED": Standing(_ENDED, Cause.PREEMPTED, "was ended to make room for a job of higher priority"),
    "BOOT_FAIL": Standing(_ENDED, Cause.NODE_FAIL, "its node could not be booted for it"),
    "DEADLINE": Standing(_ENDED, Cause.TIMEOUT, "reached its deadline"),
    "OUT_OF_MEMORY": Standing(_ENDED, Cause.OOM, "used more memory than it had asked for"),
    # what is being done with it
    "COMPLETING": Standing(_RUNNING, None, "is ending: Slurm cleans up after it"),
    "STAGE_OUT": Standing(_RUNNING, None, "is ending: Slurm copies its results out of the burst buffer"),
    "SIGNALING": Standing(_RUNNING, None, "is being sent a signal"),
    "RESIZING": Standing(_RUNNING, None, "is about to change its size"),
    "STOPPED": Standing(_RUNNING, None, "is stopped by a signal, and keeps its processors"),
    "CONFIGURING": Standing(_QUEUED, None, "has its nodes; they are being made ready"),
    "POWER_UP_NODE": Standing(_QUEUED, None, "has its nodes; they are being powered up"),
    "EXPEDITING": Standing(_QUEUED, None, "is being put back at the head of the queue, after its node failed"),
    "REQUEUED": Standing(_QUEUED, None, "is being put back into the queue"),
    "REQUEUE_FED": Standing(_QUEUED, None, "is being put back into the queue of its federation"),
    "REQUEUE_HOLD": Standing(_QUEUED, None, f"will not start by itself: it was put back into the queue and is held; {_RELEASE}"),
    "SPECIAL_EXIT": Standing(
        _QUEUED, None, f"will not start by itself: it ended in a way that its site marks, was put back and is held; {_RELEASE}"
    ),
    "RESV_DEL_HOLD": Standing(_QUEUED, None, f"will not start by itself: its reservation was deleted and it is held; {_RELEASE}"),
    # what says nothing of whether it runs, will run, or has ended
    "REVOKED": Standing(_UNKNOWN, None, "another cluster of the federation has taken it"),
    "LAUNCH_FAILED": Standing(_UNKNOWN, None, "could not be started on its nodes"),
    "RECONFIG_FAIL": Standing(_UNKNOWN, None, "its nodes could not be configured for it"),
    "UPDATE_DB": Standing(_UNKNOWN, None, "is being written to the accounting"),
}

#: The short forms, of the same source.
_CODES = {
    "BF": "BOOT_FAIL", "CA": "CANCELLED", "CD": "COMPLETED", "CF": "CONFIGURING", "CG": "COMPLETING", "DL": "DEADLINE", "F": "FAILED",
    "NF": "NODE_FAIL", "OOM": "OUT_OF_MEMORY", "PD": "PENDING", "PR": "PREEMPTED", "R": "RUNNING", "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED", "RH": "REQUEUE_HOLD", "RQ": "REQUEUED", "RS": "RESIZING", "RV": "REVOKED", "S": "SUSPENDED", "SE": "SPECIAL_EXIT",
    "SI": "SIGNALING", "SO": "STAGE_OUT", "ST": "STOPPED", "TO": "TIMEOUT",
}  # fmt: skip
_CANCELLED_BY = re.compile(r"CANCELLED by ([0-9]{1,10})")


@lru_cache(maxsize=1000)  # a queue of 10,000 rows has a handful of words
def standing(text: str) -> Standing:
    """What a state as Slurm prints it means: a word, its short form, `CANCELLED by 1005`, `OUT_OF_ME+` (cut), `RUNNING,COMPLETING`.

    Of several words joined by commas the first is what the job is, and the last that says more is what is being done with it.
    """
    names = [_name(word) for word in text.split(",")]
    known = [STATES[name] for name in names if name is not None]
    if not known or len(known) != len(names):
        return Standing(_UNKNOWN, None, f"is in a state that we do not know: {text}")
    telling = [each for each in known if each.state is not _UNKNOWN]
    return (telling or known)[-1]


def _name(word: str) -> str | None:
    """The long form of one word; None when it is not one of ours."""
    word = word.strip()
    first = word.split(" ", 1)[0]
    if first in STATES:
        return first if word == first or word.startswith("CANCELLED by ") else None
    if word in _CODES:
        return _CODES[word]
    if word.endswith("+"):
        longer = [name for name in STATES if name.startswith(word[:-1])]
        return longer[0] if len(longer) == 1 else None
    return None


def cancelled_by(text: str) -> int | None:
    """The user id in `CANCELLED by 1005`; None when the state says none."""
    found = _CANCELLED_BY.fullmatch(text.strip())
    return int(found[1]) if found else None
