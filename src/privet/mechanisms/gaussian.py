"""Gaussian noise on every value.

Assumes that the sensitivity was bounded before. Noise is drawn in float32: the gaps between floats
that Mironov (CCS 2012) describes remain. Cost: one draw a value.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from dp_accounting.dp_event import DpEvent, GaussianDpEvent, NonPrivateDpEvent, NoOpDpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Gaussian(Mechanism):
    """Adds independent Gaussian noise of one standard deviation to every value.

    Its event is one release with noise multiplier sigma / l2: only the l2 norm of the change counts.

    Attributes:
        sigma: the standard deviation, in units of the values.

    References:
        Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018.
    """

    grade: ClassVar[Grade] = "derived"
    adds_noise: ClassVar[bool] = True

    sigma: Annotated[float, Field(gt=0)]

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        return torch.add(value, rng.normal(tuple(value.shape)).to(value), alpha=self.sigma)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        """Returns the sensitivity unchanged: the same noise moves neighbours alike."""
        return sensitivity

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` where l2 is unbounded."""
        l2 = sensitivity.tightened().l2
        if math.isinf(l2):
            return NonPrivateDpEvent()
        return GaussianDpEvent(self.sigma / l2) if l2 > 0 else NoOpDpEvent()
