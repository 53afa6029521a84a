"""What source and helpers send each other: a head in JSON and arrays of words, checked when they are read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privet.errors import InputError

LIMIT = 64 << 20
"""Longest message in bytes."""
HEAD = 64 << 10
_LENGTH = struct.Struct("<I")
_KINDS = {"words": "<u4", "floats": "<f4"}
_DIMENSIONS = 6


def packed(head: Mapping[str, Any], *arrays: Tensor) -> bytes:
    """Returns a message.

    Args:
        head: what JSON can say.
        arrays: int64 tensors of values in [0, 2^32), which travel as words, or floats, which travel as float32.
    """
    kinds = ["floats" if each.is_floating_point() else "words" for each in arrays]
    said = {**head, "arrays": [[kind, list(each.shape)] for kind, each in zip(kinds, arrays, strict=True)]}
    text = json.dumps(said, separators=(",", ":")).encode()
    raw = [each.numpy().astype(_KINDS[kind]).tobytes() for kind, each in zip(kinds, arrays, strict=True)]
    return b"".join((_LENGTH.pack(len(text)), text, *raw))


def unpacked(body: bytes) -> tuple[dict[str, Any], list[Tensor]]:
    """Returns head and arrays of a message: words as int64, floats as float32.

    Raises:
        InputError: it is malformed, or a float is not finite.
    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        if length > HEAD:
            raise ValueError
        at = _LENGTH.size + length
        head = json.loads(body[_LENGTH.size : at])
        arrays = []
        for kind, shape in head.pop("arrays"):
            if len(shape) > _DIMENSIONS or not all(type(side) is int and 0 <= side <= LIMIT for side in shape):
                raise ValueError
            size = math.prod(shape)
            if at + 4 * size > len(body):
                raise ValueError
            found = np.frombuffer(body, _KINDS[kind], size, at).reshape(shape)
            arrays.append(torch.from_numpy(found.astype(np.int64 if kind == "words" else np.float32)))
            at += 4 * size
        if at != len(body):
            raise ValueError
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("a message is malformed") from None
    if not all(bool(torch.isfinite(each).all()) for each in arrays if each.is_floating_point()):
        raise InputError("a message holds NaN or infinity", allowed="finite numbers")
    return head, arrays


def field(head: Mapping[str, Any], name: str, kind: type) -> Any:
    """Returns an entry of a head.

    Raises:
        InputError: it is missing, or of another type.
    """
    value = head.get(name)
    if type(value) is not kind:
        raise InputError(f"a message lacks {name}", allowed=f"{name} as {kind.__name__}")
    return value
