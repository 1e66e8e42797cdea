"""`get`, `why`, `events`: what is, what blocks it, and what happened. From the ledger, with no daemon running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from reconciler.cli.folder import Trusted, folder_option, json_option
from reconciler.cli.output import age, moment, no_such, print_json, print_table, say
from reconciler.clock import utc_now

if TYPE_CHECKING:
    from reconciler.core.desired import Task
    from reconciler.core.observed import Usage
    from reconciler.core.record import TaskRecord
    from reconciler.ledger.read import LedgerReader
    from reconciler.ledger.rows import ObjectRow, RunRow, StoredEvent

#: `get` without a name shows so many runs; `--limit` another number.
_RUNS_SHOWN = 20


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("--limit", default=_RUNS_SHOWN, show_default=True, type=click.IntRange(1), help="How many runs, the newest first.")
@json_option
@folder_option
def get(kind: str | None, name: str | None, limit: int, as_json: bool, trusted: Trusted) -> int:
    """Show objects and runs: all, those of a KIND (workflows, sources, backends, runs, …), or one by NAME.

    `get run RUN` shows a run with its tasks; RUN is an id, the start of one, or a workflow's name. `get NAME` finds it in any kind.
    Exit codes: 0, 1 no such object.
    """
    from reconciler.cli.lookup import kind_of

    wanted = kind_of(kind) if kind else None
    if kind and not wanted and name:
        from reconciler.cli.lookup import KINDS

        no_such("kind", kind, (f"{each.lower()}s" for each in KINDS))
    with trusted.reader() as reader:
        if kind and not wanted:
            return _get_one(reader, kind, as_json)
        if wanted and name:
            return _get_one(reader, f"{wanted}/{name}", as_json)
        return _get_all(reader, wanted or "", limit, as_json)


def _get_all(reader: LedgerReader, kind: str, limit: int, as_json: bool) -> int:
    objects = [] if kind == "Run" else reader.objects(kind)
    runs = reader.runs(limit) if kind in ("", "Run") else []
    if as_json:
        print_json({"objects": [object_json(row) for row in objects], "runs": [run_json(row) for row in runs]})
        return 0
    if objects:
        print_table(["kind", "name", "ready", "reason", "message"], (_object_row(row) for row in objects))
    if runs:
        if objects:
            say()
        print_table(["run", "workflow", "phase", "tasks", "age"], (_run_row(row, utc_now()) for row in runs))
    if not objects and not runs:
        say("nothing is there yet; `reconciler run` starts the daemon, `reconciler validate` reads the manifests")
    return 0


def _get_one(reader: LedgerReader, word: str, as_json: bool) -> int:
    from reconciler.cli.lookup import find_objects, split, try_run

    kind, name = split(word)
    objects = find_objects(reader, word)
    run = try_run(reader, word) if kind in ("", "Run") else None
    if run is not None and (kind == "Run" or not objects):
        return _get_run(reader, run, as_json)
    if not objects:
        names = [row.name for row in reader.objects(kind)] + ([row.id for row in reader.runs(500)] if kind in ("", "Run") else [])
        no_such(kind.lower() or "object", name, names)
    if as_json:
        print_json([object_json(row) for row in objects] if len(objects) > 1 else object_json(objects[0]))
        return 0
    for row in objects:
        _print_object(row)
        history = reader.runs(5, workflow=row.name) if row.kind == "Workflow" else []
        if history:
            say()
            print_table(["run", "workflow", "phase", "tasks", "age"], (_run_row(each, utc_now()) for each in history))
    return 0


def _get_run(reader: LedgerReader, run: RunRow, as_json: bool) -> int:
    tasks, usage = list(reader.tasks(run.id)), reader.usage(run.id)
    if as_json:
        print_json({**run_json(run), "tasks": [task_json(task, record, usage.get(task.id)) for task, record in tasks]})
        return 0
    say(f"run {run.id} of {run.workflow or '(unknown)'}: {run.phase}, {_counts(run.tasks)}")
    for words in filter(None, (run.cancelled and f"cancelled: {run.cancelled}", run.dropped, run.stalled and f"stalled: {run.stalled}")):
        say(words)
    if run.pruned:
        say("its tasks are no longer kept (the Settings' retention)")
    elif tasks:
        say()
        used = ["cpu", "memory"] if usage else []
        headers = ["task", "state", "attempt", "exit", "time", *used, "job", "reason"]
        print_table(headers, (_task_row(task, record, used and _used(usage.get(task.id))) for task, record in tasks))
    return 0


def conditions(row: ObjectRow) -> list[Mapping[str, object]]:
    """The conditions that the daemon last said of an object; empty when it said nothing yet."""
    status = row.status
    found = status.get("conditions") if isinstance(status, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def about(row: ObjectRow) -> Mapping[str, object]:
    """What else a person should know of an object: of a backend, what its system says of itself."""
    told = row.status.get("about") if isinstance(row.status, dict) else None
    return told if isinstance(told, dict) else {}


def condition(row: ObjectRow, kind: str) -> Mapping[str, object]:
    """One condition by its type; {} when there is none."""
    return next((each for each in conditions(row) if each.get("type") == kind), {})


def object_json(row: ObjectRow) -> dict[str, object]:
    """An object as `--json` shows it."""
    place = {"source": row.source, "file": row.file, "line": row.line, "commit": row.commit, "revision": row.revision}
    status = row.status if isinstance(row.status, dict) else {}
    return {"kind": row.kind, "name": row.name, **place, "digest": row.digest, "status": status}


def run_json(row: RunRow) -> dict[str, object]:
    """A run as `--json` shows it. `counts`: tasks by state."""
    return {
        "kind": "Run",
        "id": row.id,
        "workflow": row.workflow,
        "source": row.source,
        "digest": row.digest,
        "occasion": row.occasion,
        "phase": str(row.phase),
        "created_at": moment(row.created_at),
        "ended_at": moment(row.ended_at),
        "cancelled": row.cancelled,
        "dropped": row.dropped,
        "stalled": row.stalled,
        "core_hours": round(row.core_hours, 6),
        "counts": dict(row.tasks),
    }


def task_json(task: Task, record: TaskRecord, usage: Usage | None = None) -> dict[str, object]:
    """A task as `--json` shows it. Times are null until they have come; what it used is there when it is known."""
    from reconciler.core.summary import usage_row

    return {
        "id": task.id,
        "state": str(record.state),
        "attempt": record.attempt,
        "job_id": record.job_id,
        "exit_code": record.exit_code,
        "cause": str(record.cause) if record.cause else None,
        "reason": record.reason,
        "started_at": moment(record.started_at),
        "ended_at": moment(record.ended_at),
        "needs": list(task.needs),
        **usage_row(usage),
    }


def event_json(stored: StoredEvent) -> dict[str, object]:
    """An event as `--json` shows it."""
    event = stored.event
    where = {"run": event.run, "task": event.task, "object": event.object}
    return {"seq": stored.seq, "at": moment(event.at), "name": event.name, **where, "message": event.message}


def _object_row(row: ObjectRow) -> list[str]:
    ready = condition(row, "Ready")
    return [row.kind, row.name, *(str(ready.get(key, "-")) for key in ("status", "reason", "message"))]


def _run_row(row: RunRow, now: float) -> list[str]:
    return [row.id, row.workflow or "(unknown)", str(row.phase), _counts(row.tasks), age(row.created_at, now)]


def _task_row(task: Task, record: TaskRecord, used: list[str]) -> list[str]:
    spent = age(record.started_at, record.ended_at or utc_now()) if record.started_at else "-"
    code = "-" if record.exit_code is None else str(record.exit_code)
    return [task.id, str(record.state), str(record.attempt), code, spent, *used, record.job_id or "-", record.reason]


def _used(usage: Usage | None) -> list[str]:
    """Processor time and the most memory of a task; `-` for what is not known. The time that passed is in the table anyhow."""
    cpu_s, memory_mb = (usage.cpu_s, usage.memory_max_mb) if usage else (None, None)
    memory = "-" if memory_mb is None else f"{memory_mb / 1024:.1f}G" if memory_mb >= 1024 else f"{memory_mb:.0f}M"
    return ["-" if cpu_s is None else age(1.0, 1.0 + cpu_s), memory]


def _counts(counts: Mapping[str, int]) -> str:
    """`3 succeeded, 1 running`, in the order of the states."""
    from reconciler.core.record import TaskState

    return ", ".join(f"{counts[state]} {state}" for state in reversed(TaskState) if counts.get(state)) or "no tasks"


def _print_object(row: ObjectRow) -> None:
    place = f" ({row.source + ':' if row.source else ''}{row.file}:{row.line})" if row.file else ""
    say(f"{row.kind}/{row.name}{place}")
    for key, value in (("revision", row.revision), ("digest", row.digest if row.kind == "Workflow" else "")):
        if value:
            say(f"  {key}: {value}")
    for key, fact in about(row).items():
        say(f"  {key}: {fact}")
    for each in conditions(row):
        say(f"  {each.get('type')}={each.get('status')} {each.get('reason')}: {each.get('message')}")


@click.command()
@click.argument("run", required=False)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="How many, the newest ones.")
@json_option
@folder_option
def events(run: str | None, limit: int, as_json: bool, trusted: Trusted) -> int:
    """Show what happened, oldest first: to everything, to one RUN, or to one object as Kind/name.

    Exit codes: 0, 1 no such run or object.
    """
    from reconciler.cli.lookup import find_objects, find_run, split

    with trusted.reader() as reader:
        kind, name = split(run) if run is not None else ("", "")
        if kind and kind != "Run":
            if not find_objects(reader, f"{kind}/{name}"):
                no_such(kind.lower(), name, (row.name for row in reader.objects(kind)))
            found = reader.events(subject=f"{kind}/{name}", limit=limit)
        else:
            found = reader.events(run=find_run(reader, run).id if run is not None else "", limit=limit)
    if as_json:
        print_json([event_json(each) for each in found])
    else:
        print_table(["time", "event", "about", "message"], (_event_row(each) for each in found))
    return 0


def _event_row(stored: StoredEvent) -> list[str]:
    event = stored.event
    about = event.object or "/".join(filter(None, (event.run, event.task)))
    return [moment(event.at) or "-", event.name, about, event.message]


@click.command()
@click.argument("subject", metavar="OBJECT")
@click.argument("task", required=False)
@json_option
@folder_option
def why(subject: str, task: str | None, as_json: bool, trusted: Trusted) -> int:
    """Say what blocks OBJECT, link by link, down to what happens next and when.

    OBJECT is a run (id, start of one, or workflow), or a source, backend, workflow as its name or Kind/name. With TASK, of that task
    of the run. Of a job that is pending the scheduler is asked why, and when it may start. Exit codes: 0, 1 no such object or task.
    """
    from reconciler.cli.reasons import reasons

    def explain(backend: str, job: str, before: str) -> list[str]:
        from reconciler.cli.backends import explained

        return explained(trusted, backend, job, before)

    with trusted.reader() as reader:
        lines = reasons(reader, subject, task, explain)
    if as_json:
        print_json({"object": subject, "task": task, "chain": lines})
    else:
        _print_chain(lines)
    return 0


def _print_chain(lines: Iterable[str]) -> None:
    for depth, line in enumerate(lines):
        say(f"{'  ' * min(depth, 8)}{'└ ' if depth else ''}{line}")
