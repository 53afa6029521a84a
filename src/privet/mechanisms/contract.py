"""The contract of a mechanism: what leaves a device passes it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, SelfComposedDpEvent
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.parts import Part
from privet.randomness import Source

Stream = Callable[[Tensor, int], Tensor]
"""A mechanism over the rounds of a run: (a round's value, its number from 1) -> the changed value."""


class Mechanism(Part):
    """Changes what leaves a device.

    ``value`` has shape (..., d): its last dimension is the vector, all others count vectors. A
    mechanism is differentiable in ``value``, never writes into it, and takes every random number
    from ``rng``.

    Attributes:
        adds_noise: whether it adds random noise.
        straight_through: whether its result is discrete, so that its gradient is that of the identity.
        remembers: whether its noise of one round of :meth:`stream` depends on that of others.
    """

    adds_noise: ClassVar[bool] = False
    straight_through: ClassVar[bool] = False
    remembers: ClassVar[bool] = False

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

    def stream(self, run: Source) -> Stream:
        """Returns the mechanism over the rounds of a run; rounds come in order and may be left out.

        Args:
            run: the run's own stream, the same after an interruption; each round's noise is fresh unless
                the mechanism correlates it.
        """
        return lambda value, round: self(value, run.child(round))

    def run_event(self, sensitivity: Sensitivity, rounds: int, separation: int) -> DpEvent:
        """Returns what a whole run of :meth:`stream` costs.

        Args:
            sensitivity: of one round's value to a unit that takes part in it.
            rounds: of the run.
            separation: rounds after which a unit takes part again at the earliest.
        """
        return SelfComposedDpEvent(self.event(sensitivity), math.ceil(rounds / separation))

    @staticmethod
    def passing_gradient(value: Tensor, changed: Tensor) -> Tensor:
        """Returns ``changed`` in the dtype of ``value``, whose gradient passes to ``value`` as it is."""
        passed: Tensor = _StraightThrough.apply(value, changed)  # type: ignore[no-untyped-call]
        return passed


class _StraightThrough(torch.autograd.Function):
    """The identity's gradient under another value (Bengio, Leonard, Courville 2013, section 3)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, changed: Tensor) -> Tensor:
        return changed.to(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
