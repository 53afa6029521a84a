"""``privet data``: list, bring and check data sets."""

from __future__ import annotations

from pathlib import Path

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import json_option, print_json

_folder = click.option("--folder", type=click.Path(path_type=Path), help="Where its files lie, or shall lie.")


@click.group(
    cls=LazyGroup,
    members={
        "list": ("privet.apps.cli.data:list_", "List data sets, and which are here."),
        "get": ("privet.apps.cli.data:get", "Bring the files of a data set."),
        "check": ("privet.apps.cli.data:check", "Load a data set and say what is in it."),
    },
)
def data() -> None:
    """List, bring and check data sets."""


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List data sets, whether they are here, and how to bring them."""
    from privet.fleet.catalogue import available

    rows = available()
    if as_json:
        print_json({"datasets": rows})
        return
    for row in rows:
        click.echo(f"{row['name']}: {row['meaning']}\n  {'here' if row['here'] else 'not here'}: {row['place']}")
    click.echo("next: privet data get NAME, or privet data check NAME")


@click.command()
@click.argument("name")
@_folder
@json_option
def get(name: str, folder: Path | None, as_json: bool) -> None:
    """Bring the files of data set NAME from where it is published, and check their sha256."""
    from privet.fleet.catalogue import get as bring

    place = bring(name, folder)
    if as_json:
        print_json({"name": name, "folder": str(place)})
    else:
        click.echo(f"{name} is in {place}\nnext: privet data check {name}")


@click.command()
@click.argument("name")
@_folder
@click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field of the data set, as in a plan's [data]."
)
@json_option
def check(name: str, folder: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Load data set NAME and say what is in it."""
    from privet.fleet.catalogue import check as checked
    from privet.study.settings import apply

    found = checked(name, folder, **apply({}, settings))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key.replace('_', ' ')}: {value}")
    click.echo(f"next: set data.name = {name!r} in a plan")
