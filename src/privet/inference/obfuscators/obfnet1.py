"""The published obfuscator with one layer."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from privet.inference.obfuscators.contract import Sides, ThroughModel, activation
from privet.parts import Grade, part


@part
class Obfnet1(ThroughModel):
    """ObfNet1: one linear layer from all values of a sample to as many, and ReLU; 615,440 parameters on 28 x 28.

    It keeps the model's accuracy and not its promise: an inverse learned from 20,000 pairs recovers the samples, and
    whoever knows the layer recognises them all.

    References:
        Zheng, Xu, Jiang, Gu, Tan, Cheng, Challenges of Privacy-Preserving Machine Learning in IoT, AIChallengeIoT 2019,
        sections 3.2 and 3.3.
    """

    grade: ClassVar[Grade] = "measured"

    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        size = math.prod(shape)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, size), *activation(shape))
        return Sides(encoder, nn.Unflatten(1, shape))
