"""Squared distances between updates, the costly half of every rule of the Krum family."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 8192
"""Columns in a block: 100 float64 rows of them take 6.5 MB, which a processor's cache holds."""


def gram(updates: Tensor, centre: Tensor | None = None) -> Tensor:
    """Returns the inner product of every pair of updates, seen from a centre.

    Every point a rule may look for among the updates is a combination of them, so that its distances
    follow from these products alone: a search of many steps costs hardly more than one.

    Args:
        updates: shape (n, d), finite, float32 or float64; not changed.
        centre: shape (d,), float64. When None the mean of the shorter half of the rows: without a centre
            products lose digits when rows are long beside their differences, and one huge row would pull the
            mean of all away and drown the others' digits.

    Returns:
        Shape (n, n), float64; not finite where a product overflows. In blocks of columns: beside the updates
        it needs memory for one block.
    """
    shorter = None if centre is not None else shorter_half(updates)
    products = torch.zeros(updates.shape[0], updates.shape[0], dtype=torch.float64)
    for start in range(0, updates.shape[1], BLOCK):
        rows = updates[:, start : start + BLOCK].to(torch.float64, copy=True)
        rows -= shorter @ rows if shorter is not None else centre[start : start + BLOCK]  # type: ignore[index]
        products.addmm_(rows, rows.T)
    return products


def shorter_half(updates: Tensor) -> Tensor:
    """Returns the shares, shape (n,), float64, that make the mean of the shorter half of the rows."""
    n = updates.shape[0]
    half = (n + 1) // 2
    shares = torch.zeros(n, dtype=torch.float64)
    shares[torch.linalg.vector_norm(updates, dim=1).argsort(stable=True)[:half]] = 1 / half
    return shares


def squared_distances(updates: Tensor) -> Tensor:
    """Returns the squared Euclidean distance of every pair of updates.

    By a Gram product, |a - b|^2 = |a|^2 + |b|^2 - 2 a.b.

    Args:
        updates: shape (n, d), finite, float32 or float64; not changed.

    Returns:
        Shape (n, n), float64, symmetric, 0 on the diagonal; infinite where a square overflows.
    """
    products = gram(updates)
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - (products + products.T)).clamp_min(0)
    return distances.nan_to_num(nan=math.inf, posinf=math.inf).fill_diagonal_(0)


def distances_from(products: Tensor, shares: Tensor) -> Tensor:
    """Returns each update's distance from the point ``centre + sum of shares x (update - centre)``.

    Args:
        products: of :func:`gram`, shape (n, n), finite.
        shares: shape (n,), float64.

    Returns:
        Shape (n,), float64.
    """
    towards = products @ shares
    return (products.diagonal() - 2 * towards + shares @ towards).clamp_min(0).sqrt()
