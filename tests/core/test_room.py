"""Fair shares: who gets how many of the free slots."""

from __future__ import annotations

import os
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.room import Demand, free, left_of, share

#: So many cases for each property, always the same ones; RECONCILER_EXAMPLES=5000 searches further, elsewhere each time.
EXAMPLES = int(os.environ.get("RECONCILER_EXAMPLES", "200"))
SEARCHES = "RECONCILER_EXAMPLES" in os.environ
search = settings(max_examples=EXAMPLES, derandomize=not SEARCHES, deadline=None)
BACKENDS = ("here", "there")


def here(run: str, ready: int, live: int = 0, limit: str = "") -> Demand:
    return Demand(run, "here", ready, live, limit)


@pytest.mark.parametrize(
    ("demands", "free", "limits", "expected"),
    [
        pytest.param([], 5, {}, [], id="nobody asks"),
        pytest.param([here("a", 3)], 5, {}, [3], id="room for all: what is wanted"),
        pytest.param([here("a", 9)], 5, {}, [5], id="one run takes all that is free"),
        pytest.param([here("a", 9)], 0, {}, [0], id="nothing is free"),
        pytest.param([here("a", 9)], -2, {}, [0], id="a backend above its limit takes nothing"),
        pytest.param([here("a", 10_000), here("b", 10)], 8, {}, [4, 4], id="a large run does not starve a small one"),
        pytest.param([here("a", 10_000), here("b", 2)], 8, {}, [6, 2], id="what one does not want goes to the other"),
        pytest.param([here("a", 9, live=6), here("b", 9)], 4, {}, [0, 4], id="who has fewest live jobs comes first"),
        pytest.param([here("a", 9, live=2), here("b", 9)], 4, {}, [1, 3], id="until they are level"),
        pytest.param([here("a", 9), here("b", 9), here("c", 9)], 4, {}, [2, 1, 1], id="the first in order wins a tie"),
        pytest.param([here("a", 9, limit="w")], 5, {"w": 2}, [2], id="a limit of its own"),
        pytest.param([here("a", 9, limit="w")], 5, {"w": 0}, [0], id="a limit that is used up"),
        pytest.param([here("a", 9, limit="w")], 5, {}, [5], id="a limit that nobody set caps nothing"),
        pytest.param([here("a", 9, limit="w"), here("b", 9)], 8, {"w": 1}, [1, 7], id="what a limit holds back is not left idle"),
        pytest.param([here("a", 9, limit="w"), here("b", 9, limit="w")], 8, {"w": 1}, [1, 0], id="the older run takes the last of a limit"),
    ],
)
def test_shares(demands: list[Demand], free: int, limits: dict[str, int], expected: list[int]) -> None:
    """The table of small cases: what each run gets on one backend."""
    got = share(demands, {"here": free}, limits)

    assert [got[demand.run, "here"] for demand in demands] == expected


def test_an_unknown_backend_takes_nothing() -> None:
    """A backend that was not counted has no room."""
    assert share([here("a", 3)], {}, {}) == {("a", "here"): 0}


def test_a_limit_holds_over_both_backends() -> None:
    """A workflow's limit is one number, however many backends its run uses."""
    got = share([Demand("a", "here", 9, 0, "w"), Demand("a", "there", 9, 0, "w")], {"here": 5, "there": 5}, {"w": 6})

    assert sum(got.values()) == 6


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({}, {"here": 2, "there": 0}, id="what is live is taken off"),
        pytest.param({"here": None}, {"here": 2, "there": 0}, id="no opinion of its own"),
        pytest.param({"here": 1, "there": 7}, {"here": 1, "there": 0}, id="the lesser of the two"),
        pytest.param({"here": -1}, {"here": 0, "there": 0}, id="never less than none"),
    ],
)
def test_free(said: dict[str, int | None], expected: dict[str, int]) -> None:
    """A backend takes its limit less the live jobs of all runs, and no more than it says itself; one that is not asked takes none."""
    assert free({"here": 5, "there": 1}, [{"here": 2, "gone": 1}, {"here": 1, "there": 2}], said) == expected


def test_left_of() -> None:
    """A workflow's own limit is used up by all its runs; one without a limit has no entry, and no other workflow counts."""
    assert left_of({"a": 3, "b": None, "c": 1}, [("a", 1), ("a", 1), ("b", 9), ("d", 4)]) == {"a": 1, "c": 1}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Demand], dict[str, int], dict[str, int]]:
    """Up to six runs on two backends, some of them under limits that they share."""
    demands = [
        Demand(f"r{number}", backend, draw(st.integers(0, 9)), draw(st.integers(0, 5)), draw(st.sampled_from(["", "", "x", "y", "unset"])))
        for number in range(draw(st.integers(0, 6)))
        for backend in draw(st.sampled_from([BACKENDS[:1], BACKENDS[1:], BACKENDS]))
    ]
    free = {backend: draw(st.integers(-1, 12)) for backend in BACKENDS}
    return demands, free, {limit: draw(st.integers(0, 8)) for limit in ("x", "y")}


def spent(demands: list[Demand], got: dict[tuple[str, str], int]) -> Counter[str]:
    """How much of each limit was given out."""
    used: Counter[str] = Counter()
    for demand in demands:
        used[demand.limit] += got[demand.run, demand.backend]
    return used


@search
@given(cases())
def test_never_more_than_there_is(case: tuple[list[Demand], dict[str, int], dict[str, int]]) -> None:
    """No run gets more than it wants, no backend gives more than is free, no limit is passed; every demand has an answer."""
    demands, free, limits = case
    got = share(*case)

    assert set(got) == {(demand.run, demand.backend) for demand in demands}
    assert all(0 <= got[demand.run, demand.backend] <= demand.ready for demand in demands)
    for backend in BACKENDS:
        assert sum(count for (_, where), count in got.items() if where == backend) <= max(0, free[backend])
    used = spent(demands, got)
    assert all(used[limit] <= allowed for limit, allowed in limits.items())


@search
@given(cases())
def test_nothing_is_left_idle(case: tuple[list[Demand], dict[str, int], dict[str, int]]) -> None:
    """Whoever gets less than it wants is stopped by its limit, or by a backend that is full."""
    demands, free, limits = case
    got = share(*case)
    used = spent(demands, got)

    for demand in demands:
        if got[demand.run, demand.backend] < demand.ready:
            full = sum(count for (_, where), count in got.items() if where == demand.backend) >= free[demand.backend]
            assert full or used[demand.limit] >= limits.get(demand.limit, 10**9)


@search
@given(cases())
def test_max_min_fairness(case: tuple[list[Demand], dict[str, int], dict[str, int]]) -> None:
    """No run could have one more on a backend without taking it from a run that has fewer or as many there; the order breaks ties.

    A run whose limit is used up could not use a slot of others.
    """
    demands, _, limits = case
    got = share(*case)
    used = spent(demands, got)
    level = {(demand.run, demand.backend): demand.live + got[demand.run, demand.backend] for demand in demands}
    for (place, poor), (other, rich) in permutations(enumerate(demands), 2):
        hungry = got[poor.run, poor.backend] < poor.ready and used[poor.limit] < limits.get(poor.limit, 10**9)
        if poor.backend == rich.backend and hungry and got[rich.run, rich.backend]:
            without = level[rich.run, rich.backend] - 1  # what the rich one would have without its last slot
            assert without <= level[poor.run, poor.backend]
            assert without < level[poor.run, poor.backend] or other < place


@search
@given(cases())
def test_runs_of_one_limit_share_it_fairly(case: tuple[list[Demand], dict[str, int], dict[str, int]]) -> None:
    """What a used-up limit still allowed on one backend was shared by its runs as everything else is: the fewest live jobs first."""
    demands, free, limits = case
    demands = [demand for demand in demands if demand.backend == "here"]
    got = share(demands, free, limits)
    level = {demand.run: demand.live + got[demand.run, "here"] for demand in demands}
    for (place, poor), (other, rich) in permutations(enumerate(demands), 2):
        if poor.limit == rich.limit and got[poor.run, "here"] < poor.ready and got[rich.run, "here"]:
            without = level[rich.run] - 1
            assert without <= level[poor.run]
            assert without < level[poor.run] or other < place
