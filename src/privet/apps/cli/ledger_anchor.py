"""``privet ledger anchor``: block hashes, reputations and rewards on an EVM chain, and whether they fit."""

from __future__ import annotations

from pathlib import Path

import click

from privet.apps.cli.output import json_option, print_json

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_PATH)
@click.option("--rpc", required=True, metavar="URL", help="RPC interface of a node of the EVM chain.")
@click.option(
    "--key-file", type=_PATH, metavar="FILE", help="Secret key of the account that pays: 64 hexadecimal digits."
)
@click.option("--check", is_flag=True, help="Compare with what was anchored; exit status 2 when the chain is another.")
@click.option("--contract", metavar="ADDRESS", help="With --check: the contract, from elsewhere than RUN.")
@click.option("--sender", metavar="ADDRESS", help="With --check: who anchored, from elsewhere than RUN.")
@json_option
def anchor(
    run: Path, rpc: str, key_file: Path | None, check: bool, contract: str | None, sender: str | None, as_json: bool
) -> None:
    """Copy block hashes, reputations and rewards of the chain in RUN to an EVM chain (needs: privet[web3])."""
    from privet.ledger import anchor as anchoring

    if check == (key_file is not None) or (contract is None) != (sender is None) or (contract and not check):
        said = "give --key-file to anchor, or --check; --contract and --sender belong together and to --check"
        raise click.UsageError(said, click.get_current_context())
    web3 = anchoring.connect(rpc)
    if key_file is not None:
        place, made = anchoring.anchor(web3, anchoring.account_of(key_file), run)
    else:
        known = anchoring.Place(web3.eth.chain_id, contract, sender) if contract and sender else None
        made = anchoring.check(web3, run, known)
        place = known or anchoring.where(run) or anchoring.Place(0, "", "")
    heights = [each.height for each in made]
    if as_json:
        anchors = [
            {"height": each.height, "block": each.block.hex(), "transaction": each.transaction.hex()} for each in made
        ]
        print_json({**vars(place), "checked": check, "anchors": anchors})
    elif check:
        click.echo(f"the chain is what {place.sender} anchored: {len(made)} anchors, the last of height {max(heights)}")
    else:
        told = f"anchored heights {', '.join(map(str, heights))}" if heights else "nothing new to anchor"
        click.echo(f"{told} at {place.contract} on EVM chain {place.chain_id}")
