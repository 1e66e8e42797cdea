"""Reading a file that may be anything: a link to nowhere, a pipe that nobody writes to, gone a moment after it was listed.

Used before the daemon's own careful walk (sources/folder_disk.py) can be: to find the Settings, and by verbs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path) -> bytes | None:
    """The bytes of a regular file, also behind a link; None for what is none, or cannot be read. Never waits, never raises."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(file, "rb") as opened:
        try:
            return opened.read() if stat.S_ISREG(os.fstat(file).st_mode) else None
        except OSError:
            return None
