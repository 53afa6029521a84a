"""LeNet-5 with max-pooling, and ReLU (the usual modern reading) or tanh (the paper's, and better with noise)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part


@part
class Lenet(Model):
    """LeNet-5: convolutions of 6 and 16 channels, linear layers of 120 and 84; 61,706 parameters on 28 x 28.

    Attributes:
        maps: channels of the two convolutions.
        activation: behind every layer but the last. In private training, tanh keeps activations and so
            gradients small, and loses less to clipping.

    References:
        LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, section II.B; Papernot et al.,
        Tempered Sigmoid Activations for Deep Learning with Differential Privacy, AAAI 2021.
    """

    grade: ClassVar[Grade] = "measured"
    cut_points: ClassVar[tuple[str, ...]] = ("features", "activation1")

    maps: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (6, 16)
    activation: Literal["relu", "tanh"] = "relu"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 12 or shape[2] < 12:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 12 x 12")
        first, second = self.maps
        features = second * ((shape[1] // 2 - 4) // 2) * ((shape[2] // 2 - 4) // 2)
        activation = nn.ReLU if self.activation == "relu" else nn.Tanh
        return nn.Sequential(
            OrderedDict(
                convolution1=nn.Conv2d(shape[0], first, 5, padding=2),
                pooling1=nn.MaxPool2d(2),  # before the activation, which grows with its input: the same, and cheaper
                activation1=activation(),
                convolution2=nn.Conv2d(first, second, 5),
                pooling2=nn.MaxPool2d(2),
                activation2=activation(),
                features=nn.Flatten(),
                linear1=nn.Linear(features, 120),
                hidden1=activation(),
                linear2=nn.Linear(120, 84),
                hidden2=activation(),
                logits=nn.Linear(84, classes),
            )
        )
