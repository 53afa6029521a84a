"""``privet ledger prove``, ``check`` and ``export``: what a chain says, for those who don't have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from privet.apps.cli.output import json_option, print_json

_PATH = click.Path(path_type=Path)


def _hash(value: str) -> bytes:
    """Returns the 32 bytes that 64 hexadecimal digits are."""
    try:
        found = bytes.fromhex(value)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise click.BadParameter(f"{value[:80]!r} is not 64 hexadecimal digits")
    return found


@click.command()
@click.argument("run", type=_PATH)
@click.argument("transaction", type=_hash, required=False, metavar="[TRANSACTION_ID]")
@click.option("--model", is_flag=True, help="The newest global model.")
@click.option("--customer", type=_hash, metavar="KEY", help="A customer's newest reputation and reward.")
@click.option("--out", type=_PATH, metavar="FILE", help="Where to write the proof.")
@json_option
def prove(
    run: Path, transaction: bytes | None, model: bool, customer: bytes | None, out: Path | None, as_json: bool
) -> None:
    """Prove that something stands on the chain in RUN: a transaction, a model, a customer's reputation.

    The proof is one JSON file that anybody can check without the chain: privet ledger check FILE.
    """
    from privet.ledger import proof
    from privet.ledger.snapshot import write

    if (transaction is not None) + model + (customer is not None) != 1:
        raise click.UsageError(
            "give exactly one of TRANSACTION_ID, --model and --customer", click.get_current_context()
        )
    if out is None and not as_json:
        raise click.UsageError("give --out FILE, or --json", click.get_current_context())
    if transaction is not None:
        made = proof.prove_transaction(run, transaction)
    else:
        made = proof.prove_customer(run, customer) if customer is not None else proof.prove_model(run)
    if out is not None:
        write(out, json.dumps(made).encode() + b"\n")
    if as_json:
        print_json(made)
    else:
        click.echo(f"{out} proves: {_said(proof.check(json.dumps(made).encode()))}")


@click.command()
@click.argument("file", type=_PATH, metavar="PROOF")
@click.option("--genesis", type=_hash, metavar="HASH", help="Hash of the genesis that you trust.")
@json_option
def check(file: Path, genesis: bytes | None, as_json: bool) -> int:
    """Check a PROOF without its chain; exit status 2 when it proves nothing."""
    from privet.errors import InputError
    from privet.ledger import proof
    from privet.ledger.show import transaction

    with file.open("rb") as opened:
        data = opened.read(proof.LARGEST + 1)
    try:
        found = proof.check(data, genesis)
    except InputError as error:
        if as_json:
            print_json({"valid": False, "reason": error.advice()})
        else:
            click.echo(f"{file} proves nothing: {error.advice()}")
        return 2
    if as_json:
        header = found.header
        place = {"genesis": found.genesis.hex(), "height": header.height, "block": header.hash.hex()}
        votes = [voter.hex() for voter in found.votes]
        told = {"index": found.index, "votes": votes, "transaction": transaction(found.transaction)}
        print_json({"valid": True, **place, **told})
    else:
        click.echo(f"{file} proves: {_said(found)}")
        if genesis is None:
            click.echo(f"if {found.genesis.hex()} is the hash of the genesis that you know (--genesis checks it)")
    return 0


@click.command()
@click.argument("run", type=_PATH)
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="A file; for csv a new folder, a file a table.")
@click.option("--format", "form", type=click.Choice(("json", "csv")), default="json", show_default=True)
@json_option
def export(run: Path, out: Path, form: str, as_json: bool) -> None:
    """Check the chain in RUN, then write all of it as tables."""
    from privet.ledger import export as exporting

    exported = exporting.export(run)
    if form == "csv":
        exporting.write_csv(exported, out)
    else:
        exporting.write_json(exported, out)
    counts = {name: len(exported[name]) for name in exporting.COLUMNS}
    if as_json:
        print_json({"file": str(out), "format": exported["format"], "height": exported["height"], "rows": counts})
    else:
        click.echo(f"{out}: {', '.join(f'{count} {name}' for name, count in counts.items())}")


def _said(found: Any) -> str:
    said = found.transaction
    return (
        f"{said.kind} {said.id.hex()[:16]} by {said.sender.hex()[:16]} is transaction {found.index}"
        f" of block {found.header.height}, which {len(found.votes)} miners certified"
    )
