"""Laplace noise on every value.

Assumes that the sensitivity was bounded before. Noise is drawn in float32: the gaps between floats
that Mironov (CCS 2012) describes remain. Cost: one draw a value.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from dp_accounting.dp_event import DpEvent, LaplaceDpEvent, NonPrivateDpEvent, NoOpDpEvent, SelfComposedDpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Laplace(Mechanism):
    """Adds independent Laplace noise of one scale to every value.

    Its event is k releases of one value each, k = l1 / linf rounded up: among all ways to spend an l1
    budget with no value moving by more than linf, this one loses most. That is exact where every
    moved value may move by linf (clamping, normalising) and where one vector is bounded in l1;
    otherwise it holds for pure and Renyi privacy, whose cost is convex in the shift, and was checked
    numerically for the rest.

    Attributes:
        scale: the scale b of the density exp(-|x| / b) / 2b, in units of the values; the standard
            deviation is sqrt(2) b.

    References:
        Dwork and Roth, The Algorithmic Foundations of Differential Privacy, theorem 3.6.
    """

    grade: ClassVar[Grade] = "derived"
    adds_noise: ClassVar[bool] = True

    scale: Annotated[float, Field(gt=0)]

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        return torch.add(value, rng.laplace(tuple(value.shape)).to(value), alpha=self.scale)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        """Returns the sensitivity unchanged: the same noise moves neighbours alike."""
        return sensitivity

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` where l1 is unbounded."""
        tight = sensitivity.tightened()
        if math.isinf(tight.l1):
            return NonPrivateDpEvent()
        if tight.l1 == 0:
            return NoOpDpEvent()
        one = LaplaceDpEvent(self.scale / tight.linf)
        values = math.ceil(tight.l1 / tight.linf * (1 - 1e-12))  # 3 * 0.1 / 0.1 is 3, not 4
        return one if values == 1 else SelfComposedDpEvent(one, values)
