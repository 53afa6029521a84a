"""Model versions in folders: the weights, and a signed manifest that names them.

A folder holds ``model.safetensors``, ``version.json`` (the manifest) and ``version.sig`` (its signature, hexadecimal).
Whatever else lies there is not read. Nothing is a pickle, and nothing is built before the signature verifies.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privet import parts
from privet.errors import InputError, RefusedError
from privet.inference.manifest import LONGEST, Manifest, Signed
from privet.models import Model
from privet.tensors import fill, from_bytes
from privet.transport.durable import replace_file, sync_folder

WEIGHTS, MANIFEST, SIGNATURE = "model.safetensors", "version.json", "version.sig"
LARGEST = 4 << 30
"""Bytes of a model's weights."""


@dataclass(frozen=True, eq=False)
class Version:
    """A model version whose signature verified.

    Attributes:
        signed: the manifest as it was signed.
        manifest: what it says.
        network: with its values, frozen, in evaluation mode.
    """

    signed: Signed
    manifest: Manifest
    network: nn.Module

    @property
    def digest(self) -> bytes:
        """What answers name it by, 32 bytes."""
        return self.signed.digest

    def __str__(self) -> str:
        return f"{self.manifest.name} ({self.digest.hex()[:12]})"


def publish(
    folder: Path,
    *,
    name: str,
    model: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: int,
    secret: bytes,
    span: tuple[float, float] | None = (0.0, 1.0),
) -> Version:
    """Signs the weights in a folder: writes ``version.json`` and ``version.sig`` beside them.

    Args:
        folder: which holds ``model.safetensors``.
        name: of the version.
        model: table of the architecture.
        shape: of one sample.
        classes: number of scores.
        secret: Ed25519 key, 32 bytes.
        span: of a sample's values; None for every finite one.

    Raises:
        InputError: the weights are missing, or don't fit the model; nothing was written.
        PartError: the model is none of the parts here.
    """
    weights = _read(folder / WEIGHTS, LARGEST)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    manifest = Manifest(name, created, dict(model), shape, classes, span, hashlib.sha256(weights).hexdigest())
    network = _network(manifest, weights)
    signed = Signed.make(manifest, secret)
    replace_file(folder / SIGNATURE, signed.signature.hex().encode())
    replace_file(folder / MANIFEST, signed.text)
    sync_folder(folder)
    return Version(signed, manifest, network)


def load_version(folder: Path, signer: bytes) -> Version:
    """Returns the version in a folder.

    Args:
        folder: as :func:`publish` left it.
        signer: Ed25519 public key of whom to trust, 32 bytes.

    Raises:
        RefusedError: the signer did not sign it, or the weights are not those that it signed.
        InputError: a file is missing or malformed, or the weights don't fit the model.
        PartError: the model is none of the parts here.
    """
    try:
        signature = bytes.fromhex(_read(folder / SIGNATURE, 1024).decode("ascii"))
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{folder / SIGNATURE} is damaged") from None
    signed = Signed(_read(folder / MANIFEST, LONGEST), signature)
    manifest = signed.opened(signer)
    weights = _read(folder / WEIGHTS, LARGEST)
    if hashlib.sha256(weights).hexdigest() != manifest.weights:
        raise RefusedError(f"{folder / WEIGHTS} is not what was signed", do="copy the version again")
    return Version(signed, manifest, _network(manifest, weights))


def _network(manifest: Manifest, weights: bytes) -> nn.Module:
    model: Model = parts.build("models", manifest.model)
    if model.couples_records:
        raise InputError(
            f"{parts.name_of(model)} lets an answer depend on the other samples of its batch",
            do="take a model that does not: here they are other devices' samples",
        )
    network = model.build(manifest.shape, manifest.classes).eval().requires_grad_(False)
    try:
        fill(network, from_bytes(weights))
        with torch.inference_mode():
            scores = network(torch.zeros(1, *manifest.shape))
    except (RuntimeError, InputError) as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise InputError(f"the weights don't fit {manifest.model.get('name')}: {why}") from None
    if scores.shape != (1, manifest.classes):
        raise InputError(f"the model gives scores of shape {tuple(scores.shape)}", allowed=f"(n, {manifest.classes})")
    return network


def _read(path: Path, most: int) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is no file", do="sign a model first: privet serve sign")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path} is oversize", allowed=f"up to {most} bytes")
    return data
