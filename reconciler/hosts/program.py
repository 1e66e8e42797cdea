"""What every kind of host does the same: a program as the bytes that are sent, and a death by signal as an exit code."""

from __future__ import annotations

import signal

from reconciler.hosts.base import WHOLE

#: What a shell adds to a signal's number to say that a command died of it.
_SIGNALLED = 128


def whole(program: str) -> bytes:
    """The bytes to send: the program, and the line that proves that all of it arrived. A file name's odd bytes are kept."""
    end = "" if program.endswith("\n") else "\n"
    return f"{program}{end}{WHOLE}".encode("utf-8", "surrogateescape")


def exit_code(returned: int) -> int:
    """Python's return code as a shell's: a death by signal is 128 and the signal's number."""
    return _SIGNALLED - returned if returned < 0 else returned


def signal_code(name: str) -> int:
    """An ssh server's name of a signal (`KILL`) as a shell's exit code; 255 for a name that this machine does not know."""
    number = getattr(signal, f"SIG{name}", None)
    return _SIGNALLED + int(number) if isinstance(number, signal.Signals) else 255
