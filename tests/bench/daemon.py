"""The daemon at rest: memory with much behind it, processor time when idle, and how long it takes to start."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from reconciler.core.desired import Place, Run, Task
from reconciler.core.record import Phase, TaskRecord, TaskState
from reconciler.ledger import Batch, Ledger, NewRun, RunChange
from tests.bench.measure import Row, rounds
from tests.e2e.world import World, wait_for, workflow

IDLE_S = 20.0
SOURCE = "apiVersion: scripthut/v1\nkind: Source\nmetadata: {{name: s{number}}}\nspec: {{path: {path}}}\n"


def cases() -> list[Row]:
    """The figures of issue 2, item 5, that concern a daemon at rest."""
    return [_memory(), _idle(), _startup()]


def _finished(world: World, runs: int, tasks: int) -> None:
    """Put `runs` finished runs of `tasks` tasks into the ledger."""
    ledger = Ledger.open(world.state, "test")
    done = TaskRecord(TaskState.SUCCEEDED, started=True, claimed_at=1.0, started_at=1.0, ended_at=2.0, exit_code=0)
    for number in range(runs):
        made = tuple(Task(f"t{index}", "true") for index in range(tasks))
        run = Run(f"{number:012x}", f"old{number}", f"sha256:{number}", "{}", "", "local", made, Place("", "old.yaml", 1), 1.0)
        records = {task.id: done for task in made}
        ledger.save(Batch(new_runs=(NewRun(run, records),), runs=(RunChange(run.id, Phase.SUCCEEDED, True, ended_at=2.0),)))
    ledger.close()


def _memory() -> Row:
    def once() -> float:
        root = Path(tempfile.mkdtemp(prefix="bench-"))
        world = World(root, slots=2)
        _finished(world, 100, 1000)
        for number in range(10):
            tasks = "\n".join(f'- {{id: t{index}, command: "sleep 60"}}' for index in range(1000))
            world.write(f"w{number}.yaml", workflow(f"w{number}", tasks))
        world.start()
        try:
            wait_for(lambda: len(world.runs()) == 110, "all runs are made", 120)
            time.sleep(3)  # let it settle: what is measured is rest, not the peak
            assert world.daemon is not None
            status = Path(f"/proc/{world.daemon.pid}/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0]) / 1024
        finally:
            world.stop()
            shutil.rmtree(root, ignore_errors=True)

    return rounds("resident memory, 100,000 finished and 10,000 live tasks", once, "MB", "<= 200")


def _world_at_rest(root: Path) -> World:
    """20 sources and 100 finished runs."""
    world = World(root, slots=2)
    _finished(world, 100, 10)
    for number in range(20):
        path = root / f"source{number}"
        (path / ".hut").mkdir(parents=True)
        text = workflow(f"w{number}", '- {id: t, command: "true"}', trigger="{on: [manual]}", backend="local")
        (path / ".hut" / "w.yaml").write_text(text)
        world.write(f"s{number}.yaml", SOURCE.format(number=number, path=path))
    return world


def _idle() -> Row:
    def once() -> float:
        root = Path(tempfile.mkdtemp(prefix="bench-"))
        world = _world_at_rest(root)
        world.start()
        try:
            wait_for(lambda: world.text().count("SourceFetched") >= 21, "all sources were read")
            time.sleep(3)
            assert world.daemon is not None
            before = _cpu_s(world.daemon.pid)
            time.sleep(IDLE_S)
            return (_cpu_s(world.daemon.pid) - before) / IDLE_S * 100
        finally:
            world.stop()
            shutil.rmtree(root, ignore_errors=True)

    return rounds(f"idle, 20 sources and 100 finished runs, over {IDLE_S:.0f} s", once, "%core", "<= 0.5")


def _startup() -> Row:
    def once() -> float:
        root = Path(tempfile.mkdtemp(prefix="bench-"))
        world = _world_at_rest(root)
        began = time.perf_counter()
        world.start()
        try:
            wait_for(lambda: "DaemonStarted" in world.text(), "it has started")
            return time.perf_counter() - began
        finally:
            world.stop()
            shutil.rmtree(root, ignore_errors=True)

    return rounds("start-up on that ledger, process start to DaemonStarted", once, "s", "<= 1")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
