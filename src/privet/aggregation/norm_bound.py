"""Norm bound: no update counts with more than a length.

Paper: Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?, 2019. Assumes that what a
hostile device needs is length; one that stays within the bound moves the mean by bound / n in any direction, each
round. Cost: one pass for the lengths, one for the mean.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.mean import Mean, weighted_mean
from privet.mechanisms.clip import Clip
from privet.parts import Grade, part


@part
class NormBound(Aggregator):
    """Shortens every update to a length, then averages them; weights don't count.

    With a limit given, what it does to the sensitivity of a device is that of the clip mechanism followed by a
    mean with equal weights; the coordinator clips, so it must be trusted with what it received.

    Attributes:
        limit: the length (l2 norm) above which an update is shortened to it; the median length when not given.

    References:
        Sun et al., 2019, section 3 (norm thresholding).
    """

    grade: ClassVar[Grade] = "derived"
    anchored: ClassVar[bool] = True

    limit: Annotated[float, Field(gt=0)] | None = None

    def stands(self, n: int) -> int:
        """Returns fewer than half of n with the median length; with a limit the result is never longer than it."""
        return max(0, (n - 1) // 2) if self.limit is None else 0

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        n = len(self.check(updates, weights))
        lengths = torch.linalg.vector_norm(updates, dim=1, dtype=torch.float64)
        limit = float(lengths.median()) if self.limit is None else self.limit * (1 - 1e-12)
        shrink = torch.where(lengths > limit, limit / lengths, 1.0)
        return Combined(weighted_mean(updates, shrink / n), torch.ones(n, dtype=torch.bool), lengths)

    def bound(self, sensitivity: Sensitivity, n: int) -> Sensitivity:
        """Returns that of a clip to the limit and a mean of n with equal weights; unbounded without a limit.

        Args:
            sensitivity: of one device's update.
            n: how many updates are averaged at least.
        """
        limit = math.inf if self.limit is None else self.limit
        if math.isinf(limit):
            return super().bound(sensitivity, n)
        return Mean(equal_weights=True).bound(Clip(limit).bound(sensitivity), n)
