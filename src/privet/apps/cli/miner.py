"""``privet miner``: run one miner of a consortium, or register a new one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.output import FloatRange, json_option, print_json

if TYPE_CHECKING:
    from privet.ledger.miner_folder import Member
    from privet.ledger.node import Node

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=_FOLDER)
@click.option("--register", metavar="NAME", help="Make keys in FOLDER for a miner of this name, and end.")
@click.option("--address", default="", metavar="HOST:PORT", help="With --register: where others reach it, if they can.")
@click.option("--listen", default="", metavar="HOST:PORT", help="Listen there.  [default: the registered address]")
@click.option("--idle", type=FloatRange(0, 3600), default=5.0, show_default=True, help="Seconds between empty blocks.")
@click.option("--votes-only", is_flag=True, help="For chains without training: believe results unchecked.")
@json_option
def miner(
    folder: Path, register: str | None, address: str, listen: str, idle: float, votes_only: bool, as_json: bool
) -> None:
    """Run the miner whose keys and chain are in FOLDER, until it is told to stop (SIGTERM, or Ctrl-C).

    Run each miner once only, and never put an old copy of its folder back: a key that signs twice is named on the chain
    for good.
    """
    if register is not None:
        from privet.ledger.founding import REGISTRATION_FILE
        from privet.ledger.founding import register as make

        name, file = make(folder, register, address).name, folder / REGISTRATION_FILE
        if as_json:
            print_json({"name": name, "registration": file})
        else:
            click.echo(f"keys of miner {name} are in {folder}; hand {file} to the founder")
        return
    from dataclasses import replace

    from privet.ledger.miner import mine
    from privet.ledger.node import IDLE

    options: dict[str, Any] = {} if votes_only else {"duty": _duty}
    tempo = replace(IDLE, begin=round(1000 * idle))
    stopped = mine(folder, listen=listen, tempo=tempo, started=partial(_until_told, as_json), **options)
    if stopped:
        from privet.errors import RefusedError

        raise RefusedError(f"this miner votes no more: {stopped}", do="find out what else signs with its key")


def _duty(folder: Any, chain: Any, contents: Path) -> Any:
    from privet.ledger.content import DEFAULT
    from privet.ledger.epoch_keys import EpochKeys
    from privet.ledger.folder_store import FolderStore
    from privet.study.mining import Duty

    return Duty(chain, folder.secret, FolderStore(contents), EpochKeys(folder.path / "epochs"), DEFAULT)


def _until_told(as_json: bool, node: Node, own: Member) -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stop())
    where = f"at {own.address}" if own.address else "by connecting to the others"
    _register_epoch(node, own)
    if as_json:
        print_json({"name": str(own.peer), "address": own.address, "height": node.chain.state.height})
    else:
        click.echo(f"{own.peer} runs {where}, height {node.chain.state.height}")


def _register_epoch(node: Node, own: Member) -> None:
    """Registers the miner's first key for sealed updates; later ones follow by themselves."""
    duty: Any = node.duty
    if hasattr(duty, "keys") and own.key not in node.chain.state.epochs():
        for one in duty.signed(duty.keys()):
            node.submit(one, spread=True)
