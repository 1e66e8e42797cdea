"""What may be shown of other people's text: without credentials, and without what steers a terminal. Used by logs and the command line.

Apart from log.py because the command line's read verbs must start without loading a logging library.
"""

from __future__ import annotations

import re
import unicodedata

REDACTED = "[redacted]"

_URL_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)([^\s/]*)@")
_QUERY_SECRET = re.compile(r"(?i)([?&][^=&\s]*(?:token|secret|signature|password|key|credential)[^=&\s]*=)[^&\s\"']+")
_AUTHORIZATION = re.compile(r"(?i)\b(authorization\s*[:=]\s*)(?:[a-z]+\s+)?[^\s\"',]+")


def redact_text(text: str) -> str:
    """`text` without credentials in URLs and authorization headers. For every message that quotes another program."""
    text = _URL_USERINFO.sub(_without_credentials, text)
    text = _QUERY_SECRET.sub(rf"\1{REDACTED}", text)
    return _AUTHORIZATION.sub(rf"\1{REDACTED}", text)


def _without_credentials(match: re.Match[str]) -> str:
    """The start of a URL without `user:password@` or `token@`. The user of ssh:// is no secret, and says which account was refused."""
    scheme, userinfo = match[1], match[2]
    user, colon, _password = userinfo.partition(":")
    if scheme.lower() == "ssh://":
        return f"{scheme}{user}{colon}{REDACTED if colon else ''}@"
    return f"{scheme}{REDACTED}@"


def escape(text: str, keep: str = "") -> str:
    """`text` with every control, format and surrogate character written as an escape, except those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not _steers(char) else char.encode("unicode_escape").decode() for char in text)


def _steers(char: str) -> bool:
    """Whether a terminal may obey `char` instead of showing it: controls, bidirectional marks, line separators, lone surrogates."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
