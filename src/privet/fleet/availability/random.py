"""Devices that answer by chance, each round anew."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privet.fleet.availability.contract import Availability, Presence, chance
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Random(Availability):
    """Takes part, drops out and is late by chance, independently in each round.

    Attributes:
        participation: probability of taking part in a round.
        drop_rate: probability of vanishing after training, before the reply arrives.
        mean_delay: mean of the exponential delay of a reply, in modelled seconds.
    """

    grade: ClassVar[Grade] = "derived"

    participation: Annotated[float, Field(gt=0, le=1)] = 0.9
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.05
    mean_delay: Annotated[float, Field(ge=0)] = 1.0

    def presence(self, device: str, round: int, rng: Source) -> Presence:
        """Returns what chance says."""
        return chance(self.participation, self.drop_rate, self.mean_delay, rng)
