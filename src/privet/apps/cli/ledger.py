"""``privet ledger``: replay a consortium ledger, show its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import json_option, print_json

_RUN = click.Path(path_type=Path)


@click.group(
    cls=LazyGroup,
    members={
        "verify": ("privet.apps.cli.ledger:verify", "Replay a chain from its genesis; name the first wrong block."),
        "show": ("privet.apps.cli.ledger:show", "Show the blocks of a chain."),
        "cid": ("privet.apps.cli.ledger_cid:cid", "Print the content address of a file."),
    },
)
def ledger() -> None:
    """Replay a consortium ledger, show its blocks."""


@click.command()
@click.argument("run", type=_RUN)
@json_option
def verify(run: Path, as_json: bool) -> int:
    """Replay the chain in RUN from its genesis; exit status 2 and the first wrong block when it does not verify."""
    from privet.aggregation.exact import scores_of
    from privet.ledger.verification import verify as replay

    found = replay(run, scores_of)
    wrong = found.first_wrong
    if as_json:
        told: dict[str, Any] | None = None
        if wrong is not None:
            told = {"height": wrong.height, "file": wrong.file, "reason": wrong.reason}
        valid, height, transactions = wrong is None, found.height, found.transactions
        print_json({"valid": valid, "height": height, "transactions": transactions, "first_wrong": told})
    elif wrong is None:
        click.echo(f"{run} verifies: height {found.height}, {found.transactions} transactions")
    else:
        click.echo(f"{run}: block {wrong.height} is wrong ({wrong.file}): {wrong.reason}")
        click.echo(f"{found.transactions} transactions up to height {found.height} verify")
    return 0 if wrong is None else 2


@click.command()
@click.argument("run", type=_RUN)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each block, nothing else.")
def show(run: Path, as_json: bool) -> None:
    """Show the blocks in RUN, oldest first, without checking them."""
    from privet.ledger.show import blocks

    for row in blocks(run):
        if as_json:
            print_json(row)
            continue
        kinds = ", ".join(each["kind"] for each in row["transactions"]) or "empty"
        click.echo(f"{row['height']}  {row['hash'][:16]}  {kinds}")
