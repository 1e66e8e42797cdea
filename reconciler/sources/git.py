"""A git repository as a source of manifests: a branch, a tag or one commit. Made by daemon.py, called by controller.py.

A repository of this machine (`file:///…`) is read in place and watched; a remote one is fetched into a bare mirror and asked again
at an interval. Either way files come from the object store: nothing is ever checked out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pygit2

from reconciler.clock import monotonic
from reconciler.errors import SourceError, SourceUnreachable
from reconciler.manifest.fields import redact_url
from reconciler.sources.git_local import LocalRepository
from reconciler.sources.git_ref import Ref
from reconciler.sources.git_remote import Login, Mirror
from reconciler.sources.git_tree import GitTree, open_repository
from reconciler.sources.globs import Globs
from reconciler.sources.offloop import OffLoop
from reconciler.sources.timetable import Timetable
from reconciler.sources.watch import Watcher

DEFAULT_BRANCH = "main"


@dataclass(frozen=True, slots=True)
class GitSpec:
    """Which repository, and what of it. At most one of branch, tag and commit is not ""; all "" mean the branch main.

    `interval_s` is how often a remote repository is asked, and a local one looked at although no event came. A look ends after
    `timeout_s` seconds. `known_hosts` None means ~/.ssh/known_hosts.
    """

    url: str = field(repr=False)  # may hold credentials
    branch: str = ""
    tag: str = ""
    commit: str = ""
    deploy_key: Path | None = None
    known_hosts: Path | None = None
    interval_s: float = 60.0
    timeout_s: float = 60.0

    @property
    def ref(self) -> Ref:
        if self.commit:
            return Ref("commit", self.commit.lower())
        return Ref("tag", self.tag) if self.tag else Ref("branch", self.branch or DEFAULT_BRANCH)

    @property
    def path(self) -> str:
        """The path of a repository on this machine's disk; "" for a remote one."""
        parts = urlsplit(self.url) if self.url.startswith("file://") else None
        return unquote(parts.path) if parts else ""


class GitSource:
    """One repository; see `sources.base.Source`. What it fetches is kept under `cache_dir/<name>`."""

    def __init__(self, name: str, spec: GitSpec, include: Sequence[str], cache_dir: Path, watcher: Watcher) -> None:
        self._spec = spec
        self._ref = spec.ref
        self._subject = f"source {name}: {redact_url(spec.url)}"
        self._include = Globs(include)
        self._times = Timetable(spec.interval_s)
        self._watch = watcher.subscribe(self._times.ring)
        self._local = LocalRepository(spec.path, self._ref, self._subject, self._watch) if spec.path else None
        self._mirror = Mirror(self._subject, spec.url, self._ref, cache_dir / name, Login(spec.deploy_key, spec.known_hosts))
        self._off_loop = OffLoop(self._subject)
        self._turn = asyncio.Lock()
        self._tree: GitTree | None = None

    @property
    def problem(self) -> str:
        """Why changes are found late, for a person; "" when they are told at once, or asked for."""
        return self._watch.problem

    async def look(self) -> GitTree:
        """The newest commit's tree. SourceUnreachable when it could not be asked or has no commit; SourceRefused when a person must act."""
        async with self._turn:
            try:
                self._tree = await self._newest()
            except SourceError:
                self._times.failed()
                raise
            self._times.looked()
            return self._tree

    def changes(self) -> AsyncIterator[None]:
        return self._times.changes()

    async def close(self) -> None:
        self._times.close()
        self._watch.close()

    async def _newest(self) -> GitTree:
        end = monotonic() + self._spec.timeout_s
        if self._local is not None:
            return await self._off_loop.run(self._read_local, self._spec.timeout_s)
        if self._tree is not None and self._tree.commit == self._ref.name:
            return self._tree  # a pinned commit never changes, so nobody is asked
        commit = await self._mirror.fetch(self._spec.timeout_s)
        if self._tree is not None and self._tree.commit == commit:
            return self._tree
        return await self._off_loop.run(lambda: self._read_mirror(commit), max(1.0, end - monotonic()))

    def _read_local(self) -> GitTree:
        assert self._local is not None  # asked only then
        repository, commit = self._local.look()
        return self._tree if self._tree is not None and self._tree.commit == commit else self._made(repository, commit)

    def _read_mirror(self, commit: str) -> GitTree:
        try:
            return self._made(open_repository(self._mirror.path, self._subject), commit)
        except SourceUnreachable:  # the server has it and the mirror does not: it is damaged, and the next fetch makes another
            self._mirror.discard()
            raise

    def _made(self, repository: pygit2.Repository, commit: str) -> GitTree:
        return GitTree(repository, commit, self._ref.revision(commit), self._include, self._subject)
