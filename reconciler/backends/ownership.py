"""Who may act in a spool, in words. Called by spool.py and cluster.py, which read and write the owner's record each in their own way."""

from __future__ import annotations

from reconciler.backends.marks import Owner, parse_owner
from reconciler.errors import NotOwner


def refuse_stranger(text: str, owner: Owner, path: str, root: str) -> None:
    """Raises NotOwner when `text`, the owner's record at `path`, names another ledger than `owner`'s, or a newer daemon, or nobody."""
    held = parse_owner(text)
    if held is None:
        raise NotOwner(f"{path} cannot be understood; if no other daemon uses {root}, remove that file")
    if held.ledger_id != owner.ledger_id:
        raise NotOwner(
            f"{root} belongs to ledger {held.ledger_id}, and this daemon has {owner.ledger_id}: "
            "use that ledger again, or give this daemon another instance name or state folder"
        )
    if held.epoch > owner.epoch:
        raise NotOwner(
            f"{root} was taken by a newer daemon of the same ledger (epoch {held.epoch}, this one has {owner.epoch}): "
            "stop one of the two; after restoring a ledger from a backup, run `reconciler recover`"
        )


def refuse_lost(text: str, owner: Owner, path: str, root: str) -> None:
    """Raises NotOwner for a spool that `owner` had taken, and whose record at `path` now says `text` ("": nothing)."""
    if not text:
        raise NotOwner(f"{path} is gone: somebody removed the spool of a running daemon; start the daemon again")
    refuse_stranger(text, owner, path, root)
    raise NotOwner(f"{path} holds an older epoch than that of this daemon; start the daemon again")
