"""``privet parts``: every part that a plan can name."""

from __future__ import annotations

import click

from privet.apps.cli.output import json_option, print_json


@click.command()
@click.argument("family", required=False)
@json_option
def parts(family: str | None, as_json: bool) -> None:
    """List the parts of FAMILY, or of all families, with their one-line meaning.

    The grade says how a part's promise is known: derived (proved), measured (figures in the documentation) or
    experimental.
    """
    from privet.parts import FAMILIES, find, meaning, names

    rows = [
        {"family": each, "name": name, "grade": found.grade, "meaning": meaning(found)}
        for each in ([family] if family else FAMILIES)
        for name in names(each)
        for found in (find(each, name),)
    ]
    if as_json:
        print_json({"parts": rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for each in dict.fromkeys(row["family"] for row in rows):
        click.echo(each)
        for row in rows:
            if row["family"] == each:
                click.echo(f"  {row['name']:<{width}}  {row['grade']:<12}  {row['meaning']}")
    click.echo("next: privet plan explain KEY")
