"""The contract of availability: when a device answers, and how late."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from privet.parts import Part
from privet.randomness import Source


@dataclass(frozen=True)
class Presence:
    """What a device does in one round.

    Attributes:
        here: whether it takes part at all.
        drops: whether it vanishes after training, before its reply arrives.
        delay: seconds (modelled) by which its reply is late.
    """

    here: bool = True
    drops: bool = False
    delay: float = 0.0


class Availability(Part):
    """When a device answers."""

    @abstractmethod
    def presence(self, device: str, round: int, rng: Source) -> Presence:
        """Returns what a device does in a round.

        Args:
            device: its identity; what must stay the same over rounds (a time zone) is derived from it.
            round: the round, from 1.
            rng: this device's and this round's own stream.
        """


def chance(here: float, drop_rate: float, mean_delay: float, rng: Source) -> Presence:
    """Returns a random presence.

    Args:
        here: probability of taking part.
        drop_rate: probability of vanishing before the reply arrives, given that it takes part.
        mean_delay: mean of the exponential delay, in seconds.
        rng: where the three draws come from; always three, so that one field moves nothing else.
    """
    takes_part, vanishes, waits = rng.numpy().random(3)
    if takes_part >= here:
        return Presence(here=False)
    return Presence(drops=bool(vanishes < drop_rate), delay=float(-mean_delay * np.log1p(-waits)))
