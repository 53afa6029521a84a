"""The contract of an imperfection: what is wrong with an honest device's rows."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from privet.parts import Part
from privet.randomness import Source


class Imperfection(Part):
    """What is wrong with a device's rows, once and for all: the same in every round and for every baseline."""

    @abstractmethod
    def spoil(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns a device's rows as it holds them, as many as it was given; the given ones are left alone.

        Args:
            inputs: as they should be, shape (n, ...).
            labels: as they should be, shape (n,).
            classes: number of classes.
            rng: of this device.
        """
