"""Bulyan: Krum chooses, then every coordinate keeps the values around its median.

Paper: El Mhamdi, Guerraoui, Rouault, The Hidden Vulnerability of Distributed Learning in Byzantium, ICML
2018. Assumes that at most ``byzantine`` of n >= 4 byzantine + 3 updates are hostile and that honest updates are
alike; it keeps few values of each coordinate, which costs accuracy where devices differ. Cost: one Gram product,
n - 2 f rounds of Krum on its (n, n) distances, and a sort of every column of those chosen, which is most of it.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import BLOCK, squared_distances
from privet.parts import Grade, part


def chosen_by_krum(distances: Tensor, byzantine: int, count: int) -> Tensor:
    """Returns the rows that Krum takes one after the other, each out of those that are left, shape (count,).

    Args:
        distances: squared, shape (n, n).
        byzantine: f; an update's score counts its nearest (left - f - 2), at least 1.
        count: how many to take, at most n.
    """
    left, taken = torch.arange(len(distances)), []
    for _ in range(count):
        nearest = distances[left][:, left].fill_diagonal_(math.inf).sort(dim=1).values[:, :-1]
        scores = nearest[:, : max(1, len(left) - byzantine - 2)].sum(1)
        # Two that are each other's only neighbour have one score; then the sum of all distances decides.
        best = int(np.lexsort((nearest.sum(1).numpy(), scores.numpy()))[0])
        taken.append(int(left[best]))
        left = torch.cat((left[:best], left[best + 1 :]))
    return torch.tensor(taken)


def mean_around_median(updates: Tensor, keep: int) -> Tensor:
    """Returns the mean of the ``keep`` values of every column that are closest to its median.

    In a sorted column these lie side by side; of all such windows it is the one whose farther end is nearest
    to the median.

    Args:
        updates: shape (n, d).
        keep: how many values, 1 to n.

    Returns:
        Shape (d,), float64. Works on blocks of columns.
    """
    n = updates.shape[0]
    means = torch.empty(updates.shape[1], dtype=torch.float64)
    for start in range(0, updates.shape[1], BLOCK):
        values = np.sort(updates[:, start : start + BLOCK].T.contiguous().numpy(), axis=1).astype(np.float64)
        median = values[:, (n - 1) // 2] / 2 + values[:, n // 2] / 2
        ends = np.maximum(median[:, None] - values[:, : n - keep + 1], values[:, keep - 1 :] - median[:, None])
        first = ends.argmin(axis=1)[:, None]
        places = np.arange(n)[None, :]
        inside = np.where((places >= first) & (places < first + keep), values, 0.0)
        means[start : start + BLOCK] = torch.from_numpy(inside.sum(axis=1) / keep)
    return means


@part
class Bulyan(Aggregator):
    """Takes n - 2 f updates by repeated Krum, then averages the n - 4 f values around each median; no weights.

    Attributes:
        byzantine: f, hostile updates to withstand; needs n >= 4 f + 3 updates.

    References:
        El Mhamdi et al., ICML 2018, section 4.
    """

    grade: ClassVar[Grade] = "measured"

    byzantine: Annotated[int, Field(ge=0)] = 1

    def minimum(self) -> int:
        """Returns 4 f + 3."""
        return 4 * self.byzantine + 3

    def stands(self, n: int) -> int:
        """Returns ``byzantine``."""
        return self.byzantine

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        n = len(self.check(updates, weights))
        taken = chosen_by_krum(squared_distances(updates), self.byzantine, n - 2 * self.byzantine)
        selected = torch.zeros(n, dtype=torch.bool)
        selected[taken] = True
        return Combined(mean_around_median(updates[selected], n - 4 * self.byzantine), selected)
