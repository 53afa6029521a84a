"""Clip every vector to a ball, so that noise has a sensitivity to be scaled to.

Cost: one pass over the values for the norm, one for the result. Assumes nothing about the input.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Clip(Mechanism):
    """Bounds the norm of every vector: l1 and l2 by rescaling, linf by clamping each value.

    A vector with a value that is not finite becomes 0, so the bound holds on any input. What comes
    out stays two units of rounding of its dtype below ``limit``; vectors inside that pass unchanged.

    The derived sensitivity, for a unit that owns v vectors of d values, each of which moves by at
    most c = limit (added or removed) or c = 2 limit (replaced): the l1 clip gives l1 = v c and
    l2 = sqrt(v) c, the l2 clip l2 = sqrt(v) c and l1 = v sqrt(d) c, the linf clip l1 = v d c and
    l2 = sqrt(v d) c; linf = c always. One coordinate, everything else held fixed, moves its whole
    vector when the vector is rescaled and only itself when it is clamped; c = 2 limit in both.

    Attributes:
        limit: the largest norm that passes, in units of the values.
        norm: which norm, over the last dimension.

    References:
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016, section 3.1.
    """

    grade: ClassVar[Grade] = "derived"

    limit: Annotated[float, Field(gt=0)]
    norm: Literal["l1", "l2", "linf"] = "l2"

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        limit = self.limit * (1 - 2 * torch.finfo(value.dtype).eps)
        finite = value.detach().abs().amax(-1, keepdim=True) < math.inf
        value = torch.where(finite, value, 0)
        if self.norm == "linf":
            return value.clamp(-limit, limit)
        order = 1 if self.norm == "l1" else 2
        size = torch.linalg.vector_norm(value, order, dim=-1, keepdim=True, dtype=torch.float64)
        shrink: Tensor = limit / size.clamp_min(limit)
        return value * shrink.to(value.dtype)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        change = sensitivity.neighbours * self.limit
        if self.norm == "linf":  # clamping moves no two values apart, so bounds from before stay
            return sensitivity.bounded(l1=sensitivity.l1, l2=sensitivity.l2, linf=min(sensitivity.linf, change))
        vectors = sensitivity.vectors
        if sensitivity.unit == "coordinate":
            sensitivity, vectors = replace(sensitivity, spread=True), 1
        l1 = vectors * change if self.norm == "l1" else math.inf
        return sensitivity.bounded(l1=l1, l2=math.sqrt(vectors) * change, linf=change)
