"""Errors of asyncssh and of the system in words for people, by one table. Called by the other ssh modules.

Whatever class is not in the table is told by its base class there; tests/hosts/test_ssh_words.py keeps the table complete.
"""

from __future__ import annotations

import socket

import asyncssh

#: What OpenSSH says when more keys were offered than it lets one try.
_TOO_MANY = "too many authentication failures"

#: {reason} is the error's own text. An error is told by the nearest of its classes.
WORDS: dict[type[BaseException], str] = {
    # the way there
    socket.gaierror: "its name cannot be resolved ({reason})",
    ConnectionRefusedError: "nothing listens there: sshd is down, or the port is another",
    ConnectionResetError: "the connection was reset: a firewall, or sshd has too many connections",
    BrokenPipeError: "the connection broke",
    TimeoutError: "no answer in time",
    asyncssh.ConnectionLost: "the connection broke ({reason})",
    asyncssh.ChannelOpenError: "it opened no channel ({reason})",
    # what is said on it
    asyncssh.HostKeyNotVerifiable: "its host key is not to be believed ({reason})",
    asyncssh.KeyExchangeFailed: "the two sides have no way to encrypt in common ({reason})",
    asyncssh.ProtocolNotSupported: "what listens there is no ssh server of version 2 ({reason})",
    asyncssh.ProtocolError: "it does not keep to the ssh protocol ({reason})",
    asyncssh.MACError: "data was changed on its way ({reason})",
    asyncssh.CompressionError: "compressed data cannot be read ({reason})",
    asyncssh.ServiceNotAvailable: "it offers no login ({reason})",
    asyncssh.PermissionDenied: "it lets none of our keys in",
    asyncssh.IllegalUserName: "the user name is not possible ({reason})",
    asyncssh.PasswordChangeRequired: "it wants a new password, and no password is ever used here; log in by hand once",
    asyncssh.DisconnectError: "it ended the connection ({reason})",
    asyncssh.Error: "ssh failed ({reason})",
    # files of ours
    asyncssh.KeyEncryptionError: "a key cannot be decrypted ({reason})",
    asyncssh.KeyImportError: "a key cannot be read ({reason})",
    asyncssh.ConfigParseError: "the ssh config cannot be read ({reason})",
    FileNotFoundError: "no such file ({reason})",
    PermissionError: "no permission to read ({reason})",
    OSError: "the system refused ({reason})",
    ValueError: "something in its settings cannot be read ({reason})",
    Exception: "ssh failed in an unforeseen way ({kind}: {reason})",
}


class Trouble(Exception):
    """The host could not be reached, in words. `denied`: it knows us not, and asking again soon could lock the account."""

    def __init__(self, text: str, denied: bool = False) -> None:
        super().__init__(text)
        self.denied = denied


def words(error: BaseException) -> str:
    """What is wrong, as half a sentence after the host's name and a colon."""
    text = next(WORDS[cls] for cls in type(error).__mro__ if cls in WORDS)
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None:
        reason = ": ".join(filter(None, (str(error.filename or ""), error.strerror or "")))
    else:
        reason = getattr(error, "strerror", None) or str(error)
    return text.format(reason=" ".join(str(reason).split()) or type(error).__name__, kind=type(error).__name__)


def is_denied(error: BaseException) -> bool:
    """True if the host refused our keys, in whatever way it says so."""
    return isinstance(error, asyncssh.PermissionDenied) or (isinstance(error, asyncssh.DisconnectError) and _TOO_MANY in str(error).lower())
