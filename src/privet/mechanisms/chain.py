"""Mechanisms one after the other, and the guarantee that this order derives."""

from __future__ import annotations

from dataclasses import dataclass

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism, Stream
from privet.randomness import Source


@dataclass(frozen=True)
class Chain(Mechanism):
    """Applies mechanisms in order.

    Its event is that of the first noise whose incoming sensitivity is bounded; what follows is
    post-processing. A bound that comes after the noise therefore derives no guarantee.

    >>> from privet.accounting import Sensitivity
    >>> from privet.mechanisms.clip import Clip
    >>> from privet.mechanisms.gaussian import Gaussian
    >>> record = Sensitivity("record", "add-or-remove-one", dimension=10)
    >>> Chain((Clip(2.0), Gaussian(3.0))).event(record)
    GaussianDpEvent(noise_multiplier=1.5)
    >>> Chain((Gaussian(3.0), Clip(2.0))).event(record)
    NonPrivateDpEvent()
    """

    mechanisms: tuple[Mechanism, ...] = ()

    @property
    def couples_records(self) -> bool:
        """Whether one of them does."""
        return any(mechanism.couples_records for mechanism in self.mechanisms)

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        for mechanism in self.mechanisms:
            value = mechanism(value, rng)
        return value

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        for mechanism in self.mechanisms:
            sensitivity = mechanism.bound(sensitivity)
        return sensitivity

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        for mechanism in self.mechanisms:
            event = mechanism.event(sensitivity)
            if not isinstance(event, NonPrivateDpEvent):
                return event
            sensitivity = mechanism.bound(sensitivity)
        return NonPrivateDpEvent()

    def stream(self, run: Source) -> Stream:
        streams = [mechanism.stream(run.child(place)) for place, mechanism in enumerate(self.mechanisms)]

        def apply(value: Tensor, round: int) -> Tensor:
            for each in streams:
                value = each(value, round)
            return value

        return apply

    def run_event(self, sensitivity: Sensitivity, rounds: int, separation: int) -> DpEvent:
        for mechanism in self.mechanisms:
            if not isinstance(mechanism.event(sensitivity), NonPrivateDpEvent):
                return mechanism.run_event(sensitivity, rounds, separation)
            sensitivity = mechanism.bound(sensitivity)
        return NonPrivateDpEvent()

    def without_noise(self) -> Chain:
        """Returns the chain with its noise left out: what a device computes when nothing leaves it."""
        return Chain(tuple(mechanism for mechanism in self.mechanisms if not mechanism.adds_noise))
