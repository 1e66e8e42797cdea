"""Retention where jobs ran: every backend that keeps files of a run forgets it after the ledger did. Made by daemon.py.

The ledger remembers which runs are still kept somewhere, so nothing here must succeed at once: one backend that cannot be reached,
or a stop in between, only means that the next pass asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from reconciler.backends.base import Cleaner
from reconciler.errors import BackendError
from reconciler.log import EventName

log = structlog.get_logger(__name__)

#: From run ids, each with the names of its backends, to those of which no backend keeps anything any more.
Clean = Callable[[Mapping[str, Collection[str]]], Awaitable[Collection[str]]]


async def clean_everywhere(cleaners: Mapping[str, Cleaner], runs: Mapping[str, Collection[str]]) -> list[str]:
    """Ask each backend of `cleaners` to forget its own of `runs`; those that each of theirs has forgotten.

    A run of a backend that is not there now is kept: its document may come back. What a backend raises is logged, and hurts no other.
    """
    left = {run: set(names) for run, names in runs.items()}
    for name, cleaner in cleaners.items():
        mine = [run for run, names in left.items() if name in names]
        for run in await _cleaned(name, cleaner, mine) if mine else ():
            left[run].discard(name)
    return [run for run, names in left.items() if not names]


async def _cleaned(name: str, cleaner: Cleaner, runs: list[str]) -> Collection[str]:
    try:
        return await cleaner.clean(runs)
    except BackendError as error:
        log.warning(EventName.OBJECT_FAILED, kind="Backend", name=name, verb="clean", reason=str(error))
    except Exception:  # one backend's bug must not keep the others from being cleaned
        log.exception(EventName.OBJECT_FAILED, kind="Backend", name=name, verb="clean")
    return ()
