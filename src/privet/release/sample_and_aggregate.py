"""Sample and aggregate: any statistic, computed on disjoint random blocks, and the median of what they say.

Assumes nothing about the statistic but that it looks only at the records it is given. Cost: the
statistic once a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from dp_accounting.dp_event import DpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting import Relation
from privet.parts import Grade, part
from privet.randomness import Source
from privet.release.contract import Answer
from privet.release.median import Median


@part
class SampleAndAggregate(Answer):
    """Throws records into random blocks, computes a statistic of each, and answers with their private median.

    Each record's block is drawn independently of it and of all others, so one record, replaced, added or
    removed, changes the value of one block: for the median, one of always ``blocks`` values is replaced.

    Attributes:
        low, high: the declared range of the statistic; a block whose value is no number counts as ``low``.
        scale: in blocks: how many blocks further off is a factor e less likely.
        blocks: how many.
        steps: of the grid over the range.

    References:
        Nissim, Raskhodnikova, Smith, Smooth Sensitivity and Sampling in Private Data Analysis, STOC 2007,
        section 4; Smith, STOC 2011.
    """

    grade: ClassVar[Grade] = "derived"

    low: float
    high: float
    scale: Annotated[float, Field(gt=0)]
    blocks: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=1, le=10**6)] = 1000

    def __call__(self, records: Tensor, rng: Source, statistic: Callable[[Tensor], Any] = torch.mean) -> float:
        """Returns the answer.

        Args:
            records: shape (n, ...).
            rng: where blocks and choice come from.
            statistic: of the records of one block, shape (m, ...); not asked of an empty block.

        Raises:
            InputError: the range is empty.
        """
        block = torch.from_numpy(rng.integers(self.blocks, len(records)))
        shares = [records[block == number] for number in range(self.blocks)]
        values = [float(statistic(share)) if len(share) else math.nan for share in shares]
        return self._median()(torch.tensor(values, dtype=torch.float64), rng)

    def event(self, relation: Relation) -> DpEvent:
        """Returns what one answer costs: a record's block stays when the record is replaced, so one value changes."""
        return self._median().event("replace-one")

    def _median(self) -> Median:
        return Median(self.low, self.high, self.scale, self.steps)
