"""An obfuscator through which few numbers pass."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from privet.inference.obfuscators.contract import Sides, ThroughModel, activation
from privet.parts import Grade, part


@part
class Bottleneck(ThroughModel):
    """A hidden layer, a few values, a hidden layer, and an output of the sample's size.

    Fewer values tell less, and cost accuracy; a value that is a float is still a name of its sample.

    Attributes:
        width: how many values pass.
        hidden: units of the two hidden layers.
    """

    grade: ClassVar[Grade] = "measured"

    width: Annotated[int, Field(ge=1)] = 16
    hidden: Annotated[int, Field(ge=1)] = 256

    @property
    def dimension(self) -> int:
        return self.width

    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        size = math.prod(shape)
        encoder = (nn.Flatten(), nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.width))
        decoder = (nn.Linear(self.width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, size), *activation(shape))
        return Sides(nn.Sequential(*encoder), nn.Sequential(*decoder, nn.Unflatten(1, shape)))
