"""Devices of which some are always slow."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar

from pydantic import Field

from privet.fleet.availability.contract import Availability, Presence, chance
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Stragglers(Availability):
    """A fixed part of the fleet is late in every round; all drop out by chance.

    Who is slow is derived from the device's identity, so that it is the same devices in every round.

    Attributes:
        share: of the fleet that is slow, in the mean.
        mean_delay: mean of the exponential delay of a slow device's reply, in modelled seconds.
        drop_rate: probability of vanishing after training, before the reply arrives.
    """

    grade: ClassVar[Grade] = "derived"

    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    mean_delay: Annotated[float, Field(gt=0)] = 10.0
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def slow(self, device: str) -> bool:
        """Returns whether a device is one of the slow ones."""
        return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") / 2**64 < self.share

    def presence(self, device: str, round: int, rng: Source) -> Presence:
        """Returns a presence that is late where the device is slow."""
        return chance(1.0, self.drop_rate, self.mean_delay if self.slow(device) else 0.0, rng)
