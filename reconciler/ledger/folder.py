"""The state folder: ours alone, on a disk of this machine, and held by one daemon at a time.

Called by writer.py before anything in it is opened, and by read.py to tell who holds it. The lock is an flock(2) on
`<state_dir>/lock`: the kernel frees it when its process ends in any way, so there is no stale lock. What the file says (pid, host,
since when) is for people; nothing is decided from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import stat
import time
from pathlib import Path
from typing import NamedTuple

from reconciler import clock
from reconciler.errors import LedgerBusy, LedgerError, LedgerUnwritable
from reconciler.mounts import NETWORK_FILE_SYSTEMS, file_system

#: A reader that asks who holds the folder, or a child between fork and exec, may hold the lock for a moment.
_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.05


class Holder(NamedTuple):
    """Who holds a state folder. `pid` 0 and `host` "" when the lock file does not say."""

    pid: int
    host: str
    started_at: float


def prepare(folder: Path) -> None:
    """Make the state folder (mode 0700) if needed. Raises LedgerError when what is there cannot be trusted or cannot work."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise LedgerUnwritable(f"the state folder {folder} cannot be made: {error.strerror}") from error
    if found.st_uid != os.geteuid():
        raise LedgerError(f"the state folder {folder} belongs to user id {found.st_uid}; give this daemon a folder of its own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LedgerError(f"others may write in the state folder {folder}; take that away: chmod go-w {folder}")
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:  # SQLite's WAL needs memory shared by everybody who has the file open
        raise LedgerError(f"the state folder {folder} is on a network file system ({kind}), which can lose records; use a local disk")


class Lock:
    """The exclusive hold on a state folder, for as long as the object lives and is not released."""

    def __init__(self, folder: Path) -> None:
        """Raises LedgerBusy, naming who holds it."""
        path = folder / "lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerUnwritable(f"the lock {path} cannot be opened: {error.strerror}") from error
        try:
            self._take(folder)
        except BaseException:  # whatever it is, what was opened is closed, and it is raised on
            os.close(self._file)
            raise

    def _take(self, folder: Path) -> None:
        if not _locked(self._file):
            held = _read(self._file)
            who = f"pid {held.pid} on {held.host}, since {clock.rfc3339(held.started_at)}" if held.pid else "another process"
            raise LedgerBusy(f"the state folder {folder} is held by another daemon ({who}); stop it, or give this one another state_dir")
        text = json.dumps({"pid": os.getpid(), "host": platform.node(), "started_at": clock.utc_now()})
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)
        except OSError as error:
            raise LedgerUnwritable(f"the lock in {folder} cannot be written: {error.strerror}") from error

    def release(self) -> None:
        """Let go. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _locked(file: int) -> bool:
    for attempt in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_S if attempt < _LOCK_TRIES - 1 else 0)
    return False


def holder(folder: Path) -> Holder | None:
    """Who holds the state folder now; None when nobody does, or there is no such folder."""
    try:
        file = os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file)
    else:
        return None
    finally:
        os.close(file)


def _read(file: int) -> Holder:
    try:
        said = json.loads(os.pread(file, 4096, 0))
        return Holder(int(said["pid"]), str(said["host"]), float(said["started_at"]))
    except (OSError, ValueError, KeyError, TypeError):  # written half, or by a hand: it is only for people
        return Holder(0, "", 0.0)
