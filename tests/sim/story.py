"""What people ask of a simulated world: runs, what their generators write, and who cancels, drops or suspends what, and when.

Used by simulation.py; everything follows from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from reconciler.core.desired import BackendSpec, Cause, Place, Retry, Run, Task, When
from reconciler.core.observed import Generated

PLACE = Place("", "workflow.yaml", 1)
NEVER = float("inf")
RETRIES = (
    Retry(),
    Retry(limit=1),
    Retry(limit=2, backoff_s=5.0),
    Retry(limit=2, on=frozenset({Cause.EXIT}), backoff_s=20.0),
    Retry(limit=1, on=frozenset({Cause.NODE_FAIL, Cause.PREEMPTED, Cause.OOM})),
    Retry(limit=2, on=frozenset({Cause.EXIT, Cause.LOST, Cause.NODE_FAIL, Cause.TIMEOUT}), backoff_s=1.0),
    Retry(limit=3, memory_factor=1.5, time_factor=2.0),
)


@dataclass
class Span:
    """A time in which something holds."""

    start: float = NEVER
    end: float = NEVER

    def holds(self, now: float) -> bool:
        return self.start <= now < self.end


@dataclass
class RunStory:
    """One run as it was asked for, and what happens to it."""

    run: Run
    appears_at: float
    files: dict[str, Generated] = field(default_factory=dict)  # what a generator's file says, by task id
    cancelled: Span = field(default_factory=Span)  # once it was seen it holds, also after the wish was withdrawn
    dropped: Span = field(default_factory=Span)
    suspended: Span = field(default_factory=Span)


@dataclass
class BackendStory:
    """One backend as the operator declared it."""

    spec: BackendSpec
    draining: Span = field(default_factory=Span)


def draw_backends(rng: random.Random, grace: float) -> list[BackendStory]:
    """One or two backends."""
    return [
        BackendStory(
            BackendSpec(f"cluster{number}", "sim", PLACE, max_concurrent=rng.randint(1, 4), absence_grace_s=grace),
            _span(rng, 0.2),
        )
        for number in range(rng.choice((1, 1, 2)))
    ]


def draw_runs(rng: random.Random, backends: list[BackendStory]) -> list[RunStory]:
    """One to three runs."""
    return [_draw_run(rng, number, [each.spec.name for each in backends]) for number in range(rng.choice((1, 1, 2, 3)))]


def _draw_run(rng: random.Random, number: int, backends: list[str]) -> RunStory:
    tasks = _draw_tasks(rng, "t", rng.randint(1, 6), (), backends)
    story = RunStory(
        Run(
            id=f"{number:012x}",
            workflow=f"flow{number}",
            digest=f"sha256:{number}",
            canonical="",
            occasion="",
            backend=rng.choice(backends),
            tasks=tasks,
            place=PLACE,
            created_at=0.0,
            max_concurrent=rng.choice((None, None, 1, 2)),
        ),
        appears_at=rng.choice((0.0, 0.0, rng.uniform(0, 300))),
        cancelled=_wish(rng, 0.3),
        dropped=_wish(rng, 0.15),
        suspended=_span(rng, 0.2),
    )
    for task in tasks:
        if task.generates_source:
            story.files[task.id] = _draw_file(rng, tasks, task, backends)
    return story


def _draw_tasks(rng: random.Random, prefix: str, count: int, known: tuple[str, ...], backends: list[str]) -> tuple[Task, ...]:
    tasks: list[Task] = []
    for place in range(count):
        before = [*known, *(task.id for task in tasks)]
        tasks.append(
            Task(
                id=f"{prefix}{place}",
                command="work",
                needs=tuple(need for need in before if rng.random() < 0.4),
                backend=rng.choice(("", *backends)),
                generates_source="tasks.json" if prefix == "t" and rng.random() < 0.25 else "",
                when=rng.choice((When.SUCCESS, When.SUCCESS, When.SUCCESS, When.ALWAYS, When.FAILURE)),
                allow_failure=rng.random() < 0.15,
                retry=rng.choice(RETRIES),
            )
        )
    return tuple(tasks)


def _draw_file(rng: random.Random, tasks: tuple[Task, ...], generator: Task, backends: list[str]) -> Generated:
    if rng.random() < 0.2:
        return Generated(error="tasks.json:1: no such field")
    known = rng.sample([task.id for task in tasks], rng.randint(0, min(2, len(tasks))))
    return Generated(_draw_tasks(rng, f"{generator.id}.g", rng.randint(0, 3), tuple(known), backends))


def _span(rng: random.Random, share: float) -> Span:
    start = rng.uniform(0, 500)
    return Span(start, start + rng.uniform(20, 300)) if rng.random() < share else Span()


def _wish(rng: random.Random, share: float) -> Span:
    """Most stay; some are withdrawn soon."""
    start = rng.uniform(10, 500)
    return Span(start, start + rng.choice((20.0, NEVER, NEVER))) if rng.random() < share else Span()
