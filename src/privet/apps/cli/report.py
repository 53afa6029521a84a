"""``privet report`` and ``privet compare``: read finished runs."""

from __future__ import annotations

from pathlib import Path

import click

from privet.apps.cli.output import json_option, print_json, print_table

_RUN = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_RUN)
@json_option
def report(run: Path, as_json: bool) -> None:
    """Write the report of RUN, the folder of a finished run, again."""
    from privet.evidence.report import write_report

    path = write_report(run)
    if as_json:
        print_json({"run": str(run), "report": str(path)})
    else:
        click.echo(f"next: open {path}")


@click.command()
@click.argument("runs", type=_RUN, nargs=-1, required=True, metavar="RUN RUN...")
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Put runs side by side: what differs in their plans, and what came of it."""
    if len(runs) < 2:
        raise click.UsageError("compare needs two runs or more", click.get_current_context())
    from privet.evidence.compare import compare as compared
    from privet.evidence.compare import compare_rows, load_metrics

    metrics = [load_metrics(run) for run in runs]
    if as_json:
        print_json({"runs": compare_rows(metrics)})
    else:
        print_table(compared(metrics))
        click.echo(f"next: open {runs[0] / 'report.html'}")
