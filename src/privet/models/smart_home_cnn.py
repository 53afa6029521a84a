"""The network of the smart-home document: two convolutions on the phone, five linear layers at the edge."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import ClassVar, Literal

from torch import Tensor, nn

from privet.models.contract import Model, refuse_shape
from privet.normalisation import min_max, standardise
from privet.parts import Grade, part

Reading = Literal["sample", "batch", "standardise", "none"]


class Normalise(nn.Module):
    """Normalises activations to +-``bound``.

    Args:
        reading: ``sample`` takes minimum and maximum over one record, ``batch`` over the batch for
            each value, ``standardise`` makes mean 0 and variance 1 over the batch, ``none`` passes.
        bound: the largest absolute value.
    """

    def __init__(self, reading: Reading, bound: float) -> None:
        super().__init__()
        self.reading, self.bound = reading, bound

    def forward(self, value: Tensor) -> Tensor:
        """Returns the normalised activations, of the same shape."""
        if self.reading == "none":
            return value
        value = value.float()
        if self.reading == "sample":
            return min_max(value.flatten(1), self.bound, 1).view_as(value)
        return (min_max if self.reading == "batch" else standardise)(value, self.bound, 0)


class Offset(nn.Module):
    """Adds a constant.

    Args:
        constant: what is added to every value.
    """

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, value: Tensor) -> Tensor:
        """Returns the shifted values, of the same shape."""
        return value + self.constant


@part
class SmartHomeCnn(Model):
    """Convolutions of 30 and 80 channels with pooling after each, 3,920 features, four hidden linear layers.

    For 28 x 28 inputs it has 149,642 parameters, or 599 KB; the document says 617.8 KB and leaves the
    widths of the hidden layers open.

    Attributes:
        normalisation: how activations are normalised between the two convolutions; the plan's
            mechanisms normalise the features behind the second one.
        bound: largest absolute value after that normalisation; sqrt(63) for batches of 64.
        kernel: side of the convolutions' kernels.
        offset: what the head adds to the features that it receives. Features normalised per record to
            +-bound lie at -bound wherever the front said 0; an offset of bound makes that 0 again,
            which trains much faster under noise. It comes after the noise, so it costs no privacy.

    References:
        Zhao et al., Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices, section VI.A.
    """

    grade: ClassVar[Grade] = "measured"
    cut_points: ClassVar[tuple[str, ...]] = ("features", "activation1")

    normalisation: Reading = "sample"
    bound: float = 63**0.5
    kernel: Literal[3, 5] = 3
    offset: float = 0.0

    @property
    def couples_records(self) -> bool:
        return self.normalisation in ("batch", "standardise")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 4 or shape[2] < 4:
            raise refuse_shape(self, shape, "images (channels, height, width) of at least 4 x 4")
        features = 80 * (shape[1] // 4) * (shape[2] // 4)
        widths = (features, 32, 28, 24, 16)
        stages: list[tuple[str, nn.Module]] = [
            ("convolution1", nn.Conv2d(shape[0], 30, self.kernel, padding=self.kernel // 2)),
            ("pooling1", nn.MaxPool2d(2)),
            ("activation1", nn.ReLU()),
            ("normalisation1", Normalise(self.normalisation, self.bound)),
            ("convolution2", nn.Conv2d(30, 80, self.kernel, padding=self.kernel // 2)),
            ("pooling2", nn.MaxPool2d(2)),
            ("activation2", nn.ReLU()),
            ("features", nn.Flatten()),
        ]
        if self.offset:
            stages.append(("offset", Offset(self.offset)))
        for number, (wide, narrow) in enumerate(itertools.pairwise(widths), start=1):
            stages += [(f"linear{number}", nn.Linear(wide, narrow)), (f"hidden{number}", nn.ReLU())]
        return nn.Sequential(OrderedDict([*stages, ("logits", nn.Linear(widths[-1], classes))]))
