"""ONNX files of obfuscators and models: a device runs them without torch, and they compute the same, or aren't written.

What runs on the device is exported whole, from the sample to what leaves. An obfuscator with noise is refused: its
guarantee needs noise from the operating system, and a file can't promise that whoever runs it draws any.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privet.errors import InputError, MissingExtraError
from privet.inference.obfuscation import Obfuscation, Trained
from privet.parts import name_of

INPUT, OUTPUT = "input", "output"
TOLERANCE = 1e-4
_RANDOM = 256  # random samples on which both are compared


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked.

    Attributes:
        path: the file.
        difference: the largest absolute difference between torch and ONNX Runtime.
        samples: on how many samples they were compared.
        shape: of one input.
        size: bytes of the file.
        warnings: what whoever gets the file must know, one line each.
    """

    path: Path
    difference: float
    samples: int
    shape: tuple[int, ...]
    size: int
    warnings: tuple[str, ...] = ()


def export_model(trained: Trained, out: Path, samples: Tensor | None = None) -> Exported:
    """Writes a model, inputs (n, ...) -> logits (n, classes), as an ONNX file; atomically, once it is checked.

    Args:
        trained: the model.
        out: the file; written over when there.
        samples: real inputs (n, ...) on which to compare, besides random ones.

    Raises:
        MissingExtraError: the packages of the extra ``onnx`` are not installed.
        InputError: ONNX can't express the network, or computes another answer; nothing was written.
    """
    return _export(trained.network, nn.Identity(), trained.shape, out, samples, ())


def export_obfuscator(made: Obfuscation, out: Path, which: int = 0, samples: Tensor | None = None) -> Exported:
    """Writes an obfuscator, samples (n, ...) -> what leaves (n, ...), as an ONNX file; as :func:`export_model`.

    Args:
        made: the obfuscators.
        out: the file; written over when there.
        which: the obfuscator that the device picked.
        samples: real ones (n, ...) on which to compare, besides random ones.

    Raises:
        MissingExtraError: the packages of the extra ``onnx`` are not installed.
        InputError: there is no such obfuscator, it draws noise, ONNX can't express it, or what leaves or the model's
            answer to it would differ; nothing was written.
    """
    if not 0 <= which < len(made.sides):
        raise InputError(f"no obfuscator {which}", allowed=f"0 to {len(made.sides) - 1}")
    if made.obfuscator.noise.mechanisms:
        raise InputError(
            f"{name_of(made.obfuscator)} draws noise, which an ONNX file can't draw from the operating system",
            do="run it with privet on the device, or export an obfuscator without noise",
        )
    side = made.sides[which]
    told = []
    if made.obfuscator.claims_key:
        told.append("the file holds the device's secret key: whoever has it undoes what leaves")
    if math.isfinite(bits := made.bits(which)):
        told.append(
            f"each new input tells up to {bits:.3g} bits, and nobody counts: the file has no memo and no budget"
        )
    answer = nn.Sequential(side.service, made.trained.network)
    return _export(nn.Sequential(side.encoder, side.decoder), answer, made.trained.shape, out, samples, tuple(told))


def _export(
    network: nn.Module, answer: nn.Module, shape: tuple[int, ...], out: Path, real: Tensor | None, told: tuple[str, ...]
) -> Exported:
    _require()
    samples = torch.rand(_RANDOM, *shape, generator=torch.Generator().manual_seed(0))
    if real is not None:
        samples = torch.cat([samples, real])
    fresh = out.with_name(out.name + ".new")
    network, answer = network.eval(), answer.eval()
    try:
        fresh.write_bytes(_translated(network, shape))
        difference = _compared(fresh, network, answer, samples)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
    return Exported(out, difference, len(samples), shape, out.stat().st_size, told)


def _require() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise MissingExtraError(package, "onnx") from None


def _translated(network: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Returns the network as an ONNX model of any number of rows."""
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (torch.rand(2, *shape),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"ONNX can't express this network: {str(error).splitlines()[0]}") from None
    data: bytes = program.model_proto.SerializeToString()  # type: ignore[union-attr]
    return data


def _compared(path: Path, network: nn.Module, answer: nn.Module, samples: Tensor) -> float:
    """Returns the largest difference; refuses one that is too large, and another class."""
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted, classes = network(samples), answer(network(samples)).argmax(1)
        found = torch.from_numpy(_run(session, samples.numpy()))
        one = torch.from_numpy(_run(session, samples[:1].numpy()))
        others = int((answer(found).argmax(1) != classes).sum())
    differences = (found - wanted).abs().max(), (one - wanted[:1]).abs().max()
    difference = float(torch.stack(differences).max())
    if not difference <= TOLERANCE or others:
        raise InputError(
            f"ONNX Runtime differs from torch by {difference:.2g}, and in {others} of {len(samples)} samples' classes",
            allowed=f"{TOLERANCE:g}, and no other class",
            do="report it with the versions of torch and onnxruntime",
        )
    return difference


def _run(session: Any, samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    (found,) = session.run([OUTPUT], {INPUT: samples})
    array: np.ndarray[Any, Any] = found
    return array


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter from talking of itself: its progress, its own deprecations, packages that it doesn't need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
