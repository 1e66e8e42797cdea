"""A folder of manifests: the trusted folder, or a Source with `path:`. Made by daemon.py, called by controller.py.

Nothing outside `include` is read, until a manifest refers to it (a task file, `paths: ["src/**"]`): what was asked of a tree once
is part of every later look, and is watched like the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from reconciler.errors import SourceError, SourceRefused, SourceUnreachable
from reconciler.sources.base import Blob, Refusal
from reconciler.sources.folder_disk import FolderDisk, Walk
from reconciler.sources.globs import Globs
from reconciler.sources.offloop import OffLoop
from reconciler.sources.timetable import Timetable
from reconciler.sources.watch import Watcher

LOOK_TIMEOUT_S = 30.0
RESYNC_S = 60.0
"""How often an unchanged folder is looked at anyway, should an event ever get lost. Costs a stat per file."""
SETTLE_S = 1.0
"""How long a file that was just emptied keeps its last content: editors empty a file before they write it."""


@dataclass(frozen=True, slots=True)
class Content:
    """All that one look found out, by relative path: contents for `include`, what else was asked for, and what was refused."""

    files: Mapping[str, Blob]
    reads: Mapping[str, Blob | None]
    ids: Mapping[tuple[str, ...], Mapping[str, str]]
    refused: tuple[Refusal, ...]

    def revision(self) -> str:
        """A hash of all paths and blob ids in it."""
        ids = {path: blob.id for path, blob in (*self.files.items(), *self.reads.items()) if blob is not None}
        for matched in self.ids.values():
            ids.update(matched)
        rows = "".join(f"{path}\0{ids[path]}\n" for path in sorted(ids))
        return "sha256:" + hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()


class FolderTree:
    """One state of a folder; see `sources.base.Tree`. `commit` is always ""."""

    commit = ""

    def __init__(self, root: str, content: Content, ask: Asked) -> None:
        self.root = root
        self.revision = content.revision()
        self.refused: Sequence[Refusal] = content.refused
        self._files = MappingProxyType(dict(sorted(content.files.items())))
        self._reads = dict(content.reads)
        self._ids = dict(content.ids)
        self._ask = ask

    def files(self) -> Mapping[str, Blob]:
        return self._files

    def read(self, path: str) -> Blob | None:
        if path in self._files:
            return self._files[path]
        if path not in self._reads:
            self._reads[path] = self._ask.read(path)
        return self._reads[path]

    def blob_ids(self, patterns: Sequence[str]) -> Mapping[str, str]:
        key = tuple(patterns)
        if key not in self._ids:
            self._ids[key] = self._ask.blob_ids(key)
        return self._ids[key]

    def says(self, content: Content) -> bool:
        """Whether a later look found nothing else than what this tree says. What was asked while it was looking, the next look finds."""
        return (
            _ids_of(self._files) == _ids_of(content.files)
            and self.refused == content.refused
            and all(_id_of(self._reads.get(path)) == _id_of(blob) for path, blob in content.reads.items())
            and all(self._ids.get(patterns) == ids for patterns, ids in content.ids.items())
        )


@dataclass(slots=True)
class Asked:
    """What trees of this folder were asked beyond `include`; it is part of every later look."""

    subject: str
    disk: FolderDisk
    added: Callable[[], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    """The disk's memory is used by the look's thread, and by trees that are asked for more."""
    paths: set[str] = field(default_factory=set)
    patterns: dict[tuple[str, ...], Globs] = field(default_factory=dict)

    def read(self, path: str) -> Blob | None:
        with self.lock, _translated(self.subject):
            self.paths.add(path)
            blob = self.disk.read(path, Walk())
        self.added()
        return blob

    def blob_ids(self, patterns: tuple[str, ...]) -> Mapping[str, str]:
        with self.lock, _translated(self.subject):
            self.patterns[patterns] = Globs(patterns, hidden=True)
            walk = self.disk.walk(self.patterns[patterns], contents=False)
        self.added()
        return _ids_of(walk.files)


class FolderSource:
    """A watched folder; see `sources.base.Source`.

    `excluded` are absolute folders (state and status) that do not exist for it, neither their content nor their events.
    """

    def __init__(self, name: str, path: Path, include: Sequence[str], excluded: Sequence[Path], watcher: Watcher) -> None:
        self._root = os.path.abspath(path)
        self._subject = f"source {name}: {self._root}"
        self._include = Globs(include)
        self._disk = FolderDisk(self._root, _below(self._root, excluded))
        self._times = Timetable(RESYNC_S)
        self._asked = Asked(self._subject, self._disk, self._times.ring)
        self._watch = watcher.subscribe(self._times.ring)
        self._off_loop = OffLoop(self._subject)
        self._turn = asyncio.Lock()
        self._tree: FolderTree | None = None

    @property
    def problem(self) -> str:
        """Why changes are found late, for a person; "" when they are told at once."""
        return self._watch.problem

    async def look(self) -> FolderTree:
        """The folder as it is now. SourceUnreachable when it is not there; SourceRefused when it may not be read."""
        async with self._turn:
            try:
                content = await self._off_loop.run(self._look, LOOK_TIMEOUT_S)
            except SourceError:
                self._times.failed()
                raise
            self._times.looked()
            if content is None and self._tree is not None:
                self._times.soon(SETTLE_S)
            elif content is not None and (self._tree is None or not self._tree.says(content)):
                self._tree = FolderTree(self._root, content, self._asked)
            assert self._tree is not None  # a first look always has content
            return self._tree

    def changes(self) -> AsyncIterator[None]:
        return self._times.changes()

    async def close(self) -> None:
        self._times.close()
        self._watch.close()

    def _look(self) -> Content | None:
        """Everything that is asked for, read from disk; None while a file is being written. In a thread."""
        try:
            with self._asked.lock, _translated(self._subject):
                return self._read()
        except SourceUnreachable:
            if not os.path.isdir(self._root):
                self._await_root()
            raise

    def _read(self) -> Content | None:
        walk = self._disk.walk(self._include, contents=True)
        folders = dict(walk.folders)
        extra = Walk()
        reads = {path: self._disk.read(path, extra) for path in self._asked.paths}
        folders.update(extra.folders)
        ids: dict[tuple[str, ...], Mapping[str, str]] = {}
        for patterns, globs in self._asked.patterns.items():
            matched = self._disk.walk(globs, contents=False)
            folders.update(matched.folders)
            ids[patterns] = _ids_of(matched.files)
        self._watch.set(folders, self._wants)
        if (walk.unsettled or extra.unsettled) and self._tree is not None:
            return None
        self._disk.forget_all_but({*walk.files, *reads, *(path for matched_ids in ids.values() for path in matched_ids)})
        return Content(walk.files, reads, ids, tuple(walk.refused))

    def _wants(self, changed: str) -> bool:
        """Whether a changed path is one that a look would read, or a folder that may hold such. In the watcher's thread."""
        path = os.path.relpath(changed, self._root)
        if self._disk.is_excluded(path):
            return False
        if any(asked == path or asked.startswith(path + "/") for asked in tuple(self._asked.paths)):
            return True
        globs = (self._include, *tuple(self._asked.patterns.values()))
        places = [(each, place) for each in globs if (place := each.place_of(path))]
        return any(each.is_match(place) for each, place in places) or (bool(places) and os.path.isdir(changed))

    def _await_root(self) -> None:
        """The folder is gone: watch the nearest one above it that exists, for the next name on the way down."""
        missing, above = self._root, os.path.dirname(self._root)
        while not os.path.isdir(above) and above != missing:
            missing, above = above, os.path.dirname(above)
        self._watch.set({above: (0, 0)}, lambda changed: changed == missing)


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    """The system's errors as ours: what was not readable says nothing about what is in it."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise SourceUnreachable(f"{subject} is not there; looked at again when it appears") from missing
    except PermissionError as denied:
        raise SourceRefused(f"{subject}: the daemon's user may not read {denied.filename or 'it'}; grant it") from denied
    except OSError as broken:
        raise SourceUnreachable(f"{subject}: {broken.strerror or broken}") from broken
    except SourceRefused as refused:
        raise SourceRefused(f"{subject}: {refused}") from refused


def _below(root: str, folders: Sequence[Path]) -> list[str]:
    """Those of the folders that are below the root, relative to it; links in either are resolved first."""
    real = os.path.realpath(root)
    relative = (os.path.relpath(os.path.realpath(folder), real) for folder in folders)
    return [path for path in relative if path != ".." and not path.startswith("../")]


def _id_of(blob: Blob | None) -> str:
    return blob.id if blob is not None else ""


def _ids_of(files: Mapping[str, Blob]) -> dict[str, str]:
    return {path: blob.id for path, blob in sorted(files.items())}
