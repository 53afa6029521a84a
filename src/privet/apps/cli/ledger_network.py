"""``privet ledger init`` and ``privet ledger status``: found a consortium, ask its miners how they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from privet.apps.cli.output import json_option, print_json

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=_FOLDER)
@click.option("--miners", type=click.IntRange(1, 100), help="Make so many, with their keys.")
@click.option("--registration", "files", type=_FILE, multiple=True, help="A miner's registration; may be repeated.")
@click.option("--host", default="127.0.0.1", show_default=True, help="With --miners: where they all are.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=7700, show_default=True, help="With --miners: the first one's."
)
@click.option("--name", default="consortium", show_default=True, help="What the chain is called.")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long certificates last.")
@json_option
def init(
    folder: Path, miners: int | None, files: tuple[Path, ...], host: str, port: int, name: str, days: int, as_json: bool
) -> None:
    """Found a consortium in FOLDER: an authority, a manufacturer, and a folder for each miner.

    With --registration, each miner made its keys where it runs (privet miner --register); its folder here is public and
    is copied over the one with the keys. With --miners, the keys are made here; that is for trying out.
    """
    from privet.ledger.founding import Registration, found, register

    if (miners is None) == (not files):
        raise click.UsageError("say who takes part: --miners N, or --registration FILE", click.get_current_context())
    if miners is not None:
        from privet.errors import InputError

        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty", do="take another folder")
        places = [(f"miner-{at}", f"{host}:{port + at - 1}") for at in range(1, miners + 1)]
        registered = [register(folder / each, each, address) for each, address in places]
    else:
        registered = [Registration.decode(path.read_bytes()) for path in files]
    genesis = found(folder, registered, name, days=days)
    if as_json:
        names = [each.name for each in registered]
        print_json({"folder": folder, "genesis": genesis.hash.hex(), "miners": names})
        return
    click.echo(f"{len(registered)} miners in {folder}; genesis {genesis.hash.hex()}")
    click.echo(f"start each with: privet miner {folder / registered[0].name}")


@click.command()
@click.argument("folder", type=_FOLDER)
@click.argument("registration", type=_FILE)
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long it lasts.")
@json_option
def renew(folder: Path, registration: Path, days: int, as_json: bool) -> None:
    """Sign a new certificate for the miner of REGISTRATION, with the authority of the consortium in FOLDER."""
    from privet.ledger.founding import Registration
    from privet.ledger.founding import renew as sign

    made = sign(folder, Registration.decode(registration.read_bytes()), days)
    if as_json:
        print_json({"certificate": made})
    else:
        click.echo(f"copy {made} into the miner's folder, then start the miner anew")


@click.command()
@click.argument("folder", type=_FOLDER)
@click.option("--node", metavar="ADDRESS", help="Ask the miner at this address.  [default: the one of FOLDER]")
@json_option
def status(folder: Path, node: str | None, as_json: bool) -> None:
    """Ask a running miner for its height, head and peers, with the certificate in FOLDER (a miner's or any other)."""
    from privet.errors import InputError
    from privet.ledger.miner_folder import Consortium
    from privet.ledger.service import Remote
    from privet.transport.grpc import GrpcClient
    from privet.transport.identity import Identity

    identity, members = Identity.load(folder), Consortium.load(folder).members
    listening = [each for each in members if each.address]
    asked = [each for each in listening if (each.address == node if node else each.peer == identity.peer)]
    if not asked:
        known = ", ".join(each.address for each in listening)
        raise InputError(f"no miner is known at {node or f'an address of {identity.peer}'}", allowed=f"--node {known}")
    client = GrpcClient(asked[0].address, asked[0].peer, identity)
    try:
        found: dict[str, Any] = Remote(client).status()
    finally:
        client.close()
    told = found | {"genesis": found["genesis"].hex(), "head": found["head"].hex()}
    if as_json:
        print_json(told)
        return
    lost = [peer for peer, there in told["peers"].items() if not there]
    told["peers"] = f"not reached: {', '.join(lost)}" if lost else "all reached"
    for name in ("name", "genesis", "height", "head", "period", "waiting", "peers", "stopped"):
        click.echo(f"{name}: {told[name] or 'no' if name == 'stopped' else told[name]}")
