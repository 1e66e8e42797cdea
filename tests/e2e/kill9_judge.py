"""What became of every attempt of every task, judged after a kill test: from the tasks' own files, the spool and the ledger.

Called by kill9_slurm.py when the daemon has stopped and no job of it is left. Each attempt that did its work wrote `<attempt> began
<time>` and `<attempt> ended <time>` into the file of its task. What the ledger believes of it must be what the files and the records of
the spool show; what does not fit is a breach, named.
"""

from __future__ import annotations

import re
import signal
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: A look that had begun before an exit record was written may take so long to become an event, on a slow machine, in seconds.
LOOK_S = 15.0
_LINE = re.compile(r"([0-9]+) (began|ended) ([0-9]+\.[0-9]+)")
_EXIT = re.compile(r"exit 1 ([0-9]+) .* end\n")
_FINAL = ("succeeded", "failed", "lost", "skipped", "cancelled")


@dataclass(frozen=True)
class Want:
    """What a task was made to do. `fails`: how often it ends with an error before it succeeds; None: each time."""

    fails: int | None = 0


@dataclass
class Attempt:
    """One job name: what it wrote, and its records in the spool."""

    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    start: str = ""  # the first line of start.0
    restarted: bool = False
    exit: int | None = None
    exit_at: float = 0.0
    fenced: bool = False
    arrays: list[str] = field(default_factory=list)  # of each claim: its array, "-" for none

    @property
    def worked(self) -> bool:
        """Whether a job took the start."""
        return self.start.startswith("start 1 job ")

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it half-way: what becomes of jobs that run and that a restarted slurmctld does not know."""
        return self.exit in (128 + signal.SIGKILL, 128 + signal.SIGTERM) and not self.ended


class Left(NamedTuple):
    """Why an attempt was given up (unsent, failed or lost, or how its task ended), when, and in which words."""

    why: str
    at: float
    words: str


@dataclass(frozen=True)
class Told:
    """What the ledger says of a task. `left` holds each attempt but the last."""

    state: str
    attempt: int
    reason: str
    since: float
    left: dict[int, Left]


@dataclass
class Verdict:
    """What was seen, and what was broken: the breaches name the task."""

    breaches: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


def read_ledger(path: Path) -> dict[str, Told]:
    """All tasks, by `<workflow>.<task>`, which is also the name of a task's file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        names = dict(connection.execute("SELECT id, workflow FROM runs"))
        left: dict[tuple[str, str], dict[int, Left]] = {}
        events = "SELECT run, task, name, message, at FROM events WHERE name IN ('SubmissionLost', 'TaskWaiting') ORDER BY seq"
        for run, task, name, message, at in connection.execute(events):
            given_up = left.setdefault((run, task), {})
            if why := _why(name, message):
                given_up[len(given_up) + 1] = Left(why, at, message)
        rows = connection.execute("SELECT run, task, state, attempt, reason, since FROM tasks").fetchall()
    finally:
        connection.close()
    return {
        f"{_bare(names[run])}.{task}": Told(state, attempt, reason, since, left.get((run, task), {}))
        for run, task, state, attempt, reason, since in rows
    }


def _bare(workflow: str) -> str:
    return workflow.rpartition("/")[2]


def _why(event: str, message: str) -> str:
    """Why an attempt was given up; "" for an event that keeps it."""
    if event == "SubmissionLost":
        return "unsent"
    if "; trying again (" not in message:
        return ""
    return "lost" if "the old process may still run" in message else "failed"


def read_attempts(ran: Path, spool: Path, names: dict[str, str], verdict: Verdict) -> dict[str, dict[int, Attempt]]:
    """All attempts that left anything, by task and number. `names`: the workflow of each run id."""
    found: dict[str, dict[int, Attempt]] = {}
    for path in ran.iterdir():
        attempts = found.setdefault(path.name, {})
        for line in path.read_text().splitlines():
            match = _LINE.fullmatch(line)
            if match is None:
                verdict.breaches.append(f"{path.name}: a line that no task writes: {line!r}")
                continue
            attempt = attempts.setdefault(int(match[1]), Attempt())
            (attempt.began if match[2] == "began" else attempt.ended).append(float(match[3]))
    for folder in spool.glob("runs/*/*.*"):
        run, _, rest = folder.name.partition(".")
        task, _, number = rest.rpartition(".")
        attempts = found.setdefault(f"{_bare(names.get(run, run))}.{task}", {})
        _read_records(folder, attempts.setdefault(int(number), Attempt()))
    return found


def _read_records(folder: Path, attempt: Attempt) -> None:
    start, ended = folder / "start.0", folder / "exit"
    attempt.start = start.read_text().strip() if start.exists() else ""
    attempt.restarted = (folder / "start.1").exists()
    attempt.fenced = (folder / "fenced").exists()
    attempt.arrays = [path.read_text().split()[5] for path in folder.glob("claim.*")]
    # a job that is killed while it writes its exit record leaves half of it, which nobody may believe
    if ended.exists() and (match := _EXIT.fullmatch(ended.read_text())):
        attempt.exit, attempt.exit_at = int(match[1]), ended.stat().st_mtime


def judge(wanted: dict[str, Want], told: dict[str, Told], attempts: dict[str, dict[int, Attempt]], verdict: Verdict) -> None:
    """Compare them, task by task."""
    verdict.breaches += [f"{name}: nobody asked for it" for name in sorted((told.keys() | attempts.keys()) - wanted.keys())]
    for name, want in wanted.items():
        if name not in told:
            verdict.breaches.append(f"{name}: the ledger does not know it")
            continue
        verdict.seen[told[name].state] += 1
        verdict.breaches += [f"{name}: {words}" for words in _task(want, told[name], attempts.get(name, {}), verdict.seen)]


def _task(want: Want, told: Told, attempts: dict[int, Attempt], seen: Counter[str]) -> list[str]:
    wrong = []
    if told.state not in _FINAL:
        wrong.append(f"it is still {told.state} ({told.reason})")
    if len(told.left) != told.attempt - 1:
        wrong.append(f"attempt {told.attempt}, and {len(told.left)} before it are accounted for")
    wrong += [f"attempt {number} is not in the ledger" for number in attempts if number > told.attempt]
    for number in range(1, told.attempt + 1):
        attempt = attempts.get(number, Attempt())
        left = told.left.get(number, Left(told.state, told.since, told.reason))
        wrong += [f"attempt {number} ({left.why}): {words}" for words in (*_sane(attempt), *_CHECKS.get(left.why, _open)(attempt, left.at))]
        _count(attempt, left, seen)
    wrong += _in_turn(told, attempts, seen)
    failures = sum(left.why == "failed" and not attempts[number].was_killed for number, left in told.left.items() if number in attempts)
    killed = told.attempt in attempts and attempts[told.attempt].was_killed
    if told.state == "succeeded" and failures != (want.fails or 0):
        wrong.append(f"it was to fail {want.fails} times and did {failures} times")
    if told.state == "failed" and want.fails is not None and not killed:
        wrong.append(f"it was not to fail: {told.reason}")
    if told.state == "succeeded" and want.fails is None:
        wrong.append("it cannot succeed")
    if told.state == "cancelled":
        wrong.append(f"nobody cancelled it: {told.reason}")
    return wrong


def _sane(attempt: Attempt) -> list[str]:
    """What holds of every attempt, whatever became of it."""
    wrong = []
    if len(attempt.began) > 1 or len(attempt.ended) > 1:
        wrong.append(f"RAN TWICE: {len(attempt.began)} times begun, {len(attempt.ended)} times ended")
    if len(attempt.ended) > len(attempt.began):
        wrong.append("it ended and never began")
    if attempt.began and not attempt.worked:
        wrong.append(f"it did its work without the start: {attempt.start!r}")
    if attempt.exit == 0 and not attempt.ended:
        wrong.append("an exit record of 0, and its work was not done")
    if attempt.restarted:
        wrong.append("it was restarted")
    return wrong


def _succeeded(attempt: Attempt, at: float) -> list[str]:
    return [] if attempt.exit == 0 and attempt.ended else [f"FALSELY FINISHED: exit {attempt.exit}, {len(attempt.ended)} times ended"]


def _failed(attempt: Attempt, at: float) -> list[str]:
    return [] if attempt.exit else [f"called failed with exit {attempt.exit}"]


def _lost(attempt: Attempt, at: float) -> list[str]:
    if not attempt.worked:
        return ["called lost, and it never started: it was to be sent again"]
    known = attempt.exit is not None and attempt.exit_at < at - LOOK_S
    return [f"called lost {at - attempt.exit_at:.0f} s after its exit record was written"] if known else []


def _unsent(attempt: Attempt, at: float) -> list[str]:
    right = attempt.start.startswith("revoked 1 ") and not attempt.began
    return [] if right else [f"sent again without a won revoke: {attempt.start!r}"]


def _skipped(attempt: Attempt, at: float) -> list[str]:
    return ["it ran"] if attempt.start or attempt.began else []


def _open(attempt: Attempt, at: float) -> list[str]:
    return []


_CHECKS = {"succeeded": _succeeded, "failed": _failed, "lost": _lost, "unsent": _unsent, "skipped": _skipped}


def _in_turn(told: Told, attempts: dict[int, Attempt], seen: Counter[str]) -> list[str]:
    """No attempt begins while an earlier one is at work, unless that one is lost: then nobody can know."""
    wrong = []
    for number, left in told.left.items():
        times = [at for each in (attempts.get(number),) if each for at in (*each.began, *each.ended)]
        later = [at for after, each in attempts.items() if after > number for at in each.began]
        if times and later and min(later) < max(times):
            if left.why == "lost":
                seen["overlaps after a loss"] += 1
            else:
                wrong.append(f"attempt {number} was at work when the next one began")
    return wrong


def _count(attempt: Attempt, left: Left, seen: Counter[str]) -> None:
    seen["attempts"] += 1
    seen["lines"] += len(attempt.began)
    seen["starts"] += attempt.worked
    seen["exit records"] += attempt.exit is not None
    seen["late twins fenced"] += attempt.fenced
    seen["ended by a signal"] += attempt.was_killed
    seen["sent in arrays"] += sum(array != "-" for array in attempt.arrays)
    seen["sent alone"] += attempt.arrays.count("-")
    if left.why in ("unsent", "lost"):
        seen[{"unsent": "submissions lost, sent again", "lost": "started and lost"}[left.why]] += 1
        seen[f"… {left.words.partition('; trying again')[0]}"] += 1
    seen["lost, and finished all the same"] += left.why == "lost" and attempt.exit == 0
