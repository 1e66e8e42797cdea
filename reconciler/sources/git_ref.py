"""What of a repository is followed: a branch, a tag or one commit. Used by git.py, and by git_fetch.py in its own process.

Nothing is imported here but our errors, because every fetch starts a process that imports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.errors import SourceError, SourceRefused, SourceUnreachable
from reconciler.sources.entries import shown

NAMES_MAX = 10
"""So many names of branches are told to a person who asked for one that is not there."""

_PREFIXES = {"branch": "refs/heads/", "tag": "refs/tags/"}


@dataclass(frozen=True, slots=True)
class Ref:
    """`kind` is "branch", "tag" or "commit"; `name` its short name, or the commit's 40 digits."""

    kind: str
    name: str

    @property
    def full(self) -> str:
        """`refs/heads/main`, `refs/tags/v1`; "" for a commit."""
        return f"{_PREFIXES[self.kind]}{self.name}" if self.kind in _PREFIXES else ""

    def revision(self, commit: str) -> str:
        """How a tree at `commit` is named: `main@sha1:<40>`, and `sha1:<40>` for a pinned commit."""
        return f"sha1:{commit}" if self.kind == "commit" else f"{self.name}@sha1:{commit}"

    def missing(self, subject: str, names: Iterable[str]) -> SourceError:
        """What to raise when the repository does not have it; `names` are the full names of all refs that it has."""
        known = sorted(names)
        if not any(name.startswith(tuple(_PREFIXES.values())) for name in known):
            return SourceUnreachable(f"{subject} has no commit yet; looked at again when it has one")
        if self.kind == "commit":
            return SourceRefused(f"{subject} has no commit {self.name}, or shows it on no branch and no tag; correct `commit`")
        prefix = _PREFIXES[self.kind]
        same = [shown(name.removeprefix(prefix)) for name in known if name.startswith(prefix)]
        listed = ", ".join(same[:NAMES_MAX]) + (f" and {len(same) - NAMES_MAX} more" if len(same) > NAMES_MAX else "")
        has = f"it has: {listed}" if same else f"it has no {'branches' if self.kind == 'branch' else 'tags'}"
        return SourceRefused(f"{subject} has no {self.kind} {self.name} ({has}); push it, or correct `{self.kind}`")
