"""ScriptHut's own example, in place: the traps that broke it on newer ScriptHut itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.e2e.world import World

EXAMPLE = Path(__file__).parent / "example"
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


def test_the_python_example_runs_in_place(tmp_path: Path) -> None:
    """Generator, five generated tasks and a wildcard aggregate run from a `path:` Source with `workdir: file`, nothing edited."""
    shutil.copytree(EXAMPLE, tmp_path / "examples")
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
    shutil.copytree(EXAMPLE, tmp_path / "examples")
    world = World(tmp_path / "world")
    world.write("source.yaml", SOURCE.format(path=tmp_path / "examples"))

    world.call("run", "--once", str(world.folder))

    status = (world.status / "workflow" / "examples" / "python_simulation" / "sflow.json.yaml").read_text()
    assert "python-booth" in status


def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    """A second pass over the same folder makes no second run, although the first wrote files into it."""
    shutil.copytree(EXAMPLE, tmp_path / "examples")
    world = World(tmp_path / "world")
    world.write("source.yaml", SOURCE.format(path=tmp_path / "examples"))
    world.call("run", "--once", str(world.folder))

    assert world.call("run", "--once", str(world.folder)).returncode == 0
    assert len(world.runs()) == 1
