"""`init` and `demo`: a folder to begin with, and the main job in one command."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from reconciler.cli.folder import Trusted
from reconciler.cli.output import say
from reconciler.cli.starter import DEMO, STARTER, write_files


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
def init(directory: Path) -> int:
    """Write a starter folder: settings.yaml, sources.yaml, workflows/hello.yaml and a .gitignore.

    Overwrites nothing. Exit codes: 0 written, 1 one of the files is there already (nothing was written).
    """
    write_files(directory, STARTER)
    for name in STARTER:
        say(f"wrote {directory / name}")
    option = "" if str(directory) == "." else f" --dir {directory}"
    say(f"\nNext: reconciler{option} validate; reconciler{option} plan; reconciler{option} run")
    return 0


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def demo(directory: Path | None) -> int:
    """Make a folder with a small workflow, run it to its end, and print its status file.

    DIR must not hold a demo already; left out, a new temporary folder is made and named. Exit codes: 0 the run succeeded, 1 it did
    not, or the folder cannot be used.
    """
    folder = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="reconciler-demo-"))
    write_files(folder, DEMO)
    say(f"A trusted folder with Settings and one Workflow (a diamond of four tasks): {folder}\n")
    code = _run_and_watch(folder)
    _show_status(folder)
    say(_next_steps(folder))
    return code


def _run_and_watch(folder: Path) -> int:
    """Run the daemon until nothing is left to do, as its own process, and show the progress of the one workflow here."""
    from reconciler.cli.watch import follow

    command = [sys.executable, "-m", "reconciler", "run", "--once", str(folder)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            follow(Trusted(folder), "diamond", until=lambda: daemon.poll() is not None)
            code = daemon.wait()
        except BaseException:  # interrupted: the daemon goes with us, its jobs stay
            daemon.terminate()
            daemon.wait()
            raise
        if code != 0:
            said.seek(0)
            say(f"The daemon left with exit code {code}. It said:\n{said.read()}")
    return 1 if code else 0


def _show_status(folder: Path) -> None:
    """Print the status file of the newest run."""
    with Trusted(folder).reader() as reader:
        row = reader.newest_run("diamond")
    path = folder / "status" / "run" / f"{row.id if row else 'none'}.yaml"
    say(f"\n{path} says:\n")
    say(path.read_text(encoding="utf-8") if path.exists() else "(it was not written)")


def _next_steps(folder: Path) -> str:
    verb = f"{_command()} --dir {shlex.quote(str(folder))}"
    return f"""\
Look around; no daemon need run:
  {verb} get
  {verb} logs diamond merge
  {verb} events
Ask again; nothing runs:
  {verb} run --once
Change a command in {folder / "diamond.yaml"}; see what would run, and why:
  {verb} plan"""


def _command() -> str:
    """This command as it was called, when it is not on the PATH."""
    called = sys.argv[0]
    return called if os.sep in called and called.endswith("reconciler") and not shutil.which("reconciler") else "reconciler"
