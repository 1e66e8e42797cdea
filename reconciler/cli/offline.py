"""`validate` and `schema`: what needs only the files."""

from __future__ import annotations

import click

from reconciler.cli.output import no_such, print_json


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
