"""When each status file is written: soon, at most once a second each, on a thread of its own, within 2 % of the time.

Called by the reporter of the composition root, from the event loop: every call returns at once and raises nothing. A disk that fails
never stops the daemon: the problem is remembered, and the file is written when that works again.

Nothing is read back. Whether somebody edited or deleted a file is seen by stat(2) alone; then it is written again. The file of a run
that has ended carries the time of that end as its own, so this also works for files of an earlier daemon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.clock import monotonic, utc_now
from reconciler.core.observed import Usage
from reconciler.core.summary import Condition
from reconciler.errors import LedgerError
from reconciler.status.documents import ROWS, LogOf, RunView, run_document
from reconciler.status.folder import Signature, StatusFolder, parts_of
from reconciler.yamlfile import dump

#: The most of the time that writing may take, and how long a time is looked at: a burst may take 0.2 s at once.
SHARE_OF_TIME, BURST_WINDOW_S = 0.02, 10.0
#: How often it is looked whether somebody has touched a file: one stat(2) each.
VERIFY_INTERVAL_S = 30.0
#: After a write that failed: 1, 2, 4 … seconds, up to this.
BACKOFF_S_MAX = 60.0
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a writer asks for when it writes. `rebuild` reads a run that has ended from the ledger (None: no longer kept); without it, what
    was last reported of such a run is kept in memory. `usage_of` tells what a run's tasks used, `log_of` where a job's log is."""

    rebuild: Callable[[str], RunView | None] | None = None
    usage_of: Callable[[str], Mapping[str, Usage]] | None = None
    log_of: LogOf | None = None


@dataclass(slots=True)
class _File:
    """What is known of one file. `make` None: nothing is to be written, or only `rebuild` knows what.

    `modified_at`: the time that the file carries, None: when it was written. `signature` None: not written by this process.
    `run`: the id, for files that can be made again from the ledger; "" for others.
    """

    make: Callable[[], str] | None = None
    modified_at: float | None = None
    signature: Signature | None = None
    run: str = ""
    written: int = 0  # hash of what was written
    due: float = 0.0
    failures: int = 0
    gone: bool = False
    conditions: tuple[Condition, ...] = ()

    def inherit(self, old: _File) -> None:
        """What is known of the file on disk stays known when something else is to be written there."""
        self.signature, self.written, self.conditions = old.signature, old.written, old.conditions


class StatusWriter:
    """Writes status files below one folder. One for a daemon; every method may be called from any thread."""

    def __init__(self, status_dir: Path, instance: str, *, interval_s: float = 1.0, ask: Asked | None = None) -> None:
        """`ask`: whom to ask, on the writer's own thread, for what is not reported."""
        self._folder = StatusFolder(status_dir)
        self._instance, self._interval_s, self._ask = instance, interval_s, ask or Asked()
        self._changed = threading.Condition()
        self._files: dict[tuple[str, ...], _File] = {}
        self._dirty: dict[tuple[str, ...], None] = {}  # in the order in which they became so
        self._failing: dict[tuple[str, ...], str] = {}
        self._paid_until = 0.0  # when what was written so far has taken no more than its share of the time
        self._verify_at = monotonic() + VERIFY_INTERVAL_S
        self._hurry = 0  # how many wait for everything to be written
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="status", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """What keeps files from being written now, in words; "" when nothing does."""
        with self._changed:
            failing = list(self._failing.values())
        return failing[0] + (f" (and {len(failing) - 1} more files)" if len(failing) > 1 else "") if failing else ""

    def put(self, kind: str, name: str, document: Mapping[str, object], rows: frozenset[str] = ROWS) -> None:
        """The status of an object is this from now on. `document` must not be changed afterwards. `rows` as in yamlfile.dump."""
        self._put(parts_of(kind, name), _File(lambda: dump(document, rows=rows)))

    def put_run(self, view: RunView) -> None:
        """A run is like this from now on."""
        parts = parts_of("Run", view.run.id)
        self._put(parts, _File(lambda: self._run_text(parts, view), _ended_at(view), run=view.run.id))

    def expect_run(self, run_id: str, ended_at: float) -> None:
        """There should be a file of this run that ended before this daemon started, at `ended_at` (of its row). Needs `rebuild`."""
        with self._changed:
            self._files.setdefault(parts_of("Run", run_id), _File(modified_at=ended_at, run=run_id))
            self._verify_at = monotonic()
            self._changed.notify_all()

    def refresh_run(self, run_id: str) -> None:
        """What `usage_of` says of this run is another thing now. A run whose file is not looked after is left alone."""
        with self._changed:
            if (parts := parts_of("Run", run_id)) in self._files:
                self._dirty.setdefault(parts)
                self._changed.notify_all()

    def remove(self, kind: str, name: str) -> None:
        """There is no such object any more: its file goes."""
        self._put(parts_of(kind, name), _File(gone=True))

    def verify(self) -> None:
        """Look now, not within half a minute, whether somebody has touched a file."""
        with self._changed:
            self._verify_at = monotonic()
            self._changed.notify_all()

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Write everything now, and wait for it. False when that took too long, or a file cannot be written."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            settled = self._changed.wait_for(lambda: not self._busy and all(part in self._failing for part in self._dirty), timeout_s)
            self._hurry -= 1
            return settled and not self._dirty

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left, for at most `timeout_s`, and stop. Safe to call twice."""
        self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(0.2)  # a disk that hangs keeps a daemon thread, not the daemon

    def _put(self, parts: tuple[str, ...], new: _File) -> None:
        with self._changed:
            old = self._files.get(parts)
            if old is not None:
                new.inherit(old)
                new.due, new.failures = old.due, old.failures
            self._files[parts] = new
            self._dirty.setdefault(parts)
            self._changed.notify_all()

    def _run_text(self, parts: tuple[str, ...], view: RunView) -> str:
        file = self._files.get(parts)
        if self._ask.usage_of is not None:
            view = replace(view, usage=self._ask.usage_of(view.run.id))
        document, conditions = run_document(self._instance, view, utc_now(), file.conditions if file else (), self._ask.log_of)
        if file is not None:
            file.conditions = conditions
        return dump(document, rows=ROWS)

    # -- on the writer's own thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                parts = self._wait()
                if self._closing:
                    return
                self._busy = True
                if parts is not None:
                    self._dirty.pop(parts)
            if parts is None:
                self._look_at_files()
            else:
                self._write(parts)

    def _wait(self) -> tuple[str, ...] | None:
        """Wait, holding the lock, until something is due: a file to write, or None: time to look at all of them."""
        while not self._closing:
            now = monotonic()
            if now >= self._verify_at:
                return None
            wait_s = self._verify_at - now
            for parts in self._dirty:
                left = self._left(parts, now)
                if left <= 0:
                    return parts
                wait_s = min(wait_s, left)
            self._changed.wait(wait_s)
        return None

    def _left(self, parts: tuple[str, ...], now: float) -> float:
        """Seconds until the file may be written; who hurries does not wait, but for what has just failed."""
        file = self._files[parts]
        if self._hurry and parts not in self._failing:
            return 0.0
        return max(file.due, self._paid_until) - now

    def _write(self, parts: tuple[str, ...]) -> None:
        file = self._files[parts]
        began = time.thread_time()
        problem = ""
        try:
            self._write_file(parts, file)
        except OSError as error:
            problem = f"the status file {'/'.join(parts)} cannot be written: {error.strerror or error}"
        except LedgerError as error:
            problem = f"the status file {'/'.join(parts)} cannot be made again: {error}"
        except Exception as error:  # a document that cannot be written must not keep the others from being written
            problem = f"the status file {'/'.join(parts)} cannot be made ({error!r}); this is a bug, please report it"
        cost = time.thread_time() - began
        now = monotonic()
        with self._changed:
            self._paid_until = max(self._paid_until, now - BURST_WINDOW_S) + cost / SHARE_OF_TIME
            self._settle(parts, file, problem, now)

    def _write_file(self, parts: tuple[str, ...], file: _File) -> None:
        if file.gone:
            self._folder.remove(parts)
            return
        make = file.make
        if make is None:
            view = self._ask.rebuild(file.run) if self._ask.rebuild else None
            if view is None:
                file.gone = True  # no longer kept: the file may stay, but there is nothing to say any more
                return
            text = self._run_text(parts, view)
        else:
            text = make()
        data = text.encode("utf-8", "backslashreplace")
        if file.signature is None or file.written != hash(data) or self._folder.signature(parts) != file.signature:
            file.signature = self._folder.write(parts, data, file.modified_at)
            file.written = hash(data)
        if file.run and file.modified_at is not None and self._ask.rebuild is not None:
            file.make = None  # a run that ended can be read again; 100,000 finished tasks need not be in memory

    def _settle(self, parts: tuple[str, ...], file: _File, problem: str, now: float) -> None:
        newest = self._files.get(parts)  # may have been put anew meanwhile
        if newest is not None and newest is not file:
            newest.inherit(file)
        if newest is None:
            return
        if not problem:
            self._failing.pop(parts, None)
            newest.failures, newest.due = 0, now + self._interval_s
            if newest is file and file.gone:
                del self._files[parts]
            return
        newest.failures += 1
        newest.due = now + min(BACKOFF_S_MAX, 2.0 ** (newest.failures - 1))
        self._failing[parts] = problem
        self._dirty.setdefault(parts)

    def _look_at_files(self) -> None:
        """Mark as dirty what is not as it was left."""
        with self._changed:
            self._verify_at = monotonic() + VERIFY_INTERVAL_S
            files = [(parts, file) for parts, file in self._files.items() if parts not in self._dirty]
        touched = [parts for parts, file in files if self._is_touched(parts, file)]
        with self._changed:
            for parts in touched:
                if parts in self._files:
                    self._dirty.setdefault(parts)

    def _is_touched(self, parts: tuple[str, ...], file: _File) -> bool:
        try:
            found = self._folder.signature(parts)
        except OSError:
            return False  # it cannot be told; the next write says why
        if file.signature is not None:
            return found != file.signature
        # of an earlier daemon: it carries the time of the run's end; some file systems keep only every other second
        return found is None or abs(found.modified_ns / 1e9 - (file.modified_at or 0.0)) > 2.0


def _ended_at(view: RunView) -> float | None:
    """When a run ended, as the ledger has it; None while it is alive."""
    if not view.record.ended:
        return None
    return max((task.ended_at or task.since for task in view.record.tasks.values()), default=view.run.created_at)
