"""Data poisoning: right inputs, wrong labels."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.errors import PartError
from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class LabelFlip(Behaviour):
    """Trains on wrong labels: y becomes classes - 1 - y, or y + shift modulo classes.

    Without a shift an odd number of classes leaves the middle one as it is.

    Attributes:
        shift: by how much labels move on; None mirrors them.

    References:
        Fang et al., Local Model Poisoning Attacks to Byzantine-Robust Federated Learning, USENIX
        Security 2020, section 4.1 (mirrored labels); Tolpegin et al., ESORICS 2020.
    """

    grade: ClassVar[Grade] = "measured"

    shift: Annotated[int, Field(ge=1)] | None = None

    def examples(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns the inputs (n, ...) as they are and wrong labels (n,).

        Raises:
            PartError: the shift is a multiple of the classes, so that nothing would move.
        """
        if self.shift is None:
            return inputs, classes - 1 - labels
        if self.shift % classes == 0:
            raise PartError(f"label-flip.shift = {self.shift} moves nothing", allowed=f"1 to {classes - 1}")
        return inputs, (labels + self.shift) % classes
