"""``privet obfuscate``: train obfuscators for a model, and attack what they let through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from privet.apps.cli.output import FloatRange, is_given, json_option, print_json, print_table

_DIR = click.Path(file_okay=False, path_type=Path)


@click.group()
def obfuscate() -> None:
    """Change samples before they leave a device, so that a model elsewhere answers them, and measure what they tell.

    An obfuscator is no proof of privacy: evaluate attacks it with everything that its maker knows. What holds by
    proof are the coded ones, see privet parts obfuscators.
    """


@obfuscate.command()
@click.option("--model", required=True, metavar="NAME|DIR", help="A model to train, or a folder with a trained one.")
@click.option("--data", required=True, metavar="NAME", help="Its data set: privet parts datasets lists them.")
@click.option("--obfuscator", required=True, metavar="NAME", help="privet parts obfuscators lists them.")
@click.option("--out", type=_DIR, required=True, help="A new folder for the model and the obfuscators.")
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True, help="Each participant picks one.")
@click.option("--device-model", metavar="NAME", help="What a device that sends nothing would answer with.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Passes that train the model.")
@click.option("--rows", type=click.IntRange(100), metavar="N", help="Train on the first N rows only.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all trainings.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A field: obfuscator.width=8, data.path=rows.npz, ..."
)
@json_option
def train(
    model: str,
    data: str,
    obfuscator: str,
    out: Path,
    count: int,
    device_model: str | None,
    epochs: int,
    rows: int | None,
    seed: int,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train obfuscators through a model that stays as it is.

    The model is trained first where --model names a part; it and the obfuscators are written to a folder. Accuracies
    are on the test rows.
    """
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from privet.errors import InputError
    from privet.study import obfuscate as study

    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists", do="name a new folder")
    named, folder = {"data": {"name": data}, "obfuscator": {"name": obfuscator}}, Path(model)
    if not folder.is_dir():
        named = {"model": {"name": model}} | named
    elif is_given("epochs"):
        raise click.UsageError(f"'--epochs' is of no use with the model in {folder}: it stays as it is")
    tables = _set(named, settings)
    # Made before the training, which then can't end where nothing may be written; away again on any error.
    with TemporaryDirectory(prefix=".part-", dir=next(each for each in out.parents if each.exists())) as part:
        made = study.train(
            tables.get("model", folder),
            tables["data"],
            tables["obfuscator"],
            count=count,
            device_model={"name": device_model} if device_model else None,
            fitting=replace(study.FITTING, epochs=epochs),
            seed=seed,
            rows=rows,
            tell=_tell,
        )
        fresh = Path(part) / out.name
        made.save(fresh)
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(out)
    figures = dict(made.figures)
    if as_json:
        print_json({"obfuscator": obfuscator, "count": count, "out": str(out)} | figures)
        return
    click.echo(f"accuracy: {figures['accuracy_plain']:.2%} plain, {figures['accuracy_obfuscated']:.2%} obfuscated")
    click.echo(
        f"a device multiplies {figures['multiplications']:,} times, the model {figures['model_multiplications']:,}"
    )
    _promise(figures)
    _alternatives(figures)
    click.echo(f"next: privet obfuscate evaluate {out}")


@obfuscate.command()
@click.argument("folder", type=_DIR)
@click.option("--data", metavar="NAME", help="Another data set than the one of the training.")
@click.option("--pairs", type=click.IntRange(100), default=20_000, show_default=True, help="Of the coordinator's own.")
@click.option("--records", type=click.IntRange(10), default=2_000, show_default=True, help="Test rows attacked.")
@click.option("--effort", type=FloatRange(0.01, 100), default=1.0, show_default=True, help="Of what learns.")
@click.option("--attacker", "attackers", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the attackers.")
@json_option
def evaluate(
    folder: Path,
    data: str | None,
    pairs: int,
    records: int,
    effort: float,
    attackers: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Attack obfuscators with all that their maker knows.

    What an outsider knows is tried too. The figure is that of the worst attacker. Beside it stand what the label
    alone tells, and what a device reaches that sends nothing, or only the samples that it is least sure of.
    """
    from privet import parts
    from privet.errors import InputError
    from privet.inference.obfuscation import Obfuscation
    from privet.study import obfuscate as study
    from privet.study.obfuscation_views import Rows, Trial

    made = Obfuscation.load(folder)
    table = {"name": data} if data else made.trained.about.get("data")
    if table is None:
        raise InputError(f"{folder} does not say which data its model is for", do="name them with --data")
    rows = Rows.of(parts.build("datasets", table).load())
    trial = Trial(pairs, records, attackers or None, effort, seed)
    report = study.report(made, rows, trial, _tell)
    if as_json:
        print_json(report)
        return
    _print(report)


@obfuscate.command()
@click.argument("state", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def spent(state: Path, as_json: bool) -> None:
    """Show what the device with the folder STATE has told, and may still tell.

    STATE is what --state of privet infer names. Each subject and purpose has a line; nothing is asked or sent.
    """
    from privet.study.asked import accounts

    found = [
        {"subject": each.subject, "purpose": each.purpose, "bits": each.bits, "spent": told, "left": each.bits - told}
        for each, told in accounts(state)
    ]
    if as_json:
        print_json({"state": str(state), "accounts": found})
        return
    for each in found:
        left = f"{each['spent']:.4g} of {each['bits']:g} bits were paid, {each['left']:.4g} are left"
        click.echo(f"{each['subject']}, {each['purpose']}: {left}")
    if not found:
        click.echo("no budget of bits was opened")


def _set(named: Mapping[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Returns the tables with ``--set`` applied, or refuses what sets no field of them."""
    from privet.errors import InputError
    from privet.study.settings import apply

    tables = apply(named, settings)
    for key, table in tables.items():
        if key not in named or not isinstance(table, dict):
            allowed = ", ".join(f"{each}.FIELD=VALUE" for each in named)
            raise InputError(f"--set {key}: no field of a part that is made here", allowed=allowed)
    return tables


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _worst(found: Mapping[str, Any] | None) -> None:
    for key, among in (("reidentified", ""), ("reidentified_in_class", " of its class")):
        if found and (share := found[key]):
            ends = f"95 % interval {share['low']:.1%} to {share['high']:.1%}"
            click.echo(f"worst, re-identified{among}: {share['value']:.1%} by {share['by']}, {ends}")
    if found and found["ssim"] is not None:
        beyond = f"{found['ssim_above_floor']:+.3f} against what the class alone gives"
        click.echo(f"worst, resemblance: SSIM {found['ssim']:.3f} by {found['ssim_by']}, {beyond}")


def _promise(figures: Mapping[str, Any]) -> None:
    from privet.inference.obfuscation import promises

    for line in promises(figures["bits"], figures["guarantee"]):
        click.echo(line)


def _alternatives(figures: Mapping[str, Any]) -> None:
    if "send_nothing" not in figures:
        return
    alone = figures["send_nothing"]
    offloaded = ", ".join(f"{float(share):.0%}: {reached:.2%}" for share, reached in figures["offload"].items())
    click.echo(
        f"a device that sends nothing: {alone['accuracy']:.2%} with {alone['multiplications']:,} multiplications; "
        f"that sends what it is least sure of as it is: {offloaded}"
    )


def _print(report: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("Attacker", "Who", "SSIM", "PSNR (dB)", "re-identified", "of its class")
    for name, found in report["attacks"].items():
        figures = (found.get(key) for key in ("ssim", "psnr", "reidentified", "reidentified_in_class"))
        table.add_row(name, found["party"], *("" if one is None else f"{one:.3f}" for one in figures))
    print_table(table)
    if "ssim_label_only" in report["floor"]:
        click.echo(f"an attacker who sees the class alone: SSIM {report['floor']['ssim_label_only']:.3f}")
    click.echo(f"accuracy: {report['accuracy_plain']:.2%} plain, {report['accuracy_obfuscated']:.2%} obfuscated")
    click.echo(f"attacked: {report['records']:,} test rows, looked for among themselves; {report['pairs']:,} pairs")
    _worst(report["worst"])
    _promise(report)
    _alternatives(report)
