"""A small residual network for colour images: what a cloud would run, and a device would rather not."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part


class Residual(nn.Module):
    """Two convolutions of 3 x 3 with batch normalisation, added to what they were given.

    Args:
        channels: channels of what comes in and of what goes out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels))

    def forward(self, value: Tensor) -> Tensor:
        """Returns maps (n, channels, h, w) of the shape that came in."""
        added: Tensor = value + self.layers(value)
        return added


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


@part
class SmallResnet(Model):
    """Four convolutions of 32 to 256 channels and two residual blocks; 95 million multiplications on 32 x 32.

    Training couples the records of a batch (batch normalisation), so a plan that trains on devices is better off with
    another model; it is meant for a model that a service trained before and only answers with.

    References:
        He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
    """

    grade: ClassVar[Grade] = "measured"

    @property
    def couples_records(self) -> bool:
        return True

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 16 or shape[2] < 16:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 16 x 16")
        stages = OrderedDict[str, nn.Module](
            first=nn.Sequential(*_convolution(shape[0], 32)),
            second=nn.Sequential(*_convolution(32, 64), nn.MaxPool2d(2)),
            third=nn.Sequential(*_convolution(64, 128), nn.MaxPool2d(2)),
            residual3=Residual(128),
            fourth=nn.Sequential(*_convolution(128, 256), nn.MaxPool2d(2)),
            residual4=Residual(256),
            pooling=nn.AdaptiveMaxPool2d(1),
            features=nn.Flatten(),
            logits=nn.Linear(256, classes),
        )
        return nn.Sequential(stages)
