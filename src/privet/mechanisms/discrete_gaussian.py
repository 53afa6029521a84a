"""Discrete Gaussian noise on values rounded to a grid.

Assumes that the sensitivity was bounded before. Exact: what leaves is a multiple of ``granularity``
with exactly the derived law, so the gaps between floats tell nothing. Cost: about five uniforms a value.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, NoOpDpEvent, ZCDpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.mechanisms.integer_noise import Granularity, discrete_gaussian, rounded, to_grid
from privet.parts import Grade, part
from privet.randomness import Source


@part
class DiscreteGaussian(Mechanism):
    """Rounds every value to a grid and adds discrete Gaussian noise, which is exact.

    Its event is zero-concentrated privacy of rho = l2^2 / 2 sigma^2, with the l2 after rounding:
    every Renyi divergence is at most that of continuous noise. The same is not true of each delta:
    at sigma of .3 steps the total variation of neighbours is .99 where continuous noise has .90, so
    a Gaussian event would claim too much. The gradient is that of the identity.

    Attributes:
        sigma: of the probabilities ~ exp(-x^2 / 2 sigma^2) on multiples of the granularity, in units of
            the values.
        granularity: the step of the grid, a power of two; small beside ``sigma`` it costs little.

    References:
        Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020, theorem 4
        and algorithm 3.
    """

    grade: ClassVar[Grade] = "derived"
    adds_noise: ClassVar[bool] = True
    straight_through: ClassVar[bool] = True

    sigma: Annotated[float, Field(gt=0, le=2.0**40)]
    granularity: Granularity = 2.0**-10

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        steps = to_grid(value, self.granularity)
        steps += discrete_gaussian(rng, self.sigma / self.granularity, tuple(value.shape))
        return self.passing_gradient(value, steps.double() * self.granularity)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        """Returns the sensitivity after rounding: the same noise moves neighbours alike."""
        return rounded(sensitivity, self.granularity)

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` where l2 is unbounded."""
        l2 = rounded(sensitivity, self.granularity).l2
        if math.isinf(l2):
            return NonPrivateDpEvent()
        return ZCDpEvent(0.5 * (l2 / self.sigma) ** 2) if l2 > 0 else NoOpDpEvent()
