"""``privet bench``: measure what Privet's parts do against each other on this machine."""

from __future__ import annotations

import click

from privet.apps.cli.main import LazyGroup


@click.group(
    cls=LazyGroup,
    members={"ledger": ("privet.apps.cli.bench_ledger:ledger", "Who leads, what faults do, how fast it is.")},
)
def bench() -> None:
    """Measure what Privet's parts do against each other."""
