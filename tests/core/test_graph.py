"""Dependencies: what is expanded, what is refused in which words, and that size does not hurt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import graph
from reconciler.core.desired import Task
from reconciler.core.record import Shape
from reconciler.errors import GraphError

Tasks = Sequence[tuple[str, Sequence[str]]]

DIAMOND: Tasks = [("setup", []), ("build.x", ["setup"]), ("build.y", ["setup"]), ("merge", ["build.*"])]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], ()),
        (["setup"], ("setup",)),
        (["build.*"], ("build.x", "build.y")),
        (["build.?"], ("build.x", "build.y")),
        (["build.[xz]"], ("build.x",)),
        (["build.[!x]"], ("build.y",)),
        (["*.y"], ("build.y",)),
        (["b*y"], ("build.y",)),
        (["*uil*"], ("build.x", "build.y")),
        (["*"], ("setup", "build.x", "build.y")),
        (["build.y", "build.*", "build.y"], ("build.y", "build.x")),
        (["*.x", "s*"], ("build.x", "setup")),
    ],
)
def test_a_need_becomes_ids_in_order_and_once(written: list[str], expected: tuple[str, ...]) -> None:
    """Patterns give ids in run order, each id is kept once, in the order written, and the task itself is left out."""
    assert graph.expand([*DIAMOND[:3], ("merge", written)])["merge"] == expected


@pytest.mark.parametrize(
    ("tasks", "task", "message"),
    [
        ([("a", ["a"])], "a", "task 'a' needs itself"),
        ([("setup", []), ("b", ["setpu"])], "b", "task 'b' needs 'setpu', which does not exist (did you mean 'setup'?)"),
        ([("a", []), ("b", ["nothing-like-it"])], "b", "task 'b' needs 'nothing-like-it', which does not exist"),
        ([("a", []), ("b", ["c.*"])], "b", "task 'b' needs 'c.*', which matches no task"),
        ([("a", []), ("b", ["b*"])], "b", "task 'b' needs 'b*', which matches no task but the task itself"),
        ([("build.x", []), ("b", ["biuld.*"])], "b", "task 'b' needs 'biuld.*', which matches no task (did you mean 'build'?)"),
        ([("ab", []), ("c", ["ab*b"])], "c", "task 'c' needs 'ab*b', which matches no task (did you mean 'ab'?)"),
        ([("a", []), ("a", [])], "a", "task id 'a' is used twice in this run; ids must be unique"),
        ([("a", []), ("b", ["A"])], "b", "task 'b' needs 'A', which does not exist"),
        ([("a", []), ("b", ["A*"])], "b", "task 'b' needs 'A*', which matches no task"),
        ([("a", ["b"]), ("b", ["a"])], "a", "these tasks wait for each other: a -> b -> a"),
        (
            [("z", ["c"]), ("c", ["a"]), ("a", ["b"]), ("b", ["c"])],
            "c",
            "these tasks wait for each other: c -> a -> b -> c",
        ),
        ([("s.1", ["s.*"]), ("s.2", ["s.*"])], "s.1", "these tasks wait for each other: s.1 -> s.2 -> s.1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tasks: Tasks, task: str, message: str) -> None:
    """An error names the task where it shows, and what is wrong, with the nearest known name."""
    with pytest.raises(GraphError) as caught:
        graph.expand(tasks)
    assert (caught.value.task, str(caught.value)) == (task, message)


def test_all_faults_are_told_at_once() -> None:
    """`faults` tells every problem of a workflow, not only the first, and nothing for a good one."""
    found = graph.faults([("a", ["a"]), ("b", ["x"]), ("c", ["d"]), ("d", ["c"]), ("d", [])])
    assert [each.task for each in found] == ["d", "a", "b", "c"]
    assert graph.faults(DIAMOND) == ()


def test_a_workflow_full_of_faults_is_told_its_first_fifty() -> None:
    """The message of a file with thousands of typing errors can be read, and is made in bounded time."""
    assert len(graph.faults([(f"t{place}", ["nothing"]) for place in range(5000)])) == graph.FAULTS_MAX


def test_generated_tasks_may_need_what_the_run_already_has() -> None:
    """Needs of generated tasks are looked up among the known ids and the new ones; known ids are not in the result."""
    assert graph.expand([("sim.3", ["setup"]), ("sum", ["sim.*"])], known=("setup", "sim.1")) == {
        "sim.3": ("setup",),
        "sum": ("sim.1", "sim.3"),
    }


def test_a_generated_id_that_exists_already_is_refused() -> None:
    """A generator cannot name a task that the run has."""
    with pytest.raises(GraphError, match="task id 'setup' is used twice"):
        graph.expand([("setup", [])], known=("setup",))


def test_a_long_cycle_is_told_by_its_ends() -> None:
    """A cycle of thousands does not make a message of thousands of names."""
    ring = [(f"t{place}", [f"t{(place + 1) % 5000}"]) for place in range(5000)]
    (fault,) = graph.faults(ring)
    assert str(fault).startswith("these tasks wait for each other: t0 -> t1 -> ")
    assert "… 4,900 more …" in str(fault)
    assert str(fault).endswith("-> t4999 -> t0")


def test_a_cycle_of_a_hundred_is_named_in_full() -> None:
    """Up to a hundred names, every task of a cycle is named."""
    (fault,) = graph.faults([(f"t{place}", [f"t{(place + 1) % 100}"]) for place in range(100)])
    assert str(fault) == "these tasks wait for each other: " + " -> ".join(f"t{place % 100}" for place in range(101))


@pytest.mark.parametrize("backwards", [False, True])
def test_a_chain_of_fifty_thousand_is_no_problem(backwards: bool) -> None:
    """Neither the recursion limit nor the stack knows how long a chain is, whichever end is written first."""
    chain = [(f"t{place}", [f"t{place - 1}"] if place else []) for place in range(50_000)]
    needs = graph.expand(chain[::-1] if backwards else chain)
    assert graph.order(needs) == tuple(f"t{place}" for place in range(50_000))


@pytest.mark.parametrize("pattern", ["g{0}.*", "*.{0}", "g{0}.?", "g{0}*{0}"])
def test_ten_thousand_tasks_with_a_pattern_each_are_quick(pattern: str) -> None:
    """A pattern with a literal beginning or end looks only at ids that begin or end so: seconds would mean that it looks at all."""
    tasks: list[tuple[str, list[str]]] = [*((f"g{place}.x" if "?" in pattern else f"g{place}.{place}", []) for place in range(5000))]
    tasks += [(f"h{place}", [pattern.format(place)]) for place in range(5000)]
    before = time.process_time()
    needs = graph.expand(tasks)
    assert time.process_time() - before < 1.0
    assert len(needs) == 10_000


def test_patterns_that_cost_too_much_are_refused() -> None:
    """A hostile file with thousands of patterns that begin with a wildcard ends in an error, in bounded time."""
    tasks = [*((f"g{place}.a", []) for place in range(5000)), *((f"h{place}", [f"*{place}*a*"]) for place in range(5000))]
    with pytest.raises(GraphError, match="take too long to compare"):
        graph.expand(tasks)


def test_too_many_needs_are_refused_with_the_cure() -> None:
    """Two groups of 2,000 that need each other completely are refused, and the message says what to do."""
    tasks = [*((f"a.{place}", []) for place in range(2000)), *((f"b.{place}", ["a.*"]) for place in range(2000))]
    with pytest.raises(GraphError, match="put one task between two large groups"):
        graph.expand(tasks)


def test_order_is_as_written_where_needs_allow_it() -> None:
    """Among tasks that could come next, the one written first comes first."""
    assert graph.order({"d": ("b",), "a": (), "c": ("a",), "b": ()}) == ("a", "c", "b", "d")


def test_order_refuses_a_cycle() -> None:
    """There is no order of a cycle, and the error names it."""
    with pytest.raises(GraphError, match="a -> b -> a"):
        graph.order({"a": ("b",), "b": ("a",)})


def test_a_need_outside_counts_as_done() -> None:
    """Generated tasks are ordered among themselves; what they need of the older part of the run does not hold them."""
    assert graph.order({"b": ("a", "old"), "a": ("old",)}) == ("a", "b")


def test_shape_knows_who_waits_for_whom() -> None:
    """Dependents come in run order, and every task is a key."""
    tasks = [Task(name, "true", needs=needs) for name, needs in graph.expand(DIAMOND).items()]
    assert graph.shape(tasks) == Shape({"setup": ("build.x", "build.y"), "build.x": ("merge",), "build.y": ("merge",), "merge": ()})


def test_extending_a_shape_is_the_same_as_having_had_the_tasks() -> None:
    """Appending tasks gives the shape of the longer run, and leaves the older shape as it was."""
    tasks = [Task("a", "true"), Task("b", "true", needs=("a",)), Task("c", "true", needs=("a", "b"))]
    before = graph.shape(tasks[:2])
    assert graph.extend_shape(before, tasks[2:]) == graph.shape(tasks)
    assert before == graph.shape(tasks[:2])


def test_a_shape_refuses_needs_that_are_no_tasks() -> None:
    """A need that nobody is would wait for ever."""
    with pytest.raises(GraphError, match="'b', which is no task of this run"):
        graph.shape([Task("a", "true", needs=("b",))])


@pytest.mark.parametrize(("task_id", "expected"), [("a", ""), ("build.x", "build"), ("sim.2.b", "sim.2")])
def test_group_is_what_stands_before_the_last_dot(task_id: str, expected: str) -> None:
    """Dots group tasks."""
    assert graph.group(task_id) == expected


IDS = st.text("ab.1", min_size=1, max_size=4).map(lambda text: "a" + text)
PATTERNS = st.text("ab.1*?[]!", min_size=1, max_size=5).filter(graph.is_pattern)


@given(st.lists(IDS, min_size=1, max_size=12, unique=True), PATTERNS)
def test_patterns_match_as_fnmatch_does(ids: list[str], pattern: str) -> None:
    """Whatever the shortcuts, a pattern matches what fnmatchcase matches, in run order."""
    expected = tuple(name for name in ids if fnmatchcase(name, pattern))
    tasks: Tasks = [*((name, []) for name in ids), ("task", [pattern])]
    if expected:
        assert graph.expand(tasks)["task"] == expected
    elif not fnmatchcase("task", pattern):
        with pytest.raises(GraphError, match="matches no task"):
            graph.expand(tasks)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=10))
def test_either_all_are_ordered_or_a_true_cycle_is_named(wanted: list[list[int]]) -> None:
    """Each task comes after its needs; when that cannot be, the error names a path that really comes back to itself."""
    needs = {f"t{place}": [f"t{need}" for need in dict.fromkeys(each) if need < len(wanted)] for place, each in enumerate(wanted)}
    try:
        done = graph.order(needs)
    except GraphError as error:
        cycle = str(error).partition(": ")[2].split(" -> ")
        assert cycle[0] == cycle[-1]
        assert all(after in needs[name] for name, after in pairwise(cycle))
    else:
        assert sorted(done) == sorted(needs)
        assert all(done.index(need) < done.index(name) for name in needs for need in needs[name])
