"""One watcher for the whole process: tells a source that something in its folders changed. Made by daemon.py, used by folder.py and git.py.

It says *that*, never *what*: whoever is rung looks. Three facts shaped it, all measured with watchfiles 1.3 on Linux:
* Its Rust side looks for events every `step`, also when there are none. 20 folders, 8 s idle, and the time from a write to the
  news: step 5 ms 1.3 % of a core and 8 ms; 20 ms 0.3 % and 34 ms; 40 ms 0.2 % and 60 ms; 50 ms 0.15 % and 70 ms; 100 ms 0.09 % and 152 ms.
  That is why there is one watcher and not one a source, and why the step is 40 ms. With 20 FolderSources on it: 0.13 % of a core
  idle, and 64 ms (median of 15, on a busy machine) from a write to the end of the look.
* Watching recursively follows symbolic links out of the folder. So each folder is watched by itself, and only folders that a
  walk which follows no link has entered; whole trees that nobody asks about (`.git/objects`, excluded folders) cost nothing.
* A watched folder that is deleted and made again is not watched any more. So the watch is made anew when a folder of it goes or
  comes, or is another one under the same name; 3,000 folders take 60 ms. Everybody is rung then, so nothing is lost in between.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from reconciler.clock import monotonic

STEP_MS = 40
BURST_MS = 200
"""A burst of writes is told once it has been quiet for a step, and at the latest after this."""
POLL_S = 5.0
"""How often a folder is looked at that gives no events."""
RETRY_S = 60.0
"""How soon watching is tried again after the system refused it."""

Folders: TypeAlias = Mapping[str, tuple[int, int]]
"""Absolute path -> (device, inode), as found when the folder was entered."""

_DELETED = 3  # watchfiles.Change.deleted, as the Rust side says it
_SILENT = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "panfs", "pvfs2", "glusterfs", "virtiofs"}
)
"""File systems on which another machine's writes give no events (inotify(7), "Limitations"); every `fuse.*` counts as one."""


@dataclass(frozen=True, slots=True)
class _Wish:
    folders: Folders
    wants: Callable[[str], bool]
    silent: str  # the file system's name when it gives no events; "" when it does


_NOTHING = _Wish({}, lambda _: False, "")


class Subscription:
    """What one source wants to hear of. Made by `Watcher.subscribe`; all methods may be called from any thread."""

    def __init__(self, watcher: Watcher, ring: Callable[[], None]) -> None:
        self._watcher = watcher
        self.ring = ring
        self.wish = _NOTHING

    @property
    def problem(self) -> str:
        """Why changes are found by looking every few seconds and not at once, for a person; "" when they are told at once."""
        if self.wish.silent:
            return f"{self.wish.silent} gives no file events, so it is looked at every {self._watcher.poll_s:g} s"
        return self._watcher.problem if self.wish.folders else ""

    def set(self, folders: Folders, wants: Callable[[str], bool]) -> None:
        """Watch these folders, not below them. `wants` says of a changed path (a folder's entry) whether it is worth a look."""
        is_new = folders != self.wish.folders
        self.wish = _Wish(dict(folders), wants, _silent_file_system(folders) if is_new else self.wish.silent)
        if is_new or not self._watcher.has(self):
            self._watcher.wake()

    def close(self) -> None:
        """Stop watching for this source. Safe to call twice."""
        self.wish = _NOTHING
        self._watcher.drop(self)


class Watcher:
    """The one thread that waits for file events, started by the first subscription.

    `polling` never asks for events and looks every `poll_s` seconds: for machines on which events do not work.
    """

    def __init__(self, *, polling: bool = False, poll_s: float = POLL_S) -> None:
        self.poll_s = poll_s
        self.problem = f"watching is switched off, so it is looked at every {poll_s:g} s" if polling else ""
        self._polling = polling
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        # Only the thread touches what follows.
        self._notify: RustNotify | None = None
        self._built: dict[str, tuple[int, int]] = {}
        self._retry_at = 0.0
        self._poll_at = 0.0

    def subscribe(self, ring: Callable[[], None]) -> Subscription:
        """A place to say what to watch; `ring` is called in the watcher's thread when a look is worth while."""
        subscription = Subscription(self, ring)
        with self._lock:
            self._subscriptions.append(subscription)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()
        return subscription

    def has(self, subscription: Subscription) -> bool:
        """Whether all its folders are watched now, or it is polled. A folder that was deleted and made again is not watched."""
        return self._is_polled(subscription) or subscription.wish.folders.items() <= self._built.items()

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription; called by its `close`."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
        self.wake()

    def wake(self) -> None:
        """What is to be watched has changed."""
        self._wake.set()

    def close(self) -> None:
        """End the thread. Safe to call twice; blocks for at most two steps."""
        self._closed = True
        self.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            subscriptions = self._current()
            self._rebuild(subscriptions)
            changes = self._wait(subscriptions)
            if changes is None:
                self._built = {}  # one of the events that were forgotten may have been the end of a watched folder
                _ring(self._current())
            else:
                self._tell(self._current(), changes)
            self._poll(self._current())
        if self._notify is not None:
            self._notify.close()

    def _current(self) -> list[Subscription]:
        with self._lock:
            return list(self._subscriptions)

    def _rebuild(self, subscriptions: list[Subscription]) -> None:
        """Make the watch what the subscriptions ask for, and ring all of them if it had to be made anew."""
        wanted = {} if self._polling else _union(s.wish.folders for s in subscriptions if not s.wish.silent)
        if wanted == self._built or monotonic() < self._retry_at:
            return
        present = {path: identity for path, identity in wanted.items() if os.path.isdir(path)}
        if present == self._built:
            # Whoever asks for a folder that has gone since does not know it yet, and no event will tell.
            _ring(s for s in subscriptions if not s.wish.silent and not s.wish.folders.keys() <= present.keys())
            return
        old, self._notify, self._built = self._notify, None, {}
        if present:
            try:
                self._notify = RustNotify(list(present), False, False, 0, False, True)
                self._built, self._retry_at, self.problem = present, 0.0, ""
            except FileNotFoundError:  # one went between the question and the watch: ask again
                self._wake.set()
            except (OSError, WatchfilesRustInternalError) as refused:  # out of watches, out of watchers
                self._refused(refused)
        if old is not None:
            old.close()
        _ring(subscriptions)

    def _refused(self, error: Exception) -> None:
        self._retry_at = monotonic() + RETRY_S
        self.problem = (
            f"the system refused to watch ({error}), so it is looked at every {self.poll_s:g} s; "
            "raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"
        )

    def _wait(self, subscriptions: list[Subscription]) -> set[tuple[int, str]] | None:
        """What changed; empty when it is time to poll, None when it was woken (the Rust side forgets what it had then)."""
        polls = any(self._is_polled(s) for s in subscriptions)
        if self._notify is None:
            self._wake.wait(self.poll_s if polls else None)
            return set()
        # Without polls the time-out has no purpose but to bound one call.
        timeout_ms = int(self.poll_s * 1000) if polls else 60_000
        changes = self._notify.watch(BURST_MS, STEP_MS, timeout_ms, self._wake)
        if changes == "stop":
            return None
        return changes if isinstance(changes, set) else set()

    def _tell(self, subscriptions: list[Subscription], changes: set[tuple[int, str]]) -> None:
        """Ring whoever wants one of the changed paths; a watched folder that went is not watched any more."""
        rung: list[Subscription] = []
        for kind, path in changes:
            if kind == _DELETED:
                self._built.pop(path, None)
            folder = os.path.dirname(path)
            for subscription in subscriptions:
                wish = subscription.wish
                if subscription not in rung and (path in wish.folders or (folder in wish.folders and wish.wants(path))):
                    rung.append(subscription)
        _ring(rung)

    def _poll(self, subscriptions: list[Subscription]) -> None:
        if monotonic() < self._poll_at:
            return
        self._poll_at = monotonic() + self.poll_s
        _ring(s for s in subscriptions if self._is_polled(s))

    def _is_polled(self, subscription: Subscription) -> bool:
        wish = subscription.wish
        return bool(wish.folders) and (bool(wish.silent) or self._polling or self._retry_at > 0)


def _ring(subscriptions: Iterable[Subscription]) -> None:
    for subscription in subscriptions:
        subscription.ring()


def _union(wishes: Iterable[Folders]) -> dict[str, tuple[int, int]]:
    return {path: identity for folders in wishes for path, identity in folders.items()}


def _silent_file_system(folders: Folders) -> str:
    """The name of the first file system among these that gives no events for other machines' writes; "" when all do."""
    mounts = _mounts()
    for folder in folders:
        kind = next((kind for point, kind in mounts if folder == point or folder.startswith(point.rstrip("/") + "/")), "")
        if kind in _SILENT or kind.startswith("fuse."):
            return kind
    return ""


def _mounts() -> list[tuple[str, str]]:
    """(mount point, file system) of this process, longest point first; empty where there is no /proc."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
            rows = [line.split(" ") for line in table]
    except OSError:  # not Linux: events are taken to work
        return []
    mounts = [(row[1].replace("\\040", " "), row[2]) for row in rows if len(row) > 2]
    return sorted(mounts, key=lambda mount: len(mount[0]), reverse=True)
