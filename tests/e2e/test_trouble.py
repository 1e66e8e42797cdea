"""Trouble with what the daemon stands on: its ledger, its disk, its machine; and what it tells systemd."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.world import World, wait_for, workflow

needs_root = pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root: mounts a small file system")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose daemon is gone when the test is."""
    made = World(tmp_path / "world")
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.kill()


@contextmanager
def disk(world: World, *mount: str) -> Iterator[None]:
    """The state folder on a file system of its own, until the end."""
    world.state.mkdir(mode=0o700)
    attach(world, *mount)
    try:
        yield
    finally:
        if world.daemon is not None:
            world.stop(signal.SIGKILL)
        subprocess.run(["umount", "-l", str(world.state)], check=False)


def attach(world: World, *mount: str) -> None:
    done = subprocess.run(["mount", *mount, str(world.state)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")  # a container without loop devices


def marker(tmp_path: Path, name: str) -> str:
    """A workflow that leaves a line in the file `name`."""
    return workflow(name, f'- {{id: a, command: "echo x >> {tmp_path}/{name}"}}')


def processor_s(pid: int) -> float:
    """Processor time that a process has used, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def looked(world: World) -> None:
    """Make the daemon look at everything, and wait until it has."""
    assert world.daemon is not None
    before = world.text().count("LookAsked")
    world.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: world.text().count("LookAsked") > before, "the daemon heard the signal")


def test_a_ledger_that_is_taken_away_and_put_back(world: World, tmp_path: Path) -> None:
    """While the ledger's file is another one, the daemon says so and submits nothing; when it is put back, all runs once."""
    world.write("first.yaml", marker(tmp_path, "first"))
    world.start()
    wait_for(lambda: world.ended(1), "the first run has ended")
    ledger = world.state / "ledger.sqlite3"
    ledger.rename(tmp_path / "kept")
    ledger.write_bytes((tmp_path / "kept").read_bytes())  # a copy is not the file that the daemon writes into

    world.write("second.yaml", marker(tmp_path, "second"))
    wait_for(lambda: "LedgerUnwritable" in world.text(), "it says that the ledger cannot be used")
    looked(world)
    assert not (tmp_path / "second").exists()
    (tmp_path / "kept").rename(ledger)

    wait_for((tmp_path / "second").exists, "the second run has begun", 60)
    wait_for(lambda: world.ended(2), "both have ended")
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["x\n", "x\n"]


def test_a_ledger_that_is_damaged_under_the_daemon(world: World, tmp_path: Path) -> None:
    """When its ledger is overwritten with garbage the daemon says so and submits nothing; a restart refuses the ledger, too."""
    world.write("first.yaml", marker(tmp_path, "first"))
    world.start()
    wait_for(lambda: world.ended(1), "the first run has ended")
    for path in world.state.glob("ledger.sqlite3*"):
        with path.open("r+b") as file:
            size = path.stat().st_size
            file.write(b"\xa5" * size)

    world.write("second.yaml", marker(tmp_path, "second"))
    daemon = world.daemon
    assert daemon is not None
    wait_for(lambda: daemon.poll() is not None or "LedgerUnwritable" in world.text(), "the daemon notices")
    assert not (tmp_path / "second").exists()
    assert world.stop() in (0, 1)

    again = world.call("run", "--once", str(world.folder))
    assert again.returncode == 1
    assert "recover" in again.stderr
    assert not (tmp_path / "second").exists()
    assert (tmp_path / "first").read_text() == "x\n"


def idles(pid: int) -> bool:
    """Whether a process uses less than a third of a processor for three seconds."""
    used, since = processor_s(pid), time.monotonic()
    wait_for(lambda: time.monotonic() > since + 3, "three seconds of looking at it")
    return processor_s(pid) - used < 1


@needs_root
def test_a_full_disk_is_waited_for_quietly(world: World, tmp_path: Path) -> None:
    """While nothing can be saved the daemon does not spin, and takes in what happens meanwhile when there is room again."""
    with disk(world, "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"):
        world.start()
        wait_for(lambda: "SourceFetched" in world.text(), "the daemon runs")
        filler = world.state / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        world.write("first.yaml", marker(tmp_path, "first"))
        wait_for(lambda: "LedgerUnwritable" in world.text(), "it says that the ledger cannot be written")
        world.write("second.yaml", marker(tmp_path, "second"))

        assert world.daemon is not None
        assert idles(world.daemon.pid)
        assert world.daemon.poll() is None
        assert not (tmp_path / "first").exists() and not (tmp_path / "second").exists()
        filler.unlink()

        wait_for(lambda: world.ended(2), "both have ended", 60)
        assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["x\n", "x\n"]


@needs_root
@pytest.mark.real("mkfs.ext4", "fsck.ext4")
def test_a_disk_that_turns_read_only(world: World, tmp_path: Path) -> None:
    """With the state folder's disk read-only after an error no job starts, the daemon says so and does not spin; repaired and
    mounted again, all runs once. (A kernel turns a file system that is being written to read-only in no other way.)"""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with disk(world, "-o", "loop", str(image)):
        world.state.chmod(0o700)
        world.write("first.yaml", marker(tmp_path, "first"))
        world.start()
        wait_for(lambda: world.ended(1), "the first run has ended")
        subprocess.run(["mount", "-o", "remount,abort", str(world.state)], check=False, capture_output=True)
        with pytest.raises(OSError, match="Read-only"):
            (world.state / "probe").touch()

        world.write("second.yaml", marker(tmp_path, "second"))
        wait_for(lambda: "LedgerUnwritable" in world.text(), "it says that the ledger cannot be written")
        assert world.daemon is not None
        assert idles(world.daemon.pid)
        assert not (tmp_path / "second").exists()
        world.stop()
        subprocess.run(["umount", str(world.state)], check=True)
        subprocess.run(["fsck.ext4", "-fy", str(image)], check=False, capture_output=True)
        attach(world, "-o", "loop", str(image))
        world.start()

        wait_for(lambda: world.ended(2), "both have ended", 60)
        assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["x\n", "x\n"]


def test_systemd_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon with NOTIFY_SOCKET says READY=1 when it serves and STOPPING=1 when it ends; its jobs know nothing of the socket."""
    address = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    world.write("w.yaml", workflow("w", f'- {{id: a, command: "echo ${{NOTIFY_SOCKET:-none}} > {tmp_path}/ran"}}'))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(address))
        hears.settimeout(20)
        world.start()
        ready = hears.recv(4096)
        wait_for(lambda: world.ended(1), "the run has ended")
        assert world.stop() == 0
        stopping = hears.recv(4096)

    assert ready.split() == [b"READY=1"]
    assert stopping.split() == [b"STOPPING=1"]
    assert (tmp_path / "ran").read_text() == "none\n"


def test_a_reboot_loses_what_ran(world: World, tmp_path: Path) -> None:
    """A job that ran when the machine went down is lost, not succeeded, and does not run again by itself; what needs it is skipped."""
    pid = tmp_path / "pid"
    tasks = f'- {{id: a, command: "echo $$ >> {pid}; exec sleep 600"}}\n- {{id: b, command: "echo x > {tmp_path}/b", deps: [a]}}'
    world.write("w.yaml", workflow("w", tasks))
    world.start()
    wait_for(lambda: pid.exists() and pid.read_text().strip(), "the job runs")
    [start] = wait_for(lambda: list(world.state.glob("spool/local/test/runs/*/*.a.1/start.0")), "its start is written down")
    wait_for(lambda: world.get("run", "w")["tasks"][0]["state"] == "running", "the daemon knows that it runs")

    world.kill()
    boot_again(start, int(pid.read_text()))
    world.start()

    runs = wait_for(lambda: world.ended(1), "the run has ended", 60)
    assert [run["phase"] for run in runs] == ["Failed"]
    assert {task["id"]: task["state"] for task in world.get("run", "w")["tasks"]} == {"a": "lost", "b": "skipped"}
    assert pid.read_text().count("\n") == 1
    assert not (tmp_path / "b").exists()


def boot_again(start: Path, pid: int) -> None:
    """As after a power cut: no process of the job is there, no exit record either, and its start was in another boot."""
    words = start.read_text().split()
    wrapper = int(words[5])
    for group in {os.getpgid(process) for process in (wrapper, pid)}:
        os.killpg(group, signal.SIGKILL)
    wait_for(lambda: not (Path("/proc") / str(pid)).exists(), "the job is gone")
    exits = start.parents[3] / "exits"
    assert list(exits.iterdir()) == []
    text = start.read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = re.sub(re.escape(boot), "00000000-0000-4000-8000-000000000000", text)
    assert other != text
    start.chmod(0o600)
    start.write_text(other)
