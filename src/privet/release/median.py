"""The median of values in a declared range, by the exponential mechanism.

Assumes one value a record. The answer is a point of a fixed grid, so its bits tell nothing of the
values'. Cost: a sort, and two logarithms a point of the grid.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from dp_accounting.dp_event import DpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting import Relation, Sensitivity
from privet.errors import InputError
from privet.mechanisms.exponential import Exponential
from privet.parts import Grade, part
from privet.randomness import Source
from privet.release.contract import Answer


@part
class Median(Answer):
    """Picks a point of a grid with probability ~ exp(score / scale), its score minus the ranks it is off the median.

    The score of a point is -max(0, values below - n / 2, values above - n / 2). Replacing a record moves it by
    at most 1, adding or removing one by at most 1 / 2.

    Attributes:
        low, high: the declared range; what lies outside counts as its nearer end.
        scale: in ranks: how many ranks further off is a factor e less likely.
        steps: of the grid over the range.

    References:
        McSherry and Talwar, FOCS 2007; Smith, Privacy-Preserving Statistical Estimation with Optimal
        Convergence Rates, STOC 2011, section 3 (the score by rank).
    """

    grade: ClassVar[Grade] = "derived"

    low: float
    high: float
    scale: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1, le=10**6)] = 1000

    def __call__(self, records: Tensor, rng: Source) -> float:
        """Returns the answer.

        Args:
            records: shape (n,); what is no number counts as ``low``.
            rng: where the choice comes from.

        Raises:
            InputError: the range is empty.
        """
        if not self.low < self.high:
            raise InputError(f"median from {self.low} to {self.high}", allowed="low below high")
        values = records.double().nan_to_num(nan=self.low).clamp(self.low, self.high).sort().values
        grid = torch.linspace(self.low, self.high, self.steps + 1, dtype=torch.float64)
        below, above = (torch.searchsorted(values, grid, right=right) for right in (False, True))
        half = len(values) / 2
        scores = -torch.maximum(below - half, len(values) - above - half).clamp_min(0)
        return float(grid[Exponential(self.scale)(scores, rng).argmax()])

    def event(self, relation: Relation) -> DpEvent:
        moved = 1.0 if relation == "replace-one" else 0.5
        record = Sensitivity("record", relation, dimension=self.steps + 1)
        return Exponential(self.scale).event(record.bounded(linf=moved))
