"""YAML text -> plain data with positions, inside hard limits; the only importer of ruamel.yaml.

manifest/load.py calls `parse`; status.py calls `dump` (from yamlemit.py). Files come from strangers' repositories, so every limit is
checked while ruamel streams its events, before anything is built: no anchors, aliases, tags, merge keys or duplicate keys, bounded
size, depth, documents and tokens. YAML 1.2 core schema: `no`, `2:00:00` and dates are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.scanner import Scanner

from reconciler.errors import Problem
from reconciler.yamlemit import dump
from reconciler.yamltree import (
    DEPTH_MAX,
    DOCUMENTS_MAX,
    FILE_BYTES_MAX,
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
from reconciler.yamlwords import in_plain_words

__all__ = ["DEPTH_MAX", "DOCUMENTS_MAX", "FILE_BYTES_MAX", "TOKENS_MAX", "Parsed", "ParsedDocument", "Plain", "dump", "parse"]

#: Words and punctuation marks of one file. ruamel needs about 8 µs for each, so this is what bounds the time (1 s); 4,000 tasks fit.
TOKENS_MAX = 120_000

_QUOTE_IT = "put it in quotes if it is meant as text"


class _LimitPassed(Exception):
    """Reading must stop here: (offset, message, cure)."""

    def __init__(self, offset: int, message: str, cure: str) -> None:
        super().__init__(message)
        self.offset, self.message, self.cure = offset, message, cure


class _CountingScanner(Scanner):
    """Stops after `TOKENS_MAX` tokens, wherever in the grammar they are (directives and end marks make no event).

    The parser asks some six times whether the next token is of some type. Once a token is settled it stays so until it is taken,
    so ruamel's search for it is done once a token: a quarter of the whole time.
    """

    _settled = -1

    def check_token(self, *choices: type) -> bool:
        self._settle()
        return bool(self.tokens) and (not choices or isinstance(self.tokens[0], choices))

    def peek_token(self) -> object:
        self._settle()
        return self.tokens[0] if self.tokens else None

    def _settle(self) -> None:
        if self._settled != self.tokens_taken:
            while self.need_more_tokens():
                self.fetch_more_tokens()
            self._settled = self.tokens_taken

    def fetch_more_tokens(self) -> None:
        if self.tokens_taken + len(self.tokens) > TOKENS_MAX:
            cure = "split it, or write large task lists as a JSON task file, which is read much faster"
            raise _LimitPassed(self.reader.index, f"the file has more than {TOKENS_MAX:,} words and punctuation marks", cure)
        super().fetch_more_tokens()


def parse(text: bytes, file: str) -> Parsed:
    """All documents of a YAML file; never raises. `file` is only used to name it in problems.

    A file that passes a limit of the whole file yields no document; one broken by syntax yields those before the broken one.
    """
    decoded = decode(text, file)
    if isinstance(decoded, Problem):
        return Parsed((), decoded)
    composition = _Composition(file, decoded, Lines(decoded))
    try:
        for event in _events(decoded):
            composition.take(event)
    except _LimitPassed as limit:
        return Parsed((), composition.problem(limit.offset, limit.message, limit.cure))
    except MarkedYAMLError as error:
        spoken = in_plain_words(error, decoded, composition.open_bracket())
        return Parsed(tuple(composition.documents), composition.problem(*spoken))
    except Exception as error:  # one hostile file must not hurt the others: ruamel also leaks IndexError and ValueError
        message = f"the YAML reader cannot make sense of this file ({type(error).__name__})"
        return Parsed(tuple(composition.documents), composition.problem(composition.reached, message, "look at the lines from here on"))
    return Parsed(tuple(composition.documents))


def _events(text: str) -> Iterator[Event]:
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _CountingScanner
    yield from yaml.parse(text)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet. `key` is the key that waits for its value, None when a key comes next."""

    data: dict[str, Plain] | list[Plain]
    spot: Spot
    key: str | None = None
    key_spot: Spot | None = None


@dataclass(slots=True)
class _Composition:
    """Builds documents from events, one event at a time; no recursion, so that depth costs nothing."""

    file: str
    text: str
    lines: Lines
    documents: list[ParsedDocument] = field(default_factory=list)
    reached: int = 0
    _count: int = 0
    _stack: list[_Open] = field(default_factory=list)
    _problems: list[Problem] = field(default_factory=list)
    _data: Plain = None
    _root: Spot | None = None

    def problem(self, offset: int, message: str, cure: str = "") -> Problem:
        """A Problem at `offset` of the text."""
        return Problem(self.file, *self.lines.at(offset), "", message, cure)

    def open_bracket(self) -> int | None:
        """Offset of the innermost bracket that is open, None outside brackets."""
        return self._stack[-1].spot.start if self._stack and self._stack[-1].spot.flow else None

    def take(self, event: Event) -> None:
        """Take the next event of the stream."""
        self.reached = event.start_mark.index
        if isinstance(event, ScalarEvent):
            self._properties(event)
            spot = Spot(self.reached, self.reached, self._scalar_end(event))
            self._place(self._scalar(event), spot)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._properties(event)
            self._open(event)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._close(event)
        elif isinstance(event, AliasEvent):
            self._refuse(f"the alias *{shortened(event.anchor)} is not accepted", "write the value out; " + _QUOTE_IT)
            self._place("*", Spot(self.reached, self.reached, event.end_mark.index))
        elif isinstance(event, DocumentStartEvent):
            self._begin(event)
        elif isinstance(event, DocumentEndEvent) and self._root is not None and (self._data is not None or self._problems):
            self.documents.append(ParsedDocument(self._data, self._root, self.lines, tuple(self._problems)))

    def _begin(self, event: DocumentStartEvent) -> None:
        self._count += 1
        if self._count > DOCUMENTS_MAX:
            raise _LimitPassed(self.reached, f"the file has more than {DOCUMENTS_MAX:,} documents", "split it into several files")
        self._problems, self._data, self._root = [], None, None
        if event.tags or event.version not in (None, (1, 2)):
            self._refuse("a YAML directive is not accepted", "remove the line that starts with '%'; manifests are YAML 1.2")

    def _refuse(self, message: str, cure: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(self.problem(self.reached, message, cure))

    def _properties(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent) -> None:
        if event.anchor is not None:
            self._refuse(f"the anchor &{shortened(event.anchor)} is not accepted", "write the value out where it is needed; " + _QUOTE_IT)
        if event.tag is not None:
            self._refuse(f"the tag {shortened(event.tag)} is not accepted", "remove it; " + _QUOTE_IT)

    def _open(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        if len(self._stack) >= DEPTH_MAX:
            raise _LimitPassed(self.reached, f"lists and mappings are nested more than {DEPTH_MAX} deep", "nest less")
        spot = Spot(self.reached, self.reached, self.reached, bool(event.flow_style))
        data: dict[str, Plain] | list[Plain] = {} if isinstance(event, MappingStartEvent) else []
        spot.children = {} if isinstance(data, dict) else []
        self._stack.append(_Open(data, spot))

    def _close(self, event: MappingEndEvent | SequenceEndEvent) -> None:
        closed = self._stack.pop()
        children = closed.spot.children
        if closed.spot.flow:
            closed.spot.end = event.end_mark.index
        elif children:  # ruamel's end of a block is where the next thing starts; ours is where its last value ends
            last = next(reversed(children.values())) if isinstance(children, dict) else children[-1]
            closed.spot.end = max(closed.spot.end, last.end)
        self._place(closed.data, closed.spot)

    def _place(self, value: Plain, spot: Spot) -> None:
        if not self._stack:
            self._data, self._root = value, spot
            return
        top = self._stack[-1]
        if isinstance(top.data, list):
            top.data.append(value)
            assert isinstance(top.spot.children, list)
            top.spot.children.append(spot)
        elif top.key is None:
            top.key, top.key_spot = self._key(value, spot, top.data), spot
        else:
            assert top.key_spot is not None
            spot.key, spot.key_end = top.key_spot.start, top.key_spot.end
            self._pull_back(spot)
            top.data[top.key] = value
            assert isinstance(top.spot.children, dict)
            top.spot.children[top.key] = spot
            top.spot.end = max(top.spot.end, spot.end)
            top.key = None

    def _pull_back(self, spot: Spot) -> None:
        """ruamel puts a value that is left out where the next thing starts; it belongs behind the colon."""
        colon = self.text.find(":", spot.key_end, spot.start) if spot.start == spot.end else -1
        if colon >= 0:
            spot.start = spot.end = colon + 1

    def _key(self, value: Plain, spot: Spot, taken: dict[str, Plain]) -> str:
        """The key to use. One that is refused gets a name that no field has, so that reading can go on."""
        self.reached = spot.start
        if isinstance(value, str) and value == "<<" and self.text[spot.start] == "<":
            self._refuse("a merge key (<<) is not accepted", "write the values out")
        elif isinstance(value, str) and value in taken:
            line, _ = self.lines.at(self._stack[-1].spot.children[value].key)  # type: ignore[index,call-overload] # the spot of a mapping
            self._refuse(f"the key {shortened(value)} stands twice in one mapping, first on line {line}", "keep one of them")
        elif isinstance(value, str):
            return value
        elif isinstance(value, (dict, list)):
            cure = "in YAML, { and [ start a mapping or list: put text that has them in quotes"
            self._refuse("a key must be a text, not a list or mapping", cure)
        else:
            self._refuse(f"the key {shortened(self.text[spot.start : spot.end]) or 'null'} is not a text", "put the key in quotes")
        return f"\0{len(taken)}"

    def _scalar_end(self, event: ScalarEvent) -> int:
        end = int(event.end_mark.index)
        if event.style not in ("|", ">") or "+" in self.text[self.reached : self.reached + 3]:
            return end
        return self.reached + len(self.text[self.reached : end].rstrip(" \r\n"))

    def _scalar(self, event: ScalarEvent) -> Plain:
        if event.style is None and event.tag is None:
            return self._plain(event.value)
        refusal = refused_character(event.value)
        if refusal:
            self._refuse(refusal, "remove the escape that makes it")
        return str(event.value)

    def _plain(self, text: str) -> Plain:
        if text[:1].isalpha() and text[0] not in "tTfFnN":
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        for pattern, base in _INTEGERS:
            if pattern.fullmatch(text):
                number = whole_number(text if base == 10 else text[2:], base)
                if number is None:
                    self._refuse("a whole number of more than 64 bits is not accepted", _QUOTE_IT)
                return number
        if _FLOAT.fullmatch(text):
            value = float(text) if len(text) <= _FLOAT_LENGTH_MAX else math.inf
            if math.isinf(value):
                self._refuse("the number is too large or too long", _QUOTE_IT)
            return value
        if _NO_NUMBER.fullmatch(text):
            self._refuse(f"{shortened(text)} is not accepted as a number", _QUOTE_IT)
        return text


# The core schema of YAML 1.2 (section 10.3.2). Not ruamel's resolver: that one also knows dates and 1_000.
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGERS = ((re.compile(r"[-+]?[0-9]+"), 10), (re.compile(r"0o[0-7]+"), 8), (re.compile(r"0x[0-9a-fA-F]+"), 16))
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_FLOAT_LENGTH_MAX = 64
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
