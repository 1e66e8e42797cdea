"""Changes one field of a YAML file and leaves every other character as it is. Called by the verbs that write manifests.

People's comments, quotes and layout are theirs, so nothing is re-emitted: the new value is spliced into the text where the field
stands, or a line is added or taken out. The result is read again and must differ in exactly that field, else nothing is changed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

from reconciler.errors import ManifestError, Problem
from reconciler.yamlemit import flow
from reconciler.yamlfile import parse
from reconciler.yamltree import Parsed, ParsedDocument, Plain, Spot

#: Which document of a file: its number from 0 (empty ones do not count), or its kind and name.
Which: TypeAlias = int | tuple[str, str]

_BOM = "\ufeff"


def set_field(text: str, which: Which, path: tuple[str, ...], value: object, *, file: str = "the file") -> str:
    """`text` with `value` at `path` of one document: replaced, or added with what is missing around it.

    `value` is a text, number, bool, None, or a mapping or list of these; it is written on one line. Raises ManifestError when the file is
    not valid, has no such document, or the field cannot be changed without touching anything else; `text` is then as it was.
    """
    new = json.loads(json.dumps(value))

    def splice(body: str, document: ParsedDocument) -> str:
        return _with_value(body, document, path, new, file)

    def change(data: dict[str, Plain]) -> None:
        for step in path[:-1]:
            if data.get(step) is None:
                data[step] = {}
            inner = data[step]
            assert isinstance(inner, dict)  # _with_value has refused everything else
            data = inner
        data[path[-1]] = new

    return _edited(text, which, splice, change, file)


def remove_field(text: str, which: Which, path: tuple[str, ...], *, file: str = "the file") -> str:
    """`text` without the field at `path` of one document; unchanged when it has none. The last field of a mapping leaves `{}`.

    A comment on the field's own line goes with it. Raises ManifestError as `set_field` does.
    """

    def splice(body: str, document: ParsedDocument) -> str:
        spot, parent = document.root, document.root
        for step in path:
            child = spot.child(step)
            if child is None:
                return body
            spot, parent = child, spot
        return _without(body, parent, path[-1])

    def change(data: dict[str, Plain]) -> None:
        for step in path[:-1]:
            inner = data.get(step)
            if not isinstance(inner, dict):
                return
            data = inner
        data.pop(path[-1], None)

    return _edited(text, which, splice, change, file)


def _edited(
    text: str, which: Which, splice: Callable[[str, ParsedDocument], str], change: Callable[[dict[str, Plain]], None], file: str
) -> str:
    """Splice, read the result again, and refuse it when anything but `change` has happened to the data."""
    body = text.removeprefix(_BOM)
    before = _parsed(body, file)
    index = _index(before, which, file)
    result = splice(body, before.documents[index])
    expected = [copy.deepcopy(document.data) for document in before.documents]
    edited = expected[index]
    assert isinstance(edited, dict)  # _index has made sure
    change(edited)
    after = parse(result.encode("utf-8", "surrogatepass"), file)
    if after.problems or _same([document.data for document in after.documents]) != _same(expected):
        line, column = before.documents[index].at(())
        message = "the field cannot be changed without changing more of the file"
        raise ManifestError((Problem(file, line, column, "", message, "edit the file by hand"),))
    return text[: len(text) - len(body)] + result


def _same(documents: list[Plain]) -> str:
    """A text that is equal for equal data; unlike ==, it tells 1 from true and 1.0."""
    return json.dumps(documents, sort_keys=True)


def _parsed(body: str, file: str) -> Parsed:
    parsed = parse(body.encode("utf-8", "surrogatepass"), file)
    if parsed.problems:
        raise ManifestError(parsed.problems)
    return parsed


def _index(parsed: Parsed, which: Which, file: str) -> int:
    found = [index for index, document in enumerate(parsed.documents) if which in (index, _identity(document.data))]
    named = f"document {which}" if isinstance(which, int) else "/".join(which)
    if len(found) != 1 or not isinstance(parsed.documents[found[0]].data, dict):
        message = f"the file holds {named} twice" if len(found) > 1 else f"the file holds no {named}"
        raise ManifestError((Problem(file, 0, 0, "", message),))
    return found[0]


def _identity(data: Plain) -> tuple[object, object]:
    metadata = data.get("metadata") if isinstance(data, dict) else None
    return (data.get("kind"), metadata.get("name")) if isinstance(data, dict) and isinstance(metadata, dict) else (None, None)


def _with_value(body: str, document: ParsedDocument, path: tuple[str, ...], value: object, file: str) -> str:
    spot, data = document.root, document.data
    for depth, step in enumerate(path):
        if not isinstance(data, dict):
            if data is None:
                return _replaced(body, spot, _nested(path[depth:], value))
            line, column = document.lines.at(spot.start)
            raise ManifestError((Problem(file, line, column, "", f"{'.'.join(path[:depth])} is no mapping", "edit the file by hand"),))
        child = spot.child(step)
        if child is None:
            return _inserted(body, spot, step, _nested(path[depth + 1 :], value))
        spot, data = child, data[step]
    return _replaced(body, spot, value)


def _nested(path: tuple[str, ...], value: object) -> object:
    for step in reversed(path):
        value = {step: value}
    return value


def _replaced(body: str, spot: Spot, value: object) -> str:
    """The value at `spot` replaced by one line."""
    written = flow(value)
    if spot.children is not None and not spot.flow:  # a block below its key: its lines go, the key's own line keeps its comment
        colon = body.index(":", spot.key_end) + 1
        return f"{body[:colon]} {written}{body[colon : _line_start(body, spot.start)]}{body[_lines_end(body, spot.end) :]}"
    if spot.start == spot.end:  # nothing is written there: `key:` or, in braces, only `key`
        before = body[: spot.start].rstrip(" ")
        return f"{body[: spot.start]}{' ' if before.endswith(':') else ': '}{written}{body[spot.end :]}"
    end = spot.end - (len(_break_before(body, spot.end)) if body[spot.start] in "|>" else 0)
    return body[: spot.start] + written + body[end:]


def _inserted(body: str, parent: Spot, key: str, value: object) -> str:
    """`key: value` added to the mapping at `parent`: behind its leading one-line fields if it has some, else at its end."""
    entry = f"{flow(key)}: {flow(value)}"
    assert isinstance(parent.children, dict)
    children = list(parent.children.values())
    if not children:
        return body[: parent.start + 1] + entry + body[parent.end - 1 :]
    if parent.flow:
        end = children[-1].end
        return f"{body[:end]}{' ' if body[end - 1] == ':' else ''}, {entry}{body[end:]}"
    indent = " " * (children[0].key - _line_start(body, children[0].key))
    end = parent.end
    for child in children:
        if _line_start(body, child.end) != _line_start(body, child.key):
            break
        end = child.end
    line_break = _line_break_of(body)
    if _break_before(body, end) and end > children[0].start:  # a text block that keeps its empty lines ends at a line's start
        return f"{body[:end]}{indent}{entry}{line_break}{body[end:]}"
    end = _line_end(body, end)
    return f"{body[:end]}{line_break}{indent}{entry}{body[end:]}"


def _without(body: str, parent: Spot, key: str) -> str:
    assert isinstance(parent.children, Mapping)
    names, spots = list(parent.children), list(parent.children.values())
    at = names.index(key)
    spot = spots[at]
    if len(spots) == 1:
        return body[: parent.start + 1] + body[parent.end - 1 :] if parent.flow else _replaced(body, parent, {})
    following = spots[at + 1].key if at + 1 < len(spots) else None
    if parent.flow:
        return body[: spot.key] + body[following:] if following else body[: spots[at - 1].end] + body[spot.end :]
    start = _line_start(body, spot.key)
    if body[start : spot.key].strip(" "):  # `- key: value`: other fields of the entry line up with it
        return body[: spot.key] + body[following:]
    end = _lines_end(body, spot.end)
    if end == len(body) and not _break_before(body, end):
        start -= len(_break_before(body, start))
    return body[:start] + body[end:]


def _line_break_of(body: str) -> str:
    end = _line_end(body, 0)
    return "\r\n" if body.startswith("\r\n", end) else body[end : end + 1] or "\n"


def _break_before(body: str, offset: int) -> str:
    if body.endswith("\r\n", 0, offset):
        return "\r\n"
    return body[offset - 1 : offset] if offset and body[offset - 1] in "\r\n" else ""


def _line_start(body: str, offset: int) -> int:
    return max(body.rfind("\n", 0, offset), body.rfind("\r", 0, offset)) + 1


def _line_end(body: str, offset: int) -> int:
    """Offset of the line break behind `offset`, or of the end of the text."""
    ends = [end for end in (body.find("\n", offset), body.find("\r", offset)) if end >= 0]
    return min(ends, default=len(body))


def _lines_end(body: str, end: int) -> int:
    """Offset behind the last line that reaches to `end`, with its line break."""
    if _break_before(body, end):
        return end
    after = _line_end(body, end)
    return after + (2 if body.startswith("\r\n", after) else 1 if after < len(body) else 0)
