"""The stored form gives back exactly what went in, stays small, and survives words of a newer release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.codec import Json, dump, load
from reconciler.core.desired import BackendSpec, Cause, Place, Resources, Retry, Revision, Run, RunRequest, Suspend, Task, Trigger, When
from reconciler.core.record import Event, RunHead, TaskRecord, TaskState


class Point(NamedTuple):
    x: int
    label: str = ""


@dataclass(frozen=True)
class Odd:
    """Every kind of field that the core's own classes use, and the ones they may."""

    pair: tuple[str, int]
    points: tuple[Point, ...] = ()
    tasks: Mapping[str, Task] = field(default_factory=dict)
    maybe: Point | None = None
    ratio: float = 0.5


st.register_type_strategy(float, st.floats(allow_nan=False))  # NaN is equal to nothing, and no time is NaN
PLACE = Place("lab", ".hut/a.yaml", 3, "0" * 40, "main@sha1:" + "0" * 40)


@pytest.mark.parametrize("cls", [Task, Run, Revision, RunRequest, BackendSpec, Event, RunHead, TaskRecord, Odd])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_round_trip(cls: type, data: st.DataObject) -> None:
    """Whatever the core can hold comes back equal after it went through JSON text."""
    if cls is BackendSpec:
        options = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))
        value = data.draw(st.builds(BackendSpec, options=options))
    else:
        value = data.draw(st.from_type(cls))
    assert load(cls, json.loads(json.dumps(dump(value)))) == value


def test_defaults_are_left_out() -> None:
    """A task that asks for nothing special is stored as its id and command."""
    assert dump(Task("a", "true")) == {"id": "a", "command": "true"}


def test_only_what_differs_is_stored() -> None:
    """Of a nested object only the fields that differ from their default are stored, enums by their word, sets sorted."""
    retry = Retry(on=frozenset({Cause.OOM, Cause.EXIT}))
    assert dump(Task("a", "b", resources=Resources(cpus=2), retry=retry, when=When.ALWAYS, env=(("K", "v"),))) == {
        "id": "a",
        "command": "b",
        "resources": {"cpus": 2},
        "retry": {"on": ["exit", "oom"]},
        "when": "always",
        "env": [["K", "v"]],
    }


def test_unknown_keys_are_skipped() -> None:
    """What a newer release added to an object does not stop an older one."""
    newer: Json = {"id": "a", "command": "b", "colour": "red", "resources": {"cpus": 2, "gpus": 1}}
    assert load(Task, newer) == Task("a", "b", resources=Resources(cpus=2))


@pytest.mark.parametrize(
    ("cls", "value", "words"),
    [
        (Task, {"id": "a"}, "command"),
        (Task, {"id": 1, "command": "b"}, "Task.id: expected str"),
        (Task, {"id": "a", "command": "b", "when": "sometimes"}, "Task.when"),
        (Task, {"id": "a", "command": "b", "resources": {"cpus": "many"}}, "Task.resources: Resources.cpus: expected int"),
        (Task, {"id": "a", "command": "b", "resources": {"cpus": True}}, "expected int"),
        (Task, {"id": "a", "command": "b", "needs": "x"}, "Task.needs: expected a list"),
        (Task, {"id": "a", "command": "b", "env": [["K"]]}, "Task.env"),
        (Task, ["a", "b"], "expected an object"),
        (Suspend, {"until": "tomorrow"}, "Suspend.until: expected a number"),
        (Odd, {"pair": ["a", 1], "tasks": []}, "Odd.tasks: expected an object"),
    ],
)
def test_wrong_values_are_refused_by_name(cls: type, value: object, words: str) -> None:
    """A value of a wrong type raises ValueError that names the field; nothing is guessed."""
    with pytest.raises(ValueError, match=words):
        load(cls, value)  # type: ignore[arg-type]  # the point of the test


def test_whole_numbers_are_numbers() -> None:
    """JSON writers may turn 5.0 into 5; it is loaded as the float it was."""
    assert load(Suspend, {"until": 5}) == Suspend(until=5.0)
    assert isinstance(load(Suspend, {"until": 5}).until, float)


def test_an_uncovered_type_is_refused() -> None:
    """A class that the stored form does not cover is refused when it is met, not stored as something else."""
    with pytest.raises(TypeError, match="does not cover"):
        dump(complex(1, 2))
    with pytest.raises(TypeError, match="not a dataclass"):
        dump("text")


def test_a_revision_keeps_its_triggers() -> None:
    """A revision with two triggers has two after loading."""
    revision = Revision("lab/a", PLACE, "sha256:1", "v1", (), "local", triggers=frozenset({Trigger.COMMIT, Trigger.CHANGE}))
    assert load(Revision, dump(revision)).triggers == {Trigger.CHANGE, Trigger.COMMIT}


def test_a_record_is_stored_by_name() -> None:
    """A NamedTuple is stored by the names of its fields, like a dataclass."""
    assert dump(TaskRecord(TaskState.FAILED, attempt=2, cause=Cause.OOM)) == {"state": "failed", "attempt": 2, "cause": "oom"}
