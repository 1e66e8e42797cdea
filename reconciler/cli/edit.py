"""Writing manifests: one field of a document, or a request of its own; and committing the file. Called by write.py."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.cli.folder import Trusted
from reconciler.cli.subject import Here
from reconciler.errors import ReconcilerError

_NAME_LENGTH_MAX = 63
#: A hook of the user's may run tests; longer than this it hangs.
_GIT_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Edit:
    """What was done to one file. `title` is the subject of its commit."""

    path: Path
    title: str
    message: str
    changed: bool = True


def edited(document: Here, field: tuple[str, ...], value: object, *, title: str) -> Edit:
    """Set a field of a document, or remove it when `value` is None; everything else in the file stays as it is, to the character."""
    from reconciler.yamledit import remove_field, set_field

    path, which = document.path, (document.kind, document.name)
    before = path.read_bytes().decode("utf-8", "surrogateescape")
    if value is None:
        after, message = remove_field(before, which, field, file=str(path)), f"{path}: {field[-1]} removed"
    else:
        after, message = set_field(before, which, field, value, file=str(path)), f"{path}: {field[-1]}: {_shown(value)}"
    if after != before:
        _replace(path, after.encode("utf-8", "surrogateescape"))
    return Edit(path, title, message, after != before)


def request(trusted: Trusted, name: str, spec: Mapping[str, object] | None, *, title: str) -> Edit:
    """Write (or, with `spec` None, remove) `requests/<name>.yaml`, a Run document. One that is there already is left as it is."""
    from reconciler.yamlemit import dump

    short = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[-_NAME_LENGTH_MAX:].lstrip("._-")
    path = trusted.path / "requests" / f"{short}.yaml"
    if spec is None:
        there = path.exists()
        path.unlink(missing_ok=True)
        return Edit(path, title, f"{path}: removed" if there else f"{path} is not there", there)
    if path.exists():
        return Edit(path, title, str(path), changed=False)
    document = {"apiVersion": "scripthut/v1", "kind": "Run", "metadata": {"name": short}, "spec": spec}
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise ReconcilerError(f"{path.parent} cannot be made: {error.strerror}") from error
    _replace(path, f"# {title}\n{dump(document)}".encode())
    return Edit(path, title, f"wrote {path}")


def commit(path: Path, title: str) -> None:
    """Commit this one file in the repository that holds it, and nothing else that is staged. Raises ReconcilerError with git's words."""
    if _git(path, "rev-parse", "--is-inside-work-tree", check=False).strip() != "true":
        raise ReconcilerError(f"{path} was written, but no git repository holds it, so it is not committed")
    if not path.exists() and not _git(path, "ls-files", "--", path.name):
        return  # made and removed again between two commits
    _git(path, "add", "--all", "--", path.name)
    _git(path, "commit", "--quiet", "--message", title, "--only", "--", path.name)


def _git(path: Path, *arguments: str, check: bool = True) -> str:
    command = ["git", "-C", str(path.parent), *arguments]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=_GIT_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise ReconcilerError(f"{path} was written, but git is not installed, so it is not committed") from error
    except subprocess.TimeoutExpired as error:
        raise ReconcilerError(f"{path} was written, but git {arguments[0]} did not end within {_GIT_TIMEOUT_S} s") from error
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise ReconcilerError(f"{path} was written, but git {arguments[0]} failed: {words}")
    return done.stdout


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole: a reader sees the old one or the new one. A symlink stays one, and its target keeps its mode."""
    target = path.resolve()
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise ReconcilerError(f"{path} cannot be written: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _shown(value: object) -> str:
    return ", ".join(f"{key}={text}" for key, text in value.items()) if isinstance(value, dict) else str(value)
