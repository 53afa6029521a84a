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
        "init": ("privet.apps.cli.ledger_network:init", "Found a consortium of miners."),
        "renew": ("privet.apps.cli.ledger_network:renew", "Sign a new certificate for a miner."),
        "status": ("privet.apps.cli.ledger_network:status", "Ask a running miner how it is."),
        "verify": ("privet.apps.cli.ledger:verify", "Replay a chain from its genesis; name the first wrong block."),
        "show": ("privet.apps.cli.ledger:show", "Show the blocks of a chain."),
        "prove": ("privet.apps.cli.ledger_proofs:prove", "Prove to somebody without the chain what stands on it."),
        "check": ("privet.apps.cli.ledger_proofs:check", "Check a proof without the chain."),
        "export": ("privet.apps.cli.ledger_proofs:export", "Write a chain as tables."),
        "anchor": ("privet.apps.cli.ledger_anchor:anchor", "Copy block hashes and rewards to an EVM chain; compare."),
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
        since = {"since": found.since} if found.since else {}
        print_json({"valid": valid, "height": height, "transactions": transactions, "first_wrong": told, **since})
    elif wrong is None:
        click.echo(f"{run} verifies: height {found.height}, {found.transactions} transactions{_since(found.since)}")
    else:
        click.echo(f"{run}: block {wrong.height} is wrong ({wrong.file}): {wrong.reason}")
        click.echo(f"{found.transactions} transactions up to height {found.height} verify")
    return 0 if wrong is None else 2


def _since(height: int) -> str:
    return f"; checked from the snapshot at height {height}, which miners certified" if height else ""


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
