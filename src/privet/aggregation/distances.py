"""Squared distances between updates, the costly half of every rule of the Krum family."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCK = 8192
"""Columns in a block: 100 float64 rows of them take 6.5 MB, which a processor's cache holds."""


def squared_distances(updates: Tensor) -> Tensor:
    """Returns the squared Euclidean distance of every pair of updates.

    By a Gram product, |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, which loses digits when the rows are long
    beside their differences. So a centre is subtracted first: the mean of the shorter half of the
    rows, because one huge row would pull the mean of all away and drown the others' digits.

    Args:
        updates: shape (n, d), finite, float32 or float64; not changed.

    Returns:
        Shape (n, n), float64, symmetric, 0 on the diagonal; infinite where a square overflows. In
        blocks of columns: beside the updates it needs memory for one block.
    """
    n = updates.shape[0]
    lengths = torch.linalg.vector_norm(updates, dim=1)
    shorter = torch.zeros(n, dtype=torch.float64)
    half = (n + 1) // 2
    shorter[lengths.argsort(stable=True)[:half]] = 1 / half
    gram = torch.zeros(n, n, dtype=torch.float64)
    for start in range(0, updates.shape[1], _BLOCK):
        rows = updates[:, start : start + _BLOCK].to(torch.float64, copy=True)
        rows -= shorter @ rows
        gram.addmm_(rows, rows.T)
    squares = gram.diagonal()
    distances = (squares[:, None] + squares[None, :] - (gram + gram.T)).clamp_min(0)
    return distances.nan_to_num(nan=math.inf, posinf=math.inf).fill_diagonal_(0)
