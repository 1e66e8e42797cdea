"""Which names are never followed."""

from __future__ import annotations

import pytest

from reconciler.sources.entries import name_problem, path_problem, shown

REFUSED = ["", ".", "..", ".git", ".GIT", ".Git", ".git.", ".git ", "git~1", "GIT~1", "a/b", "a\\b", "a\nb", "a\0", "\x7f", "a\u202eb"]
REFUSED += ["\ufeffa", "a\u200db", "a\u2028b", b"x\xff".decode("utf-8", "surrogateescape"), ".g\u200cit"]
FINE = ["a.yaml", ".hut", ".gitignore", ".github", "…", "é", "日本", "a b", "-rf", "~", "$(touch x)", "a.git", "..."]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """An entry of this name is never followed."""
    assert name_problem(name) != ""


@pytest.mark.parametrize("name", [name for name in REFUSED if "/" not in name])
def test_paths_with_a_refused_name(name: str) -> None:
    """A path is refused for any one of its names."""
    assert (path_problem(f"a/{name}") != "", path_problem(f"{name}/a") != "") == (True, True)


@pytest.mark.parametrize("name", FINE)
def test_fine(name: str) -> None:
    """A name that is merely odd is one like any other."""
    assert (name_problem(name), path_problem(f"a/{name}")) == ("", "")


@pytest.mark.parametrize("path", ["/etc/passwd", "a//b", "a/", "../a", "a/../b", "/".join("a" * 65)])
def test_paths_that_are_refused(path: str) -> None:
    """Absolute paths, empty names and more folders than anybody has are refused."""
    assert path_problem(path) != ""


def test_shown() -> None:
    """What cannot be seen is escaped in messages, and a long path is cut."""
    assert shown("a\n\x1b[31m\u202eb") == "a\\n\\x1b[31m\\u202eb"
    assert len(shown("x" * 5000)) == 201
