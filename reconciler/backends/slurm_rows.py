"""What `squeue` and `sacct` print -> rows. Pure; called by slurm.py. All of it is hostile text: nothing here raises.

A row of squeue is `MARK|fields|MARK=reason|MARK=name|MARK.`: the random mark of the call is before, between and after what others write
(a name may hold `|` and newlines; a plug-in's reason too), so no text can make a row up, and one that was cut short is left out. sacct
cannot print a text of ours, but takes one as its delimiter: `MARK=` after each field, the last too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.backends import slurm_reasons
from reconciler.backends.dialect import Row
from reconciler.backends.slurm_states import Standing, cancelled_by, standing
from reconciler.core.desired import Cause
from reconciler.core.observed import JobState, Usage

#: Between `MARK|` and the reason, in both forms of squeue. `-o` is short, but has no exit code and no restart count; `-O` pads to widths
#: and cuts there (a name of ours has at most 255 characters).
_SHORT = "%i|%T|%V|%S|%e|%P|%u|-|-"
_LONG = (
    "JobArrayID:60|,State:30|,SubmitTime:20|,StartTime:20|,EndTime:20|,Partition:100|,UserName:100|,exit_code:20|,RestartCnt:12|,"
    "BatchHost:100"
)
#: The last, the node, is in the long form only.
_FIELDS = (9, 10)
ACCOUNT_FIELDS = (
    "JobID", "State", "ExitCode", "Submit", "Start", "End", "ElapsedRaw", "TotalCPU", "MaxRSS", "Partition", "User", "UID", "Reason",
    "JobName",
)  # fmt: skip
#: More elements than this of one row are not written out: no array of ours is listed so, since squeue is asked for single elements.
_EXPANDED_MAX = 10_000
#: With signal 53 slurmd says that it could not start the script at all; with 125 that memory ran out.
_LAUNCH_SIGNAL, _SIGNALS_MAX = 53, 64
_PERHAPS_MEMORY = "if its output says `Exceeded job memory limit`, it needs more memory"

_JOB_ID = re.compile(r"([0-9]{1,10})(?:_([0-9]{1,9})|_\[([^\]]*)\])?(\+[0-9]{1,5})?")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([1-9][0-9]{0,8}))?)?")
_DURATION = re.compile(r"(?:([0-9]{1,6})-)?(?:([0-9]{1,6}):)?([0-9]{1,6}):([0-9]{1,2}(?:\.[0-9]{1,6})?)")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([KMGTP]?)n?")
_UNIT_MB = {"": 1 / 1024 / 1024, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}


def short_format(mark: str) -> str:
    """The format of `squeue -o`."""
    return f"{mark}|{_SHORT}|{mark}=%r|{mark}=%j|{mark}."


def long_format(mark: str) -> str:
    """The format of `squeue -O`. It can print a text of ours only after a field: the first is there for the mark behind it."""
    return f"Requeue:1|{mark}|,{_LONG}|{mark}=,Reason:300|{mark}=,Name:256|{mark}."


def comment_format(mark: str) -> str:
    """The format of `squeue -o` for names and comments."""
    return f"{mark}|{mark}=%j|{mark}=%k|{mark}."


def read_comments(mark: str, text: str) -> list[tuple[str, str]]:
    """Name and comment of each whole row; a comment that there is none of is ""."""
    bodies = (chunk.partition(f"|{mark}.") for chunk in text.split(f"{mark}|")[1:])
    parts = (body.split(f"{mark}=") for body, ended, _ in bodies if ended)
    rows = ((each[1].removesuffix("|"), each[2]) for each in parts if len(each) == 3)
    return [(name, "" if comment == "(null)" else comment) for name, comment in rows]


def read_rows(mark: str, text: str) -> list[Row]:
    """The rows of either form, a row of several waiting elements as one each."""
    return [row for body in _bodies(mark, text) for row in _rows(*body)]


def _bodies(mark: str, text: str) -> Iterator[tuple[list[str], str, str]]:
    """Fields, reason and name of each whole row."""
    for chunk in text.split(f"{mark}|")[1:]:
        body, ended, _ = chunk.partition(f"{mark}.")
        parts = body.split(f"|{mark}=")
        fields = [each.strip() for each in parts[0].split("|")]
        if ended and len(parts) == 3 and len(fields) in _FIELDS:
            yield fields, parts[1].strip(), parts[2].removesuffix("|").strip()


def _rows(fields: list[str], reason: str, name: str) -> Iterator[Row]:
    job_ids, word, submitted, started, ended, partition, user, status, restarts, *node = fields
    stands = standing(word)
    code, signal = _wait_status(status)
    words = _words(stands, reason, signal, code)
    for job_id, index in _elements(job_ids):
        yield Row(
            job_id=job_id,
            name=name,
            state=stands.state,
            word=word,
            index=index,
            cause=stands.cause,
            reason=words,
            exit_code=_exit_code(stands, code, signal),
            signal=_signal(signal),
            submitted_at=_when(submitted),
            started_at=None if _never_began(stands, started, ended) else _when(started),
            ended_at=_when(ended) if stands.state is JobState.ENDED else None,
            partition=partition,
            user=user,
            restarts=int(restarts) if _number(restarts) else None,
            node=None if not node else "" if node[0] == "n/a" else node[0],
        )


def _elements(text: str) -> Sequence[tuple[str, int | None]]:
    """Each job of an id, and its index: `7_[2-5%2]` is four, anything else one. None when it is no id."""
    found = _JOB_ID.fullmatch(text)
    if found is None:
        return ()
    if found[3] is None:
        return ((text, int(found[2]) if found[2] else None),)
    indexes = _indexes(found[3])
    return ((text, None),) if indexes is None else [(f"{found[1]}_{index}", index) for index in indexes]


def _indexes(text: str) -> list[int] | None:
    """`2-5,8,10-20:5%2` -> its numbers; a cut list (`1-3,...`) gives what it says. None when there are too many, or nothing can be read."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            continue
        span = range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1))
        if len(found) + len(span) > _EXPANDED_MAX:
            return None
        found += span
    return found or None


def _words(stands: Standing, reason: str, signal: int | None, code: int | None) -> str:
    """Why it waits, or ended so, for a person."""
    if stands.state is JobState.ENDED:
        return _end_words(stands, reason, signal, code)
    if stands.words:
        return stands.words
    return slurm_reasons.waiting(reason) if stands.state is JobState.QUEUED else ""


def _end_words(stands: Standing, reason: str, signal: int | None, code: int | None) -> str:
    if stands.cause is None:
        return ""
    if stands.cause is not Cause.EXIT:
        return slurm_reasons.ending(stands.words, reason)
    if signal == _LAUNCH_SIGNAL:
        return "could not be started on its node: its folder is not there, or Slurm cannot write its output there (FAILED 0:53)"
    if signal:
        return f"was ended by signal {signal}" + (f"; {_PERHAPS_MEMORY}" if signal == 9 else "")
    return f"ended with code {code}" if code else slurm_reasons.ending(stands.words, reason)


def _never_began(stands: Standing, started: str, ended: str) -> bool:
    """Of a job that was ended while it waited, Slurm says that it started when it ended."""
    return stands.cause in {Cause.CANCELLED, Cause.TIMEOUT} and started == ended


def _exit_code(stands: Standing, code: int | None, signal: int | None) -> int | None:
    """The code as far as it is believed: 0 only of a success, and none of what a signal ended."""
    if stands.state is not JobState.ENDED or code is None or signal:
        return None
    if stands.cause is None:
        return 0 if code == 0 else None
    return code if stands.cause is Cause.EXIT and code else None


def _signal(signal: int | None) -> int | None:
    return signal if signal and signal != _LAUNCH_SIGNAL and signal <= _SIGNALS_MAX else None


def _wait_status(text: str) -> tuple[int | None, int | None]:
    """Code and signal of a status as `wait` gives it (512: code 2), or as `code:signal`. None: it does not say."""
    if _number(text):
        status = int(text)
        return (status >> 8) & 255, status & 127
    return _code_and_signal(text)


def _code_and_signal(text: str) -> tuple[int | None, int | None]:
    code, colon, signal = text.partition(":")
    return (int(code), int(signal)) if colon and _number(code) and _number(signal) else (None, None)


def _number(text: str) -> bool:
    return 0 < len(text) <= 12 and text.isascii() and text.isdecimal()


def _when(text: str) -> float | None:
    """Seconds since 1970; None for `N/A`, `Unknown`, `None` and 0, and for a Slurm that does not know SLURM_TIME_FORMAT."""
    return float(text) if _number(text) and int(text) else None


# Accounting


@dataclass(slots=True)
class _Account:
    """A job's own line, and what its steps add."""

    fields: dict[str, str]
    memory: float | None = None
    cpu: float | None = None
    killed_by: int | None = None


def read_accounts(mark: str, text: str) -> list[Row]:
    """One row a job, its steps folded in.

    For a second after a short job's end, sacct has only what its node said: called `allocation`, of no partition, under another id
    if it is an element of an array. Such a line is left out: it would look like somebody else's job.
    """
    jobs: dict[str, _Account] = {}
    for fields in _records(mark, text):
        job_id, dot, step = fields["JobID"].partition(".")
        if not dot and fields["Partition"]:
            jobs[job_id] = _Account(fields, _megabytes(fields["MaxRSS"]), _seconds(fields["TotalCPU"]))
        elif job_id in jobs:
            _fold(jobs[job_id], step, fields)
    return [row for job_id, account in jobs.items() for row in _account_rows(job_id, account)]


def _records(mark: str, text: str) -> Iterator[dict[str, str]]:
    tokens = text.split(f"{mark}=")[:-1]
    width = len(ACCOUNT_FIELDS)
    for start in range(0, len(tokens) - width + 1, width):
        values = [tokens[start].rpartition("\n")[2], *tokens[start + 1 : start + width]]
        yield dict(zip(ACCOUNT_FIELDS, (value.strip() for value in values), strict=True))


def _fold(account: _Account, step: str, fields: dict[str, str]) -> None:
    account.memory = _most((account.memory, _megabytes(fields["MaxRSS"])))
    account.cpu = _most((account.cpu, _seconds(fields["TotalCPU"])))
    if step == "batch":
        account.killed_by = cancelled_by(fields["State"])


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _account_rows(job_ids: str, account: _Account) -> Iterator[Row]:
    fields = account.fields
    stands = standing(fields["State"])
    code, signal = _code_and_signal(fields["ExitCode"])
    ended = stands.state is JobState.ENDED
    for job_id, index in _elements(job_ids):
        yield Row(
            job_id=job_id,
            name=fields["JobName"],
            state=stands.state,
            word=fields["State"],
            index=index,
            cause=stands.cause,
            reason=_account_words(stands, account, code, signal),
            # a code above 127 is printed less 128: 72 is 72 or 200, and FAILED with 0 is 128
            exit_code=0 if ended and stands.cause is None and (code, signal) == (0, 0) else None,
            signal=_signal(signal),
            submitted_at=_when(fields["Submit"]),
            started_at=None if _never_began(stands, fields["Start"], fields["End"]) else _when(fields["Start"]),
            ended_at=_when(fields["End"]) if ended else None,
            partition=fields["Partition"],
            user=fields["User"],
            usage=_usage(account) if ended else None,
        )


def _usage(account: _Account) -> Usage:
    elapsed = account.fields["ElapsedRaw"]
    return Usage(float(elapsed) if _number(elapsed) else None, account.cpu, account.memory)


def _account_words(stands: Standing, account: _Account, code: int | None, signal: int | None) -> str:
    fields = account.fields
    by = cancelled_by(fields["State"])
    if by is not None:
        return f"was cancelled by {_who(by, fields)}"
    if stands.cause is Cause.EXIT and code is not None and not signal:
        return f"ended with code {code or 128}" + (f" or {code + 128} (Slurm's accounting does not tell them apart)" if code else "")
    if stands.cause is Cause.EXIT and signal == 9 and account.killed_by is not None:
        return f"was ended by signal 9, sent by {_who(account.killed_by, fields)}; {_PERHAPS_MEMORY}"
    return _words(stands, "" if stands.state is JobState.ENDED else fields["Reason"], signal, code)


def _who(uid: int, fields: dict[str, str]) -> str:
    if uid == 0:
        return "root (an administrator, or Slurm itself)"
    return f"its owner {fields['User']}".rstrip() if fields["UID"] == str(uid) else f"user id {uid}"


def _seconds(text: str) -> float | None:
    """`1-02:03:04`, `02:03:04`, `00:00.022` -> seconds; None for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = found.groups(default="0")
    return int(days) * 86400.0 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _megabytes(text: str) -> float | None:
    """`3068K`, `1.50G`, `512` (bytes) -> mebibytes; None for anything else."""
    found = _SIZE.fullmatch(text)
    return float(found[1]) * _UNIT_MB[found[2]] if found else None
