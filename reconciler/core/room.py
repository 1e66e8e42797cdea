"""Fair shares: how many more jobs each run may have on each backend now.

Called by controller.py before it plans. Fairness is max-min over *live* jobs: a slot goes to the run that has the fewest, so a run
of 10,000 tasks cannot starve one of 10, and nothing is left idle while somebody could use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What one run would like on one backend. `ready` and `live` count tasks.

    `limit` names what caps it beyond the backend; "": nothing does.
    """

    run: str
    backend: str
    ready: int
    live: int
    limit: str = ""


def share(demands: Sequence[Demand], free: Mapping[str, int], limits: Mapping[str, int]) -> dict[tuple[str, str], int]:
    """How many more jobs each (run, backend) may have. Demands listed first win ties, so give them in order of age.

    `free` is what each backend still takes, `limits` what each named limit (a workflow's `max_concurrent`) still allows; a
    demand whose limit is not listed there is capped only by its backend.
    """
    granted = {(demand.run, demand.backend): 0 for demand in demands}
    left = dict(limits)
    for backend in {demand.backend: None for demand in demands}:
        here = [demand for demand in demands if demand.backend == backend]
        for demand, more in zip(here, _pour(here, left, max(0, free.get(backend, 0))), strict=True):
            granted[demand.run, backend] = more
            if demand.limit in left:
                left[demand.limit] -= more
    return granted


def free(most: Mapping[str, int], live: Iterable[Mapping[str, int]], said: Mapping[str, int | None]) -> dict[str, int]:
    """How many more jobs each backend takes. `most` is its `max_concurrent`, `live` the jobs of each run by backend, `said` how many
    more it says itself that it would take (None: no opinion). A backend that takes nothing now is not in `most`."""
    taken: dict[str, int] = {}
    for run in live:
        for backend, count in run.items():
            taken[backend] = taken.get(backend, 0) + count
    left = {}
    for backend, limit in most.items():
        more, own = limit - taken.get(backend, 0), said.get(backend)
        left[backend] = max(0, more if own is None else min(more, own))
    return left


def left_of(limits: Mapping[str, int | None], live: Iterable[tuple[str, int]]) -> dict[str, int]:
    """How many more jobs each workflow's own `max_concurrent` allows (None: it has none). `live`: (workflow, jobs) of each run."""
    left = {name: limit for name, limit in limits.items() if limit is not None}
    for name, count in live:
        if name in left:
            left[name] -= count
    return left


def _pour(demands: Sequence[Demand], left: Mapping[str, int], spare: int) -> list[int]:
    """Pour `spare` slots over all of `demands`, of which those of one limit get no more than it allows, shared among them likewise."""
    groups: dict[str, list[int]] = {}
    for index, demand in enumerate(demands):
        groups.setdefault(demand.limit if demand.limit in left else "", []).append(index)
    caps = {limit: max(0, left.get(limit, spare)) for limit in groups}

    def poured(level: int) -> list[int]:
        given = [_at(level, demand.live, demand.ready) for demand in demands]
        for limit, members in groups.items():
            if sum(given[index] for index in members) > caps[limit]:
                part = _fill([demands[index].live for index in members], [demands[index].ready for index in members], caps[limit])
                for index, more in zip(members, part, strict=True):
                    given[index] = more
        return given

    low, high = 0, max((demand.live + demand.ready for demand in demands), default=0)
    while low < high:  # the highest level that still fits
        level = (low + high + 1) // 2
        if sum(poured(level)) <= spare:
            low = level
        else:
            high = level - 1
    given = poured(low)
    used = {limit: sum(given[index] for index in members) for limit, members in groups.items()}
    rest = spare - sum(given)
    for index, demand in enumerate(demands):
        limit = demand.limit if demand.limit in left else ""
        if rest > 0 and given[index] < demand.ready and demand.live + given[index] <= low and used[limit] < caps[limit]:
            given[index] += 1
            used[limit] += 1
            rest -= 1
    return given


def _fill(lives: Sequence[int], wants: Sequence[int], spare: int) -> list[int]:
    """Pour `spare` slots so that the lowest levels rise first: level L gives each min(want, L - live). At least one is given."""
    low, high = 0, max(live + want for live, want in zip(lives, wants, strict=True))
    while low < high:  # the highest level that still fits
        level = (low + high + 1) // 2
        if sum(_at(level, live, want) for live, want in zip(lives, wants, strict=True)) <= spare:
            low = level
        else:
            high = level - 1
    given = [_at(low, live, want) for live, want in zip(lives, wants, strict=True)]
    rest = spare - sum(given)
    for index, (live, want) in enumerate(zip(lives, wants, strict=True)):
        if rest > 0 and given[index] < want and live + given[index] <= low:
            given[index] += 1
            rest -= 1
    return given


def _at(level: int, live: int, want: int) -> int:
    return max(0, min(want, level - live))
