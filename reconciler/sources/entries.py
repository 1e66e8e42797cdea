"""Which names of files and folders are never followed, wherever they come from. Called by folder.py and git_tree.py.

A git server or a pushed commit can name an entry anything: libgit2 lists `..`, `.GIT` and names with `/` or a newline as they
are. Nothing here is ever joined to a path before it has passed.
"""

from __future__ import annotations

import unicodedata

FILE_BYTES_MAX = 1_000_001
"""No more of one file is handed out: one byte above the loader's limit, so that the loader refuses it by its size."""

DEPTH_MAX = 64
"""Folders below each other; more is nobody's repository."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that a person cannot see in a name: controls, text direction, surrogates, unassigned, line ends."""


def name_problem(name: str) -> str:
    """Why an entry of this name is never followed, in words for a person; "" when it may be."""
    if name in ("", ".", ".."):
        return "is not the name of a file"
    if any(unicodedata.category(character) in _UNSEEN for character in name):
        return "has a control or invisible character in its name"
    if "/" in name or "\\" in name:
        return "has a slash or a backslash in its name"
    plain = name.rstrip(". ").casefold()
    if plain in (".git", "git~1"):
        return "is named like git's own folder"
    return ""


def path_problem(path: str) -> str:
    """The same for each name of a relative path; absolute paths and `a//b` are refused as well."""
    names = path.split("/")
    if len(names) > DEPTH_MAX:
        return f"is more than {DEPTH_MAX} folders deep"
    return next((problem for problem in map(name_problem, names) if problem), "")


def shown(path: str) -> str:
    """A path for a message: what cannot be seen is escaped, and it is cut at 200 characters."""
    text = "".join(c if unicodedata.category(c) not in _UNSEEN else ascii(c)[1:-1] for c in path)
    return text if len(text) <= 200 else f"{text[:200]}…"
