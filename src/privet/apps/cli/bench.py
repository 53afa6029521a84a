"""``privet bench``: measure what Privet's parts do against each other on this machine."""

from __future__ import annotations

from typing import Any

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import json_option, print_json, print_table


@click.group(
    cls=LazyGroup,
    members={
        "robustness": ("privet.apps.cli.bench:robustness", "Every aggregation rule against every attack."),
        "ledger": ("privet.apps.cli.bench_ledger:ledger", "Who leads, what faults do, how fast it is."),
    },
)
def bench() -> None:
    """Measure what Privet's parts do against each other."""


@click.command()
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="How many, from 1.")
@click.option("--quick", is_flag=True, help="One seed, rows alike everywhere, 20 rounds in place of 80: a minute.")
@click.option("--aggregator", "aggregators", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option("--attack", "attacks", multiple=True, metavar="NAME", help="Only this attack; may be repeated.")
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    type=click.Choice(("iid", "by-label")),
    help="Only this partition: rows alike everywhere, or labels by a Dirichlet draw of .5; may be repeated.",
)
@json_option
def robustness(
    seeds: int,
    quick: bool,
    aggregators: tuple[str, ...],
    attacks: tuple[str, ...],
    partitions: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train 20 devices, 4 of them hostile, with every aggregation rule under every attack.

    The whole matrix takes about ten minutes of one core. Each row tells the accuracy after the last round and, for
    attacks that plant a backdoor, the share of triggered test rows that the model answers as the adversary wants.
    """
    from privet.engines.in_process import threads
    from privet.study import robustness as study

    rows = []
    cells = study.matrix(
        aggregators or tuple(study.AGGREGATORS),
        attacks or tuple(study.ATTACKS),
        partitions or (("iid",) if quick else tuple(study.PARTITIONS)),
        range(1, (1 if quick else seeds) + 1),
        study.QUICK_ROUNDS if quick else study.ROUNDS,
    )
    with threads(1):
        for row in cells:
            rows.append(row)
            if not as_json:
                click.echo(_line(row))
    if as_json:
        print_json(rows)
    else:
        print_table(_table(study.standing(rows)))


def _line(row: dict[str, Any]) -> str:
    door = row["backdoor_success"]
    said = "" if door is None else f", backdoor {100 * door:.1f} % (unharmed {100 * row['backdoor_floor']:.1f} %)"
    where = f"{row['partition']}, seed {row['seed']}: {row['aggregator']} under {row['attack']}"
    return f"{where}: accuracy {100 * row['accuracy']:.1f} %{said}"


def _table(standing: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("rule", "partition", "honest", "worst", "under", "lost", "backdoor", "under")
    for row in standing:
        door = row["backdoor_success"]
        table.add_row(
            row["aggregator"],
            row["partition"],
            f"{100 * row['honest_accuracy']:.1f} %",
            f"{100 * row['worst_accuracy']:.1f} %",
            row["worst_attack"],
            f"{100 * row['lost']:.1f}",
            "-" if door is None else f"{100 * door:.1f} %",
            row["backdoor_attack"] or "-",
        )
    return table
