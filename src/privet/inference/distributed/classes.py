"""Devices that are alike, together: what makes planning over ten thousand devices as fast as over a few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privet.inference.distributed.fleets import Floats, Remaining

LEVELS = 8
"""Devices of one kind are alike when they have the same eighths left of whatever they have least of."""
FEW = 64
"""Up to so many helpers each is its own class, and so exact."""
MOST = 96
"""The most classes that are looked at: those that compute most."""
LINKS = 4
"""The most rates of links that are told apart."""


@dataclass(frozen=True)
class Classes:
    """Helpers that are alike.

    Attributes:
        size: number of helpers of each class.
        speed: multiplications a second.
        rate: bits a second.
        multiplications: left to each of them, or somewhat less.
        bits: left to each of them, or somewhat less.
        memory: left to each of them, or somewhat less.
    """

    size: Floats
    speed: Floats
    rate: Floats
    multiplications: Floats
    bits: Floats
    memory: Floats

    def slowest_links(self) -> Floats:
        """Returns the rates to choose between as the slowest link that may take part, the slowest of all first."""
        rates: Floats = np.unique(self.rate)
        if len(rates) <= LINKS:
            return rates
        chosen: Floats = rates[np.linspace(0, len(rates) - 1, LINKS).astype(int)]
        return chosen


def classes(left: Remaining) -> Classes:
    """Returns the classes of the helpers of a fleet by what they have left."""
    fleet, helpers = left.fleet, left.fleet.helpers
    if helpers <= FEW:
        columns = (fleet.speed, fleet.rate, left.multiplications, left.bits, left.memory)
        return Classes(np.ones(helpers), *(column[:-1] for column in columns))
    least = np.minimum(left.multiplications / fleet.multiplications, left.bits / fleet.bits)
    level = (LEVELS * np.minimum(least, left.memory / fleet.memory))[:-1].astype(np.intp)
    key = fleet.kind[:-1] * (LEVELS + 1) + level
    number = np.bincount(key)
    first = np.zeros(len(number), dtype=np.intp)
    first[key[::-1]] = np.arange(helpers)[::-1]
    found = np.flatnonzero(number)
    of, share, size = first[found], found % (LEVELS + 1) / LEVELS, number[found].astype(np.float64)
    if len(found) > MOST:
        best = np.sort(np.argsort(-size * share * fleet.speed[of], kind="stable")[:MOST])
        of, share, size = of[best], share[best], size[best]
    whole = (fleet.multiplications, fleet.bits, fleet.memory)
    return Classes(size, fleet.speed[of], fleet.rate[of], *(column[of] * share for column in whole))
