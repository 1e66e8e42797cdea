"""A real git repository for tests, written by the git binary and not by the library under test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_WHO = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false", "-c", "gc.auto=0")


def git(*words: str, cwd: Path | None = None, stdin: bytes = b"") -> str:
    """What one git command prints, without the last newline. Reads no configuration of the machine."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env.update(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0")
    done = subprocess.run(["git", *_WHO, *words], cwd=cwd, env=env, input=stdin, capture_output=True)
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


class GitRepo:
    """A repository at `path`, on branch main. A bare one is committed to by its plumbing, so that every test can use either."""

    def __init__(self, path: Path, bare: bool = False) -> None:
        self.path = path
        self.bare = bare
        self.on = "main"
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *(["--bare"] if bare else []))

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    @property
    def head(self) -> str:
        """The commit that the current branch stands at; "" while there is none."""
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{self.on}")

    def git(self, *words: str, stdin: bytes = b"") -> str:
        """Runs git in the repository."""
        return git(*words, cwd=self.path, stdin=stdin)

    def commit(self, files: Mapping[str, str | bytes | None], message: str = "change") -> str:
        """Writes these files (None deletes one) as a commit on the current branch; the commit's 40 digits."""
        if self.bare:
            return self._commit_bare(files, message)
        for name, text in files.items():
            path = self.path / name
            if text is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.git("add", "-A", "--", *files)
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.head

    def commit_tree(self, entries: bytes, message: str = "by hand") -> str:
        """A commit whose tree is these lines of `git mktree -z --missing`, whatever they name; the branch then stands there."""
        tree = self.git("mktree", "-z", "--missing", stdin=entries)
        return self._advance(tree, message)

    def blob(self, data: bytes) -> str:
        """Writes a blob; its 40 digits."""
        return self.git("hash-object", "-w", "--stdin", stdin=data)

    def raw_tree(self, entries: list[tuple[str, bytes, str]]) -> str:
        """Writes a tree of (mode, name, id) that git itself would refuse to make; its 40 digits."""
        body = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(blob) for mode, name, blob in entries)
        return self.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=body)

    def commit_raw(self, entries: list[tuple[str, bytes, str]], message: str = "hostile") -> str:
        """A commit of such a tree."""
        return self._advance(self.raw_tree(entries), message)

    def branch(self, name: str) -> None:
        """Makes a branch where we stand (if there is none of that name) and goes on with it."""
        if self.bare:
            if not self.git("for-each-ref", f"refs/heads/{name}"):
                self.git("update-ref", f"refs/heads/{name}", self.head)
        else:
            self.git("checkout", "-q", "-B" if not self.git("for-each-ref", f"refs/heads/{name}") else "-f", name)
        self.on = name

    def tag(self, name: str, annotate: bool = False) -> None:
        """Tags where we stand."""
        self.git("tag", *(["-a", "-m", name] if annotate else []), "-f", name, self.head)

    def force(self, sha: str) -> None:
        """Moves the current branch to any commit, as a force-push does."""
        self.git("update-ref", f"refs/heads/{self.on}", sha)
        if not self.bare:
            self.git("reset", "-q", "--hard", sha)

    def _commit_bare(self, files: Mapping[str, str | bytes | None], message: str) -> str:
        head = self.head
        index = ("-c", f"core.worktree={self.path}", "-c", "core.bare=false")
        self.git(*index, "read-tree", head or "--empty")
        for name, text in files.items():
            if text is None:
                self.git(*index, "rm", "-q", "--cached", name)
            else:
                blob = self.blob(text if isinstance(text, bytes) else text.encode())
                self.git(*index, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
        return self._advance(self.git(*index, "write-tree"), message)

    def _advance(self, tree: str, message: str) -> str:
        parents = ["-p", self.head] if self.head else []
        commit = self.git("commit-tree", tree, *parents, "-m", message)
        self.git("update-ref", f"refs/heads/{self.on}", commit)
        return commit
