"""Inner-product manipulation: colluding devices that point against the mean."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class InnerProduct(Behaviour):
    """Sends the mean of all updates, turned around and scaled.

    A small strength hides among updates that are small themselves; f of n devices turn a plain mean around
    with a strength above (n - f) / f.

    Attributes:
        strength: by how much the turned mean is scaled.

    References:
        Xie, Koyejo, Gupta, Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product Manipulation,
        UAI 2019, section 4.
    """

    grade: ClassVar[Grade] = "measured"
    colludes: ClassVar[bool] = True

    strength: Annotated[float, Field(gt=0)] = 0.5

    def together(self, own: Tensor, all: Tensor, round: int, rng: Source) -> Tensor:
        """Returns ``-strength * mean`` (k, d), the same in every row."""
        return (-self.strength * all.mean(0)).expand_as(own).clone()
