"""Exact noise on whole numbers, and the sensitivity of values rounded to a grid.

The samplers are exact: the law of what they return is the discrete Laplace or Gaussian law of the
float parameter taken as a rational number, not an approximation of it. Each decision compares a
uniform with a real number. Floats decide where their certified error leaves no doubt, which is nearly
always; the rest draw more bits and are decided in exact arithmetic.

References:
    Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020, algorithms
    2 and 3 (a discrete Gaussian by rejection from a discrete Laplace).
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.randomness import Source

_BITS = 53
"""Bits of a uniform of :class:`privet.randomness.Source`: a multiple of 2^-53 in (0, 1]."""

_FAR = 2**52
"""Largest whole number that is kept: beyond it doubles have gaps."""


def _power_of_two(value: float) -> float:
    if math.frexp(value)[0] != 0.5 or not 2.0**-40 <= value <= 2.0**40:
        raise ValueError("a granularity is a power of two between 2**-40 and 2**40, so that dividing by it is exact")
    return value


Granularity = Annotated[float, Field(gt=0), AfterValidator(_power_of_two)]
"""The step of a grid that values are rounded to."""


def to_grid(value: Tensor, granularity: float) -> Tensor:
    """Returns the nearest multiples of a granularity as whole numbers, int64; what is no number becomes 0."""
    steps = (value.detach().double() / granularity).round()
    return torch.nan_to_num(steps, nan=0.0).clamp(-_FAR, _FAR).long()


def rounded(sensitivity: Sensitivity, granularity: float) -> Sensitivity:
    """Returns the sensitivity after rounding to a grid of step g.

    Rounding moves a value by at most g / 2, so two values at most g further apart, and what is apart
    is then a whole number of steps: linf becomes (floor(linf / g) + 1) g; over m moved values l1
    grows by at most m g and l2 by sqrt(m) g. Equal values stay equal.
    """
    tight = sensitivity.tightened()
    if tight.linf == 0 or math.isinf(tight.linf):
        return tight
    return tight.bounded(
        l1=tight.l1 + tight.moved * granularity,
        l2=tight.l2 + math.sqrt(tight.moved) * granularity,
        linf=(math.floor(tight.linf / granularity) + 1) * granularity,
    )


def discrete_laplace(rng: Source, scale: float, shape: tuple[int, ...]) -> Tensor:
    """Returns whole numbers x with probability proportional to exp(-|x| / scale), int64.

    The difference of two geometric numbers has this law.

    Args:
        rng: where the random bits come from.
        scale: at most 2^40.
        shape: of the result.
    """
    count = math.prod(shape)
    return torch.from_numpy(_geometric(rng, scale, count) - _geometric(rng, scale, count)).reshape(shape)


def discrete_gaussian(rng: Source, sigma: float, shape: tuple[int, ...]) -> Tensor:
    """Returns whole numbers x with probability proportional to exp(-x^2 / 2 sigma^2), int64.

    Args:
        rng: where the random bits come from.
        sigma: at most 2^40; close to the standard deviation unless it is below 1.
        shape: of the result.

    References:
        Canonne, Kamath, Steinke, algorithm 3.
    """
    out = np.zeros(math.prod(shape), dtype=np.int64)
    wanted = np.arange(len(out))
    scale = math.floor(sigma) + 1
    while len(wanted):
        proposed = discrete_laplace(rng, scale, (len(wanted),)).numpy()
        taken = _accepts(rng, np.abs(proposed), sigma, scale)
        out[wanted[taken]] = proposed[taken]
        wanted = wanted[~taken]
    return torch.from_numpy(out).reshape(shape)


def _geometric(rng: Source, scale: float, count: int) -> np.ndarray:
    """Returns floor(-scale ln U), which is at least k with probability exp(-k / scale)."""
    unit = rng.uniform((count,)).numpy()
    ideal = -scale * np.log(unit)
    # U lies in (unit - 2^-53, unit]; a logarithm is right to 2^-48 of itself.
    with np.errstate(divide="ignore"):
        doubt = scale * (2.0**-_BITS / (unit - 2.0**-_BITS)) + (ideal + 1e-300) * 2.0**-48
    out = np.floor(ideal)
    for place in np.flatnonzero(~(np.floor(ideal - doubt) == np.floor(ideal + doubt))):
        out[place] = _exact_floor(rng, scale, float(unit[place]))
    return np.asarray(out, dtype=np.int64)


def _exact_floor(rng: Source, scale: float, unit: float) -> int:
    """Returns floor(-scale ln U) for U in (unit - 2^-53, unit], drawing bits until it is certain."""
    top, bits, factor = int(unit * 2**_BITS), _BITS, Decimal(scale)
    while True:
        top, bits = _finer(rng, top), bits + 64
        exact = Context(prec=bits)
        size = Decimal(2**bits)
        low = exact.multiply(factor, -exact.ln(exact.divide(Decimal(top), size)))
        if top > 1:
            high = exact.multiply(factor, -exact.ln(exact.divide(Decimal(top - 1), size)))
            if math.floor(low) == math.floor(high):
                return math.floor(low)


def _accepts(rng: Source, size: np.ndarray, sigma: float, scale: int) -> np.ndarray:
    """Returns, for each proposed size, true with probability exp(-(size - sigma^2 / scale)^2 / 2 sigma^2)."""
    unit = rng.uniform((len(size),)).numpy()
    # As ((size scale - sigma^2) / scale)^2 / 2 sigma^2; the error of the first factor is that of its larger term.
    apart = size / sigma - sigma / scale
    power = apart * apart / 2
    chance = np.exp(-power)
    doubt = 2.0**-_BITS + chance * 2.0**-46 * (1 + (size / sigma + 1) * np.abs(apart) + power)
    taken = unit <= chance
    for place in np.flatnonzero(np.abs(unit - chance) <= doubt):
        taken[place] = _exactly_below(rng, float(unit[place]), int(size[place]), sigma, scale)
    return np.asarray(taken)


def _exactly_below(rng: Source, unit: float, size: int, sigma: float, scale: int) -> bool:
    """Returns whether U <= exp(-power) for U in (unit - 2^-53, unit], drawing bits until it is certain."""
    square = Fraction(sigma) ** 2
    power = (size - square / scale) ** 2 / (2 * square)
    if power == 0:
        return True
    top, bits = int(unit * 2**_BITS), _BITS
    while True:
        top, bits = _finer(rng, top), bits + 64
        exact = Context(prec=bits)
        chance = exact.exp(-exact.divide(Decimal(power.numerator), Decimal(power.denominator))) * 2**bits
        if top <= chance - 1:
            return True
        if top - 1 >= chance + 1:
            return False


def _finer(rng: Source, top: int) -> int:
    """Returns the upper end, in steps 2^64 times finer, of a random one of the steps within (top - 1, top]."""
    high, low = (int(part) for part in rng.integers(2**32, 2))
    return ((top - 1) << 64) + (high << 32) + low + 1
