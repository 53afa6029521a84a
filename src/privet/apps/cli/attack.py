"""``privet attack``: attack a finished run from what its folder kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from privet.study.intruder import Outcome


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", metavar="ATTACK", help="One attack; privet parts attacks lists them.")
@click.option("--all", "every", is_flag=True, help="Every attack that what the run kept allows.")
@click.option("--party", metavar="PARTY", help="With --all: only from edge-server, coordinator or anyone.")
@json_option
def attack(run: Path, name: str | None, every: bool, party: str | None, as_json: bool) -> None:
    """Attack RUN, the folder of a finished run, from what it kept of its parties' views.

    What an attack finds is recorded in RUN and shown in its report, in place of what it found before. --all ends with
    one table: who could learn what, how well, and what a guess scores. The exit status is 0 whatever is found.
    """
    if every == bool(name):
        raise click.UsageError("give either --name ATTACK or --all", click.get_current_context())
    if party and not every:
        raise click.UsageError("--party goes with --all", click.get_current_context())
    from privet.study.intruder import attack_all, attack_run

    following = f"next: open {run / 'report.html'}"
    if name:
        outcomes: Sequence[Outcome] = [attack_run(run, name)]
        said: dict[str, Any] = {"run": str(run)} | outcomes[0].to_json()
    else:
        outcomes = attack_all(run, party)
        said = {
            "run": str(run),
            "attacks": [outcome.to_json() for outcome in outcomes if outcome.finding],
            "not_run": [outcome.to_json() for outcome in outcomes if not outcome.finding],
        }
    if as_json:
        click.echo(following, err=True)
        print_json(said)
        return
    _print(outcomes)
    click.echo(following)


def _print(outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table

    from privet.evidence.exposure import exposures

    found = exposures([outcome.finding.to_json() for outcome in outcomes if outcome.finding])
    if found:
        table = Table("Who", "could learn", "how well", "a guess scores", "reading", "by", title="Who could learn what")
        for row in found:
            style = "bold" if row.beaten else None
            table.add_row(row.party, row.what, row.figure, row.floor, row.verdict, row.attack, style=style)
        print_table(table)
        click.echo("an attack that fails proves no guarantee: a better attacker may exist")
    for outcome in outcomes:
        if outcome.finding is None:
            click.echo(f"not run: {outcome.name} (needs the view of {outcome.view}): {outcome.why}")
