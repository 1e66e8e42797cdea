"""Documents and trees for the tests of what manifests mean: real text through the real loader, from a tree that is a dict of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.env import Layer
from reconciler.manifest.assemble import Desired, Key, LastGood, Site, SourceView, assemble, view
from reconciler.manifest.load import Loader
from reconciler.sources.base import Blob, Refusal

SETTINGS = "apiVersion: scripthut/v1\nkind: Settings\nmetadata: {name: me}\n"
SITE = Site(cpus=4, excluded=("/ops/.state", "/ops/status"))


@dataclass(frozen=True)
class Files:
    """A tree (sources.base.Tree) of texts by path."""

    texts: Mapping[str, str]
    root: str = ""
    commit: str = ""
    revision: str = ""
    refused: Sequence[Refusal] = ()
    others: Mapping[str, str] = field(default_factory=dict)  # files that `include` does not match

    def files(self) -> Mapping[str, Blob]:
        return {path: _blob(text) for path, text in sorted(self.texts.items())}

    def read(self, path: str) -> Blob | None:
        text = self.texts.get(path, self.others.get(path))
        return None if text is None else _blob(text)

    def blob_ids(self, patterns: Sequence[str]) -> Mapping[str, str]:
        heads = tuple(pattern.removesuffix("**") for pattern in patterns)
        return {path: _blob(text).id for path, text in sorted({**self.texts, **self.others}.items()) if path.startswith(heads)}


def _blob(text: str) -> Blob:
    data = text.encode()
    return Blob(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), data)


@dataclass
class World:
    """The operator's folder and the trees of sources; each `desired()` starts from what was good the last time, as the daemon does."""

    operator: Mapping[str, str] = field(default_factory=dict)
    sources: dict[str, Files] = field(default_factory=dict)
    root: str = "/ops"
    refused: Sequence[Refusal] = ()
    good: Mapping[Key, LastGood] = field(default_factory=dict)
    loader: Loader = field(default_factory=Loader)

    def views(self) -> tuple[SourceView, dict[str, SourceView]]:
        tree = Files({"settings.yaml": SETTINGS, **self.operator}, root=self.root, revision="sha256:0", refused=self.refused)
        texts = {path: text for path, text in tree.texts.items() if text}
        tree = Files(texts, tree.root, tree.commit, tree.revision, tree.refused)
        return view("", tree, self.loader), {name: view(name, files, self.loader) for name, files in self.sources.items()}

    def desired(self) -> Desired:
        found = assemble(*self.views(), self.good, SITE)
        self.good = found.good
        return found


def manifest(kind: str, name: str, spec: object) -> str:
    """One document as text (JSON is YAML)."""
    return json.dumps({"apiVersion": "scripthut/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}) + "\n"


def workflow(name: str, *tasks: object, **spec: object) -> str:
    """A Workflow; without tasks it has one that runs `true`."""
    return manifest("Workflow", name, {"tasks": tasks or [{"id": "only", "command": "true"}], **spec})


def documents(*texts: str) -> str:
    """Several documents in one file."""
    return "---\n".join(texts)


def server(*values: tuple[str, str]) -> Layer:
    """A server layer that sets values."""
    from reconciler.core.env import Rule

    return Layer("server", (Rule(set=values),))
