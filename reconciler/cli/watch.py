"""`watch`: a run's progress, live in a terminal, one line for each change when not. Follows the ledger; needs no daemon to look."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import click

from reconciler.cli.folder import Trusted, folder_option, json_option
from reconciler.cli.lookup import find_run, try_run
from reconciler.cli.output import print_json, say
from reconciler.cli.read import event_json, run_json
from reconciler.clock import rfc3339
from reconciler.core.record import Phase
from reconciler.core.summary import span

if TYPE_CHECKING:
    from reconciler.ledger.read import LedgerReader
    from reconciler.ledger.rows import RunRow, StoredEvent

#: How often the ledger is asked. A question costs well under a millisecond.
_POLL_S = 0.2
_EVENTS_AT_ONCE = 1000


class View(Protocol):
    """How progress is shown."""

    def show(self, run: RunRow, news: list[StoredEvent]) -> None:
        """The run as it is now, and what happened since the last time."""
        ...

    def close(self) -> None: ...


@click.command()
@click.argument("run")
@click.option("--exit-status", is_flag=True, help="Leave with 1 when the run did not succeed.")
@json_option
@folder_option
def watch(run: str, exit_status: bool, as_json: bool, trusted: Trusted) -> int:
    """Follow RUN (an id, the start of one, or a workflow's name: its newest run) until it has ended.

    Live in a terminal; otherwise one line for each change, as JSON with --json (one object a line). Exit codes: 0 it ended, 1 no such run;
    with --exit-status also 1 when it did not succeed.
    """
    with trusted.reader() as reader:
        row = find_run(reader, run)
        view = _Json() if as_json else _view()
        if row.ended_at is None and reader.daemon() is None:
            click.echo("no daemon is running on this folder, so nothing moves until one is started", err=True)
        phase = _follow(reader, row, view, until=lambda: False)
    return 1 if exit_status and phase is not Phase.SUCCEEDED else 0


def follow(trusted: Trusted, word: str, until: Callable[[], bool]) -> Phase | None:
    """Wait for the run that `word` means and follow it, until it has ended or `until` says so. None: there was no run."""
    while True:
        over = until()  # asked first: a run that was made just before is still found
        with trusted.reader() as reader:
            row = try_run(reader, word) if reader.exists else None
            if row is not None:
                return _follow(reader, row, _view(), until)
        if over:
            return None
        time.sleep(_POLL_S)


def _follow(reader: LedgerReader, row: RunRow, view: View, until: Callable[[], bool]) -> Phase:
    """Show `row` until it has ended or `until` says so; its last phase."""
    seen = 0
    try:
        while True:
            over = until()
            news = reader.events(run=row.id, after=seen, limit=_EVENTS_AT_ONCE)
            row = reader.run(row.id) or row
            view.show(row, news)
            seen = news[-1].seq if news else seen
            if len(news) == _EVENTS_AT_ONCE:
                continue
            if row.ended_at is not None or over:
                return row.phase
            time.sleep(_POLL_S)
    finally:
        view.close()


def _view() -> View:
    return _live() if sys.stdout.isatty() else _Lines()


def _live() -> View:
    from reconciler.cli.live import Live

    return Live()


class _Lines:
    """One line for each change, and one for the end."""

    def __init__(self) -> None:
        self._begun = False

    def show(self, run: RunRow, news: list[StoredEvent]) -> None:
        if not self._begun:
            say(f"run {run.id} of {run.workflow}")
            self._begun = True
        for stored in news:
            event = stored.event
            about = f" {event.task}" if event.task else ""
            message = f": {event.message}" if event.message else ""
            say(f"{rfc3339(event.at)} {event.name}{about}{message}")
        if run.ended_at is not None:
            say(ending(run))
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing is open."""


class _Json:
    """One JSON object a line: events, then the run."""

    def show(self, run: RunRow, news: list[StoredEvent]) -> None:
        for stored in news:
            print_json(event_json(stored), indent=None)
        if run.ended_at is not None:
            print_json(run_json(run), indent=None)
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing is open."""


def ending(run: RunRow) -> str:
    """The last line about a run."""
    took = span((run.ended_at or run.created_at) - run.created_at)
    return f"run {run.id} of {run.workflow} ended: {run.phase} after {took}"
