"""A device of the fleet, as the run sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privet.fleet.availability.contract import Availability
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.profile import Profile


@dataclass(frozen=True, eq=False)
class Device:
    """One device: who it is, what it can do, which rows it holds, how it behaves.

    Attributes:
        identity: its name, unique in the fleet, ``device-000`` and so on; updates are sorted by it.
        profile: its hardware.
        shard: indices of its rows in the training set; the rows themselves stay in the data set.
        availability: when it answers.
        behaviour: honest or one of the attacks.
    """

    identity: str
    profile: Profile
    shard: np.ndarray
    availability: Availability
    behaviour: Behaviour

    @property
    def examples(self) -> int:
        """Number of rows it holds."""
        return len(self.shard)
