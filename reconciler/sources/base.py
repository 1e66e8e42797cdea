"""What a source of manifests hands out, and what whoever implements one owes. Called by controller.py only.

**What a source owes.** `look` returns the newest tree or raises: `SourceUnreachable` (could not be asked: the last tree stays
in force, tried again with back-off) or `SourceRefused` (a person must act). It never returns an empty tree for a failure.
Nothing is checked out; a symlink, a submodule, an entry named `..` or `.git` (in any case) or with a control character is never
followed: it is listed in `refused` by name when `include` would have matched it. Slow work runs off the event loop, with a
time-out; a dead source never delays another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """One file's bytes. `id` is git's blob id (40 hex), computed the same way for files outside git: equal id, equal bytes."""

    id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that was not read, and why, in words for a person."""

    path: str
    problem: str


class Tree(Protocol):
    """One revision of a source, frozen: what it says never changes once handed out."""

    @property
    def revision(self) -> str:
        """`main@sha1:<40 hex>` for git (`sha1:<40 hex>` when a commit is pinned), `sha256:<64 hex>` of the content for a folder."""
        ...

    @property
    def commit(self) -> str:
        """The commit's 40 hex digits; "" outside git."""
        ...

    @property
    def root(self) -> str:
        """The folder that the files are in, for jobs that run in place; "" when there is none (git: read from the object store)."""
        ...

    @property
    def refused(self) -> Sequence[Refusal]: ...

    def files(self) -> Mapping[str, Blob]:
        """What `include` matched, by path relative to the source, `/`-separated, in sorted order."""
        ...

    def read(self, path: str) -> Blob | None:
        """One file by its path, also one that `include` does not match; None when there is none, or it is refused."""
        ...

    def blob_ids(self, patterns: Sequence[str]) -> Mapping[str, str]:
        """Ids of all files that match one of the globs (`**` crosses folders), by path, in sorted order. Reads no content from git."""
        ...


class Source(Protocol):
    """A place that manifests come from."""

    @property
    def problem(self) -> str:
        """Why changes are found late, for a person; "" when they are told at once, or asked for. No failure."""
        ...

    async def look(self) -> Tree:
        """The newest tree. The same object as before while nothing changed."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields when a look is worth while: a file changed, an interval passed, a back-off ended. Says nothing else."""
        ...

    async def close(self) -> None:
        """Stop watching and free what is held. Safe to call twice."""
        ...
