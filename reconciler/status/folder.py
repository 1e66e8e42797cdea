"""Where a status file lies, and how it is written: whole or not at all, and never outside of the status folder.

Called by writer.py. Names come from strangers' repositories, and the folder may be open to others, so a path is walked one folder at a
time without following links. Files are made with mode 0644 and folders with 0755, less the daemon's umask: they are there to be read, and
hold nothing that a job's command line does not show. Whoever wants them private sets the umask, or the mode of the folder above.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: One writer writes one file at a time, so one name is enough; what a kill -9 left is written over.
_UNFINISHED = ".being-written"
_UNSAFE = re.compile(r"[%\x00-\x1f\x7f]|^\.\.?$|^$|[\ud800-\udfff]")
#: A file name may have 255 bytes.
_NAME_BYTES_MAX = 200


class Signature(NamedTuple):
    """What stat(2) says of a file that nobody has touched since."""

    inode: int
    size: int
    modified_ns: int


def parts_of(kind: str, name: str) -> tuple[str, ...]:
    """The path of an object's file below the status folder. A `/` of the name is a folder; what is unsafe in a path is %-escaped."""
    *folders, last = (_part(part) for part in (kind.lower(), *name.split("/")))
    return (*folders, f"{last}.yaml")


def _part(part: str) -> str:
    # an empty part and dots alone are escaped whole, so that no two names have one path: `%` itself never stays
    escaped = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")) or "%", part)
    escaped = "%2E" * len(part) if part in {".", ".."} else escaped
    if len(escaped.encode()) <= _NAME_BYTES_MAX:
        return escaped
    digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return escaped.encode()[: _NAME_BYTES_MAX - 17].decode(errors="ignore") + "%" + digest


class StatusFolder:
    """The files below one folder. Every method raises OSError where a disk does."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, parts: Sequence[str], data: bytes, modified_at: float | None = None) -> Signature:
        """Put `data` in the place of the file, whatever was there. `modified_at` is the time it is given, None: now."""
        with self._folder(parts[:-1], make=True) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_UNFINISHED, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(_UNFINISHED, flags, 0o644, dir_fd=folder)
            try:
                with open(file, "wb", buffering=0) as stream:
                    _write_all(stream.fileno(), data)
                    if modified_at is not None:
                        stamp = int(modified_at * 1e9)
                        os.utime(stream.fileno(), ns=(stamp, stamp))
                    signature = _signature(os.fstat(stream.fileno()))
                os.rename(_UNFINISHED, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):  # the first trouble is the one to tell
                    os.unlink(_UNFINISHED, dir_fd=folder)
                raise
        return signature

    def signature(self, parts: Sequence[str]) -> Signature | None:
        """The file as it is now; None when there is none. A link is not the file."""
        try:
            return _signature(os.lstat(os.path.join(self.root, *parts)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, parts: Sequence[str]) -> None:
        """Take the file away, and the folders that it leaves empty."""
        with contextlib.suppress(FileNotFoundError), self._folder(parts[:-1], make=False) as folder:
            os.unlink(parts[-1], dir_fd=folder)
        for depth in range(len(parts) - 1, 1, -1):
            try:
                with self._folder(parts[: depth - 1], make=False) as folder:
                    os.rmdir(parts[depth - 1], dir_fd=folder)
            except OSError:  # not empty, or gone already: either is fine
                return

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool) -> Iterator[int]:
        """A handle of a folder below the root, reached without following links."""
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                below = _enter(handle, part, make)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)


def _enter(folder: int, part: str, make: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(part, flags, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, 0o755, dir_fd=folder)
    return os.open(part, flags, dir_fd=folder)


def _write_all(file: int, data: bytes) -> None:
    """A disk that is nearly full takes a part without complaint."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _signature(found: os.stat_result) -> Signature:
    return Signature(found.st_ino, found.st_size, found.st_mtime_ns)
