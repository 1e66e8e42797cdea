"""`rerun`, `approve`, `cancel`, `suspend`, `resume`: each writes a manifest, and says where. The daemon does the rest when it sees it.

For an object of the trusted folder a verb edits the object's own file; for any other it writes `requests/<name>.yaml` there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import click

from reconciler.cli.edit import Edit, commit, edited, request
from reconciler.cli.folder import Trusted, folder_option
from reconciler.cli.lookup import find_objects, find_run
from reconciler.cli.output import say
from reconciler.cli.read import condition
from reconciler.cli.subject import Elsewhere, Here, find
from reconciler.clock import rfc3339, utc_now
from reconciler.errors import ReconcilerError
from reconciler.ledger.rows import ObjectRow, RunRow

_APPROVE = re.compile(r"\bapprove: ([^\s`]+)")
_Verb = TypeVar("_Verb", bound=Callable[..., Any])


def _commit_option(verb: _Verb) -> _Verb:
    return click.option("--commit", "committed", is_flag=True, help="Commit the file in the git repository that holds it.")(verb)


def _done(edit: Edit, committed: bool) -> int:
    """Say what was written, and commit it when asked."""
    say(edit.message if edit.changed else f"{edit.message}: it says so already")
    if committed and edit.changed:
        commit(edit.path, edit.title)
        say(f"committed: {edit.title}")
    return 0


@click.command()
@click.argument("subject", metavar="OBJECT")
@click.option("--token", help="The new text of `rerun:`. Left out: the time, and four random digits.")
@_commit_option
@folder_option
def rerun(subject: str, token: str | None, committed: bool, trusted: Trusted) -> int:
    """Ask for one more run of OBJECT: a workflow, or a run (then of its workflow, as it is now).

    Sets `rerun: <token>` in the workflow's manifest; for a workflow of a source or a task-list file it writes a Run document in
    requests/. Exit codes: 0 written, 1 no such object.
    """
    mark = token or f"{_compact(utc_now())}-{secrets.token_hex(2)}"
    found = find(trusted, subject, ("Workflow",))
    if isinstance(found, RunRow):
        found = find(trusted, f"Workflow/{found.workflow}", ("Workflow",))
    if isinstance(found, Here):
        return _done(edited(found, ("spec", "rerun"), mark, title=f"rerun {found.name}"), committed)
    assert isinstance(found, Elsewhere)  # a workflow's name is no run
    wanted = {"workflow": found.row.name}
    return _done(request(trusted, f"rerun-{found.row.name}-{mark}", wanted, title=f"rerun {found.row.name}"), committed)


@click.command()
@click.argument("subject", metavar="OBJECT")
@click.argument("what", metavar="[DIGEST|COMMIT]", required=False)
@_commit_option
@folder_option
def approve(subject: str, what: str | None, committed: bool, trusted: Trusted) -> int:
    """Approve what OBJECT waits for: a workflow's digest, or a source's commit.

    Left out, it is what the daemon says it waits for, else what it saw last. For a workflow that comes from a source, its Source is
    approved. Exit codes: 0 written, 1 no such object, or nothing was seen of it yet.
    """
    found = find(trusted, subject, ("Workflow", "Source", "Run"))
    if isinstance(found, RunRow):
        found = find(trusted, f"Workflow/{found.workflow}", ("Workflow",))
    if isinstance(found, Elsewhere):
        if not found.row.source:
            raise ReconcilerError(f"{found.row.file} is a task list, which has no `approve`; raise `limits` in the Settings, or rerun it")
        what = what or asked_for(found.row) or found.row.commit or found.row.revision
        found = find(trusted, f"Source/{found.row.source}", ("Source",))
    if not isinstance(found, Here):
        raise ReconcilerError(f"{subject} is declared nowhere in {trusted.path}")
    mark = what or _seen(trusted, found)
    return _done(edited(found, ("spec", "approve"), mark, title=f"approve {found.name} at {mark}"), committed)


def _seen(trusted: Trusted, found: Here) -> str:
    """What the daemon saw last of an object: the digest of a workflow, the commit (or revision) of a source."""
    with trusted.reader() as reader:
        rows = find_objects(reader, f"{found.kind}/{found.name}")
    row = rows[0] if rows else ObjectRow(found.kind, found.name)
    mark = asked_for(row) or (row.commit or row.revision if found.kind == "Source" else row.digest)
    if not mark:
        raise ReconcilerError(f"{found.kind}/{found.name} was not seen by the daemon yet; name the digest or commit yourself")
    return mark


def asked_for(row: ObjectRow) -> str:
    """What the daemon said that it waits for, as the cure in its own words; "" when it said nothing of the kind."""
    match = _APPROVE.search(str(condition(row, "Ready").get("message", "")))
    return match[1] if match else ""


@click.command()
@click.argument("run")
@_commit_option
@folder_option
def cancel(run: str, committed: bool, trusted: Trusted) -> int:
    """End RUN: what waits is dropped, what runs is ended. It cannot be taken back.

    Writes a Run document in requests/. Exit codes: 0 written, or the run has ended already; 1 no such run.
    """
    with trusted.reader() as reader:
        row = find_run(reader, run)
    if row.ended_at is not None:
        say(f"run {row.id} of {row.workflow} has ended already: {row.phase}")
        return 0
    wanted = {"run": row.id, "state": "cancelled"}
    return _done(request(trusted, f"cancel-{row.id}", wanted, title=f"cancel run {row.id} of {row.workflow}"), committed)


@click.command()
@click.argument("subject", metavar="OBJECT")
@click.option("--reason", default="", help="Why, for whoever asks.")
@click.option("--until", metavar="TIME", help="When it ends by itself, as 2026-12-01T09:00:00Z. Left out: `resume` ends it.")
@click.option("--by", metavar="NAME", help="Who. Left out: the user's name on this machine.")
@_commit_option
@folder_option
def suspend(subject: str, reason: str, until: str | None, by: str | None, committed: bool, trusted: Trusted) -> int:
    """Start nothing new of OBJECT (a workflow, source, backend or run); what runs goes on.

    Sets `suspend:` in its manifest; for a run it writes a Run document in requests/. Exit codes: 0 written, 1 no such object.
    """
    _check_time(until)
    value = {key: text for key, text in (("reason", reason), ("by", by or _me()), ("until", until)) if text}
    found = find(trusted, subject, ("Workflow", "Source", "Backend"))
    if isinstance(found, Here):
        return _done(edited(found, ("spec", "suspend"), value, title=f"suspend {found.name}"), committed)
    if isinstance(found, RunRow):
        wanted = {"run": found.id, "suspend": value}
        return _done(request(trusted, f"suspend-{found.id}", wanted, title=f"suspend run {found.id} of {found.workflow}"), committed)
    raise ReconcilerError(_not_ours(found, "suspend"))


@click.command()
@click.argument("subject", metavar="OBJECT")
@_commit_option
@folder_option
def resume(subject: str, committed: bool, trusted: Trusted) -> int:
    """Take back `suspend` of OBJECT (a workflow, source, backend or run).

    Removes `suspend:` from its manifest, or the request that suspended the run. Exit codes: 0 written, or it was not suspended; 1 no such
    object.
    """
    found = find(trusted, subject, ("Workflow", "Source", "Backend"))
    if isinstance(found, Here):
        return _done(edited(found, ("spec", "suspend"), None, title=f"resume {found.name}"), committed)
    if isinstance(found, RunRow):
        return _done(request(trusted, f"suspend-{found.id}", None, title=f"resume run {found.id} of {found.workflow}"), committed)
    raise ReconcilerError(_not_ours(found, "resume"))


def _check_time(until: str | None) -> None:
    from reconciler.manifest.fields import point_in_time

    if until is not None:
        try:
            point_in_time(until)
        except ValueError as error:
            raise click.BadParameter(f"{until!r}: {error}", param_hint="--until") from error


def _not_ours(found: Elsewhere, verb: str) -> str:
    row = found.row
    if not row.source:
        return f"{row.file} is a task list, which has no `suspend`; {verb} one of its runs, or its backend"
    return f"{row.name} comes from source {row.source}, whose files are not ours to change; {verb} Source/{row.source}, or one of its runs"


def _compact(at: float) -> str:
    return rfc3339(at).replace("-", "").replace(":", "")


def _me() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return ""


