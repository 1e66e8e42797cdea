"""A run's progress in a terminal: a bar, the counts, and the tasks that moved last. For watch.py; the only importer of rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reconciler.cli.output import age
from reconciler.cli.watch import ending
from reconciler.clock import utc_now
from reconciler.core.record import FINAL, Phase, TaskState
from reconciler.printable import escape, redact_text

if TYPE_CHECKING:
    from reconciler.ledger.rows import RunRow, StoredEvent

#: Lines of tasks: what fits in the smallest usual terminal (24 lines) beside the rest.
_TASKS_SHOWN = 15
_COLOURS = {"TaskSucceeded": "green", "TaskFailed": "red", "TaskLost": "red", "TaskCancelled": "yellow", "TaskRunning": "cyan"}


class Live:
    """Draws over itself until closed."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, str, float]] = {}  # task -> event name, message, time; the newest last
        self._console = Console(highlight=False)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, run: RunRow, news: list[StoredEvent]) -> None:
        """Draw the run as it is now."""
        for stored in news:
            event = stored.event
            if event.task:
                self._last.pop(event.task, None)
                self._last[event.task] = (event.name, event.message, event.at)
        self._live.update(self._drawing(run), refresh=True)

    def close(self) -> None:
        """Leave the last drawing on the screen."""
        self._live.stop()

    def _drawing(self, run: RunRow) -> Group:
        total, done = sum(run.tasks.values()), sum(run.tasks.get(state, 0) for state in FINAL)
        counts = ", ".join(f"{run.tasks[state]} {state}" for state in TaskState if run.tasks.get(state))
        now = run.ended_at or utc_now()
        head = Text(f"run {run.id} of {run.workflow}  {run.phase}  {age(run.created_at, now)}  {counts}")
        bad = run.phase in (Phase.FAILED, Phase.CANCELLED)
        bar = ProgressBar(total=max(total, 1), completed=done, width=50, complete_style="red" if bad else "green")
        parts: list[RenderableType] = [head, bar, self._tasks()]
        if run.ended_at is not None:
            parts.append(Text(ending(run)))
        return Group(*parts)

    def _tasks(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for task, (name, message, at) in list(self._last.items())[-_TASKS_SHOWN:]:
            word = Text(name.removeprefix("Task").lower(), style=_COLOURS.get(name, ""))
            table.add_row(Text(task), word, Text(age(at, utc_now())), Text(escape(redact_text(message))))
        return table
