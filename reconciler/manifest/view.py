"""One tree of one source, read: what assemble.py puts together. Made by controller.py whenever a source has a new tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.errors import Problem
from reconciler.manifest.load import BlobLike, Loaded, Loader
from reconciler.manifest.resolve import BlobIds
from reconciler.yamltree import DOCUMENTS_MAX


class RefusalLike(Protocol):
    """An entry that was not read, and why (sources.base.Refusal)."""

    @property
    def path(self) -> str: ...

    @property
    def problem(self) -> str: ...


class TreeLike(Protocol):
    """What of sources.base.Tree is needed here."""

    @property
    def revision(self) -> str: ...

    @property
    def commit(self) -> str: ...

    @property
    def root(self) -> str: ...

    @property
    def refused(self) -> Sequence[RefusalLike]: ...

    def files(self) -> Mapping[str, BlobLike]: ...

    def blob_ids(self, patterns: Sequence[str]) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class SourceView:
    """One tree of one source, read. `name` "" is the operator's own folder.

    `unreadable`: paths that hold something which could not be read; "" among them: the whole tree. What they held stays in force.
    """

    name: str
    revision: str = ""
    commit: str = ""
    root: str = ""
    loaded: tuple[Loaded, ...] = ()
    problems: tuple[Problem, ...] = ()
    unreadable: frozenset[str] = frozenset()
    blob_ids: BlobIds = field(default=lambda patterns: {}, compare=False)


def view(name: str, tree: TreeLike, loader: Loader) -> SourceView:
    """Read what `tree` holds. Slow for a large tree that `loader` has not seen yet (a few ms a file); cheap after."""
    loaded: list[Loaded] = []
    problems = [Problem(shown_path(name, entry.path), 0, 0, "", entry.problem) for entry in tree.refused]
    unreadable = {entry.path for entry in tree.refused}
    documents = 0
    for path, blob in tree.files().items():
        found = loader.load(path, blob, source=name)
        documents += len(found.documents) + len(found.failed)
        if documents > DOCUMENTS_MAX:
            problems.append(
                Problem(shown_path(name, path), 0, 0, "", f"more than {DOCUMENTS_MAX:,} documents in one source", "include fewer files")
            )
            unreadable.add("")
            break
        loaded.append(found)
    return SourceView(name, tree.revision, tree.commit, tree.root, tuple(loaded), tuple(problems), frozenset(unreadable), tree.blob_ids)


def shown_path(source: str, path: str) -> str:
    """A path as people are shown it: with its source in front; "." for the whole of the operator's own folder."""
    return f"{source}:{path}" if source else path or "."
