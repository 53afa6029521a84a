"""The median of every coordinate by itself.

Paper: Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 1. Assumes that fewer
than half of the updates are hostile. Cost: one sort of every column.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.trimmed_mean import mean_of_middle
from privet.parts import Grade, part


@part
class CoordinateMedian(Aggregator):
    """Takes the median of each coordinate, of an even number the mean of the middle two; weights don't count.

    References:
        Yin et al., ICML 2018, definition 1.
    """

    grade: ClassVar[Grade] = "measured"

    def stands(self, n: int) -> int:
        """Returns fewer than half of n."""
        return max(0, (n - 1) // 2)

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        n = len(self.check(updates, weights))
        return Combined(mean_of_middle(updates, (n - 1) // 2), torch.ones(n, dtype=torch.bool))
