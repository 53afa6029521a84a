"""LeNet-5 with ReLU and max-pooling, the usual modern reading."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part


@part
class Lenet(Model):
    """LeNet-5: convolutions of 6 and 16 channels, linear layers of 120 and 84; 61,706 parameters on 28 x 28.

    References:
        LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, section II.B.
    """

    grade: ClassVar[Grade] = "measured"
    cut_points: ClassVar[tuple[str, ...]] = ("features", "pooling1")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 12 or shape[2] < 12:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 12 x 12")
        features = 16 * ((shape[1] // 2 - 4) // 2) * ((shape[2] // 2 - 4) // 2)
        return nn.Sequential(
            OrderedDict(
                convolution1=nn.Conv2d(shape[0], 6, 5, padding=2),
                activation1=nn.ReLU(),
                pooling1=nn.MaxPool2d(2),
                convolution2=nn.Conv2d(6, 16, 5),
                activation2=nn.ReLU(),
                pooling2=nn.MaxPool2d(2),
                features=nn.Flatten(),
                linear1=nn.Linear(features, 120),
                hidden1=nn.ReLU(),
                linear2=nn.Linear(120, 84),
                hidden2=nn.ReLU(),
                logits=nn.Linear(84, classes),
            )
        )
