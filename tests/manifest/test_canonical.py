"""What decides whether a workflow runs again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.names import digest_of
from reconciler.manifest import schema
from reconciler.manifest.canonical import canonical, redigest, spec_of

DIAMOND: dict[str, Any] = {
    "backend": "hpc",
    "tasks": [
        {"id": "setup", "command": "bash setup.sh"},
        {"id": "build.x", "command": "make x", "deps": ["setup"], "cpus": 4, "memory": "8G", "time_limit": "2:00:00"},
        {"id": "build.y", "command": "make y", "deps": ["setup"], "env": [{"if": {"A": "1"}, "set": {"B": "2"}}]},
        {"id": "merge", "command": "make dist", "deps": ["build.*"]},
    ],
    "env": [{"include": ["base"], "set": {"LANG": "C"}, "append": {"PATH": "/opt/bin"}, "init": "module load R"}],
    "env_groups": {"base": [{"set": {"A": "1"}}]},
}


def text(spec: dict[str, Any], **extra: dict[str, str]) -> str:
    return canonical(schema.WorkflowSpec.model_validate(spec), **extra)


def changed(**fields: Any) -> dict[str, Any]:
    return {**DIAMOND, **fields}


def with_task(**fields: Any) -> dict[str, Any]:
    """The diamond with other fields of its first task."""
    return {**DIAMOND, "tasks": [{**DIAMOND["tasks"][0], **fields}, *DIAMOND["tasks"][1:]]}


@pytest.mark.parametrize(
    ("spec", "extra", "digest"),
    [
        ({"tasks": [{"id": "a", "command": "true"}]}, {}, "sha256:d5a7ec85ed0f9ee0f5a41ae123c3165d9daa8b77b44c878ff2dbad1d35657bce"),
        (DIAMOND, {}, "sha256:5006d2462d07ac2c680c3837f2381d3e1ae3ccbaabf219b8de84d66e4f721156"),
        (
            DIAMOND,
            {"files": {"src/é.c": "0" * 40}, "parameters": {"N": "20"}},
            "sha256:48265c67dd058340d83658bb70b412f356e97c4d8245397a0fdd48a533e13b41",
        ),
        (changed(rerun="2026-11-20"), {}, "sha256:5de33834972cf9a9ab0f601bb1662c3c6add70f43400855ea110fd2eb71b1a83"),
    ],
)
def test_golden_digests(spec: dict[str, Any], extra: dict[str, dict[str, str]], digest: str) -> None:
    """These digests are in people's ledgers: a change that alters one runs every workflow of every user again. Never edit them."""
    assert digest_of(text(spec, **extra)) == digest


def test_golden_text() -> None:
    """The text is one line of JSON: keys and tasks sorted, defaults left out, values as the models keep them."""
    assert text(with_task(cpus=1, memory="4096M", time_limit=120)) == (
        '{"spec":{"backend":"hpc","env":[{"append":{"PATH":"/opt/bin"},"include":["base"],"init":"module load R","set":{"LANG":"C"}}],'
        '"env_groups":{"base":[{"set":{"A":"1"}}]},"tasks":[{"command":"make x","cpus":4,"deps":["setup"],"id":"build.x","memory":8192,'
        '"time_limit":7200},{"command":"make y","deps":["setup"],"env":[{"if":{"A":["1"]},"set":{"B":"2"}}],"id":"build.y"},'
        '{"command":"make dist","deps":["build.*"],"id":"merge"},{"command":"bash setup.sh","id":"setup","time_limit":7200}]},"v":1}'
    )


@pytest.mark.parametrize(
    "spec",
    [
        changed(title="Another"),
        changed(concurrency="replace"),
        changed(on_delete="cancel"),
        changed(max_concurrent=3),
        changed(approve="sha256:0"),
        changed(suspend={"reason": "tired"}),
        changed(trigger={"on": ["commit"]}),
        changed(tasks=DIAMOND["tasks"][::-1]),
        with_task(retry={"limit": 3, "on": ["lost"], "backoff": "1m"}),
        with_task(cpus=1, memory="4G", time_limit="60:00", deps=[], env=[], when="success", allow_failure=False, working_dir="~"),
        with_task(partition="", gres=None, image=None),
        with_task(nodes=None, ntasks=1, account="", qos=None, constraint="", reservation="", licenses="", scheduler_args=[]),
        with_task(requeue=True),
        with_task(retry={"limit": 1, "escalate": {"memory": 1.5}}),
        json.loads(json.dumps(DIAMOND, sort_keys=True)),
    ],
)
def test_what_is_no_reason_to_run_again(spec: dict[str, Any]) -> None:
    """Titles, policies, retry limits, the order of keys and tasks, and defaults that are written out change nothing."""
    assert text(spec) == text(DIAMOND)


@pytest.mark.parametrize(
    "spec",
    [
        changed(backend="local"),
        changed(rerun="1"),
        changed(env=[]),
        changed(env_groups={"base": [{"set": {"A": "2"}}]}),
        changed(tasks=DIAMOND["tasks"][:3]),
        *(
            with_task(**{field: value})
            for field, value in {
                "name": "Set up",
                "command": "bash setup.sh ",
                "working_dir": "/tmp",
                "backend": "local",
                "partition": "long",
                "cpus": 2,
                "memory": "5G",
                "time_limit": "1:00:01",
                "gres": "gpu:1",
                "nodes": 1,
                "ntasks": 2,
                "account": "x",
                "qos": "x",
                "constraint": "x",
                "reservation": "x",
                "licenses": "x",
                "scheduler_args": ["--exclusive"],
                "output_file": "o",
                "error_file": "e",
                "env": [{"set": {"A": "1"}}],
                "environment": "base",
                "env_vars": {"A": "1"},
                "generates_source": "tasks.json",
                "when": "always",
                "allow_failure": True,
            }.items()
        ),
    ],
)
def test_what_is_a_reason_to_run_again(spec: dict[str, Any]) -> None:
    """Everything that can change a result does change the digest."""
    assert text(spec) != text(DIAMOND)


def test_needs_are_a_set() -> None:
    """Neither the order of needs nor saying one twice can change a result; another need can."""
    tasks = [{"id": name, "command": "true"} for name in "ab"]
    one, two, other = ([*tasks, {"id": "c", "command": "true", "deps": deps}] for deps in (["a", "b"], ["b", "a", "a"], ["b"]))
    assert text({"tasks": one}) == text({"tasks": two}) != text({"tasks": other})


def test_the_order_of_rules_decides() -> None:
    """A later rule wins over an earlier one, so their order is in the digest."""
    rules = [{"set": {"A": "1"}}, {"set": {"A": "2"}}]
    assert text(changed(env=rules)) != text(changed(env=rules[::-1]))


def test_files_and_parameters_are_in_the_digest() -> None:
    """The blobs that `paths` matches, and the parameters of a Run, are reasons; none of them is the same as never having asked."""
    texts = {text(DIAMOND), text(DIAMOND, files={"a": "1"}), text(DIAMOND, files={"a": "2"}), text(DIAMOND, parameters={"a": "1"})}
    assert len(texts) == 4
    assert text(DIAMOND, files={}, parameters={}) == text(DIAMOND)


def test_a_task_list_and_a_workflow_agree() -> None:
    """The same tasks have the same text, whichever way they are written."""
    tasks = DIAMOND["tasks"]
    assert canonical(schema.TaskList.model_validate(tasks)) == text({"tasks": tasks})


def test_a_new_field_changes_no_digest() -> None:
    """A release that adds a field with a default leaves every stored digest as it was."""

    class Later(schema.WorkflowSpec):
        new: int = 5

    assert canonical(Later.model_validate(DIAMOND)) == text(DIAMOND)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.text(min_size=1, max_size=20))
def test_a_stored_text_keeps_its_digest(files: dict[str, str], command: str) -> None:
    """What is stored digests to what is written now, so a new release runs nothing."""
    try:
        stored = text({"tasks": [{"id": "a", "command": command}]}, files=files)
    except ValueError:  # NUL, or half a character
        return
    assert redigest(stored) == digest_of(stored)
    assert stored.isascii()


@pytest.mark.parametrize("stored", ["", "no json", "[]", "5", '{"v": 99, "spec": {}}', '{"v": "x"}'])
def test_a_text_of_another_world_keeps_its_bytes(stored: str) -> None:
    """A text that a later release stored, or a damaged one, is never reinterpreted."""
    assert redigest(stored) == digest_of(stored)


def test_the_spec_of_a_stored_text() -> None:
    """Generated tasks find the environment of their workflow in the text that the run holds."""
    assert spec_of(text(DIAMOND))["env_groups"] == {"base": [{"set": {"A": "1"}}]}
    assert spec_of("no json") == {}
