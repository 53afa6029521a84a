"""An obfuscator of few convolutions: what the published idea becomes where samples are photographs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from privet.errors import PartError
from privet.inference.obfuscators.contract import Sides, ThroughModel, activation
from privet.parts import Grade, part


@part
class Convolutional(ThroughModel):
    """Two convolutions at half the size and one that draws an image of the sample's size.

    A dense layer loses a photograph's answer with the photograph; convolutions keep both, so this one shows what
    accuracy costs there: its output is an image in which the sample is recognised.

    Attributes:
        maps: channels at half the size.
    """

    grade: ClassVar[Grade] = "measured"

    maps: Annotated[int, Field(ge=1)] = 32

    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        if len(shape) != 3:
            raise PartError(
                f"convolutional can't take inputs of shape {shape}", allowed="images (channels, height, width)"
            )
        channels, size = shape[0], shape[1:]
        encoder = (
            *(nn.Conv2d(channels, self.maps, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(self.maps, self.maps, 3, padding=1), nn.ReLU(), nn.Flatten()),
        )
        decoder = (
            nn.Unflatten(1, (self.maps, *(-(-side // 2) for side in size))),
            *(nn.Upsample(size=size), nn.Conv2d(self.maps, channels, 3, padding=1), *activation(shape)),
        )
        return Sides(nn.Sequential(*encoder), nn.Sequential(*decoder))
