"""Environment rules → the values that a task's job exports, each with where it came from.

Called by manifest/resolve.py (`resolve` for what all tasks of a workflow share, `extend` for one task) and by the script writers
(`assignment`, `shell_parts`).

A *value* is text. Every `${NAME}` in it that the rules know is replaced when the rule is applied; any other `${NAME}` stays, and
means the value that NAME has on the backend, before the job exports anything. Every other character is literal: `$NAME`,
`$(…)`, quotes and backticks mean themselves, so no value can execute.

Order. Layers one after another (backend, server, source overlay, workflow, task); in a layer the rules as written; in a rule
first its includes, then `set`, `append`, `init`. The rules of an included group are put in its place and inherit the `if`; all
conditions are compared with the values so far, each time. A layer sees the groups of its own and of the layers before it; where
two have one name, the later one, for this layer and those that follow: a workflow cannot change what a backend's own rule includes.

A job runs `init` first and exports after it, so that exports win over what a module sets. `init` is shell text and not a
value: nothing is put into it. The values that it mentions are exported before it, quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

from reconciler.core import graph
from reconciler.errors import EnvError, GraphError

PROTECTED = "SCRIPTHUT_"
#: Linux takes no longer `KEY=value` than 128 KiB, and 2 MiB for arguments and environment together (`execve(2)`).
VALUE_CHARS_MAX = 100_000
ALL_CHARS_MAX = 1_000_000
#: Groups may include groups twice each: without an end, 30 of them would be a billion rules.
RULES_MAX = 10_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REF = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MENTION = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")  # in shell text: `$NAME`, `${NAME}`, `${NAME:-x}`


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as written. `if_` maps each name to the texts of which it must equal one; all names must match.

    `optional`: an unknown group in `include` is a warning and not an error (the oldest files' `environment: NAME`).
    """

    if_: tuple[tuple[str, tuple[str, ...]], ...] = ()
    include: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()
    append: tuple[tuple[str, str], ...] = ()
    init: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """The rules that one document brings in, and the groups it declares. `name` is what provenance calls it."""

    name: str
    rules: tuple[Rule, ...] = ()
    groups: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)


class Operation(StrEnum):
    SEED = "seed"
    SET = "set"
    APPEND = "append"


class Op(NamedTuple):
    """One thing that made a value what it is. `contribution` is the text after substitution; `group` is "" outside groups."""

    layer: str
    group: str
    operation: Operation
    contribution: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the rules came to.

    `values` are in an order in which a shell may export them one by one: none is exported before another that means the
    backend's own value of it. `init` is shell text, "" when there is none. `warnings` are sentences. `groups` are those that
    the next layer would see.
    """

    values: tuple[tuple[str, str], ...] = ()
    init: str = ""
    provenance: Mapping[str, tuple[Op, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    groups: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)


class Ref(NamedTuple):
    """The value that `name` has on the backend."""

    name: str


def resolve(layers: Sequence[Layer], seed: Iterable[tuple[str, str]] = ()) -> Resolved:
    """Apply the rules of `layers`, in order, to the values of `seed` (SCRIPTHUT_* and whatever else is given).

    Raises EnvError, in words, for a name that no shell has, an unknown group, groups that include each other, and sizes above
    the limits of this module.
    """
    values = dict(seed)
    for name in values:
        _check_name(name, "the seed")
    provenance = {name: (Op("seed", "", Operation.SEED, value),) for name, value in values.items()}
    return extend(Resolved(tuple(values.items()), provenance=provenance), layers)


def extend(before: Resolved, layers: Iterable[Layer]) -> Resolved:
    """The same with further layers: `extend(resolve(a, seed), b)` holds what `resolve(a + b, seed)` does. Raises EnvError as that does."""
    state = _State(before)
    for layer in layers:
        if layer.groups:
            state.groups = {**state.groups, **layer.groups}
        for rule in _flatten(layer, state):
            state.apply(layer.name, rule)
    return state.result()


def shell_parts(value: str) -> tuple[str | Ref, ...]:
    """`value` cut into literal text and references, for whoever writes it for a shell. No part is empty."""
    parts: list[str | Ref] = []
    at = 0
    for match in _REF.finditer(value):
        parts += [value[at : match.start()], Ref(match[1])]
        at = match.end()
    return tuple(part for part in (*parts, value[at:]) if part)


def quote(text: str) -> str:
    """`text` as one word for any POSIX shell, whatever it holds (but NUL, which no environment can hold)."""
    return "'" + text.replace("'", "'\\''") + "'"


def shell_word(value: str) -> str:
    """`value` as one word for any POSIX shell: literal parts quoted, references as `"${NAME-}"` (empty when not set there)."""
    return "".join(f'"${{{part.name}-}}"' if isinstance(part, Ref) else quote(part) for part in shell_parts(value)) or "''"


def assignment(name: str, value: str) -> str:
    """`export NAME=…` for any POSIX shell.

    What `append` makes, `${NAME}:x`, becomes `x` alone where the backend has no NAME or an empty one: an empty entry of a search
    path would mean the working directory.
    """
    own = f"${{{name}}}:"
    if value.startswith(own):
        return f'export {name}="${{{name}:+${{{name}}}:}}"{shell_word(value[len(own) :])}'
    return f"export {name}={shell_word(value)}"


class _Placed(NamedTuple):
    """A rule where it will be applied: with every `if` above it, and the group it stands in."""

    rule: Rule
    conditions: tuple[tuple[str, tuple[str, ...]], ...]
    group: str


class _State:
    """The values so far."""

    def __init__(self, before: Resolved) -> None:
        self.values = dict(before.values)
        self.init = [before.init] if before.init else []
        self.provenance = dict(before.provenance)
        self.warnings = list(before.warnings)
        self.groups = before.groups
        self._chars = sum(map(len, self.values.values()))

    def apply(self, layer: str, placed: _Placed) -> None:
        """Apply one rule if all its conditions hold now."""
        if any(self.values.get(name) not in texts for name, texts in placed.conditions):
            return
        rule = placed.rule
        for name, text in rule.set:
            self._change(Op(layer, placed.group, Operation.SET, text), name)
        for name, text in rule.append:
            self._change(Op(layer, placed.group, Operation.APPEND, text), name)
        if rule.init:
            self.init.append(self._shell_text(rule.init))

    def _change(self, op: Op, name: str) -> None:
        where = f"{op.layer}, group {op.group!r}" if op.group else op.layer
        _check_name(name, where)
        if name.startswith(PROTECTED):
            self._warn(f"{name} belongs to {PROTECTED}*, which no rule may change; ignored ({where})")
            return
        text = self._substitute(name, op.contribution)
        before = self.values.get(name, f"${{{name}}}")
        value = f"{before}:{text}" if op.operation is Operation.APPEND else text
        self._chars += len(value) - len(self.values.get(name, ""))
        if len(value) > VALUE_CHARS_MAX or self._chars > ALL_CHARS_MAX:
            raise EnvError(
                f"{name} makes the environment too long ({where}): at most {VALUE_CHARS_MAX:,} characters each, {ALL_CHARS_MAX:,} in all"
            )
        self.values[name] = value
        earlier = self.provenance.get(name, ()) if op.operation is Operation.APPEND else ()
        self.provenance[name] = (*earlier, op._replace(contribution=text))

    def _substitute(self, name: str, text: str) -> str:
        if "\0" in text:
            raise EnvError(f"{name} holds a NUL character, which no environment can hold")
        if "${" not in text:
            return text
        parts = [self.values.get(part.name, f"${{{part.name}}}") if isinstance(part, Ref) else part for part in shell_parts(text)]
        if sum(map(len, parts)) > VALUE_CHARS_MAX:
            raise EnvError(f"{name} would be longer than {VALUE_CHARS_MAX:,} characters")
        return "".join(parts)

    def _shell_text(self, init: str) -> str:
        """`init` after exports of what it mentions; but not of a value that extends the backend's own, which comes once, at the end."""
        lines = []
        for name in dict.fromkeys(match[1] for match in _MENTION.finditer(init)):
            value = self.values.get(name)
            if value is not None and Ref(name) not in shell_parts(value):
                lines.append(assignment(name, value))
        return "\n".join((*lines, init))

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def result(self) -> Resolved:
        """What the rules applied so far came to."""
        values = tuple((name, self.values[name]) for name in _export_order(self.values))
        return Resolved(values, "\n".join(self.init), self.provenance, tuple(self.warnings), self.groups)

    def unknown_group(self, layer: str, name: str, optional: bool) -> None:
        """Warn of a group that nobody declared, or raise EnvError."""
        near = get_close_matches(name, self.groups, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        if not optional:
            raise EnvError(f"{layer} includes the group {name!r}, which neither it nor a layer before it declares{hint}")
        self._warn(f"{layer} names the environment {name!r}, which nobody declares{hint}; ignored")


def _flatten(layer: Layer, state: _State) -> Iterator[_Placed]:
    """The rules of `layer` with every include replaced by the group's own rules, in order."""
    count = 0
    pending = [_Placed(rule, rule.if_, "") for rule in reversed(layer.rules)]
    trails: list[tuple[str, ...]] = [()] * len(pending)  # of each pending rule, the groups it stands in, outermost first
    while pending:
        placed, trail = pending.pop(), trails.pop()
        count += 1
        if count > RULES_MAX:
            raise EnvError(f"{layer.name} comes to more than {RULES_MAX:,} environment rules; groups include each other too often")
        if not placed.rule.include:
            yield placed
            continue
        rule = placed.rule
        own = Rule(rule.if_, (), rule.set, rule.append, rule.init)
        inner = [(_Placed(own, placed.conditions, placed.group), trail)]
        for name in reversed(rule.include):
            if name in trail:
                raise EnvError(f"{layer.name}: groups include each other: {' -> '.join([*trail[trail.index(name) :], name])}")
            if name not in state.groups:
                state.unknown_group(layer.name, name, rule.optional)
                continue
            for each in reversed(state.groups[name]):
                inner.append((_Placed(each, placed.conditions + each.if_, name), (*trail, name)))
        pending += [each for each, _ in inner]
        trails += [each for _, each in inner]


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise EnvError(f"{name!r} cannot be the name of an environment variable ({where}): letters, digits and _, no digit first")


def _export_order(values: Mapping[str, str]) -> Iterable[str]:
    """Names as they were first set, but each after those that mean the backend's own value of it."""
    readers: dict[str, list[str]] = {name: [] for name in values}
    found = False
    for name, value in values.items():
        for part in shell_parts(value) if "${" in value else ():
            if isinstance(part, Ref) and part.name != name and part.name in values:
                readers[part.name].append(name)
                found = True
    if not found:
        return values
    try:
        return graph.order(readers)
    except GraphError as error:
        raise EnvError(f"these variables each mean the backend's own value of the other, which no shell can export: {error}") from error
