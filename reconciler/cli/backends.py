"""`check` and `queue`: a backend as it is now, asked directly. Works without a daemon, and beside one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from reconciler.cli.folder import Trusted, folder_option, json_option, quiet_logs
from reconciler.cli.output import print_json, print_table, say
from reconciler.clock import rfc3339, utc_now
from reconciler.core.summary import span
from reconciler.errors import BackendError, ReconcilerError, Unreachable

if TYPE_CHECKING:
    from reconciler.backends.base import Capacity, Check, Explanation, QueueRow
    from reconciler.config import Settings
    from reconciler.places import Station

#: A scheduler that is busy answers some of its questions after a minute, and `check` asks several.
_CHECK_S, _QUEUE_S = 120.0, 60.0
#: How long `why` waits for a scheduler: without its words there are still ours.
_EXPLAIN_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Checked:
    """What was tried on one backend. `capacity` None: it was not told."""

    station: Station
    checks: Sequence[Check]
    capacity: Capacity | None


@click.command()
@click.argument("backend", required=False)
@json_option
@folder_option
def check(backend: str | None, as_json: bool, trusted: Trusted) -> int:
    """Try what jobs need on BACKEND, or on every backend: is it reached, is its spool writable, what does its scheduler allow.

    Starts no job and changes nothing. Exit codes: 0 all of it works, 1 something does not, or no such backend.
    """
    quiet_logs()
    found = asyncio.run(_checked(trusted.settings, backend or ""))
    if as_json:
        print_json([_check_json(each) for each in found])
    else:
        for index, each in enumerate(found):
            if index:
                say()
            _print_checked(each)
    return 0 if all(tried.ok for each in found for tried in each.checks) else 1


@click.command()
@click.argument("backend")
@click.option("--all", "everybody", is_flag=True, help="Also the jobs of other users.")
@json_option
@folder_option
def queue(backend: str, everybody: bool, as_json: bool, trusted: Trusted) -> int:
    """Show the live jobs on BACKEND: ours, and what else its user has there. `ours` are those of this instance.

    Exit codes: 0, 1 no such backend, or it cannot be asked.
    """
    quiet_logs()
    rows, users = asyncio.run(_queued(trusted.settings, backend))
    shown = [row for row in rows if everybody or row.ours or row.user in users]
    if as_json:
        print_json([asdict(row) for row in shown])
        return 0
    print_table(["job", "name", "user", "state", "ours", "reason"], (_queue_row(row) for row in shown))
    if hidden := len(rows) - len(shown):
        say(f"and {hidden} job{'s' * (hidden != 1)} of other users; --all shows them")
    return 0


def explained(trusted: Trusted, backend: str, job: str, before: str) -> list[str]:
    """Why a job that waits does not run yet, in the words of its scheduler, asked now; `before`: what it said last.

    Never raises: what could not be learned is said.
    """
    quiet_logs()
    try:
        told = asyncio.run(_explained(trusted.settings, backend, job))
    except ReconcilerError as error:
        return [f"{backend} cannot be asked why now: {error}"]
    if told is None:
        return [f"{backend} does not show its job as waiting any more; the next look tells what became of it"]
    start = told.estimated_start
    when = f"it estimates the start at {rfc3339(start)}, in {span(start - utc_now())}" if start else "it does not estimate when it starts"
    said = "still says so" if told.reason == before else f"says: {told.reason or 'nothing about why'}"
    return [f"{backend} {said}; {when}"]


async def _explained(settings: Settings, backend: str, job: str) -> Explanation | None:
    from reconciler.consult import stations

    async with stations(settings, backend) as found:
        return (await _within(_EXPLAIN_S, found[backend].works.explain([job]))).get(job)


async def _within(seconds: float, answer: Awaitable[T]) -> T:
    """An answer, or Unreachable when it takes too long."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise Unreachable(f"no answer within {seconds:.0f} s") from error


async def _checked(settings: Settings, name: str) -> list[_Checked]:
    from reconciler.consult import stations

    async with stations(settings, name) as found:
        return list(await asyncio.gather(*(_tried(each) for each in found.values())))


async def _tried(station: Station) -> _Checked:
    from reconciler.backends.base import Check

    try:
        checks = await _within(_CHECK_S, station.works.check())
        works = all(each.ok for each in checks)
        return _Checked(station, checks, await _within(_CHECK_S, station.works.capacity()) if works else None)
    except BackendError as error:  # the others are told of all the same
        return _Checked(station, [Check("answer", False, str(error))], None)


async def _queued(settings: Settings, name: str) -> tuple[Sequence[QueueRow], set[str]]:
    """The live jobs there, and the names that its user may have: what the document says, else this process's, and whose ours are."""
    from reconciler.consult import stations

    async with stations(settings, name) as found:
        rows = await _within(_QUEUE_S, found[name].works.queue())
        return rows, {found[name].user, *(row.user for row in rows if row.ours)}


def _check_json(each: _Checked) -> dict[str, object]:
    spec = each.station.spec
    capacity = asdict(each.capacity) if each.capacity else None
    return {"name": spec.name, "type": spec.type, "checks": [asdict(tried) for tried in each.checks], "capacity": capacity}


def _print_checked(each: _Checked) -> None:
    say(f"{each.station.spec.name} ({each.station.spec.type})")
    for tried in each.checks:
        say(f"  {'ok  ' if tried.ok else 'FAIL'}  {tried.name}: {tried.message}")
    if each.capacity is None:
        return
    told = {"slots": each.capacity.slots, "free": each.capacity.free}
    lines = [f"{name}: {count}" for name, count in told.items() if count is not None]
    lines += [f"partition: {line}" for line in each.capacity.partitions] + [f"limit: {line}" for line in each.capacity.limits]
    for line in lines:
        say(f"        {line}")


def _queue_row(row: QueueRow) -> list[str]:
    return [row.job_id, row.name, row.user, row.state, "yes" if row.ours else "-", row.reason]
