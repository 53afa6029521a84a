"""The published obfuscator with a hidden layer."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from privet.inference.obfuscators.contract import Sides, ThroughModel, activation
from privet.parts import Grade, part


@part
class Obfnet2(ThroughModel):
    """ObfNet2: a hidden layer of 1,000 and an output of the sample's size; 1,569,784 parameters on 28 x 28.

    The document trains ten and lets each participant pick one at random. Its promise fails as that of ``obfnet1``.

    Attributes:
        hidden: units of the hidden layer.

    References:
        Zheng, Xu, Jiang, Gu, Tan, Cheng, Challenges of Privacy-Preserving Machine Learning in IoT, AIChallengeIoT 2019,
        sections 3.2 and 3.3.
    """

    grade: ClassVar[Grade] = "measured"

    hidden: Annotated[int, Field(ge=1)] = 1000

    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        size = math.prod(shape)
        layers = (nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, size), *activation(shape))
        return Sides(nn.Sequential(nn.Flatten(), *layers), nn.Unflatten(1, shape))
