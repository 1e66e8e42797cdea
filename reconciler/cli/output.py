"""How verbs print: tables that line up, JSON for programs, ages for people. Text of others cannot steer the terminal."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import NoReturn

import click

from reconciler.clock import rfc3339
from reconciler.errors import ReconcilerError
from reconciler.printable import escape, redact_text


class NotFound(ReconcilerError):
    """No object of that name: exit code 1."""


def say(text: str = "") -> None:
    """One line (or several) on standard output, made harmless."""
    click.echo(escape(redact_text(text), keep="\n"))


def complain(text: str) -> None:
    """As `say`, on standard error."""
    click.echo(escape(redact_text(text), keep="\n"), err=True)


def print_json(value: object, indent: int | None = 2) -> None:
    """`value` as JSON; `indent` None: on one line. Only ASCII, so control characters stay escaped."""
    click.echo(json.dumps(value, indent=indent))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the last one is not padded. Nothing but the headers when there are no rows."""
    cells = [[header.upper() for header in headers], *([escape(redact_text(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def moment(at: float | None) -> str | None:
    """A time for JSON: RFC 3339 in UTC, or None when it has not come yet."""
    return rfc3339(at) if at else None


def age(since: float | None, now: float) -> str:
    """How long ago, in at most two units: `12s`, `3m12s`, `5h03m`, `2d4h`; `-` when never."""
    if not since:
        return "-"
    seconds = max(0, int(now - since))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


def no_such(what: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise NotFound, with the nearest known names."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise NotFound(f"no {what} {name!r}{hint}")
