"""`run` and `plan`: what needs the daemon's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reconciler.cli.folder import Trusted, folder_argument, json_option, quiet_logs
from reconciler.cli.output import complain, print_json, say
from reconciler.errors import ReconcilerError

if TYPE_CHECKING:
    from reconciler.consult import Preview
    from reconciler.core.trigger import Decisions, Owed


@click.command()
@click.option("--once", is_flag=True, help="Go on only until nothing can move without a person, a later time or an unreachable system.")
@folder_argument
def run(once: bool, trusted: Trusted) -> int:
    """The daemon: keep what the manifests in DIR ask for true.

    SIGTERM stops it in under 5 s and leaves jobs running; SIGHUP looks at everything at once. Exit codes: 0 stopped, or with --once all
    ended well; 1 with --once a run failed or an object is stalled (each named on standard error with file:line), or another daemon holds
    the state folder; 2 the Settings are unusable.
    """
    from reconciler.daemon import serve

    return serve(trusted.path, once=once)


@click.command()
@json_option
@folder_argument
def plan(as_json: bool, trusted: Trusted) -> int:
    """What a daemon on DIR would create, cancel and hold back now, and why. Asks every source; changes nothing.

    Exit codes: 0 nothing would happen, 1 something would, 2 error (a manifest is not valid, a source could not be read, or the Settings are
    unusable).
    """
    from reconciler.consult import preview

    quiet_logs()

    try:
        found = preview(trusted.settings)
    except ReconcilerError as error:
        complain(str(error))
        return 2
    if as_json:
        print_json(_json(found))
    else:
        _print(found)
    decisions = found.decisions
    if _errors(found):
        return 2
    return 1 if decisions.create or decisions.drop or decisions.cancel or decisions.held else 0


def _why(owed: Owed) -> str:
    if owed.request:
        return f"asked for by Run {owed.request}"
    if owed.occasion:
        return f"for {owed.occasion}"
    token = f" (rerun: {owed.revision.rerun})" if owed.revision.rerun else ""
    return f"no run of {owed.revision.digest[:19]}{token} exists"


def _errors(found: Preview) -> list[str]:
    unread = [f"source {name} could not be read, so nothing is said of it: {words}" for name, words in sorted(found.unread.items())]
    return [str(problem) for problem in found.desired.problems] + unread


def _print(found: Preview) -> None:
    for line in _errors(found):
        complain(line)
    decisions = found.decisions
    for owed in decisions.create:
        count = len(owed.revision.tasks)
        tasks = f"{count} task{'s' * (count != 1)} on {owed.backend or owed.revision.backend}"
        say(f"+ run {owed.run_id} of {owed.revision.name}: {_why(owed)}; {tasks}; {owed.revision.place}")
    for sign, pairs in (("-", decisions.cancel), ("-", decisions.drop)):
        for run_id, reason in pairs:
            say(f"{sign} run {run_id}: {reason}")
    for held in decisions.held:
        say(f"? {held.workflow}: {held.message}; to let it start: `{held.cure}`")
    for waiting in decisions.waiting:
        say(f". {waiting.workflow}: {waiting.message}")
    if not _anything(decisions) and not _errors(found):
        say(f"nothing to do: {len(found.desired.workflows)} workflows are as they should be")


def _anything(decisions: Decisions) -> bool:
    return bool(decisions.create or decisions.cancel or decisions.drop or decisions.held or decisions.waiting)


def _json(found: Preview) -> dict[str, object]:
    decisions = found.decisions
    return {
        "create": [
            {
                "run": owed.run_id,
                "workflow": owed.revision.name,
                "digest": owed.revision.digest,
                "occasion": owed.occasion,
                "backend": owed.backend or owed.revision.backend,
                "tasks": len(owed.revision.tasks),
                "place": str(owed.revision.place),
                "why": _why(owed),
            }
            for owed in decisions.create
        ],
        "cancel": [{"run": run_id, "why": reason} for run_id, reason in decisions.cancel],
        "drop": [{"run": run_id, "why": reason} for run_id, reason in decisions.drop],
        "held": [held._asdict() for held in decisions.held],
        "waiting": [waiting._asdict() for waiting in decisions.waiting],
        "problems": _errors(found),
    }
