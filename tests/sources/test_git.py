"""A git repository on this machine's disk: read in place, watched, never checked out."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from reconciler.errors import SourceRefused, SourceUnreachable
from reconciler.sources.base import Source
from reconciler.sources.git import GitSource, GitSpec
from reconciler.sources.watch import Watcher
from tests.gitrepo import GitRepo, git
from tests.sources.listening import Listener, texts

pytestmark = pytest.mark.real("git")
INCLUDE = ["**/*.yaml"]
FOUND_WITHIN_S = 0.2
"""From the move of a ref to the tree in our hands; usually 70 ms. A commit is to have started its first task after 300 ms."""


def source_of(url: str, watcher: Watcher, cache: Path, **spec: str) -> GitSource:
    return GitSource("lab", GitSpec(url, interval_s=3600, timeout_s=20, **spec), INCLUDE, cache, watcher)  # type: ignore[arg-type]


@pytest.fixture(params=["bare", "with a work tree"])
def repo(tmp_path: Path, request: pytest.FixtureRequest) -> GitRepo:
    return GitRepo(tmp_path / "repo", bare=request.param == "bare")


@pytest.fixture
def plain(tmp_path: Path) -> GitRepo:
    return GitRepo(tmp_path / "repo", bare=True)


async def long_back_off(source: Source) -> None:
    """Lets looks fail until the next one is more than a minute away, so that only an event can bring it."""
    for _ in range(8):
        with pytest.raises(SourceUnreachable):
            await source.look()


async def test_a_commit_is_read_from_the_object_store(repo: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """The tree is the commit's, whatever the work tree holds, and only what include matches is in files()."""
    sha = repo.commit({"a.yaml": "one", "b/c.yaml": "two", "b/x.txt": "three", ".hidden/d.yaml": "four"})
    if not repo.bare:
        (repo.path / "a.yaml").write_text("not committed")
    tree = await source_of(repo.url, watcher, tmp_path).look()
    assert texts(tree) == {"a.yaml": "one", "b/c.yaml": "two"}
    assert list(tree.files()) == ["a.yaml", "b/c.yaml"]
    assert (tree.revision, tree.commit, tree.root, tree.refused) == (f"main@sha1:{sha}", sha, "", ())
    assert {path: blob.id for path, blob in tree.files().items()} == {
        path: repo.git("rev-parse", f"HEAD:{path}") for path in ("a.yaml", "b/c.yaml")
    }


async def test_other_files_are_read_when_asked(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """read() knows every file of the commit and no other; blob_ids() lists what its globs mean, hidden files too."""
    plain.commit({"a.yaml": "one", "b/x.txt": "three", "b/.y": "four"})
    tree = await source_of(plain.url, watcher, tmp_path).look()
    found = {path: tree.read(path) for path in ("a.yaml", "b/x.txt", "b", "none", "b/none", "a.yaml/x", "../repo/HEAD", "/etc/passwd", "")}
    assert {path: blob.data for path, blob in found.items() if blob} == {"a.yaml": b"one", "b/x.txt": b"three"}
    assert dict(tree.blob_ids(["b/**"])) == {path: plain.git("rev-parse", f"main:{path}") for path in ("b/.y", "b/x.txt")}


async def test_the_same_tree_while_the_commit_is_the_same(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """Two looks at one commit hand out one object; another commit another, even with equal files."""
    plain.commit({"a.yaml": "one"})
    source = source_of(plain.url, watcher, tmp_path)
    first = await source.look()
    assert await source.look() is first
    plain.commit({}, "nothing")
    assert await source.look() is not first


async def test_a_commit_is_found_at_once(repo: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """From the move of the ref to the new tree it takes a fraction of the time that a first task may take."""
    repo.commit({"a.yaml": "0"})
    took = []
    async with Listener(source_of(repo.url, watcher, tmp_path)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "0"})
        for number in range(1, 6):
            repo.commit({"a.yaml": str(number)})
            began = time.monotonic()
            await heard.until(lambda h, number=number: texts(h.tree) == {"a.yaml": str(number)})  # type: ignore[misc]
            took.append(time.monotonic() - began)
    assert min(took) < FOUND_WITHIN_S, took


async def test_packed_refs_and_nested_branches_are_watched(repo: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A branch in a folder of its own is followed from its first commit, when its file is packed away, and when it comes back."""
    repo.commit({"a.yaml": "0"})
    async with Listener(source_of(repo.url, watcher, tmp_path, branch="feature/deep/x")) as heard:
        await heard.until(lambda h: isinstance(h.error, SourceRefused))
        repo.branch("feature/deep/x")
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "0"})
        repo.git("pack-refs", "--all")
        repo.commit({"a.yaml": "1"})
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "1"})
        repo.git("pack-refs", "--all")
        repo.git("gc", "-q", "--prune=now")
        repo.commit({"a.yaml": "2"})
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "2"})


async def test_a_branch_that_moves_in_packed_refs_alone(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """Tools that write packed-refs and no file of the branch are noticed too."""
    old = plain.commit({"a.yaml": "one"})
    new = plain.commit({"a.yaml": "two"})
    plain.git("pack-refs", "--all")
    packed = plain.path / "packed-refs"
    async with Listener(source_of(plain.url, watcher, tmp_path)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "two"})
        await settled(heard)
        (plain.path / "packed-refs.new").write_text(packed.read_text().replace(new, old))
        os.replace(plain.path / "packed-refs.new", packed)
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})


async def settled(heard: Listener) -> None:
    """Waits until what the making of a watch rings for has been looked at: no look for longer than the watcher takes."""
    looks = -1
    while looks != heard.looks:
        looks = heard.looks
        await asyncio.sleep(0.5)


async def test_a_repository_that_appears_later(watcher: Watcher, tmp_path: Path) -> None:
    """No folder, an empty folder, an empty repository and a first commit: each is said, and the next is noticed at once."""
    path = tmp_path / "deep" / "repo"
    async with Listener(source_of(f"file://{path}", watcher, tmp_path)) as heard:
        await heard.until(lambda h: isinstance(h.error, SourceUnreachable) and "not there" in str(h.error))
        await long_back_off(heard.source)
        path.mkdir(parents=True)
        repo = GitRepo(path)
        await heard.until(lambda h: isinstance(h.error, SourceUnreachable) and "no commit yet" in str(h.error))
        repo.commit({"a.yaml": "one"})
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})


async def test_a_repository_that_goes_and_comes_back(repo: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A repository that is removed is unreachable and not empty; another one in its place is followed."""
    repo.commit({"a.yaml": "one"})
    async with Listener(source_of(repo.url, watcher, tmp_path)) as heard:
        await heard.until(lambda h: h.tree is not None)
        shutil.rmtree(repo.path)
        await heard.until(lambda h: isinstance(h.error, SourceUnreachable))
        await long_back_off(heard.source)
        GitRepo(repo.path, repo.bare).commit({"b.yaml": "two"})
        await heard.until(lambda h: texts(h.tree) == {"b.yaml": "two"})


async def test_a_force_push_hands_out_the_new_tree(repo: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A branch that moves back, or to a commit without a parent, is followed; the old tree still says what it said."""
    first = repo.commit({"a.yaml": "one"})
    repo.commit({"a.yaml": "two"})
    async with Listener(source_of(repo.url, watcher, tmp_path)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "two"})
        old = heard.tree
        repo.force(first)
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        assert texts(old) == {"a.yaml": "two"}


async def test_a_deleted_branch_names_those_that_are_there(repo: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A branch that is deleted is refused with its name and its neighbours', and followed again when it is back."""
    repo.commit({"a.yaml": "one"})
    repo.branch("gone")
    repo.commit({"a.yaml": "two"})
    repo.branch("main")
    async with Listener(source_of(repo.url, watcher, tmp_path, branch="gone")) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "two"})
        repo.git("pack-refs", "--all")
        repo.git("branch", "-q", "-D", "gone")
        await heard.until(lambda h: isinstance(h.error, SourceRefused))
        assert "no branch gone (it has: main)" in str(heard.error)
        assert texts(heard.tree) == {"a.yaml": "two"}
        repo.branch("gone")
        await heard.until(lambda h: h.error is None and texts(h.tree) == {"a.yaml": "one"})


@pytest.mark.parametrize("annotate", [False, True])
async def test_tags_are_followed_to_their_commit(annotate: bool, plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A tag, light or annotated, means its commit; one that is moved is followed."""
    sha = plain.commit({"a.yaml": "one"})
    plain.tag("v1", annotate)
    async with Listener(source_of(plain.url, watcher, tmp_path, tag="v1")) as heard:
        await heard.until(lambda h: h.tree is not None and h.tree.revision == f"v1@sha1:{sha}")
        moved = plain.commit({"a.yaml": "two"})
        plain.tag("v1", annotate)
        await heard.until(lambda h: h.tree is not None and h.tree.revision == f"v1@sha1:{moved}")


async def test_a_tag_of_no_commit_is_refused(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A tag that stands at a blob is not taken for a tree of manifests."""
    plain.commit({"a.yaml": "one"})
    plain.git("tag", "odd", plain.blob(b"text"))
    with pytest.raises(SourceRefused, match="tag odd is no commit"):
        await source_of(plain.url, watcher, tmp_path, tag="odd").look()


async def test_a_pinned_commit_stays(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """A pinned commit is read whatever the branches do; one that is not there is refused by name, until it is there."""
    sha = plain.commit({"a.yaml": "one"})
    later = git("commit-tree", f"{sha}^{{tree}}", "-m", "later", cwd=plain.path)
    plain.commit({"a.yaml": "two"})
    tree = await source_of(plain.url, watcher, tmp_path, commit=sha).look()
    assert (tree.revision, texts(tree)) == (f"sha1:{sha}", {"a.yaml": "one"})
    assert (await source_of(plain.url, watcher, tmp_path, commit=later).look()).commit == later
    with pytest.raises(SourceRefused, match=f"no commit {'a' * 40}"):
        await source_of(plain.url, watcher, tmp_path, commit="a" * 40).look()


async def test_linked_work_trees_are_followed(tmp_path: Path, watcher: Watcher) -> None:
    """A url that names a linked work tree reads and watches the repository that it belongs to."""
    repo = GitRepo(tmp_path / "repo")
    repo.commit({"a.yaml": "one"})
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "side")
    async with Listener(source_of(f"file://{tmp_path}/linked", watcher, tmp_path)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        repo.commit({"a.yaml": "two"})
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "two"})


async def test_a_url_may_hold_escapes(tmp_path: Path, watcher: Watcher) -> None:
    """%20 in a file url means a blank in the path, as for git."""
    GitRepo(tmp_path / "my repo").commit({"a.yaml": "one"})
    assert texts(await source_of(f"file://{tmp_path}/my%20repo", watcher, tmp_path).look()) == {"a.yaml": "one"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make files of another user")
async def test_a_repository_of_another_user_is_refused_with_the_cure(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """What another user may write is not read unless the operator says so to git."""
    plain.commit({"a.yaml": "one"})
    subprocess.run(["chown", "-R", "12345", str(plain.path)], check=True)
    with pytest.raises(SourceRefused, match=f"safe.directory {plain.path}"):
        await source_of(plain.url, watcher, tmp_path).look()


async def test_ten_thousand_files_cost_what_can_match(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """Of a repository of 10,000 files a look reads what include matches; blob_ids lists all of them without reading any."""
    blob = plain.blob(b"text")
    folder = "".join(f"100644 blob {blob}\t{number:02}.txt\0" for number in range(100)).encode()
    listing = plain.git("mktree", "-z", stdin=folder)
    manifest = plain.git("mktree", "-z", stdin=f"100644 blob {plain.blob(b'one')}\ta.yaml\0".encode())
    rows = [f"040000 tree {listing}\td{number:03}" for number in range(100)] + [f"040000 tree {manifest}\t.hut"]
    plain.commit_tree(b"".join(row.encode() + b"\0" for row in rows))
    source = GitSource("lab", GitSpec(plain.url), [".hut/**/*.yaml"], tmp_path, watcher)
    began = time.process_time()
    tree = await source.look()
    assert (texts(tree), time.process_time() - began < 0.1) == ({".hut/a.yaml": "one"}, True)
    began = time.process_time()
    assert (len(tree.blob_ids(["**/*.txt"])), time.process_time() - began < 1) == (10_000, True)


async def test_a_look_that_is_cancelled_leaves_the_source_usable(plain: GitRepo, watcher: Watcher, tmp_path: Path) -> None:
    """Cancelling a look, as the end of the daemon does, breaks nothing for the next one."""
    plain.commit({"a.yaml": "one"})
    source = source_of(plain.url, watcher, tmp_path)
    look = asyncio.ensure_future(source.look())
    await asyncio.sleep(0)
    look.cancel()
    await asyncio.gather(look, return_exceptions=True)
    assert texts(await source.look()) == {"a.yaml": "one"}
