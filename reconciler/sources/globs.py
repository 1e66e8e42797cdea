"""Which paths a list of globs means, and which folders are worth entering for it. Called by folder.py, git.py and git_tree.py.

`*`, `?` and `[..]` stay within one name, `**` crosses folders, `dir/` means `dir/**`. Case counts. A walk carries a *place* down
with it: the set of positions in the patterns that the path so far has reached. An empty place means that nothing below can match,
so a walk costs what can match and not what is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from typing import TypeAlias

Place: TypeAlias = frozenset[tuple[int, int]]
"""(pattern, how many of its names are behind us)."""

NOWHERE: Place = frozenset()
_ANY_DEPTH = "**"


class Globs:
    """A list of globs; a path matches when one of them does.

    `hidden` says whether a wildcard matches a name that starts with a dot. False is the rule of the shell, right for finding
    manifests (`**/*.yaml` stays out of `.venv`); True is git's, right for "has anything under src changed".
    """

    def __init__(self, patterns: Sequence[str], *, hidden: bool = False) -> None:
        self.patterns = tuple(patterns)
        self._hidden = hidden
        self._names = tuple(_names(pattern) for pattern in self.patterns)

    def start(self) -> Place:
        """The place at the root, before any name."""
        return self._past_any_depth({(index, 0) for index in range(len(self._names))})

    def enter(self, place: Place, name: str) -> Place:
        """The place after one more name. Empty: neither this path nor anything below it matches."""
        reached = set()
        for index, position in place:
            names = self._names[index]
            if position == len(names):
                continue
            if names[position] == _ANY_DEPTH:
                if self._hidden or not name.startswith("."):
                    reached.add((index, position))
            elif self._is_match(names[position], name):
                reached.add((index, position + 1))
        return self._past_any_depth(reached)

    def is_match(self, place: Place) -> bool:
        """Whether the path that led here is one that the globs mean."""
        return any(position == len(self._names[index]) for index, position in place)

    def place_of(self, path: str) -> Place:
        """The place after all names of `path` (relative, `/`-separated)."""
        place = self.start()
        for name in path.split("/"):
            place = self.enter(place, name)
            if not place:
                return NOWHERE
        return place

    def matches(self, path: str) -> bool:
        """Whether one of the globs means `path` (relative, `/`-separated)."""
        return self.is_match(self.place_of(path))

    def _past_any_depth(self, reached: set[tuple[int, int]]) -> Place:
        """`**` also means no folder at all, so what follows it is reached with it."""
        for index, position in tuple(reached):
            names, onward = self._names[index], position
            while onward < len(names) and names[onward] == _ANY_DEPTH:
                onward += 1
                reached.add((index, onward))
        return frozenset(reached)

    def _is_match(self, wanted: str, name: str) -> bool:
        if name.startswith(".") and not self._hidden and not wanted.startswith("."):
            return False
        return _compiled(wanted).fullmatch(name) is not None


def _names(pattern: str) -> tuple[str, ...]:
    """A glob as its names. What ends in `**` ends in "anything below", not in the folder itself."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.endswith("/"):
        names.append(_ANY_DEPTH)
    if names and names[-1] == _ANY_DEPTH:
        names.append("*")
    return tuple(names)


@lru_cache(maxsize=4096)
def _compiled(wanted: str) -> re.Pattern[str]:
    return re.compile(translate(wanted))
