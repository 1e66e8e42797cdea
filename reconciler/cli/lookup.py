"""What a person's word for a thing means: a run by id, start of an id or workflow; an object by name or Kind/name.

Used by every verb that takes RUN, TASK or OBJECT. Raises NotFound, with the nearest names, when there is no such thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from reconciler.cli.output import no_such
from reconciler.errors import ReconcilerError
from reconciler.ledger.read import LedgerReader
from reconciler.ledger.rows import ObjectRow, RunRow, StoredRun

KINDS = ("Settings", "Backend", "Source", "Notification", "Stack", "Workflow", "Run")
#: A start of an id shorter than this is more likely a name.
_PREFIX_LENGTH_MIN = 4
_ID_PREFIX = re.compile(rf"[0-9a-f]{{{_PREFIX_LENGTH_MIN},12}}")
#: Runs looked through for names that are near a mistyped one.
_NEAR_RUNS = 500


def kind_of(word: str) -> str | None:
    """`workflows`, `Workflow` and `workflow` are the kind Workflow; None for a word that is no kind."""
    lower = word.lower()
    return next((kind for kind in KINDS if lower in (kind.lower(), f"{kind.lower()}s")), None)


def split(word: str) -> tuple[str, str]:
    """(kind, name) of `Kind/name`; kind "" when the part before the first slash is none (`<source>/<name>` is a name).

    Raises UsageError for an empty word: a script's unset variable must not mean the newest run.
    """
    if not word.strip():
        raise click.UsageError("an empty name means nothing; name a run or an object")
    before, slash, after = word.partition("/")
    kind = kind_of(before) if slash and after else None
    return (kind, after) if kind else ("", word)


def find_run(reader: LedgerReader, word: str) -> RunRow:
    """The run that `word` means: an id, the start of one, or a workflow's name (its newest run)."""
    run = try_run(reader, word)
    if run is not None:
        return run
    workflows = {row.name for row in reader.objects("Workflow")}
    kind, name = split(word)
    if name in workflows and kind in ("", "Workflow"):
        raise ReconcilerError(f"workflow {name} never had a run; `reconciler why {name}` says what it waits for")
    recent = reader.runs(_NEAR_RUNS)
    no_such("run", word, [*workflows, *(row.workflow for row in recent), *(row.id for row in recent)])


def try_run(reader: LedgerReader, word: str) -> RunRow | None:
    """As `find_run`, None when there is no such run."""
    kind, name = split(word)
    if kind in ("", "Workflow", "Run"):
        newest = reader.newest_run(name)
        if newest is not None:
            return newest
    if kind in ("", "Run") and _ID_PREFIX.fullmatch(name):
        return reader.run(name)
    return None


def find_stored(reader: LedgerReader, word: str) -> StoredRun:
    """The run that `word` means, with its tasks."""
    row = find_run(reader, word)
    stored = reader.stored(row.id)
    if stored is None or row.pruned:
        raise ReconcilerError(f"the tasks of run {row.id} are no longer kept (the Settings' retention); it ended {row.phase}")
    return stored


def find_task(stored: StoredRun, word: str) -> str:
    """The id of the task of a run."""
    if word not in stored.records:
        no_such(f"task in run {stored.run.id}", word, stored.records)
    return word


def find_objects(reader: LedgerReader, word: str, kinds: Iterable[str] = KINDS) -> list[ObjectRow]:
    """The objects of `kinds` that `word` means, by their qualified names; empty when there are none."""
    kind, name = split(word)
    return [row for row in reader.objects(kind) if row.name == name and row.kind in kinds]
