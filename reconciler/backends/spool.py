"""The spool of one instance on this machine: the files by which jobs and daemons of any age agree who does what.

    <spool>/owner                  the ledger and epoch that may act here
    <spool>/runs/<run>/closed      the run's jobs were cleaned away; none of them ever starts again
    <spool>/runs/<run>/<job>/      claim, script (the same file), start.0, fenced, out, err, cancel, timeout, exit
    <spool>/exits/<job>            the mailbox: exit records that nobody has told us to forget; empty on a backend that reads by name

Called by local.py. Taking is always the exclusive creation of a file with its content: a link to a file that was written before, so
that nobody sees half of it. Nothing here is slow: the state folder is on a local disk (the ledger refuses a network file system).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.backends.marks import (
    RECORD_BYTES_MAX,
    Claim,
    Exit,
    Garbled,
    Mark,
    Owner,
    Process,
    Revoked,
    parse_claim,
    parse_exit,
    parse_mark,
    parse_owner,
    parse_start,
)
from reconciler.backends.ownership import refuse_lost, refuse_stranger
from reconciler.backends.script import work_folder
from reconciler.core.names import parse_job_name
from reconciler.errors import Unreachable

CANCEL = "cancel"
TIMEOUT = "timeout"
_START = "start.0"
#: What opening something says that is no record of ours: a link, a socket, somebody else's file.
_FOREIGN = {errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the spool holds about one job name. Times are seconds since 1970 UTC, None when there is no such record.

    `claimed`: a claim is there, readable or not.
    """

    claimed: bool = False
    claim: Claim | None = None
    claimed_at: float | None = None
    start: Process | Revoked | Garbled | None = None
    started_at: float | None = None
    exit: Exit | Garbled | None = None
    exited_at: float | None = None
    cancel: Mark | None = None
    timeout: Mark | None = None


class Spool:
    """The files below one folder. Methods raise OSError where a disk does; what is merely not there is an answer."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._runs = self.root / "runs"
        self._exits = self.root / "exits"
        self._owner = str(self.root / "owner")

    @property
    def exits(self) -> str:
        return str(self._exits)

    def folder(self, job: str) -> str:
        """The absolute folder of `job`. Raises ValueError when that is not a job name: a path is never made of anything else."""
        name = parse_job_name(job)
        if name is None:
            raise ValueError(f"{job!r} is not a job name")
        return f"{self._runs}/{name.run}/{job}"

    # Whose it is

    def own(self, owner: Owner) -> None:
        """Take the spool for `owner`. Raises NotOwner when it is another ledger's or a newer daemon's."""
        for folder in (self.root, self._runs, self._exits):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            text = _read(self._owner)
            if text is not None:
                refuse_stranger(text[0], owner, self._owner, str(self.root))
            self._replace(self._owner, owner.text())

    def check(self, owner: Owner) -> None:
        """Raises NotOwner unless `owner` holds the spool, Unreachable when that cannot be read."""
        try:
            text = _read(self._owner)
        except OSError as error:
            raise Unreachable(f"{self._owner} cannot be read: {error.strerror}") from error
        if text is None or text[0] != owner.text():
            refuse_lost(text[0] if text else "", owner, self._owner, str(self.root))

    def owner(self) -> Owner | None:
        """Who holds the spool; None when nobody does, or nobody readable."""
        text = _read(self._owner)
        return parse_owner(text[0]) if text else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two daemons that start at once take the spool one after the other."""
        handle = os.open(self.root / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # One job

    def claim(self, job: str, script: str) -> bool:
        """Take the name `job` with the script that is to run. False when somebody has it. Raises OSError when nothing could be written.

        One file with two names, because making a file is what costs most here.
        """
        folder = self.folder(job)
        if self._make(folder):
            return self._take_first(f"{folder}/claim", script, keep=f"{folder}/script")
        return self._take(f"{folder}/claim", script, keep=f"{folder}/script")

    def claimed(self, job: str) -> bool:
        """Whether somebody has taken the name `job`. Raises OSError when that cannot be told: no proof that nobody has."""
        try:
            os.lstat(f"{self.folder(job)}/claim")
        except FileNotFoundError:
            return False
        return True

    def unclaim(self, job: str) -> None:
        """Give a name back that was claimed and provably not used. What it said stays, as `claim.unsent`."""
        folder = self.folder(job)
        os.replace(f"{folder}/claim", f"{folder}/claim.unsent")

    def closed(self, run: str) -> bool:
        """Whether the jobs of `run` were cleaned away."""
        return os.path.lexists(f"{self._runs}/{run}/closed")

    def link_output(self, job: str, name: str, target: str) -> None:
        """Let `name` (out, err) in the job's folder lead to the file that the task chose."""
        path = f"{self.folder(job)}/{name}"
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(target, path)

    def revoke(self, job: str, owner: Owner) -> bool:
        """Take the start of `job`, so that no process ever can. False when it is taken already."""
        folder = self.folder(job)
        self._make(folder)
        return self._take(f"{folder}/{_START}", owner.revocation())

    def mark(self, job: str, name: str, mark: Mark) -> tuple[Mark | None, bool]:
        """Write down that `job` is being ended (CANCEL or TIMEOUT). The mark that stands, and whether it is this one."""
        path = f"{self.folder(job)}/{name}"
        if self._take(path, mark.text()):
            return mark, True
        text = _read(path)
        return (parse_mark(text[0]) if text else None), False

    def started(self, job: str) -> bool:
        """Whether there is a start record, however far it is written. Raises OSError."""
        try:
            os.lstat(f"{self.folder(job)}/{_START}")
        except FileNotFoundError:
            return False
        return True

    def read_on(self, job: str, known: Evidence) -> Evidence:
        """Everything about `job`, of which `known` was read before. A whole start record and the claim never change: they are not read
        again. Raises OSError."""
        if not isinstance(known.start, Process):
            return self.read(job)
        folder = self.folder(job)
        ended = _read(f"{self._exits}/{job}") or _read(f"{folder}/exit")
        cancel, timeout = (_read(f"{folder}/{name}") for name in (CANCEL, TIMEOUT))
        return replace(
            known,
            exit=parse_exit(ended[0]) if ended else None,
            exited_at=ended[1] if ended else None,
            cancel=parse_mark(cancel[0]) if cancel else None,
            timeout=parse_mark(timeout[0]) if timeout else None,
        )

    def read(self, job: str) -> Evidence:
        """Everything about `job`. Its exit record is looked for in the mailbox, then in its folder."""
        folder = self.folder(job)
        claim, start = _read(f"{folder}/claim"), _read(f"{folder}/{_START}")
        ended = _read(f"{self._exits}/{job}") or (_read(f"{folder}/exit") if start else None)
        cancel, timeout = (_read(f"{folder}/{name}") if start else None for name in (CANCEL, TIMEOUT))
        return Evidence(
            claimed=claim is not None,
            claim=parse_claim(claim[0]) if claim else None,
            claimed_at=claim[1] if claim else None,
            start=parse_start(start[0]) if start else None,
            started_at=start[1] if start else None,
            exit=parse_exit(ended[0]) if ended else None,
            exited_at=ended[1] if ended else None,
            cancel=parse_mark(cancel[0]) if cancel else None,
            timeout=parse_mark(timeout[0]) if timeout else None,
        )

    def forget(self, job: str) -> None:
        """Empty the mailbox of `job`: its exit record is in its folder, or moves there."""
        kept, post = f"{self.folder(job)}/exit", f"{self._exits}/{job}"
        with suppress(FileNotFoundError):  # forgotten before, or never ended
            if os.path.lexists(kept):
                os.unlink(post)
            else:
                os.replace(post, kept)

    # All of them

    def runs(self) -> list[str]:
        """The runs that have a folder here."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self._runs))
        return []

    def jobs(self, run: str) -> list[str]:
        """The jobs of `run` that have a folder here."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(name for name in os.listdir(self._runs / run) if (parsed := parse_job_name(name)) and parsed.run == run)
        return []

    def close(self, run: str) -> bool:
        """Remove everything about `run` but the mark that none of its jobs may ever start again. Whether nothing else is left.

        What is no run id is left alone, and so is what cannot be removed (a folder that a job made unwritable): the rest goes.
        """
        folder = self._runs / run
        if parse_job_name(f"{run}.t.1") is None or not folder.is_dir():
            return True
        if not self.closed(run):
            self._take(f"{folder}/closed", "closed 1 end\n")
        for job in self.jobs(run):
            shutil.rmtree(folder / job, ignore_errors=True)
            with suppress(FileNotFoundError):
                os.unlink(self._exits / job)
        return not self.jobs(run)

    def make_work(self, job: str) -> None:
        """Make the folder in which a job without a working directory runs."""
        with suppress(FileExistsError):
            os.mkdir(work_folder(self.folder(job)), 0o700)

    # How files are written

    def _make(self, folder: str) -> bool:
        """Make the folder of a job; never the spool itself, which only `own` makes. True: nobody else can have made it."""
        try:
            os.mkdir(folder, 0o700)  # first, because the folder of its run is nearly always there, and to make one is slow
        except FileExistsError:
            return False
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(folder), 0o700)
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            return False  # ours or another daemon's: `_take` is right for both
        return True

    def _take_first(self, path: str, text: str, keep: str) -> bool:
        """As `_take`, in a folder that we have just made: nobody has used the name `keep` there, so the file is written under it."""
        try:
            _write(keep, text, os.O_EXCL)
        except FileExistsError:  # somebody was faster after all
            return self._take(path, text, keep)
        try:
            os.link(keep, path)
        except FileExistsError:
            return False
        return True

    def _take(self, path: str, text: str, keep: str = "") -> bool:
        """Create `path` with all of `text`, or not at all. False when it exists. `keep`: what to call the same file as well.

        When it raises, `path` may still be there, if it could not be taken back either.
        """
        mine = f"{path}.{os.urandom(6).hex()}"
        try:
            _write(mine, text, os.O_EXCL)
            try:
                os.link(mine, path)
            except FileExistsError:
                return False
            if keep:
                self._also_call(mine, keep, path)
        finally:
            with suppress(FileNotFoundError):  # it has become `keep`, or there is no such folder
                os.unlink(mine)
        return True

    def _also_call(self, mine: str, keep: str, path: str) -> None:
        """Rename `mine` to `keep`; when that fails (a full disk), `path` is given back: it was not used yet."""
        try:
            os.rename(mine, keep)
        except OSError:
            os.unlink(path)
            raise

    def _replace(self, path: str, text: str) -> None:
        """Write `path` whole and durably, over what was there."""
        new = f"{path}.new"
        _write(new, text, os.O_TRUNC, durable=True)
        os.replace(new, path)
        handle = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(path: str, text: str, flag: int, durable: bool = False) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flag, 0o600)
    try:
        data = memoryview(text.encode())
        while data:
            data = data[os.write(handle, data) :]
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: str) -> tuple[str, float] | None:
    """A small record and when it was written; None when there is none. What is not a plain file, or too long, reads as garbage."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _FOREIGN:
            return f"({error.strerror})", 0.0
        raise
    try:
        info = os.fstat(handle)
        data = os.read(handle, RECORD_BYTES_MAX + 1)
    except IsADirectoryError:
        return "(a folder)", 0.0
    finally:
        os.close(handle)
    return data.decode(errors="replace"), info.st_mtime
