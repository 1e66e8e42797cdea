"""A folder of manifests, with a real disk and real file events."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import SourceRefused, SourceUnreachable
from reconciler.sources.folder import FolderSource
from reconciler.sources.folder_disk import FolderDisk, git_id
from reconciler.sources.globs import Globs
from reconciler.sources.watch import Watcher
from tests.sources.listening import Listener, texts

INCLUDE = ["**/*.yaml"]


def source_of(folder: Path, watcher: Watcher, include: list[str] | None = None, excluded: tuple[Path, ...] = ()) -> FolderSource:
    return FolderSource("lab", folder, include or INCLUDE, excluded, watcher)


def refusals(tree: object) -> dict[str, str]:
    return {refusal.path: refusal.problem for refusal in tree.refused}  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    made.mkdir()
    return made


async def test_files_are_those_that_include_matches_in_sorted_order(folder: Path, watcher: Watcher) -> None:
    """Only what include matches is handed out, in sorted order, hidden folders left out."""
    for path in ("b.yaml", "a/c.yaml", "note.txt", ".venv/x.yaml", ".git/y.yaml"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(path)
    tree = await source_of(folder, watcher).look()
    assert texts(tree) == {"a/c.yaml": "a/c.yaml", "b.yaml": "b.yaml"}
    assert list(tree.files()) == ["a/c.yaml", "b.yaml"]
    assert (tree.commit, tree.root) == ("", str(folder))


async def test_blob_ids_are_those_of_git(folder: Path, watcher: Watcher) -> None:
    """A blob's id is what `git hash-object` says of the file."""
    (folder / "a.yaml").write_bytes(b"kind: Workflow\n")
    expected = subprocess.run(["git", "hash-object", "a.yaml"], cwd=folder, capture_output=True, text=True).stdout.strip()
    tree = await source_of(folder, watcher).look()
    assert tree.files()["a.yaml"].id == expected


async def test_the_same_tree_while_nothing_changed(folder: Path, watcher: Watcher) -> None:
    """Two looks at an unchanged folder hand out one object; touching a file changes nothing; other content does."""
    (folder / "a.yaml").write_text("one")
    source = source_of(folder, watcher)
    first = await source.look()
    os.utime(folder / "a.yaml", (1, 1))
    assert await source.look() is first
    (folder / "a.yaml").write_text("two")
    second = await source.look()
    assert (second is first, second.revision == first.revision) == (False, False)
    (folder / "a.yaml").write_text("one")
    assert (await source.look()).revision == first.revision
    assert first.revision.startswith("sha256:") and len(first.revision) == 71


def test_a_change_of_the_same_size_within_one_tick_of_the_clock_is_seen(folder: Path) -> None:
    """A file written twice with the same size, and the same times where the clock is coarse (Linux before 6.13), is read again."""
    path, disk = folder / "a.yaml", FolderDisk(str(folder), ())
    for number in range(1000):
        path.write_text(f"{number:03}")
        assert disk.walk(Globs(INCLUDE), contents=True).files["a.yaml"].data == b"%03d" % number


async def test_a_tree_never_changes_once_handed_out(folder: Path, watcher: Watcher) -> None:
    """An older tree keeps what it said."""
    (folder / "a.yaml").write_text("one")
    source = source_of(folder, watcher)
    first = await source.look()
    (folder / "a.yaml").write_text("two")
    await source.look()
    assert texts(first) == {"a.yaml": "one"}


async def test_writes_by_rename_are_seen(folder: Path, watcher: Watcher) -> None:
    """An editor that writes a new file and renames it over the old one causes a look."""
    (folder / "a.yaml").write_text("one")
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        (folder / ".a.yaml.swp").write_text("two")
        os.replace(folder / ".a.yaml.swp", folder / "a.yaml")
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "two"})


async def test_files_in_new_folders_are_seen(folder: Path, watcher: Watcher) -> None:
    """Folders made after the watch began are watched as well, at any depth."""
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: h.tree is not None)
        (folder / "a/b/c").mkdir(parents=True)
        (folder / "a/b/c/x.yaml").write_text("one")
        await heard.until(lambda h: texts(h.tree) == {"a/b/c/x.yaml": "one"})
        (folder / "a/b/c/x.yaml").write_text("two")
        await heard.until(lambda h: texts(h.tree) == {"a/b/c/x.yaml": "two"})
        shutil.rmtree(folder / "a")
        await heard.until(lambda h: texts(h.tree) == {})


async def test_a_burst_is_coalesced(folder: Path, watcher: Watcher) -> None:
    """Five hundred files written at once are a few looks, and all of them are there in the end."""
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: h.tree is not None)
        before = heard.looks
        for number in range(500):
            (folder / f"{number}.yaml").write_text(str(number))
        await heard.until(lambda h: len(texts(h.tree)) == 500)
        assert heard.looks - before <= 20


async def test_a_deleted_folder_is_unreachable_and_not_empty(folder: Path, watcher: Watcher) -> None:
    """A folder that is deleted cannot be asked; when it is made again, the watch works again."""
    (folder / "a.yaml").write_text("one")
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        for text in ("two", "three"):
            shutil.rmtree(folder)
            await heard.until(lambda h: isinstance(h.error, SourceUnreachable))
            assert "is not there" in str(heard.error)
            folder.mkdir()
            await heard.until(lambda h: h.error is None and texts(h.tree) == {})
            (folder / "a.yaml").write_text(text)
            await heard.until(lambda h, text=text: texts(h.tree) == {"a.yaml": text})  # type: ignore[misc]


async def test_a_folder_swapped_for_another_is_watched(folder: Path, watcher: Watcher, tmp_path: Path) -> None:
    """Another folder renamed into place is read, and what changes in it later is seen."""
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: h.tree is not None)
        (tmp_path / "next").mkdir()
        (tmp_path / "next/a.yaml").write_text("one")
        os.rename(folder, tmp_path / "old")
        os.rename(tmp_path / "next", folder)
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        (folder / "a.yaml").write_text("two")
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "two"})


async def test_a_folder_that_appears_later(tmp_path: Path, watcher: Watcher) -> None:
    """A folder that does not exist yet, nor the one above it, is found when it is made."""
    folder = tmp_path / "not/yet"
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: isinstance(h.error, SourceUnreachable))
        folder.mkdir(parents=True)
        (folder / "a.yaml").write_text("one")
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})


async def test_symlinks_are_refused_by_name(folder: Path, watcher: Watcher, tmp_path: Path) -> None:
    """A link to a file or a folder is never followed, its content is nowhere; a link that include could not match is nobody's business."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/s.yaml").write_text("password")
    (folder / "evil.yaml").symlink_to(tmp_path / "secret/s.yaml")
    (folder / "dangling.yaml").symlink_to("/nowhere/at/all")
    (folder / "dir").symlink_to(tmp_path / "secret")
    (folder / "note.txt").symlink_to(tmp_path / "secret/s.yaml")
    tree = await source_of(folder, watcher).look()
    problem = "is a symbolic link, which is never followed"
    assert refusals(tree) == {"evil.yaml": problem, "dangling.yaml": problem, "dir": problem}
    assert texts(tree) == {}
    assert [tree.read(path) for path in ("evil.yaml", "dir/s.yaml", "note.txt")] == [None, None, None]
    assert dict(tree.blob_ids(["**"])) == {}


OUTSIDE = [
    "../secret",
    "/etc/passwd",
    "a/../../secret",
    "~",
    "a//b",
    "",
    ".",
    "a\\..\\b",
    "a\0b",
    "a.yaml\n",
    "\u2024\u2024/x",
    ".GIT/config",
]


@pytest.mark.parametrize("path", OUTSIDE)
async def test_read_never_leaves_the_folder(folder: Path, watcher: Watcher, path: str) -> None:
    """A path that tries to get out, or has a name that nobody would give a file, reads as if there were none."""
    (folder.parent / "secret").write_text("password")
    (folder / "a.yaml").write_text("one")
    tree = await source_of(folder, watcher).look()
    assert tree.read(path) is None


async def test_a_fifo_is_refused_and_never_opened(folder: Path, watcher: Watcher) -> None:
    """Something that is no regular file is refused by name; a writer that waits at the fifo keeps waiting."""
    os.mkfifo(folder / "pipe.yaml")
    opened = threading.Event()

    def write() -> None:
        with open(folder / "pipe.yaml", "wb"):
            opened.set()

    threading.Thread(target=write, daemon=True).start()
    tree = await source_of(folder, watcher).look()
    assert refusals(tree) == {"pipe.yaml": "is not a regular file"}
    assert tree.read("pipe.yaml") is None
    assert not opened.is_set()
    os.close(os.open(folder / "pipe.yaml", os.O_RDONLY | os.O_NONBLOCK))  # let the writer go


async def test_names_with_control_characters_are_refused(folder: Path, watcher: Watcher) -> None:
    """A name that a person cannot see is refused, and shown escaped."""
    (folder / "a\nb.yaml").write_text("one")
    (folder / "a\u202eb.yaml").write_text("one")
    (folder / ".GIT").mkdir()
    tree = await source_of(folder, watcher, ["**/*.yaml", ".[Gg][Ii][Tt]/*.yaml"]).look()
    assert sorted(refusals(tree)) == [".GIT", "a\\nb.yaml", "a\\u202eb.yaml"]


async def test_excluded_folders_do_not_exist(folder: Path, watcher: Watcher) -> None:
    """What the daemon writes is neither read nor a reason to look."""
    status = folder / "status"
    status.mkdir()
    (folder / "a.yaml").write_text("one")
    async with Listener(source_of(folder, watcher, excluded=(status, Path("/elsewhere")))) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        (folder / "sync.yaml").write_text("1")
        await heard.until(lambda h: "sync.yaml" in texts(h.tree))
        looks = heard.looks
        for number in range(20):
            (status / f"{number}.yaml").write_text("status")
        (folder / "out.log").write_text("not matched either")
        (folder / "sync.yaml").write_text("2")
        await heard.until(lambda h: texts(h.tree)["sync.yaml"] == "2")
        assert heard.looks - looks <= 2
        assert sorted(texts(heard.tree)) == ["a.yaml", "sync.yaml"]
        assert heard.tree is not None and heard.tree.read("status/1.yaml") is None


async def test_a_large_file_is_handed_out_cut(folder: Path, watcher: Watcher) -> None:
    """One byte more than the loader's limit is all that is held of a file, but its id is that of all its bytes."""
    data = b"x" * 3_000_000
    (folder / "big.yaml").write_bytes(data)
    tree = await source_of(folder, watcher).look()
    assert len(tree.files()["big.yaml"].data) == 1_000_001
    assert tree.files()["big.yaml"].id == git_id(data)


async def test_a_huge_file_is_not_read(folder: Path, watcher: Watcher) -> None:
    """A file of 10 GB costs no time; a change of it is still a change."""
    with open(folder / "huge.yaml", "wb") as file:
        file.truncate(10 * 2**30)
    source = source_of(folder, watcher)
    first = await source.look()
    assert len(first.files()["huge.yaml"].data) == 1_000_001
    os.utime(folder / "huge.yaml", (5, 5))
    assert (await source.look()).files()["huge.yaml"].id != first.files()["huge.yaml"].id


async def test_what_was_asked_for_once_is_looked_at_and_watched(folder: Path, watcher: Watcher) -> None:
    """A file that a manifest refers to, and the blobs of `paths`, are part of later looks and of the revision."""
    (folder / "data").mkdir()
    (folder / "data/tasks.json").write_text("[]")
    (folder / "src/.hidden").mkdir(parents=True)
    (folder / "src/.hidden/x.c").write_text("1")
    source = source_of(folder, watcher)
    async with Listener(source) as heard:
        await heard.until(lambda h: h.tree is not None)
        first = heard.tree
        assert first is not None
        assert first.read("data/tasks.json").data == b"[]"  # type: ignore[union-attr]
        assert first.read("data/none.json") is None
        assert dict(first.blob_ids(["src/**"])) == {"src/.hidden/x.c": git_id(b"1")}
        assert await source.look() is first
        (folder / "data/tasks.json").write_text("[1]")
        await heard.until(lambda h: h.tree is not None and h.tree.read("data/tasks.json").data == b"[1]")  # type: ignore[union-attr]
        (folder / "src/.hidden/x.c").write_text("2")
        await heard.until(lambda h: h.tree is not None and h.tree.blob_ids(["src/**"])["src/.hidden/x.c"] == git_id(b"2"))
        (folder / "data/none.json").write_text("{}")
        await heard.until(lambda h: h.tree is not None and h.tree.read("data/none.json") is not None)
        assert first.read("data/tasks.json").data == b"[]"  # type: ignore[union-attr]
        assert heard.tree is not None and heard.tree.revision != first.revision


async def test_an_emptied_file_keeps_its_content_for_a_moment(folder: Path, watcher: Watcher) -> None:
    """An editor that empties a file before it writes it does not make its objects vanish; a file that stays empty is empty."""
    (folder / "a.yaml").write_text("one")
    async with Listener(source_of(folder, watcher)) as heard:
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})
        first, looks = heard.tree, heard.looks
        (folder / "a.yaml").write_text("")
        await heard.until(lambda h: h.looks > looks)
        assert heard.tree is first
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": ""})


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that everybody can reach, and a process that may not read everything, also when the tests run as root."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        user = os.geteuid()
        yield Path(made)
        os.seteuid(user)


async def test_what_may_not_be_read(as_nobody: Path, watcher: Watcher) -> None:
    """One file that may not be read is refused by name; a folder below could hold anything, so nothing new is believed at all."""
    (as_nobody / "a.yaml").write_text("one")
    (as_nobody / "a.yaml").chmod(0)
    (as_nobody / "open").mkdir()
    os.seteuid(os.geteuid() or 65534)
    assert refusals(await source_of(as_nobody, watcher).look()) == {"a.yaml": "may not be read by the daemon's user"}
    os.seteuid(os.getuid())
    (as_nobody / "open").chmod(0)
    os.seteuid(os.geteuid() or 65534)
    with pytest.raises(SourceRefused, match="the daemon's user may not read open; grant it"):
        await source_of(as_nobody, watcher).look()
    os.seteuid(os.getuid())
    (as_nobody / "open").chmod(0o755)


async def test_a_file_in_place_of_the_folder_is_unreachable(tmp_path: Path, watcher: Watcher) -> None:
    """A path that names a file says nothing about manifests."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceUnreachable):
        await source_of(tmp_path / "file", watcher).look()


async def test_close_twice(folder: Path, watcher: Watcher) -> None:
    """Closing ends the changes, and closing again does nothing."""
    source = source_of(folder, watcher)
    async with Listener(source) as heard:
        await heard.until(lambda h: h.tree is not None)
        await source.close()
