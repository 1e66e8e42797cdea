"""One commit of a git repository, read from the object store and never checked out. Made by git.py, in a thread.

What a commit holds is hostile input: names may be anything, a tree may hold itself ten thousand times over, a blob may be larger
than memory. So names pass entries.py before anything is done with them, only folders that can match are entered, sizes are asked
before contents are read, and everything has a limit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from posixpath import dirname, join, normpath
from types import MappingProxyType

import pygit2

from reconciler.errors import SourceError, SourceRefused, SourceUnreachable
from reconciler.printable import redact_text
from reconciler.sources.base import Blob, Refusal
from reconciler.sources.entries import DEPTH_MAX, FILE_BYTES_MAX, name_problem, path_problem, shown
from reconciler.sources.globs import Globs, Place

ENTRIES_MAX = 1_000_000
"""More entries than this are not walked (a few seconds): a repository of a few kB can pretend to hold 10^20 files."""
TREE_BYTES_MAX = 256 * 1024 * 1024
"""All files that `include` matches, together: they are held in memory."""
REFUSALS_MAX = 1_000
"""More refused entries than this are not listed one by one."""
LINK_BYTES_MAX = 4096
LISTING_BYTES_MAX = 64 * 1024 * 1024
"""A commit or a folder's listing larger than this is not read: a small pack can hold one of 10 GB."""

_FOLDER = 0o040000
_LINK = 0o120000
_SUBMODULE = 0o160000
_FILES = frozenset({0o100644, 0o100755, 0o100664})
KINDS = {_LINK: "is a symbolic link, which is never followed", _SUBMODULE: "is a submodule, which is never followed"}


def open_repository(path: str, subject: str) -> pygit2.Repository:
    """The repository at `path`, bare or with a work tree. SourceUnreachable when there is none, SourceRefused when it is another user's."""
    try:
        return pygit2.Repository(path, pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
    except (pygit2.GitError, KeyError, OSError) as error:
        if "not owned by" in str(error):
            raise SourceRefused(
                f"{subject} belongs to another user than the daemon's; if you trust whoever that is, let the daemon's user say: "
                f"git config --global --add safe.directory {path}"
            ) from error
        if "permission denied" in str(error).lower():
            raise SourceRefused(f"{subject}: the daemon's user may not read it; grant it ({error})") from error
        if "not found" in str(error).lower():
            raise SourceUnreachable(f"{subject} is not there, or no git repository yet; looked at again when it appears") from error
        raise SourceUnreachable(f"{subject} cannot be opened: {redact_text(str(error))}") from error


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """libgit2's errors as ours: a repository that cannot be read says nothing about what is in it."""
    try:
        yield
    except SourceError:
        raise
    except PermissionError as denied:
        raise SourceRefused(f"{subject}: the daemon's user may not read it; grant it") from denied
    except (pygit2.GitError, KeyError, ValueError, OSError) as broken:
        raise SourceUnreachable(f"{subject} cannot be read: {redact_text(str(broken))}") from broken


@dataclass(slots=True)
class _Found:
    contents: bool
    files: dict[str, Blob] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    entries: int = 0
    bytes: int = 0


class GitTree:
    """One commit; see `sources.base.Tree`. `root` is always "": there is no folder, files are read from the object store.

    `repository` is this tree's own: trees are read in other threads than the one that looks. Raises SourceRefused when `include`
    matches more than we are willing to hold.
    """

    root = ""

    def __init__(self, repository: pygit2.Repository, commit: str, revision: str, include: Globs, subject: str) -> None:
        self.commit = commit
        self.revision = revision
        self._repository = repository
        self._subject = subject
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, ...], Mapping[str, str]] = {}
        self._reads: dict[str, Blob | None] = {}
        with translated(subject):
            self._top = _commit(repository, commit, subject).tree
            found = self._walk(include, contents=True)
        self._files = MappingProxyType(dict(sorted(found.files.items())))
        self.refused: Sequence[Refusal] = tuple(found.refused)

    def files(self) -> Mapping[str, Blob]:
        return self._files

    def read(self, path: str) -> Blob | None:
        if path in self._files:
            return self._files[path]
        with self._lock, translated(self._subject):
            if path not in self._reads:
                self._reads[path] = self._read(path)
            return self._reads[path]

    def blob_ids(self, patterns: Sequence[str]) -> Mapping[str, str]:
        key = tuple(patterns)
        with self._lock, translated(self._subject):
            if key not in self._ids:
                found = self._walk(Globs(key, hidden=True), contents=False)
                self._ids[key] = MappingProxyType({path: blob.id for path, blob in sorted(found.files.items())})
            return self._ids[key]

    def _read(self, path: str) -> Blob | None:
        entry = None if path_problem(path) else self._entry(path)
        return self._blob(entry, True) if entry is not None and entry.filemode in _FILES else None

    def _entry(self, path: str) -> pygit2.Object | None:
        """The entry at a path, one name at a time: libgit2 is never given a path, and nothing but folders is entered."""
        entry: pygit2.Object = self._top
        for name in path.split("/"):
            if not isinstance(entry, pygit2.Tree) or entry.filemode not in (_FOLDER, None):
                return None
            self._check_size(entry)
            if name not in entry:
                return None
            entry = entry[name]
        return entry

    def _check_size(self, folder: pygit2.Tree) -> None:
        if self._size(folder) > LISTING_BYTES_MAX:
            raise SourceRefused(f"{self._subject} has a folder whose listing alone is more than {LISTING_BYTES_MAX // 2**20} MB")

    def _walk(self, globs: Globs, *, contents: bool) -> _Found:
        found = _Found(contents)
        self._enter(self._top, "", globs, globs.start(), found)
        return found

    def _enter(self, folder: pygit2.Tree, prefix: str, globs: Globs, place: Place, found: _Found) -> None:
        self._check_size(folder)
        found.entries += len(folder)
        if found.entries > ENTRIES_MAX:
            raise SourceRefused(f"{self._subject} has more than {ENTRIES_MAX:,} entries that the patterns could match; make them narrower")
        for entry in folder:
            name = _name(entry)
            onward = globs.enter(place, name)
            if not onward:
                continue
            path, is_match = prefix + name, globs.is_match(onward)
            problem = self._problem(entry, path, is_match)
            if problem:
                self._refuse(path, problem, found)
            elif isinstance(entry, pygit2.Tree):
                self._enter(entry, path + "/", globs, onward, found)
            elif is_match and entry.filemode in _FILES:
                self._add(entry, path, found)

    def _problem(self, entry: pygit2.Object, path: str, is_match: bool) -> str:
        """Why an entry that could matter is not followed; "" when it is, or when it does not matter."""
        mode = entry.filemode
        if mode == _LINK:
            return KINDS[mode] if is_match or self._leads_to_folder(entry, path) else ""
        if mode in _FILES and not is_match:
            return ""
        if mode not in _FILES and mode != _FOLDER:
            return KINDS.get(mode, f"is neither a file nor a folder (mode {mode:o})")
        if path.count("/") >= DEPTH_MAX:
            return f"is more than {DEPTH_MAX} folders deep"
        return name_problem(_name(entry))

    def _leads_to_folder(self, entry: pygit2.Object, path: str) -> bool:
        """Whether a link stands where `include` might go on: it points at a folder of this tree, or out of it, where nobody looks."""
        if self._size(entry) > LINK_BYTES_MAX:
            return True
        text = self._data(entry).decode("utf-8", "surrogateescape")
        target = normpath(join(dirname(path), text))
        if text.startswith("/") or target == ".." or target.startswith("../"):
            return True
        at = None if path_problem(target) else self._entry(target)
        return target == "." or (at is not None and at.filemode == _FOLDER)

    def _refuse(self, path: str, problem: str, found: _Found) -> None:
        if len(found.refused) < REFUSALS_MAX:
            found.refused.append(Refusal(shown(path), problem))
        elif len(found.refused) == REFUSALS_MAX:
            found.refused.append(Refusal("…", f"is one of more than {REFUSALS_MAX} entries that are refused"))

    def _add(self, entry: pygit2.Object, path: str, found: _Found) -> None:
        blob = self._blob(entry, found.contents)
        found.bytes += len(blob.data)
        if found.bytes > TREE_BYTES_MAX:
            raise SourceRefused(f"the files of {self._subject} that `include` matches are more than {TREE_BYTES_MAX // 2**20} MB together")
        found.files[path] = blob

    def _blob(self, entry: pygit2.Object, contents: bool) -> Blob:
        """A file's blob. One that is too large is known by its size alone: FILE_BYTES_MAX blanks, so that the loader refuses it."""
        if not contents:
            return Blob(str(entry.id), b"")
        if self._size(entry) >= FILE_BYTES_MAX:
            return Blob(str(entry.id), b" " * FILE_BYTES_MAX)
        return Blob(str(entry.id), self._data(entry))

    def _size(self, entry: pygit2.Object) -> int:
        return int(self._repository.odb.read_header(entry.id)[1])

    def _data(self, entry: pygit2.Object) -> bytes:
        data: bytes = self._repository.odb.read(entry.id)[1]
        return data


def _commit(repository: pygit2.Repository, commit: str, subject: str) -> pygit2.Commit:
    if repository.odb.read_header(commit)[1] > LISTING_BYTES_MAX:
        raise SourceRefused(f"{subject}: commit {commit} alone is more than {LISTING_BYTES_MAX // 2**20} MB")
    found = repository.get(commit)
    if not isinstance(found, pygit2.Commit):
        raise SourceUnreachable(f"{subject}: commit {commit} is not in the repository")
    return found


def _name(entry: pygit2.Object) -> str:
    """An entry's name; bytes that are not UTF-8 become surrogates, which name_problem refuses."""
    name: bytes = entry.raw_name or b""
    return name.decode("utf-8", "surrogateescape")
