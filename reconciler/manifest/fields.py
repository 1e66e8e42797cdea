"""The forms of single values: durations, memory, times, git urls. Used by the schema, config.py and whoever prints a url.

Every function here takes a value as YAML or JSON gave it and raises ValueError, in words for a person, when it is none.
Durations become seconds, memory mebibytes, times seconds since 1970 UTC.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from urllib.parse import urlsplit

#: Ten years: longer than any job or interval that is meant, and far below where a float or Slurm's 32-bit minutes give up.
DURATION_MAX_S = 10 * 366 * 86400
#: One pebibyte.
MEMORY_MAX_MB = 1 << 30

_UNITS_S = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_UNIT_FORM = re.compile(rf"(?:({_NUMBER})w)?(?:({_NUMBER})d)?(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?(?:({_NUMBER})ms)?")
_CLOCK_FORM = re.compile(r"(?:([0-9]{1,5})-)?([0-9]{1,9})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?")
_MEMORY_FORM = re.compile(rf"({_NUMBER})\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_MEMORY_MB = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
_TIME_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")
_SCP_FORM = re.compile(r"(?:([A-Za-z0-9_][A-Za-z0-9._-]*)@)?([A-Za-z0-9][A-Za-z0-9.-]*):(?!//)([^-\s][^\s]*)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")


def duration(value: object) -> float:
    """Seconds of `30s`, `500ms`, `5m`, `1h30m`, `7d`, `2w`, or of a clock form (`2:00:00`, `1-00:00:00`, see `time_limit`).

    0 is allowed (`0s`); a number without a unit is not, because nobody can tell what it means.
    """
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError(f"a duration is a number with a unit, in quotes if need be: 30s, 5m, 1h30m, 7d (not {_shown(value)})")
    text = value.strip()
    match = _UNIT_FORM.fullmatch(text)
    if text and match is not None:
        seconds = sum(float(number) * unit for number, unit in zip(match.groups(), _UNITS_S.values(), strict=True) if number)
        return _bounded(seconds, value)
    if ":" in text or "-" in text[1:]:
        return _bounded(_clock_seconds(text, value), value)
    raise ValueError(f"{_shown(value)} is not a duration: write a number with a unit, as in 30s, 5m, 1h30m, 7d, or 2:00:00")


def time_limit(value: object) -> int:
    """Seconds, at least 1, of a task's time limit: what `duration` takes, and Slurm's forms as ScriptHut hands them on.

    Slurm's forms: `90` (minutes), `90:00` (minutes:seconds), `2:00:00`, `1-12` (days-hours), `1-12:30`, `1-12:30:00`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = _bounded(value * 60.0, value)
    elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        seconds = _bounded(int(value) * 60.0, value)
    elif isinstance(value, str) and value.strip().upper() in {"UNLIMITED", "INFINITE"}:
        raise ValueError("a task needs an end: write the longest it may take, as in 7d")
    else:
        seconds = duration(value)
    if seconds < 1:
        raise ValueError("a time limit is at least one second")
    return math.ceil(seconds)


def memory(value: object) -> int:
    """Mebibytes, at least 1, of `4G`, `4GB`, `4GiB`, `512M`, `1.5G`, `2T`, or a number (mebibytes, as Slurm means it). Rounded up."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"memory is a number with a unit: 4G, 512M (not {_shown(value)})")
    text = str(value).strip()
    match = _MEMORY_FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shown(value)} is not an amount of memory: write 4G, 512M or 1.5G")
    megabytes = float(match[1]) * _MEMORY_MB[match[2].upper()]
    if megabytes > MEMORY_MAX_MB:
        raise ValueError(f"{_shown(value)} is more than 1P of memory")
    if megabytes <= 0:
        raise ValueError("a task needs some memory: write how much it may use, as in 4G")
    return math.ceil(megabytes)


def point_in_time(value: object) -> float:
    """Seconds since 1970 UTC of an RFC 3339 time: `2026-12-01T09:00:00Z`, `2026-12-01T09:00:00+01:00`."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time needs its offset from UTC: 2026-12-01T09:00:00Z")
        return value.astimezone(UTC).timestamp()
    if not isinstance(value, str) or not _TIME_FORM.fullmatch(value.strip()):
        raise ValueError(f"{_shown(value)} is not a time: write it as 2026-12-01T09:00:00Z")
    try:
        return datetime.fromisoformat(value.strip().upper().replace(" ", "T")).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_shown(value)} is not a time: {error}") from error


def git_url(value: object) -> str:
    """A url that git may be given, unchanged. https, ssh, `user@host:path`, file:///absolute; http only to this machine.

    Anything that git would read as a command or an option (`ext::…`, a leading `-`, `ssh://-oProxyCommand=…`) is refused.
    Messages never hold the url's credentials.
    """
    if not isinstance(value, str) or not value:
        raise ValueError("a git url is text: https://host/path, ssh://user@host/path, user@host:path or file:///path")
    # quotes and the like would reach a shell on the other side, where ssh puts the path into a command line
    if not value.isprintable() or re.search(r"[\s\\'\"`$;|&<>]", value) or value.startswith("-"):
        raise ValueError(
            "a git url holds no blanks, quotes, backslashes or control characters, none of ` $ ; | & < >, and begins with no '-'"
        )
    scheme = _SCHEME.match(value)
    if scheme is None:
        return _scp_url(value)
    checks = {"https": _network_url, "ssh": _network_url, "http": _loopback_url, "file": _file_url}
    check = checks.get(scheme[1])
    if check is None:
        raise ValueError(f"git urls of scheme {scheme[1]!r} are not used here: write https://, ssh://, user@host:path or file:///path")
    check(value)
    return value


def redact_url(url: str) -> str:
    """`url` as it may be printed: without user names, passwords and tokens before the host, or in a query. Never raises."""
    shown = _CREDENTIALS.sub("***@", url)
    if "://" not in shown and "@" in shown:  # user@host:path; the user is a name, but a token may stand there
        user, _, rest = shown.partition("@")
        shown = f"{user if user == 'git' else '***'}@{rest}"
    return re.sub(r"\?.*", "?***", shown, flags=re.DOTALL)


def public_url(url: str) -> str:
    """`url` without user name and password, for jobs, which are not to have the daemon's credentials. `git@host:path` stays."""
    return _CREDENTIALS.sub("", url) if "://" in url else url


def _scp_url(value: str) -> str:
    match = _SCP_FORM.fullmatch(value)
    if match is None or "::" in value or match[2] in {"file", "http", "https", "ssh", "git"}:
        raise ValueError("not a git url that is used here: write https://host/path, ssh://user@host/path, user@host:path or file:///path")
    return value


def _network_url(value: str) -> None:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError("the git url's host or port cannot be read") from error
    user = parts.username or ""
    if not _HOST.fullmatch(host) or user.startswith("-"):
        raise ValueError("the git url names no host that can be used")
    if parts.path in {"", "/"} or parts.path.startswith("/-"):
        raise ValueError("the git url names no repository on that host")


def _loopback_url(value: str) -> None:
    _network_url(value)
    if (urlsplit(value).hostname or "") not in _LOOPBACK:
        raise ValueError("http:// can be changed on the way: write https:// (http is for this machine only)")


def _file_url(value: str) -> None:
    parts = urlsplit(value)
    if parts.netloc or not parts.path.startswith("/") or parts.path == "/" or parts.query or parts.fragment:
        raise ValueError("a file url names an absolute path of this machine: file:///srv/repo.git")


def _clock_seconds(text: str, value: object) -> float:
    """Slurm's forms with a colon or a day: D-HH[:MM[:SS]], HH:MM:SS, MM:SS."""
    match = _CLOCK_FORM.fullmatch(text)
    if match is None or (match[1] is None and match[3] is None):
        raise ValueError(f"{_shown(value)} is not a duration: write 2:00:00, 1-12:00:00 or 1h30m")
    first, second, third = int(match[2]), int(match[3] or 0), int(match[4] or 0)
    if second > 59 or third > 59:
        raise ValueError(f"{_shown(value)} has more than 59 minutes or seconds after a colon")
    if match[1] is not None:
        return int(match[1]) * 86400.0 + first * 3600.0 + second * 60.0 + third
    if match[4] is None:
        return first * 60.0 + second
    return first * 3600.0 + second * 60.0 + third


def _bounded(seconds: float, value: object) -> float:
    if not 0 <= seconds <= DURATION_MAX_S:
        raise ValueError(f"{_shown(value)} is not between 0 and ten years")
    return seconds


def _shown(value: object) -> str:
    """A value from a manifest as a message may hold it: quoted, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
