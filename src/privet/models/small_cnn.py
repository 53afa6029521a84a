"""A convolutional network that a small device can afford: every convolution halves its maps."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part

_Channels = Annotated[int, Field(ge=1)]


@part
class SmallCnn(Model):
    """Three convolutions of stride 2 with batch normalisation, one linear layer; 62,840 multiplications on 28 x 28.

    Training couples the records of a batch (batch normalisation); once trained, the normalisation is a scale and a
    shift that a device can fold into the convolution before it.

    Attributes:
        maps: channels of the three convolutions; the first has a window of 5 x 5, the others of 3 x 3.
    """

    grade: ClassVar[Grade] = "measured"

    maps: tuple[_Channels, _Channels, _Channels] = (4, 10, 16)

    @property
    def couples_records(self) -> bool:
        return True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 8 or shape[2] < 8:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 8 x 8")
        first, second, third = self.maps
        height, width = (-(-side // 8) for side in shape[1:])
        return nn.Sequential(
            OrderedDict(
                first=_halving(shape[0], first, 5),
                second=_halving(first, second, 3),
                third=_halving(second, third, 3),
                features=nn.Flatten(),
                logits=nn.Linear(third * height * width, classes),
            )
        )


def _halving(before: int, after: int, window: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, window, stride=2, padding=window // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())
