"""Packing: an update with many zeros, or whose values are small whole multiples of powers of two, in fewer bytes.

Packing loses nothing: what is unpacked is what was packed, bit for bit, and whatever gains nothing stays as it is. What
makes an update smaller is the protocol that rounds it or leaves most of it out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from privet.errors import RunError
from privet.tensors import State, size_in_bytes

BLOCK = 256
"""Values that share an exponent."""

LARGEST = 127
"""The largest whole number of a packed value."""

PARTS = ("vector", "values", "bytes", "exponents", "places", "length")
"""What a packed vector may consist of."""

_LOWEST = -126
"""The exponent of the smallest float32 that has all its bits."""


def exponents_of(values: Tensor) -> Tensor:
    """Returns for each block of values the exponent of the coarsest grid that reaches its largest one, int8.

    Args:
        values: float32 (n,).
    """
    rows = torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).reshape(-1, BLOCK)
    largest = rows.abs().amax(1)
    # largest = mantissa * 2**exponent with the mantissa in [0.5, 1), so it is 64 to 128 steps of this power.
    power = (torch.frexp(largest).exponent - 7).clamp(_LOWEST, 121)
    return (power + (largest / _power_of_two(power) > LARGEST + 0.5).int()).to(torch.int8)


def on_grid(values: Tensor, exponents: Tensor) -> Tensor:
    """Returns each value as a whole number of steps of its block's grid, int8 (n,), rounded to the nearest.

    Args:
        values: float32 (n,), finite.
        exponents: of :func:`exponents_of`.
    """
    steps = _steps(exponents, len(values))
    return (values / steps).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def off_grid(whole: Tensor, exponents: Tensor) -> Tensor:
    """Returns the values that :func:`on_grid` stands for, float32 (n,), exactly."""
    return whole.to(torch.float32) * _steps(exponents, len(whole))


def _steps(exponents: Tensor, count: int) -> Tensor:
    return _power_of_two(exponents.int()).repeat_interleave(BLOCK)[:count]


def _power_of_two(exponents: Tensor) -> Tensor:
    return torch.ldexp(torch.ones(exponents.shape), exponents)


def pack(vector: Tensor) -> State:
    """Returns a vector in as few bytes as keep every bit: the kept values, as bytes where they lie on a grid.

    Args:
        vector: (n,); only float32 is packed.
    """
    whole = {"vector": vector}
    if vector.dtype != torch.float32 or vector.dim() != 1 or not torch.isfinite(vector).all():
        return whole
    if (torch.signbit(vector) & (vector == 0)).any():  # a negative zero would come back as a positive one
        return whole
    places = vector.nonzero().flatten()
    sparse = len(places) * 2 < len(vector)
    values = vector[places] if sparse else vector
    packed: State = {"places": places.to(torch.int32), "length": torch.tensor([len(vector)])} if sparse else {}
    exponents = exponents_of(values)
    bytes_ = on_grid(values, exponents)
    exact = torch.equal(off_grid(bytes_, exponents), values)
    packed |= {"bytes": bytes_, "exponents": exponents} if exact else {"values": values}
    return packed if size_in_bytes(packed.values()) < size_in_bytes(whole.values()) else whole


def pack_all(state: State) -> State:
    """Returns a state with each of its vectors packed, under names of the form ``name:part``."""
    return {f"{name}:{part}": one for name, value in state.items() for part, one in pack(value).items()}


def unpack_all(packed: State, most: int) -> State:
    """Returns the state of :func:`pack_all`.

    Args:
        packed: nothing in it is trusted.
        most: values that a vector has at most.

    Raises:
        RunError: something in it is no packed vector.
    """
    names = dict.fromkeys(name.rpartition(":")[0] for name in packed)
    return {
        name: unpack({part: packed[f"{name}:{part}"] for part in PARTS if f"{name}:{part}" in packed}, most)
        for name in names
    }


def unpack(packed: State, most: int) -> Tensor:
    """Returns the vector that was packed.

    Args:
        packed: from :func:`pack`; nothing in it is trusted.
        most: values that the vector has at most.

    Raises:
        RunError: it is no packed vector, or one with more values.
    """
    try:
        if "vector" in packed:
            return packed["vector"]
        values = packed["values"] if "values" in packed else off_grid(packed["bytes"], packed["exponents"])
        if "places" not in packed:
            return values
        length, places = int(packed["length"]), packed["places"].long()
        sound = places.dim() == 1 and len(places) == len(values) and length <= most
        sound = sound and (not len(places) or (int(places.min()) >= 0 and int(places.max()) < length))
        if not sound or bool((places.diff() <= 0).any()):
            raise ValueError
        vector = torch.zeros(length)
        vector[places] = values
    except (KeyError, ValueError, RuntimeError, TypeError):
        raise RunError("malformed: it is no packed vector") from None
    return vector
