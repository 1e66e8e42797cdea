"""`validate` and `schema`: what needs only the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from reconciler.cli.folder import Trusted, folder_argument, json_option, manifest_files, quiet_logs
from reconciler.cli.output import complain, no_such, print_json, say
from reconciler.errors import SettingsError

if TYPE_CHECKING:
    from reconciler.errors import Problem


@click.command()
@json_option
@folder_argument
def validate(as_json: bool, trusted: Trusted) -> int:
    """Check every manifest in DIR and in its sources with a `path:`, offline: every problem at once, as file:line:column.

    Git sources are not asked; `reconciler plan` does. Exit codes: 0 no problem, 1 some.
    """
    from reconciler.consult import survey

    quiet_logs()
    try:
        seen = survey(trusted.settings)
    except SettingsError as error:
        return _told(_with_others(trusted, error), {}, 0, as_json)
    count = sum(kind != "Settings" for kind, _ in seen.desired.present)
    return _told(seen.desired.problems, seen.unread, count, as_json)


def _with_others(trusted: Trusted, error: SettingsError) -> tuple[Problem, ...]:
    """The problems of the Settings, and what can be said of the other files without them."""
    from reconciler.manifest.load import load_file
    from reconciler.sources.base import Blob

    found = set(error.problems)
    for path, data in manifest_files(trusted.path):
        found |= set(load_file(path.relative_to(trusted.path).as_posix(), Blob(str(path), data), source="").problems)
    return tuple(sorted(found))


def _told(problems: tuple[Problem, ...], unread: Mapping[str, str], count: int, as_json: bool) -> int:
    if as_json:
        fields = ("file", "line", "column", "subject", "message", "cure")
        rows = [{name: getattr(problem, name) for name in fields} for problem in problems]
        print_json({"problems": rows, "unread": dict(unread), "objects": count})
    else:
        for problem in problems:
            complain(str(problem))
        for name, words in sorted(unread.items()):
            complain(f"source {name} was not read: {words}")
        if not problems and not unread:
            say(f"no problem in {count} object{'s' * (count != 1)}")
    return 1 if problems or unread else 0


@click.command()
@click.argument("kind", required=False)
def schema(kind: str | None) -> int:
    """Print the JSON Schema of the manifests, or of one KIND, for editors and other tools. Exit codes: 0, 1 no such kind."""
    from reconciler.cli.lookup import KINDS, kind_of
    from reconciler.manifest.schema import json_schema

    whole = json_schema()
    if kind is None:
        print_json(whole)
        return 0
    wanted = kind_of(kind)
    if wanted is None:
        no_such("kind", kind, KINDS)
    print_json({"$schema": whole["$schema"], "$ref": f"#/$defs/{wanted}", "$defs": whole["$defs"]})
    return 0
