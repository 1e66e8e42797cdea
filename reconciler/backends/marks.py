"""The small files of the spool as text: what each of them says, and how it is read back. Pure.

A job's folder and the mailbox hold one-line records, written by the daemon (claim, revocation, marks) or by the job's wrapper
(start, exit; script.py). Each ends in the word `end`: a line without it was cut short by a crash or a full disk, and says only
that somebody began to write. What is read is hostile input: a record that does not match is None, whatever it holds.

    owner        owner 1 <ledger> <epoch> end                       whose spool this is
    claim        # claim 1 <ledger> <epoch> <boot> <limit_s> end    a submission took the name; limit 0: none. The second line of
                                                                    the job's script, which is the same file by another name
    start.0      start 1 process <boot> <namespace> <pid> <ticks> end   a process took the start ...
                 revoked 1 <ledger> <epoch> end                     ... or a daemon did, and nothing will run under this name
    fenced       fenced 1 process <as in start> end                 a wrapper found its start taken, and left
    cancel       mark 1 <boot> <uptime> end                         told to end by us; `timeout`: because of its time limit
    exit         exit 1 <code> <what> end                           how it ended; `what` is in EXIT_WORDS. Linked into the mailbox
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: The longest line of ours is some 200 bytes; whatever is longer is not ours.
RECORD_BYTES_MAX = 4096
#: What the wrapper's exit record names: the command ended, or it was never begun, and why.
EXIT_WORDS = {
    "command": "",
    "workdir": "its working directory does not exist or cannot be entered",
    "output": "its output file cannot be written",
    "interrupted": "",
}
#: Of a job that its scheduler may start again: its command ended when the job was told to end. Only the scheduler knows whether for good.
INTERRUPTED = "interrupted"
#: The code of an exit record whose command was never begun. Like FENCED_EXIT, far from what common programs use.
UNBEGUN_EXIT = 122

_TOKEN = r"[A-Za-z0-9-]{1,64}"
_COUNT = r"\d{1,18}"
_OWNER = re.compile(rf"owner 1 ({_TOKEN}) ({_COUNT}) end")
_CLAIM = re.compile(rf"#!/bin/sh\n# claim 1 ({_TOKEN}) ({_COUNT}) ({_TOKEN}) ({_COUNT}) end\n")
#: Never 0 or 1: to signal group 0 is to signal ourselves.
_PID = r"(?!1 )[1-9]\d{0,9}"
_START = re.compile(rf"start 1 process ({_TOKEN}) ({_COUNT}) ({_PID}) ({_COUNT}) end")
_REVOKED = re.compile(rf"revoked 1 ({_TOKEN}) ({_COUNT}) end")
_MARK = re.compile(rf"mark 1 ({_TOKEN}) (\d{{1,12}}(?:\.\d{{1,6}})?) end")
_EXIT = re.compile(r"exit 1 (\d{1,3}) ([a-z]{1,16}) end")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose spool it is. `epoch` rises at every start of a daemon on that ledger."""

    ledger_id: str
    epoch: int

    def text(self) -> str:
        return f"owner 1 {self.ledger_id} {self.epoch} end\n"

    def revocation(self) -> str:
        """The content of a start record that this owner takes, so that nobody else can."""
        return f"revoked 1 {self.ledger_id} {self.epoch} end\n"

    def __post_init__(self) -> None:
        if not re.fullmatch(_TOKEN, self.ledger_id) or not 0 <= self.epoch < 10**18:
            raise ValueError(f"no ledger is called {self.ledger_id!r} with epoch {self.epoch}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A submission took the name. `limit_s` is the job's time limit in seconds, 0 for none: it holds after a restart, too."""

    owner: Owner
    boot: str
    limit_s: int

    def text(self) -> str:
        return f"claim 1 {self.owner.ledger_id} {self.owner.epoch} {self.boot} {self.limit_s} end\n"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this or another machine, for good: pids come back, but not with the same start in the same boot.

    `namespace` is the inode of its pid namespace; `ticks` its start in clock ticks since boot (field 22 of /proc/<pid>/stat).
    """

    boot: str
    namespace: int
    pid: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """The start was taken by `owner`, so that no process ever can."""

    owner: Owner


@dataclass(frozen=True, slots=True)
class Garbled:
    """A record that is there and cannot be read. `unfinished`: a line that was cut short, and not something foreign."""

    text: str
    unfinished: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """When a job was told to end: `uptime` in seconds since the boot named `boot`."""

    boot: str
    uptime: float

    def text(self) -> str:
        return f"mark 1 {self.boot} {self.uptime:.2f} end\n"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended. `what` is a key of EXIT_WORDS."""

    code: int
    what: str


def parse_owner(text: str) -> Owner | None:
    """The owner that `text` names, or None."""
    match = _OWNER.fullmatch(text.strip())
    return Owner(match[1], int(match[2])) if match else None


def parse_claim(text: str) -> Claim | None:
    """The claim that the beginning of a script states, or None."""
    match = _CLAIM.match(text)
    return Claim(Owner(match[1], int(match[2])), match[3], int(match[4])) if match else None


def parse_start(text: str) -> Process | Revoked | Garbled:
    """Who took the start."""
    line = text.strip()
    if match := _START.fullmatch(line):
        return Process(match[1], int(match[2]), int(match[3]), int(match[4]))
    if match := _REVOKED.fullmatch(line):
        return Revoked(Owner(match[1], int(match[2])))
    return Garbled(line, _cut_short(line, "start 1 process "))


def parse_mark(text: str) -> Mark | None:
    """When the job was told to end, or None."""
    match = _MARK.fullmatch(text.strip())
    return Mark(match[1], float(match[2])) if match else None


def parse_exit(text: str) -> Exit | Garbled:
    """How the job ended."""
    line = text.strip()
    match = _EXIT.fullmatch(line)
    if match is None or int(match[1]) > 255 or match[2] not in EXIT_WORDS:
        return Garbled(line, _cut_short(line, "exit 1 "))
    return Exit(int(match[1]), match[2])


def _cut_short(line: str, beginning: str) -> bool:
    """Whether `line` is the first part of a record that begins so."""
    return beginning.startswith(line) or (line.startswith(beginning) and not line.endswith(" end"))
