"""What all models of manifests are made of: the base model, markers on fields, and the forms of names and texts.

Every field of a Workflow, its tasks and environment rules says with IN_DIGEST or OUT_OF_DIGEST whether a change of it is a
reason to run again (canonical.py reads the marks). A field whose feature comes later is marked NOT_YET: giving it a value is an
error that says so, because a field that is silently ignored is worse than one that is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema

from reconciler.core.names import OBJECT_NAME, TASK_ID, TASK_ID_LENGTH_MAX
from reconciler.manifest import fields

API_VERSION = "scripthut/v1"
#: What each message about a feature of a later release holds; people and tests search for it.
NOT_SUPPORTED_YET = "not supported yet"
COMMAND_CHARS_MAX = 1_000_000
#: Linux refuses to start a program with one environment string above 128 KiB (MAX_ARG_STRLEN); the name and quotes need some of it.
VALUE_BYTES_MAX = 120_000


class Digest(Enum):
    """Whether a change of a field is a reason to run again."""

    IN = "in"
    OUT = "out"


IN_DIGEST = Digest.IN
OUT_OF_DIGEST = Digest.OUT


class Model(BaseModel):
    """Base of everything a manifest can hold: unknown keys are errors, and what was read never changes.

    A known key whose value is null (`env:` with nothing behind it) is as good as left out; ScriptHut and its generators write so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_say_nothing(cls, data: object) -> object:
        if isinstance(data, dict) and None in data.values():
            return {key: value for key, value in data.items() if value is not None or key not in _known(cls)}
        return data


@cache
def _known(model: type[BaseModel]) -> frozenset[str]:
    """Every key that `model` takes."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        other = field.validation_alias
        found.update(str(choice) for choice in other.choices) if isinstance(other, AliasChoices) else found.add(field.alias or name)
    return frozenset(found)


def _refuse_yet(value: object, info: ValidationInfo) -> object:
    """Lets through what says nothing (null, an empty text, list or map), as generators write it for fields they do not use."""
    if value is None or value in ("", [], {}, ()):
        return value
    raise ValueError(f"{info.field_name} is {NOT_SUPPORTED_YET}")


def _refuse_but_false(value: object, info: ValidationInfo) -> object:
    return value if value is False else _refuse_yet(value, info)


def _refuse_kind(value: object) -> object:
    raise ValueError(f"kind {value} is {NOT_SUPPORTED_YET}")


#: Marks the `kind` of a kind whose feature comes later.
KIND_NOT_YET = BeforeValidator(_refuse_kind)
#: Marks a field whose feature comes later.
NOT_YET = BeforeValidator(_refuse_yet)
#: The same for a switch: `false` is what happens anyway, so it is honoured.
NOT_YET_UNLESS_FALSE = BeforeValidator(_refuse_but_false)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _one_line(text: str) -> str:
    # C0, DEL and C1 controls, and the two separators that some programs take for line ends
    match = re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", text)
    if match is not None:
        raise ValueError(f"holds a control character (U+{ord(match[0]):04X})")
    return text


def _object_name(text: str) -> str:
    if not OBJECT_NAME.fullmatch(text):
        raise ValueError("a name is 1 to 63 of a-z, 0-9, '.', '_', '-', and begins with a letter or a digit")
    return text


def _task_id(text: str) -> str:
    if not TASK_ID.fullmatch(text):
        raise ValueError("a task id is letters, digits, '.', '_', '-', and begins with a letter or a digit")
    if len(text) > TASK_ID_LENGTH_MAX:
        raise ValueError(f"a task id has at most {TASK_ID_LENGTH_MAX} characters")
    return text


def _need(text: str) -> str:
    if not text or len(text) > TASK_ID_LENGTH_MAX or not re.fullmatch(r"[A-Za-z0-9._*?\[\]!^-]+", text):
        raise ValueError(f"a need is a task id or a pattern with * ? [..], of at most {TASK_ID_LENGTH_MAX} characters")
    return text


def _whole_number(value: object) -> object:
    """Booleans are integers in Python, and fractions are no counts."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("write a whole number")
    return value


def _finite(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("write a finite number")
    return value


def _literal_text(value: object) -> object:
    """Whole numbers are taken for their digits. Other scalars are not text, and how they would be spelled is a guess."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (bool, float)):
        raise ValueError("put it in quotes: YAML reads it as a number or a truth value, and the spelling would be lost")
    if isinstance(value, Mapping) and "secret" in value:
        raise ValueError(f"secret values are {NOT_SUPPORTED_YET}")
    return value


def _value(text: str) -> str:
    if len(text.encode()) > VALUE_BYTES_MAX:
        raise ValueError(f"longer than {VALUE_BYTES_MAX:,} bytes; no program could be started with it")
    return text


def _label_key(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?", text):
        raise ValueError("a label's name is 1 to 100 letters, digits, '.', '_', '/', '-'")
    return text


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", text):
        raise ValueError("a variable's name is letters, digits and '_', and begins with no digit")
    return text


def _commit(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text):
        raise ValueError("write the commit's 40 hexadecimal digits in full")
    return text


def _ref(text: str) -> str:
    """The rules of git-check-ref-format that matter to us."""
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|^[-/.]|/\.|[/.]$", text)
    if bad is not None or not text:
        raise ValueError("not a name that git allows for a branch or a tag")
    return text


def _glob(text: str) -> str:
    if text.startswith("/") or any(part in {"..", ".git"} for part in text.lower().split("/")):
        raise ValueError("a pattern is relative to the source and holds no '..' or '.git'")
    return text


# What JSON Schema says of values that are given in one form and kept in another.
_DURATION_SCHEMA = WithJsonSchema({"type": "string", "examples": ["30s", "5m", "1h30m", "2:00:00"]})
_LIMIT_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}], "examples": ["1:00:00", "90m", 60]})
_MEMORY_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["4G", "512M"]})
_TIME_SCHEMA = WithJsonSchema({"type": "string", "format": "date-time"})
_VALUE_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})

#: Any text but NUL.
Text = Annotated[str, AfterValidator(_no_nul)]
Command = Annotated[Text, StringConstraints(max_length=COMMAND_CHARS_MAX)]
#: Text of one line, without control characters.
Line = Annotated[str, AfterValidator(_one_line), StringConstraints(max_length=1000)]
#: A path, of a file system or of a repository. Linux takes 4,096 bytes.
PathText = Annotated[str, AfterValidator(_one_line), StringConstraints(max_length=4000)]
Glob = Annotated[str, AfterValidator(_one_line), AfterValidator(_glob), StringConstraints(min_length=1, max_length=1000)]
ObjectName = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_object_name)]
#: The name of an object of this or another place: `name` or `<source>/<name or path>`.
QualifiedName = Annotated[str, AfterValidator(_one_line), StringConstraints(min_length=1, max_length=1000)]
TaskId = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_task_id)]
Need = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_need)]
Token = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_one_line), StringConstraints(min_length=1, max_length=200)]
Commit = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_commit)]
RefName = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_ref), StringConstraints(max_length=250)]
RunId = Annotated[str, BeforeValidator(_literal_text), StringConstraints(pattern=r"^[0-9a-f]{12}$")]
Variable = Annotated[str, AfterValidator(_variable)]
GroupName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Value = Annotated[str, BeforeValidator(_literal_text), AfterValidator(_no_nul), AfterValidator(_value), _VALUE_SCHEMA]
Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, BeforeValidator(_whole_number), Field(ge=0, le=1_000_000)]
Number = Annotated[float, BeforeValidator(_finite)]
Switch = Annotated[bool, Field(strict=True)]
DurationS = Annotated[float, BeforeValidator(fields.duration), _DURATION_SCHEMA]
TimeLimitS = Annotated[int, BeforeValidator(fields.time_limit), _LIMIT_SCHEMA]
MemoryMB = Annotated[int, BeforeValidator(fields.memory), _MEMORY_SCHEMA]
Time = Annotated[float, BeforeValidator(fields.point_in_time), _TIME_SCHEMA]
GitUrl = Annotated[str, BeforeValidator(fields.git_url), StringConstraints(max_length=2000)]
Labels = dict[Annotated[str, AfterValidator(_label_key)], Annotated[str, BeforeValidator(_literal_text), AfterValidator(_one_line)]]


_Item = TypeVar("_Item")


def _not_empty(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    # not min_length: pydantic would report "too short" beside every error in an item
    if not items:
        raise ValueError("the list is empty")
    return items


NotEmpty = Annotated[tuple[_Item, ...], AfterValidator(_not_empty)]


def at_least(seconds: float) -> AfterValidator:
    """A validator: a duration of at least so many seconds."""

    def check(value: float) -> float:
        if value < seconds:
            raise ValueError(f"at least {seconds:g}s")
        return value

    return AfterValidator(check)


class Metadata(Model):
    """Which object this is."""

    name: Annotated[ObjectName, OUT_OF_DIGEST] = Field(
        description="The object's name: unique for its kind in its source. a-z, 0-9, '.', '_', '-'; at most 63."
    )
    labels: Annotated[Labels, OUT_OF_DIGEST] = Field(
        default={}, description="Words of your own, for selecting and finding. Nothing runs again for them."
    )


class SuspendSpec(Model):
    """While this stands, nothing new is started. What runs goes on."""

    reason: Annotated[Line, OUT_OF_DIGEST] = Field(default="", description="Why, for whoever asks.")
    by: Annotated[Line, OUT_OF_DIGEST] = Field(default="", description="Who did it.")
    until: Annotated[Time | None, OUT_OF_DIGEST] = Field(
        default=None, description="When it ends by itself, as 2026-12-01T09:00:00Z. Left out: when you remove it."
    )


def digest_mark(model: type[BaseModel], name: str) -> Digest | None:
    """IN or OUT as marked on the field `name` of `model`; None when it is not marked (the tests refuse that where it matters)."""
    found = [mark for mark in model.model_fields[name].metadata if isinstance(mark, Digest)]
    return found[0] if found else None


def plain_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of `model`, with the names as written in manifests."""
    return model.model_json_schema(by_alias=True)
