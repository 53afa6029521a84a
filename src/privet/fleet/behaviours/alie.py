"""A little is enough: colluding devices that stay inside the honest spread."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Alie(Behaviour):
    """Sends the mean of the updates less a few standard deviations, coordinate by coordinate.

    No single coordinate stands out, so rules that look at one coordinate at a time keep it, and rules that
    look for neighbours find four devices that agree to the last bit.

    Attributes:
        deviations: z, how many standard deviations from the mean.
        knows: whose updates mean and deviation are taken from: of all devices, or only of the colluding ones.

    References:
        Baruch, Baruch, Goldberg, A Little Is Enough: Circumventing Defenses For Distributed Learning, NeurIPS
        2019, algorithm 3 (with the colluding devices' own updates; all updates is the stronger attacker).
    """

    grade: ClassVar[Grade] = "measured"
    colludes: ClassVar[bool] = True

    deviations: Annotated[float, Field(gt=0)] = 1.5
    knows: Literal["all", "own"] = "all"

    def together(self, own: Tensor, all: Tensor, round: int, rng: Source) -> Tensor:
        """Returns ``mean - deviations * standard deviation`` (k, d), the same in every row."""
        known = all if self.knows == "all" else own
        sent = known.mean(0) - self.deviations * known.std(0, unbiased=False)
        return sent.expand_as(own).clone()
