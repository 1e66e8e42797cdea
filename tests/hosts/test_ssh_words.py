"""The table of errors in words is complete over asyncssh and the system."""

from __future__ import annotations

import errno
import socket
import sys

import asyncssh
import pytest

from reconciler.hosts.ssh_words import WORDS, is_denied, words

#: asyncssh's errors of things that we never do: file transfer, listening, serving, its own processes, making keys; and its own bugs.
NEVER = {
    "ASN1Error", "ASN1DecodeError", "ASN1EncodeError", "BreakReceived", "ChannelListenError", "GSSError", "KeyExportError",
    "KeyGenerationError", "PacketDecodeError", "ProcessError", "SASLPrepError", "SignalReceived", "SoftEOFReceived", "TerminalSizeChanged",
    "TimeoutError",
}  # fmt: skip


def errors() -> list[type[Exception]]:
    """Every exception class that asyncssh defines and has loaded."""
    modules = [module for name, module in sys.modules.items() if name.startswith("asyncssh")]
    values = [value for module in modules for value in vars(module).values() if isinstance(value, type) and issubclass(value, Exception)]
    found = {value.__name__: value for value in values if value.__module__.startswith("asyncssh")}
    return [found[name] for name in sorted(found)]


def test_every_error_of_asyncssh_has_words_of_its_own() -> None:
    """A new release with a new kind of error makes this test fail, and somebody write words for it."""
    names = {error.__name__ for error in errors() if not error.__name__.startswith("SFTP")}
    assert names - {error.__name__ for error in WORDS if error.__module__.startswith("asyncssh")} - NEVER == set()


def made(error: type[Exception]) -> Exception:
    """One of that class, whatever its constructor wants."""
    for arguments in (("boom",), (1, "boom"), ("boom", "", ""), (None, None, None, "boom", 1, 2, 3, 4)):
        try:
            return error(*arguments)
        except TypeError:
            continue
    exception = error.__new__(error)
    exception.args = ("boom",)
    return exception


@pytest.mark.parametrize("error", [*errors(), RuntimeError, AttributeError], ids=lambda error: error.__name__)
def test_every_error_is_told_in_words(error: type[Exception]) -> None:
    """Whatever comes out of asyncssh is told in one line, without a placeholder left."""
    told = words(made(error))
    assert told and "{" not in told and "\n" not in told


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its name cannot be resolved (Name or service not known)"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "nothing listens there: sshd is down, or the port is another"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/k"), "no such file (/k: No such file or directory)"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "the system refused (Network is unreachable)"),
        (OSError("Multiple exceptions: a, b"), "the system refused (Multiple exceptions: a, b)"),
        (OSError(), "the system refused (OSError)"),
        (asyncssh.ConnectionLost("Connection lost"), "the connection broke (Connection lost)"),
        (asyncssh.KeyImportError("Invalid\nprivate key"), "a key cannot be read (Invalid private key)"),
        (RuntimeError("bug"), "ssh failed in an unforeseen way (RuntimeError: bug)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_words_name_the_reason(error: Exception, expected: str) -> None:
    """The nearest class in the table tells it, with the error's own text where that says more."""
    assert words(error) == expected


def test_what_counts_as_a_refused_login() -> None:
    """Permission denied, and being thrown out for too many keys; not a connection that broke."""
    denied = [asyncssh.PermissionDenied("x"), asyncssh.ProtocolError("Too many authentication failures")]
    assert [is_denied(error) for error in denied] == [True, True]
    assert [is_denied(error) for error in (asyncssh.ConnectionLost("x"), asyncssh.ProtocolError("x"), PermissionError("x"))] == [False] * 3
