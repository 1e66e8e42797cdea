"""Which task waits for which: wildcards expanded, ids checked, order found, once for a run.

Called by manifest/resolve.py (`expand`, `faults`), core/plan.py (`shape`, `extend_shape`) and whoever lists tasks (`order`,
`group`). Nothing here recurses, so a chain of 50,000 tasks is as good as one of three; and a pattern looks only at the ids that
begin or end as it does, so 10,000 tasks with a pattern each are quick.

A pattern is any need that holds `*`, `?` or `[`; task ids cannot (core/names.py `TASK_ID`). It is matched as fnmatch does,
upper and lower case told apart, over all ids of the run but the task's own.
"""

from __future__ import annotations

import fnmatch
import heapq
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from reconciler.core.desired import Task
from reconciler.core.record import Shape
from reconciler.errors import GraphError

#: Two stages of 1,000 tasks that need each other completely are 1,000,000; a task between them makes it 2,000.
EDGES_MAX = 2_000_000
#: Ids that patterns may be compared with, all together. A hostile file of 1 MB could otherwise cost a minute.
COMPARISONS_MAX = 5_000_000
#: Of one graph, so many problems are told; a person repairs the first few, and the rest is often their echo.
FAULTS_MAX = 50
#: A longer cycle is told by its two ends.
CYCLE_NAMES_MAX = 100

_MAGIC = re.compile(r"[*?[]")
_LAST = "\U0010ffff"  # sorts after every character of an id


def expand(tasks: Sequence[tuple[str, Sequence[str]]], known: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """The needs of each of `tasks` (id, needs as written), as ids: patterns expanded in run order, each id once, in the order written.

    `known` are ids that the run already has (for generated tasks): they may be needed, and are not in the result.
    Raises GraphError, with the id of the task where it shows, for the first of `faults`.
    """
    needs, found = _expanded(tasks, known)
    if found:
        raise found[0]
    return needs


def faults(tasks: Sequence[tuple[str, Sequence[str]]], known: Collection[str] = ()) -> tuple[GraphError, ...]:
    """Everything wrong with `tasks` at once, at most FAULTS_MAX: ids used twice, needs that are unknown, match nothing or are the
    task itself, too many needs, and one cycle if there is any. Empty when `expand` would succeed.
    """
    return tuple(_expanded(tasks, known)[1])


def order(needs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The ids of `needs` so that each comes after its needs; otherwise as written. A need that is not a key counts as done.

    Raises GraphError when there is a cycle.
    """
    done = _order(needs)
    if len(done) < len(needs):
        raise _cycle_fault(needs, done)
    return done


def shape(tasks: Iterable[Task]) -> Shape:
    """Who waits for each task (needs already expanded). Every task is a key, in run order."""
    return extend_shape(Shape({}), tasks)


def extend_shape(before: Shape, tasks: Iterable[Task]) -> Shape:
    """The shape of a run to which `tasks` were appended. `before` stays as it is.

    Raises GraphError for a need that is no task of the run.
    """
    new = tuple(tasks)
    dependents: dict[str, tuple[str, ...]] = {**before.dependents, **{task.id: () for task in new}}
    added: dict[str, list[str]] = {}
    for task in new:
        for need in task.needs:
            if need not in dependents:
                raise GraphError(task.id, f"task {task.id!r} needs {need!r}, which is no task of this run")
            added.setdefault(need, []).append(task.id)
    for need, ids in added.items():
        dependents[need] += tuple(ids)
    return Shape(dependents)


def group(task_id: str) -> str:
    """What stands before the last dot of `task_id`: `build` for `build.x`; "" when there is no dot."""
    return task_id.rpartition(".")[0]


def is_pattern(need: str) -> bool:
    """Whether `need` stands for several ids."""
    return _MAGIC.search(need) is not None


def _expanded(tasks: Sequence[tuple[str, Sequence[str]]], known: Collection[str]) -> tuple[dict[str, tuple[str, ...]], list[GraphError]]:
    ids, found = _places(tasks, known)
    patterns = _Patterns(ids)
    needs: dict[str, tuple[str, ...]] = {}
    edges = 0
    for task, written in tasks:
        try:
            needs.setdefault(task, _needs_of(task, written, ids, patterns))  # of an id used twice, the first
        except GraphError as error:
            found.append(error)
        edges += len(needs.get(task, ()))
        if edges > EDGES_MAX:
            found.append(GraphError(task, f"more than {EDGES_MAX:,} needs in one workflow; put one task between two large groups"))
        if len(found) >= FAULTS_MAX or edges > EDGES_MAX:
            return needs, found
    done = _order(needs)
    if len(done) < len(needs):
        found.append(_cycle_fault(needs, done))
    return needs, found


def _places(tasks: Sequence[tuple[str, Sequence[str]]], known: Collection[str]) -> tuple[dict[str, int], list[GraphError]]:
    """The place of every id in run order, and the ids that are used twice."""
    ids = {name: place for place, name in enumerate(known)}
    found = []
    for task, _ in tasks:
        if task in ids:
            found.append(GraphError(task, f"task id {task!r} is used twice in this run; ids must be unique"))
        else:
            ids[task] = len(ids)
    return ids, found[:FAULTS_MAX]


def _needs_of(task: str, written: Sequence[str], ids: Mapping[str, int], patterns: _Patterns) -> tuple[str, ...]:
    if len(written) == 1 and is_pattern(written[0]):
        return patterns.match(task, written[0])
    needs: dict[str, None] = {}
    for need in written:
        if is_pattern(need):
            needs.update(dict.fromkeys(patterns.match(task, need)))
        elif need == task:
            raise GraphError(task, f"task {task!r} needs itself")
        elif need not in ids:
            raise GraphError(task, f"task {task!r} needs {need!r}, which does not exist{_nearest(need, ids)}")
        else:
            needs[need] = None
    return tuple(needs)


class _Match(NamedTuple):
    """What a pattern matched, in run order: for reading, and for asking."""

    names: tuple[str, ...]
    members: frozenset[str]


class _Patterns:
    """The ids of one run, sorted by their beginnings and by their ends, and what each pattern matched so far."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._matched: dict[str, _Match] = {}
        self._forward: list[str] | None = None
        self._backward: list[str] | None = None
        self._comparisons = 0

    def match(self, task: str, pattern: str) -> tuple[str, ...]:
        """Ids that `pattern` matches, in run order, without `task` itself. Raises GraphError when there is none.

        Tasks outside the group get the same tuple: what 5,000 tasks need is kept once, not 5,000 times.
        """
        match = self._matched.get(pattern)
        if match is None:
            names = tuple(sorted(self._search(task, pattern), key=self._ids.__getitem__))
            match = self._matched[pattern] = _Match(names, frozenset(names))
        itself = task in match.members
        if len(match.names) > itself:
            return tuple(name for name in match.names if name != task) if itself else match.names
        but = " but the task itself" if itself else ""
        near = _nearest(pattern.strip("*?."), {*self._ids, *map(group, self._ids)} - {task, group(task)})
        raise GraphError(task, f"task {task!r} needs {pattern!r}, which matches no task{but}{near}")

    def _search(self, task: str, pattern: str) -> list[str]:
        head, tail = re.split(r"[*?[]", pattern, maxsplit=1)[0], re.split(r"[*?\]]", pattern)[-1]
        candidates = self._beginning(head)
        if pattern == head + "*":
            return candidates
        if tail:
            candidates = min(candidates, self._ending(tail), key=len)
        self._comparisons += len(candidates)
        if self._comparisons > COMPARISONS_MAX:
            cure = "begin them with a longer literal text"
            raise GraphError(task, f"the patterns of this workflow take too long to compare (at {pattern!r}); {cure}")
        matches = _matcher(pattern)
        return [name for name in candidates if matches(name)]

    def _beginning(self, text: str) -> list[str]:
        if self._forward is None:
            self._forward = sorted(self._ids)
        return self._forward[bisect_left(self._forward, text) : bisect_left(self._forward, text + _LAST)]

    def _ending(self, text: str) -> list[str]:
        if self._backward is None:
            self._backward = sorted(name[::-1] for name in self._ids)
        text = text[::-1]
        found = self._backward[bisect_left(self._backward, text) : bisect_left(self._backward, text + _LAST)]
        return [name[::-1] for name in found]


def _matcher(pattern: str) -> Callable[[str], object]:
    """Whether a name matches. Making a regular expression costs 0.5 ms, so the two commonest forms do without."""
    if "[" not in pattern and "*" not in pattern:
        return lambda name: len(name) == len(pattern) and all(want in ("?", char) for want, char in zip(pattern, name, strict=True))
    if "[" not in pattern and "?" not in pattern and pattern.count("*") == 1:
        head, _, tail = pattern.partition("*")
        return lambda name: len(name) >= len(head) + len(tail) and name.startswith(head) and name.endswith(tail)
    return re.compile(fnmatch.translate(pattern)).match


def _nearest(name: str, ids: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or "" when nothing is near."""
    near = get_close_matches(name, (other for other in ids if abs(len(other) - len(name)) <= 3), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _order(needs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """As many ids as can be put in order: fewer than there are when there is a cycle."""
    places = {name: place for place, name in enumerate(needs)}
    names = tuple(needs)
    left = [sum(need in places for need in wanted) for wanted in needs.values()]
    dependents: dict[str, list[int]] = {}
    for place, wanted in enumerate(needs.values()):
        for need in wanted:
            dependents.setdefault(need, []).append(place)
    ready = [place for place, count in enumerate(left) if not count]  # ascending, so it is a heap already
    done = []
    while ready:
        name = names[heapq.heappop(ready)]
        done.append(name)
        for place in dependents.get(name, ()):
            left[place] -= 1
            if not left[place]:
                heapq.heappush(ready, place)
    return tuple(done)


def _cycle_fault(needs: Mapping[str, Collection[str]], done: Iterable[str]) -> GraphError:
    """The first cycle, as `a -> b -> a`: each name needs the next."""
    stuck = needs.keys() - set(done)
    name = next(each for each in needs if each in stuck)
    trail: dict[str, int] = {}
    while name not in trail:  # every stuck task needs a stuck one, so this walk must come back to itself
        trail[name] = len(trail)
        name = next(need for need in needs[name] if need in stuck)
    cycle = list(trail)[trail[name] :]
    first = min(cycle, key={each: place for place, each in enumerate(needs)}.__getitem__)
    at = cycle.index(first)
    cycle = cycle[at:] + cycle[:at]
    shown = cycle
    if len(cycle) > CYCLE_NAMES_MAX:
        half = CYCLE_NAMES_MAX // 2
        shown = [*cycle[:half], f"… {len(cycle) - 2 * half:,} more …", *cycle[-half:]]
    return GraphError(first, f"these tasks wait for each other: {' -> '.join([*shown, first])}")
