"""What OBJECT of a verb that writes means: a document of the trusted folder, an object from elsewhere, or a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.cli.folder import Trusted, manifest_files
from reconciler.cli.lookup import find_objects, split, try_run
from reconciler.cli.output import no_such
from reconciler.errors import ReconcilerError
from reconciler.ledger.rows import ObjectRow, RunRow


@dataclass(frozen=True, slots=True)
class Here:
    """A document in a YAML file of the trusted folder."""

    path: Path
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An object that the daemon knows, whose document is not ours to edit: it comes from a Source, or is a task-list file."""

    row: ObjectRow


def find(trusted: Trusted, word: str, kinds: Sequence[str]) -> Here | Elsewhere | RunRow:
    """What `word` means among `kinds`, and as a run. Raises NotFound when it is nothing, ReconcilerError when it is several things."""
    kind, name = split(word)
    here = [document for document in documents(trusted.path, name) if document.kind in kinds and kind in ("", document.kind)]
    if len({(document.kind, document.path) for document in here}) > 1:
        told = ", ".join(f"{document.kind}/{document.name} in {document.path}" for document in here)
        raise ReconcilerError(f"{word} is several things ({told}); say which as Kind/name, or mend the duplicate")
    if here:
        return here[0]
    with trusted.reader() as reader:
        elsewhere = find_objects(reader, word, kinds)
        if elsewhere:
            return Elsewhere(elsewhere[0])
        run = try_run(reader, word)
        if run is not None:
            return run
        known = [row.name for row in reader.objects() if row.kind in kinds] + [row.id for row in reader.runs(200)]
    no_such(kind.lower() or "object", name, [*known, *(document.name for document in documents(trusted.path))])


def documents(folder: Path, name: str | None = None) -> Iterator[Here]:
    """The documents in the YAML files of a folder, also invalid ones; those called `name`, or all."""
    from reconciler.yamlfile import parse

    for path, data in manifest_files(folder):
        if name is not None and name.encode() not in data:
            continue  # reading YAML is slow
        for document in parse(data, str(path)).documents:
            found = _identity(document.data)
            if found is not None and name in (None, found[1]):
                yield Here(path, *found)


def _identity(data: object) -> tuple[str, str] | None:
    """(kind, name) as written; None for what is no manifest, such as a status file."""
    if not isinstance(data, dict) or "spec" not in data or not isinstance(data.get("metadata"), dict):
        return None
    kind, name = data.get("kind"), data["metadata"].get("name")
    return (kind, name) if isinstance(kind, str) and isinstance(name, str) else None
