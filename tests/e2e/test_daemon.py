"""The daemon as a process: signals, restarts, trouble, and what one bad thing does to the others."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kill9 import broken, campaign
from tests.e2e.world import World, wait_for, workflow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose daemon is gone when the test is."""
    made = World(tmp_path)
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.kill()


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_sigterm_stops_in_time_and_leaves_jobs_running(world: World, tmp_path: Path) -> None:
    """SIGTERM ends the daemon with 0 in under 5 s; its job goes on, is found again, and counts once."""
    ran = tmp_path / "ran"
    world.write("w.yaml", workflow("w", f'- {{id: slow, command: "echo x >> {ran}; sleep 3; echo y >> {ran}"}}'))
    world.start()
    wait_for(lambda: lines(ran) == 1, "the job has started")
    began = time.monotonic()

    assert world.stop() == 0
    assert time.monotonic() - began < 5
    world.start()
    runs = wait_for(lambda: world.ended(1), "the run has ended")

    assert [run["phase"] for run in runs] == ["Succeeded"]
    assert ran.read_text() == "x\ny\n"


def test_sighup_looks_at_once(world: World) -> None:
    """SIGHUP makes the daemon look at every source and backend, and says so."""
    world.start()
    wait_for(lambda: "SourceFetched" in world.text(), "the folder was read")
    assert world.daemon is not None

    world.daemon.send_signal(signal.SIGHUP)

    wait_for(lambda: "LookAsked" in world.text(), "the signal was heard")
    assert world.daemon.poll() is None


def test_a_second_daemon_refuses_to_start(world: World) -> None:
    """A second daemon on the same state folder ends with 1 and names the first one's pid and host; the first goes on."""
    world.start()
    wait_for(lambda: "DaemonStarted" in world.text(), "the first runs")
    assert world.daemon is not None

    answer = world.call("run", str(world.folder))

    assert answer.returncode == 1
    assert str(world.daemon.pid) in answer.stderr
    assert os.uname().nodename in answer.stderr
    assert world.daemon.poll() is None


def test_one_bad_manifest_stops_nothing_else(world: World, tmp_path: Path) -> None:
    """A file that is no YAML, a workflow with a cycle and one with an unknown field stall; the good one runs; each is named."""
    world.write("bad.yaml", "apiVersion: [\n")
    world.write("cycle.yaml", workflow("cycle", "- {id: a, command: x, deps: [b]}\n- {id: b, command: x, deps: [a]}"))
    world.write("typo.yaml", workflow("typo", "- {id: a, comand: x}"))
    world.write("good.yaml", workflow("good", '- {id: a, command: "true"}'))

    answer = world.call("run", "--once", str(world.folder))

    assert answer.returncode == 1
    assert [(run["workflow"], run["phase"]) for run in world.runs()] == [("good", "Succeeded")]
    for word in ("bad.yaml:", "a -> b -> a", "typo.yaml:6:", "command"):
        assert word in answer.stderr


def test_a_bad_edit_leaves_the_last_good_version_in_force(world: World) -> None:
    """While a workflow's file is broken nothing of it is cancelled or run; when it is mended as it was, nothing runs again."""
    good = workflow("w", '- {id: a, command: "true"}')
    world.write("w.yaml", good)
    world.start()
    wait_for(lambda: world.ended(1), "the run has ended")
    status = world.status / "workflow" / "w.yaml"

    world.write("w.yaml", good.replace("command", "comand"))
    wait_for(lambda: "InvalidManifest" in status.read_text(), "the status says that the document is bad")
    world.write("w.yaml", good)
    wait_for(lambda: "InvalidManifest" not in status.read_text(), "the status says that it is well again")

    assert len(world.runs()) == 1


def test_a_failed_run_and_its_exit_codes(world: World) -> None:
    """--once ends with 1 when a run failed and names the workflow's file and line; the other branch of the run still ran."""
    world.write("w.yaml", workflow("w", "- {id: a, command: exit 3}\n- {id: b, command: x, deps: [a]}\n- {id: c, command: echo fine}"))

    answer = world.call("run", "--once", str(world.folder))

    assert answer.returncode == 1
    assert "w.yaml:1" in answer.stderr
    assert "exit code 3" in answer.stderr
    states = {task["id"]: task["state"] for task in world.get("run", "w")["tasks"]}
    assert states == {"a": "failed", "b": "skipped", "c": "succeeded"}


def test_unusable_settings_end_with_two(tmp_path: Path) -> None:
    """Without Settings, or with wrong ones, the daemon ends with 2 and says file, line and cure."""
    world = World(tmp_path)
    path = world.folder / "settings.yaml"
    path.write_text(path.read_text().replace("state_dir", "statedir"))
    wrong = world.call("run", str(world.folder))
    path.unlink()
    missing = world.call("run", str(world.folder))

    assert (wrong.returncode, missing.returncode) == (2, 2)
    assert "settings.yaml:5:" in wrong.stderr and "state_dir" in wrong.stderr
    assert "reconciler init" in missing.stderr


def test_a_tampered_or_deleted_status_file_changes_nothing(world: World) -> None:
    """An edited status file is written again and decides nothing; so is a deleted one."""
    world.write("w.yaml", workflow("w", '- {id: a, command: "true"}'))
    world.start()
    runs = wait_for(lambda: world.ended(1), "the run has ended")
    path = world.status / "run" / f"{runs[0]['id']}.yaml"
    wait_for(lambda: path.exists() and "phase: Succeeded" in path.read_text(), "its status is there")
    said = path.read_text()

    path.write_text(said.replace("Succeeded", "Waiting"))
    (world.status / "workflow" / "w.yaml").unlink()

    wait_for(lambda: "phase: Succeeded" in path.read_text() and (world.status / "workflow" / "w.yaml").exists(), "both are back", 60)
    assert len(world.runs()) == 1


def test_kill_nine_at_random_moments(tmp_path: Path) -> None:
    """Twenty kill -9, each amid work, over workflows of mixed shape: every task ran exactly once, every workflow ended."""
    seen = campaign(tmp_path, kills=20, tasks=250, seed=7, deadline_s=100)

    assert not broken(seen), seen


def test_state_lost_is_noticed(world: World) -> None:
    """A daemon that finds its own status files but no ledger stops with StateLost and submits nothing."""
    world.write("w.yaml", workflow("w", '- {id: a, command: "true"}'))
    world.call("run", "--once", str(world.folder))
    shutil.rmtree(world.state)

    answer = world.call("run", "--once", str(world.folder))

    assert answer.returncode == 1
    assert "StateLost" in answer.stderr and "recover" in answer.stderr


def test_an_old_copy_of_the_ledger_is_refused(world: World) -> None:
    """A ledger restored from a backup stops with StateLost, however often it is started, and runs nothing twice."""
    world.write("w.yaml", workflow("w", '- {id: a, command: "true"}'))
    world.call("run", "--once", str(world.folder))
    backup = world.root / "backup"
    backup.mkdir()
    source = sqlite3.connect(world.state / "ledger.sqlite3")
    copy = sqlite3.connect(backup / "ledger.sqlite3")
    source.backup(copy)
    source.close()
    copy.close()
    for _ in range(3):
        world.call("run", "--once", str(world.folder))
    for path in world.state.glob("ledger.sqlite3*"):
        path.unlink()
    shutil.copy(backup / "ledger.sqlite3", world.state / "ledger.sqlite3")
    (world.state / "ledger.sqlite3").chmod(0o600)

    answers = [world.call("run", "--once", str(world.folder)) for _ in range(4)]

    assert [answer.returncode for answer in answers] == [1] * 4
    assert all("StateLost" in answer.stderr for answer in answers)


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root: mounts a small file system")
def test_a_full_disk_submits_nothing_and_recovers(tmp_path: Path) -> None:
    """With the state folder's disk full no job starts and the daemon says so; when there is room again it goes on by itself."""
    ran = tmp_path / "ran"
    world = World(tmp_path / "world")
    world.state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(world.state)], check=True)
    try:
        world.start()
        wait_for(lambda: "SourceFetched" in world.text(), "the daemon runs")
        filler = world.state / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        world.write("w.yaml", workflow("w", f'- {{id: a, command: "echo x >> {ran}"}}'))
        wait_for(lambda: "LedgerUnwritable" in world.text(), "it says that the ledger cannot be written")
        assert not ran.exists()
        filler.unlink()
        wait_for(lambda: world.ended(1), "the run has ended", 60)
        assert ran.read_text() == "x\n"
    finally:
        if world.daemon is not None:
            world.stop(signal.SIGKILL)
        subprocess.run(["umount", "-l", str(world.state)], check=True)
