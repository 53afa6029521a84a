"""Devices whose update doesn't fit the model."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class WrongShape(Behaviour):
    """Sends its update followed by zeros: more values than the model has.

    Attributes:
        extra: how many zeros.
    """

    grade: ClassVar[Grade] = "measured"

    extra: Annotated[int, Field(ge=1)] = 1

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns the update and its zeros (d + extra,)."""
        return torch.cat((update, update.new_zeros(self.extra)))
