"""``privet run`` and ``privet demo``: run a plan, print what came of it."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.main import Stopped
from privet.apps.cli.output import FloatRange, json_option, print_json, print_table, settings_option
from privet.apps.cli.progress import reporter

if TYPE_CHECKING:
    from privet.study.across import Across
    from privet.study.plan import Plan

_FOLDER = click.Path(path_type=Path)
_out = click.option("--out", type=_FOLDER, help="Folder of the run, which must be new.  [default: runs/NAME-TIME-PLAN]")


@click.command()
@click.argument("plan", type=_FOLDER)
@settings_option
@_out
@click.option("--resume", type=_FOLDER, metavar="RUN", help="Go on with this stopped run of the same plan.")
@click.option(
    "--engine",
    type=click.Choice(["in-process", "flower"]),
    default="in-process",
    show_default=True,
    help="Where devices compute; flower: on other machines.",
)
@click.option("--fleet", type=_FOLDER, default="fleet", show_default=True, help="Fleet whose coordinator is up here.")
@click.option("--label", default="", metavar="KEY=VALUE", help="Ask devices that bear this label only.")
@click.option("--nodes", type=click.IntRange(min=1), help="Begin once so many devices joined.  [default: all]")
@click.option("--enough", type=click.IntRange(min=1), help="Replies after which a round waits for no more.")
@click.option("--patience", type=FloatRange(min=0), default=60, show_default=True, help="Seconds to wait for devices.")
@json_option
def run(
    plan: Path,
    settings: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    as_json: bool,
    engine: str,
    **options: Any,
) -> None:
    """Run PLAN, a TOML file: train the fleet, attack it, write a folder with the report.

    Progress goes to standard error. With --json, standard output is one JSON object.
    """
    from privet.study.plan import Plan

    across = None
    if engine == "flower":
        from privet.study.across import Across

        across = Across(**options)
    _execute(Plan.load(plan).with_settings(settings), out, resume, as_json, across)


@click.command()
@settings_option
@_out
@json_option
def demo(settings: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Run the smart-home plan that comes with Privet: ten homes, one of them hostile. Takes two minutes."""
    import tomllib

    from privet.study.plan import Plan

    text = files("privet.study").joinpath("plans", "smart_home.toml").read_text(encoding="utf-8")
    _execute(Plan.from_table(tomllib.loads(text)).with_settings(settings), out, None, as_json)


def _execute(plan: Plan, out: Path | None, resume: Path | None, as_json: bool, across: Across | None = None) -> None:
    from privet.study.run import run as run_plan

    with reporter() as progress:
        try:
            done = run_plan(plan, out=out, resume=resume, progress=progress, across=across)
        except KeyboardInterrupt:
            raise Stopped(_how_to_resume(progress.run)) from None
    metrics = {"run": str(done.path), **done.metrics}
    following = f"next: open {done.path / 'report.html'} or compare: privet compare {done.path} OTHER_RUN"
    if as_json:
        click.echo(following, err=True)
        print_json(metrics)
        return
    _print_summary(metrics)
    click.echo(following)


def _how_to_resume(run: str) -> str:
    if not run:
        return "stopped before the run began; nothing was written"
    return f"stopped; finished rounds are kept; to go on: privet run {run}/plan.toml --resume {run}"


def _print_summary(metrics: dict[str, Any]) -> None:
    from privet.evidence.summary import plain_summary, summary

    if sys.stdout.isatty():
        print_table(summary(metrics))
    else:
        click.echo(plain_summary(metrics))
