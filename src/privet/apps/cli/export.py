"""``privet export``: an obfuscator or a model as a file that a device runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.output import is_given, json_option, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from privet.inference.obfuscation import Trained

_REAL = 256  # test rows on which both are compared


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--target", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="The kind of file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file.")
@click.option("--part", type=click.Choice(["obfuscator", "model"]), help="What of it; the obfuscator if there is one.")
@click.option("--which", type=click.IntRange(0), default=0, show_default=True, help="The obfuscator that was picked.")
@json_option
def export(folder: Path, target: str, out: Path, part: str | None, which: int, as_json: bool) -> None:
    """Write the obfuscator or the model in FOLDER as a file.

    FOLDER comes from privet obfuscate train, or is a finished run's.

    The file computes in ONNX Runtime what torch computes: both are compared on random samples, and on test rows where
    the data set is at hand, and nothing is written if they differ.
    """
    from privet.errors import InputError
    from privet.inference.export import INPUT, OUTPUT, export_model, export_obfuscator
    from privet.inference.obfuscation import OBFUSCATOR, Obfuscation, Trained

    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is not a folder", do="make it, or name another file")
    part = part or ("obfuscator" if (folder / OBFUSCATOR).is_file() else "model")
    if part == "obfuscator":
        made = Obfuscation.load(folder)
        written = export_obfuscator(made, out, which, _rows(made.trained))
    else:
        trained = Trained.load(folder)
        if is_given("which"):
            raise click.UsageError("'--which' is of no use with a model: it picks an obfuscator")
        written = export_model(trained, out, _rows(trained))
    said: dict[str, Any] = {"target": target, "part": part, "out": str(out), "bytes": written.size}
    said |= {"input": INPUT, "output": OUTPUT, "shape": ["n", *written.shape]}
    said |= {"difference": written.difference, "samples": written.samples, "warnings": list(written.warnings)}
    for line in written.warnings:
        click.echo(f"warning: {line}", err=True)
    if as_json:
        print_json(said)
        return
    click.echo(f"{out}: {part}, {written.size:,} bytes, {INPUT} {tuple(said['shape'])} float32")
    click.echo(f"differs from torch by {written.difference:.2g} at most, on {written.samples} samples")


def _rows(trained: Trained) -> Tensor | None:
    """Returns test rows of the data set that the model was made with, or None where it can't be had or isn't known."""
    import torch

    from privet import parts
    from privet.errors import InputError

    try:
        rows = parts.build("datasets", trained.about["data"]).load().test_inputs[:_REAL]
    except (KeyError, InputError):
        return None
    found = torch.from_numpy(rows)
    return found if found.shape[1:] == trained.shape else None
