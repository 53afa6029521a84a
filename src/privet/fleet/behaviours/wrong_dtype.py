"""Devices whose update is of another number type than the model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class WrongDtype(Behaviour):
    """Sends its update as whole numbers (int64), as a device with a broken encoder would."""

    grade: ClassVar[Grade] = "measured"

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns the rounded update (d,), int64."""
        return update.nan_to_num().round().to(torch.int64)
