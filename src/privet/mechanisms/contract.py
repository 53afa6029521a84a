"""The contract of a mechanism: what leaves a device passes it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.parts import Part
from privet.randomness import Source


class Mechanism(Part):
    """Changes what leaves a device.

    ``value`` has shape (..., d): its last dimension is the vector, all others count vectors. A
    mechanism is differentiable in ``value``, never writes into it, and takes every random number
    from ``rng``.

    Attributes:
        adds_noise: whether it adds random noise.
    """

    adds_noise: ClassVar[bool] = False

    @property
    def couples_records(self) -> bool:
        """Whether what it makes of one vector depends on the other vectors of the message."""
        return False

    @abstractmethod
    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        """Returns the changed value, of the same shape."""

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        """Returns what the mechanism makes of the sensitivity; unbounded unless it says otherwise."""
        return sensitivity.unbounded()

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` unless the mechanism says otherwise."""
        return NonPrivateDpEvent()
