"""A small VGG for 32 x 32 colour images: three blocks of two convolutions, two linear layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part

BLOCKS = (64, 128, 128)


@part
class CifarCnn(Model):
    """Three pairs of convolutions of 64, 128 and 128 channels, pooling after each, linear layers of 512 and logits.

    It is the CIFAR-10 network of the distributed-inference document, which leaves kernels (3 x 3 here), padding and
    normalisation (none) open.

    References:
        Baccour et al., DistPrivacy: Privacy-Aware Distributed Deep Neural Networks in IoT surveillance systems,
        GLOBECOM 2020, section II.A.
    """

    grade: ClassVar[Grade] = "experimental"
    cut_points: ClassVar[tuple[str, ...]] = ("features", "pooling1", "pooling2")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 8 or shape[2] < 8:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 8 x 8")
        stages: list[tuple[str, nn.Module]] = []
        before = shape[0]
        for block, channels in enumerate(BLOCKS, start=1):
            for place in (1, 2):
                stages.append((f"convolution{block}{place}", nn.Conv2d(before, channels, 3, padding=1)))
                stages.append((f"activation{block}{place}", nn.ReLU()))
                before = channels
            stages.append((f"pooling{block}", nn.MaxPool2d(2)))
        stages += [
            ("features", nn.Flatten()),
            ("linear1", nn.Linear(before * (shape[1] // 8) * (shape[2] // 8), 512)),
            ("hidden1", nn.ReLU()),
            ("logits", nn.Linear(512, classes)),
        ]
        return nn.Sequential(OrderedDict(stages))
