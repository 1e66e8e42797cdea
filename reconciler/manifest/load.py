"""Files -> documents, each checked by the model of its kind, or problems with file:line:column. Called by assemble.py and the verbs.

Every problem of a file is found at once. A bad document never hurts its neighbours: it is named in `failed`, so that its last good
version can stay in force. A file whose content did not change is never read twice: reading YAML is the slowest thing the daemon does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Protocol

from pydantic import ValidationError

from reconciler.core.desired import Place
from reconciler.core.names import OBJECT_NAME
from reconciler.errors import Problem
from reconciler.jsonfile import parse_json
from reconciler.manifest.complaints import complaints, nearest, shown
from reconciler.manifest.schema import API_VERSION, KINDS, Manifest, TaskList
from reconciler.yamlfile import parse
from reconciler.yamltree import PROBLEMS_MAX, Parsed, ParsedDocument, Plain

WORKFLOW = "Workflow"
#: Files remembered by a Loader. Two sources at the limit of documents, one a file, fit.
FILES_REMEMBERED = 20_000
#: pydantic needs 1 KB and some microseconds for each error, so a hostile file must not be able to make half a million.
_ERRORS_MAX = 50_000
_LARGE_BYTES = 50_000
_FIRST_ENTRIES = 1_000


class BlobLike(Protocol):
    """Bytes with the name of their content (sources.base.Blob): equal id, equal bytes."""

    @property
    def id(self) -> str: ...

    @property
    def data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Document:
    """One valid document. `place` has no commit and no revision: whoever knows them fills them in.

    `name` is as written, without the source in front. A task-list file has kind Workflow, its path as name, and a TaskList as `model`.
    """

    kind: str
    name: str
    model: Manifest | TaskList
    place: Place
    _data: bytes = field(repr=False, compare=False)
    _index: int = field(repr=False, compare=False)

    @property
    def is_task_list(self) -> bool:
        """Whether it is a task-list file of ScriptHut and not a manifest."""
        return isinstance(self.model, TaskList)

    @property
    def raw(self) -> Plain:
        """The plain data, as written. Reads the file again: for errors and people, not for every look."""
        return self._parsed().data

    def problem(self, path: Sequence[str | int], message: str, cure: str = "") -> Problem:
        """A Problem at the value at `path` (from the document's root; of a task-list file, from `tasks`), or at the nearest around it."""
        parsed = self._parsed()
        file = _shown_file(self.place.source, self.place.file)
        return Problem(file, *parsed.at(_in_file(parsed, path)), f"{self.kind}/{self.name}", message, cure)

    def _parsed(self) -> ParsedDocument:
        return _parse_again(self._data, self.place.file).documents[self._index]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one file says. `failed` names (kind, name) of documents that are there but not valid.

    `names_unknown`: the file may hold objects that nobody can name, so all that it held before must stay in force.
    """

    file: str
    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    failed: frozenset[tuple[str, str]] = frozenset()
    names_unknown: bool = False


class Loader:
    """Reads files, and remembers what it read by content. Not safe to share between threads."""

    def __init__(self, files: int = FILES_REMEMBERED) -> None:
        self._known: OrderedDict[tuple[str, str, str], Loaded] = OrderedDict()
        self._files = files

    def load(self, path: str, blob: BlobLike, *, source: str) -> Loaded:
        """As `load_file`; the very same object as long as path, content and source are the same."""
        key = (source, path, blob.id)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = load_file(path, blob, source=source)
        self._known.move_to_end(key)
        while len(self._known) > self._files:
            self._known.popitem(last=False)
        return found


def load_file(path: str, blob: BlobLike, *, source: str) -> Loaded:
    """Read one file of `source` ("" for the operator's own folder). Never raises.

    `.yaml` and `.yml` (in any case) are manifests, `.json` is a ScriptHut task-list file, anything else is refused.
    """
    ending = path.lower().rpartition(".")[2] if "." in path else ""
    if ending not in ("yaml", "yml", "json"):
        problem = Problem(_shown_file(source, path), 0, 0, "", "this file is neither YAML nor JSON", "leave it out of the Source's include")
        return Loaded(path, problems=(problem,), names_unknown=True)
    reading = _Reading(path, source, blob.data, _parse(blob.data, path))
    return reading.task_list() if ending == "json" else reading.manifests()


def _parse(data: bytes, path: str) -> Parsed:
    return parse_json(data, path) if path.lower().endswith(".json") else parse(data, path)


#: Positions are big and rarely asked for after loading, so a document keeps its bytes and finds them again.
_parse_again = lru_cache(maxsize=2)(_parse)


def _shown_file(source: str, path: str) -> str:
    return f"{source}:{path}" if source else path


def _in_file(document: ParsedDocument, path: Sequence[str | int]) -> Sequence[str | int]:
    """Where `path` is in the file: of a bare task list, without the `tasks` that the model puts in front."""
    return path[1:] if isinstance(document.data, list) else path


@dataclass(slots=True)
class _Reading:
    """One file while it is read."""

    path: str
    source: str
    data: bytes
    parsed: Parsed
    documents: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failed: set[tuple[str, str]] = field(default_factory=set)
    unknown: bool = False
    more: int = 0  # problems beyond the most that are told; only counted, because finding words for each takes a millisecond

    def manifests(self) -> Loaded:
        """What a YAML file says."""
        self.unknown = self.parsed.broken
        for index, document in enumerate(self.parsed.documents):
            self._manifest(index, document)
        return self._loaded()

    def task_list(self) -> Loaded:
        """What a task-list file says: one Workflow, whose name is known whatever is in the file."""
        for index, document in enumerate(self.parsed.documents):
            self._checked(index, document, TaskList, (WORKFLOW, self.path))
        if self.parsed.broken:
            self.failed.add((WORKFLOW, self.path))
        return self._loaded()

    def _loaded(self) -> Loaded:
        if self.parsed.refusal:
            self.problems.append(self.parsed.refusal)
        shown_file = _shown_file(self.source, self.path)
        more = self.more + max(0, len(self.problems) - PROBLEMS_MAX)
        in_order = sorted(self.problems, key=lambda problem: (problem.line, problem.column))
        kept = [replace(problem, file=shown_file) for problem in in_order[:PROBLEMS_MAX]]
        if more > 0:
            kept.append(Problem(shown_file, 0, 0, "", f"at least {more:,} more problems in this file"))
        return Loaded(self.path, tuple(self.documents), tuple(kept), frozenset(self.failed), self.unknown)

    def _manifest(self, index: int, document: ParsedDocument) -> None:
        identity = _identity(document.data)
        if identity is None:
            self.unknown = True
            subject = ""
        else:
            self.failed.add(identity)  # taken back when the document turns out to be valid
            subject = "/".join(identity)
        kind = self._kind(document, subject)
        if kind is not None:
            self._checked(index, document, KINDS[kind], identity)
        elif document.problems:
            self.problems.extend(replace(problem, subject=subject) for problem in document.problems)

    def _kind(self, document: ParsedDocument, subject: str) -> str | None:
        """The kind, when the envelope is right; else None, and the problem is told."""
        data = document.data
        if not isinstance(data, dict):
            cure = "write apiVersion, kind, metadata and spec, each on a line of its own"
            self._tell(document, (), False, subject, "a manifest is a mapping", cure)
        elif "apiVersion" not in data:
            cure = f"add apiVersion: {API_VERSION}, or leave the file out of what is included"
            self._tell(document, (), False, subject, f"{self.path} is not a manifest: it has no apiVersion", cure)
        elif data["apiVersion"] != API_VERSION:
            given = shown(data["apiVersion"])
            self._tell(document, ("apiVersion",), False, subject, f"apiVersion must be {API_VERSION}, not {given}", f"write {API_VERSION}")
        elif "kind" not in data:
            self._tell(document, (), False, subject, "kind is missing", f"add kind: one of {', '.join(KINDS)}")
        elif not isinstance(data["kind"], str) or data["kind"] not in KINDS:
            cure = nearest(str(data["kind"]), tuple(KINDS)) if len(self.problems) < PROBLEMS_MAX else ""
            self._tell(document, ("kind",), False, subject, f"unknown kind {shown(data['kind'])}", cure)
        else:
            return data["kind"]
        return None

    def _checked(
        self, index: int, document: ParsedDocument, model: type[Manifest] | type[TaskList], identity: tuple[str, str] | None
    ) -> None:
        subject = "/".join(identity) if identity else ""
        found = [replace(problem, subject=subject) for problem in document.problems]
        made = self._validated(document, model, subject) if not found else None
        if made is not None and identity is not None:
            place = Place(self.source, self.path, document.line)
            self.documents.append(Document(*identity, made, place, self.data, index))
            self.failed.discard(identity)
            return
        self.problems.extend(found)
        if identity is not None:
            self.failed.add(identity)

    def _validated(self, document: ParsedDocument, model: type[Manifest] | type[TaskList], subject: str) -> Manifest | TaskList | None:
        made: Manifest | TaskList | None = None
        try:
            if len(self.data) > _LARGE_BYTES:
                model.model_validate(_cut(document.data))
            made = model.model_validate(document.data)
        except ValidationError as error:
            self._tell_all(document, model, subject, error)
        return made

    def _tell_all(self, document: ParsedDocument, model: type[Manifest] | type[TaskList], subject: str, error: ValidationError) -> None:
        count, room = error.error_count(), max(0, PROBLEMS_MAX - len(self.problems))
        if count > _ERRORS_MAX:
            self._tell(document, (), False, subject, f"{count:,} fields are not valid, too many to look at", "check the first few")
            return
        for path, about_key, message, cure in islice(complaints(model, error), room):
            self._tell(document, _in_file(document, path), about_key, subject, message, cure)
        self.more += max(0, count - room)

    def _tell(self, document: ParsedDocument, path: Sequence[str | int], about_key: bool, subject: str, message: str, cure: str) -> None:
        at = document.key_at(path) if about_key else document.at(path)
        self.problems.append(Problem(self.path, *at, subject, message, cure))


def _cut(data: Plain) -> Plain:
    """`data` with every list cut to its first entries: what is wrong in them is told without looking at all the others."""
    if isinstance(data, dict):
        return {key: _cut(value) for key, value in data.items()}
    return [_cut(entry) for entry in data[:_FIRST_ENTRIES]] if isinstance(data, list) else data


def _identity(data: Plain) -> tuple[str, str] | None:
    """(kind, name) of a document, valid or not, or None when it cannot be told."""
    if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
        return None
    kind, metadata = data.get("kind"), data["metadata"]
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(name, str) or not OBJECT_NAME.fullmatch(name):
        return None
    return kind, name
