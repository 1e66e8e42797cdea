"""ruamel's syntax errors in words that a person can act on. Called by yamlfile.py.

A table of what ruamel says -> (what is wrong, what to do); what the table does not know is passed on as ruamel says it.
Which mark helps is in the table too: an open bracket is told where it opens, not at the end of the file where it was missed.
"""

from __future__ import annotations

import re
from typing import Protocol


class _Mark(Protocol):
    index: int
    line: int
    column: int


class SyntaxTrouble(Protocol):
    """What ruamel's MarkedYAMLError carries; each may be None."""

    context: str | None
    context_mark: _Mark | None
    problem: str | None
    problem_mark: _Mark | None


_QUOTES = "put the value in quotes"
_NO_BACKSLASH = "write \\\\ for a backslash, or use single quotes"
_NO_BRACKETS = "put text that has brackets, braces or commas in quotes"
#: (pattern of "context: problem", message, cure). `{0}` is the pattern's first group. First match wins.
_WORDS = (
    (r"found unknown escape character '?(.*?)'?$", "\\{0} means nothing in double quotes", _NO_BACKSLASH),
    (r"expected escape sequence", "an escape in double quotes is cut short", _NO_BACKSLASH),
    (r"found character '\\t' that cannot start", "a tab is used to indent", "use spaces: YAML does not take tabs there"),
    (r"found character (\S+) that cannot start", "a value cannot start with {0}", _QUOTES),
    (r"mapping values are not allowed", "a ': ' is not expected here", "put text that holds ': ' in quotes, or check the indentation"),
    (r"sequence entries are not allowed", "a '-' entry is not expected here", "start the list on a line of its own, below its key"),
    (r"mapping keys are not allowed", "a '?' is not expected here", _QUOTES),
    (r"flow sequence: expected", "a ',' or ']' is missing here, in the list that opens on line {line}", "add it; " + _NO_BRACKETS),
    (r"flow mapping: expected", "a ',' or '}}' is missing here, in the mapping that opens on line {line}", "add it; " + _NO_BRACKETS),
    (r"found unexpected ':'", "a ':' is not expected here", "put a space after the ':' of a key; put text that has a ':' in quotes"),
    (r"expected the node content, but found '(?!<)(.*?)'", "a value is missing before {0}", _NO_BRACKETS),
    (r"expected the node content", "a value is missing here", "write the value"),
    (r"expected '<document start>'", "the document has ended before this", "check the indentation; begin a further document by a line ---"),
    (r"after document end marker", "nothing may follow ... on its line", "put it on a line of its own"),
    (r"block scalar: expected (?:chomp|a comment)", "text may not follow | or > on its line", "start the text on the next line, indented"),
    (r"block scalar: expected indentation", "0 is no indentation", "leave the number after | or > out"),
    (r"more indented follow up", "the first, empty line of this text is indented more than the text", "remove the blanks from that line"),
    (r"scanning a directive|YAML document|YAML directive|tag handle", "a line that starts with '%' is not accepted", "remove it"),
)
#: The same, told where the thing begins and not where its end was missed.
_WORDS_AT_BEGIN = (
    (r"scanning a quoted scalar: found unexpected (?:end|document)", "a quote is opened here and never closed", "add the closing quote"),
    (r"scanning an? (?:alias|anchor): expected", "a value cannot start with * or &", _QUOTES),
    (r"(?:scanning|parsing) an? tag|undefined tag handle", "a value cannot start with !", _QUOTES),
    (r"could not find expected ':'", "a key without ':'", "write `key: value`; check the indentation of this line and the next"),
    (r"flow (?:sequence|mapping): .*(?:stream end|document)", "a bracket is opened here and never closed", "add the closing bracket"),
)
_TABLE = tuple(
    (re.compile(pattern), at_begin, message, cure)
    for words, at_begin in ((_WORDS_AT_BEGIN, True), (_WORDS, False))
    for pattern, message, cure in words
)
_UNALIGNED = re.compile(r"parsing a block (mapping|collection): expected <block end>")


def in_plain_words(error: SyntaxTrouble, text: str, opened: int | None) -> tuple[int, str, str]:
    """(offset in `text`, message, cure) of a syntax error. `opened` is the offset of the innermost open bracket, None without one."""
    said = f"{error.context or ''}: {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    offset = mark.index if mark else 0
    if _UNALIGNED.search(said):
        return _unaligned(error, text, offset)
    if opened is not None and not text[offset:].strip():
        return opened, "a bracket is opened here and never closed", "add the closing bracket"
    begin = error.context_mark or mark
    line = begin.line + 1 if begin else 0
    for pattern, at_begin, message, cure in _TABLE:
        found = pattern.search(said)
        if found:
            return (begin.index if at_begin and begin else offset), message.format(*found.groups(), line=line), cure
    return offset, said.strip(": "), "check the YAML syntax here and on the line before"


def _unaligned(error: SyntaxTrouble, text: str, offset: int) -> tuple[int, str, str]:
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    before = text[start:offset].strip()
    if before and before != "-":
        return offset, "something stands after the end of a value", "put the whole value in quotes"
    column = error.context_mark.column + 1 if error.context_mark else 0
    line = error.context_mark.line + 1 if error.context_mark else 0
    message = f"this line does not line up with those it belongs to, which start in column {column} (from line {line} on)"
    return offset, message, "indent it by spaces like its neighbours"
