"""The contract of a behaviour: what a device does to its labels and to its update."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from privet.parts import Part
from privet.randomness import Source


class Behaviour(Part):
    """How a device behaves; the base class is honest.

    Attributes:
        hostile: whether it counts as a Byzantine device.
    """

    hostile: ClassVar[bool] = True

    def labels(self, labels: Tensor, classes: int, rng: Source) -> Tensor:
        """Returns the labels (n,) that the device trains on."""
        return labels

    def update(self, update: Tensor, rng: Source) -> Tensor | None:
        """Returns the update (d,) that the device sends in place of its own; None to stay silent."""
        return update
