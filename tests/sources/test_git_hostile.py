"""Commits made to hurt whoever reads them: nothing of them is followed, and what is refused is named."""

from __future__ import annotations

import zlib
from hashlib import sha1
from pathlib import Path

import pytest

from reconciler.errors import SourceRefused
from reconciler.sources import git_tree
from reconciler.sources.entries import DEPTH_MAX, FILE_BYTES_MAX
from reconciler.sources.git import GitSource, GitSpec
from reconciler.sources.git_tree import GitTree
from reconciler.sources.watch import Watcher
from tests.gitrepo import GitRepo
from tests.sources.listening import texts

pytestmark = pytest.mark.real("git")


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    return GitRepo(tmp_path / "repo", bare=True)


async def tree_of(repo: GitRepo, watcher: Watcher, *include: str) -> GitTree:
    return await GitSource("lab", GitSpec(repo.url), include or ["**/*.yaml"], repo.path / "cache", watcher).look()


def refusals(tree: GitTree) -> dict[str, str]:
    return {refusal.path: refusal.problem for refusal in tree.refused}


@pytest.mark.parametrize(
    ("name", "path", "problem"),
    [
        (b"..", "../a.yaml", "is not the name of a file"),
        (b".", "./a.yaml", "is not the name of a file"),
        (b".git", ".git/a.yaml", "is named like git's own folder"),
        (b".GiT", ".GiT/a.yaml", "is named like git's own folder"),
        (b"GIT~1", "GIT~1/a.yaml", "is named like git's own folder"),
        (b"a/b", "a/b/a.yaml", "has a slash or a backslash in its name"),
        (b"a\\b", "a\\b/a.yaml", "has a slash or a backslash in its name"),
        (b"a\nb", "a\nb/a.yaml", "has a control or invisible character in its name"),
        (b"a\x1b[31m", "a\x1b[31m/a.yaml", "has a control or invisible character in its name"),
        ("a\u202eb".encode(), "a\u202eb/a.yaml", "has a control or invisible character in its name"),
        (b"a\xff", "a\udcff/a.yaml", "has a control or invisible character in its name"),
    ],
)
async def test_folders_with_such_names_are_refused(name: bytes, path: str, problem: str, repo: GitRepo, watcher: Watcher) -> None:
    """A folder whose name could mean something else than itself is named, and neither walked nor read."""
    inner = repo.raw_tree([("100644", b"a.yaml", repo.blob(b"one"))])
    repo.commit_raw([("40000", name, inner), ("100644", b"z.yaml", repo.blob(b"two"))])
    tree = await tree_of(repo, watcher, "*/*.yaml", ".*/*.yaml", "*.yaml")
    assert texts(tree) == {"z.yaml": "two"}
    assert list(refusals(tree).values()) == [problem]
    assert all(character.isprintable() for character in "".join(refusals(tree)))
    assert tree.read(path) is None
    assert list(tree.blob_ids(["**"])) == ["z.yaml"]


@pytest.mark.parametrize("name", [b"a/b.yaml", b"a\nb.yaml", b"a\\b.yaml", b"\xff.yaml"])
async def test_files_with_such_names_are_refused(name: bytes, repo: GitRepo, watcher: Watcher) -> None:
    """The same for a file that include matches; one that it does not match is nobody's business."""
    repo.commit_raw([("100644", name, repo.blob(b"one")), ("100644", name + b".txt", repo.blob(b"two"))])
    tree = await tree_of(repo, watcher)
    assert (texts(tree), len(tree.refused)) == ({}, 1)


async def test_links_and_submodules_are_refused_where_they_matter(repo: GitRepo, watcher: Watcher) -> None:
    """Links that match, that lead to a folder or out of the repository, and submodules are named; other links are not."""
    inner = repo.raw_tree([("100644", b"a.yaml", repo.blob(b"one"))])
    links = {
        b"l-out": b"/etc",
        b"l-up": b"../../x",
        b"l-folder": b"real",
        b"l-file": b"real/a.yaml",
        b"l.yaml": b"real/a.yaml",
        b"l-self": b".",
    }
    entries = [("120000", name, repo.blob(target)) for name, target in links.items()]
    repo.commit_raw(sorted([*entries, ("40000", b"real", inner), ("160000", b"sub", "a" * 40)], key=lambda entry: entry[1]))
    tree = await tree_of(repo, watcher)
    link, submodule = "is a symbolic link, which is never followed", "is a submodule, which is never followed"
    assert refusals(tree) == {**dict.fromkeys(["l-folder", "l-out", "l-self", "l-up", "l.yaml"], link), "sub": submodule}
    assert texts(tree) == {"real/a.yaml": "one"}
    assert [tree.read(path) for path in ("l.yaml", "l-file", "l-folder/a.yaml", "sub", "sub/a")] == [None] * 5
    assert list(tree.blob_ids(["**"])) == ["real/a.yaml"]


async def test_a_folder_too_deep_is_refused(repo: GitRepo, watcher: Watcher) -> None:
    """Folders in folders without end are named where the limit is."""
    tree = repo.raw_tree([("100644", b"a.yaml", repo.blob(b"one"))])
    for _ in range(DEPTH_MAX + 5):
        tree = repo.raw_tree([("40000", b"d", tree)])
    repo.commit_raw([("40000", b"d", tree)])
    assert list(refusals(await tree_of(repo, watcher)).values()) == [f"is more than {DEPTH_MAX} folders deep"]


async def test_a_small_pack_that_pretends_to_be_huge_is_refused(repo: GitRepo, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten folders that are ten times the same folder, ten deep, are ten thousand million files: the walk stops at its limit."""
    monkeypatch.setattr(git_tree, "ENTRIES_MAX", 20_000)
    tree = repo.raw_tree([("100644", b"%d.yaml" % number, repo.blob(b"one")) for number in range(10)])
    for _ in range(10):
        tree = repo.raw_tree([("40000", b"%d" % number, tree) for number in range(10)])
    repo.commit_raw([("40000", b"d", tree)])
    with pytest.raises(SourceRefused, match="more than 20,000 entries"):
        await tree_of(repo, watcher)
    narrow = await tree_of(repo, watcher, "*.yaml")
    with pytest.raises(SourceRefused, match="more than 20,000 entries"):
        narrow.blob_ids(["**"])


async def test_too_much_to_hold_is_refused(repo: GitRepo, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """One blob under a thousand names is as much memory as a thousand files say."""
    monkeypatch.setattr(git_tree, "TREE_BYTES_MAX", 2**20)
    blob = repo.blob(b"x" * 10_000)
    repo.commit_raw([("100644", b"%03d.yaml" % number, blob) for number in range(200)])
    with pytest.raises(SourceRefused, match="more than 1 MB together"):
        await tree_of(repo, watcher)


async def test_a_large_file_is_not_read(repo: GitRepo, watcher: Watcher) -> None:
    """A manifest above the limit is handed out with a size that its reader refuses, and without its content."""
    repo.commit({"a.yaml": b"x" * (FILE_BYTES_MAX + 100), "b.yaml": b"x" * (FILE_BYTES_MAX - 1)})
    files = (await tree_of(repo, watcher)).files()
    assert {path: (len(blob.data), blob.data[:1]) for path, blob in files.items()} == {
        "a.yaml": (FILE_BYTES_MAX, b" "),
        "b.yaml": (FILE_BYTES_MAX - 1, b"x"),
    }


async def test_a_listing_that_is_too_large_is_not_read(repo: GitRepo, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's listing is asked for its size before it is read: a few kB of zlib can be gigabytes."""
    monkeypatch.setattr(git_tree, "LISTING_BYTES_MAX", 4096)
    body = b"".join(b"100644 %06d.txt\0" % number + bytes(20) for number in range(1000))
    data = b"tree %d\0" % len(body) + body
    tree = sha1(data).hexdigest()
    path = repo.path / "objects" / tree[:2] / tree[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(data))
    repo.commit_raw([("40000", b"d", tree)])
    with pytest.raises(SourceRefused, match="folder whose listing alone"):
        await tree_of(repo, watcher)
