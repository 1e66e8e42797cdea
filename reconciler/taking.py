"""Making the far side of a backend ours, unless what is found there speaks against it. Called by daemon.py, before a backend's first look.

Every place has an owner's record: which ledger acts there, and the epoch of the daemon that does. A record that is newer than our ledger
proves that the ledger is an old copy (StateLost: the daemon stops). The same epoch is either our own word, when an answer was lost or the
backend was made anew, or that of a copy that was started as often as we were.
"""

from __future__ import annotations

from reconciler.errors import NotOwner
from reconciler.ledger import Ledger, check_traces
from reconciler.ledger.traces import Owner
from reconciler.places import Station


class Takings:
    """What this daemon has taken. One for a process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._owned: set[str] = set()  # places where our own word may stand
        self._holders: dict[str, Station] = {}  # by place: the backend that has it

    async def take(self, station: Station, live: int) -> None:
        """Make a place ours. `live`: how many jobs the ledger knows of there.

        Raises StateLost, Unreachable, and NotOwner when another has it, or nothing is left of what should be there.
        """
        where, mine = station.where, self._ledger.identity
        holder = self._holders.get(where, station)
        if holder.spec.name != station.spec.name:
            words = f"{where} is the spool of Backend {holder.spec.name} already"
            raise NotOwner(f"{words}; give each a spool of its own")
        self._holders[where] = station
        held = await station.owner_there()
        if held is None and live:
            lost = f"{where} holds nothing of ours, but the ledger knows of {live} live jobs there"
            raise NotOwner(f"{lost}; put it back where it was, or give those jobs up as lost with `reconciler recover --replace`")
        if held is not None and (held.ledger_id, held.epoch) != (mine.id, mine.epoch):
            check_traces(mine, [Owner(f"backend {station.spec.name} ({where}/owner)", held.ledger_id, held.epoch)])
        elif held is not None and where not in self._owned:
            self._judge_same(station)
        self._owned.add(where)  # before it is written: the answer may be lost
        await station.own()

    def _judge_same(self, station: Station) -> None:
        """Our very epoch stands where we have not written it, as far as we know."""
        mine, where = self._ledger.identity, station.where
        if not self._owned:
            check_traces(mine, [Owner(f"backend {station.spec.name} ({where}/owner)", mine.id, mine.epoch)])
        known = ", ".join(sorted(self._owned))
        raise NotOwner(
            f"{where} was taken by this daemon under another name ({known}), or by one with a copy of its ledger: give each Backend a spool"
            " of its own, or, if its document only has a new name for the same place, restart the daemon"
        )

    def let_go(self, station: Station) -> None:
        """This backend does not use its place any more."""
        if self._holders.get(station.where) is station:
            del self._holders[station.where]
