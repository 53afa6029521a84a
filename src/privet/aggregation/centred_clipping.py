"""Centred clipping: no update moves the result by more than a radius from where it was.

Paper: Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization, ICML 2021. Assumes that
fewer than half of the updates are hostile and that the last result is a fair guess of the next. Hostile updates
inside the radius count in full, so that a push in one direction over many rounds works. Cost: one Gram product
and one pass. Memory: one vector.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import distances_from, gram
from privet.aggregation.mean import weighted_mean
from privet.parts import Grade, part


@part
class CentredClipping(Aggregator):
    """Averages the updates, each pulled to within a radius of the last round's result; weights don't count.

    The first round starts from 0. An update so long that its square overflows is left out.

    Attributes:
        radius: how far from the centre an update counts in full; the median distance when not given.
        steps: how often the mean becomes the next centre within a round.

    References:
        Karimireddy et al., ICML 2021, section 4, equation 8; their algorithm 2 keeps the momentum on the devices.
    """

    grade: ClassVar[Grade] = "measured"
    anchored: ClassVar[bool] = True

    radius: Annotated[float, Field(gt=0)] | None = None
    steps: Annotated[int, Field(ge=1)] = 3

    def stands(self, n: int) -> int:
        """Returns fewer than half of n with the median distance; any number with a radius, which is then small."""
        return max(0, (n - 1) // 2) if self.radius is None else 0

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        n = len(self.check(updates, weights))
        centre = around.memory.get("centre", torch.zeros(updates.shape[1])).double()
        products, shares = gram(updates, centre), torch.zeros(n, dtype=torch.float64)
        near = products.diagonal().isfinite()
        products = torch.where(near[:, None] & near[None, :], products, 0.0)
        for _ in range(self.steps):
            distances = distances_from(products, shares)
            radius = float(distances[near].median()) if self.radius is None else self.radius
            pulled = near * torch.where(distances > radius, radius / distances, 1.0)
            shares = shares * (1 - pulled.mean()) + pulled / n
        update = weighted_mean(updates, shares).add_(centre, alpha=1 - float(shares.sum()))
        return Combined(update, near, distances_from(products, shares), memory={"centre": update.clone()})
