"""One object as the ledger keeps it for the read verbs, and what a change of it is worth. Pure; called by report.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.clock import utc_now
from reconciler.core.codec import Json
from reconciler.core.desired import Place
from reconciler.core.names import digest_of
from reconciler.core.record import Event
from reconciler.core.summary import Condition, Truth
from reconciler.ledger.rows import ObjectRow
from reconciler.log import EventName
from reconciler.manifest.assemble import Key

_EVENTS: Mapping[tuple[str, str], EventName] = {
    ("Source", "Reconciled"): EventName.SOURCE_FETCHED,
    ("Source", "Unreachable"): EventName.SOURCE_UNREACHABLE,
    ("Source", "Refused"): EventName.SOURCE_REFUSED,
    ("Source", "InvalidManifests"): EventName.MANIFEST_PROBLEM,
    ("Settings", "InvalidManifests"): EventName.MANIFEST_PROBLEM,
    ("Workflow", "InvalidManifest"): EventName.MANIFEST_PROBLEM,
    ("Workflow", "TooManyRuns"): EventName.APPROVAL_NEEDED,
    ("Workflow", "TooLarge"): EventName.APPROVAL_NEEDED,
    ("Run", "TooManyRuns"): EventName.APPROVAL_NEEDED,
    ("Run", "TooLarge"): EventName.APPROVAL_NEEDED,
    ("Backend", "Reconciled"): EventName.BACKEND_REACHABLE,
    ("Backend", "Unreachable"): EventName.BACKEND_UNREACHABLE,
    ("Backend", "NotOwner"): EventName.BACKEND_NOT_OWNED,
}


def row_of(key: Key, place: Place | None, said: Mapping[str, object], before: ObjectRow, digest: str = "") -> ObjectRow:
    """The row after `before`. `place` None and `digest` "": as before. The document it came from stays what it was."""
    kind, name = key
    where = place or Place(before.source, before.file, before.line, before.commit, before.revision)
    known = digest or before.digest
    return ObjectRow(
        kind=kind,
        name=name,
        source=where.source,
        file=where.file,
        line=where.line,
        commit=where.commit,
        revision=where.revision,
        digest=known or _no_digest(key),
        generation=before.generation + (known != before.digest or not before.generation),
        body=before.body,
        status=plain(said),
        updated_at=utc_now(),
    )


def was_valid(row: ObjectRow) -> bool:
    """Whether a version of this object was in force once, as far as its row tells."""
    return row.digest not in ("", _no_digest((row.kind, row.name)))


def _no_digest(key: Key) -> str:
    """What stands for a digest where there is none."""
    return digest_of("/".join(key))


def plain(value: object) -> Json:
    """As JSON has it, so that what was stored equals what is said."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def said_of(row: ObjectRow) -> dict[str, Json]:
    """What was said of an object besides its conditions; {} when nothing was."""
    status = row.status if isinstance(row.status, dict) else {}
    return {key: value for key, value in status.items() if key != "conditions"}


def event_of(key: Key, before: tuple[Condition, ...], after: tuple[Condition, ...]) -> Event | None:
    """The event that a change of Ready is worth; None for a change of words, or one that runs tell better."""
    kind, name = key
    old = next((each for each in before if each.type == "Ready"), None)
    new = next((each for each in after if each.type == "Ready"), None)
    same = ("status", "reason", "observed_generation")
    if new is None or (old is not None and all(getattr(old, each) == getattr(new, each) for each in same)):
        return None
    event = _EVENTS.get((kind, new.reason))
    return Event(utc_now(), event, "", "", new.message, f"{kind}/{name}") if event else None


def conditions_of(row: ObjectRow) -> tuple[Condition, ...]:
    """The conditions that an earlier daemon stored, so that their times are kept. Only what is well-formed counts."""
    stored = row.status.get("conditions") if isinstance(row.status, dict) else None
    found = []
    for each in stored if isinstance(stored, list) else ():
        if isinstance(each, dict) and each.get("status") in {truth.value for truth in Truth}:
            texts = {key: str(each.get(key, "")) for key in ("type", "reason", "message", "observed_generation")}
            since = _seconds(each.get("last_transition_time"))
            found.append(Condition(status=Truth(str(each["status"])), last_transition_time=since, **texts))
    return tuple(found)


def _seconds(text: object) -> float:
    """Seconds since 1970 of an RFC 3339 time of ours; 0.0 when it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
