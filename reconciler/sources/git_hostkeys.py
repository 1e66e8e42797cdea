"""Which lines of a known_hosts file speak for one host, as sshd(8) defines the format. Called by git_fetch.py.

libssh2 knows neither patterns nor `@revoked`, and takes a line that it cannot read for the end of the file. So the file is read
here, and libssh2 gets the lines that count, with the host's plain name. No line: the host is not even asked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator
from fnmatch import fnmatchcase

SSH_PORT = 22


def host_name(host: str, port: int) -> str:
    """A host as known_hosts names it: `host`, or `[host]:port` on another port than 22."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def trusted_lines(text: str, host: str, port: int) -> list[str]:
    """The keys that `text` trusts for a host, each as a line with its plain name; keys marked `@revoked` for it are not among them."""
    name = host_name(host, port)
    keys, revoked = [], set()
    for marker, names, kind, key in _rows(text):
        if not _is_meant(names, name):
            continue
        if marker == "@revoked":
            revoked.add(key)
        elif not marker:  # a certificate authority speaks for certificates, which libssh2 does not read
            keys.append((kind, key))
    return [f"{name} {kind} {key}" for kind, key in keys if key not in revoked]


def _rows(text: str) -> Iterator[tuple[str, str, str, str]]:
    """(marker, names, kind of key, key) of each line; the marker is "" on usual lines."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) >= 3:
            yield marker, words[0], words[1], words[2]


def _is_meant(names: str, name: str) -> bool:
    if names.startswith("|"):
        return _is_hashed(names, name)
    patterns = [pattern.lower() for pattern in names.split(",")]
    if any(pattern.startswith("!") and _matches(pattern[1:], name) for pattern in patterns):
        return False
    return any(_matches(pattern, name) for pattern in patterns if not pattern.startswith("!"))


def _matches(pattern: str, name: str) -> bool:
    """`*` and `?` are wildcards; brackets, as in `[host]:2222`, are not."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _is_hashed(names: str, name: str) -> bool:
    """`|1|salt|hash`: HMAC-SHA1 of the name, keyed by the salt."""
    parts = names.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, expected = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), expected)
