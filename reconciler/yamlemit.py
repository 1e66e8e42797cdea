"""Plain data -> YAML text, fast: block style for small structures, one JSON row per entry of large tables.

Called by status.py (through yamlfile.dump) and yamledit.py. A pure-Python YAML emitter needs 0.3 s for 1,000 tasks; this needs 5 ms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

#: What json.dumps leaves bare and a YAML reader refuses, changes or breaks lines at.
_BARE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
#: Safe without quotes in every place and in YAML 1.1 too: starts with a letter, ends with no colon, is no reserved word.
_SAFE = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z](?:[a-z0-9_./@+:-]*[a-z0-9_./@+-])?", re.IGNORECASE)
#: A reader may refuse a key of more than 1,024 characters that is written on one line.
_KEY_LENGTH_MAX = 1_000


def dump(document: Mapping[str, object], *, rows: frozenset[str] = frozenset()) -> str:
    """`document` as one YAML document that ends with a line break and reads back as the same data.

    Keys named in `rows`, at any depth, hold lists or mappings of which each entry becomes one line. Values are str, int, float, bool,
    None, mappings with str keys and lists of these. Raises ValueError for infinite numbers and keys of over 1,000 characters,
    TypeError for anything else.
    """
    if not document:
        return "{}\n"
    return "".join(f"{line}\n" for line in _mapping(document, "", rows))


def flow(value: object) -> str:
    """`value` on one line, for use anywhere in a YAML file; strings unquoted where that is plainly safe."""
    if isinstance(value, str):
        return value if _SAFE.fullmatch(value) else _json(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(entry) for entry in value) + "]"
    return _json(value)


def _mapping(value: Mapping[str, object], indent: str, rows: frozenset[str]) -> Iterator[str]:
    for key, entry in value.items():
        head = f"{indent}{_key(key)}:"
        if not _is_tree(entry):
            yield f"{head} {flow(entry)}"
            continue
        yield head
        if key in rows:
            yield from _rows(entry, indent + "  ")
        else:
            yield from _block(entry, indent + "  ", rows)


def _block(value: object, indent: str, rows: frozenset[str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _mapping(value, indent, rows)
        return
    assert isinstance(value, (list, tuple))
    for entry in value:
        if isinstance(entry, Mapping) and entry:
            lines = _mapping(entry, indent + "  ", rows)
            yield f"{indent}- {next(lines)[len(indent) + 2 :]}"
            yield from lines
        else:
            yield f"{indent}- {flow(entry)}"


def _rows(value: object, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield f"{indent}{_key(key)}: {_json(entry)}"
        return
    assert isinstance(value, (list, tuple))
    for entry in value:
        yield f"{indent}- {_json(entry)}"


def _is_tree(value: object) -> bool:
    """Whether `value` is worth lines of its own: a mapping or list with something in it."""
    return isinstance(value, (Mapping, list, tuple)) and len(value) > 0


def _key(key: str) -> str:
    text = key if _SAFE.fullmatch(key) else _json(key)
    if len(text) > _KEY_LENGTH_MAX:
        raise ValueError(f"a key of {len(text)} characters is too long: {text[:40]}…")
    return text


def _json(value: object) -> str:
    text = _ENCODER.encode(value)
    return text if text.isascii() and "\x7f" not in text else _BARE.sub(_escape, text)


def _plain(value: object) -> object:
    """For json.dumps: mappings and sequences of other types than dict and list."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as YAML")


#: Made once: json.dumps makes a new one for every call that differs from its defaults.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
