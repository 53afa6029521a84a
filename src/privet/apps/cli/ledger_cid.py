"""``privet ledger cid``: the content address of a file."""

from __future__ import annotations

from pathlib import Path

import click

from privet.apps.cli.output import json_option, print_json


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--profile",
    type=click.Choice(("unixfs-v0-2015", "unixfs-v1-2025")),
    default="unixfs-v0-2015",
    show_default=True,
    help="Chunks of 256 KiB and 174 links a node, or of 1 MiB and 1,024 links.",
)
@json_option
def cid(file: Path, profile: str, as_json: bool) -> None:
    """Print the content address of FILE: the CIDv1 that IPFS gives it, with raw leaves."""
    from privet.ledger.content import cid_of_file

    found = cid_of_file(file, profile)
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, "profile": profile, "cid": found})
    else:
        click.echo(found)
