"""Slow drift: a small push that never changes its direction."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source, seeded


@part
class SlowDrift(Behaviour):
    """Adds to its update a push of about the same length, in one direction in all rounds and on all such devices.

    In a single round it looks like an update from odd data; over many rounds the pushes add up while honest
    differences average out. A rule without memory can't tell.

    Attributes:
        strength: length of the push over the length of the update.
        direction: number of the direction; devices of one number push the same way.

    References:
        Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization, ICML 2021, section 3
        (attacks coupled over time).
    """

    grade: ClassVar[Grade] = "measured"

    strength: Annotated[float, Field(gt=0)] = 1.0
    direction: Annotated[int, Field(ge=0)] = 0

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns ``update + strength * |update| * direction`` (d,)."""
        way = seeded(self.direction, "slow drift").normal(tuple(update.shape)).to(update.dtype)
        push: Tensor = way * (self.strength * torch.linalg.vector_norm(update) / torch.linalg.vector_norm(way))
        return update + push
