"""The one watcher of the process, with real file events."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.clock import monotonic
from reconciler.sources.watch import Subscription, Watcher


def wait_until(holds: Callable[[], bool], deadline_s: float = 10) -> bool:
    end = monotonic() + deadline_s
    pause = threading.Event()
    while not holds() and monotonic() < end:
        pause.wait(0.005)
    return holds()


class Bell:
    """Counts rings."""

    def __init__(self) -> None:
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1

    def rang_after(self, act: Callable[[], object]) -> bool:
        before = self.rings
        act()
        return wait_until(lambda: self.rings > before)


def folders(*paths: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_dev, path.stat().st_ino) for path in paths}


def watching(watcher: Watcher, *paths: Path, wants: Callable[[str], bool] = lambda _: True) -> tuple[Bell, Subscription]:
    """A bell whose folders are watched already."""
    bell = Bell()
    subscription = watcher.subscribe(bell.ring)
    assert bell.rang_after(lambda: subscription.set(folders(*paths), wants))
    return bell, subscription


def test_only_whoever_wants_a_path_is_rung(tmp_path: Path, watcher: Watcher) -> None:
    """A write rings the source whose folder it is, if it wants that path, and nobody else."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, _ = watching(watcher, tmp_path / "a", wants=lambda path: path.endswith(".yaml"))
    other, _ = watching(watcher, tmp_path / "b")
    assert one.rang_after(lambda: (tmp_path / "a/x.yaml").write_text("1"))
    before = one.rings
    (tmp_path / "a/x.log").write_text("1")
    assert other.rang_after(lambda: (tmp_path / "b/x").write_text("1"))
    assert one.rings == before


def test_a_link_out_of_a_folder_is_not_watched(tmp_path: Path, watcher: Watcher) -> None:
    """A link to another folder does not make that folder's changes ours."""
    (tmp_path / "a").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "a/link").symlink_to(tmp_path / "out")
    told: list[str] = []
    watching(watcher, tmp_path / "a", wants=lambda path: told.append(path) is None)

    def write() -> bool:  # again and again, because what happens while the watch is being made rings everybody and tells nothing
        (tmp_path / "out/x").write_text("1")
        (tmp_path / "a/x").write_text("1")
        return len(told) >= 3

    assert wait_until(write)
    assert set(told) == {str(tmp_path / "a/x")}


def test_adding_a_folder_rings_everybody(tmp_path: Path, watcher: Watcher) -> None:
    """When the watch is made anew everybody looks, so that an event in between is not lost."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, _ = watching(watcher, tmp_path / "a")
    second = watcher.subscribe(lambda: None)
    assert first.rang_after(lambda: second.set(folders(tmp_path / "b"), lambda _: True))


def test_a_folder_that_comes_back_is_watched_again(tmp_path: Path, watcher: Watcher) -> None:
    """A folder that is deleted, and made again as the same inode while nobody looked, is watched again when it is asked for."""
    folder, bell = tmp_path / "a", Bell()
    folder.mkdir()
    same = folders(folder)
    subscription = watcher.subscribe(bell.ring)
    assert bell.rang_after(lambda: subscription.set(same, lambda _: True))
    assert bell.rang_after(folder.rmdir)
    assert wait_until(lambda: not watcher.has(subscription))
    folder.mkdir()
    assert bell.rang_after(lambda: subscription.set(same, lambda _: True))
    assert wait_until(lambda: watcher.has(subscription))
    assert bell.rang_after(lambda: (folder / "x").write_text("1"))


def test_whoever_asks_for_a_folder_that_is_gone_is_told_to_look(tmp_path: Path, watcher: Watcher) -> None:
    """A folder that went between the look and the watch rings, for no event will."""
    bell = Bell()
    assert bell.rang_after(lambda: watcher.subscribe(bell.ring).set({str(tmp_path / "gone"): (1, 1)}, lambda _: True))


def test_nobody_is_rung_without_cause(tmp_path: Path, watcher: Watcher) -> None:
    """Asking again for what is watched already rings nobody."""
    bell, subscription = watching(watcher, tmp_path)
    before = bell.rings
    for number in range(10):
        subscription.set(folders(tmp_path), lambda _: True)
        assert bell.rang_after(lambda number=number: (tmp_path / "x").write_text(str(number)))  # type: ignore[misc]
    assert bell.rings - before <= 15  # one a write; making the watch anew would ring twice more each time


def test_close_ends_the_thread(tmp_path: Path) -> None:
    """Closing ends the watcher's thread, also when there is nothing to watch; twice is once."""
    for paths in ([], [tmp_path]):
        watcher = Watcher()
        bell = Bell()
        subscription = watcher.subscribe(bell.ring)
        if paths:
            assert bell.rang_after(lambda subscription=subscription, paths=paths: subscription.set(folders(*paths), lambda _: True))  # type: ignore[misc]
        subscription.close()
        subscription.close()
        watcher.close()
        watcher.close()
        assert wait_until(lambda: not any(thread.name == "watcher" for thread in threading.enumerate()))


def test_polling_rings_again_and_again(tmp_path: Path) -> None:
    """Where events do not work a source is rung at an interval, and says why."""
    watcher = Watcher(polling=True, poll_s=0.05)
    bell = Bell()
    subscription = watcher.subscribe(bell.ring)
    assert subscription.problem == ""
    subscription.set(folders(tmp_path), lambda _: True)
    try:
        assert wait_until(lambda: bell.rings >= 4)
        assert subscription.problem == "watching is switched off, so it is looked at every 0.05 s"
    finally:
        watcher.close()


LIMITED = """
import sys, threading
from reconciler.sources.watch import Watcher
folder = sys.argv[1]
rang = threading.Semaphore(0)
watcher = Watcher(poll_s=0.05)
subscription = watcher.subscribe(rang.release)
subscription.set({folder: (1, 1)}, lambda path: True)
for _ in range(4):
    assert rang.acquire(timeout=10), "no ring"
print(subscription.problem)
watcher.close()
"""


@pytest.mark.real("unshare")
def test_a_system_without_watches_left_is_polled(tmp_path: Path) -> None:
    """When the system gives no more watches the source is rung at an interval, and says what to raise."""
    alone = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives nobody a user namespace of their own, which is how the limit is set")
    command = [*alone, sys.executable, "-c", LIMITED, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("the system refused to watch (")
    assert "so it is looked at every 0.05 s; raise fs.inotify.max_user_watches" in ended.stdout
