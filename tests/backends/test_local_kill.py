"""A daemon that is killed with -9 at random moments, over real jobs."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

TASKS = 60
KILLS = 15


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_task_runs_exactly_once(seed: int, tmp_path: Path) -> None:
    """However often its daemon is killed, every task runs, and none twice."""
    choose = random.Random(seed)
    (tmp_path / "work").mkdir()

    def start(epoch: int) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.backends.tiny_daemon", str(tmp_path), str(epoch), str(TASKS)]
        return subprocess.Popen(argv, cwd=Path(__file__).parents[2], start_new_session=True)

    killed = 0
    for epoch in range(1, KILLS + 1):
        daemon = start(epoch)
        # random, and not for a condition: any moment may be the one that hurts
        deadline = time.monotonic() + 5
        while not (tmp_path / "spool" / "owner").exists() or f" {epoch} " not in (tmp_path / "spool" / "owner").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(choose.uniform(0, 0.12))
        daemon.kill()
        killed += daemon.wait() != 0
    assert start(KILLS + 1).wait(timeout=60) == 0
    assert killed >= KILLS // 2
    ran = {path.name: path.read_text().count("\n") for path in (tmp_path / "work").iterdir()}
    assert ran == {f"t{number}": 1 for number in range(TASKS)}
