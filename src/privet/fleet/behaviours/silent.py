"""Devices that train and then say nothing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Silent(Behaviour):
    """Never sends an update."""

    grade: ClassVar[Grade] = "measured"

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns None."""
        return None
