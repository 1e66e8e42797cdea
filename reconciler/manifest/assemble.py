"""Everything that the operator's folder and all sources say, as one desired state. Pure; called by intake.py when a tree changed.

    view(name, tree, loader)                     one tree, read
    assemble(operator, sources, previous, site)  -> Desired

Call it first with no sources: it says which there are (`Desired.sources`). A source that was never looked at is no empty source:
what it held before stays in force. `previous` is the `good` of the Desired before (empty at start; objects that the ledger knows
of can be put in with `value=None`, so that the deletion guard sees them).

Rules kept here: names are qualified by source; a source declares only the kinds and uses only the backends that its Source
allows; of two documents with one name neither runs; a document that is bad now stalls and leaves its last good version in force;
a document that moved to another file is the same object; a tree that removes too much removes nothing until it is approved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from reconciler.core.desired import RunRequest
from reconciler.core.trigger import Gate, Limits, too_many_gone
from reconciler.errors import Problem
from reconciler.manifest import fields, schema
from reconciler.manifest.environment import DeclaredRevision, Surroundings, layer_of
from reconciler.manifest.load import Document, Loaded
from reconciler.manifest.origin import (
    LOCAL,
    RUNS_PER_COMMIT,
    Choice,
    DeclaredBackend,
    DeleteGuard,
    Origin,
    SourceSpec,
    gate_of,
    guard_of,
    limits_of,
)
from reconciler.manifest.resolve import (
    Resolution,
    default_backend,
    paths_of,
    resolve_backend,
    resolve_request,
    resolve_source,
    resolve_workflow,
)
from reconciler.manifest.view import SourceView as SourceView
from reconciler.manifest.view import shown_path
from reconciler.manifest.view import view as view

#: (kind, qualified name) of an object.
Key = tuple[str, str]
#: Kinds that only the operator declares. The other four may come from a source, if its Source allows them.
OPERATOR_KINDS = frozenset({"Settings", "Backend", "Source", "Notification"})


@dataclass(frozen=True, slots=True)
class Server:
    """What of the Settings matters here."""

    around: Surroundings
    limits: Limits
    guard: DeleteGuard


Value = DeclaredRevision | RunRequest | DeclaredBackend | SourceSpec | Server


@dataclass(frozen=True, slots=True)
class LastGood:
    """The last good version of an object, in force until a better one comes. `value` None: only its existence is known.

    `file` is where it stood. `model` and `basis` are what it was made from, so that it need not be made again; `warnings` its own.
    """

    kind: str
    name: str
    source: str
    file: str
    value: Value | None
    warnings: tuple[str, ...] = ()
    model: object = field(default=None, repr=False, compare=False)
    basis: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Site:
    """What must be known of this machine: its processors, and the folders that the daemon writes to (absolute)."""

    cpus: int
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state. All names are qualified: `diamond`, or `<source>/diamond`, or `<source>/<path of a task-list file>`.

    `workflows`, `requests`, `backends`, `sources` hold what is in force, also last good versions. `around`, `limits`, `gates` are
    for `make_tasks` and core/trigger.py. `problems` is everything wrong, sorted. `stalled` holds, by object, why a person must act
    (the rest of its problems are in `problems`); `warnings` hold nothing back. `gone`: objects that `previous` had and that were
    removed. `good`: hand it in as `previous` next time. `present`: objects that are declared, well or badly.
    `settled`: sources ("" for the operator's) of which everything is known, so that what is not present is gone.
    """

    workflows: Mapping[str, DeclaredRevision]
    requests: Mapping[str, RunRequest]
    backends: Mapping[str, DeclaredBackend]
    sources: Mapping[str, SourceSpec]
    around: Surroundings
    limits: Limits
    gates: Mapping[str, Gate]
    problems: tuple[Problem, ...]
    stalled: Mapping[Key, Problem]
    warnings: Mapping[Key, tuple[str, ...]]
    gone: Mapping[Key, LastGood]
    good: Mapping[Key, LastGood]
    present: frozenset[Key]
    settled: frozenset[str]

    def is_gone(self, kind: str, name: str, source: str) -> bool:
        """Whether it is certain that nobody declares this object any more; also true of one that nobody ever declared.

        `source` is where it came from (`Run.place.source`). False while the source was not looked at, or cannot be read in full.
        """
        if (kind, name) in self.present:
            return False
        undeclared = bool(source) and ("Source", source) not in self.present
        return source in self.settled or (undeclared and "" in self.settled)

    def allowed(self, source: str) -> frozenset[str] | None:
        """The backends that documents of `source` may use; None: all. A source that is not declared may use none."""
        if not source:
            return None
        spec = self.sources.get(source)
        return _allowed(spec, Choice(frozenset(self.backends))) if spec else frozenset()


def assemble(operator: SourceView, sources: Mapping[str, SourceView], previous: Mapping[Key, LastGood], site: Site) -> Desired:
    """The desired state. Never raises for what a document says: that becomes Problems. See the module for the rest."""
    return _Assembly(operator, sources, previous, site).desired()


_Made = TypeVar("_Made", bound=Value)


@dataclass(frozen=True, slots=True)
class _Found:
    """One document, and the tree it is in."""

    document: Document
    view: SourceView


class _Assembly:
    """One call of `assemble`, while it goes on: Settings first, then backends, sources, and what the sources brought."""

    def __init__(self, operator: SourceView, sources: Mapping[str, SourceView], previous: Mapping[Key, LastGood], site: Site) -> None:
        self.views = {"": operator, **sources}
        self.previous = previous
        self.site = site
        self.documents: dict[Key, list[_Found]] = {}
        self.failed: dict[Key, tuple[str, Problem]] = {}  # by object: its source, what is wrong
        self.unknown: dict[tuple[str, str], Problem | None] = {}  # by (source, file): what may hold objects that nobody can name
        self.problems: dict[Problem, None] = {}
        self.stalled: dict[Key, Problem] = {}
        self.warnings: dict[Key, tuple[str, ...]] = {}
        self.good: dict[Key, LastGood] = {}
        self.gone: dict[Key, LastGood] = {}
        self.guarded: set[str] = set()
        self.blobs: dict[tuple[str, tuple[str, ...]], Mapping[str, str]] = {}

    def desired(self) -> Desired:
        """All of it, in the order in which one thing depends on another."""
        self._collect("", None)
        server = self._settings()
        backends = dict(self._each("Backend", lambda found: resolve_backend(found.document, self._operator, self.site.cpus)))
        choice = self._choice(backends)
        if not backends and not choice.broken and (removed := self._removed()):
            choice = Choice(frozenset(), removed)
        elif not backends and not choice.broken:
            local = default_backend(self._operator, self._settings_file(), self.site.cpus)
            backends, choice = {local.name: local}, Choice(frozenset({local.name}))
        around = replace(server.around, backends={name: backend.layer for name, backend in backends.items()})
        sources = dict(self._each("Source", lambda found: resolve_source(found.document, self._operator, self.site.excluded)))
        for name, spec in sources.items():
            if name in self.views:
                self._collect(name, spec)
        self._guard(sources, server.guard)
        origins = {"": self._operator, **{name: self._origin(spec, choice) for name, spec in sources.items()}}
        origins[""] = replace(self._operator, backend=choice.default)
        workflows = dict(self._each("Workflow", lambda found: self._workflow(found, origins[found.view.name], choice, around)))
        requests = dict(self._each("Run", lambda found: self._request(found, origins[found.view.name], choice)))
        for key, (_, problem) in self.failed.items():  # of kinds that nothing above asks for
            self._stall(key, problem)
        return Desired(
            workflows=workflows,
            requests=requests,
            backends=backends,
            sources=sources,
            around=around,
            limits=server.limits,
            gates={name: gate_of(spec, server.limits) for name, spec in sources.items()},
            problems=tuple(sorted({*self.problems, *self.stalled.values()})),
            stalled=self.stalled,
            warnings=self.warnings,
            gone=self.gone,
            good=self.good,
            present=frozenset({*self.documents, *self.failed, *self.good}),
            settled=frozenset(self._settled(sources)),
        )

    @property
    def _operator(self) -> Origin:
        operator = self.views[""]
        return Origin("", operator.revision, operator.commit, operator.root)

    def _collect(self, source: str, spec: SourceSpec | None) -> None:
        """Take the documents of one tree, by object. Kinds that the source may not declare are problems and nothing else."""
        tree = self.views[source]
        self.problems.update(dict.fromkeys(tree.problems))
        for path in tree.unreadable:
            self.unknown[(source, path)] = next(iter(tree.problems), None)
        for loaded in tree.loaded:
            self.problems.update(dict.fromkeys(loaded.problems))
            if loaded.names_unknown:
                self.unknown[(source, loaded.file)] = next(iter(loaded.problems), None)
            for document in loaded.documents:
                refusal = _not_allowed(document, spec)
                if refusal:
                    self.problems[refusal] = None
                else:
                    self.documents.setdefault((document.kind, _qualified(source, document.name)), []).append(_Found(document, tree))
            for kind, name in loaded.failed:
                if spec is None or kind in spec.kinds:
                    self.failed[(kind, _qualified(source, name))] = (source, _first_problem(loaded, kind, name))

    def _removed(self) -> Mapping[str, Problem]:
        """Backends that were declared, now that none is: what ran there does not run on this machine instead, where nobody asked for it."""
        message, cure = "was removed, and there is no other", "declare one; this machine, too, with `type: local`"
        return {
            name: Problem(last.file, 0, 0, f"Backend/{name}", message, cure)
            for (kind, name), last in self.previous.items()
            if kind == "Backend" and name != LOCAL
        }

    def _settings(self) -> Server:
        found = sorted(key for key in {*self.documents, *self.failed} if key[0] == "Settings")
        if len(found) > 1:
            for key in found:
                others = ", ".join(name for _, name in found if name != key[1])
                for each in self.documents.get(key, ()):
                    self._stall(key, each.document.problem((), f"there is another Settings ({others})", "keep one of them"))
        elif not found:
            problem = Problem(".", 0, 0, "Settings", "there is no Settings document", "`reconciler init` writes one")
            self._stall(("Settings", ""), problem)
        made = dict(self._each("Settings", _server)) if len(found) == 1 else {}
        if made:
            return next(iter(made.values()))
        self.good.update((key, last) for key, last in self.previous.items() if key[0] == "Settings")
        before = [last.value for last in self.previous.values() if isinstance(last.value, Server)]
        return before[0] if before else Server(Surroundings(), Limits(RUNS_PER_COMMIT, None), DeleteGuard())

    def _settings_file(self) -> str:
        return next((found[0].document.place.file for key, found in self.documents.items() if key[0] == "Settings"), "")

    def _choice(self, backends: Mapping[str, DeclaredBackend]) -> Choice:
        broken = {name: problem for (kind, name), problem in self.stalled.items() if kind == "Backend" and name not in backends}
        schedulings = {name: backend.scheduling for name, backend in backends.items() if backend.scheduling}
        return Choice(frozenset(backends), broken, schedulings)

    def _origin(self, spec: SourceSpec, choice: Choice) -> Origin:
        tree = self.views.get(spec.name, SourceView(spec.name))
        return Origin(
            source=spec.name,
            revision=tree.revision,
            commit=tree.commit,
            root=tree.root,
            workdir=spec.workdir,
            backend=spec.backend or choice.default,
            allowed=_allowed(spec, choice),
            triggers=spec.triggers,
            trigger_paths=spec.trigger_paths,
            git_url=fields.public_url(spec.url),
            git_branch=spec.branch,
        )

    def _guard(self, sources: Mapping[str, SourceSpec], default: DeleteGuard) -> None:
        """Rule 7: find the sources whose new tree removes too much, and is not approved."""
        for name, spec in sources.items():
            tree = self.views.get(name)
            before = {key for key, each in self.previous.items() if each.source == name}
            if tree is None or not before:
                continue
            after = {key for key in before if key in self.documents or key in self.failed or self._may_hold(self.previous[key])}
            kept = after | {key for key, found in self.documents.items() if any(each.view is tree for each in found)}
            guard = guard_of(spec.limits, default)
            approved = spec.approve and spec.approve in {tree.commit, tree.revision}
            if too_many_gone({*map("/".join, before)}, {*map("/".join, kept)}, guard.share, guard.least) and not approved:
                self._hold_back(spec, tree, before, len(before - after))

    def _hold_back(self, spec: SourceSpec, tree: SourceView, before: Collection[Key], removed: int) -> None:
        """Remove nothing of a source, and let nothing new in: or what comes in would outweigh what goes the next time."""
        self.guarded.add(spec.name)
        at = tree.commit or tree.revision
        message = f"{at} removes {removed} of {len(before)} objects; nothing was removed, and what is new waits"
        cure = f"if that is meant, write approve: {at} in Source {spec.name}"
        self._stall(("Source", spec.name), Problem(spec.place.file, spec.place.line, 1, f"Source/{spec.name}", message, cure))
        for key in [key for key, found in self.documents.items() if key not in before and any(each.view is tree for each in found)]:
            for each in self.documents.pop(key):
                self._stall(key, each.document.problem((), f"waits for the approval of {at} of Source {spec.name}", cure))

    def _workflow(self, found: _Found, origin: Origin, choice: Choice, around: Surroundings) -> Resolution[DeclaredRevision]:
        document = found.document
        files = self._files(found.view, paths_of(document, origin))
        before = self.previous.get((document.kind, origin.qualified(document.name)))
        basis = (document.place.file, replace(origin, revision="", commit=""), choice, around, tuple(files.items()))
        if before and before.model is document.model and before.basis == basis and isinstance(before.value, DeclaredRevision):
            place = origin.place(document.place)
            same = before.value if before.value.place == place else replace(before.value, place=place, env_seed=origin.env_seed)
            return Resolution(same, (), before.warnings, basis)
        return replace(resolve_workflow(document, origin, choice, around, files), basis=basis)

    def _files(self, tree: SourceView, patterns: tuple[str, ...]) -> Mapping[str, str]:
        if not patterns:
            return {}
        key = (tree.name, patterns)
        if key not in self.blobs:
            self.blobs[key] = tree.blob_ids(patterns)
        return self.blobs[key]

    def _request(self, found: _Found, origin: Origin, choice: Choice) -> Resolution[RunRequest]:
        assert isinstance(found.document.model, schema.Run)
        asked = found.document.model.spec.workflow or ""
        if asked and origin.source:  # a source names its own workflows only, with or without its name in front
            within = origin.qualified(asked)
            has_prefix = asked.startswith(f"{origin.source}/")
            asked = asked if has_prefix and ("Workflow", within) not in self.documents else within
        return resolve_request(found.document, origin, choice, asked)

    def _each(self, kind: str, make: Callable[[_Found], Resolution[_Made]]) -> Iterator[tuple[str, _Made]]:
        """(name, value) of every object of `kind` that is in force, by name."""
        keys = {key for group in (self.documents, self.failed, self.previous) for key in group if key[0] == kind}
        for key in sorted(keys):
            value = self._one(key, make)
            if value is not None:
                yield key[1], value

    def _one(self, key: Key, make: Callable[[_Found], Resolution[_Made]]) -> _Made | None:
        found = self.documents.get(key, [])
        if len(found) + (key in self.failed) > 1:
            self._conflict(key, found)
            return None
        if not found:
            return self._last(key, self.failed[key][1] if key in self.failed else None)
        document = found[0].document
        made = make(found[0])
        if made.value is None:
            self.problems.update(dict.fromkeys(made.problems))
            return self._last(key, made.problems[0])
        if made.warnings:
            self.warnings[key] = made.warnings
        source, file = found[0].view.name, document.place.file
        self.good[key] = LastGood(*key, source, file, made.value, made.warnings, document.model, made.basis)
        return made.value

    def _conflict(self, key: Key, found: Sequence[_Found]) -> None:
        """Of two documents with one name, neither is in force."""
        places = [str(each.document.place) for each in found]
        if key in self.failed:
            problem = self.failed[key][1]
            places.append(f"{problem.file}:{problem.line}")
        for each in found:
            others = ", ".join(place for place in places if place != str(each.document.place)) or "the same file"
            problem = each.document.problem(
                ("metadata", "name"), f"{key[0]} {key[1]} is declared twice, also in {others}", "rename one of them"
            )
            self.problems[problem] = None
            self._stall(key, problem)

    def _last(self, key: Key, problem: Problem | None) -> _Made | None:
        """The last good version, when there is one and it is not gone. `problem` None: no document has this name now."""
        before = self.previous.get(key)
        if problem is not None:
            self._stall(key, problem)
        if before is None:
            return None
        if problem is None:
            if self._is_gone(before):
                self.gone[key] = before
                return None
            hidden = self._may_hold(before)
            if hidden:
                self._stall(key, hidden)
        self.good[key] = before
        if before.warnings:
            self.warnings[key] = before.warnings
        return before.value  # type: ignore[return-value]  # a key's kind decides the type of its values

    def _is_gone(self, before: LastGood) -> bool:
        if before.source and not self._declared(before.source):
            return True
        return before.source in self.views and before.source not in self.guarded and not self._may_hold(before)

    def _declared(self, source: str) -> bool:
        key = ("Source", source)
        return key in self.documents or key in self.failed or key in self.good

    def _may_hold(self, before: LastGood) -> Problem | None:
        """What is wrong with the file that held this object, if it may still hold it."""
        for path in (before.file, ""):
            if (before.source, path) in self.unknown:
                return self.unknown[(before.source, path)] or Problem(shown_path(before.source, path), 0, 0, "", "cannot be read")
        return None

    def _settled(self, sources: Mapping[str, SourceSpec]) -> Iterable[str]:
        clouded = {source for source, _ in self.unknown}
        return (name for name in ("", *sources) if name in self.views and name not in clouded and name not in self.guarded)

    def _stall(self, key: Key, problem: Problem) -> None:
        self.stalled.setdefault(key, problem)


def _server(found: _Found) -> Resolution[Server]:
    assert isinstance(found.document.model, schema.Settings)
    spec = found.document.model.spec
    layer = layer_of("server", spec.env, spec.env_groups)
    return Resolution(Server(Surroundings(layer), limits_of(spec.limits), guard_of(spec.limits)))


def _allowed(spec: SourceSpec, choice: Choice) -> frozenset[str]:
    own = spec.backend or choice.default
    return spec.backends | ({own} if own else set())


def _not_allowed(document: Document, spec: SourceSpec | None) -> Problem | None:
    if spec is None or document.kind in spec.kinds:
        return None
    if document.kind in OPERATOR_KINDS:
        return document.problem(
            ("kind",), f"a source may not declare a {document.kind}; only the operator may", "move it to the operator's folder"
        )
    return document.problem(("kind",), f"Source {spec.name} may not declare a {document.kind}", "add it to allow.kinds of the Source")


def _first_problem(loaded: Loaded, kind: str, name: str) -> Problem:
    subject = f"{kind}/{name}"
    found = [each for each in loaded.problems if each.subject == subject] or [*loaded.problems]
    return found[0] if found else Problem(loaded.file, 0, 0, subject, "cannot be read")


def _qualified(source: str, name: str) -> str:
    return f"{source}/{name}" if source else name
