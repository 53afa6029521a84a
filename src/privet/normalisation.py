"""Bringing values into a fixed range: the two normalisations that models and mechanisms share.

Both are pure, differentiable functions of one tensor. Their results never leave ``[-bound, bound]``,
whatever comes in: the limit is rounded towards zero in the value's own precision, and what can't be
normalised (a constant, or values that are not finite) becomes 0.

References:
    Zhao et al., Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices, section IV.C.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor


@functools.cache
def _within(bound: float, dtype: torch.dtype) -> float:
    """Returns the largest number of a floating-point type that does not exceed ``bound``."""
    limit = torch.tensor(bound, dtype=dtype)
    if limit.item() > bound:
        limit = torch.nextafter(limit, torch.zeros_like(limit))
    return limit.item()


class _MinMax(torch.autograd.Function):
    """Written out because autograd's own masks for minimum and maximum cost three times the whole rest."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, limit: float, dim: int) -> Tensor:
        low, at_low = value.min(dim, keepdim=True)
        high, at_high = value.max(dim, keepdim=True)
        spread = high - low
        usable = (spread > 0) & (spread < math.inf)
        # Rounding is monotone, so the quotient stays in [0, 1] and the result in [-limit, limit] exactly.
        part = (value - low).div_(torch.where(usable, spread, 1))
        out = torch.where(usable, part.mul_(2 * limit).sub_(limit), 0)
        ctx.save_for_backward(out, torch.where(usable, 2 * limit / spread, 0), at_low, at_high)
        ctx.limit, ctx.dim = limit, dim
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        out, slope, at_low, at_high = ctx.saved_tensors
        gradient = gradients[0] * slope
        total = gradient.sum(ctx.dim, keepdim=True)
        leaning = (gradient * out).sum(ctx.dim, keepdim=True) / ctx.limit
        gradient.scatter_add_(ctx.dim, at_low, (leaning - total) / 2)
        gradient.scatter_add_(ctx.dim, at_high, (leaning + total) / -2)
        return gradient, None, None


def min_max(value: Tensor, bound: float, dim: int) -> Tensor:
    """Maps the smallest value along ``dim`` to ``-bound`` and the largest to ``bound``, linearly.

    The gradient is exact; where several values share the minimum or maximum, the first takes its part.

    Args:
        value: floating-point values of any shape.
        bound: the end of the range, above 0.
        dim: the dimension over which smallest and largest are taken.

    Returns:
        A tensor of the same shape and dtype; 0 where the slice is constant or not finite.
    """
    return _MinMax.apply(value, _within(bound, value.dtype), dim)  # type: ignore[no-untyped-call,no-any-return]


def standardise(value: Tensor, bound: float, dim: int) -> Tensor:
    """Gives the values along ``dim`` mean 0 and variance 1, then clamps them to ``[-bound, bound]``.

    With n values along ``dim``, Cauchy-Schwarz keeps each within sqrt(n - 1), so that for a bound of
    at least that the clamp only removes rounding.

    Args:
        value: floating-point values of any shape.
        bound: the end of the range, above 0.
        dim: the dimension over which mean and (biased) variance are taken.

    Returns:
        A tensor of the same shape and dtype; 0 where the slice is constant up to rounding, not
        finite, or has a variance outside the range of its dtype.
    """
    limit = _within(bound, value.dtype)
    mean = value.mean(dim, keepdim=True)
    centred = value - mean
    variance = centred.square().mean(dim, keepdim=True)
    rounding = (4 * torch.finfo(value.dtype).eps * mean).square()
    usable = (variance > rounding) & (variance < math.inf)
    scaled = centred * torch.where(usable, variance, 1).rsqrt()
    return torch.where(usable, scaled.clamp(-limit, limit), 0)
