"""`logs`: what a task printed, from the backend that it ran on. Follows it with -f, also into the next attempt."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from reconciler.cli.folder import Trusted, folder_option, json_option, quiet_logs
from reconciler.cli.lookup import find_stored, find_task
from reconciler.cli.output import print_json
from reconciler.clock import monotonic
from reconciler.core.names import job_name
from reconciler.core.record import FINAL, TaskRecord, TaskState
from reconciler.errors import ReconcilerError, Unreachable
from reconciler.printable import escape

if TYPE_CHECKING:
    from reconciler.backends.base import FileRange, FileRequest
    from reconciler.core.desired import Task
    from reconciler.ledger.read import LedgerReader

#: How often it is asked for more, and which share of the time the asking may take: over ssh it takes a while.
_POLL_S, _POLL_SHARE = 0.2, 0.2
#: While a backend does not answer, it is asked so often.
_AGAIN_S = 5.0
_CHUNK_BYTES = 1_000_000
_EVENTS_AT_ONCE = 1000
#: Colours and bold (SGR) are what programs print on purpose and cannot steer a terminal; everything else is escaped.
_COLOUR = re.compile(r"(\x1b\[[0-9;:]*m)")

Read = Callable[["FileRequest"], Awaitable["FileRange"]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which file of which task: `path` is `out`, `err`, or the task's own file."""

    run: str
    task: Task
    path: str


@click.command()
@click.argument("run")
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--err", is_flag=True, help="Standard error instead of standard output.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Of the task's Nth attempt. Left out: the newest.")
@json_option
@folder_option
def logs(
    run: str, task: str, follow: bool, err: bool, tail: int | None, attempt: int | None, as_json: bool, trusted: Trusted
) -> int:
    """Print what TASK of RUN (an id, the start of one, or a workflow's name: its newest run) has printed.

    In a terminal, what could steer it is escaped, except colours; elsewhere bytes come as they are. Exit codes: 0, 1 no such run or
    task, or it has printed nothing because it never started.
    """
    if follow and as_json:
        raise click.UsageError("--follow prints as it comes; leave --json out")
    from reconciler.consult import stations

    quiet_logs()

    with trusted.reader() as reader:
        stored = find_stored(reader, run)
        task_id = find_task(stored, task)
        one = next(each for each in stored.run.tasks if each.id == task_id)
        wanted = _Wanted(stored.run.id, one, (one.error_file or "err") if err else (one.output_file or "out"))
        number = attempt or stored.records[task_id].attempt

        async def show() -> int:
            backend = stored.run.backend_of(one)
            async with stations(trusted.settings, backend) as found:  # one connection for everything that is read
                read = found[backend].works.read
                if follow:
                    return await _follow(reader, read, wanted, number, tail)
                return await _once(read, wanted, number, tail, as_json)

        return asyncio.run(show())


async def _once(read: Read, wanted: _Wanted, attempt: int, tail: int | None, as_json: bool) -> int:
    first = await _read(read, wanted, attempt, 0, 1)
    if first.data is None:
        raise ReconcilerError(_nothing(wanted, attempt, first))
    begin = await _tail_begin(read, wanted, attempt, first.size, tail)
    parts = []
    while begin < first.size:
        part = (await _read(read, wanted, attempt, begin, min(_CHUNK_BYTES, first.size - begin))).data
        if not part:
            break
        begin += len(part)
        if as_json:
            parts.append(part)
        else:
            _print(part)
    if as_json:
        text = b"".join(parts).decode("utf-8", "replace")
        print_json({"run": wanted.run, "task": wanted.task.id, "attempt": attempt, "file": wanted.path, "size": first.size, "text": text})
    return 0


async def _follow(reader: LedgerReader, read: Read, wanted: _Wanted, attempt: int, tail: int | None) -> int:
    """Print what comes until the task is final. A new attempt is a new file: it is told on standard error."""
    offset, seen, record = -1, 0, TaskRecord()
    silent: str | None = None  # None: never asked; "": it answers; else why it does not
    while True:
        news = reader.events(run=wanted.run, after=seen, limit=_EVENTS_AT_ONCE)
        if not seen or any(stored.event.task == wanted.task.id for stored in news):  # a large run's tasks are read only when one moved
            record = next(record for task, record in reader.tasks(wanted.run) if task.id == wanted.task.id)
        seen = news[-1].seq if news else seen
        began = monotonic()
        try:
            got = await _read(read, wanted, attempt, max(offset, 0), _CHUNK_BYTES)
        except Unreachable as error:
            if silent is None or record.state in FINAL:
                raise
            if not silent:
                click.echo(escape(f"-- {error}; tried again --"), err=True)
            silent = str(error)
            await asyncio.sleep(_AGAIN_S)
            continue
        pause_s, silent = max(_POLL_S, (monotonic() - began) / _POLL_SHARE), ""
        if got.data is not None and offset < 0:
            offset = await _tail_begin(read, wanted, attempt, got.size, tail)
            continue
        if got.data:
            _print(got.data)
            offset += len(got.data)
            continue  # there may be more
        # the record is older than what was read, so nothing of an attempt that it calls over is left
        if record.attempt > attempt and record.state is not TaskState.WAITING:
            attempt, offset, tail = record.attempt, 0, None
            click.echo(f"-- attempt {attempt} --", err=True)
            continue
        if record.state in FINAL:
            return 0
        await asyncio.sleep(pause_s)


async def _tail_begin(read: Read, wanted: _Wanted, attempt: int, size: int, lines: int | None) -> int:
    """Where the last `lines` lines begin, in bytes; 0 for None. Looks at the end of the file first."""
    if lines is None:
        return 0
    begin, text = size, b""
    while begin > 0 and text.rstrip(b"\n").count(b"\n") < lines:
        step = min(_CHUNK_BYTES, begin)
        part = (await _read(read, wanted, attempt, begin - step, step)).data
        if not part:
            break
        begin, text = begin - step, part + text
    kept = text.splitlines(keepends=True)[-lines:] if lines else []
    return size - sum(len(line) for line in kept)


async def _read(read: Read, wanted: _Wanted, attempt: int, offset: int, size: int) -> FileRange:
    from reconciler.backends.base import FileRequest

    job = job_name(wanted.run, wanted.task.id, attempt)
    return await read(FileRequest(job, wanted.path, wanted.task.working_dir, offset, size))


def _nothing(wanted: _Wanted, attempt: int, got: FileRange) -> str:
    problem = f": {got.problem}" if got.problem else "; it has not started (`reconciler why` tells), or its files are no longer kept"
    return f"attempt {attempt} of task {wanted.task.id} of run {wanted.run} has no {wanted.path}{problem}"


def _print(data: bytes) -> None:
    if sys.stdout.isatty():
        data = harmless(data.decode("utf-8", "replace")).encode()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def harmless(text: str) -> str:
    """`text` for a terminal: lines, tabs, returns and colours as they are, everything else that could steer it escaped."""
    return "".join(part if index % 2 else escape(part, keep="\n\t\r") for index, part in enumerate(_COLOUR.split(text)))
