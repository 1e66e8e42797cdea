"""What of a workflow decides whether it must run again, as one text; its sha256 is the digest. Called by resolve.py, ledger and verbs.

The form: one line of JSON, keys sorted, ASCII, no blanks, with a version:

    {"files":{"src/a.c":"<blob id>"},"parameters":{…},"spec":{"tasks":[{"command":"make","id":"a"}]},"v":1}

* `spec` holds the fields that the models mark IN_DIGEST, as values of the model and not as written: `1h`, `60` minutes and
  `1:00:00` are one time limit. A field whose value equals its default is left out, so a default that is written out changes
  nothing, and a release that adds a field changes no digest.
* Tasks stand in the order of their ids and `deps` sorted, without repetitions: neither order decides a result. Environment rules
  keep their order: it does.
* `files` are the blobs that `trigger.paths` matches; `parameters` those of a Run document. Both are left out when empty.

The text is stored with each run. A release that changes this form adds 1 to the version and teaches `_upgraded` to lift older
texts, so that `redigest` of what is stored equals the digest of what is written and nothing runs again. Golden digests in the tests
hold this form fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum

from pydantic import BaseModel

from reconciler.core.names import digest_of
from reconciler.manifest.schema import Digest, TaskList, WorkflowSpec, digest_mark

VERSION = 1
_Json = str | int | float | bool | None | list["_Json"] | dict[str, "_Json"]


def canonical(spec: WorkflowSpec | TaskList, files: Mapping[str, str] | None = None, parameters: Mapping[str, str] | None = None) -> str:
    """The canonical text of a workflow as declared.

    `files` maps the paths that `trigger.paths` matches to blob ids, `parameters` are those of a Run document.
    """
    body = _declared(spec)
    tasks = body["tasks"]
    assert isinstance(tasks, list)
    body["tasks"] = sorted((_task(task) for task in tasks), key=_id)
    text: dict[str, _Json] = {"v": VERSION, "spec": body}
    if files:
        text["files"] = dict(files)
    if parameters:
        text["parameters"] = dict(parameters)
    return _written(text)


def redigest(text: str) -> str:
    """The digest, in today's form, of a canonical text that any release up to this one has stored.

    A text of a later release (after a downgrade), or one that is none, keeps the digest of its bytes.
    """
    try:
        stored = json.loads(text)
    except ValueError:
        return digest_of(text)
    if not isinstance(stored, dict) or not isinstance(stored.get("v"), int) or stored["v"] > VERSION:
        return digest_of(text)
    return digest_of(_written(_upgraded(stored)))


def spec_of(text: str) -> Mapping[str, object]:
    """The `spec` of a stored canonical text, as plain data. Empty when the text is none of ours."""
    try:
        stored = json.loads(text)
    except ValueError:
        return {}
    spec = _upgraded(stored).get("spec") if isinstance(stored, dict) else None
    return spec if isinstance(spec, dict) else {}


def _upgraded(stored: dict[str, _Json]) -> dict[str, _Json]:
    """A stored text in today's form. There is one form so far."""
    return stored


def _written(text: Mapping[str, _Json]) -> str:
    return json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _declared(model: BaseModel) -> dict[str, _Json]:
    """The fields of `model` that are in the digest and say something, by their names as written."""
    fields = type(model).model_fields
    declared: dict[str, _Json] = {}
    for name in model.model_fields_set:
        field = fields[name]
        if digest_mark(type(model), name) is not Digest.IN:
            continue
        value = getattr(model, name)
        if value != field.default:
            declared[field.alias or name] = _plain(value)
    return declared


def _task(declared: _Json) -> _Json:
    assert isinstance(declared, dict)
    needs = declared.get("deps")
    if isinstance(needs, list):
        declared["deps"] = [*sorted({str(need) for need in needs})]
    return declared


def _id(task: _Json) -> str:
    assert isinstance(task, dict)
    return str(task["id"])


def _plain(value: object) -> _Json:
    if isinstance(value, BaseModel):
        return dict(_declared(value))
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    assert value is None or isinstance(value, (str, int, float, bool))
    return value
