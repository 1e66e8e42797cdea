"""The stored form of the core's dataclasses: JSON values, compact, and readable by an older release.

Called by ledger.py (what is remembered) and by whoever prints objects as JSON. Covers frozen dataclasses and NamedTuples whose
fields are scalars, StrEnums, `X | None`, `tuple[X, ...]`, `tuple[X, Y]`, `frozenset[X]`, `Mapping[str, X]`, `object` (a JSON value
as it is), and each other.

A field equal to its default is left out. So **changing a default in the core changes what stored objects mean**; a release that
does it migrates the ledger. A key nobody knows is skipped, so that an older release can read what a newer one wrote; a value of a
wrong type, or an enum's unknown word, raises ValueError: there is nothing safe to guess.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
T = TypeVar("T")

_Dump: TypeAlias = Callable[[object], Json]
_Load: TypeAlias = Callable[[Json], object]
_MISSING = object()


class _Codec(NamedTuple):
    """Both directions of one type. None: the value is stored as it is; still checked when loaded."""

    dump: _Dump | None
    load: _Load


class _Field(NamedTuple):
    """One field of a class. `default` is `_MISSING` when it must be given."""

    name: str
    default: object
    dump: _Dump | None
    load: _Load


def dump(obj: object) -> Json:
    """The JSON value of a frozen dataclass or NamedTuple. Raises TypeError when a field's type is not covered."""
    encode = _codec(type(obj)).dump
    if encode is None:
        raise TypeError(f"not a dataclass: {type(obj).__name__}")
    return encode(obj)


def load(cls: type[T], value: Json) -> T:
    """The object of class `cls` that `value` was dumped from. Raises ValueError, naming the field, when it cannot be one."""
    loaded = _codec(cls).load(value)
    assert isinstance(loaded, cls)
    return loaded


#: Made once for each type: reading type hints costs 100 times what a dump does.
_KNOWN: dict[object, _Codec] = {}


def _codec(hint: object) -> _Codec:
    known = _KNOWN.get(hint)
    if known is None:
        known = _KNOWN[hint] = _codec_of(hint)
    return known


def _codec_of(hint: object) -> _Codec:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _optional(hint)
    if origin is not None:
        return _container(hint, origin)
    if hint is object:
        return _Codec(None, lambda value: value)
    if isinstance(hint, type):
        if hint in (str, int, float, bool):
            return _Codec(None, _scalar(hint))
        if issubclass(hint, Enum):
            return _Codec(lambda value: value.value, hint)  # type: ignore[attr-defined]  # `value` is of `hint`
        fields = _fields(hint)
        return _Codec(_dump_fields(fields), _load_fields(hint, fields))
    raise TypeError(f"the stored form does not cover {hint!r}")


def _fields(cls: type) -> tuple[_Field, ...]:
    """The fields of a dataclass or NamedTuple, with their defaults made once (they are immutable, or never changed)."""
    if dataclasses.is_dataclass(cls):
        defaults = {field.name: _default_of(field) for field in dataclasses.fields(cls)}
    elif issubclass(cls, tuple) and hasattr(cls, "_field_defaults"):
        defaults = {name: cls._field_defaults.get(name, _MISSING) for name in getattr(cls, "_fields", ())}
    else:
        raise TypeError(f"the stored form does not cover {cls.__name__}")
    hints = typing.get_type_hints(cls)
    return tuple(_Field(name, default, *_codec(hints[name])) for name, default in defaults.items())


def _default_of(field: dataclasses.Field[object]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return _MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def _dump_fields(fields: tuple[_Field, ...]) -> _Dump:
    def encode(obj: object) -> Json:
        body: dict[str, Json] = {}
        for name, default, encode_value, _ in fields:
            value = getattr(obj, name)
            # identity first: most fields hold the very default, and a run of 10,000 tasks has 150,000 fields
            if value is not default and value != default:
                body[name] = value if encode_value is None else encode_value(value)
        return body

    return encode


def _load_fields(cls: type, fields: tuple[_Field, ...]) -> _Load:
    loads = {name: load_value for name, _, _, load_value in fields}

    def decode(value: Json) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"{cls.__name__}: expected an object, got {value!r:.80}")
        given: dict[str, object] = {}
        for name, part in value.items():
            load_value = loads.get(name)
            if load_value is None:
                continue
            try:
                given[name] = load_value(part)
            except ValueError as error:
                raise ValueError(f"{cls.__name__}.{name}: {error}") from error
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}") from error

    return decode


def _scalar(kind: type) -> _Load:
    if kind is float:

        def number(value: Json) -> object:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"expected a number, got {value!r:.80}")
            return float(value)

        return number

    def check(value: Json) -> object:
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}, got {value!r:.80}")
        return value

    return check


def _optional(hint: object) -> _Codec:
    """`X | None`: the only union that the core uses."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"the stored form does not cover {hint!r}")
    encode, decode = _codec(kinds[0])

    def decode_optional(value: Json) -> object:
        return None if value is None else decode(value)

    if encode is None:
        return _Codec(None, decode_optional)
    known = encode  # a name that mypy knows is not None inside the closure

    def encode_optional(value: object) -> Json:
        return None if value is None else known(value)

    return _Codec(encode_optional, decode_optional)


def _container(hint: object, origin: object) -> _Codec:
    kinds = typing.get_args(hint)
    if origin is tuple and len(kinds) == 2 and kinds[1] is Ellipsis:
        return _sequence(_codec(kinds[0]))
    if origin is tuple:
        return _fixed(tuple(_codec(kind) for kind in kinds))
    if origin is frozenset:
        return _set(_codec(kinds[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping) and kinds[0] is str:
        return _mapping(_codec(kinds[1]))
    raise TypeError(f"the stored form does not cover {hint!r}")


def _sequence(item: _Codec) -> _Codec:
    encode, decode = item

    def encode_all(value: object) -> Json:
        return list(value) if encode is None else [encode(part) for part in value]  # type: ignore[call-overload, attr-defined]  # a tuple

    return _Codec(encode_all, lambda value: tuple([decode(part) for part in _list(value)]))


def _fixed(items: tuple[_Codec, ...]) -> _Codec:
    def encode(value: object) -> Json:
        parts = typing.cast("tuple[object, ...]", value)
        return [typing.cast(Json, part) if item.dump is None else item.dump(part) for item, part in zip(items, parts, strict=True)]

    def decode(value: Json) -> object:
        return tuple([item.load(part) for item, part in zip(items, _list(value), strict=True)])

    return _Codec(encode, decode)


def _set(item: _Codec) -> _Codec:
    """Sorted, so that the same set is always the same text."""
    encode_all = _sequence(item).dump

    def encode(value: object) -> Json:
        assert encode_all is not None
        return sorted(typing.cast("list[str]", encode_all(value)))  # type: ignore[return-value]  # list is invariant; str is Json

    return _Codec(encode, lambda value: frozenset([item.load(part) for part in _list(value)]))


def _mapping(item: _Codec) -> _Codec:
    encode_value, decode_value = item

    def encode(value: object) -> Json:
        entries = typing.cast("Mapping[str, object]", value)
        return {key: typing.cast(Json, part) if encode_value is None else encode_value(part) for key, part in entries.items()}

    def decode(value: Json) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, got {value!r:.80}")
        return {key: decode_value(part) for key, part in value.items()}

    return _Codec(encode, decode)


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {value!r:.80}")
    return value
