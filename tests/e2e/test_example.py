"""The examples: the commands of their READMEs, and in ScriptHut's own the traps that broke it on newer ScriptHut itself."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.clusters.cluster import Cluster
from tests.e2e.world import World

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Only what is kept in git: what a run has left in the clone is not part of an example.
LEFT_OVER = shutil.ignore_patterns(".state", "status", "out", ".scripthut", "temp", "results.csv", "__pycache__")
#: How many runs there are, and what was printed (one pattern a line), when the commands of its README have run.
PRINTED = {
    "diamond": [r"no problem in 1 object", *"123456", r"\w+ +diamond +Succeeded +4 succeeded .*"],
    "scripthut": [r"no problem in 2 objects", r"5 batches, mean 3\..*", r"mean,3\..*", r"\w+ +examples/\S+ +Succeeded +7 succeeded .*"],
    "slurm": [r"no problem in 2 objects"],
}
RUNS = {"diamond": 2, "scripthut": 1, "slurm": 0}
SOURCE = """\
apiVersion: scripthut/v1
kind: Source
metadata: {{name: examples}}
spec:
  path: {path}
  include: ["**/sflow.json"]
  workdir: file
  trigger: {{on: [change]}}
"""


def copy(name: str, to: Path) -> Path:
    """An example as a clone has it."""
    shutil.copytree(EXAMPLES / name, to, ignore=LEFT_OVER)
    return to


def commands_of(readme: Path, language: str = "sh") -> list[str]:
    """The commands of the README's shell block, without their comments."""
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def carried_out(commands: list[str], folder: Path, binaries: Path) -> list[str]:
    """The lines that the commands print in `folder`, where `reconciler` is ours; each must end with 0. `binaries`: a folder to make."""
    command = binaries / "reconciler"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reconciler "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(EXAMPLES.parent)}
    printed: list[str] = []
    for line in commands:
        done = subprocess.run(["sh", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        printed += done.stdout.splitlines()
    return printed


def phases(folder: Path) -> list[str]:
    """How the runs of an example stand."""
    ledgers = [*folder.rglob("ledger.sqlite3")]
    if not ledgers:
        return []
    with sqlite3.connect(ledgers[0]) as ledger:
        found = [phase for (phase,) in ledger.execute("SELECT phase FROM runs")]
    ledger.close()
    return found


def test_every_example_is_tried() -> None:
    """Each folder of examples/ has a README, and its commands are run below."""
    assert sorted(path.parent.name for path in EXAMPLES.glob("*/README.md")) == sorted(PRINTED)
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) == sorted(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_the_commands_of_an_example(tmp_path: Path, name: str) -> None:
    """Every command of an example's README ends with 0 where the README is, and what it promises is printed."""
    folder = copy(name, tmp_path / name)

    printed = carried_out(commands_of(folder / "README.md"), folder, tmp_path / "bin")

    for words in PRINTED[name]:
        assert any(re.fullmatch(words, line) for line in printed), (words, printed)
    assert phases(folder) == ["Succeeded"] * RUNS[name]


@pytest.mark.real("slurm")
def test_the_slurm_example_runs_on_a_cluster(tmp_path: Path, slurm: Cluster) -> None:
    """With a login node written into it, every command of the Slurm example works, and its one run succeeds."""
    folder = copy("slurm", tmp_path / "slurm")
    backend = (folder / "cluster.yaml").read_text()
    spool = f"~/example-{uuid.uuid4().hex}"
    there = f"ssh: {{host: {slurm.name}, config: {slurm.ssh_config}}}\n  spool: {spool}\n  poll: {{min: 500ms, max: 2s}}"
    (folder / "cluster.yaml").write_text(backend.replace("ssh: {host: login.example.org}", there))

    try:
        printed = carried_out(commands_of(folder / "README.md", "console"), folder, tmp_path / "bin")
    finally:
        slurm.run(f"rm -rf {spool} ~/reconciler-example")

    assert "40" in printed
    assert any(re.fullmatch(r"\w+ +sweep +Succeeded +6 succeeded .*", line) for line in printed), printed
    assert phases(folder) == ["Succeeded"]


def test_the_python_example_runs_in_place(tmp_path: Path) -> None:
    """Generator, five generated tasks and a wildcard aggregate run from a `path:` Source with `workdir: file`, nothing edited."""
    copy("scripthut/python_simulation", tmp_path / "examples" / "python_simulation")
    world = World(tmp_path / "world")
    world.write("source.yaml", SOURCE.format(path=tmp_path / "examples"))

    answer = world.call("run", "--once", str(world.folder))

    assert (answer.returncode, [run["phase"] for run in world.runs()]) == (0, ["Succeeded"]), answer.stderr
    assert world.runs()[0]["workflow"] == "examples/python_simulation/sflow.json"
    results = (tmp_path / "examples" / "python_simulation" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in results] == ["1", "2", "3", "4", "5", "mean"]
    tasks = {task["id"]: task["state"] for task in world.get("run", "examples/python_simulation/sflow.json")["tasks"]}
    assert tasks == dict.fromkeys(["generate", *(f"sim.batch-{seed}" for seed in range(1, 6)), "aggregate"], "succeeded")


def test_an_unknown_environment_is_a_warning(tmp_path: Path) -> None:
    """`environment: NAME` without such a group runs, and the workflow's status says what was not found."""
    copy("scripthut/python_simulation", tmp_path / "examples" / "python_simulation")
    world = World(tmp_path / "world")
    world.write("source.yaml", SOURCE.format(path=tmp_path / "examples"))

    world.call("run", "--once", str(world.folder))

    status = (world.status / "workflow" / "examples" / "python_simulation" / "sflow.json.yaml").read_text()
    assert "python-booth" in status


def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    """A second pass over the same folder makes no second run, although the first wrote files into it."""
    copy("scripthut/python_simulation", tmp_path / "examples" / "python_simulation")
    world = World(tmp_path / "world")
    world.write("source.yaml", SOURCE.format(path=tmp_path / "examples"))
    world.call("run", "--once", str(world.folder))

    assert world.call("run", "--once", str(world.folder)).returncode == 0
    assert len(world.runs()) == 1
