"""Sybils: one adversary behind many devices."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.backdoor import refuse_target
from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Sybils(Behaviour):
    """Labels every row as one class, and all such devices send the same update: the mean of what they trained.

    Attributes:
        target: the class that every row shall be taken for.

    References:
        Fung, Yoon, Beschastnikh, The Limitations of Federated Learning in Sybil Settings, RAID 2020, section 3.
    """

    grade: ClassVar[Grade] = "measured"
    colludes: ClassVar[bool] = True

    target: Annotated[int, Field(ge=0)] = 0

    def examples(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns the inputs as they are and the target for each row.

        Raises:
            PartError: the target is no class.
        """
        refuse_target("sybils", self.target, classes)
        return inputs, torch.full_like(labels, self.target)

    def together(self, own: Tensor, all: Tensor, round: int, rng: Source) -> Tensor:
        """Returns the mean of their updates in every row (k, d)."""
        return own.mean(0).expand_as(own).clone()
