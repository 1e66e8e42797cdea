"""pydantic's errors -> Problems in words for a person, with line, column and the nearest known name. Called by load.py.

pydantic speaks of types, urls and inputs; whoever wrote a manifest wants to know where, what is wrong, and what to write. Values
are shown only where a choice of few words was asked for, and never from a place that may hold a secret.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError

from reconciler.yamltree import shortened

#: Values below these keys are never shown: they may be secrets, or hold one.
PRIVATE = frozenset(
    {"env", "env_vars", "env_groups", "set", "append", "if", "parameters", "inputs", "matrix", "url", "secret", "token", "to"}
)
#: A list of known names is told when it is not longer than this.
_LISTED_CHARS_MAX = 120
#: difflib takes quadratic time; no name of ours is longer.
_NEAR_CHARS_MAX = 64
_KEY_MARK = "[key]"

#: One complaint: the path it is about, whether it is about the key, the message, the cure.
Complaint = tuple[tuple[str | int, ...], bool, str, str]

_NEEDS: Mapping[str, tuple[str, str]] = {
    "string_type": ("needs a text", "put the value in quotes"),
    "int_type": ("needs a whole number", ""),
    "int_parsing": ("needs a whole number", ""),
    "int_parsing_size": ("needs a smaller number", ""),
    "int_from_float": ("needs a whole number", ""),
    "float_type": ("needs a number", ""),
    "float_parsing": ("needs a number", ""),
    "finite_number": ("needs a finite number", ""),
    "bool_type": ("needs true or false", "write it without quotes"),
    "bool_parsing": ("needs true or false", "write it without quotes"),
    "dict_type": ("needs keys with values", "write {key: value}, or indented lines `key: value` below it"),
    "model_type": ("needs keys with values", "write {key: value}, or indented lines `key: value` below it"),
    "model_attributes_type": ("needs keys with values", "write {key: value}, or indented lines `key: value` below it"),
    "tuple_type": ("needs a list", "write [one, two], or indented lines that start with '- ' below it"),
    "list_type": ("needs a list", "write [one, two], or indented lines that start with '- ' below it"),
    "none_required": ("is left out or null", ""),
    "string_unicode": ("needs a text without broken characters", ""),
}
_BOUNDS: Mapping[str, str] = {
    "greater_than": "is more than {gt}",
    "greater_than_equal": "is at least {ge}",
    "less_than": "is less than {lt}",
    "less_than_equal": "is at most {le}",
    "too_short": "has at least {min_length:,} entries",
    "too_long": "has at most {max_length:,} entries",
    "string_too_short": "has at least {min_length} characters",
    "string_too_long": "has at most {max_length:,} characters",
    "string_pattern_mismatch": "must match {pattern}",
}


def complaints(model: type[BaseModel], error: ValidationError) -> Iterator[Complaint]:
    """What is wrong, in pydantic's order. (Our models have no unions of several types, of which pydantic would tell each member.)"""
    for one in error.errors(include_url=False):
        path = tuple(step for step in one["loc"] if step != _KEY_MARK)
        about_key = one["type"] == "extra_forbidden" or one["loc"][-1:] == (_KEY_MARK,)
        yield (path, about_key, *_spoken(model, path, one["type"], one))


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean …?` with the known name that looks most like `word`; without one, what is known if that is short, else ""."""
    near = difflib.get_close_matches(word.lower(), [name.lower() for name in known], n=1) if len(word) <= _NEAR_CHARS_MAX else []
    if near:
        return f"did you mean {next(name for name in known if name.lower() == near[0])}?"
    listed = ", ".join(known)
    return f"known: {listed}" if known and len(listed) <= _LISTED_CHARS_MAX else ""


def shown(value: object) -> str:
    """A name or a short value as a message may hold it: printable, and cut when it is long."""
    return shortened(value if isinstance(value, str) else repr(value))


def dotted(path: Sequence[str | int]) -> str:
    """`spec.tasks[2].deps` of ("spec", "tasks", 2, "deps")."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in path)
    return text.removeprefix(".") or "the document"


def _spoken(model: type[BaseModel], path: tuple[str | int, ...], kind: str, error: Mapping[str, Any]) -> tuple[str, str]:
    """(message, cure) of one error of pydantic."""
    name = dotted(path)
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing", f"add {shown(path[-1])}: …"
    if kind == "extra_forbidden":
        said, cure = _refused_key(model, path)
        if said:
            return f"{name} {said}", cure
        return f"{name}: unknown key {shown(path[-1])}", nearest(str(path[-1]), known_names(model, path[:-1]))
    if kind in {"enum", "literal_error"}:
        return _no_such_choice(name, path, error["input"], str(context.get("expected", "")))
    if kind in {"value_error", "assertion_error"}:
        said = str(context.get("error", "is not valid"))
        last = f"{path[-1]} " if path else ""
        return (f"{name} {said.removeprefix(last)}" if last and said.startswith(last) else f"{name}: {said}"), ""
    if kind in _NEEDS:
        message, cure = _NEEDS[kind]
        return f"{name} {message}", cure
    if kind in {"too_short", "too_long"} and isinstance(error["input"], str):  # what pydantic calls a text's length after a validator
        kind = f"string_{kind}"
    if kind in _BOUNDS:
        return f"{name} {_BOUNDS[kind].format(**context)}", ""
    return f"{name} has a value that does not fit here", ""


def _no_such_choice(name: str, path: tuple[str | int, ...], value: object, expected: str) -> tuple[str, str]:
    choices = re.findall(r"'([^']*)'", expected)
    given = "" if PRIVATE.intersection(map(str, path)) or isinstance(value, (dict, list)) else f", not {shown(value)}"
    near = nearest(value, choices) if isinstance(value, str) else ""
    if len(choices) == 1:
        return f"{name} must be {choices[0]}{given}", ""
    return f"{name} is one of {', '.join(choices)}{given}", "" if near.startswith("known") else near


def _refused_key(model: type[BaseModel], path: Sequence[str | int]) -> tuple[str, str]:
    """(message, cure) for a key that people expect and that we refuse on purpose; ("", "") for any other."""
    for found in _models_at(model, path[:-1]):
        refused: Mapping[str, tuple[str, str]] = getattr(found, "refused", {})
        if path[-1] in refused:
            return refused[str(path[-1])]
    return "", ""


def known_names(model: type[BaseModel], path: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that the models know at `path`, as written in manifests; () when anything may stand there."""
    return tuple(name for found in _models_at(model, path) for name in written_names(found))


def _models_at(model: type[BaseModel], path: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that the value at `path` can be of."""
    places: list[Any] = [model]
    for step in path:
        places = [inner for place in places for inner in _step(place, step)]
    return [place for place in places if isinstance(place, type) and issubclass(place, BaseModel)]


def written_names(model: type[BaseModel]) -> tuple[str, ...]:
    """The names of the fields of `model` as written in manifests, with their other spellings."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        names.extend(str(choice) for choice in alias.choices) if isinstance(alias, AliasChoices) else names.append(field.alias or name)
    return tuple(names)


def members(annotation: Any) -> Iterator[Any]:
    """The types that a field's annotation allows: without Annotated, members of unions one by one, None left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from members(member)
    elif annotation is not type(None):
        yield annotation


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The words of an Enum or a Literal; () for other types."""
    if get_origin(annotation) is Literal:
        return tuple(str(word) for word in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(str(word.value) for word in annotation)
    return ()


def _step(place: Any, step: str | int) -> Iterator[Any]:
    origin, arguments = get_origin(place), get_args(place)
    if isinstance(place, type) and issubclass(place, BaseModel):
        for name, field in place.model_fields.items():
            alias = field.validation_alias
            spellings = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field.alias or name]
            if step in spellings:
                yield from members(field.annotation)
    elif origin is dict:
        yield from members(arguments[1])
    elif origin in (tuple, list) and isinstance(step, int):
        yield from members(arguments[0])
