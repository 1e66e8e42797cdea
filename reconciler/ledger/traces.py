"""Is this ledger the newest that acted for its instance? Called by the composition root, and by the controller on NotOwner.

A ledger that was lost, or restored from a backup, does not know what was done since. Acting on it would run things twice. So what is
found outside of it (owner files in spools, status files) is compared with it before anything is submitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reconciler.errors import StateLost
from reconciler.ledger.rows import Identity


class Owner(NamedTuple):
    """What the owner file of a spool says; `where` names it for a person, e.g. `backend local (…/spool/lab/owner)`."""

    where: str
    ledger: str
    epoch: int


_CURE = "run `reconciler recover --replace`, which rebuilds it and runs nothing by itself, or restore the newest backup"


def check_traces(mine: Identity, owners: Sequence[Owner], status_files: Sequence[str] = ()) -> None:
    """Raise StateLost when a trace of this instance is newer than the ledger, or the ledger is empty beside one.

    `mine` is the ledger as just opened, so its epoch must be above that of every owner file. `status_files` are those of runs of
    this instance; they only count beside an empty ledger.
    """
    for where, ledger, epoch in owners:
        if ledger != mine.id:
            state = "is empty" if mine.fresh else f"is another one ({mine.id})"
            raise StateLost(f"{where} belongs to the ledger {ledger} of instance {mine.instance}, but the ledger {state}; {_CURE}")
        if epoch >= mine.epoch:
            raise StateLost(f"{where} has seen epoch {epoch} of this ledger, which is only at {mine.epoch}: it is an old copy; {_CURE}")
    if mine.fresh and status_files:
        more = f" and {len(status_files) - 1} more" if len(status_files) > 1 else ""
        cure = f"{_CURE}; to begin anew on purpose, delete these files first"
        raise StateLost(f"the ledger is empty, but runs of instance {mine.instance} exist ({status_files[0]}{more}); {cure}")
