"""The records of a spool that is on a cluster, as text: what each of them says, and how it is read back. Pure.

    <spool>/<instance>/owner                   owner 1 <ledger> <epoch> end                    whose spool this is (marks.py)
    <spool>/<instance>/exits/<job>             the mailbox: a copy of each exit record that we have not been told to forget
    <spool>/<instance>/runs/<run>/closed       its jobs were cleaned away; none of them ever starts again
    <spool>/<instance>/runs/<run>/<array>/     an array: script, state, and for each element a file named by its index that holds the job
    <spool>/<instance>/runs/<run>/<job>/       one job:
        claim.<n>    claim 1 <ledger> <epoch> <step> <array> <index> end    the n-th submission took the name; array `-`: none. Then, added
                                                                            line by line by whoever took it (for an array: in its `state`):
                     sent 1 end                          the submit command is about to be run; from here on it is in doubt, until …
                     id 1 <job id> end                   … the scheduler had said which job it is
                     refused 1 <class> end               … or it was proven that there is none: the next submission takes claim.<n+1>
        script       the job's script (script.py)
        start.<k>    start 1 job <job id> <restarts> <uptime> end           the job's k-th restart took its start ...
                     revoked 1 <ledger> <epoch> end                         ... or a daemon did, and nothing will run under this name
        fenced       fenced 1 job <as in start> end                         a script found its start taken, and left
        cancel       cancel 1 <ledger> <epoch> end                          told to end by us
        exit         exit 1 <code> <what> job <job id> <restarts> <uptime at the start> <uptime at the end> end
                     (what `interrupted`: it was told to end, and the scheduler may start it again, which takes the record away)

What is read is hostile input: a record that does not match is no record of ours. One without `end` was cut short, and says only that
somebody began to write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reconciler.backends.marks import EXIT_WORDS, Garbled, Owner, Revoked

_TOKEN = r"[A-Za-z0-9-]{1,64}"
_COUNT = r"\d{1,18}"
#: A job id of any batch system: `12`, `7_3`, `12.server`, `7[3].server`.
JOB_ID = r"[0-9][A-Za-z0-9_.\[\]-]{0,127}|none"
_SECONDS = r"\d{1,12}(?:\.\d{1,9})?"
_CLAIM = re.compile(rf"claim 1 ({_TOKEN}) ({_COUNT}) ({_TOKEN}) (-|\+{_TOKEN}) (\d{{1,9}}) end")
_ID = re.compile(rf"id 1 ({JOB_ID}) end")
_REFUSED = re.compile(r"refused 1 ([a-z]{1,16}) end")
_START = re.compile(rf"start 1 job ({JOB_ID}) (\d{{1,9}}) ({_SECONDS}) end")
_REVOKED = re.compile(rf"revoked 1 ({_TOKEN}) ({_COUNT}) end")
_EXIT = re.compile(rf"exit 1 (\d{{1,3}}) ([a-z]{{1,16}}) job ({JOB_ID}) (\d{{1,9}}) ({_SECONDS}) ({_SECONDS}) end")


@dataclass(frozen=True, slots=True)
class Sending:
    """What became of one submission of a name. `array` is the folder of its array, "" for none.

    `state`: `claimed` (nothing was sent yet), `sent` (in doubt), `accepted` (`job_id` is the array's, if there is one), `refused` (proven).
    """

    state: Literal["claimed", "sent", "accepted", "refused"]
    array: str = ""
    index: int = 0
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class JobStart:
    """A job took the start: its id, how often the scheduler had restarted it, and its node's uptime then, in seconds."""

    job_id: str
    restarts: int
    uptime_s: float


@dataclass(frozen=True, slots=True)
class FarExit:
    """How a job ended. `what` is a key of EXIT_WORDS; `elapsed_s` from its start to its end, on its node."""

    code: int
    what: str
    job_id: str
    restarts: int
    elapsed_s: float


Start = JobStart | Revoked | Garbled


def revocation(owner: Owner) -> str:
    """The content of a start record that `owner` takes, in one line."""
    return owner.revocation().rstrip("\n")


def cancel_mark(owner: Owner) -> str:
    """The content of the mark of a job that `owner` told to end, in one line."""
    return f"cancel 1 {owner.ledger_id} {owner.epoch} end"


def claim_line(owner: Owner, step: str, array: str, index: int) -> str:
    """The first line of a claim. `array` "" for a single job."""
    return f"claim 1 {owner.ledger_id} {owner.epoch} {step} {array or '-'} {index} end"


def parse_sending(lines: Sequence[str]) -> Sending:
    """What the lines of a claim (and of its array's state) come to. Lines that are not ours say nothing."""
    array, index = "", 0
    state: Literal["claimed", "sent", "accepted", "refused"] = "claimed"
    job_id = ""
    for line in lines:
        if match := _CLAIM.fullmatch(line):
            array, index = ("" if match[4] == "-" else match[4]), int(match[5])
        elif line == "sent 1 end":
            state = "sent"
        elif match := _ID.fullmatch(line):
            state, job_id = "accepted", match[1]
        elif _REFUSED.fullmatch(line):  # of a member: whatever then became of its array
            return Sending("refused", array, index)
    return Sending(state, array, index, job_id)


def parse_far_start(line: str) -> Start:
    """Who took the start."""
    if match := _START.fullmatch(line):
        return JobStart(match[1], int(match[2]), float(match[3]))
    if match := _REVOKED.fullmatch(line):
        return Revoked(Owner(match[1], int(match[2])))
    return Garbled(line, _cut_short(line, "start 1 job "))


def parse_far_exit(line: str) -> FarExit | Garbled:
    """How the job ended."""
    match = _EXIT.fullmatch(line)
    if match is None or int(match[1]) > 255 or match[2] not in EXIT_WORDS:
        return Garbled(line, _cut_short(line, "exit 1 "))
    return FarExit(int(match[1]), match[2], match[3], int(match[4]), max(0.0, float(match[6]) - float(match[5])))


def _cut_short(line: str, beginning: str) -> bool:
    """Whether `line` is the first part of a record that begins so."""
    return beginning.startswith(line) or (line.startswith(beginning) and not line.endswith(" end"))
