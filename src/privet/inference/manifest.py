"""What a model version is, signed: read and checked by services and by devices, which need no torch for it.

The signature (Ed25519) is over the very bytes of the manifest, so nothing has to be put into a canonical form. The
manifest names the sha256 of the weights; the sha256 of the manifest is the version's digest, which every answer names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.crypto.signatures import PUBLIC_BYTES, sign, verify
from privet.errors import InputError, RefusedError

LONGEST = 65_536
"""Bytes of a manifest."""

_PURPOSE = "privet model version"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VALUES = 1 << 24


@dataclass(frozen=True)
class Manifest:
    """What is known of a model version.

    Attributes:
        name: what people call it.
        created: when it was signed, ISO 8601, UTC.
        model: table of the architecture, as plans have it.
        shape: of one sample.
        classes: number of scores.
        span: smallest and largest value of a sample; None for every finite one.
        weights: sha256 of the safetensors file, hexadecimal.
    """

    name: str
    created: str
    model: Mapping[str, Any]
    shape: tuple[int, ...]
    classes: int
    span: tuple[float, float] | None
    weights: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"{self.name[:80]!r} is no name of a version", allowed="letters, digits, . _ -, 64")
        sides = bool(self.shape) and all(side > 0 for side in self.shape) and math.prod(self.shape) <= _VALUES
        if not sides or not 1 <= self.classes <= 1_000_000 or not re.fullmatch("[0-9a-f]{64}", self.weights):
            raise InputError(
                f"a model of shape {self.shape} with {self.classes} classes and weights {self.weights[:70]!r}",
                allowed="sides and classes from 1 up, a sha256 in hexadecimal",
            )
        if self.span is not None and not -math.inf < self.span[0] < self.span[1] < math.inf:
            raise InputError(f"values from {self.span[0]:g} to {self.span[1]:g}", allowed="two finite, rising figures")

    def to_bytes(self) -> bytes:
        """Returns the manifest as JSON, which is what is signed."""
        return (json.dumps(vars(self), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def of(cls, text: bytes) -> Manifest:
        """Returns the manifest that :meth:`to_bytes` wrote.

        Raises:
            InputError: it is none.
        """
        try:
            told: Any = json.loads(text) if len(text) <= LONGEST else None
            span = None if told["span"] is None else (float(told["span"][0]), float(told["span"][1]))
            shape = tuple(int(side) for side in told["shape"])
            plain = {key: str(told[key]) for key in ("name", "created", "weights")}
            return cls(model=dict(told["model"]), shape=shape, classes=int(told["classes"]), span=span, **plain)
        except (KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
            raise InputError(f"this is no manifest of a model version ({type(error).__name__})") from None
        except ValueError as error:
            raise error if isinstance(error, InputError) else InputError("this is no manifest: no JSON") from None


@dataclass(frozen=True)
class Signed:
    """A manifest with its signature, not yet believed.

    Attributes:
        text: the manifest's bytes.
        signature: 64 bytes.
    """

    text: bytes
    signature: bytes

    @classmethod
    def make(cls, manifest: Manifest, secret: bytes) -> Signed:
        """Returns a manifest signed with an Ed25519 key of 32 bytes."""
        text = manifest.to_bytes()
        return cls(text, sign(secret, _PURPOSE, text))

    @property
    def digest(self) -> bytes:
        """The version's digest, 32 bytes."""
        return hashlib.sha256(self.text).digest()

    def opened(self, signer: bytes) -> Manifest:
        """Returns the manifest, which the holder of a key signed.

        Args:
            signer: Ed25519 public key, 32 bytes.

        Raises:
            RefusedError: it did not.
            InputError: it signed something else than a manifest.
        """
        if not verify(signer, _PURPOSE, self.text, self.signature):
            raise RefusedError("the model version is not signed by the key that is trusted", do="ask who publishes it")
        return Manifest.of(self.text)


def key_of(text: str) -> bytes:
    """Returns the public key that somebody wrote in hexadecimal, or into a file.

    Raises:
        InputError: it is none.
    """
    path = Path(text)
    try:
        key = bytes.fromhex((path.read_text("ascii") if path.is_file() else text).strip())
    except (ValueError, OSError):
        key = b""
    if len(key) != PUBLIC_BYTES:
        allowed = f"{2 * PUBLIC_BYTES} hexadecimal digits, or a file that holds them"
        raise InputError(f"{text[:100]!r} is no public key of a signer", allowed=allowed)
    return key
