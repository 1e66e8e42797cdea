"""ScriptHut's JSON task files -> plain data with positions, inside the same limits as YAML files. Called by manifest/load.py.

The standard library reads the data (and says what is wrong with the syntax), a walk over the tokens finds the positions and what the
standard library lets pass: keys that stand twice, numbers that are none. 1 MB takes about half a second, a tenth of YAML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from reconciler.errors import Problem
from reconciler.yamltree import (
    DEPTH_MAX,
    PROBLEMS_MAX,
    Lines,
    Parsed,
    ParsedDocument,
    Plain,
    Spot,
    decode,
    refused_character,
    shortened,
    whole_number,
)

#: The closing quote may be missing, and nothing is given back: an open quote costs one pass to the end, not one for each quote in it.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_BRACKET = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_TOKEN = re.compile(rf"{_STRING}|[\[\]{{}}:,]|[^\s\[\]{{}}:,\"]+")

#: Keys and values of one file: what bounds the time and memory for positions and checks (1 s). 15,000 tasks fit.
VALUES_MAX = 250_000

#: What the standard library says (its first words) -> what is wrong, what to do.
_NO_JSON = "JSON takes no comments, no single quotes and no comma after the last entry"
_WORDS = (
    ("Expecting property name", "a key in double quotes is missing here", _NO_JSON),
    ("Illegal trailing comma", "a comma after the last entry", "remove it"),
    ("Expecting ',' delimiter", "a ',' or a closing bracket is missing before this", "add it"),
    ("Expecting ':' delimiter", "a ':' is missing after the key", "add it"),
    ("Expecting value", "a value is missing here", _NO_JSON),
    ("Unterminated string", "a quote is opened here and never closed", "add the closing quote"),
    ("Extra data", "something stands after the end of the data", "remove it: the file holds one list or object"),
    ("Invalid control character", "a line break or tab inside a text", "write \\n or \\t"),
    ("Invalid \\", "a backslash that starts no escape", "write \\\\ for a backslash"),
)


def parse_json(text: bytes, file: str) -> Parsed:
    """The one document of a JSON file; never raises. `file` is only used to name it in problems."""
    decoded = decode(text, file)
    if isinstance(decoded, Problem):
        return Parsed((), decoded)
    lines = Lines(decoded)
    too_deep = _depth_passed_at(decoded)
    if too_deep is not None:
        message = f"lists and objects are nested more than {DEPTH_MAX} deep"
        return Parsed((), Problem(file, *lines.at(too_deep), "", message, "nest less"))
    try:
        data: Plain = json.loads(decoded, parse_int=lambda digits: whole_number(digits) or 0, parse_constant=lambda _: 0.0)
    except json.JSONDecodeError as error:
        return Parsed((), Problem(file, error.lineno, error.colno, "", *_in_plain_words(error.msg)))
    walk = _Walk(decoded, lines, file)
    if not walk.run():
        message = f"the file has more than {VALUES_MAX:,} keys and values"
        return Parsed((), Problem(file, 0, 0, "", message, "split it into several files"))
    return Parsed((ParsedDocument(data, walk.root, lines, tuple(walk.problems)),))


def _depth_passed_at(text: str) -> int | None:
    """Offset of the first bracket that is nested too deep, found before a parser could recurse into it."""
    depth = 0
    for found in _BRACKET.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                return found.start()
        elif found[0] in "]}":
            depth -= 1
    return None


def _in_plain_words(said: str) -> tuple[str, str]:
    for start, message, cure in _WORDS:
        if said.startswith(start):
            return f"this is not JSON: {message}", cure
    return f"this is not JSON: {said}", "check the syntax here and on the line before"


@dataclass(slots=True)
class _Walk:
    """Goes through the tokens of a text that is known to be valid JSON."""

    text: str
    lines: Lines
    file: str
    root: Spot = field(default_factory=lambda: Spot(0, 0, 0))
    problems: list[Problem] = field(default_factory=list)

    def run(self) -> bool:
        """Fill `root` and `problems`; False when there are too many values."""
        left = VALUES_MAX
        stack: list[Spot] = []
        key: tuple[str, int] | None = None
        tokens = _TOKEN.finditer(self.text)
        for token in tokens:
            first = token[0][0]
            if first in ",:":
                continue
            if first in "]}":
                stack.pop().end = token.end()
                continue
            left -= 1
            if left < 0:
                return False
            if stack and isinstance(stack[-1].children, dict) and key is None:
                key = self._key(token, stack[-1].children), token.start()
                continue
            spot = Spot(key[1] if key else token.start(), token.start(), token.end())
            self._attach(spot, stack, key[0] if key else "")
            key = None
            if first in "[{":
                spot.children = {} if first == "{" else []
                stack.append(spot)
            else:
                self._scalar(token[0], token.start())
        return True

    def _attach(self, spot: Spot, stack: list[Spot], key: str) -> None:
        if not stack:
            self.root = spot
        elif isinstance(stack[-1].children, dict):
            stack[-1].children[key] = spot
        elif isinstance(stack[-1].children, list):
            stack[-1].children.append(spot)

    def _key(self, token: re.Match[str], taken: dict[str, Spot]) -> str:
        key = str(json.loads(token[0])) if "\\" in token[0] else token[0][1:-1]
        if key in taken:
            line, _ = self.lines.at(taken[key].key)
            self._refuse(token.start(), f"the key {shortened(key)} stands twice in one object, first on line {line}", "keep one of them")
        return key

    def _scalar(self, token: str, offset: int) -> None:
        for message, cure in _wrong_with(token):
            self._refuse(offset, message, cure)

    def _refuse(self, offset: int, message: str, cure: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(self.file, *self.lines.at(offset), "", message, cure))


def _wrong_with(token: str) -> Iterator[tuple[str, str]]:
    """What the standard library lets pass in one scalar, as (message, cure)."""
    if token[0] == '"':
        refusal = refused_character(json.loads(token)) if "\\" in token else ""
        if refusal:
            yield refusal, "remove the escape that makes it"
    elif token in ("NaN", "Infinity", "-Infinity"):
        yield f"{token} is not accepted as a number", "write a number"
    elif token[-1].isdigit() and token.lstrip("-").isdigit():
        if whole_number(token) is None:
            yield "a whole number of more than 64 bits is not accepted", "put it in quotes if it is meant as text"
    elif token[-1].isdigit() and math.isinf(float(token)):
        yield "the number is too large", "put it in quotes if it is meant as text"
