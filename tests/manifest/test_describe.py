"""The documentation of the format is what the models say, and the examples beside it are valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.manifest import schema
from reconciler.manifest.describe import json_schema, not_yet, reference
from reconciler.manifest.load import load_file
from reconciler.manifest.schema import KINDS, NOT_SUPPORTED_YET, BackendSpec, TaskSpec, WorkflowSpec
from reconciler.sources.base import Blob

MANIFESTS = Path(__file__).parents[2] / "manifests"
LATER = frozenset({"Notification", "Stack"})


def test_the_readme_is_what_the_models_say() -> None:
    """manifests/README.md is made from the models; after a change: `python -m reconciler.manifest.describe > manifests/README.md`."""
    assert (MANIFESTS / "README.md").read_text() == reference()


def test_each_kind_has_its_smallest_manifest() -> None:
    """There is one file for each kind, and no other."""
    assert sorted(path.name for path in MANIFESTS.iterdir()) == sorted(["README.md", *(f"{kind.lower()}.yaml" for kind in KINDS)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_manifest_is_valid(kind: str) -> None:
    """Each example is valid; that of a kind whose feature comes later is refused for that alone."""
    path = MANIFESTS / f"{kind.lower()}.yaml"
    loaded = load_file(path.name, Blob("0", path.read_bytes()), source="")
    assert [document.kind for document in loaded.documents] == ([] if kind in LATER else [kind])
    assert [problem.message for problem in loaded.problems] == ([f"kind {kind} is {NOT_SUPPORTED_YET}"] if kind in LATER else [])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LATER])
def test_nothing_can_be_left_out_of_the_smallest_manifest(kind: str) -> None:
    """Each example is the smallest: without any of its top-level fields it is not valid."""
    lines = (MANIFESTS / f"{kind.lower()}.yaml").read_text().splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line[0].isalpha()]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        text = "".join(lines[:start] + lines[end:])
        assert load_file("f.yaml", Blob("0", text.encode()), source="").documents == ()


def test_every_field_is_documented() -> None:
    """Every field of every model stands in the reference, with what it means, and every model has a sentence of its own."""
    text = reference()
    for name, definition in schema.json_schema()["$defs"].items():
        for field in definition.get("properties", {}):
            assert f"| `{field}` |" in text, (name, field)
    for line in text.splitlines():
        if line.startswith("| `"):
            assert line.rstrip(" |").count("|") >= 5, line


def test_what_comes_later_is_marked() -> None:
    """Fields that are refused as not supported yet are marked so, and no others."""
    later = {name for name, field in TaskSpec.model_fields.items() if not_yet(name, field)}
    assert {"image", "matrix", "cache", "inputs"} <= later
    assert not {"id", "command", "deps", "env", "retry", "nodes", "scheduler_args"} & later
    assert {name for name in ("ssh", "account", "array", "clone_dir", "queue") if not_yet(name, BackendSpec.model_fields[name])} == {
        "clone_dir",
        "queue",
    }
    assert not_yet("priority", WorkflowSpec.model_fields["priority"])
    assert "*Not supported yet.* Container image." in reference()


def test_fields_of_one_type_are_marked() -> None:
    """A field that only some types of backends have names those that there are."""
    text = reference()
    assert "| *Type slurm.* Account to charge" in text
    assert "| *Not supported yet.* Folder for checkouts." in text
    assert "*Type" not in next(line for line in text.splitlines() if line.startswith("| `max_concurrent` |"))


def test_the_schema_for_editors_is_one_of_the_kinds() -> None:
    """The JSON Schema is plain JSON, has one branch a kind told apart by `kind`, knows other spellings, and points to nothing missing."""
    described = json.loads(json.dumps(json_schema()))
    assert [branch["$ref"] for branch in described["oneOf"]] == [f"#/$defs/{kind}" for kind in KINDS]
    for kind in KINDS:
        assert described["$defs"][kind]["properties"]["kind"]["const"] == kind
        assert described["$defs"][kind]["additionalProperties"] is False
    task = described["$defs"]["TaskSpec"]["properties"]
    assert task["dependencies"]["deprecated"] is True
    assert {reference.rpartition("/")[2] for reference in _references(described)} <= set(described["$defs"])


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    return [found for inner in value for found in _references(inner)] if isinstance(value, list) else []
