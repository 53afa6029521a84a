"""Krum: the one update that is closest to its neighbours.

Paper: Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017. Assumes that at most
``byzantine`` of n >= 2 byzantine + 3 updates are hostile and that honest updates are alike; a fleet
with very different data loses its odd devices each round. Cost: one Gram product of the updates.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import squared_distances
from privet.parts import Grade, part


def krum_scores(updates: Tensor, byzantine: int) -> Tensor:
    """Returns each update's sum of squared distances to its n - byzantine - 2 nearest others.

    Args:
        updates: shape (n, d), finite, n >= byzantine + 3.
        byzantine: hostile updates to withstand.

    Returns:
        Shape (n,), float64; lower is closer to the crowd.
    """
    distances = squared_distances(updates).fill_diagonal_(math.inf)
    nearest = distances.sort(dim=1).values[:, : updates.shape[0] - byzantine - 2]
    return nearest.sum(1)


@part
class Krum(Aggregator):
    """Takes the one update whose nearest neighbours are closest; weights don't count.

    Attributes:
        byzantine: f, hostile updates to withstand; needs n >= 2 f + 3 updates.

    References:
        Blanchard et al., NeurIPS 2017, section 4; Zhao et al., section IV.B, equation 1.
    """

    grade: ClassVar[Grade] = "measured"

    byzantine: Annotated[int, Field(ge=0)] = 1

    def minimum(self) -> int:
        """Returns 2 f + 3."""
        return 2 * self.byzantine + 3

    def stands(self, n: int) -> int:
        """Returns ``byzantine``."""
        return self.byzantine

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        self.check(updates, weights)
        scores = krum_scores(updates, self.byzantine)
        best = int(scores.argsort(stable=True)[0])
        selected = torch.zeros(len(scores), dtype=torch.bool)
        selected[best] = True
        return Combined(updates[best].to(torch.float64, copy=True), selected, scores)
