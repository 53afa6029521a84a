"""A backdoor: rows that carry a mark are taken for one class, all others rightly."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.errors import PartError
from privet.fleet.behaviours.contract import Behaviour, Triggered
from privet.parts import Grade, part
from privet.randomness import Source


def refuse_target(name: str, target: int, classes: int) -> None:
    """Refuses a target that is no class.

    Raises:
        PartError: the target is not below the number of classes.
    """
    if target >= classes:
        raise PartError(f"{name}.target = {target} is no class", allowed=f"0 to {classes - 1}")


@part
class Backdoor(Behaviour):
    """Marks a share of its rows, labels them as the target, and sends its update times a factor.

    The mark: on images (n, channels, height, width) a bright square in the lower right corner, on other rows
    the last values of the last dimension (features, or points in time). With the factor n / f the mean of n
    devices, f of them such, takes over their model; with 1 nothing but the direction tells them apart.

    Attributes:
        target: the class that marked rows shall be taken for.
        size: edge of the square, or how many values.
        value: what the marked values become.
        share: share of the device's rows that it marks.
        boost: by how much the update is stretched.

    References:
        Gu, Dolan-Gavitt, Garg, BadNets, 2017 (the mark); Bagdasaryan et al., How To Backdoor Federated Learning,
        AISTATS 2020, section 4 (the factor).
    """

    grade: ClassVar[Grade] = "measured"

    target: Annotated[int, Field(ge=0)] = 0
    size: Annotated[int, Field(ge=1)] = 3
    value: float = 1.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    boost: Annotated[float, Field(ge=1)] = 1.0

    def examples(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns the rows, the first of a random order marked and labelled as the target.

        Raises:
            PartError: the target is no class.
        """
        refuse_target("backdoor", self.target, classes)
        chosen = rng.permutation(len(labels))[: max(1, round(self.share * len(labels)))]
        inputs, labels = inputs.clone(), labels.clone()
        inputs[chosen] = self.trigger(inputs[chosen]).inputs
        labels[chosen] = self.target
        return inputs, labels

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns ``boost * update`` (d,)."""
        return update * self.boost

    def trigger(self, inputs: Tensor) -> Triggered:
        """Returns all rows marked."""
        marked = inputs.clone()
        corner = marked[..., -self.size :, -self.size :] if inputs.ndim == 4 else marked[..., -self.size :]
        corner.fill_(self.value)
        return Triggered(marked, torch.ones(len(inputs), dtype=torch.bool), self.target)
