"""The command line. Parses, calls, prints; decides nothing. Called as the command `reconciler` and by `python -m reconciler`.

    start.py     init, demo            a folder to begin with
    run.py       run, plan             what needs the daemon's parts
    offline.py   validate, schema      what needs only the files
    read.py      get, watch, logs, why, events: from the ledger, with no daemon running
    backends.py  check, queue: a backend as it is now, asked directly
    write.py     rerun, approve, cancel, suspend, resume: each edits a manifest
    recover.py   recover
    folder.py    the trusted folder, its Settings and its ledger      output.py   tables, JSON, ages, nearest names

Exit codes, of every verb: 0 done, 1 not done or not found, 2 wrong usage or unusable Settings, 130 interrupted. What differs is
in the verb's own help. A verb's module is imported when the verb is used, and what it needs when it needs it: `reconciler get`
starts without pydantic, libgit2 and the daemon.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import cast

import click

from reconciler import __version__
from reconciler.cli.output import complain
from reconciler.errors import ManifestError, ReconcilerError, SettingsError

#: Verb -> the module that has it, in the order of the help.
VERBS = {
    "demo": "start",
    "init": "start",
    "run": "run",
    "validate": "offline",
    "plan": "run",
    "get": "read",
    "watch": "watch",
    "logs": "logs",
    "why": "read",
    "events": "read",
    "check": "backends",
    "queue": "backends",
    "rerun": "write",
    "approve": "write",
    "cancel": "write",
    "suspend": "write",
    "resume": "write",
    "schema": "offline",
    "recover": "recover",
}


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return cast(click.Command, getattr(importlib.import_module(f"reconciler.cli.{VERBS[cmd_name]}"), cmd_name))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reconciler")
@click.option("--dir", "folder", metavar="DIR", help="The trusted folder of manifests. Else RECONCILER_DIR, else the current folder.")
@click.pass_context
def group(ctx: click.Context, folder: str | None) -> None:
    """Runs what is committed, exactly once, and says so.

    Exit codes: 0 done, 1 not done or not found, 2 wrong usage or unusable Settings, 130 interrupted.
    """
    ctx.obj = folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and leave with its exit code. `arguments` None: those of the process."""
    sys.exit(run_verb(list(sys.argv[1:] if arguments is None else arguments)))


def run_verb(arguments: list[str]) -> int:
    """The exit code of one verb. Everything raised on purpose becomes one line on standard error."""
    try:
        code = group.main(arguments, prog_name="reconciler", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ReconcilerError as error:
        complain(str(error) if isinstance(error, ManifestError) else f"reconciler: {error}")
        return 2 if isinstance(error, SettingsError) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains again when it flushes
        return 141
    return code if isinstance(code, int) else 0


