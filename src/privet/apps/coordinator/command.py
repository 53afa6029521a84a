"""``privet up``: the coordinator of a fleet, on one machine with one command."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="fleet")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address on which devices reach the coordinator.")  # noqa: S104
@click.option(
    "--port",
    type=click.IntRange(1, 65532),
    default=8440,
    show_default=True,
    help="Port for enrolment; then one for devices at work, one for this machine only, one for the edge server.",
)
@click.option("--edge/--no-edge", default=True, show_default=True, help="Whether to start an edge server.")
def up(folder: Path, host: str, port: int, edge: bool) -> None:
    """Run the coordinator of the fleet in FOLDER until Ctrl-C: enrolment, gate, SuperLink, edge server."""
    from privet.apps.coordinator.services import Ports, Services

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Services(folder, Ports(host, port, port + 1, port + 2, port + 3 if edge else 0)) as services:
        click.echo(f"up: enrolment on {host}:{port}, devices on {host}:{port + 1}; Ctrl-C ends it")
        click.echo(f"next: privet fleet invite, then privet run PLAN --engine flower --fleet {folder}")
        services.run(stop)
