"""Devices that follow the day: many answer at night, when they charge, few at noon."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, ClassVar

from pydantic import Field

from privet.fleet.availability.contract import Availability, Presence, chance
from privet.parts import Grade, part
from privet.randomness import Source

HOURS = 24.0


@part
class Diurnal(Availability):
    """Takes part by chance, with a probability that rises and falls over the day of the device.

    At local hour h the probability is ``participation * (1 - dip * (1 - cos(2 pi (h - best_hour) / 24)) / 2)``:
    ``participation`` at the best hour, ``participation * (1 - dip)`` twelve hours later. Round 1 is
    hour 0 of the fleet's clock; a device's clock is ahead by up to ``spread_hours``, a fixed share of
    it derived from the device's identity.

    Attributes:
        participation: probability of taking part at the best hour.
        dip: share of that probability lost at the worst hour; 0.75 is the factor 4 between night and
            day of the paper.
        best_hour: local hour at which most devices answer.
        hours_per_round: hours from one round to the next.
        spread_hours: width of the time zones that the fleet covers.
        drop_rate: probability of vanishing after training, before the reply arrives.
        mean_delay: mean of the exponential delay of a reply, in modelled seconds.

    References:
        Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys 2019, section 9.
    """

    grade: ClassVar[Grade] = "experimental"

    participation: Annotated[float, Field(gt=0, le=1)] = 0.9
    dip: Annotated[float, Field(ge=0, le=1)] = 0.75
    best_hour: Annotated[float, Field(ge=0, lt=HOURS)] = 2.0
    hours_per_round: Annotated[float, Field(gt=0)] = 1.0
    spread_hours: Annotated[float, Field(ge=0, le=HOURS)] = 6.0
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.05
    mean_delay: Annotated[float, Field(ge=0)] = 1.0

    def local_hour(self, device: str, round: int) -> float:
        """Returns the hour of the day, in [0, 24), that a device's clock shows in a round (from 1)."""
        share = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") / 2**64
        return ((round - 1) * self.hours_per_round + share * self.spread_hours) % HOURS

    def probability(self, hour: float) -> float:
        """Returns the probability of taking part at a local hour."""
        away = (1 - math.cos(2 * math.pi * (hour - self.best_hour) / HOURS)) / 2
        return self.participation * (1 - self.dip * away)

    def presence(self, device: str, round: int, rng: Source) -> Presence:
        """Returns what chance says at the device's hour."""
        return chance(self.probability(self.local_hour(device, round)), self.drop_rate, self.mean_delay, rng)
