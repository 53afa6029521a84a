"""Two-sided geometric (discrete Laplace) noise on values rounded to a grid.

Assumes that the sensitivity was bounded before. Exact: what leaves is a multiple of ``granularity``
with exactly the derived law, so the gaps between floats tell nothing. Cost: two logarithms a value.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from dp_accounting.dp_event import (
    ComposedDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    SelfComposedDpEvent,
)
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.mechanisms.integer_noise import Granularity, discrete_laplace, rounded, to_grid
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Geometric(Mechanism):
    """Rounds every value to a grid and adds two-sided geometric noise, which is exact and purely private.

    Its event spends the l1 budget, in whole steps, on as few values as linf allows, which loses most, as
    for Laplace noise; rounding lets every moved value move by one step more. The gradient is that of
    the identity.

    Attributes:
        scale: the b of the probabilities ~ exp(-|x| / b) on multiples of the granularity, in units of
            the values.
        granularity: the step of the grid, a power of two; small beside ``scale`` it costs little.

    References:
        Ghosh, Roughgarden, Sundararajan, Universally Utility-Maximizing Privacy Mechanisms, STOC 2009,
        definition 2.1; Canonne, Kamath, Steinke, NeurIPS 2020, algorithm 2.
    """

    grade: ClassVar[Grade] = "derived"
    adds_noise: ClassVar[bool] = True
    straight_through: ClassVar[bool] = True

    scale: Annotated[float, Field(gt=0, le=2.0**40)]
    granularity: Granularity = 2.0**-10

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        steps = to_grid(value, self.granularity)
        steps += discrete_laplace(rng, self.scale / self.granularity, tuple(value.shape))
        return self.passing_gradient(value, steps.double() * self.granularity)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        """Returns the sensitivity after rounding: the same noise moves neighbours alike."""
        return rounded(sensitivity, self.granularity)

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` where l1 is unbounded."""
        tight = rounded(sensitivity, self.granularity)
        if math.isinf(tight.l1):
            return NonPrivateDpEvent()
        if tight.l1 == 0:
            return NoOpDpEvent()
        loss, most = self.granularity / self.scale, math.ceil(tight.linf / self.granularity)
        full, rest = divmod(math.ceil(tight.l1 / self.granularity * (1 - 1e-12)), most)
        one, last = DiscreteLaplaceDpEvent(loss, most), DiscreteLaplaceDpEvent(loss, rest)
        if full == 0:
            return last
        several = one if full == 1 else SelfComposedDpEvent(one, full)
        return ComposedDpEvent([several, last]) if rest else several
