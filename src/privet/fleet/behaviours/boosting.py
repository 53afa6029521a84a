"""Model replacement: an update stretched until it survives the mean."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Boosting(Behaviour):
    """Sends its update times a factor, so that the mean becomes its own model.

    Under a plain mean of n devices a factor of n puts the device's model in place of the global one.

    Attributes:
        factor: by how much the update is stretched.

    References:
        Bagdasaryan et al., How To Backdoor Federated Learning, AISTATS 2020, section 4.2.
    """

    grade: ClassVar[Grade] = "measured"

    factor: Annotated[float, Field(gt=1)] = 10.0

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns ``factor * update`` (d,)."""
        return update * self.factor
