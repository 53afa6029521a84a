"""Devices that do what they are asked."""

from __future__ import annotations

from typing import ClassVar

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part


@part
class Honest(Behaviour):
    """Trains on its own labels and sends its own update."""

    grade: ClassVar[Grade] = "derived"
    hostile: ClassVar[bool] = False
