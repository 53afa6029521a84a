"""``privet audit``: try to refute what a finished run claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import json_option, print_json


@click.group(
    cls=LazyGroup,
    members={"claim": ("privet.apps.cli.audit:claim", "Try to refute every epsilon that a run claims.")},
)
def audit() -> None:
    """Try to refute what a finished run claims."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--trials", type=click.IntRange(2, 1_000_000), default=1000, show_default=True, help="Tests on either side."
)
@click.option("--seed", type=click.IntRange(0), help="Of the noise; without it, the noise is drawn as in the run.")
@json_option
def claim(run: Path, trials: int, seed: int | None, as_json: bool) -> None:
    """Try to refute every epsilon that RUN, the folder of a finished run, claims.

    Each claim gets a lower bound on epsilon; a claim below its lower bound is refuted. An epsilon per coordinate is
    also tested as what readers take it for: an epsilon per record. The outcome is recorded in RUN and in its report.
    The exit status is 0 whether or not a claim is refuted.
    """
    from privet.study.refutation import audit_claims

    rows = [found.to_json() for found in audit_claims(run, trials=trials, seed=seed)]
    worst = rows[0] if rows else {"method": "the run claims nothing"}
    following = f"next: open {run / 'report.html'}"
    if as_json:
        keys = ("claimed_epsilon", "lower_bound", "confidence", "refuted", "method")
        click.echo(following, err=True)
        print_json({"run": str(run), **{key: worst.get(key) for key in keys}, "claims": rows})
        return
    for row in rows:
        click.echo(_line(row))
    if rows:
        click.echo(f"a pass proves nothing: {worst['caveat']}")
    click.echo(following)


def _line(row: dict[str, Any]) -> str:
    what = f"{row['claim']} (per {row['unit']}, {row['relation']})"
    if row["claimed_epsilon"] is None:
        return f"no claim: {what}: {row['method']}"
    if not row["trials"]:
        return f"not tested: {what}: claimed epsilon {row['claimed_epsilon']:.4g}; {row['method']}"
    word = "refuted" if row["refuted"] else "not refuted"
    found = f"at least {row['lower_bound']:.4g} with {100 * row['confidence']:.4g} % confidence"
    most = f"these trials can show {row['reach']:.4g} at most"
    return f"{word}: {what}: claimed epsilon {row['claimed_epsilon']:.4g}, {found} ({most}); {row['method']}"
