"""The verbs that change something, asked of a daemon that runs: from the manifest they write to what becomes of the jobs."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World, wait_for, workflow

SOURCE = """\
apiVersion: scripthut/v1
kind: Source
metadata: {{name: lab}}
spec:
  path: {path}
  include: ["*.yaml"]
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose daemon is gone when the test is."""
    made = World(tmp_path / "world")
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.kill()


def said(world: World, *words: str) -> str:
    """What a verb printed; it must have gone well."""
    answer = world.call(*words)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def alive(pid_file: Path) -> bool:
    """Whether the process whose id a job wrote down lives. A zombie does not, however long its parent leaves it lying about."""
    try:
        return Path("/proc", pid_file.read_text().strip(), "stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(world: World, *parts: str) -> str:
    """The status file of an object; "" while there is none."""
    path = world.status.joinpath(*parts[:-1], f"{parts[-1]}.yaml")
    return path.read_text() if path.exists() else ""


def states(world: World, run: str) -> dict[str, str]:
    """The state of every task of a run."""
    return {task["id"]: task["state"] for task in world.get("run", run)["tasks"]}


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout


def two_gated(tmp_path: Path) -> str:
    """Two tasks: the second writes `second`, and the first ends when `gate` is there."""
    first = f'- {{id: a, command: "touch {tmp_path}/first; until [ -e {tmp_path}/gate ]; do sleep 0.05; done"}}'
    return f'{first}\n- {{id: b, command: "echo x >> {tmp_path}/second", deps: [a]}}'


def test_cancel_ends_a_command_that_ignores_term(world: World, tmp_path: Path) -> None:
    """`cancel` ends also a command that ignores TERM: it is killed, nothing after it starts, and the run is Cancelled."""
    pid = tmp_path / "pid"
    deaf = f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.2; done"
    world.write("w.yaml", workflow("w", f'- {{id: deaf, command: "{deaf}"}}\n- {{id: next, command: "true", deps: [deaf], when: always}}'))
    world.start()
    wait_for(lambda: pid.exists() and pid.read_text().strip(), "the command runs")
    run = world.runs()[0]["id"]

    said(world, "cancel", run)

    runs = wait_for(lambda: world.ended(1), "the run has ended", 60)
    assert [each["phase"] for each in runs] == ["Cancelled"]
    assert not alive(pid)
    assert states(world, run) == {"deaf": "cancelled", "next": "cancelled"}


def test_a_suspended_workflow_starts_nothing_until_resumed(world: World, tmp_path: Path) -> None:
    """`suspend` of a workflow with a live run lets what runs end and starts nothing more, also after a restart; `resume` goes on."""
    world.write("w.yaml", workflow("w", two_gated(tmp_path)))
    world.start()
    wait_for((tmp_path / "first").exists, "the first task runs")

    said(world, "suspend", "w", "--reason", "the disk is full")
    wait_for(lambda: "the disk is full" in status(world, "run", world.runs()[0]["id"]), "the run says that it is held")
    (tmp_path / "gate").touch()
    wait_for(lambda: states(world, "w")["a"] == "succeeded", "the first task has ended")
    assert world.stop() == 0
    world.start()
    wait_for(lambda: world.text().count("DaemonStarted") == 2, "the daemon is back")
    assert world.daemon is not None
    world.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "LookAsked" in world.text(), "it looked")
    assert states(world, "w")["b"] == "waiting"
    assert not (tmp_path / "second").exists()
    said(world, "resume", "w")

    runs = wait_for(lambda: world.ended(1), "the run has ended")
    assert [run["phase"] for run in runs] == ["Succeeded"]
    assert (tmp_path / "second").read_text() == "x\n"


def test_a_suspended_source_starts_nothing_until_resumed(world: World, tmp_path: Path) -> None:
    """`suspend` of a Source holds back its live runs and its new workflows, and no others; `resume` lets both go on."""
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "old.yaml").write_text(workflow("old", two_gated(tmp_path)))
    world.write("source.yaml", SOURCE.format(path=lab))
    world.start()
    wait_for((tmp_path / "first").exists, "the first task runs")

    said(world, "suspend", "Source/lab", "--reason", "moving house")
    wait_for(lambda: "moving house" in status(world, "source", "lab"), "the daemon has seen it")
    (tmp_path / "gate").touch()
    (lab / "new.yaml").write_text(workflow("new", '- {id: a, command: "true"}'))
    world.write("other.yaml", workflow("other", '- {id: a, command: "true"}'))
    wait_for(lambda: {run["workflow"]: run["phase"] for run in world.runs()}.get("other") == "Succeeded", "another source's run has ended")
    wait_for(lambda: states(world, "lab/old")["a"] == "succeeded", "what ran has ended")
    assert {run["workflow"] for run in world.runs()} == {"lab/old", "other"}
    assert not (tmp_path / "second").exists()
    said(world, "resume", "Source/lab")

    runs = wait_for(lambda: world.ended(3), "all three have ended")
    assert {run["workflow"]: run["phase"] for run in runs} == dict.fromkeys(["lab/old", "lab/new", "other"], "Succeeded")
    assert (tmp_path / "second").read_text() == "x\n"


def test_approve_lets_a_run_that_asks_for_much(world: World) -> None:
    """A run above limits.core_hours_per_run waits, and says so; `approve` of the workflow starts it, once."""
    settings = world.folder / "settings.yaml"
    settings.write_text(settings.read_text().replace("spec:\n", "spec:\n  limits: {core_hours_per_run: 2}\n", 1))
    world.write("w.yaml", workflow("w", '- {id: a, command: "true", cpus: 4, time_limit: "10:00:00"}'))
    world.start()
    wait_for(lambda: "core_hours_per_run" in status(world, "workflow", "w"), "the status says what holds it")
    assert world.runs() == []

    said(world, "approve", "w")

    runs = wait_for(lambda: world.ended(1), "it ran")
    assert [run["phase"] for run in runs] == ["Succeeded"]


def test_approve_lets_more_runs_than_one_change_may_start(world: World) -> None:
    """Of more workflows than limits.runs_per_commit none starts; `approve` starts the approved one, and then the others fit."""
    settings = world.folder / "settings.yaml"
    settings.write_text(settings.read_text().replace("spec:\n", "spec:\n  limits: {runs_per_commit: 2}\n", 1))
    text = "---\n".join(workflow(f"w{number}", '- {id: a, command: "true"}') for number in range(4))
    world.write("all.yaml", text)
    world.start()
    wait_for(lambda: all("runs_per_commit" in status(world, "workflow", f"w{number}") for number in range(4)), "all four are held")
    assert world.runs() == []

    said(world, "approve", "w0")
    wait_for(lambda: [run["workflow"] for run in world.runs()] == ["w0"], "the approved one runs")
    said(world, "approve", "w1")

    runs = wait_for(lambda: world.ended(4), "two more fit the limit")
    assert {run["phase"] for run in runs} == {"Succeeded"}


def test_rerun_commits_its_edit_and_runs_once_more(world: World, tmp_path: Path) -> None:
    """`rerun --commit` in a git repository makes one commit of that one file, and the daemon makes exactly one more run."""
    world.write("w.yaml", workflow("w", f'- {{id: a, command: "echo x >> {tmp_path}/ran"}}'))
    git(world.folder, "init", "-q")
    git(world.folder, "add", ".")
    git(world.folder, "commit", "-qm", "first")
    world.start()
    wait_for(lambda: world.ended(1), "the first run has ended")
    world.write("draft.yaml", "# not mine to commit\n")

    said(world, "rerun", "w", "--token", "again", "--commit")

    runs = wait_for(lambda: world.ended(2), "the second run has ended")
    assert [run["phase"] for run in runs] == ["Succeeded", "Succeeded"]
    assert (tmp_path / "ran").read_text() == "x\nx\n"
    assert git(world.folder, "log", "--format=%s", "-1") == "rerun w\n"
    assert git(world.folder, "show", "--name-only", "--format=") == "w.yaml\n"
    assert git(world.folder, "status", "--porcelain") == "?? draft.yaml\n"


def test_once_that_is_interrupted_says_what_it_leaves(world: World, tmp_path: Path) -> None:
    """`run --once` that is told to stop amid a task ends in time, not with 0, and names the run that it leaves."""
    gate = tmp_path / "gate"
    started = tmp_path / "started"
    world.write("w.yaml", workflow("w", f'- {{id: a, command: "touch {started}; until [ -e {gate} ]; do sleep 0.05; done"}}'))
    world.start("--once")
    wait_for(started.exists, "the task runs")
    began = time.monotonic()

    code = world.stop()

    gate.touch()
    assert code not in (0, 2)
    assert time.monotonic() - began < 5
    assert f"run {world.runs()[0]['id']} of w has not ended" in world.text()
