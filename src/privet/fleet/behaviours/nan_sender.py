"""Devices whose update is no number."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class NanSender(Behaviour):
    """Sends an update of its usual shape with NaN or infinity in it: one bad value is enough to spoil a mean.

    Attributes:
        value: what it puts in.
        everywhere: whether in every coordinate, or only in one at random.
    """

    grade: ClassVar[Grade] = "measured"

    value: Literal["nan", "inf"] = "nan"
    everywhere: bool = True

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns the spoilt update (d,)."""
        if self.everywhere:
            return torch.full_like(update, float(self.value))
        spoilt = update.clone()
        spoilt[int(rng.integers(len(update), 1)[0])] = float(self.value)
        return spoilt
