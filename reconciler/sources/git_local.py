"""A git repository on this machine's disk, read in place and watched. Called by git.py, in a thread.

Only refs are watched: git writes objects first and then moves a ref, by renaming a lock file over it or by rewriting packed-refs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pygit2

from reconciler.errors import SourceRefused, SourceUnreachable
from reconciler.sources.git_ref import Ref
from reconciler.sources.git_tree import open_repository, translated
from reconciler.sources.watch import Subscription


class LocalRepository:
    """The repository at `path`, bare or with a work tree, and the place of one ref in it."""

    def __init__(self, path: str, ref: Ref, subject: str, watch: Subscription) -> None:
        self._path = os.path.abspath(path)
        self._ref = ref
        self._subject = subject
        self._watch = watch

    def look(self) -> tuple[pygit2.Repository, str]:
        """The repository, opened anew, and the commit that the ref stands at. Raises SourceError; watches in any case."""
        try:
            repository = open_repository(self._path, self._subject)
        except SourceUnreachable:
            self._await_repository()
            raise
        with translated(self._subject):
            self._watch_refs(_shared_folder(repository.path))
            return repository, self._commit(repository)

    def _commit(self, repository: pygit2.Repository) -> str:
        if not self._ref.full:
            if isinstance(repository.get(self._ref.name), pygit2.Commit):
                return self._ref.name
            raise self._ref.missing(self._subject, repository.references)
        found = repository.references.get(self._ref.full)
        if found is None:
            raise self._ref.missing(self._subject, repository.references)
        try:
            return str(found.peel(pygit2.Commit).id)
        except pygit2.GitError as error:
            raise SourceRefused(f"{self._subject}: {self._ref.kind} {self._ref.name} is no commit; correct `{self._ref.kind}`") from error

    def _watch_refs(self, folder: str) -> None:
        """Watches the folders on the way to the ref, as far as they exist, for what lies on that way, and for packed-refs.

        A pinned commit is on no way: there any branch of one name may bring it, and the next look at the latest.
        """
        names = (self._ref.full or "refs/heads").split("/")
        way = [os.path.join(folder, *names[:depth]) for depth in range(len(names) + 1)]
        wanted = {*way, os.path.join(folder, "packed-refs"), os.path.join(folder, "HEAD")}
        folders = {path: identity for path in way if (identity := _identity(path)) is not None}
        branches = "" if self._ref.full else way[-1]
        self._watch.set(folders, lambda changed: changed in wanted or os.path.dirname(changed) == branches)

    def _await_repository(self) -> None:
        """No repository there: watches the nearest folder above that exists, and, when there is a folder, what makes it a repository."""
        missing, above = self._path, os.path.dirname(self._path)
        while not os.path.isdir(above) and above != missing:
            missing, above = above, os.path.dirname(above)
        inside = {os.path.join(self._path, ".git"), self._path}
        folders = {path: identity for path in (above, *inside) if (identity := _identity(path)) is not None}
        self._watch.set(folders, lambda changed: changed == missing or changed in inside or os.path.dirname(changed) in inside)


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a folder; None when it is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if os.path.isdir(path) else None


def _shared_folder(folder: str) -> str:
    """Where the refs are: the git folder itself, or the one that a linked work tree's names (gitrepository-layout(5), "commondir")."""
    folder = os.path.abspath(folder)
    try:
        named = Path(folder, "commondir").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return folder
    return os.path.normpath(os.path.join(folder, named))
