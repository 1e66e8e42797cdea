"""Which paths a glob means."""

from __future__ import annotations

import pytest

from reconciler.sources.globs import NOWHERE, Globs

MEANT = [
    (".hut/**/*.yaml", ".hut/a.yaml"),
    (".hut/**/*.yaml", ".hut/x/y/a.yaml"),
    ("**/sflow.json", "sflow.json"),
    ("**/sflow.json", "a/b/sflow.json"),
    ("a/**/b/**/c", "a/b/c"),
    ("a/**/b/**/c", "a/x/b/y/z/c"),
    ("a/**/**/c", "a/c"),
    ("src/**", "src/a"),
    ("src/**", "src/a/b"),
    ("src/", "src/a/b"),
    ("./a.yaml", "a.yaml"),
    ("/a.yaml", "a.yaml"),
    ("?.yaml", "a.yaml"),
    ("[ab].yaml", "b.yaml"),
    ("[!ab].yaml", "c.yaml"),
    ("*.yaml", "é.yaml"),
]
NOT_MEANT = [
    (".hut/**/*.yaml", "hut/a.yaml"),
    (".hut/**/*.yaml", ".hut/a.yaml/b"),
    (".hut/**/*.yaml", ".hut/.draft/a.yaml"),
    ("**/*.yaml", ".venv/a.yaml"),
    ("*.yaml", ".a.yaml"),
    ("*.yaml", "a/b.yaml"),
    ("*.yaml", "a.YAML"),
    ("src/**", "src"),
    ("src/**", "source/a"),
    ("?.yaml", "/.yaml"),
    ("a.yaml", "a.yaml\n"),
    ("a**b", "a/b"),
    ("../*", "../a/b"),
]


@pytest.mark.parametrize(("pattern", "path"), MEANT)
def test_meant(pattern: str, path: str) -> None:
    """The glob means this path."""
    assert Globs([pattern]).matches(path) is True


@pytest.mark.parametrize(("pattern", "path"), NOT_MEANT)
def test_not_meant(pattern: str, path: str) -> None:
    """The glob does not mean this path."""
    assert Globs([pattern]).matches(path) is False


@pytest.mark.parametrize("path", [".a", "x/.b/c", ".git-blame"])
def test_hidden_names_match_where_asked(path: str) -> None:
    """With `hidden`, wildcards match names that start with a dot, as git's do."""
    assert [Globs(["**"], hidden=hidden).matches(path) for hidden in (True, False)] == [True, False]


def test_a_list_matches_when_one_does() -> None:
    """Several globs are alternatives; no glob matches nothing."""
    assert [Globs(["*.yaml", "a/*.json"]).matches(path) for path in ("x.yaml", "a/x.json", "b/x.json")] == [True, True, False]
    assert Globs([]).start() == NOWHERE


@pytest.mark.parametrize(
    ("folder", "worth"), [(".hut", True), (".hut/x/y", True), ("src", False), ("a", True), ("a/b", False), (".hut/.x", False)]
)
def test_only_folders_that_can_hold_a_match_are_entered(folder: str, worth: bool) -> None:
    """A walk does not enter a folder below which nothing can match."""
    assert bool(Globs([".hut/**/*.yaml", "a/x.json"]).place_of(folder)) is worth


@pytest.mark.timeout(10)
def test_no_pattern_takes_long() -> None:
    """A hostile pattern is decided in bounded time: there is no backtracking over folders or within names."""
    deep = Globs(["**/a/" * 30 + "x"])
    assert deep.matches("a/" * 200 + "y") is False
    assert Globs(["*a" * 30 + "b"]).matches("a" * 2000) is False
