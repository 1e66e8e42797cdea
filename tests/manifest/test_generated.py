"""What a generator wrote -> tasks of its run, or one sentence that names the file and the problem."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.desired import Run, Task
from reconciler.core.observed import Generated
from reconciler.core.trigger import Owed, run_of
from reconciler.manifest.assemble import Desired
from reconciler.manifest.environment import make_tasks
from reconciler.manifest.generated import generated_tasks
from tests.manifest.samples import SETTINGS, Files, World, manifest, workflow

FILE = "../.scripthut/generated-tasks.json"
GENERATOR = {"id": "generate", "command": "x", "working_dir": "/code/sim", "generates_source": FILE, "env": [{"set": {"OWN": "generator"}}]}


def made(*tasks: dict[str, Any], parameters: tuple[tuple[str, str], ...] = (), **spec: Any) -> tuple[Run, Task, Desired]:
    """A run whose first task is the generator."""
    settings = SETTINGS + "spec: {env: [{set: {S: server}}]}\n"
    found = World({"settings.yaml": settings, "w.yaml": workflow("w", GENERATOR, *tasks, **spec)}).desired()
    assert found.problems == ()
    revision = found.workflows["w"]
    run = run_of(Owed(revision, "", "0" * 12, parameters=parameters), 0.0)
    run = replace(run, tasks=make_tasks(revision, found.around, parameters=parameters, seed=(("SCRIPTHUT_RUN_ID", run.id),)))
    return run, run.tasks[0], found


def generated(written: object, *tasks: dict[str, Any], **spec: Any) -> Generated:
    run, parent, found = made(*tasks, **spec)
    text = written if isinstance(written, bytes) else json.dumps(written).encode()
    return generated_tasks(text, FILE, run, parent, found)


def test_the_shape_of_the_examples() -> None:
    """A bare list of tasks with old words: ids with dots, a wildcard, absolute folders, an environment by name."""
    old = {"environment": "python", "partition": "standard", "cpus": 1, "memory": "1G", "time_limit": "00:05:00"}
    written = [
        {"id": "sim.1", "name": "Simulation 1", "command": "python3 sim.py 1", "working_dir": "/code/sim", **old},
        {"id": "sim.2", "command": "python3 sim.py 2", "deps": ["generate"], **old},
        {"id": "aggregate", "command": "python3 sum.py", "deps": ["sim.*"], "working_dir": "out", "env_vars": {"N": "2"}},
    ]
    found = generated(
        written, env=[{"set": {"W": "workflow"}}], env_groups={"python": [{"set": {"PY": "3"}, "init": "module load python"}]}
    )
    assert found.error == ""
    one, two, aggregate = found.tasks
    assert [task.working_dir for task in found.tasks] == ["/code/sim", "/code/sim", "/code/sim/out"]
    assert (two.needs, aggregate.needs) == (("generate",), ("sim.1", "sim.2"))
    assert (one.resources.memory_mb, one.resources.time_limit_s, one.init) == (1024, 300, "module load python")
    assert dict(one.env) == {
        "SCRIPTHUT_BACKEND": "local", "SCRIPTHUT_WORKFLOW": "w", "SCRIPTHUT_RUN_ID": "0" * 12, "S": "server", "W": "workflow", "PY": "3",
    }  # fmt: skip
    assert dict(aggregate.env)["N"] == "2"


def test_the_object_form_brings_its_own_environment() -> None:
    """Rules and groups of the file come after the workflow's; the generator's own do not reach the tasks it generates."""
    written = {
        "tasks": [{"id": "a", "command": "x", "env": [{"include": ["g"]}]}],
        "env": [{"set": {"D": "${W}+doc"}}],
        "env_groups": {"g": [{"set": {"G": "1"}}]},
        "title": "t",
    }
    found = generated(written, env=[{"set": {"W": "workflow"}}])
    env = dict(found.tasks[0].env)
    assert (env["D"], env["G"], env.get("OWN")) == ("workflow+doc", "1", None)


def test_parameters_of_the_run_reach_generated_tasks() -> None:
    """They win over the rules of the file too."""
    found = generated({"tasks": [{"id": "a", "command": "x"}], "env": [{"set": {"N": "1"}}]}, parameters=(("N", "20"),))
    assert dict(found.tasks[0].env)["N"] == "20"


def test_nothing_to_do() -> None:
    """A generator may find that there is nothing to do."""
    assert generated([]) == Generated()
    assert generated({"tasks": []}) == Generated()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"", "it is empty"),
        (b"   \n", "it is empty"),
        (b"not json", "this is not JSON"),
        (b"[{]", "line 1: this is not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested more than"),
        (b'[{"id": "a", "id": "b", "command": "x"}]', "stands twice"),
        (b"[" + b" " * 1_000_001 + b"]", "1,000,000 is the most"),
        (5, "tasks"),
        ({}, "tasks"),
        ({"tasks": [], "backend": "x"}, "backend"),
        ([{"id": "a"}], "command"),
        ([{"id": "a b", "command": "x"}], "a task id"),
        ([{"id": "a", "command": "x", "outputs": ["y"]}], "not supported yet"),
        ([{"id": "generate", "command": "x"}], "task 'generate' is already in the run"),
        ([{"id": "a", "command": "x"}] * 2, "a"),
        ([{"id": "a", "command": "x", "deps": ["nobody"]}], "nobody"),
        ([{"id": "a", "command": "x", "deps": ["sim.*"]}], "sim.*"),
        ([{"id": "a", "command": "x", "deps": ["b"]}, {"id": "b", "command": "x", "deps": ["a"]}], "a -> b"),
        ([{"id": "a", "command": "x", "backend": "hpc"}], "there is no Backend 'hpc'"),
        ([{"id": "a", "command": "x", "env": [{"include": ["gone"]}]}], "task a: "),
        ({"tasks": [{"id": "a", "command": "x"}], "env_groups": {"a": [{"include": ["a"]}]}, "env": [{"include": ["a"]}]}, "a -> a"),
    ],
)
def test_a_file_that_cannot_be_used(written: object, words: str) -> None:
    """The run fails with one sentence that names the file and the problem; no task of the file is taken."""
    found = generated(written)
    assert found.tasks == ()
    assert found.error.startswith(f"{FILE}: ")
    assert words in found.error
    assert "\n" not in found.error
    assert len(found.error) < 2000


def test_the_first_problems_are_told_and_the_rest_counted() -> None:
    """A file with a thousand mistakes does not make a reason of a thousand lines."""
    found = generated([{"id": f"a{index}"} for index in range(50)])
    assert found.error.count("line 1") == 3
    assert "more" in found.error


def test_a_source_cannot_reach_other_backends_by_a_generator() -> None:
    """What a Source may not use, its generated tasks may not use either; not even when the Source is gone."""
    source = manifest("Source", "src", {"path": "/code", "backend": "local"})
    world = World(
        {
            "l.yaml": manifest("Backend", "local", {"type": "local"}),
            "h.yaml": manifest("Backend", "hpc", {"type": "local"}),
            "s.yaml": source,
        }
    )
    world.sources = {"src": Files({".hut/w.yaml": workflow("w", GENERATOR)}, root="/code")}
    found = world.desired()
    run = run_of(Owed(found.workflows["src/w"], "", "0" * 12), 0.0)
    written = json.dumps([{"id": "a", "command": "x", "backend": "hpc"}]).encode()
    assert "may not use Backend 'hpc'" in generated_tasks(written, FILE, run, run.tasks[0], found).error
    world.operator = {path: text for path, text in world.operator.items() if path != "s.yaml"}
    assert "may not use Backend 'hpc'" in generated_tasks(written, FILE, run, run.tasks[0], world.desired()).error
    own = json.dumps([{"id": "a", "command": "x", "backend": "local"}]).encode()
    assert generated_tasks(own, FILE, run, run.tasks[0], found).error == ""


@pytest.mark.parametrize(
    ("backends", "asked", "folder", "error"),
    [
        ({"local": "far"}, {"scheduler_args": ["--exclusive"]}, "/code/sim", ""),
        ({"local": "far"}, {"scheduler_args": ["--nice=5"]}, "", "task 'a': the Backend does not allow the option --nice"),
        ({"local": "near"}, {"scheduler_args": ["--nice=5"]}, "/code/sim", ""),
        ({"local": "near", "hpc": "far"}, {"backend": "hpc"}, "", ""),
        ({"local": "near", "hpc": "far"}, {"backend": "hpc", "working_dir": "sub"}, "", ""),
        ({"local": "near", "hpc": "far"}, {"backend": "hpc", "working_dir": "~/x"}, "~/x", ""),
        ({"local": "near", "hpc": "near"}, {"backend": "hpc", "working_dir": "sub"}, "/code/sim/sub", ""),
        ({"local": "far", "hpc": "near"}, {"backend": "hpc"}, "", ""),
    ],
)
def test_generated_tasks_on_a_cluster(backends: dict[str, str], asked: dict[str, Any], folder: str, error: str) -> None:
    """They use those options that their Backend allows, and begin at their generator's folder only where that folder is."""
    specs = {"near": {"type": "local"}, "far": {"type": "slurm", "ssh": {"host": "login"}, "scheduler_args": ["--exclusive"]}}
    documents = {f"{name}.yaml": manifest("Backend", name, specs[spec]) for name, spec in backends.items()}
    found = World({**documents, "w.yaml": workflow("w", GENERATOR, backend="local")}).desired()
    run = run_of(Owed(found.workflows["w"], "", "0" * 12), 0.0)
    answer = generated_tasks(json.dumps([{"id": "a", "command": "x", **asked}]).encode(), FILE, run, run.tasks[0], found)
    assert error in answer.error
    assert [task.working_dir for task in answer.tasks] == ([] if error else [folder])


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda each: st.lists(each) | st.dictionaries(st.sampled_from(["id", "command", "tasks", "env", "x"]), each),
        max_leaves=8,
    )
)
def test_no_file_breaks_it(written: object) -> None:
    """Whatever a generator writes, the answer is tasks or a sentence."""
    run, parent, found = MADE
    text = written if isinstance(written, bytes) else json.dumps(written).encode()
    answer = generated_tasks(text, FILE, run, parent, found)
    assert bool(answer.error) or all(task.command for task in answer.tasks)


MADE = made()
