"""``privet helper``: multiply for sources that don't show what; or make the folders of a source and its helpers."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--folder", type=_FOLDER, required=True, help="Its key and certificate; weights are kept there.")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
@click.option(
    "--memory", type=click.IntRange(1), default=1024, show_default=True, help="Most MiB of weights in memory."
)
@click.option("--record", is_flag=True, help="Keep all that it receives, and write it to FOLDER/view.safetensors.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads that multiply.")
@click.option("--found", type=click.IntRange(1, 100), metavar="N", help="Make FOLDER for a source and N helpers; end.")
@click.option("--preparers", type=click.IntRange(0, 10), default=0, show_default=True, help="With --found: so many.")
@click.option("--host", default="127.0.0.1", show_default=True, help="With --found: where they all are.")
@click.option(
    "--port", type=click.IntRange(1, 65000), default=7800, show_default=True, help="With --found: the first one's."
)
def helper(
    folder: Path,
    listen: str | None,
    memory: int,
    record: bool,
    threads: int,
    found: int | None,
    preparers: int,
    host: str,
    port: int,
) -> None:
    """Run a helper until it is told to stop (SIGTERM, or Ctrl-C). Only a source of its own authority is let in."""
    if found is not None:
        from privet.inference.distributed.founding import found as make
        from privet.transport.contract import Peer

        peers = [Peer("helper", f"helper-{at}") for at in range(1, found + 1)]
        peers += [Peer("preparer", f"preparer-{at}") for at in range(1, preparers + 1)]
        make(folder, {peer: f"{host}:{port + at}" for at, peer in enumerate(peers)})
        click.echo(f"folders of a source, {found} helpers and {preparers} preparers are in {folder}")
        click.echo(f"start each with: privet helper --folder {folder / 'helper-1'} --listen {host}:{port}")
        return
    if listen is None:
        raise click.UsageError("say where: --listen HOST:PORT", click.get_current_context())
    import signal
    import threading

    import torch

    from privet.inference.distributed.multiplier import Helper, serve
    from privet.transport.identity import Identity

    identity = Identity.load(folder)
    torch.set_num_threads(threads)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    own = Helper(folder / "held", memory << 20, party=str(identity.peer) if record else "")
    server = serve(own, identity, listen)
    click.echo(f"{identity.peer} listens at {listen.rpartition(':')[0]}:{server.port}")
    stop.wait()
    server.close()
    if own.seen is not None:
        own.seen.save(folder / "view.safetensors")
