"""Values that no sensor delivered."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privet.fleet.imperfections.contract import Imperfection
from privet.parts import Grade, part
from privet.randomness import Source


@part
class MissingValues(Imperfection):
    """Some of the values are missing, and the device fills the gaps as well as it can.

    Attributes:
        share: of the values that are missing.
        where: ``scattered`` over rows and places, each by its own coin; ``places``: the same places in all rows, as
            from sensors that the device lacks.
        fill: what stands in the gaps: ``zero``, or the ``mean`` of what the device has at that place in other rows,
            and 0 where it has nothing.

    References:
        Rubin, Inference and Missing Data, Biometrika 1976 (values missing completely at random).
    """

    grade: ClassVar[Grade] = "derived"

    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    where: Literal["scattered", "places"] = "scattered"
    fill: Literal["zero", "mean"] = "mean"

    def spoil(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns inputs with filled gaps, and the same labels."""
        values = inputs.flatten(1)
        coins = values.shape if self.where == "scattered" else values.shape[1:]
        missing = (rng.uniform(tuple(coins)) < self.share).expand_as(values)
        standing = torch.zeros(values.shape[1])
        if self.fill == "mean":
            standing = values.masked_fill(missing, 0).sum(0) / (~missing).sum(0).clamp_min(1)
        return torch.where(missing, standing.to(values.dtype), values).view(inputs.shape), labels
