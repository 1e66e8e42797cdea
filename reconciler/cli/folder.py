"""The trusted folder that a verb works on: where it is, its Settings, and its ledger for reading. Used by every verb."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler.regular import read_regular

if TYPE_CHECKING:
    from reconciler.config import Settings
    from reconciler.ledger.read import LedgerReader

_Verb = TypeVar("_Verb", bound=Callable[..., Any])
#: What the Settings' state_dir is when they do not say: relative to the file that they are in.
_STATE_DIR = ".state"
_STATUS = re.compile(rb"^status:", re.MULTILINE)
_META = "reconciler.cli.folder"
_SETTINGS = re.compile(rb"^kind:[ \t]*[\"']?Settings\b", re.MULTILINE)


def quiet_logs() -> None:
    """For verbs that use the daemon's parts: only what went wrong is logged, on standard error."""
    from reconciler.log import configure

    configure("console", "error", sys.stderr)


class Trusted:
    """One trusted folder. Nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def settings(self) -> Settings:
        """Raises SettingsError when they are unusable."""
        from reconciler.config import read_settings

        return read_settings(self.path)

    @cached_property
    def state_dir(self) -> Path:
        """Where the ledger is. Loads the Settings only when they may say something else than the default, because that costs more than
        all the rest of a read verb."""
        return self._default_state_dir() or self.settings.state_dir

    def reader(self) -> LedgerReader:
        """The ledger for reading; one that does not exist yet reads as empty."""
        from reconciler.ledger.read import LedgerReader

        return LedgerReader(self.state_dir)

    def _default_state_dir(self) -> Path | None:
        """The default, when there is exactly one file with Settings and it surely does not name another folder; else None."""
        holding = [(path, text) for path, text in manifest_files(self.path) if _SETTINGS.search(text)]
        if len(holding) != 1:
            return None
        path, text = holding[0]
        return path.parent / _STATE_DIR if b"state_dir" not in text and b"\\" not in text else None


def manifest_files(folder: Path) -> Iterable[tuple[Path, bytes]]:
    """YAML files of a folder and the folders in it, and their bytes, in sorted order.

    Hidden files and folders are left out, as the daemon does; so are status files, wherever the Settings put them.
    """
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for each in sorted(names):
            if each.lower().endswith((".yaml", ".yml")) and not each.startswith("."):
                path = Path(where, each)
                data = read_regular(path)
                if data is not None and not _STATUS.search(data):
                    yield path, data


def folder_option(verb: _Verb) -> _Verb:
    """Gives a verb `--dir DIR`; it arrives as `trusted: Trusted`."""
    option = click.option(
        "--dir",
        "trusted",
        metavar="DIR",
        callback=lambda ctx, _option, value: Trusted(resolved(ctx, value)),
        help="The trusted folder of manifests. Else RECONCILER_DIR, else the current folder.",
    )
    return option(verb)


def folder_argument(verb: _Verb) -> _Verb:
    """As `folder_option`, and the folder may be given as an argument too, which wins."""
    option = click.option(
        "--dir",
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=lambda ctx, _option, value: ctx.meta.update({_META: value}),
        help="The trusted folder of manifests. Else RECONCILER_DIR, else the current folder.",
    )
    argument = click.argument(
        "trusted",
        metavar="[DIR]",
        required=False,
        callback=lambda ctx, _argument, value: Trusted(resolved(ctx, value or ctx.meta[_META])),
    )
    return argument(option(verb))


def json_option(verb: _Verb) -> _Verb:
    """Gives a verb `--json`; it arrives as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(verb)


def resolved(ctx: click.Context, given: str | None) -> Path:
    """The trusted folder: `--dir` of the verb or before it, else RECONCILER_DIR, else the current folder. Absolute. Must exist."""
    path = Path(given or ctx.find_root().obj or os.environ.get("RECONCILER_DIR") or ".").absolute()
    if not path.is_dir():
        raise click.UsageError(f"{path} is not a folder; name the trusted folder with --dir DIR or RECONCILER_DIR")
    return path
