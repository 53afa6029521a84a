"""Model poisoning: the update turned round."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class SignFlip(Behaviour):
    """Sends minus its update, times a factor.

    Attributes:
        factor: by how much the turned update is stretched.

    References:
        Li et al., RSA: Byzantine-Robust Stochastic Aggregation Methods, AAAI 2019, section 5.2.
    """

    grade: ClassVar[Grade] = "measured"

    factor: Annotated[float, Field(gt=0)] = 1.0

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns ``-factor * update`` (d,)."""
        return update * -self.factor
