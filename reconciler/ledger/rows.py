"""What goes into the ledger in one transaction, and what comes out of it. Plain data; made by the controller, read by everybody.

Times are seconds since 1970 UTC. Task records travel as core.record.TaskRecord, everything else as the rows below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.core.codec import Json
from reconciler.core.desired import Run, Task
from reconciler.core.observed import Usage
from reconciler.core.record import Event, Phase, TaskRecord


class NewRun(NamedTuple):
    """A run that the ledger has not seen, with what is remembered of each of its tasks."""

    run: Run
    records: Mapping[str, TaskRecord]


class Appended(NamedTuple):
    """Tasks that the task `generator` of a run added to it; they follow those that it has."""

    run: str
    generator: str
    tasks: tuple[Task, ...]
    records: Mapping[str, TaskRecord]


class TaskChange(NamedTuple):
    """What is now remembered of one task."""

    run: str
    task: str
    record: TaskRecord


class UsageChange(NamedTuple):
    """What one attempt of a task used. Ignored when the task is not kept any more, or has another attempt by now."""

    run: str
    task: str
    attempt: int
    usage: Usage


class RunChange(NamedTuple):
    """Where a run as a whole is now.

    `begun`, `cancelled`, `dropped` and `ended_at` (None: alive) are kept once they were set. A run that ended keeps its phase.
    `core_hours` is what it has used so far.
    """

    run: str
    phase: Phase
    begun: bool
    cancelled: str = ""
    dropped: str = ""
    stalled: str = ""
    ended_at: float | None = None
    core_hours: float = 0.0


class ObjectRow(NamedTuple):
    """One object of the desired state as it was last accepted. `body` is its last good document, `status` what we said of it."""

    kind: str
    name: str  # qualified
    source: str = ""
    file: str = ""
    line: int = 0
    commit: str = ""
    revision: str = ""
    digest: str = ""
    generation: int = 0
    body: Json = None
    status: Json = None
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that one plan changed. Saved whole or not at all, in the order of the fields.

    `gone` names objects (kind, name) that are no longer asked for. `released` names workflows that a person has resumed after a
    recovery; `*` releases all of them.
    """

    new_runs: tuple[NewRun, ...] = ()
    appended: tuple[Appended, ...] = ()
    tasks: tuple[TaskChange, ...] = ()
    runs: tuple[RunChange, ...] = ()
    events: tuple[Event, ...] = ()
    objects: tuple[ObjectRow, ...] = ()
    gone: tuple[tuple[str, str], ...] = ()
    released: tuple[str, ...] = ()
    usage: tuple[UsageChange, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to save."""
        parts = (self.new_runs, self.appended, self.tasks, self.runs, self.events, self.objects, self.gone, self.released, self.usage)
        return any(parts)


class RunRow(NamedTuple):
    """A run without its tasks. `tasks` counts them by state; `ended_at` None: alive. `pruned`: its tasks are no longer kept."""

    id: str
    workflow: str  # "" for a run of which a recovery found only the id
    source: str
    digest: str
    occasion: str
    phase: Phase
    begun: bool
    created_at: float
    ended_at: float | None
    cancelled: str
    dropped: str
    stalled: str
    core_hours: float
    pruned: bool
    tasks: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run with its tasks (generated ones at the end) and what is remembered of each. Pruned runs have neither."""

    run: Run
    records: Mapping[str, TaskRecord]
    phase: Phase
    begun: bool
    cancelled: str = ""
    dropped: str = ""
    stalled: str = ""
    ended_at: float | None = None
    core_hours: float = 0.0
    generators: Mapping[str, str] = field(default_factory=dict)  # generated task -> the task that generated it


class StoredEvent(NamedTuple):
    """An event with its place in the order of all: `seq` rises by one for each, and is never used twice."""

    seq: int
    event: Event


class Identity(NamedTuple):
    """What tells one ledger from another. `epoch` rises by one each time a daemon opens it. `fresh`: no run was ever saved."""

    id: str
    epoch: int
    instance: str
    fresh: bool
