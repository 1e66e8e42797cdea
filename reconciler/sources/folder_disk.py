"""Reads the files of one folder without ever following a symbolic link or leaving it. Called by folder.py, off the event loop.

Every folder and file is opened relative to its already opened parent with O_NOFOLLOW, so a folder that is swapped for a link
between two steps is not followed either. Contents are remembered by (mtime, ctime, size, inode), as git's index does, so that a
look at an unchanged folder costs a stat per file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reconciler.clock import utc_now
from reconciler.errors import SourceRefused
from reconciler.sources.base import Blob, Refusal
from reconciler.sources.entries import DEPTH_MAX, FILE_BYTES_MAX, name_problem, path_problem, shown
from reconciler.sources.globs import Globs, Place

ENTRIES_MAX = 1_000_000
"""More entries than this are not walked: it bounds the time of one look to seconds."""
TREE_BYTES_MAX = 256 * 1024 * 1024
"""All files that `include` matches, together: they are held in memory."""
HASHED_BYTES_MAX = 64 * 1024 * 1024
"""A larger file is known by its size and time of change and not by its content: nobody reads 10 GB to answer a look."""
SETTLED_NS = 1_000_000_000
"""A file changed less than this ago may change again without its times moving (their tick is milliseconds): read it again."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def git_id(data: bytes) -> str:
    """The id that git gives a blob with this content, 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Walk:
    """What one walk found. `files` holds bytes only with `contents`, else ids; `folders` is what must be watched."""

    contents: bool = True
    files: dict[str, Blob] = field(default_factory=dict)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    unsettled: bool = False  # a file was just emptied: whoever did that is probably about to write it
    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    key: tuple[int, ...]
    blob: Blob
    settled: bool
    has_data: bool


class FolderDisk:
    """The files below `root` (absolute). `excluded` are folders below it, relative, that do not exist for us."""

    def __init__(self, root: str, excluded: Iterable[str]) -> None:
        self.root = root
        self._excluded = frozenset(excluded)
        self._known: dict[str, _Known] = {}

    def is_excluded(self, path: str) -> bool:
        """Whether the relative path is one of the excluded folders, or below one."""
        return any(path == folder or path.startswith(folder + "/") for folder in self._excluded)

    def walk(self, globs: Globs, *, contents: bool) -> Walk:
        """All files that the globs mean. With `contents`, their bytes too (the first FILE_BYTES_MAX of each).

        Raises OSError when a folder cannot be read, and SourceRefused when there is more than we are willing to hold.
        """
        found = Walk(contents)
        with _opened(self.root, None) as folder:
            self._walk(folder, "", globs, globs.start(), found)
        return found

    def read(self, path: str, found: Walk) -> Blob | None:
        """One file; None when there is none or it is refused. Adds the folders on the way to `found`, for the watch."""
        if path_problem(path) or self.is_excluded(path):
            return None
        *folders, name = path.split("/")
        descriptors: list[int] = []
        try:
            descriptors.append(os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            found.folders[self.root] = _identity(descriptors[-1])
            for depth, folder in enumerate(folders):
                descriptors.append(os.open(folder, _FOLDER_FLAGS, dir_fd=descriptors[-1]))
                found.folders[os.path.join(self.root, *folders[: depth + 1])] = _identity(descriptors[-1])
            if not stat.S_ISREG(os.stat(name, dir_fd=descriptors[-1], follow_symlinks=False).st_mode):
                return None
            return self._file(descriptors[-1], name, path, found)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def forget_all_but(self, paths: set[str]) -> None:
        """Drop what is remembered of files that are not asked for any more."""
        for path in self._known.keys() - paths:
            del self._known[path]

    def _walk(self, folder: int, prefix: str, globs: Globs, place: Place, found: Walk) -> None:
        found.folders[os.path.join(self.root, prefix.rstrip("/")) if prefix else self.root] = _identity(folder)
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        found.entries += len(listed)
        if found.entries > ENTRIES_MAX:
            raise SourceRefused(f"{self.root} has more than {ENTRIES_MAX:,} entries that `include` could match; make it narrower")
        for entry in listed:
            onward = globs.enter(place, entry.name)
            path = prefix + entry.name
            if not onward or path in self._excluded or entry.name == ".git":
                continue
            problem = self._entry_problem(entry, path, globs.is_match(onward))
            if problem:
                found.refused.append(Refusal(shown(path), problem))
            elif entry.is_dir(follow_symlinks=False):
                try:
                    with _opened(entry.name, folder) as child:
                        self._walk(child, path + "/", globs, onward, found)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # it went, or became something else, a moment ago: an event will say so
            elif globs.is_match(onward):
                self._add(folder, entry.name, path, found)

    def _entry_problem(self, entry: os.DirEntry[str], path: str, is_match: bool) -> str:
        """Why an entry that could matter is not followed; "" when it is, or when it does not matter."""
        if entry.is_symlink():
            return "is a symbolic link, which is never followed" if is_match or entry.is_dir() else ""
        is_folder = entry.is_dir(follow_symlinks=False)
        if not is_folder and not is_match:
            return ""
        if path.count("/") >= DEPTH_MAX:
            return f"is more than {DEPTH_MAX} folders deep"
        if not is_folder and not entry.is_file(follow_symlinks=False):
            return "is not a regular file"
        return name_problem(entry.name)

    def _add(self, folder: int, name: str, path: str, found: Walk) -> None:
        try:
            blob = self._file(folder, name, path, found)
        except FileNotFoundError:
            return  # it went a moment ago: an event will say so
        except PermissionError:
            found.refused.append(Refusal(shown(path), "may not be read by the daemon's user"))
            return
        if blob is None:
            found.refused.append(Refusal(shown(path), "is not a regular file"))
            return
        found.bytes += len(blob.data)
        if found.bytes > TREE_BYTES_MAX:
            raise SourceRefused(f"the files of {self.root} that `include` matches are more than {TREE_BYTES_MAX // 2**20} MB together")
        found.files[path] = blob

    def _file(self, folder: int, name: str, path: str, found: Walk) -> Blob | None:
        """The file's blob, from memory if it did not change; None when it is not a regular file (any more)."""
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        known = self._known.get(path)
        if known and known.settled and known.key == _key(status) and (known.has_data or not found.contents):
            return known.blob
        try:
            descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link took its place a moment ago
                return None
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            blob = _blob(descriptor, status, found.contents)
        finally:
            os.close(descriptor)
        age_ns = utc_now() * 1e9 - status.st_ctime_ns
        found.unsettled |= not status.st_size and age_ns < SETTLED_NS and known is not None and bool(known.key[2])
        self._known[path] = _Known(_key(status), blob, age_ns > SETTLED_NS, found.contents)
        return blob


@contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int]:
    """The root may be a link, because the operator named it; nothing below may."""
    flags = _FOLDER_FLAGS if parent is not None else _FOLDER_FLAGS & ~os.O_NOFOLLOW
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _key(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _blob(descriptor: int, status: os.stat_result, contents: bool) -> Blob:
    """What is in an opened file: the whole id, and at most FILE_BYTES_MAX bytes of content if asked for."""
    if status.st_size > HASHED_BYTES_MAX:
        head = os.pread(descriptor, FILE_BYTES_MAX, 0) if contents else b""
        return Blob(git_id(b"large file: size %d, changed %d" % (status.st_size, status.st_mtime_ns)), head)
    data = _read_all(descriptor)
    return Blob(git_id(data), data[:FILE_BYTES_MAX] if contents else b"")


def _read_all(descriptor: int) -> bytes:
    """All of a file, up to the size above which nobody hashes it (it may be growing while we read)."""
    parts, left = [], HASHED_BYTES_MAX
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
