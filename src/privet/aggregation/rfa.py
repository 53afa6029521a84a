"""Robust federated aggregation: the geometric median.

Paper: Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE Transactions on Signal
Processing 2022. Assumes that fewer than half of the updates are hostile; the nearer to half, the farther they
pull. Cost: one Gram product and one pass; each step of the search is an (n, n) product.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import distances_from, gram, shorter_half
from privet.aggregation.mean import weighted_mean
from privet.errors import InputError
from privet.parts import Grade, part


@part
class Rfa(Aggregator):
    """Takes the point whose summed distance (not squared) to all updates is smallest; weights don't count.

    By the smoothed Weiszfeld search, from the mean of the shorter half of the updates. An update so long that its
    square overflows is left out.

    Attributes:
        steps: of the search at most; it ends earlier when no share of an update changes by 1e-9.
        smoothing: distances below this, as a fraction of the median distance, count as this.

    References:
        Pillutla et al., 2022, algorithm 2; Weiszfeld, Tohoku Mathematical Journal 1937.
    """

    grade: ClassVar[Grade] = "measured"

    steps: Annotated[int, Field(ge=1)] = 100
    smoothing: Annotated[float, Field(gt=0)] = 1e-6

    def stands(self, n: int) -> int:
        """Returns a quarter of n: up to half of n the result stays bounded, but ever farther away."""
        return n // 4

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        self.check(updates, weights)
        products, shares = gram(updates), shorter_half(updates)
        near = products.diagonal().isfinite()
        if not near.any():
            raise InputError("the squared lengths of all updates overflow", do="leave such updates out")
        products = torch.where(near[:, None] & near[None, :], products, 0.0)
        for _ in range(self.steps):
            distances = distances_from(products, shares)
            floor = self.smoothing * float(distances[near].median()) or 1.0  # all at one point: any will do
            pull = near / distances.clamp_min(floor)
            before, shares = shares, pull / pull.sum()
            if float((shares - before).abs().max()) < 1e-9:
                break
        return Combined(weighted_mean(updates, shares), near, distances_from(products, shares))
