"""The only two reads of a clock. Everything else is given `now`.

Wall-clock times are seconds since 1970 UTC as float, everywhere: in the core, the ledger and on the wire between modules.
They become RFC 3339 text only where a person reads them.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> float:
    """Seconds since 1970-01-01 UTC. May jump when the machine's clock is set."""
    return time.time()


def monotonic() -> float:
    """Seconds since some fixed moment; never jumps. For durations inside one process only."""
    return time.monotonic()


def rfc3339(at: float) -> str:
    """`at` (seconds since 1970 UTC) as `2026-11-20T18:03:11Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
