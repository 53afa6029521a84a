"""``privet edge``: the edge server of split training, a process of its own on the coordinator's machine."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from privet.study.edge import EdgeServer

SWEEP = 5.0
"""Seconds between two looks for sessions that are over, and whether the process is to end."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="fleet")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address on which devices reach it.")  # noqa: S104
@click.option("--port", type=click.IntRange(1, 65535), default=8443, show_default=True, help="Port for devices.")
@click.option(
    "--sessions", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Devices at a time; more wait."
)
def edge(folder: Path, host: str, port: int, sessions: int) -> None:
    """Train the heads of split models for the fleet in FOLDER until Ctrl-C; privet up starts one by itself."""
    import torch

    torch.set_num_threads(1)  # many customers at once share the processors better so, and no bit depends on it
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serving(folder, f"{host}:{port}", sessions) as server:
        click.echo(f"edge server: devices on {host}:{port}; Ctrl-C ends it")
        told = 0
        while not (ended := stop.wait(SWEEP)) or told != server.batches:
            server.sweep()
            if told != server.batches:
                told = server.batches
                click.echo(f"learnt from {told} batches in {server.opened} sessions so far")
            if ended:
                break


@contextmanager
def serving(folder: Path, address: str, sessions: int) -> Iterator[EdgeServer]:
    """Yields an edge server that is up; ``edge.json`` in the fleet's folder says so.

    Args:
        folder: of the fleet.
        address: host and port.
        sessions: at a time.

    Raises:
        InputError: there is no fleet in the folder, or the address can't be listened at.
    """
    from privet.governance.enrolment import EDGE_FOLDER, Fleet, admitted
    from privet.governance.registry import Registry, Verdicts
    from privet.study.across import EDGE
    from privet.study.edge import LIMIT, EdgeServer
    from privet.transport.contract import Peer
    from privet.transport.grpc import Server
    from privet.transport.identity import Identity

    own = folder / EDGE_FOLDER
    if not (own / "work.pub").is_file():
        Fleet(folder).prepare_edge()
    registry = Registry(folder / "fleet.db")
    admit = Verdicts[Peer](registry.path, lambda peer: admitted(registry, str(peer)))
    edge_server = EdgeServer(bytes.fromhex((own / "work.pub").read_text()), sessions)
    server = Server(address, Identity.load(own), edge_server.service, admit=admit, limit=LIMIT, calls=16)
    told, fresh = folder / EDGE, folder / f"{EDGE}.new"
    try:
        fresh.write_text(json.dumps({"port": server.port, "pid": os.getpid()}))
        fresh.replace(told)
        yield edge_server
    finally:
        told.unlink(missing_ok=True)
        server.close()
        admit.close()
