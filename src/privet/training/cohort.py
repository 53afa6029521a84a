"""Which devices are asked in a round, and what that makes of their guarantee.

The sampler answers for itself: the same object draws the cohort and says what the draw is worth, so
that a plan can't claim a sampling that is not done. It is no part; nobody can plug in another one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dp_accounting.dp_event import DpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

from privet.fleet.device import Device
from privet.randomness import Source


@dataclass(frozen=True)
class Cohort:
    """Asks every device by its own coin, or lets the devices take turns; all of them by default.

    Attributes:
        rate: probability with which each device is asked in a round, independently of all others and
            of all other rounds (Poisson sampling). The expected cohort is ``rate`` times the fleet.
        separation: rounds after which a device is asked again; its turn is derived from its identity
            alone, so that no device moves another's turn.

    References:
        McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018,
        algorithm 1 (independent sampling of devices); Choquette-Choo et al., (Amplified) Banded Matrix
        Factorization, NeurIPS 2023, section 2 (min-separation).
    """

    rate: float = 1.0
    separation: int = 1

    def draw(self, devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
        """Returns the devices that are asked, in their order.

        Args:
            devices: the fleet.
            round: number of the round, from 1.
            rng: the round's own secret stream; whoever knows it knows who was asked, and the
                amplification is gone.
        """
        asked = [device for device in devices if self.turn(device.identity) == round % self.separation]
        if self.rate == 1:
            return asked
        chosen = rng.uniform((len(asked),)) <= self.rate
        return [device for device, takes_part in zip(asked, chosen.tolist(), strict=True) if takes_part]

    def turn(self, identity: str) -> int:
        """Returns the remainder of the rounds in which it is a device's turn, in [0, separation)."""
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % self.separation

    def participations(self, rounds: int) -> int:
        """Returns in how many of so many rounds a device can take part at most."""
        return math.ceil(rounds / self.separation)

    def sampled(self, once: DpEvent, rounds: int) -> DpEvent:
        """Returns what ``rounds`` rounds cost a device that is asked by chance, if one round costs ``once``.

        Holds where a device that is not asked counts as one that is not there, and where nobody learns
        who was asked.
        """
        each = once if self.rate == 1 else PoissonSampledDpEvent(self.rate, once)
        return SelfComposedDpEvent(each, self.participations(rounds))

    def words(self) -> str:
        """Returns the sampler in a few words, for a guarantee's claim; "" when all devices are asked."""
        said = [f"each device asked with probability {self.rate:g} a round"] if self.rate < 1 else []
        if self.separation > 1:
            said.append(f"again after {self.separation} rounds at the earliest")
        return ", ".join(said)
