"""VGG16 and VGG19."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@part
class Vgg(Model):
    """VGG16 or VGG19: five blocks of 3 x 3 convolutions of 64 to 512 channels with pooling after each, linear layers.

    Pooling rounds up, so that images smaller than 32 x 32 fit too; at 32, 64, 96, ... it makes no difference.

    Attributes:
        depth: 16 has 13 convolutions, 19 has 16; each with three linear layers.
        hidden: widths of the hidden linear layers.

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, table 1,
        columns D and E.
    """

    grade: ClassVar[Grade] = "experimental"
    cut_points: ClassVar[tuple[str, ...]] = ("features", "pooling1", "pooling2", "pooling3", "pooling4")

    depth: Literal[16, 19] = 16
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (4096, 4096)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 16 or shape[2] < 16:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 16 x 16")
        stages: list[tuple[str, nn.Module]] = []
        before = shape[0]
        for block, (count, channels) in enumerate(zip(CONVOLUTIONS[self.depth], CHANNELS, strict=True), start=1):
            for place in range(1, count + 1):
                stages.append((f"convolution{block}{place}", nn.Conv2d(before, channels, 3, padding=1)))
                stages.append((f"activation{block}{place}", nn.ReLU()))
                before = channels
            stages.append((f"pooling{block}", nn.MaxPool2d(2, ceil_mode=True)))
        stages.append(("features", nn.Flatten()))
        widths = (before * math.ceil(shape[1] / 32) * math.ceil(shape[2] / 32), *self.hidden)
        for number, (wide, narrow) in enumerate(itertools.pairwise(widths), start=1):
            stages += [(f"linear{number}", nn.Linear(wide, narrow)), (f"hidden{number}", nn.ReLU())]
        return nn.Sequential(OrderedDict([*stages, ("logits", nn.Linear(widths[-1], classes))]))
