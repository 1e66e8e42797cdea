"""What a parsed manifest file is: plain data, where every key and value stands, and what is wrong with it.

yamlfile.py and jsonfile.py make these; manifest/load.py and yamledit.py read them. Text from outside is checked here before
any parser sees it: size first, then the encoding, then characters that no manifest needs.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, Union

from reconciler.errors import Problem

#: One file. A manifest is written by people; 1 MB is some 10,000 tasks.
FILE_BYTES_MAX = 1_000_000
#: One file, and by the same number one tree of files (checked by whoever adds the files up).
DOCUMENTS_MAX = 10_000
#: Lists and mappings inside one another. Ours need eight.
DEPTH_MAX = 50
#: Problems reported of one file. More than this nobody reads, and a hostile file could make a million.
PROBLEMS_MAX = 100
#: Whole numbers are 64 bits wide, as in every other program that will read them.
INT_MAX = 2**63 - 1
_INT_DIGITS_MAX = 19

Plain: TypeAlias = Union[bool, int, float, str, list["Plain"], dict[str, "Plain"], None]  # noqa: UP007 (recursive, so quoted inside)
Path: TypeAlias = Sequence[str | int]

_REFUSED = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
#: Also what an escape in a quoted text may not make: NUL and its like end an argument early or hide in a terminal.
_REFUSED_VALUE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_BREAK = re.compile(r"\r\n|\n|\r")


class Lines:
    """Offsets of a text -> line and column, both from 1."""

    __slots__ = ("_starts",)

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in _BREAK.finditer(text))]

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of the character at `offset`."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def start(self, line: int) -> int:
        """Offset of the first character of `line`; that of the text's last line when there are fewer."""
        return self._starts[min(line, len(self._starts)) - 1]


class Spot:
    """Where one value stands: offsets of its key (or of itself, in a list), behind the key, its first character, and behind its last.

    `children` is a dict for a mapping, a list for a list, None for a scalar. `flow`: written in brackets, or a scalar.
    """

    __slots__ = ("children", "end", "flow", "key", "key_end", "start")

    def __init__(self, key: int, start: int, end: int, flow: bool = True) -> None:
        self.key, self.key_end, self.start, self.end, self.flow = key, key, start, end, flow
        self.children: dict[str, Spot] | list[Spot] | None = None

    def child(self, step: str | int) -> Spot | None:
        """The value at one step of a path, or None."""
        if isinstance(self.children, dict):
            return self.children.get(str(step))
        if isinstance(self.children, list) and isinstance(step, int) and 0 <= step < len(self.children):
            return self.children[step]
        return None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """One document of a file. With `problems` its `data` is only good for finding out its name."""

    data: Plain
    root: Spot
    lines: Lines
    problems: tuple[Problem, ...] = ()

    @property
    def line(self) -> int:
        """The line where its content starts, from 1."""
        return self.at(())[0]

    def at(self, path: Path) -> tuple[int, int]:
        """Line and column of the value at `path`, or of the nearest one around it that exists."""
        return self.lines.at(self._walk(path).start)

    def key_at(self, path: Path) -> tuple[int, int]:
        """Line and column of the key that leads to `path` (of the entry itself, in a list)."""
        return self.lines.at(self._walk(path).key)

    def _walk(self, path: Path) -> Spot:
        spot = self.root
        for step in path:
            child = spot.child(step)
            if child is None:
                break
            spot = child
        return spot


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's documents in order, without the empty ones.

    `refusal` is what ended the reading early, or None: then `broken` is True and what follows is unknown.
    """

    documents: tuple[ParsedDocument, ...]
    refusal: Problem | None = None

    @property
    def broken(self) -> bool:
        """Whether the file may hold more documents than were read."""
        return self.refusal is not None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything found, in the order of the file, at most `PROBLEMS_MAX` and the refusal."""
        found = [problem for document in self.documents for problem in document.problems][:PROBLEMS_MAX]
        return (*found, self.refusal) if self.refusal else tuple(found)


def decode(data: bytes, file: str) -> str | Problem:
    """`data` as text without byte order mark, or the Problem that makes it unreadable. Looks at the size before anything else."""
    if len(data) > FILE_BYTES_MAX:
        message = f"the file has {len(data):,} bytes; {FILE_BYTES_MAX:,} is the most"
        return Problem(file, 0, 0, "", message, "split it into several files")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _not_utf8(data, file, error)
    found = _REFUSED.search(text)
    if found is None:
        return text
    line, column = Lines(text).at(found.start())
    message = f"the control character U+{ord(found[0]):04X} is not accepted"
    return Problem(file, line, column, "", message, "remove it; in a text in double quotes, \\n and \\t stand for line break and tab")


def _not_utf8(data: bytes, file: str, error: UnicodeDecodeError) -> Problem:
    line, column = Lines(data[: error.start].decode("utf-8-sig", "replace")).at(error.start)
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    message = f"the file is not UTF-8 text (byte 0x{data[error.start]:02x})"
    cure = "it looks like UTF-16: save it as UTF-8" if utf16 else "save it as UTF-8"
    return Problem(file, line, 1 if utf16 else column, "", message, cure)


def refused_character(value: str) -> str:
    """What to say about the first character of `value` that no text may hold, or ""."""
    found = _REFUSED_VALUE.search(value)
    return f"the text holds the control character U+{ord(found[0]):04X}, which is not accepted" if found else ""


def shortened(text: object) -> str:
    """`text` as a message may hold it: printable, on one line, at most 60 characters."""
    whole = str(text)
    part = "".join(character if character.isprintable() else "?" for character in whole[:60])
    return part if len(whole) <= 60 else part[:59] + "…"


def whole_number(text: str, base: int = 10) -> int | None:
    """`text` as a number, or None when it does not fit 64 bits. Long ones are never converted: that takes quadratic time."""
    digits = text.lstrip("+-0")
    if len(digits) > (_INT_DIGITS_MAX if base == 10 else 24):
        return None
    value = int(digits or "0", base) * (-1 if text.startswith("-") else 1)
    return value if -INT_MAX <= value <= INT_MAX else None
