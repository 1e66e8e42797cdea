"""`recover`: a lost ledger, rebuilt from what jobs and status files left. With no daemon running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reconciler.cli.folder import Trusted, folder_option, json_option, quiet_logs
from reconciler.cli.output import complain, print_json, say
from reconciler.errors import LedgerCorrupt, ReconcilerError

if TYPE_CHECKING:
    from reconciler.ledger.recovery import Report


@click.command()
@click.option("--replace", is_flag=True, help="Also when the ledger can be read: it is an old copy, or the daemon said StateLost.")
@json_option
@folder_option
def recover(replace: bool, as_json: bool, trusted: Trusted) -> int:
    """Rebuild the ledger when it was lost or damaged, from claims, start and exit records of jobs, then status files.

    Says for each run what it will not run again. Nothing starts by itself afterwards: each workflow waits for `approve`. The old file is
    kept under another name. Exit codes: 0 rebuilt, 1 nothing to recover from, the ledger is well, or a daemon runs; 2 unusable Settings.
    """
    from reconciler.consult import rebuild

    quiet_logs()
    _check(trusted, replace)
    report = rebuild(trusted.settings)
    if as_json:
        print_json(_json(report))
    else:
        _print(report)
    return 0


def _check(trusted: Trusted, replace: bool) -> None:
    """Raise when nothing needs it."""
    settings = trusted.settings
    try:
        with trusted.reader() as reader:
            identity = reader.identity()
    except LedgerCorrupt:
        return
    if identity is not None and not identity.fresh and not replace:
        raise ReconcilerError(f"there is a ledger in {settings.state_dir}; if it is an old copy or damaged, write --replace")


def _print(report: Report) -> None:
    for problem in report.problems:
        complain(problem)
    for line in report.lines:
        say(line)
    kept = f"; the old file is {report.kept}" if report.kept else ""
    say(f"\nrebuilt: {report.runs} runs, {report.live} with jobs under way, {report.nameless} without a name{kept}")
    say("nothing starts by itself: start the daemon, see `reconciler get`, and `reconciler approve` what may go on")


def _json(report: Report) -> dict[str, object]:
    counts = {"runs": report.runs, "live": report.live, "nameless": report.nameless}
    return {**counts, "lines": list(report.lines), "problems": list(report.problems), "kept": str(report.kept) if report.kept else None}
