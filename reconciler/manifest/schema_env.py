"""Environment rules as written: what a task's environment is made of, layer by layer (core/env.py evaluates them)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

from reconciler.manifest.schema_base import (
    IN_DIGEST,
    NOT_YET,
    Command,
    GroupName,
    Model,
    ObjectName,
    Value,
    Variable,
)


def _alternatives(value: object) -> object:
    """One value stands for a list of one."""
    return value if isinstance(value, (list, tuple)) else [value]


Alternatives = Annotated[tuple[Value, ...], BeforeValidator(_alternatives)]


class EnvRule(Model):
    """One rule. Rules are evaluated from the first to the last; everything in one rule is under its `if`."""

    if_: Annotated[dict[Variable, Alternatives], IN_DIGEST] = Field(
        default={}, alias="if", description="The rule holds only when each named variable has (one of) the values, as resolved so far."
    )
    include: Annotated[tuple[GroupName, ...], IN_DIGEST] = Field(
        default=(), description="Groups of rules (`env_groups`) to evaluate first, by name."
    )
    stacks: Annotated[tuple[ObjectName, ...], IN_DIGEST, NOT_YET] = Field(default=(), description="Stacks whose `init` to run, by name.")
    set: Annotated[dict[Variable, Value], IN_DIGEST] = Field(
        default={},
        description="Variables and their values. `${NAME}` of a variable known to the rules is put in; every other character is literal.",
    )
    append: Annotated[dict[Variable, Value], IN_DIGEST] = Field(
        default={}, description="Values to add to a variable, after a ':'. Adding to PATH extends the backend's own."
    )
    init: Annotated[Annotated[Command, StringConstraints(max_length=100_000)], IN_DIGEST] = Field(
        default="", description="Shell text to run before the command, in the same shell: `module load R`."
    )


EnvRules = tuple[EnvRule, ...]
EnvGroups = dict[GroupName, EnvRules]
