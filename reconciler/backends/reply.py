"""What a program on the login node answered (far.py), taken apart. Pure. Whatever does not begin with the mark of the call is noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from reconciler.backends.far_marks import (
    FarExit,
    Sending,
    Start,
    parse_far_exit,
    parse_far_start,
    parse_sending,
)
from reconciler.backends.marks import INTERRUPTED, Garbled, Revoked

#: What a command of the scheduler prints stands between `<word>` and `<word>-end <exit code>`.
_SECTIONS = {"queue", "jobs", "accounts", "cancel", "everybody", "site", "capacity", "comments"}
#: So much of an error that a command printed is kept.
_TEXT_MAX = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command of the scheduler printed, its exit code, and what of it was no row: why it failed."""

    text: str
    code: int
    error: str


class Reply:
    """One answer. `lines` are ours, as (word, rest); `noise` is what was printed before the first of them, by a profile."""

    def __init__(self, mark: str, out: bytes) -> None:
        self.mark = mark
        self.lines: list[tuple[str, str]] = []
        self.noise: list[str] = []
        self.asked: dict[str, Asked] = {}
        self.took_s = 0.0  # from handing the program over to its end
        self._take(out.decode(errors="replace"))

    def _take(self, text: str) -> None:
        ours, open_word, raw = f"{self.mark}:", "", list[str]()
        for line in text.split("\n"):
            if not line.startswith(ours):
                raw.append(line)
                continue
            if not self.lines:
                self.noise = [each.strip() for each in raw if each.strip()]
            word, _, rest = line.removeprefix(ours).partition(" ")
            if open_word and word == f"{open_word}-end":
                self.asked[open_word] = _asked(self.mark, raw, rest)
                open_word = ""
            elif word in _SECTIONS:
                open_word, raw = word, []
            self.lines.append((word, rest))

    def all(self, word: str) -> Iterator[str]:
        """The rest of every line that begins with `word`."""
        return (rest for each, rest in self.lines if each == word)

    def first(self, word: str) -> str | None:
        """The rest of the first such line; None when there is none."""
        return next(self.all(word), None)

    def has(self, word: str) -> bool:
        return self.first(word) is not None


def _asked(mark: str, raw: list[str], code: str) -> Asked:
    error = "; ".join(line.strip() for line in raw if line.strip() and not line.startswith(mark))
    return Asked("\n".join(raw), int(code) if code.isdecimal() else 1, error[:_TEXT_MAX])


@dataclass(frozen=True, slots=True)
class Trail:
    """What the spool holds about one job. `ended_at` in seconds since 1970 on the far side's clock, None when unknown."""

    sending: Sending | None = None
    starts: tuple[Start, ...] = ()
    exit: FarExit | Garbled | None = None
    ended_at: float | None = None
    cancel: bool = False

    @property
    def revoked(self) -> bool:
        """Its first start was taken by a daemon: no work was or will be done under this name."""
        return bool(self.starts) and isinstance(self.starts[0], Revoked)

    @property
    def over(self) -> bool:
        """Its command has ended for good, as a whole exit record says."""
        return isinstance(self.exit, FarExit) and self.exit.what != INTERRUPTED

    @property
    def interrupted(self) -> bool:
        """Its command has ended because it was told to, and the scheduler may start it again."""
        return isinstance(self.exit, FarExit) and self.exit.what == INTERRUPTED

    @property
    def started(self) -> bool:
        """A job took its start, or something did that cannot be read."""
        return bool(self.starts) and not self.revoked


@dataclass
class _Building:
    claims: dict[int, list[str]] = field(default_factory=dict)
    starts: dict[int, str] = field(default_factory=dict)
    exit: str | None = None
    ended_at: float | None = None
    cancel: bool = False

    def trail(self) -> Trail:
        claims = [self.claims[number] for number in sorted(self.claims)]
        return Trail(
            sending=parse_sending(claims[-1]) if claims else None,
            starts=tuple(parse_far_start(self.starts[number]) for number in sorted(self.starts)),
            exit=parse_far_exit(self.exit) if self.exit is not None else None,
            ended_at=self.ended_at,
            cancel=self.cancel,
        )


def trails(reply: Reply) -> dict[str, Trail]:
    """By job, what far.records told."""
    building: dict[str, _Building] = {}
    for word, rest in reply.lines:
        job, _, line = rest.partition(" ")
        number, _, text = line.partition(" ")
        if word == "exited":
            building.setdefault(job.rpartition("/")[2], _Building()).ended_at = seconds(line)
            continue
        if word not in ("claim", "start", "exit", "cancel"):
            continue
        one = building.setdefault(job, _Building())
        if word == "claim" and number.isdecimal():
            one.claims.setdefault(int(number), []).append(text)
        elif word == "start" and number.isdecimal():
            one.starts.setdefault(int(number), text)
        elif word == "exit" and one.exit is None:
            one.exit = line
        elif word == "cancel":
            one.cancel = True
    return {job: each.trail() for job, each in building.items()}


def mailed(reply: Reply) -> dict[str, tuple[FarExit, float | None]]:
    """By job, the whole exit records of the mailbox, and when each was written on the far side's clock."""
    times = {name: seconds(when) for name, _, when in (rest.partition(" ") for rest in reply.all("time"))}
    found = {}
    for job, _, line in (rest.partition(" ") for rest in reply.all("mail")):
        record = parse_far_exit(line)
        if isinstance(record, FarExit):
            found[job] = record, times.get(job)
    return found


def members(reply: Reply) -> dict[str, dict[int, str]]:
    """By folder of an array: the job of each index."""
    found: dict[str, dict[int, str]] = {}
    for rest in reply.all("member"):
        folder, index, job = [*rest.split(" "), "", ""][:3]
        if index.isdecimal() and len(index) < 10:
            found.setdefault(folder, {})[int(index)] = job
    return found


def seconds(text: str) -> float | None:
    """A time that `date` or `find` printed; None when it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e11 else None
