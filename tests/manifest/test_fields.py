"""The forms of single values."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.manifest import fields

HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("500ms", 0.5),
        ("5m", 300),
        ("1h30m", 1.5 * HOUR),
        ("1.5h", 1.5 * HOUR),
        ("7d", 7 * 24 * HOUR),
        ("2w", 14 * 24 * HOUR),
        ("1d2h3m4s", 26 * HOUR + 184),
        ("0s", 0),
        ("2:00:00", 2 * HOUR),
        ("1-00:00:00", 24 * HOUR),
        ("90:00", 5400),
        ("1-12", 36 * HOUR),
        ("1-12:30", 36.5 * HOUR),
        (" 1h ", HOUR),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a sum of numbers with units, or a clock form, in seconds."""
    assert fields.duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "30",
        "-5m",
        "5 minutes",
        "1m5h",
        "1e309h",
        "nan",
        "nanh",
        "infs",
        "9" * 400 + "h",
        "99999w",
        "1:60:00",
        "::",
        "1-",
        "-1",
        "٣s",
        "0x10s",
        30,
        30.0,
        True,
        None,
        [],
        float("nan"),
        "s",
        "h1",
        "1hh",
        "--1",
        "1--2",
    ],
)
def test_what_is_no_duration(value: object) -> None:
    """Numbers without a unit, negative, endless and absurd durations are refused in words."""
    with pytest.raises(ValueError, match=r"duration|between|minutes or seconds"):
        fields.duration(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("1:00:00", 3600),
        ("00:05:00", 300),
        ("30:00", 1800),
        ("90m", 5400),
        ("1-00", 86400),
        ("1500ms", 2),
        ("1s", 1),
    ],
)
def test_time_limits(value: object, seconds: int) -> None:
    """A time limit's number alone is minutes, as Slurm means it; fractions of a second are rounded up."""
    assert fields.time_limit(value) == seconds


@pytest.mark.parametrize("value", [0, "0", "0:00", "500ms", -1, "UNLIMITED", "infinite", True, 10**30, "1" * 400, 1.5])
def test_what_is_no_time_limit(value: object) -> None:
    """A task has an end, and it is not zero."""
    with pytest.raises(ValueError, match=r"."):
        fields.time_limit(value)


@pytest.mark.parametrize(
    ("value", "megabytes"),
    [
        ("4G", 4096),
        ("4GB", 4096),
        ("4GiB", 4096),
        ("4g", 4096),
        ("512M", 512),
        ("1.5G", 1536),
        ("2T", 2 * 1024**2),
        (4096, 4096),
        ("4096", 4096),
        ("100K", 1),
        ("1K", 1),
        (0.5, 1),
        ("4 G", 4096),
        ("1P", 1024**3),
    ],
)
def test_memory(value: object, megabytes: int) -> None:
    """Memory has a unit or is mebibytes, and is rounded up."""
    assert fields.memory(value) == megabytes


@pytest.mark.parametrize(
    "value",
    [
        "",
        "G",
        "-4G",
        "4X",
        "4GG",
        "nan",
        "1e9",
        "inf",
        "0",
        0,
        "0G",
        "2P",
        10**30,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        "4G;rm",
        "9" * 50,
    ],
)
def test_what_is_no_memory(value: object) -> None:
    """Negative, zero, endless and absurd amounts are refused."""
    with pytest.raises(ValueError, match=r"memory|amount|more than"):
        fields.memory(value)


@given(st.text(max_size=40) | st.integers() | st.floats() | st.booleans() | st.none())
def test_no_value_breaks_a_form(value: object) -> None:
    """Whatever a manifest holds, a form gives a sane number or says ValueError; nothing else."""
    for form, low, high in (
        (fields.duration, 0, fields.DURATION_MAX_S),
        (fields.time_limit, 1, fields.DURATION_MAX_S),
        (fields.memory, 1, fields.MEMORY_MAX_MB),
        (fields.point_in_time, -1e12, 1e12),
    ):
        try:
            number = form(value)
        except ValueError:
            continue
        assert math.isfinite(number)
        assert low <= number <= high


def test_times() -> None:
    """A time is RFC 3339 with its offset, and becomes seconds since 1970."""
    nine = datetime(2026, 12, 1, 9, tzinfo=UTC).timestamp()
    assert fields.point_in_time("2026-12-01T09:00:00Z") == nine
    assert fields.point_in_time("2026-12-01t10:00:00.000+01:00") == nine
    assert fields.point_in_time(datetime(2026, 12, 1, 9, tzinfo=UTC)) == nine


@pytest.mark.parametrize(
    "value", ["2026-12-01", "2026-12-01T09:00:00", "tomorrow", "2026-13-01T00:00:00Z", "9999999-01-01T00:00:00Z", 5, datetime(2026, 1, 1)]
)
def test_what_is_no_time(value: object) -> None:
    """A time without offset means another moment to everybody; it is refused."""
    with pytest.raises(ValueError, match="time"):
        fields.point_in_time(value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.git",
        "https://user:token@example.org:8443/a/b",
        "ssh://git@example.org/a",
        "ssh://git@[::1]:2222/a",
        "git@example.org:a/b.git",
        "example.org:a",
        "file:///srv/a.git",
        "http://127.0.0.1:8000/a.git",
        "http://localhost/a",
        "git@example.org:~user/a",
    ],
)
def test_git_urls(url: str) -> None:
    """https, ssh, the short form of ssh, absolute files, and http on this machine are taken as they are."""
    assert fields.git_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ext::sh -c true",
        "ext::sh",
        "-oProxyCommand=x",
        "--upload-pack=x",
        "ssh://-oProxyCommand=x/a",
        "ssh://-oProxyCommand=x@h/a",
        "-u@h:a",
        "git@-oProxyCommand=x:a",
        "h:-oX",
        "http://example.org/a",
        "ftp://example.org/a",
        "git://example.org/a",
        "file:srv",
        "file://host/srv",
        "file://srv",
        "/srv/a.git",
        "../a",
        "a",
        "https://",
        "https:///a",
        "https://example.org",
        "https://example.org/",
        "https://h:99999/a",
        "https://[::1/a",
        "ssh://h/-x",
        "https://exa mple.org/a",
        "https://h/a\n",
        "https://h/\x00",
        "fd::17/a",
        "transport::h:a",
        "C:\\a",
        "ssh://h;x/a",
        "ssh://$(x)/a",
        "git@h:a'b",
        "git@h:a;b",
        "ssh://h/a`b`",
        None,
        5,
    ],
)
def test_refused_git_urls(url: object) -> None:
    """What git or ssh would read as a command, an option or an unprotected address is refused."""
    with pytest.raises(ValueError, match=r"git url|http://|file url"):
        fields.git_url(url)


@pytest.mark.parametrize("url", ["https://bob:s3cret@h:1:2/a b", "ext::s3cret", "https://s3cret@", "http://u:s3cret@example.org/a"])
def test_a_refusal_tells_no_secret(url: str) -> None:
    """What is wrong with a url is said without the url."""
    with pytest.raises(ValueError, match=r".") as refusal:
        fields.git_url(url)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://bob:s3cret@h/a", "https://***@h/a"),
        ("https://s3cret@h/a?x=1", "https://***@h/a?***"),
        ("https://a@s3cret@h/a", "https://***@h/a"),
        ("https://h/a", "https://h/a"),
        ("git@h:a", "git@h:a"),
        ("s3cret@h:a", "***@h:a"),
        ("file:///srv/a", "file:///srv/a"),
        ("", ""),
    ],
)
def test_urls_that_are_printed(url: str, shown: str) -> None:
    """A printed url holds no credentials."""
    assert fields.redact_url(url) == shown


def test_urls_that_jobs_see() -> None:
    """Jobs get the url without the daemon's credentials."""
    assert fields.public_url("https://bob:s3cret@h/a") == "https://h/a"
    assert fields.public_url("git@h:a") == "git@h:a"
