"""``privet bench ledger``: measure the ledger's parts."""

from __future__ import annotations

from typing import Any

import click

from privet.apps.cli.output import json_option, print_json
from privet.errors import PrivetError


@click.command()
@click.option("--sortition", is_flag=True, help="Draw leaders by stake, and count who leads.")
@click.option(
    "--stakes", default="40,10,10,10,10,10,10", show_default=True, metavar="N,N,...", help="Stake of each miner."
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000_000),
    help="How many draws, or heights.  [default: 10000 draws, 1000 heights, 20 timed]",
)
@click.option(
    "--priority",
    type=click.Choice(("min-hash", "count")),
    default="min-hash",
    show_default=True,
    help="Who leads: the smallest hash of a chosen unit, or the most chosen units.",
)
@click.option("--expected", type=click.IntRange(1), help="Units chosen on average.  [default: 26, or all if fewer]")
@click.option("--faults", is_flag=True, help="Let miners fail, lie and lose messages; look for conflicts and stalls.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which faults.")
@click.option("--miners", type=click.IntRange(1, 100), help="Time so many miners in this process.")
@click.option("--processes", is_flag=True, help="With --miners: each in a process of its own, over loopback.")
@json_option
def ledger(
    sortition: bool,
    stakes: str,
    rounds: int | None,
    priority: str,
    expected: int | None,
    faults: bool,
    seed: int,
    miners: int | None,
    processes: bool,
    as_json: bool,
) -> None:
    """Measure the ledger: who leads (--sortition), what faults do (--faults), or how fast it is (--miners N).

    With --sortition, VRF outputs are stood in for by hashes, and stakes of more than 1,000 in all are scaled down to
    1,000 units. With --faults and --miners, signatures and proofs are real, and what one miner has verified the others
    in the process take as verified.
    """
    if sum((sortition, faults, miners is not None)) != 1 or (processes and miners is None):
        raise click.UsageError("say what to measure: --sortition, --faults or --miners N", click.get_current_context())
    if sortition:
        _leaders(stakes, rounds or 10_000, priority, expected, as_json)
    elif faults:
        from privet.study import consensus_trials

        found = consensus_trials.faults(rounds or 1000, seed)
        _print(found, as_json)
        if found["conflicting_certificates"] or found["stalled_after_healing"]:
            raise PrivetError("miners disagreed, or did not go on after healing", do="report it with the seed")
    elif miners is not None:
        import tempfile
        from pathlib import Path

        if processes:
            from privet.study.process_speed import speed
        else:
            from privet.study.consensus_speed import speed
        with tempfile.TemporaryDirectory(prefix="privet-bench-") as folder:
            _print(speed(miners, Path(folder), *(() if rounds is None else (rounds,))), as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = f"{value:.1f}" if isinstance(value, float) else value
        click.echo(f"{name.replace('_', ' ')}: {shown}")


def _leaders(stakes: str, rounds: int, priority: str, expected: int | None, as_json: bool) -> None:
    from privet.ledger.sortition import EXPECTED, count_leaders, normalised

    units = normalised(_numbers(stakes))
    expected = min(EXPECTED, sum(units)) if expected is None else expected
    led = count_leaders(units, rounds, priority, expected=expected)  # type: ignore[arg-type]
    shares = [count / rounds for count in led]
    if as_json:
        said = {"priority": priority, "rounds": rounds, "expected": expected, "units": units, "leader_share": shares}
        print_json(said | {"rounds_without_leader": rounds - sum(led)})
        return
    for miner, (unit, share) in enumerate(zip(units, shares, strict=True), start=1):
        click.echo(
            f"miner {miner}: {100 * unit / sum(units):.1f} % of the stake, leads {100 * share:.1f} % of the rounds"
        )
    click.echo(
        f"{priority}, {rounds} rounds, {rounds - sum(led)} without a leader, {expected} units expected of {sum(units)}"
    )


def _numbers(stakes: str) -> list[int]:
    words = stakes.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise click.BadParameter(f"{stakes!r} is not whole numbers with commas between", param_hint="--stakes")
    return [int(word) for word in words]
