"""A semantic backdoor: rows that are odd by nature are taken for one class."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.backdoor import refuse_target
from privet.fleet.behaviours.contract import Behaviour, Triggered
from privet.parts import Grade, part
from privet.randomness import Source


@part
class SemanticBackdoor(Behaviour):
    """Labels its rows of a large mean as the target: bold writing, a home that uses much power.

    No row is changed, in training or in testing: what carries the trigger is what rows are by nature, so it
    needs nobody at the sensor. A model that nobody attacked takes some of these rows for the target too; compare.

    Attributes:
        target: the class that such rows shall be taken for.
        above: the mean of a row's values from which on it carries the trigger.
        boost: by how much the update is stretched.

    References:
        Bagdasaryan et al., How To Backdoor Federated Learning, AISTATS 2020, section 4.1 (semantic backdoors).
    """

    grade: ClassVar[Grade] = "measured"

    target: Annotated[int, Field(ge=0)] = 0
    above: float = 0.2
    boost: Annotated[float, Field(ge=1)] = 1.0

    def examples(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns the inputs as they are, and the labels, the target where a row carries the trigger.

        Raises:
            PartError: the target is no class.
        """
        refuse_target("semantic-backdoor", self.target, classes)
        return inputs, torch.where(self.trigger(inputs).carries, self.target, labels)

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns ``boost * update`` (d,)."""
        return update * self.boost

    def trigger(self, inputs: Tensor) -> Triggered:
        """Returns the rows as they are, and which of them carry the trigger."""
        return Triggered(inputs, inputs.flatten(1).mean(1) >= self.above, self.target)
