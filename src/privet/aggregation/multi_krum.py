"""Multi-Krum: the mean of the updates that are closest to their neighbours.

Paper: Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017; Zhao et al., section IV.B.
Assumes what Krum assumes. Cost: one Gram product of the updates and one pass.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.krum import krum_scores
from privet.aggregation.mean import weighted_mean
from privet.parts import Grade, part


@part
class MultiKrum(Aggregator):
    """Averages, by weight, the updates with the lowest Krum scores.

    The score of an update is the sum of squared distances to its n - f - 2 nearest others; equal
    scores go to the first. Blanchard's theory covers selected <= n - f - 2; the default, n - f, is
    that of Zhao et al. and was only measured.

    Attributes:
        byzantine: f, hostile updates to withstand; needs n >= 2 f + 3 updates.
        selected: how many updates are averaged; n - f when not given.

    References:
        Blanchard et al., NeurIPS 2017, section 4; Zhao et al., section IV.B, equation 1.
    """

    grade: ClassVar[Grade] = "measured"

    byzantine: Annotated[int, Field(ge=0)] = 1
    selected: Annotated[int, Field(ge=1)] | None = None

    def minimum(self) -> int:
        """Returns 2 f + 3, or ``selected`` where that is more."""
        return max(2 * self.byzantine + 3, self.selected or 0)

    def stands(self, n: int) -> int:
        """Returns ``byzantine``, as long as not more than n - f updates are averaged."""
        return self.byzantine if self.selected is None or self.selected <= n - self.byzantine else 0

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        shares = self.check(updates, weights)
        scores = krum_scores(updates, self.byzantine)
        best = scores.argsort(stable=True)[: self.selected or len(scores) - self.byzantine]
        selected = torch.zeros(len(scores), dtype=torch.bool)
        selected[best] = True
        shares = shares * selected
        return Combined(weighted_mean(updates, shares / shares.sum()), selected, scores)
