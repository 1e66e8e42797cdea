"""Documentation of the format, made from the models so that it cannot drift: JSON Schema for editors, and manifests/README.md.

`reconciler schema` prints `json_schema`; `python -m reconciler.manifest.describe > manifests/README.md` writes `reference`.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from reconciler.manifest import schema
from reconciler.manifest.complaints import members
from reconciler.manifest.introduction import INTRODUCTION
from reconciler.manifest.schema import KINDS, NOT_SUPPORTED_YET, TaskList, digest_mark
from reconciler.manifest.schema_backend import SUPPORTED_TYPES, Only

_TABLE_HEAD = "| field | what | default | digest | meaning |\n|---|---|---|---|---|"
_UNITS_S = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def json_schema() -> dict[str, Any]:
    """One JSON Schema (draft 2020-12) for editors: a document is of one of the kinds. Other spellings of a field are in it too."""
    described = schema.json_schema()
    for model in _all_models():
        definition = described["$defs"].get(model.__name__, {})
        for field in model.model_fields.values():
            first, *others = _spellings("", field)
            for other in others:
                definition["properties"][other] = definition["properties"][first] | {"deprecated": True}
    return described


def reference() -> str:
    """The text of manifests/README.md: the introduction, then a table of the fields of every model."""
    definitions = json_schema()["$defs"] | TaskList.model_json_schema().get("$defs", {})
    parts = [INTRODUCTION, _KEY]
    told: set[type[BaseModel]] = set()
    for kind, model in KINDS.items():
        file = f"[{kind.lower()}.yaml]({kind.lower()}.yaml)"
        parts.append(f"## {kind}\n\n{_docstring(model)} The smallest one: {file}.\n")
        parts.extend(_section(part, definitions) for part in _nested(model) if part not in told)
        told.update(_nested(model))
    parts.append(f"## Task-list file\n\n{_docstring(TaskList)}\n")
    parts.append(_table(TaskList, TaskList.model_json_schema(), definitions))
    return "\n".join(parts)


_KEY = """\
# Every field

*Digest*: whether a change of the field is a reason to run again (*in*) or not (*out*); empty where nothing runs for it. A field that is
*not supported yet* is known, and giving it a value is an error, never ignored.
"""


def _section(model: type[BaseModel], definitions: Mapping[str, Any]) -> str:
    table = _table(model, definitions[model.__name__], definitions)
    if model in KINDS.values():
        return table
    return f"### {model.__name__}\n\n{_docstring(model)}\n\n{table}"


def _table(model: type[BaseModel], definition: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    lines = [_TABLE_HEAD]
    for name, field in model.model_fields.items():
        written = _spellings(name, field)[0]
        described = definition["properties"][written]
        later = f"*{NOT_SUPPORTED_YET[0].upper()}{NOT_SUPPORTED_YET[1:]}.* " if not_yet(name, field) else ""
        types = _types_of(field)
        theirs = f"*Type {', '.join(types)}.* " if types and not later else ""
        mark = digest_mark(model, name)
        cells = (
            f"`{written}`",
            _type(described, definitions),
            "required" if field.is_required() else _default(field, described),
            mark.value if mark else "",
            later + theirs + (field.description or ""),
        )
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """`text` for a Markdown table: bars escaped, and what looks like HTML outside of code spans."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def not_yet(name: str, field: FieldInfo) -> bool:
    """Whether giving the field `name` a value is refused as not supported yet. Asked of its own validators, for a local backend."""
    context = types.SimpleNamespace(field_name=name, data={"type": "local"})
    return any(_refuses(mark, *arguments) for mark in field.metadata for arguments in (("x", context), ("x",)))


def _types_of(field: FieldInfo) -> tuple[str, ...]:
    """The types of backends that a field belongs to, of those that there are; () when to all."""
    only = [mark.func for mark in field.metadata if isinstance(mark, BeforeValidator) and isinstance(mark.func, Only)]
    return tuple(each for each in only[0].types if each in SUPPORTED_TYPES) if only else ()


def _refuses(mark: object, *arguments: object) -> bool:
    """Whether a validator says "not supported yet". Called with and without context: which one it takes shows only by trying."""
    if not isinstance(mark, BeforeValidator):
        return False
    ask: Callable[..., object] = mark.func
    try:
        ask(*arguments)
    except (ValueError, TypeError) as refusal:
        return NOT_SUPPORTED_YET in str(refusal)
    return False


def _spellings(name: str, field: FieldInfo) -> tuple[str, ...]:
    """The names of a field as written in manifests; the first is the one to use."""
    if isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in field.validation_alias.choices)
    return (field.alias or name,)


def _docstring(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _all_models() -> Iterator[type[BaseModel]]:
    for model in KINDS.values():
        yield from _nested(model)


def _nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """`model` and all models inside it, in the order in which a reader meets them."""
    found: list[type[BaseModel]] = []

    def add(annotation: Any) -> None:
        for member in members(annotation):
            if isinstance(member, type) and issubclass(member, BaseModel):
                if member not in found:
                    found.append(member)
                    for field in member.model_fields.values():
                        add(field.annotation)
            else:
                for inner in get_args(member):
                    if inner is not Ellipsis:
                        add(inner)

    add(model)
    return found


def _type(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value looks like, in words."""
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        target = definitions[name]
        return _words(target["enum"]) if "enum" in target else f"[{name}](#{name.lower()})"
    if "const" in described:
        return f"`{described['const']}`"
    if "enum" in described:
        return _words(described["enum"])
    if "examples" in described:
        return "like " + ", ".join(f"`{example}`" for example in described["examples"][:3])
    if "anyOf" in described:
        kinds = [_type(one, definitions) for one in described["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if described.get("type") == "array":
        return f"list of {_type(described.get('items', {}), definitions)}"
    if described.get("type") == "object":
        inner = described.get("additionalProperties") or next(iter(described.get("patternProperties", {}).values()), None)
        return f"map of {_type(inner, definitions)}" if isinstance(inner, dict) else "map"
    return _TYPES.get(described.get("type", ""), "any value")


def _words(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _default(field: FieldInfo, described: Mapping[str, Any]) -> str:
    """The default as a person would write it; "" when leaving the field out means nothing or is described in words."""
    value = described.get("default")
    examples = described.get("examples") or []
    if value in (None, "", [], {}) or isinstance(value, dict):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and examples and isinstance(examples[0], str):
        return f"`{_with_unit(value, examples[0])}`"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _with_unit(value: float, example: str) -> str:
    """A default that is kept in one unit, in the form of `example`: memory as 4G, else a duration as 30s or 90d."""
    if example.endswith("G"):
        return f"{value / 1024:g}G"
    for seconds, unit in _UNITS_S:
        if value >= seconds and value % seconds == 0:
            return f"{value / seconds:g}{unit}"
    return f"{value:g}s"


if __name__ == "__main__":
    print(reference(), end="")
