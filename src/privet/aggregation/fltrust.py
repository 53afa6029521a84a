"""FLTrust: updates count as far as they point where the coordinator's own points.

Paper: Cao, Fang, Liu, Gong, FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping, NDSS 2021.
Assumes that the coordinator holds a few rows that are like the fleet's; whoever holds other classes than these
rows counts for little. Stands any number of hostile updates as to size: the result is never longer than the
coordinator's own update. Cost: one pass for the angles, one for the mean, and training on the coordinator's rows.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import BLOCK
from privet.aggregation.mean import weighted_mean
from privet.errors import RefusedError
from privet.parts import Grade, part


@part
class Fltrust(Aggregator):
    """Averages updates of the trusted one's length, each by the cosine of its angle to it, or 0 if it is negative.

    When none points its way the model stays as it is.

    Attributes:
        examples: training rows that the coordinator holds itself and no device does; set aside at random.

    References:
        Cao et al., NDSS 2021, section IV, algorithm 2.
    """

    grade: ClassVar[Grade] = "measured"
    anchored: ClassVar[bool] = True

    examples: Annotated[int, Field(ge=1)] = 100

    @property
    def trusts(self) -> int:
        return self.examples

    def stands(self, n: int) -> int:
        """Returns n: the result is never longer than the trusted update."""
        return n

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        n = len(self.check(updates, weights))
        if around.trusted is None:
            raise RefusedError(
                "fltrust got no trusted update", do="let the coordinator train on rows of its own, or take another rule"
            )
        trusted = around.trusted.double()
        length, towards, squares = torch.linalg.vector_norm(trusted), torch.zeros(n).double(), torch.zeros(n).double()
        for start in range(0, len(trusted), BLOCK):
            rows = updates[:, start : start + BLOCK].double()
            towards.addmv_(rows, trusted[start : start + BLOCK])
            squares.add_((rows * rows).sum(1))
        lengths = squares.sqrt()
        trust = (towards / (lengths * length)).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        total = float(trust.sum())
        shares = trust * (length / lengths).nan_to_num(0.0, 0.0, 0.0) / (total or 1.0)
        update = weighted_mean(updates, shares)
        return Combined(update, trust > 0 if total else torch.zeros(n, dtype=torch.bool), 1 - trust)
