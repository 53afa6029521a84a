"""The few directions in which rows vary most, and rows in units of their spread along them."""

from __future__ import annotations

import torch
from torch import Tensor

from privet.randomness import Source

_PASSES, _SPARE = 3, 8


class Principal:
    """Finds the directions by subspace iteration, which costs a few products with the rows.

    Args:
        rows: shape (m, d).
        most: directions to find at most.
        rng: of the first directions.

    Attributes:
        count: directions found.
        spread: standard deviation of the rows along each, shape (count,).

    References:
        Halko, Martinsson, Tropp, Finding Structure with Randomness (SIAM Review 2011), algorithm 4.4.
    """

    def __init__(self, rows: Tensor, most: int, rng: Source) -> None:
        values = rows.float()
        self._mean = values.mean(0)
        values = values - self._mean
        count = min(most, *values.shape)
        found = rng.normal((values.shape[1], min(count + _SPARE, *values.shape)))
        for _ in range(_PASSES):
            found = torch.linalg.qr(values.T @ (values @ found)).Q
        _, spread, turn = torch.linalg.svd(values @ found, full_matrices=False)
        self._directions = (found @ turn.T)[:, :count]
        # A direction in which nothing varies would blow rounding up to the size of a signal.
        spread = (spread / max(len(values) - 1, 1) ** 0.5)[:count]
        self.spread = spread.clamp_min(1e-3 * float(spread.max()) + 1e-12)
        self.count = count

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns rows (n, d) along the directions, in units of their spread, float32 (n, count)."""
        along: Tensor = (rows.float() - self._mean) @ self._directions / self.spread
        return along
